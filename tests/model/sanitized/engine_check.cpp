// Odd shapes through the whole engine, for the sanitizers: every buffer handed in is exactly as large as it must be.
// Prefill in uneven chunks beside a neighbour, decoding alone, several draws: the logits must be the same bits.
#include "engine.cpp"

#include <cstdio>
#include <cstdlib>
#include <memory>

using namespace llorch;

static uint64_t state = 1;
static uint32_t chance(uint32_t below) {
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    return uint32_t(state >> 33) % below;
}
static float uniform() { return float(chance(20001)) / 10000.0f - 1.0f; }

static std::vector<std::unique_ptr<char[]>> kept;
static void* values(size_t count, Stored type, float scale, float around = 0) {  // freshly allocated, at odd addresses too
    const size_t shift = chance(2) ? 1 : 0;
    kept.emplace_back(new char[count * size_t(stored_bytes(type)) + shift]);
    char* at = kept.back().get() + shift;
    for (size_t i = 0; i < count; ++i) {
        const float value = around + uniform() * scale;
        const bf16 half = narrow(value);
        const uint16_t small = _cvtss_sh(value, 0);
        if (type == Stored::F32) memcpy(at + 4 * i, &value, 4);
        else memcpy(at + 2 * i, type == Stored::BF16 ? &half : &small, 2);
    }
    return at;
}

static std::vector<float> logits_of(Engine& engine, const Shape& s, const std::vector<std::pair<Span, std::vector<int32_t>>>& parts, const std::vector<int32_t>& tokens, int draws, int active) {
    std::vector<Span> spans;
    std::vector<int32_t> ids, blocks, rows;
    for (auto& [span, own] : parts) {
        Span copy = span;
        copy.blocks_at = int(blocks.size());
        spans.push_back(copy);
        blocks.insert(blocks.end(), own.begin(), own.end());
        ids.insert(ids.end(), tokens.begin() + span.start, tokens.begin() + span.start + span.count);
    }
    for (int i = 0; i < draws; ++i) rows.push_back(int(ids.size()) - draws + i);
    Batch batch{int(ids.size()), int(spans.size()), draws, 0, ids.data(), spans.data(), blocks.data(), rows.data(), nullptr};
    llorch_forward(&engine, &batch, active);
    std::vector<float> out;
    for (int i = 0; i < draws; ++i) out.insert(out.end(), llorch_logits(&engine, i), llorch_logits(&engine, i) + s.vocab);
    return out;
}

