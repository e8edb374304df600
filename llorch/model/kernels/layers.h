// The arithmetic of a decoder layer beside its matrix products: one row at a time, so that rows do not know each other.
#pragma once
#include <cmath>

namespace llorch {

inline void store_act(float* p, f32x16 v) { store(p, v); }
inline void store_act(bf16* p, f32x16 v) { store(p, v); }
inline float to_float(float value) { return value; }
inline float to_float(bf16 value) { return widen(value); }
inline void set_act(float* p, float value) { *p = value; }
inline void set_act(bf16* p, float value) { *p = narrow(value); }

// out = x / rms(x) * weight, over `size` values; all three are padded with zeros to a multiple of 16.
template <class Out>
inline void rms_norm(const float* x, const float* weight, int size, float eps, Out* out) {
    f32x16 squares{};
    for (int i = 0; i < size; i += LANES) squares += load(x + i) * load(x + i);
    const float scale = 1.0f / std::sqrt(sum(squares) / float(size) + eps);
    for (int i = 0; i < size; i += LANES) store_act(out + i, load(x + i) * scale * load(weight + i));
}

// Rotary embedding of one head in place: pairs (i, i + half), as the published checkpoints order them.
inline void rotate(float* x, const float* cos, const float* sin, int half) {
    for (int i = 0; i < half; ++i) {
        const float a = x[i], b = x[i + half];
        x[i] = a * cos[i] - b * sin[i];
        x[i + half] = b * cos[i] + a * sin[i];
    }
}

inline f32x16 silu(f32x16 v) { return v / (exp(-v) + 1.0f); }

// One scale a row: q = round(x / scale) + zero, scale = max |x| / 127.
inline void quantise_row(const act* x, int size, qact* q, float* scale) {
    f32x16 peaks{};
    for (int i = 0; i < size; i += LANES) peaks = max(peaks, abs(load(x + i)));
    const float peak = largest(peaks);
    *scale = peak / 127.0f;
    const float inverse = peak > 0 ? 127.0f / peak : 0.0f;
    const float magic = 12582912.0f;  // rounds to nearest, see exp
    for (int i = 0; i < size; i += LANES) {
        const i32x16 rounded = (i32x16)(load(x + i) * inverse + magic) - 0x4b400000 + QACT_ZERO;
        for (int lane = 0; lane < LANES; ++lane) q[i + lane] = qact(rounded[lane]);
    }
}

}  // namespace llorch
