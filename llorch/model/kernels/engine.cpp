// A decoder of the Llama shape: its packed weights, its cache of keys and values, and one forward pass over any rows.
//
// One pass is one run of the team with barriers between the phases of a layer. A row's bits depend on its token, its
// position and the positions before it; not on other rows, on how the work is shared, or on what was computed when.
#if defined(LLORCH_ISA_AMX)
#include "dot_amx.h"
#elif defined(LLORCH_ISA_AVX512)
#include "dot_avx512.h"
#else
#include "dot_avx2.h"
#endif
#include "arena.h"
#include "attention.h"
#include "pack.h"
#include "sample.h"
#include "team.h"

#define API extern "C" __attribute__((visibility("default")))

namespace llorch {

struct Shape {
    int32_t layers, hidden, heads, kv_heads, head_dim, rotary_dim, intermediate, vocab;
    int32_t blocks, rows_max, draws_max, int8, head_norms, frequency_sets;
    float norm_eps;
};

struct Span {  // consecutive rows of one sequence
    int32_t start, count, blocks_at, frequency_set;
};

struct Batch {
    int32_t rows, spans, draws, copies;
    const int32_t* token_ids;   // [rows]
    const Span* span;           // [spans], in the order of the rows
    const int32_t* blocks;      // block numbers; a span's begin at blocks_at
    const int32_t* draw_rows;   // [draws]: rows whose logits are wanted
    const int32_t* copy;        // [copies][2]: source and target block
};

enum class Slot : int32_t { QKV, OUTPUT, GATE_UP, DOWN, HEAD };
enum class Vector : int32_t { ATTENTION_NORM, MLP_NORM, QUERY_NORM, KEY_NORM, QKV_BIAS, OUTPUT_BIAS, FINAL_NORM, FREQUENCIES, ROTARY_FACTORS };

struct Layer {
    Matrix qkv, output, gate_up, down;
    float *attention_norm, *mlp_norm, *query_norm = nullptr, *key_norm = nullptr;
    int window = 0;
};

class Engine {
  public:
    Engine(const Shape& shape, int threads)
        : s(shape), cache{shape.layers, shape.kv_heads, shape.head_dim}, team(threads),
          weights(weights_size()), work(work_size(threads)), blocks(size_t(shape.blocks) * cache.block() * sizeof(bf16)) {
        pool = blocks.take<bf16>(size_t(shape.blocks) * cache.block());
        lay_out();
    }

    size_t weights_bytes() const { return weights.used(); }
    size_t block_bytes() const { return cache.block() * sizeof(bf16); }
    int threads() const { return team.members(); }

    void set_vector(Vector which, int layer, const void* values, Stored type, int at, int count);
    void set_window(int layer, int window) { layers[layer].window = window; }
    void set_embedding(const void* data, Stored type) { embedding = data, embedding_type = type; }
    void pack(Slot which, int layer, const Part* parts, int part_count, Stored type);
    bool forward(const Batch& batch, int active);
    void draw_all(const DrawBatch& batch, int count, Drawn* out, int active);
    const float* logits_of(int draw) const { return logits + size_t(draw) * vocab_stride; }

    std::atomic<int32_t> interrupted{0};

  private:
    int query_size() const { return s.heads * s.head_dim; }
    int kv_size() const { return s.kv_heads * s.head_dim; }
    int qkv_size() const { return query_size() + 2 * kv_size(); }
    int group() const { return s.heads / s.kv_heads; }

    size_t matrix_size(int columns, int k) const;
    size_t weights_size() const;
    size_t work_size(int threads) const;
    void lay_out();
    Matrix make_matrix(int columns, int k);
    float* bias_of(Matrix& matrix);
    Matrix& matrix(Slot which, int layer);

    template <class Finish>
    void multiply(const Matrix& w, const act* x, int stride, int rows, Share share, int unit, Finish finish);
    void pass(const Batch& batch, Share share);
    void begin(const Batch& batch, Share share);
    void run_layer(const Batch& batch, int index, Share share);
    void place(const Batch& batch, int index, Share share);
    void mix(const Batch& batch, int index, Share share);
    void normalise(const float* weight, const int32_t* which, int rows, Share share);
    void quantise(const act* from, int stride, int rows, Share share);
    HeadCache head_cache(const Batch& batch, int span, int index, int kv_head);

