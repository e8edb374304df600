// Dot products with packed weights, AVX512 with its bf16 and VNNI instructions. See tiles.h for the layout.
//
// Every sum runs over K in one order, in one accumulator, whatever the number of rows or columns computed beside it.
#pragma once
#include <immintrin.h>

#include "tiles.h"

namespace llorch {

using act = bf16;      // activations that meet bf16 weights
using qact = uint8_t;  // activations that meet int8 weights
constexpr int QACT_ZERO = 128;
constexpr const char* ISA_NAME = "avx512";
constexpr int ROWS_PASS = 48;  // rows of activations per visit to a group of columns: four times twelve

namespace detail {

template <int M, int T>
inline void dot_block(const bf16* x, size_t x_stride, const bf16* w, size_t w_stride, int pairs, float* out, size_t out_stride) {
    __m512 acc[M][T];
#pragma GCC unroll 24
    for (int m = 0; m < M; ++m)
#pragma GCC unroll 4
        for (int t = 0; t < T; ++t) acc[m][t] = _mm512_setzero_ps();
    for (int p = 0; p < pairs; ++p) {
        __m512bh column[T];
#pragma GCC unroll 4
        for (int t = 0; t < T; ++t) {
            const bf16* at = w + t * w_stride + size_t(p) * 32;
            column[t] = (__m512bh)_mm512_load_si512(at);
            _mm_prefetch((const char*)at + AHEAD, _MM_HINT_T0);
        }
#pragma GCC unroll 24
        for (int m = 0; m < M; ++m) {
            int32_t pair;
            memcpy(&pair, x + m * x_stride + 2 * p, sizeof pair);
            const __m512bh value = (__m512bh)_mm512_set1_epi32(pair);
#pragma GCC unroll 4
            for (int t = 0; t < T; ++t) acc[m][t] = _mm512_dpbf16_ps(acc[m][t], column[t], value);
        }
    }
#pragma GCC unroll 24
    for (int m = 0; m < M; ++m)
#pragma GCC unroll 4
        for (int t = 0; t < T; ++t) _mm512_storeu_ps(out + m * out_stride + t * TILE, acc[m][t]);
}

}  // namespace detail
}  // namespace llorch

#include "vnni.h"  // here, because its dot_rows calls both kinds of block

namespace llorch {

// Rows taken in one pass over the weights: while they come from memory every line should meet all rows at once, so up
// to 24 go together; more are bound by arithmetic, and two columns for twelve rows need the fewest loads.
inline int rows_at_once(int rows) { return rows <= 24 ? rows : 12; }

// out[m][n] = sum over k of x[m][k] * w[k][n]; `steps` of 2 (bf16) or 4 (int8) values of K; strides in elements.
template <class X, class W, class Out>
void dot(const X* x, size_t x_stride, int rows, const W* w, size_t w_stride, int tiles, int steps, Out* out, size_t out_stride) {
    for (const int most = rows_at_once(rows); rows > 0;) {
        const int take = rows < most ? rows : most;
#define ROWS(M) \
    case M: detail::dot_rows<M>(x, x_stride, w, w_stride, tiles, steps, out, out_stride); break;
        switch (take) {
            ROWS(1) ROWS(2) ROWS(3) ROWS(4) ROWS(5) ROWS(6) ROWS(7) ROWS(8) ROWS(9) ROWS(10) ROWS(11) ROWS(12)
            ROWS(13) ROWS(14) ROWS(15) ROWS(16) ROWS(17) ROWS(18) ROWS(19) ROWS(20) ROWS(21) ROWS(22) ROWS(23) ROWS(24)
        }
#undef ROWS
        x += take * x_stride;
        out += take * out_stride;
        rows -= take;
    }
}

inline bool usable() { return true; }
inline void begin_dots() {}
inline void end_dots() {}

}  // namespace llorch
