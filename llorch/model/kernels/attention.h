// Grouped-query attention over a paged cache of keys and values, in chunks of 128 positions.
//
// Keys of a chunk are packed like weights with n = position and k = dimension, values with n = dimension and
// k = position: both products are the dot products of the linear layers. Each chunk gets its own softmax, and chunks are
// merged in order of position (Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018), so a row's
// bits depend neither on the rows beside it nor on how long the others are: a chunk it may not see is left out, and
// positions it may not see add exact zeros.
#pragma once
#include "layers.h"

namespace llorch {

constexpr int CHUNK = 128;      // positions of a block of the cache
constexpr int V_GROUP = 32;     // values are summed in groups of so many positions
constexpr int ROWS_BLOCK = 48;  // rows (position x query head) that one piece of work takes

struct CacheShape {
    int layers, kv_heads, head_dim;

    int key_depth() const { return round_up(head_dim, 32); }
    int value_width() const { return round_up(head_dim, TILE); }
    size_t keys() const { return size_t(CHUNK) * key_depth(); }       // elements of a head's keys in a block
    size_t values() const { return size_t(CHUNK) * value_width(); }
    size_t head() const { return keys() + values(); }
    size_t block() const { return head() * kv_heads * layers; }
};

struct HeadCache {  // one layer's keys and values of one head, over the blocks of a sequence
    bf16* pool;
    const int32_t* blocks;
    size_t block_stride, offset, keys_size;

    bf16* keys(int chunk) const { return pool + size_t(blocks[chunk]) * block_stride + offset; }
    bf16* values(int chunk) const { return keys(chunk) + keys_size; }
};

inline void write_key(bf16* keys, int position, const float* key, int depth) {
    bf16* column = keys + (position / TILE) * tile_column(depth) + (position % TILE) * 2;
    for (int k = 0; k < depth; k += 2) {
        column[k * TILE] = narrow(key[k]);
        column[k * TILE + 1] = narrow(key[k + 1]);
    }
}

inline void write_value(bf16* values, int position, const float* value, int width) {
    bf16* line = values + (position / 2) * 32 + position % 2;
    for (int n = 0; n < width; ++n) line[(n / TILE) * tile_column(CHUNK) + (n % TILE) * 2] = narrow(value[n]);
}

// Values of positions that a row may not see, or that an earlier sequence left, are multiplied by an exact 0: all that are
// in the cache must be finite. Where they are not, the key says so instead, to those rows only that see the position.
inline void keep_finite(float* value, int size, float* key) {
    f32x16 probe{};
    for (int i = 0; i < size; i += LANES) probe += load(value + i) * 0.0f;
    if (sum(probe) == 0.0f) return;
    memset(value, 0, size_t(size) * sizeof(float));
    key[0] = NAN;
}

struct AttentionScratch {  // of one thread
    alignas(64) float scores[ROWS_BLOCK * CHUNK];
    alignas(64) act weights[ROWS_BLOCK * CHUNK];
    float *partial, *total;  // [ROWS_BLOCK][value_width]
    float peak[ROWS_BLOCK], mass[ROWS_BLOCK];
};

struct AttentionRows {  // `positions` consecutive positions from `start`, `group` query heads each, of one sequence
    const act* queries;  // [positions][group][key_depth], scaled
    int start, positions, group, window;  // window 0: none
};

namespace detail {

inline constexpr float NOTHING = -1e30f;

// Scores of one row to softmax weights within the chunk, 0 outside low..high; the chunk's peak and mass.
inline void soften(float* scores, act* weights, int low, int high, int used, float* peak, float* mass) {
    f32x16 peaks = splat(NOTHING);
    const i32x16 lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    for (int i = 0; i < used; i += LANES) {
        const i32x16 at = lane + i;
        const f32x16 seen = (at >= low) & (at <= high) ? load(scores + i) : splat(-INFINITY);
        store(scores + i, seen);
        peaks = max(peaks, seen);
    }
    *peak = largest(peaks);
    f32x16 masses{};
    for (int i = 0; i < used; i += LANES) {
        const f32x16 weight = exp(load(scores + i) - *peak);
        store_act(weights + i, weight);
        masses += weight;
    }
    *mass = sum(masses);
}

// total = total * e^(peak - new) + part * e^(part_peak - new), likewise the mass.
inline void merge(float* total, float* peak, float* mass, const float* part, float part_peak, float part_mass, int width) {
    const float new_peak = *peak > part_peak ? *peak : part_peak;
    const f32x16 scales = exp(f32x16{*peak - new_peak, part_peak - new_peak});
    const float keep = scales[0], add = scales[1];
    for (int i = 0; i < width; i += LANES) store(total + i, load(total + i) * keep + load(part + i) * add);
    *mass = *mass * keep + part_mass * add;
    *peak = new_peak;
}

}  // namespace detail

// Attention of some rows; row (position, g) goes to out + position * out_stride + g * head_dim.
inline void attend(const AttentionRows& rows, const HeadCache& cache, const CacheShape& shape, AttentionScratch& s, act* out, size_t out_stride) {
    const int count = rows.positions * rows.group;
    const int depth = shape.key_depth(), width = shape.value_width();
    const int last = rows.start + rows.positions - 1;
    auto first_seen = [&](int position) { return rows.window && position >= rows.window ? position - rows.window + 1 : 0; };
    for (int r = 0; r < count; ++r) {
        s.peak[r] = detail::NOTHING;
        s.mass[r] = 0;
        memset(s.total + r * width, 0, width * sizeof(float));
    }
    for (int chunk = first_seen(rows.start) / CHUNK; chunk <= last / CHUNK; ++chunk) {
        const int base = chunk * CHUNK;
        const int used = round_up(last - base + 1 < CHUNK ? last - base + 1 : CHUNK, V_GROUP);
        dot(rows.queries, size_t(depth), count, cache.keys(chunk), tile_column(depth), used / TILE, depth / 2, s.scores, size_t(CHUNK));
        float peaks[ROWS_BLOCK], masses[ROWS_BLOCK];
        for (int r = 0; r < count; ++r) {
            const int position = rows.start + r / rows.group;
            detail::soften(s.scores + r * CHUNK, s.weights + r * CHUNK, first_seen(position) - base, position - base, used, &peaks[r], &masses[r]);
        }
        dot(s.weights, size_t(CHUNK), count, cache.values(chunk), tile_column(CHUNK), width / TILE, used / 2, s.partial, size_t(width));
        for (int r = 0; r < count; ++r)
            if (masses[r] != 0) detail::merge(s.total + r * width, &s.peak[r], &s.mass[r], s.partial + r * width, peaks[r], masses[r], width);
    }
    for (int r = 0; r < count; ++r) {
        const float scale = 1.0f / s.mass[r];
        act* to = out + (r / rows.group) * out_stride + (r % rows.group) * shape.head_dim;
        for (int i = 0; i < shape.head_dim; ++i) set_act(to + i, s.total[r * width + i] * scale);
    }
}

}  // namespace llorch
