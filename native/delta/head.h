// One value head of one sequence: where its rows and its state are, its gates, and its normalised keys and queries.
#pragma once

#include "delta/delta.h"
#include "simd/math.h"

namespace pocketvlm::POCKETVLM_ISA {
namespace {

// log(1 + e^x) as max(x, 0) + log(1 + u) with u = e^-|x|, and log(1 + u) = 2 artanh(u / (2 + u)).
inline Vec softplus(Vec x) {
    const Vec u = exp(zero() - vabs(x)), s = u / (u + splat(2.0f)), t = s * s;
    Vec p = splat(2.0f / 15.0f);
    for (float k = 13.0f; k > 0.0f; k -= 2.0f) p = fma(p, t, splat(2.0f / k));
    return fma(p, s, vmax(x, zero()));
}

inline void store_some(float* p, Vec v, int64_t n) { n >= W ? store(p, v) : store_part(p, v, n); }

struct Head {
    const DeltaRule& a;
    int64_t sequence, head, first, rows;
    int64_t key_width, value_width;  // dims, rounded up to whole vectors
    float* memory;

    const float* query(int64_t r) const { return a.mixed + (first + r) * stride() + head / (a.value_heads / a.key_heads) * a.key_dim; }
    const float* key(int64_t r) const { return query(r) + a.key_heads * a.key_dim; }
    const float* value(int64_t r) const { return a.mixed + (first + r) * stride() + 2 * a.key_heads * a.key_dim + head * a.value_dim; }
    float* out(int64_t r) const { return a.out + ((first + r) * a.value_heads + head) * a.value_dim; }
    float* state(const int32_t* slots) const { return a.state + (slots[sequence] * a.value_heads + head) * a.key_dim * a.value_dim; }
    const float* state_before() const { return state(a.read_slots); }
    float* state_after() const { return state(a.write_slots); }
    int64_t stride() const { return 2 * a.key_heads * a.key_dim + a.value_heads * a.value_dim; }

    void prefetch(int64_t r) const {
        const float *q = query(r), *k = key(r), *v = value(r);
        for (int64_t j = 0; j < a.key_dim; j += 16) __builtin_prefetch(q + j, 0, 2), __builtin_prefetch(k + j, 0, 2);
        for (int64_t j = 0; j < a.value_dim; j += 16) __builtin_prefetch(v + j, 0, 2);
    }

    bool is_fresh() const { return a.context_lens[sequence] == 0; }

    // Beta and the log decay, -e^a_log softplus(a + dt_bias), of rows [r, r + n); whole vectors are written.
    void find_gates(int64_t r, int64_t n, float* beta, float* log_decay) const {
        const Vec rate = splat(-static_cast<float>(__builtin_exp(static_cast<double>(a.a_log[head])))), bias = splat(a.dt_bias[head]);
        for (int64_t i = 0; i < n; i += W) {
            alignas(64) float raw_a[W] = {}, raw_b[W] = {};
            for (int64_t j = 0; j < min(W, n - i); ++j) {
                const int64_t at = (first + r + i + j) * a.value_heads + head;
                raw_a[j] = a.a[at], raw_b[j] = a.b[at];
            }
            store(log_decay + i, softplus(load(raw_a) + bias) * rate);
            store(beta + i, sigmoid(load(raw_b)));
        }
    }
};

// x / sqrt(sum(x^2) + 1e-6) * scale, zero-padded to `width`.
inline void normalise(const float* x, int64_t n, int64_t width, float scale, float* out) {
    Vec squares = zero();
    for (int64_t j = 0; j < n; j += W) {
        const Vec v = j + W <= n ? load(x + j) : load_part(x + j, n - j);
        squares = fma(v, v, squares);
    }
    const Vec factor = splat(scale / __builtin_sqrtf(sum(squares) + 1e-6f));
    for (int64_t j = 0; j < width; j += W) store(out + j, (j + W <= n ? load(x + j) : load_part(x + j, n - j)) * factor);
}

inline float query_scale(const DeltaRule& a) { return 1.0f / __builtin_sqrtf(static_cast<float>(a.key_dim)); }

}  // namespace
}  // namespace pocketvlm::POCKETVLM_ISA
