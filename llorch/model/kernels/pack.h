// From a checkpoint's row-major matrices to tile columns, in bf16 or quantised to int8 with one scale a column.
#pragma once
#include <immintrin.h>

#include "layers.h"

namespace llorch {

enum class Stored : int32_t { BF16 = 0, F16 = 1, F32 = 2 };

inline int stored_bytes(Stored type) { return type == Stored::F32 ? 4 : 2; }

// Value number `i` of a mapped file: older checkpoints begin at odd addresses.
template <class T>
inline T stored_at(const void* from, int i) {
    T value;
    memcpy(&value, static_cast<const char*>(from) + size_t(i) * sizeof(T), sizeof(T));
    return value;
}

// `count` stored values as floats.
inline void widen_row(const void* from, Stored type, int count, float* to) {
    switch (type) {
        case Stored::F32: memcpy(to, from, size_t(count) * sizeof(float)); break;
        case Stored::BF16:
            for (int i = 0; i < count; ++i) to[i] = widen(stored_at<bf16>(from, i));
            break;
        case Stored::F16:
            for (int i = 0; i < count; ++i) to[i] = _cvtsh_ss(stored_at<uint16_t>(from, i));
            break;
    }
}

struct Part {  // some rows of one stored matrix [rows][k], each an output column of the packed one
    const void* data;
    int64_t rows;
};

struct Matrix {  // packed; `tiles` columns of 16, `depth` is K padded
    uint8_t* data = nullptr;
    float* scales = nullptr;  // int8 only: one a column
    int32_t* zeros = nullptr; // int8 only: QACT_ZERO times the sum of a column, to be taken off its dot products
    float* bias = nullptr;    // or none
    int tiles = 0, depth = 0;

    bool quantised() const { return scales != nullptr; }
};

// Where output column n of a packed matrix comes from: parts stand one after the other, or take turns every 16 columns.
struct Source {
    const Part* parts;
    int part_count;
    bool in_turns;
    Stored type;
    int k;

    const void* row(int tile, int n) const {
        if (in_turns) return of(parts[tile % part_count], (tile / part_count) * TILE + n);
        int64_t index = int64_t(tile) * TILE + n;
        for (int p = 0; p < part_count; index -= parts[p++].rows)
            if (index < parts[p].rows) return of(parts[p], index);
        return nullptr;
    }

  private:
    const void* of(const Part& part, int64_t index) const {
        return index < part.rows ? static_cast<const char*>(part.data) + size_t(index) * k * stored_bytes(type) : nullptr;
    }
};

inline void pack_bf16(const Source& from, const Matrix& to, int tile, bf16* rows /* [16][depth] */) {
    for (int n = 0; n < TILE; ++n) {
        bf16* row = rows + size_t(n) * to.depth;
        const void* source = from.row(tile, n);
        const int k = source ? from.k : 0;
        if (from.type == Stored::BF16 && source) {
            memcpy(row, source, size_t(k) * sizeof(bf16));
        } else if (source) {
            float wide[LANES];
            for (int i = 0; i < k; i += LANES) {
                const int count = k - i < LANES ? k - i : LANES;
                widen_row(static_cast<const char*>(source) + size_t(i) * stored_bytes(from.type), from.type, count, wide);
                for (int j = 0; j < count; ++j) row[i + j] = narrow(wide[j]);
            }
        }
        memset(row + k, 0, size_t(to.depth - k) * sizeof(bf16));
    }
    auto* lines = reinterpret_cast<uint32_t*>(to.data + size_t(tile) * to.depth * TILE * sizeof(bf16));
    const auto* pairs = reinterpret_cast<const uint32_t*>(rows);
    for (int p = 0; p < to.depth / 2; ++p)
        for (int n = 0; n < TILE; ++n) lines[p * TILE + n] = pairs[size_t(n) * (to.depth / 2) + p];
}

inline void pack_int8(const Source& from, const Matrix& to, int tile, int8_t* rows /* [16][depth] */, float* wide /* [depth] */) {
    for (int n = 0; n < TILE; ++n) {
        int8_t* row = rows + size_t(n) * to.depth;
        const void* source = from.row(tile, n);
        memset(row, 0, size_t(to.depth));
        float peak = 0;
        int32_t total = 0;
        if (source) {
            widen_row(source, from.type, from.k, wide);
            for (int i = 0; i < from.k; ++i) peak = std::fabs(wide[i]) > peak ? std::fabs(wide[i]) : peak;
            const float inverse = peak > 0 ? 127.0f / peak : 0.0f;
            for (int i = 0; i < from.k; ++i) {
                row[i] = int8_t(std::lrint(wide[i] * inverse));
                total += row[i];
            }
        }
        to.scales[tile * TILE + n] = peak / 127.0f;
        to.zeros[tile * TILE + n] = QACT_ZERO * total;
    }
    auto* lines = reinterpret_cast<uint32_t*>(to.data + size_t(tile) * to.depth * TILE);
    const auto* quads = reinterpret_cast<const uint32_t*>(rows);
    for (int q = 0; q < to.depth / 4; ++q)
        for (int n = 0; n < TILE; ++n) lines[q * TILE + n] = quads[size_t(n) * (to.depth / 4) + q];
}

}  // namespace llorch
