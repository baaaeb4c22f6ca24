// The gated delta rule. Short runs go row by row; long runs go in chunks, which read and write the state once for each chunk.
//
// A chunk (G = running sum of the log decays, K and Q its normalised rows):
//   R = diag(beta) (V - diag(e^G) K S),  (I + A) X = R with A = strictly lower diag(beta) K K^T * e^(Gi - Gj),
//   O = diag(e^G) Q S + lower(Q K^T * e^(Gi - Gj)) X,  S <- e^Glast S + (diag(e^(Glast - G)) K)^T X.
#include "delta/chunk_float32.h"
#include "simd/parallel.h"
#if defined(POCKETVLM_BFLOAT16_PRODUCTS)
#include "delta/chunk_bfloat16.h"
#endif

namespace pocketvlm::POCKETVLM_ISA {
namespace {

constexpr int64_t short_run = 8;

// --- row by row ---

// Columns [0, Vecs W) of the state S [key_dim][stride]: decay, correct, read.
template <int Vecs>
inline void step(float* s, int64_t stride, int64_t key_dim, const float* q, const float* k, const float* v, float beta, float decay,
                 float* out) {
    Vec memory[Vecs], result[Vecs];
#pragma GCC unroll 8
    for (int j = 0; j < Vecs; ++j) memory[j] = zero(), result[j] = zero();
    for (int64_t i = 0; i < key_dim; ++i)
#pragma GCC unroll 8
        for (int j = 0; j < Vecs; ++j) memory[j] = fma(load(s + i * stride + j * W), splat(k[i]), memory[j]);
#pragma GCC unroll 8
    for (int j = 0; j < Vecs; ++j) memory[j] = (load(v + j * W) - memory[j] * splat(decay)) * splat(beta);
    for (int64_t i = 0; i < key_dim; ++i)
#pragma GCC unroll 8
        for (int j = 0; j < Vecs; ++j) {
            __builtin_prefetch(s + (key_dim + i) * stride + j * W);  // the next head's state, while this one is in the cache
            const Vec x = fma(splat(k[i]), memory[j], load(s + i * stride + j * W) * splat(decay));
            store(s + i * stride + j * W, x);
            result[j] = fma(splat(q[i]), x, result[j]);
        }
#pragma GCC unroll 8
    for (int j = 0; j < Vecs; ++j) store(out + j * W, result[j]);
}

inline void step_row(float* s, const Head& h, int64_t r, float beta, float decay, float* memory) {
    const DeltaRule& a = h.a;
    const int64_t d = a.value_dim, width = h.value_width;
    float *q = memory, *k = q + h.key_width, *v = k + h.key_width, *out = v + width;
    normalise(h.query(r), a.key_dim, h.key_width, query_scale(a), q);
    normalise(h.key(r), a.key_dim, h.key_width, 1.0f, k);
    copy(v, h.value(r), d);
    clear(v + d, width - d);
    constexpr int max_vecs = many_registers ? 8 : 4;
    int64_t j = 0;
    for (; j + max_vecs * W <= width; j += max_vecs * W) step<max_vecs>(s + j, width, a.key_dim, q, k, v + j, beta, decay, out + j);
    for (; j < width; j += W) step<1>(s + j, width, a.key_dim, q, k, v + j, beta, decay, out + j);
    copy(h.out(r), out, d);
}

inline int64_t row_floats(int64_t key_width, int64_t value_width, int64_t key_dim) {
    return key_dim * value_width + 2 * (key_width + value_width);
}

inline void run_rows(const Head& h) {
    const int64_t kd = h.a.key_dim, vd = h.a.value_dim, vw = h.value_width;
    const bool in_place = vw == vd;
    float *state = in_place ? h.state_after() : h.memory, *rows = h.memory + kd * vw;
    if (h.is_fresh()) {
        clear(state, kd * vw);
    } else if (!in_place) {
        for (int64_t i = 0; i < kd; ++i) {
            copy(state + i * vw, h.state_before() + i * vd, vd);
            clear(state + i * vw + vd, vw - vd);
        }
    } else if (h.state_before() != state) {
        copy(state, h.state_before(), kd * vd);
    }
    alignas(64) float beta[short_run + W], decay[short_run + W];
    h.find_gates(0, h.rows, beta, decay);
    for (int64_t i = 0; i < h.rows; i += W) store(decay + i, exp(load(decay + i)));
    for (int64_t r = 0; r < h.rows; ++r) step_row(state, h, r, beta[r], decay[r], rows);
    if (!in_place)
        for (int64_t i = 0; i < kd; ++i) copy(h.state_after() + i * vd, state + i * vw, vd);
}

inline void run_head(const Head& h) {
    if (h.rows <= short_run) return run_rows(h);
#if defined(POCKETVLM_BFLOAT16_PRODUCTS)
    if (h.a.fast) return run_chunks_of_pairs(h);
#endif
    run_chunks(h);
}

}  // namespace

void gated_delta_rule(Pool& pool, const DeltaRule& a) {
    const int64_t key_width = round_up(a.key_dim, W), value_width = round_up(a.value_dim, W);
    int64_t floats = max(chunk_floats(key_width, value_width, a.key_dim), row_floats(key_width, value_width, a.key_dim));
#if defined(POCKETVLM_BFLOAT16_PRODUCTS)
    if (a.fast) floats = max(floats, pair_floats(padded_dims(a), value_width));
#endif
    pool.reserve(static_cast<size_t>(floats) * sizeof(float));
    // Neighbouring heads, whose states are neighbours in memory, go to one worker.
    const int64_t heads = a.sequences * a.value_heads, together = max(1, min(8, heads / (4 * pool.threads())));
    parallel(pool, divide_up(heads, together), [&](int64_t task, int worker) {
        for (int64_t i = task * together; i < min(heads, (task + 1) * together); ++i) {
            const int64_t s = i / a.value_heads, first = a.offsets[s];
            const Head head{a, s, i % a.value_heads, first, a.offsets[s + 1] - first, key_width, value_width, pool.scratch(worker)};
            run_head(head);
        }
    });
}

}  // namespace pocketvlm::POCKETVLM_ISA