    Shape s;
    CacheShape cache;
    Team team;
    Arena weights, work, blocks;
    Layer* layers = nullptr;
    Matrix head;
    float *final_norm = nullptr, *frequencies = nullptr, *factors = nullptr;
    bf16* pool = nullptr;  // keys and values, [blocks][layers][kv_heads][keys, then values]
    const void* embedding = nullptr;  // as stored, [vocab][hidden]: only the rows of tokens in use are ever read
    Stored embedding_type = Stored::BF16;

    // Rows of the pass; strides in elements.
    int hidden_stride, qkv_stride, attended_stride, middle_stride, quantised_stride, vocab_stride;
    float *x, *qkv, *cosines, *sines, *logits;
    act *normal, *queries, *attended, *middle;
    qact* quantised;
    float* quantised_scales;
    int32_t *span_of_row, *position_of_row;
    AttentionScratch* scratch;
    bool stopping = false;
};

size_t Engine::matrix_size(int columns, int k) const {
    const size_t tiles = size_t(round_up(columns, TILE)) , depth = size_t(round_up(k, K_UNIT));
    return tiles * depth * (s.int8 ? 1 : 2) + (s.int8 ? tiles * 8 : 0) + 256;
}

size_t Engine::weights_size() const {
    const size_t layer = matrix_size(qkv_size(), s.hidden) + matrix_size(s.hidden, query_size()) +
                         matrix_size(2 * round_up(s.intermediate, TILE), s.hidden) + matrix_size(s.hidden, s.intermediate) +
                         (size_t(qkv_size()) + 3 * size_t(s.hidden) + 2 * size_t(s.head_dim) + 6 * 64) * sizeof(float);
    return layer * size_t(s.layers) + matrix_size(s.vocab, s.hidden) + size_t(s.hidden) * 8 + (size_t(s.layers) + 8) * sizeof(Layer) +
           size_t(s.rotary_dim) * 16 + 4096;
}

Matrix Engine::make_matrix(int columns, int k) {
    Matrix m;
    m.tiles = round_up(columns, TILE) / TILE;
    m.depth = round_up(k, K_UNIT);
    m.data = weights.take<uint8_t>(size_t(m.tiles) * TILE * m.depth * (s.int8 ? 1 : 2));
    if (s.int8) {
        m.scales = weights.take<float>(size_t(m.tiles) * TILE);
        m.zeros = weights.take<int32_t>(size_t(m.tiles) * TILE);
    }
    return m;
}

size_t Engine::work_size(int threads) const {
    const size_t rows = size_t(s.rows_max), padded = 3 * K_UNIT;
    const size_t values = 2 * size_t(s.hidden) + 2 * size_t(qkv_size()) + 2 * size_t(s.heads) * cache.key_depth() + 2 * size_t(query_size()) + 2 * size_t(s.intermediate) +
                          size_t(s.rotary_dim) + 8 * padded;
    const size_t widest = size_t(std::max({s.hidden, query_size(), s.intermediate})) + padded;
    const size_t thread = sizeof(AttentionScratch) + 2 * size_t(ROWS_BLOCK) * cache.value_width() * sizeof(float) + 256;
    return rows * (values * sizeof(float) + widest * sizeof(qact) + 64) + size_t(s.draws_max) * (size_t(s.vocab) + TILE) * sizeof(float) +
           size_t(threads) * thread + (1 << 16);
}

void Engine::lay_out() {
    layers = weights.take<Layer>(size_t(s.layers));
    for (int i = 0; i < s.layers; ++i) {
        Layer& layer = *new (&layers[i]) Layer;
        layer.qkv = make_matrix(qkv_size(), s.hidden);
        layer.output = make_matrix(s.hidden, query_size());
        layer.gate_up = make_matrix(2 * round_up(s.intermediate, TILE), s.hidden);
        layer.down = make_matrix(s.hidden, s.intermediate);
        layer.attention_norm = weights.take<float>(round_up(s.hidden, LANES));
        layer.mlp_norm = weights.take<float>(round_up(s.hidden, LANES));
        if (s.head_norms) {
            layer.query_norm = weights.take<float>(round_up(s.head_dim, LANES));
            layer.key_norm = weights.take<float>(round_up(s.head_dim, LANES));
        }
    }
    head = make_matrix(s.vocab, s.hidden);
    final_norm = weights.take<float>(round_up(s.hidden, LANES));
    frequencies = weights.take<float>(size_t(s.frequency_sets) * (s.rotary_dim / 2));
    factors = weights.take<float>(size_t(s.frequency_sets));

    const size_t rows = size_t(s.rows_max);
    hidden_stride = round_up(s.hidden, K_UNIT);
    qkv_stride = round_up(qkv_size(), TILE);
    attended_stride = round_up(query_size(), K_UNIT);
    middle_stride = round_up(s.intermediate, K_UNIT);
    quantised_stride = std::max({hidden_stride, attended_stride, middle_stride});
    vocab_stride = round_up(s.vocab, TILE);
    x = work.take<float>(rows * hidden_stride);
    qkv = work.take<float>(rows * qkv_stride);
    cosines = work.take<float>(rows * (s.rotary_dim / 2));
    sines = work.take<float>(rows * (s.rotary_dim / 2));
    normal = work.take<act>(rows * hidden_stride);
    queries = work.take<act>(rows * s.heads * cache.key_depth());
    attended = work.take<act>(rows * attended_stride);
    middle = work.take<act>(rows * middle_stride);
    span_of_row = work.take<int32_t>(rows);
    position_of_row = work.take<int32_t>(rows);
    if (s.int8) {
        quantised = work.take<qact>(rows * quantised_stride);
        quantised_scales = work.take<float>(rows);
    }
    scratch = work.take<AttentionScratch>(size_t(team.members()));
    for (int i = 0; i < team.members(); ++i) {
        scratch[i].partial = work.take<float>(size_t(ROWS_BLOCK) * cache.value_width());
        scratch[i].total = work.take<float>(size_t(ROWS_BLOCK) * cache.value_width());
    }
    logits = work.take<float>(size_t(s.draws_max) * vocab_stride);
}

Matrix& Engine::matrix(Slot which, int layer) {
    switch (which) {
        case Slot::QKV: return layers[layer].qkv;
        case Slot::OUTPUT: return layers[layer].output;
        case Slot::GATE_UP: return layers[layer].gate_up;
        case Slot::DOWN: return layers[layer].down;
        default: return head;
    }
}

// `count` values of a vector from its index `at`.
void Engine::set_vector(Vector which, int layer, const void* values, Stored type, int at, int count) {
    float* to = nullptr;
    switch (which) {
        case Vector::ATTENTION_NORM: to = layers[layer].attention_norm; break;
        case Vector::MLP_NORM: to = layers[layer].mlp_norm; break;
        case Vector::QUERY_NORM: to = layers[layer].query_norm; break;
        case Vector::KEY_NORM: to = layers[layer].key_norm; break;
        case Vector::QKV_BIAS: to = bias_of(layers[layer].qkv); break;
        case Vector::OUTPUT_BIAS: to = bias_of(layers[layer].output); break;
        case Vector::FINAL_NORM: to = final_norm; break;
        case Vector::FREQUENCIES: to = frequencies; break;
        case Vector::ROTARY_FACTORS: to = factors; break;
    }
    widen_row(values, type, count, to + at);
}

float* Engine::bias_of(Matrix& matrix) {
    if (!matrix.bias) matrix.bias = weights.take<float>(size_t(matrix.tiles) * TILE);
    return matrix.bias;
}

void Engine::pack(Slot which, int layer, const Part* parts, int part_count, Stored type) {
    const Matrix& to = matrix(which, layer);
    const bool by_hidden = which == Slot::QKV || which == Slot::GATE_UP || which == Slot::HEAD;
    const int k = by_hidden ? s.hidden : which == Slot::OUTPUT ? query_size() : s.intermediate;
    struct Job {
        Source from;
        const Matrix& to;
    } job{{parts, part_count, which == Slot::GATE_UP, type, k}, to};
    team.run(team.members(), [](void* context, Share share) {
        auto& [from, to] = *static_cast<Job*>(context);
        std::vector<uint32_t> rows(size_t(TILE) * to.depth / 2);
        std::vector<float> wide(size_t(to.depth));
        for (int tile = share.first(to.tiles); tile < share.end(to.tiles); ++tile) {
            if (to.quantised()) pack_int8(from, to, tile, reinterpret_cast<int8_t*>(rows.data()), wide.data());
            else pack_bf16(from, to, tile, reinterpret_cast<bf16*>(rows.data()));
        }
    }, &job);
}

// x w for `rows` rows, this member's share of the columns in units of `unit` tiles; `finish(row, tile, tiles, values)`
// gets the sums of consecutive tile columns of a row.
template <class Finish>
void Engine::multiply(const Matrix& w, const act* from, int stride, int rows, Share share, int unit, Finish finish) {
    constexpr int TILES = 4;
    alignas(64) float values[ROWS_PASS * TILES * TILE];
    const int units = w.tiles / unit, end = share.end(units) * unit;
    for (int tile = share.first(units) * unit; tile < end; tile += TILES) {
        const int tiles = end - tile < TILES ? end - tile : TILES;
        for (int row = 0; row < rows; row += ROWS_PASS) {
            const int count = std::min(ROWS_PASS, rows - row);
            if (w.quantised()) {
                auto* sums = reinterpret_cast<int32_t*>(values);
                dot(quantised + size_t(row) * quantised_stride, size_t(quantised_stride), count, reinterpret_cast<const int8_t*>(w.data) + size_t(tile) * w.depth * TILE,
                    size_t(w.depth) * TILE, tiles, w.depth / 4, sums, size_t(TILES * TILE));
                for (int r = 0; r < count; ++r)
                    for (int t = 0; t < tiles; ++t) {
                        const int at = (r * TILES + t) * TILE, column = (tile + t) * TILE;
                        i32x16 total, zero;
                        memcpy(&total, sums + at, sizeof total);
                        memcpy(&zero, w.zeros + column, sizeof zero);
                        store(values + at, __builtin_convertvector(total - zero, f32x16) * (load(w.scales + column) * quantised_scales[row + r]));
                    }
            } else {
                dot(from + size_t(row) * stride, size_t(stride), count, reinterpret_cast<const bf16*>(w.data) + size_t(tile) * tile_column(w.depth),
                    tile_column(w.depth), tiles, w.depth / 2, values, size_t(TILES * TILE));
            }
            for (int r = 0; r < count; ++r) finish(row + r, tile, tiles, values + r * TILES * TILE);
        }
    }
}

HeadCache Engine::head_cache(const Batch& batch, int span, int index, int kv_head) {
    const size_t offset = (size_t(index) * s.kv_heads + kv_head) * cache.head();
    return {pool, batch.blocks + batch.span[span].blocks_at, cache.block(), offset, cache.keys()};
}

// Block copies, then the embedding and the rotary angles of the rows.
void Engine::begin(const Batch& batch, Share share) {
    if (batch.copies) {
        const int lines = int(cache.block() * sizeof(bf16) / 64), first = share.first(lines), end = share.end(lines);
        for (int i = 0; i < batch.copies; ++i) {
            const char* source = reinterpret_cast<const char*>(pool + size_t(batch.copy[2 * i]) * cache.block());
            char* target = reinterpret_cast<char*>(pool + size_t(batch.copy[2 * i + 1]) * cache.block());
            memcpy(target + size_t(first) * 64, source + size_t(first) * 64, size_t(end - first) * 64);
        }
        team.barrier();
    }
    const int half = s.rotary_dim / 2;
    for (int row = share.first(batch.rows); row < share.end(batch.rows); ++row) {
        const size_t at = size_t(batch.token_ids[row]) * s.hidden * stored_bytes(embedding_type);
        widen_row(static_cast<const char*>(embedding) + at, embedding_type, s.hidden, x + size_t(row) * hidden_stride);
        const int span = span_of_row[row], position = position_of_row[row], set = batch.span[span].frequency_set;
        for (int i = 0; i < half; ++i) {
            const double angle = double(float(position) * frequencies[set * half + i]);
            cosines[size_t(row) * half + i] = float(std::cos(angle)) * factors[set];
            sines[size_t(row) * half + i] = float(std::sin(angle)) * factors[set];
        }
    }
}

// normal = rms_norm(x) of rows `which` (null: all in order), quantised as well for int8 weights.
void Engine::normalise(const float* weight, const int32_t* which, int rows, Share share) {
    for (int row = share.first(rows); row < share.end(rows); ++row)
        rms_norm(x + size_t(which ? which[row] : row) * hidden_stride, weight, s.hidden, s.norm_eps, normal + size_t(row) * hidden_stride);
    if (s.int8) quantise(normal, hidden_stride, rows, share);
}

void Engine::quantise(const act* from, int stride, int rows, Share share) {
    for (int row = share.first(rows); row < share.end(rows); ++row)
        quantise_row(from + size_t(row) * stride, stride, quantised + size_t(row) * quantised_stride, &quantised_scales[row]);
}

// Keys and values into the cache; queries rotated, scaled and laid out by key-value head.
void Engine::place(const Batch& batch, int index, Share share) {
    const Layer& layer = layers[index];
    const int size = s.head_dim, depth = cache.key_depth(), half = s.rotary_dim / 2, units = batch.rows * s.kv_heads;
    const float scale = 1.0f / std::sqrt(float(size));
    for (int unit = share.first(units); unit < share.end(units); ++unit) {
        const int row = unit / s.kv_heads, kv_head = unit % s.kv_heads, position = position_of_row[row];
        const HeadCache to = head_cache(batch, span_of_row[row], index, kv_head);
        float* heads = qkv + size_t(row) * qkv_stride;
        const float *cos = cosines + size_t(row) * half, *sin = sines + size_t(row) * half;
        float padded[512] = {};
        float* key = heads + query_size() + kv_head * size;
        if (layer.key_norm) rms_norm(key, layer.key_norm, size, s.norm_eps, key);
        rotate(key, cos, sin, half);
        memcpy(padded, key, size_t(size) * sizeof(float));
        float* value = key + kv_size();
        keep_finite(value, size, padded);
        write_key(to.keys(position / CHUNK), position % CHUNK, padded, depth);
        write_value(to.values(position / CHUNK), position % CHUNK, value, size);
        for (int g = 0; g < group(); ++g) {
            float* query = heads + (kv_head * group() + g) * size;
            if (layer.query_norm) rms_norm(query, layer.query_norm, size, s.norm_eps, query);
            rotate(query, cos, sin, half);
            act* out = queries + ((size_t(kv_head) * batch.rows + row) * group() + g) * depth;
            for (int i = 0; i < size; i += LANES) store_act(out + i, load(query + i) * scale);
        }
    }
}

// Attention, in pieces of some positions of one span and one key-value head; members take turns.
void Engine::mix(const Batch& batch, int index, Share share) {
    const int positions_max = std::max(1, ROWS_BLOCK / group()), depth = cache.key_depth();
    int turn = 0, row = 0;
    for (int span = 0; span < batch.spans; ++span) {
        const Span& of = batch.span[span];
        for (int done = 0; done < of.count; done += positions_max) {
            const int positions = std::min(positions_max, of.count - done), first = row + done;
            for (int kv_head = 0; kv_head < s.kv_heads; ++kv_head) {
                if (turn++ % share.count != share.index) continue;
                const AttentionRows rows{queries + (size_t(kv_head) * batch.rows + first) * group() * depth, of.start + done, positions, group(), layers[index].window};
                attend(rows, head_cache(batch, span, index, kv_head), cache, scratch[share.index],
                       attended + size_t(first) * attended_stride + size_t(kv_head) * group() * s.head_dim, size_t(attended_stride));
            }
        }
        row += of.count;
    }
}

void Engine::run_layer(const Batch& batch, int index, Share share) {
    const Layer& layer = layers[index];
    const int rows = batch.rows;
    auto add_to_x = [this](int row, int tile, int tiles, const float* values) {
        float* to = x + size_t(row) * hidden_stride + tile * TILE;
        for (int i = 0; i < tiles * TILE; i += LANES) store(to + i, load(to + i) + load(values + i));
    };
    multiply(layer.qkv, normal, hidden_stride, rows, share, 1, [&](int row, int tile, int tiles, const float* values) {
        float* to = qkv + size_t(row) * qkv_stride + tile * TILE;
        for (int i = 0; i < tiles * TILE; i += LANES)
            store(to + i, layer.qkv.bias ? load(values + i) + load(layer.qkv.bias + tile * TILE + i) : load(values + i));
    });
    team.barrier();
    place(batch, index, share);
    team.barrier();
    mix(batch, index, share);
    team.barrier();
    if (s.int8) {
        quantise(attended, attended_stride, rows, share);
        team.barrier();
    }
    multiply(layer.output, attended, attended_stride, rows, share, 1, [&](int row, int tile, int tiles, const float* values) {
        add_to_x(row, tile, tiles, values);
        if (layer.output.bias) add_to_x(row, tile, tiles, layer.output.bias + tile * TILE);
    });
    team.barrier();
    normalise(layer.mlp_norm, nullptr, rows, share);
    team.barrier();
    multiply(layer.gate_up, normal, hidden_stride, rows, share, 2, [this](int row, int tile, int tiles, const float* values) {
        act* to = middle + size_t(row) * middle_stride + tile / 2 * TILE;
        for (int t = 0; t < tiles; t += 2, to += TILE) store_act(to, silu(load(values + t * TILE)) * load(values + (t + 1) * TILE));
    });
    team.barrier();
    if (s.int8) {
        quantise(middle, middle_stride, rows, share);
        team.barrier();
    }
    multiply(layer.down, middle, middle_stride, rows, share, 1, add_to_x);
    team.barrier();
}

void Engine::pass(const Batch& batch, Share share) {
    begin_dots();
    begin(batch, share);
    for (int index = 0; index < s.layers; ++index) {
        if (share.index == 0) stopping = interrupted.load(std::memory_order_relaxed);  // one asks, all heed it behind the barrier
        normalise(layers[index].attention_norm, nullptr, batch.rows, share);
        team.barrier();
        if (stopping) return end_dots();
        run_layer(batch, index, share);
    }
    if (batch.draws) {
        normalise(final_norm, batch.draw_rows, batch.draws, share);
        team.barrier();
        multiply(head, normal, hidden_stride, batch.draws, share, 1, [this](int row, int tile, int tiles, const float* values) {
            memcpy(logits + size_t(row) * vocab_stride + tile * TILE, values, size_t(tiles) * TILE * sizeof(float));
        });
    }
    end_dots();
}

bool Engine::forward(const Batch& batch, int active) {
    for (int span = 0, row = 0; span < batch.spans; ++span)
        for (int i = 0; i < batch.span[span].count; ++i, ++row) span_of_row[row] = span, position_of_row[row] = batch.span[span].start + i;
    struct Job {
        Engine* engine;
        const Batch& batch;
    } job{this, batch};
    stopping = false;
    team.run(active, [](void* context, Share share) { static_cast<Job*>(context)->engine->pass(static_cast<Job*>(context)->batch, share); }, &job);
    return !stopping;
}

void Engine::draw_all(const DrawBatch& batch, int count, Drawn* out, int active) {
    struct Job {
        Engine* engine;
        const DrawBatch& batch;
        int count;
        Drawn* out;
    } job{this, batch, count, out};
    team.run(std::min(active, count), [](void* context, Share share) {
        auto& [engine, batch, count, out] = *static_cast<Job*>(context);
        for (int i = share.index; i < count; i += share.count)
            out[i] = draw(engine->logits + size_t(i) * engine->vocab_stride, engine->s.vocab, batch.specs[i], batch);
    }, &job);
}

}  // namespace llorch