static int check(Shape s, int window, Stored type, bool bias, int length) {
    s.layers = 2, s.blocks = 9, s.rows_max = 120, s.draws_max = 40, s.norm_eps = 1e-5f, s.frequency_sets = 1 + int(chance(2));
    const int threads = 1 + int(chance(4));
    Engine* engine = llorch_create(&s, threads);
    if (!engine) return printf("arena too small\n"), 1;
    const int q = s.heads * s.head_dim, kv = s.kv_heads * s.head_dim;
    for (int layer = 0; layer < s.layers; ++layer) {
        Part qkv[] = {{values(size_t(q) * s.hidden, type, 0.3f), q}, {values(size_t(kv) * s.hidden, type, 0.3f), kv}, {values(size_t(kv) * s.hidden, type, 0.3f), kv}};
        llorch_pack(engine, 0, layer, qkv, 3, int(type));
        Part output{values(size_t(q) * s.hidden, type, 0.3f), s.hidden};
        llorch_pack(engine, 1, layer, &output, 1, int(type));
        Part gate_up[] = {{values(size_t(s.intermediate) * s.hidden, type, 0.3f), s.intermediate}, {values(size_t(s.intermediate) * s.hidden, type, 0.3f), s.intermediate}};
        llorch_pack(engine, 2, layer, gate_up, 2, int(type));
        Part down{values(size_t(s.intermediate) * s.hidden, type, 0.3f), s.hidden};
        llorch_pack(engine, 3, layer, &down, 1, int(type));
        llorch_set_vector(engine, 0, layer, values(size_t(s.hidden), type, 0.2f, 1), int(type), 0, s.hidden);
        llorch_set_vector(engine, 1, layer, values(size_t(s.hidden), type, 0.2f, 1), int(type), 0, s.hidden);
        if (s.head_norms)
            for (int which = 2; which < 4; ++which) llorch_set_vector(engine, which, layer, values(size_t(s.head_dim), type, 0.2f, 1), int(type), 0, s.head_dim);
        if (bias) {
            llorch_set_vector(engine, 4, layer, values(size_t(q), type, 0.2f), int(type), 0, q);
            llorch_set_vector(engine, 4, layer, values(size_t(kv), type, 0.2f), int(type), q, kv);
            llorch_set_vector(engine, 4, layer, values(size_t(kv), type, 0.2f), int(type), q + kv, kv);
            llorch_set_vector(engine, 5, layer, values(size_t(s.hidden), type, 0.2f), int(type), 0, s.hidden);
        }
        llorch_set_window(engine, layer, window);
    }
    Part head{values(size_t(s.vocab) * s.hidden, type, 0.3f), s.vocab};
    llorch_pack(engine, 4, 0, &head, 1, int(type));
    llorch_set_vector(engine, 6, 0, values(size_t(s.hidden), type, 0.2f, 1), int(type), 0, s.hidden);
    llorch_set_vector(engine, 7, 0, values(size_t(s.frequency_sets) * (s.rotary_dim / 2), Stored::F32, 0.5f, 0.5f), 2, 0, s.frequency_sets * (s.rotary_dim / 2));
    llorch_set_vector(engine, 8, 0, values(size_t(s.frequency_sets), Stored::F32, 0.0f, 1), 2, 0, s.frequency_sets);
    llorch_set_embedding(engine, values(size_t(s.vocab) * s.hidden, type, 1.0f), int(type));

    std::vector<int32_t> tokens;
    for (int i = 0; i < length; ++i) tokens.push_back(int32_t(chance(uint32_t(s.vocab))));
    const int set = s.frequency_sets - 1, last = std::min(length, 5);
    auto prefill = [&](std::vector<int32_t> blocks, bool neighbour) {
        for (int at = 0; at < length - last;) {
            const int count = std::min(1 + int(chance(neighbour ? 70 : 100)), length - last - at);
            std::vector<std::pair<Span, std::vector<int32_t>>> parts;
            if (neighbour) parts.push_back({{0, std::min(length, 1 + int(chance(9))), 0, 0}, {8}});
            parts.push_back({{at, count, 0, set}, blocks});
            logits_of(*engine, s, parts, tokens, 0, 1 + int(chance(4)));
            at += count;
        }
    };
    prefill({0, 1, 2}, false);
    const auto together = logits_of(*engine, s, {{{length - last, last, 0, set}, {0, 1, 2}}}, tokens, last, threads);
    prefill({5, 3, 7}, true);
    std::vector<float> single;
    for (int i = 0; i < last; ++i) {
        const auto one = logits_of(*engine, s, {{{length - last + i, 1, 0, set}, {5, 3, 7}}}, tokens, 1, 1);
        single.insert(single.end(), one.begin(), one.end());
    }
    int errors = together.size() != single.size() || memcmp(together.data(), single.data(), single.size() * sizeof(float)) != 0;
    for (float value : together) errors += !std::isfinite(value);
    DrawSpec specs[5] = {};
    const int32_t history[] = {0, s.vocab - 1, s.vocab, 0}, bias_ids[] = {-1, 0, s.vocab};
    const float bias_values[] = {1, -1, 1};
    for (int i = 0; i < last; ++i)
        specs[i] = {i % 2 ? 0.9 : 1.0, i == 3 ? 0.1 : 0.0, i == 4 ? 0.0f : 0.8f, 1.1f, 0.1f, 0.2f, i == 2 ? 3 : 0, i * 5, chance(99), 0, 0, 4, 1, 0, 3};
    std::vector<Drawn> drawn(static_cast<size_t>(last));
    DrawBatch batch{specs, history, bias_ids, bias_values};
    logits_of(*engine, s, {{{length - last, last, 0, set}, {0, 1, 2}}}, tokens, last, threads);
    llorch_draw(engine, &batch, last, drawn.data(), threads);
    for (auto& one : drawn) errors += one.token < 0 || one.token >= s.vocab;
    llorch_destroy(engine);
    kept.clear();
    if (errors) printf("hidden %d heads %d/%d of %d rotary %d intermediate %d vocab %d int8 %d window %d length %d: %d errors\n", s.hidden, s.heads, s.kv_heads, s.head_dim, s.rotary_dim, s.intermediate, s.vocab, s.int8, window, length, errors);
    return errors;
}

int main(int argc, char** argv) {
    const int tries = argc > 1 ? atoi(argv[1]) : 100;
    if (argc > 2) state = strtoull(argv[2], nullptr, 10);
    const int hiddens[] = {16, 32, 48, 80, 112}, head_dims[] = {16, 48, 80, 96, 128, 256, 512}, windows[] = {0, 1, 5, 127, 128, 129, 300};
    const int groups[] = {1, 2, 3, 5, 7, 8, 16, 25, 48}, lengths[] = {1, 2, 31, 33, 127, 128, 129, 130, 200, 257, 300};
    int errors = 0;
    for (int i = 0; i < tries; ++i) {
        Shape s{};
        s.hidden = hiddens[chance(5)], s.head_dim = head_dims[chance(7)], s.kv_heads = 1 + int(chance(3)), s.heads = s.kv_heads * groups[chance(9)];
        if (s.heads * s.head_dim > 3000) s.kv_heads = 1, s.heads = 3;
        s.rotary_dim = chance(3) ? s.head_dim : s.head_dim / 2, s.intermediate = 1 + int(chance(150)), s.vocab = 1 + int(chance(200));
        s.int8 = int(chance(2)), s.head_norms = int(chance(2));
        errors += check(s, windows[chance(7)], Stored(chance(3)), chance(2), lengths[chance(11)]);
    }
    printf("%d tries, %d errors\n", tries, errors);
    return errors != 0;
}
