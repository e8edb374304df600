// Dot products with packed weights on AMX tiles: 16 rows by 16 columns by 32 (bf16) or 64 (int8) values of K a
// instruction. Few int8 rows go through VNNI instead, whose integer sums are the same.
//
// Every sum runs over K in one order, whatever the number of rows or columns computed beside it.
#pragma once
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "vnni.h"

#ifdef LLORCH_AMX_EMULATED
#include "amx_emulated.h"
#endif

namespace llorch {

using act = bf16;      // activations that meet bf16 weights
using qact = uint8_t;  // activations that meet int8 weights
constexpr int QACT_ZERO = 128;
constexpr const char* ISA_NAME = "amx";
constexpr int ROWS_PASS = 64;  // rows of activations per visit to a group of columns: two squares of 32

namespace detail {

constexpr size_t TILE_BYTES = 1024;   // one step of K of one tile column: 16 lines of 64 bytes
constexpr int VNNI_ROWS_MAX = 2;      // up to here the tile unit is no faster, and VNNI reads memory better

struct alignas(64) TileConfig {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {};
};

inline thread_local int configured_rows = 0;

// Tiles 0-3 accumulate, 4 and 5 hold activations, 6 and 7 weights. All but the weights have `rows` rows.
inline void configure(int rows) {
    if (rows == configured_rows) return;
    configured_rows = rows;
#ifndef LLORCH_AMX_EMULATED
    TileConfig config;
    for (int tile = 0; tile < 8; ++tile) config.rows[tile] = uint8_t(tile < 6 ? rows : 16);
    // Not the intrinsic: gcc 12's declares only 8 of the 64 bytes as read, and drops stores to the others.
    asm volatile("ldtilecfg %0" : : "m"(config) : "memory");
#else
    amx::configure(rows);
#endif
}

// Macros, because the compilers' own are: a tile's number is part of the instruction's name.
#ifdef LLORCH_AMX_EMULATED
#define TILE_ZERO(t) amx::zero<t>()
#define TILE_LOAD(t, at, stride) amx::load<t>(at, stride)
#define TILE_STORE(t, at, stride) amx::store<t>(at, stride)
#define TILE_BF16(c, a, b) amx::dpbf16ps<c, a, b>()
#define TILE_INT8(c, a, b) amx::dpbusd<c, a, b>()
#else
#define TILE_ZERO(t) _tile_zero(t)
#define TILE_LOAD(t, at, stride) _tile_loadd(t, at, stride)
#define TILE_STORE(t, at, stride) _tile_stored(t, at, stride)
#define TILE_BF16(c, a, b) _tile_dpbf16ps(c, a, b)
#define TILE_INT8(c, a, b) _tile_dpbusd(c, a, b)
#endif
// c += a b, for weights of type W.
#define TILE_MULTIPLY(c, a, b)                             \
    do {                                                   \
        if constexpr (sizeof(W) == 2) TILE_BF16(c, a, b);  \
        else TILE_INT8(c, a, b);                           \
    } while (0)

inline void prefetch_tile(const char* at) {
#pragma GCC unroll 16
    for (int line = 0; line < 16; ++line) _mm_prefetch(at + AHEAD + line * 64, _MM_HINT_T0);
}

// Up to 16 rows by four tile columns: the shape of a decode step, bound by reading the weights once.
template <class X, class W, class Out>
inline void dot_four(const X* x, size_t x_stride, const char* w, size_t w_bytes, int tile_steps, Out* out, size_t out_stride) {
    TILE_ZERO(0); TILE_ZERO(1); TILE_ZERO(2); TILE_ZERO(3);
    for (int k = 0; k < tile_steps; ++k) {
        const char* at = w + k * TILE_BYTES;
        TILE_LOAD(4, (const char*)x + k * 64, x_stride * sizeof(X));
        TILE_LOAD(6, at, 64);
        TILE_MULTIPLY(0, 4, 6);
        TILE_LOAD(7, at + w_bytes, 64);
        TILE_MULTIPLY(1, 4, 7);
        prefetch_tile(at);
        prefetch_tile(at + w_bytes);
        TILE_LOAD(6, at + 2 * w_bytes, 64);
        TILE_MULTIPLY(2, 4, 6);
        TILE_LOAD(7, at + 3 * w_bytes, 64);
        TILE_MULTIPLY(3, 4, 7);
        prefetch_tile(at + 2 * w_bytes);
        prefetch_tile(at + 3 * w_bytes);
    }
    const size_t stride = out_stride * sizeof(Out);
    TILE_STORE(0, out, stride); TILE_STORE(1, out + TILE, stride); TILE_STORE(2, out + 2 * TILE, stride); TILE_STORE(3, out + 3 * TILE, stride);
}

// Up to 16 rows by one tile column.
template <class X, class W, class Out>
inline void dot_one(const X* x, size_t x_stride, const char* w, int tile_steps, Out* out, size_t out_stride) {
    TILE_ZERO(0);
    for (int k = 0; k < tile_steps; ++k) {
        TILE_LOAD(4, (const char*)x + k * 64, x_stride * sizeof(X));
        TILE_LOAD(6, w + k * TILE_BYTES, 64);
        TILE_MULTIPLY(0, 4, 6);
    }
    TILE_STORE(0, out, out_stride * sizeof(Out));
}

// 32 rows by two tile columns: the shape of a prefill, bound by arithmetic; each loaded tile is used twice.
template <class X, class W, class Out>
inline void dot_square(const X* x, size_t x_stride, const char* w, size_t w_bytes, int tile_steps, Out* out, size_t out_stride) {
    const X* lower = x + 16 * x_stride;
    TILE_ZERO(0); TILE_ZERO(1); TILE_ZERO(2); TILE_ZERO(3);
    for (int k = 0; k < tile_steps; ++k) {
        TILE_LOAD(4, (const char*)x + k * 64, x_stride * sizeof(X));
        TILE_LOAD(6, w + k * TILE_BYTES, 64);
        TILE_MULTIPLY(0, 4, 6);
        TILE_LOAD(7, w + w_bytes + k * TILE_BYTES, 64);
        TILE_MULTIPLY(1, 4, 7);
        TILE_LOAD(5, (const char*)lower + k * 64, x_stride * sizeof(X));
        TILE_MULTIPLY(2, 5, 6);
        TILE_MULTIPLY(3, 5, 7);
    }
    const size_t stride = out_stride * sizeof(Out);
    TILE_STORE(0, out, stride); TILE_STORE(1, out + TILE, stride);
    TILE_STORE(2, out + 16 * out_stride, stride); TILE_STORE(3, out + 16 * out_stride + TILE, stride);
}

}  // namespace detail

// out[m][n] = sum over k of x[m][k] * w[k][n]; `steps` of 2 (bf16) or 4 (int8) values of K, a multiple of 16; strides in
// elements.
template <class X, class W, class Out>
void dot(const X* x, size_t x_stride, int rows, const W* w, size_t w_stride, int tiles, int steps, Out* out, size_t out_stride) {
    using namespace detail;
    if constexpr (sizeof(W) == 1) {
        if (rows == 1) return dot_rows<1>(x, x_stride, w, w_stride, tiles, steps, out, out_stride);
        if (rows == VNNI_ROWS_MAX) return dot_rows<VNNI_ROWS_MAX>(x, x_stride, w, w_stride, tiles, steps, out, out_stride);
    }
    const size_t w_bytes = w_stride * sizeof(W);
    const int tile_steps = steps / 16;
    for (; rows >= 32; rows -= 32, x += 32 * x_stride, out += 32 * out_stride) {
        configure(16);
        int t = 0;
        for (; t + 2 <= tiles; t += 2) dot_square<X, W>(x, x_stride, (const char*)(w + t * w_stride), w_bytes, tile_steps, out + t * TILE, out_stride);
        if (t < tiles) {
            dot_one<X, W>(x, x_stride, (const char*)(w + t * w_stride), tile_steps, out + t * TILE, out_stride);
            dot_one<X, W>(x + 16 * x_stride, x_stride, (const char*)(w + t * w_stride), tile_steps, out + 16 * out_stride + t * TILE, out_stride);
        }
    }
    while (rows > 0) {
        const int take = rows < 16 ? rows : 16;
        configure(take);
        int t = 0;
        for (; t + 4 <= tiles; t += 4) dot_four<X, W>(x, x_stride, (const char*)(w + t * w_stride), w_bytes, tile_steps, out + t * TILE, out_stride);
        for (; t < tiles; ++t) dot_one<X, W>(x, x_stride, (const char*)(w + t * w_stride), tile_steps, out + t * TILE, out_stride);
        x += take * x_stride;
        out += take * out_stride;
        rows -= take;
    }
}

// Tiles need the kernel's leave, given to the process as a whole; it may refuse.
inline bool usable() {
#ifdef LLORCH_AMX_EMULATED
    return true;
#else
    static const long refused = syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18 /* tile data */);
    return refused == 0;
#endif
}

// A thread's tiles belong to it between these two; released, they do not burden its context switches.
inline void begin_dots() {
    detail::configured_rows = 0;
}

inline void end_dots() {
#ifndef LLORCH_AMX_EMULATED
    if (detail::configured_rows) _tile_release();
#endif
}

}  // namespace llorch