// What Python calls. Sizes and indexes are checked there, once, where the values are made.

using llorch::Engine;

API const char* llorch_isa() { return llorch::ISA_NAME; }

API int llorch_usable() { return llorch::usable(); }

// Sizes of the structures that both sides declare, so that a library of another build is refused, not trusted.
API int llorch_size_of(int structure) {
    const size_t sizes[] = {sizeof(llorch::Shape), sizeof(llorch::Span), sizeof(llorch::Batch), sizeof(llorch::Part),
                            sizeof(llorch::DrawSpec), sizeof(llorch::DrawBatch), sizeof(llorch::Drawn)};
    return int(sizes[structure]);
}

API Engine* llorch_create(const llorch::Shape* shape, int threads) {
    try {
        return new Engine(*shape, threads);
    } catch (const std::bad_alloc&) {
        return nullptr;
    }
}

API void llorch_destroy(Engine* engine) { delete engine; }
API int64_t llorch_weights_bytes(const Engine* engine) { return int64_t(engine->weights_bytes()); }
API int64_t llorch_block_bytes(const Engine* engine) { return int64_t(engine->block_bytes()); }

API void llorch_set_vector(Engine* engine, int which, int layer, const void* values, int stored, int at, int count) {
    engine->set_vector(llorch::Vector(which), layer, values, llorch::Stored(stored), at, count);
}

API void llorch_set_window(Engine* engine, int layer, int window) { engine->set_window(layer, window); }
API void llorch_set_embedding(Engine* engine, const void* data, int stored) { engine->set_embedding(data, llorch::Stored(stored)); }

API void llorch_pack(Engine* engine, int which, int layer, const llorch::Part* parts, int count, int stored) {
    engine->pack(llorch::Slot(which), layer, parts, count, llorch::Stored(stored));
}

API void llorch_interrupt(Engine* engine, int value) { engine->interrupted.store(value, std::memory_order_relaxed); }
API int llorch_forward(Engine* engine, const llorch::Batch* batch, int threads) { return engine->forward(*batch, threads); }
API const float* llorch_logits(const Engine* engine, int draw) { return engine->logits_of(draw); }

API void llorch_draw(Engine* engine, const llorch::DrawBatch* batch, int count, llorch::Drawn* out, int threads) {
    engine->draw_all(*batch, count, out, threads);
}
