// Draws the next token from logits, by the rules of llorch/model/graph/sampler.py; the tests hold the two together.
//
// Order: bias and penalties, temperature, top-k, top-p (over what top-k left), min-p, then the Gumbel-max trick (E. J.
// Gumbel, 1954) with noise hashed from (seed, index, token) by SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
#pragma once
#include <algorithm>
#include <cmath>
#include <vector>

#include "simd.h"

namespace llorch {

constexpr int TOP_MAX = 20;  // logprobs reported beside each drawn token

struct DrawSpec {
    double top_p, min_p;
    float temperature, repetition, presence, frequency;
    int32_t top_k, logprobs;  // logprobs: how many of the likeliest tokens to report; -1 reports nothing
    uint64_t seed, index;
    int32_t history_at, history_count, prompt_length;  // in DrawBatch::history
    int32_t bias_at, bias_count;                       // in DrawBatch::bias_ids and bias_values
};

struct Drawn {
    int32_t token;
    float logprob;
    int32_t top_count;
    int32_t top_ids[TOP_MAX];
    float top_logprobs[TOP_MAX];
};

struct DrawBatch {
    const DrawSpec* specs;
    const int32_t* history;
    const int32_t* bias_ids;
    const float* bias_values;
};

namespace detail {

constexpr uint64_t GOLDEN_GAMMA = 0x9E3779B97F4A7C15;
constexpr float GREEDY_BELOW = 1e-5f;
constexpr double PROBABILITY_ROUNDING = 1e-9;
constexpr int FIRST_LOOK = 1024;  // top-p sorts so many of the likeliest first

inline uint64_t mix(uint64_t v) {
    v = (v ^ (v >> 30)) * 0xBF58476D1CE4E5B9;
    v = (v ^ (v >> 27)) * 0x94D049BB133111EB;
    return v ^ (v >> 31);
}

struct Noise {
    uint64_t key;

    Noise(uint64_t seed, uint64_t index) : key(mix(mix(seed) + (index + 1) * GOLDEN_GAMMA)) {}

