// int8 dot products by VNNI: M rows of unsigned activations by T tile columns of signed weights.
#pragma once
#include <immintrin.h>

#include "tiles.h"

namespace llorch::detail {

template <int M, int T>
inline void dot_block(const uint8_t* x, size_t x_stride, const int8_t* w, size_t w_stride, int quads, int32_t* out, size_t out_stride) {
    __m512i acc[M][T];
#pragma GCC unroll 24
    for (int m = 0; m < M; ++m)
#pragma GCC unroll 4
        for (int t = 0; t < T; ++t) acc[m][t] = _mm512_setzero_si512();
    for (int q = 0; q < quads; ++q) {
        __m512i column[T];
#pragma GCC unroll 4
        for (int t = 0; t < T; ++t) {
            const int8_t* at = w + t * w_stride + size_t(q) * 64;
            column[t] = _mm512_load_si512(at);
            _mm_prefetch((const char*)at + AHEAD, _MM_HINT_T0);
        }
#pragma GCC unroll 24
        for (int m = 0; m < M; ++m) {
            int32_t quad;
            memcpy(&quad, x + m * x_stride + 4 * q, sizeof quad);
            const __m512i value = _mm512_set1_epi32(quad);
#pragma GCC unroll 4
            for (int t = 0; t < T; ++t) acc[m][t] = _mm512_dpbusd_epi32(acc[m][t], value, column[t]);
        }
    }
#pragma GCC unroll 24
    for (int m = 0; m < M; ++m)
#pragma GCC unroll 4
        for (int t = 0; t < T; ++t) _mm512_storeu_si512(out + m * out_stride + t * TILE, acc[m][t]);
}

// M rows times `tiles` columns; T columns at a time keep M * T accumulators within the 32 registers.
template <int M, class X, class W, class Out>
inline void dot_rows(const X* x, size_t x_stride, const W* w, size_t w_stride, int tiles, int steps, Out* out, size_t out_stride) {
    constexpr int T = M <= 2 ? 2 : M <= 6 ? 4 : M <= 12 ? 2 : 1;
    int t = 0;
    for (; t + T <= tiles; t += T) dot_block<M, T>(x, x_stride, w + t * w_stride, w_stride, steps, out + t * TILE, out_stride);
    for (; t < tiles; ++t) dot_block<M, 1>(x, x_stride, w + t * w_stride, w_stride, steps, out + t * TILE, out_stride);
}

}  // namespace llorch::detail
