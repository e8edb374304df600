// Dot products with packed weights, AVX2 and FMA: bf16 weights are widened to floats, int8 ones to 16 bits.
//
// Every sum runs over K in one order, whatever the number of rows or columns computed beside it.
#pragma once
#include <immintrin.h>

#include "tiles.h"

namespace llorch {

using act = float;     // activations that meet bf16 weights
using qact = int16_t;  // activations that meet int8 weights
constexpr int QACT_ZERO = 0;
constexpr const char* ISA_NAME = "avx2";
constexpr int ROWS_PASS = 40;  // rows of activations per visit to a group of columns: ten times four

namespace detail {

template <int M, int T>
inline void dot_block(const float* x, size_t x_stride, const bf16* w, size_t w_stride, int pairs, float* out, size_t out_stride) {
    __m256 acc[M][T][2];
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m)
#pragma GCC unroll 4
        for (int t = 0; t < T; ++t) acc[m][t][0] = acc[m][t][1] = _mm256_setzero_ps();
    const __m256i upper = _mm256_set1_epi32(int32_t(0xffff0000));
    for (int p = 0; p < pairs; ++p) {
#pragma GCC unroll 4
        for (int t = 0; t < T; ++t) {
            const bf16* at = w + t * w_stride + size_t(p) * 32;
            _mm_prefetch((const char*)at + AHEAD, _MM_HINT_T0);
const __m256i left = _mm256_load_si256((const __m256i*)at), right = _mm256_load_si256((const __m256i*)(at + 16));
            const __m256 even[2] = {_mm256_castsi256_ps(_mm256_slli_epi32(left, 16)), _mm256_castsi256_ps(_mm256_slli_epi32(right, 16))};
            const __m256 odd[2] = {_mm256_castsi256_ps(_mm256_and_si256(left, upper)), _mm256_castsi256_ps(_mm256_and_si256(right, upper))};
#pragma GCC unroll 8
            for (int m = 0; m < M; ++m) {
                const float* pair = x + m * x_stride + 2 * p;
                const __m256 first = _mm256_broadcast_ss(pair), second = _mm256_broadcast_ss(pair + 1);
                acc[m][t][0] = _mm256_fmadd_ps(even[0], first, acc[m][t][0]);
                acc[m][t][1] = _mm256_fmadd_ps(even[1], first, acc[m][t][1]);
                acc[m][t][0] = _mm256_fmadd_ps(odd[0], second, acc[m][t][0]);
                acc[m][t][1] = _mm256_fmadd_ps(odd[1], second, acc[m][t][1]);
            }
        }
    }
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m)
#pragma GCC unroll 4
        for (int t = 0; t < T; ++t)
            for (int half = 0; half < 2; ++half) _mm256_storeu_ps(out + m * out_stride + t * TILE + half * 8, acc[m][t][half]);
}

template <int M, int T>
inline void dot_block(const int16_t* x, size_t x_stride, const int8_t* w, size_t w_stride, int quads, int32_t* out, size_t out_stride) {
    __m256i acc[M][T][4];  // of 4 columns each, two partial sums a column
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m)
#pragma GCC unroll 4
        for (int t = 0; t < T; ++t)
            for (int part = 0; part < 4; ++part) acc[m][t][part] = _mm256_setzero_si256();
    for (int q = 0; q < quads; ++q) {
#pragma GCC unroll 4
        for (int t = 0; t < T; ++t) {
            const int8_t* at = w + t * w_stride + size_t(q) * 64;
            _mm_prefetch((const char*)at + AHEAD, _MM_HINT_T0);
#pragma GCC unroll 4
            for (int part = 0; part < 4; ++part) {
                const __m256i columns = _mm256_cvtepi8_epi16(_mm_load_si128((const __m128i*)(at + part * 16)));
#pragma GCC unroll 8
                for (int m = 0; m < M; ++m) {
                    long long quad;
                    memcpy(&quad, x + m * x_stride + 4 * q, sizeof quad);
                    const __m256i product = _mm256_madd_epi16(columns, _mm256_set1_epi64x(quad));
                    acc[m][t][part] = _mm256_add_epi32(acc[m][t][part], product);
                }
            }
        }
    }
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m)
#pragma GCC unroll 4
        for (int t = 0; t < T; ++t)
            for (int half = 0; half < 2; ++half) {
                const __m256i sums = _mm256_hadd_epi32(acc[m][t][2 * half], acc[m][t][2 * half + 1]);
                int32_t* to = out + m * out_stride + t * TILE + half * 8;
                _mm256_storeu_si256((__m256i*)to, _mm256_permute4x64_epi64(sums, 0xd8));
            }
}

// M rows times `tiles` columns; T columns at a time keep the accumulators within the 16 registers.
template <int M, class X, class W, class Out>
inline void dot_rows(const X* x, size_t x_stride, const W* w, size_t w_stride, int tiles, int steps, Out* out, size_t out_stride) {
    constexpr int T = sizeof(W) == 2 ? (M == 1 ? 4 : M == 2 ? 2 : 1) : (M == 1 ? 2 : 1);
    int t = 0;
    for (; t + T <= tiles; t += T) dot_block<M, T>(x, x_stride, w + t * w_stride, w_stride, steps, out + t * TILE, out_stride);
    for (; t < tiles; ++t) dot_block<M, 1>(x, x_stride, w + t * w_stride, w_stride, steps, out + t * TILE, out_stride);
}

}  // namespace detail

// out[m][n] = sum over k of x[m][k] * w[k][n]; `steps` of 2 (bf16) or 4 (int8) values of K; strides in elements.
template <class X, class W, class Out>
void dot(const X* x, size_t x_stride, int rows, const W* w, size_t w_stride, int tiles, int steps, Out* out, size_t out_stride) {
    constexpr int ROWS_MAX = sizeof(W) == 2 ? 4 : 3;
    while (rows > 0) {
        const int blocks = (rows + ROWS_MAX - 1) / ROWS_MAX;
        const int take = (rows + blocks - 1) / blocks;
#define ROWS(M) \
    case M: detail::dot_rows<M>(x, x_stride, w, w_stride, tiles, steps, out, out_stride); break;
        switch (take) { ROWS(1) ROWS(2) ROWS(3) ROWS(4) }
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