    uint64_t bits(int token) const { return mix(uint64_t(token) * GOLDEN_GAMMA + key) >> 11; }
    static double uniform(uint64_t bits) { return (double(bits) + 0.5) * 0x1p-53; }
    static double gumbel(uint64_t bits) { return -std::log(-std::log(uniform(bits))); }
};

struct Candidate {
    float logit;
    int token;
};

inline bool likelier(const Candidate& a, const Candidate& b) {
    return a.logit > b.logit || (a.logit == b.logit && a.token < b.token);
}

inline int argmax(const float* logits, int size) {
    f32x16 peaks = splat(-INFINITY);
    int i = 0;
    for (; i + LANES <= size; i += LANES) peaks = max(peaks, load(logits + i));
    float peak = largest(peaks);
    for (; i < size; ++i) peak = logits[i] > peak ? logits[i] : peak;
    for (int token = 0; token < size; ++token)
        if (logits[token] == peak) return token;
    return 0;  // nothing but NaN
}

// The `count` likeliest tokens in order, lower ids first among equals.
inline std::vector<Candidate> likeliest(const float* logits, int size, int count) {
    std::vector<Candidate> kept;
    kept.reserve(2 * size_t(count) + 1);
    float bar = -INFINITY;  // nothing below it can be among them any more
    for (int token = 0; token < size; ++token) {
        if (!(logits[token] > bar) && kept.size() >= size_t(count)) continue;
        kept.push_back({logits[token], token});
        if (kept.size() == 2 * size_t(count)) {
            std::nth_element(kept.begin(), kept.begin() + (count - 1), kept.end(), likelier);
            kept.resize(size_t(count));
            bar = std::min_element(kept.begin(), kept.end(), [](auto& a, auto& b) { return a.logit < b.logit; })->logit;
        }
    }
    std::sort(kept.begin(), kept.end(), likelier);
    if (kept.size() > size_t(count)) kept.resize(size_t(count));
    return kept;
}

inline double log_sum(const float* logits, int size) {
    const float peak = logits[argmax(logits, size)];
    double total = 0;
    int i = 0;
    for (; i + LANES <= size; i += LANES) total += double(sum(exp(load(logits + i) - peak)));
    for (; i < size; ++i) total += std::exp(double(logits[i] - peak));
    return double(peak) + std::log(total);
}

inline void penalise(float* logits, int size, const DrawSpec& spec, const DrawBatch& batch) {
    for (int i = spec.bias_at; i < spec.bias_at + spec.bias_count; ++i)
        if (uint32_t(batch.bias_ids[i]) < uint32_t(size)) logits[batch.bias_ids[i]] += batch.bias_values[i];
    if (!spec.history_count) return;
    std::vector<int32_t> generated(batch.history + spec.history_at + spec.prompt_length, batch.history + spec.history_at + spec.history_count);
    std::vector<int32_t> seen(batch.history + spec.history_at, batch.history + spec.history_at + spec.history_count);
    std::sort(seen.begin(), seen.end());
    seen.erase(std::unique(seen.begin(), seen.end()), seen.end());
    if (spec.repetition != 1.0f)
        for (int token : seen)
            if (token < size) logits[token] = logits[token] > 0 ? logits[token] / spec.repetition : logits[token] * spec.repetition;
    if (spec.presence == 0 && spec.frequency == 0) return;
    std::sort(generated.begin(), generated.end());
    for (size_t from = 0, to = 0; from < generated.size(); from = to) {
        while (to < generated.size() && generated[to] == generated[from]) ++to;
        if (generated[from] < size) logits[generated[from]] = logits[generated[from]] - float(to - from) * spec.frequency - spec.presence;
    }
}

// A draw from softmax(logits) over all tokens. Most are turned away by a bound: noise of a token beats a lead d only if
// 1 - u < e^-d.
inline int draw_any(const float* logits, int size, const Noise& noise) {
    int best = argmax(logits, size);
    const float peak = logits[best];
    double score = double(peak) + Noise::gumbel(noise.bits(best));
    for (int base = 0; base < size; base += LANES) {
        const int count = size - base < LANES ? size - base : LANES;
        float lane[LANES];
        std::fill(lane, lane + LANES, -INFINITY);
        memcpy(lane, logits + base, size_t(count) * sizeof(float));
        store(lane, exp(load(lane) - peak - float(score - double(peak))) * 1.001f + 1e-30f);  // large logits keep their digits
        for (int i = 0; i < count; ++i) {
            const uint64_t bits = noise.bits(base + i);
            if (float(double((uint64_t(1) << 53) - bits) * 0x1p-53) > lane[i]) continue;
            const double challenger = double(logits[base + i]) + Noise::gumbel(bits);
            if (challenger > score || (challenger == score && base + i < best)) score = challenger, best = base + i;
        }
    }
    return best;
}

inline int draw_among(const std::vector<Candidate>& kept, const Noise& noise) {
    int best = kept[0].token;
    double score = -INFINITY;
    for (const Candidate& candidate : kept) {
        const double challenger = double(candidate.logit) + Noise::gumbel(noise.bits(candidate.token));
        if (challenger > score || (challenger == score && candidate.token < best)) score = challenger, best = candidate.token;
    }
    return best;
}

// The tokens that top-k, top-p and min-p leave, likeliest first. Equal logits at the edge of top-k all stay.
inline std::vector<Candidate> restrict(const float* logits, int size, const DrawSpec& spec) {
    const bool by_k = spec.top_k > 0 && spec.top_k < size;
    std::vector<Candidate> kept;
    if (by_k) {
        const float lowest = likeliest(logits, size, spec.top_k).back().logit;
        for (int token = 0; token < size; ++token)
            if (logits[token] >= lowest) kept.push_back({logits[token], token});
        std::sort(kept.begin(), kept.end(), likelier);
    }
    if (spec.top_p < 1.0) {
        double total = 0;
        if (by_k) {
            for (const Candidate& c : kept) total += std::exp(double(c.logit) - double(kept[0].logit));
            total = double(kept[0].logit) + std::log(total);
        } else {
            total = log_sum(logits, size);
            kept = likeliest(logits, size, std::min(FIRST_LOOK, size));
        }
        const double wanted = spec.top_p - PROBABILITY_ROUNDING;
        for (bool all = by_k || kept.size() == size_t(size);; all = true) {
            double reached = 0;
            size_t count = 0;
            while (count < kept.size() && (count == 0 || reached < wanted)) reached += std::exp(double(kept[count++].logit) - total);
            if (reached >= wanted || all) {
                kept.resize(count);
                break;
            }
            kept = likeliest(logits, size, size);
        }
    }
    if (spec.min_p > 0) {
        if (kept.empty()) kept = likeliest(logits, size, size);
        const float bar = kept[0].logit + float(std::log(spec.min_p));
        while (kept.size() > 1 && kept.back().logit < bar) kept.pop_back();
    }
    return kept;
}

}  // namespace detail

// Draw from logits[size], which are used up. NaN counts as -inf: sorting needs an order.
inline Drawn draw(float* logits, int size, const DrawSpec& spec, const DrawBatch& batch) {
    using namespace detail;
    Drawn drawn{};
    for (int i = 0; i < size; ++i) logits[i] = logits[i] == logits[i] ? logits[i] : -INFINITY;
    double total = 0;
    std::vector<Candidate> top;
    std::vector<float> own;
    if (spec.logprobs >= 0) {
        total = log_sum(logits, size);
        if (spec.logprobs > 0) top = likeliest(logits, size, std::min({int(spec.logprobs), TOP_MAX, size}));
        own.assign(logits, logits + size);
    }
    penalise(logits, size, spec, batch);
    if (spec.temperature < GREEDY_BELOW) {
        drawn.token = argmax(logits, size);
    } else {
        for (int i = 0; i < size; ++i) logits[i] /= spec.temperature;
        const Noise noise(spec.seed, spec.index);
        const bool free = (spec.top_k <= 0 || spec.top_k >= size) && spec.top_p >= 1.0 && spec.min_p <= 0;
        drawn.token = free ? draw_any(logits, size, noise) : draw_among(restrict(logits, size, spec), noise);
    }
    if (spec.logprobs >= 0) {
        drawn.logprob = float(double(own[size_t(drawn.token)]) - total);
        drawn.top_count = int32_t(top.size());
        for (size_t i = 0; i < top.size(); ++i) {
            drawn.top_ids[i] = top[i].token;
            drawn.top_logprobs[i] = float(double(top[i].logit) - total);
        }
    }
    return drawn;
}

}  // namespace llorch
