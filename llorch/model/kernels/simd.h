// Vectors of sixteen floats, written once for every instruction set: GCC splits them where registers are narrower.
// Compiled with -ffp-contract=off, so the bits of a result do not depend on where a function was inlined.
#pragma once
#include <cstdint>
#include <cstring>

namespace llorch {

using f32x16 = float __attribute__((vector_size(64)));
using i32x16 = int32_t __attribute__((vector_size(64)));
using u32x16 = uint32_t __attribute__((vector_size(64)));
using u16x16 = uint16_t __attribute__((vector_size(32)));

using bf16 = uint16_t;  // the upper half of a float

constexpr int LANES = 16;

inline constexpr int round_up(int value, int unit) { return (value + unit - 1) / unit * unit; }

inline f32x16 load(const float* p) {
    f32x16 v;
    memcpy(&v, p, sizeof v);
    return v;
}

inline void store(float* p, f32x16 v) { memcpy(p, &v, sizeof v); }

inline f32x16 splat(float value) { return value - f32x16{}; }

inline f32x16 load(const bf16* p) {
    u16x16 half;
    memcpy(&half, p, sizeof half);
    return (f32x16)(__builtin_convertvector(half, u32x16) << 16);
}

inline void store(bf16* p, f32x16 v) {  // rounds to nearest, ties to even
    u32x16 bits = (u32x16)v;
    bits += 0x7fff + ((bits >> 16) & 1);
    u16x16 half = __builtin_convertvector(bits >> 16, u16x16);
    memcpy(p, &half, sizeof half);
}

inline float widen(bf16 value) {
    uint32_t bits = uint32_t(value) << 16;
    float result;
    memcpy(&result, &bits, sizeof result);
    return result;
}

inline bf16 narrow(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bf16((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

inline f32x16 max(f32x16 a, f32x16 b) { return a > b ? a : b; }

inline f32x16 abs(f32x16 v) { return (f32x16)((u32x16)v & 0x7fffffff); }

// Both in a fixed order: pairs at distance 8, then 4, 2, 1.
inline float sum(f32x16 v) {
    float part[LANES];
    store(part, v);
    for (int width = LANES / 2; width; width /= 2)
        for (int i = 0; i < width; ++i) part[i] += part[i + width];
    return part[0];
}

inline float largest(f32x16 v) {
    float part[LANES];
    store(part, v);
    float result = part[0];
    for (int i = 1; i < LANES; ++i) result = part[i] > result ? part[i] : result;
    return result;
}

// e^x with a relative error below 2e-7; 0 below -87; NaN of NaN. Range reduction to [-ln2/2, ln2/2], Taylor polynomial of degree 7.
inline f32x16 exp(f32x16 x) {
    const float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer, which then stands in the low bits
    f32x16 clamped = max(splat(-87.0f), x);
    clamped = clamped > 88.0f ? splat(88.0f) : clamped;
    f32x16 shifted = clamped * 1.44269504f + magic;
    f32x16 n = shifted - magic;
    f32x16 r = clamped - n * 0.693145752f - n * 1.42860677e-6f;
    f32x16 p = r * 1.98412698e-4f + 1.38888889e-3f;
    p = p * r + 8.33333333e-3f;
    p = p * r + 4.16666667e-2f;
    p = p * r + 1.66666667e-1f;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    f32x16 y = (f32x16)((i32x16)p + ((i32x16)shifted << 23));
    return x < -87.0f ? f32x16{} : y;
}

}  // namespace llorch
