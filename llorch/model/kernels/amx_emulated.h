// The tile unit in plain C++, so that the AMX variant's addressing can be tested on a processor without one.
#pragma once
#include "simd.h"

namespace llorch::amx {

struct Tile {
    uint8_t bytes[16][64];
};

inline thread_local Tile tiles[8];
inline thread_local int active_rows = 16;

inline void configure(int rows) { active_rows = rows; }

inline int rows_of(int tile) { return tile < 6 ? active_rows : 16; }

template <int T>
void zero() { memset(&tiles[T], 0, sizeof(Tile)); }

template <int T>
void load(const void* at, size_t stride) {
    for (int r = 0; r < rows_of(T); ++r) memcpy(tiles[T].bytes[r], (const char*)at + r * stride, 64);
}

template <int T>
void store(void* at, size_t stride) {
    for (int r = 0; r < rows_of(T); ++r) memcpy((char*)at + r * stride, tiles[T].bytes[r], 64);
}

template <int C, int A, int B>
void dpbf16ps() {
    for (int m = 0; m < active_rows; ++m)
        for (int pair = 0; pair < 16; ++pair)
            for (int n = 0; n < 16; ++n) {
                float sum;
                bf16 a[2], b[2];
                memcpy(&sum, &tiles[C].bytes[m][n * 4], 4);
                memcpy(a, &tiles[A].bytes[m][pair * 4], 4);
                memcpy(b, &tiles[B].bytes[pair][n * 4], 4);
                sum = sum + widen(a[0]) * widen(b[0]);
                sum = sum + widen(a[1]) * widen(b[1]);
                memcpy(&tiles[C].bytes[m][n * 4], &sum, 4);
            }
}

template <int C, int A, int B>
void dpbusd() {
    for (int m = 0; m < active_rows; ++m)
        for (int quad = 0; quad < 16; ++quad)
            for (int n = 0; n < 16; ++n) {
                int32_t sum;
                memcpy(&sum, &tiles[C].bytes[m][n * 4], 4);
                for (int i = 0; i < 4; ++i) sum += int(tiles[A].bytes[m][quad * 4 + i]) * int(int8_t(tiles[B].bytes[quad][n * 4 + i]));
                memcpy(&tiles[C].bytes[m][n * 4], &sum, 4);
            }
}

}  // namespace llorch::amx
