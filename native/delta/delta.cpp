// The gated delta rule. Short runs: row by row. Long runs: chunks of rows at once, which read and write the state once a chunk.
//
// A chunk (G = running sum of the log decays, K and Q its normalised rows):
//   R = diag(beta) (V - diag(e^G) K S),  (I + A) X = R with A = strictly lower diag(beta) K K^T * e^(Gi - Gj),
//   O = diag(e^G) Q S + lower(Q K^T * e^(Gi - Gj)) X,  S <- e^Glast S + (diag(e^(Glast - G)) K)^T X.
#include "delta/delta.h"
#include "simd/math.h"
#include "simd/pack.h"
#include "simd/parallel.h"
#include "simd/tile.h"

namespace pocketvlm::POCKETVLM_ISA {
namespace {

constexpr int64_t chunk = 32;
constexpr int64_t short_run = 8;
constexpr int64_t solve_step = 8;

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

    // The rows of one head are far apart: prefetch those of the next chunk while this one is computed.
    void prefetch(int64_t r) const {
        const float *q = query(r), *k = key(r), *v = value(r);
        for (int64_t j = 0; j < a.key_dim; j += 16) __builtin_prefetch(q + j, 0, 2), __builtin_prefetch(k + j, 0, 2);
        for (int64_t j = 0; j < a.value_dim; j += 16) __builtin_prefetch(v + j, 0, 2);
    }

    double beta(int64_t r) const { return 1.0 / (1.0 + __builtin_exp(-static_cast<double>(a.b[(first + r) * a.value_heads + head]))); }
    double log_decay(int64_t r) const {
        const double x = static_cast<double>(a.a[(first + r) * a.value_heads + head]) + static_cast<double>(a.dt_bias[head]);
        return -__builtin_exp(static_cast<double>(a.a_log[head])) * (x > 20.0 ? x : __builtin_log1p(__builtin_exp(x)));
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

inline void step_row(float* s, const Head& h, int64_t r, float* memory) {
    const DeltaRule& a = h.a;
    const int64_t d = a.value_dim, width = h.value_width;
    float *q = memory, *k = q + h.key_width, *v = k + h.key_width, *out = v + width;
    normalise(h.query(r), a.key_dim, h.key_width, query_scale(a), q);
    normalise(h.key(r), a.key_dim, h.key_width, 1.0f, k);
    copy(v, h.value(r), d);
    clear(v + d, width - d);
    const float beta = static_cast<float>(h.beta(r)), decay = static_cast<float>(__builtin_exp(h.log_decay(r)));
    constexpr int most = many_registers ? 8 : 4;
    int64_t j = 0;
    for (; j + most * W <= width; j += most * W) step<most>(s + j, width, a.key_dim, q, k, v + j, beta, decay, out + j);
    for (; j < width; j += W) step<1>(s + j, width, a.key_dim, q, k, v + j, beta, decay, out + j);
    copy(h.out(r), out, d);
}

// --- chunks ---

struct ChunkScratch {
    float *state, *q, *k, *qt, *kt, *coupling, *mixing, *x, *o, *values;
    double* log_sum;
    float *beta, *grow, *remaining;
};

inline int64_t chunk_floats(int64_t key_width, int64_t value_width, int64_t key_dim) {
    return key_dim * value_width + 2 * chunk * key_width + 2 * key_width * chunk + 2 * chunk * chunk + 3 * chunk * value_width +
           2 * chunk + 3 * chunk + 64;
}

inline ChunkScratch lay_out(const Head& h) {
    ChunkScratch s;
    float* m = h.memory;
    const auto take = [&m](int64_t n) {
        float* p = m;
        m += n;
        return p;
    };
    s.log_sum = reinterpret_cast<double*>(take(2 * chunk));
    s.state = take(h.a.key_dim * h.value_width);
    s.q = take(chunk * h.key_width);
    s.k = take(chunk * h.key_width);
    s.qt = take(h.key_width * chunk);
    s.kt = take(h.key_width * chunk);
    s.coupling = take(chunk * chunk);
    s.mixing = take(chunk * chunk);
    s.x = take(chunk * h.value_width);
    s.o = take(chunk * h.value_width);
    s.values = take(chunk * h.value_width);
    s.beta = take(chunk);
    s.grow = take(chunk);
    s.remaining = take(chunk);
    return s;
}

// Rows [first, first + n) of the head against the state in s.state [key_dim][value_width].
inline void run_chunk(const Head& h, const ChunkScratch& s, int64_t first, int64_t n) {
    const DeltaRule& a = h.a;
    const int64_t kd = a.key_dim, kw = h.key_width, vw = h.value_width, column_vecs = divide_up(n, W);
    double sum = 0.0;
    for (int64_t i = 0; i < n; ++i) {
        if (first + chunk + i < h.rows) h.prefetch(first + chunk + i);
        normalise(h.query(first + i), kd, kw, query_scale(a), s.q + i * kw);
        normalise(h.key(first + i), kd, kw, 1.0f, s.k + i * kw);
        s.beta[i] = static_cast<float>(h.beta(first + i));
        s.log_sum[i] = sum += h.log_decay(first + i);
    }
    for (int64_t i = 0; i < n; ++i) {
        s.grow[i] = static_cast<float>(__builtin_exp(s.log_sum[i]));
        s.remaining[i] = static_cast<float>(__builtin_exp(sum - s.log_sum[i]));
    }
    for (int64_t i = n; i < chunk; ++i) s.beta[i] = 0.0f;
    pack_columns(s.q, kw, n, kd, s.qt, chunk);
    pack_columns(s.k, kw, n, kd, s.kt, chunk);

    // Both n x n matrices transposed, [j][i]: column i of row j couples row i of the chunk to the earlier row j.
    multiply(n, column_vecs, Product{kd, s.kt, chunk, s.kt, chunk, s.coupling, chunk}, false);
    multiply(n, column_vecs, Product{kd, s.kt, chunk, s.qt, chunk, s.mixing, chunk}, false);
    for (int64_t j = 0; j < n; ++j) {
        alignas(64) float difference[chunk], weight[chunk];
        for (int64_t i = 0; i < chunk; ++i)  // not above the diagonal: e^(Gi - Gj) would overflow there
            difference[i] = i < j || i >= n ? -1e4f : static_cast<float>(s.log_sum[i] - s.log_sum[j]);
        for (int64_t i = 0; i < chunk; i += W) store(weight + i, exp(load(difference + i)));
        float *c = s.coupling + j * chunk, *m = s.mixing + j * chunk;
        for (int64_t i = 0; i < column_vecs * W; ++i) {
            c[i] = i <= j || i >= n ? 0.0f : -c[i] * weight[i] * s.beta[i];
            m[i] = i < j || i >= n ? 0.0f : m[i] * weight[i];
        }
    }

    // X = diag(beta) (V - diag(e^G) K S); O = diag(e^G) Q S
    multiply(n, vw / W, Product{kd, s.kt, chunk, s.state, vw, s.x, vw}, false);
    multiply(n, vw / W, Product{kd, s.qt, chunk, s.state, vw, s.o, vw}, false);
    for (int64_t i = 0; i < n; ++i) {
        const Vec grow = splat(s.grow[i]), beta = splat(s.beta[i]);
        copy(s.values, h.value(first + i), a.value_dim);
        clear(s.values + a.value_dim, vw - a.value_dim);
        for (int64_t d = 0; d < vw; d += W) {
            store(s.x + i * vw + d, (load(s.values + d) - load(s.x + i * vw + d) * grow) * beta);
            store(s.o + i * vw + d, load(s.o + i * vw + d) * grow);
        }
    }

    // Solve (I + A) X = R in place; `coupling` is -A transposed.
    for (int64_t i0 = 0; i0 < n; i0 += solve_step) {
        const int64_t last = min(n, i0 + solve_step);
        if (i0 > 0) multiply(last - i0, vw / W, Product{i0, s.coupling + i0, chunk, s.x, vw, s.x + i0 * vw, vw}, true);
        for (int64_t i = i0 + 1; i < last; ++i)
            for (int64_t d = 0; d < vw; d += W) {
                Vec row = load(s.x + i * vw + d);
                for (int64_t j = i0; j < i; ++j) row = fma(splat(s.coupling[j * chunk + i]), load(s.x + j * vw + d), row);
                store(s.x + i * vw + d, row);
            }
    }

    multiply(n, vw / W, Product{n, s.mixing, chunk, s.x, vw, s.o, vw}, true);
    for (int64_t i = 0; i < n; ++i) copy(h.out(first + i), s.o + i * vw, a.value_dim);

    const Vec decay = splat(s.grow[n - 1]);
    for (int64_t d = 0; d < kd * vw; d += W) store(s.state + d, load(s.state + d) * decay);
    for (int64_t i = 0; i < n; ++i)
        for (int64_t d = 0; d < kw; d += W) store(s.k + i * kw + d, load(s.k + i * kw + d) * splat(s.remaining[i]));
    multiply(kd, vw / W, Product{n, s.k, kw, s.x, vw, s.state, vw}, true);
}

inline void run_head(const Head& h) {
    const DeltaRule& a = h.a;
    const int64_t kd = a.key_dim, vd = a.value_dim, vw = h.value_width;
    const bool fresh = a.context_lens[h.sequence] == 0, in_place = h.rows <= short_run && vw == vd;
    const ChunkScratch s = lay_out(h);
    float* state = in_place ? h.state_after() : s.state;
    if (fresh) {
        clear(state, kd * vw);
    } else if (!in_place) {
        for (int64_t i = 0; i < kd; ++i) {
            copy(state + i * vw, h.state_before() + i * vd, vd);
            clear(state + i * vw + vd, vw - vd);
        }
    } else if (h.state_before() != state) {
        copy(state, h.state_before(), kd * vd);
    }
    if (h.rows <= short_run)
        for (int64_t r = 0; r < h.rows; ++r) step_row(state, h, r, s.q);
    else
        for (int64_t r = 0; r < h.rows; r += chunk) run_chunk(h, s, r, min(chunk, h.rows - r));
    if (!in_place)
        for (int64_t i = 0; i < kd; ++i) copy(h.state_after() + i * vd, state + i * vw, vd);
}

}  // namespace

void gated_delta_rule(Pool& pool, const DeltaRule& a) {
    const int64_t key_width = round_up(a.key_dim, W), value_width = round_up(a.value_dim, W);
    pool.reserve(static_cast<size_t>(chunk_floats(key_width, value_width, a.key_dim)) * sizeof(float));
    // Neighbouring heads, whose states are neighbours in memory, go to one worker.
    const int64_t heads = a.sequences * a.value_heads, together = max(1, min(8, heads / (4 * pool.threads())));
    parallel(pool, divide_up(heads, together), [&](int64_t task, int worker) {
        for (int64_t i = task * together; i < min(heads, (task + 1) * together); ++i) {
            const int64_t s = i / a.value_heads, first = a.offsets[s];
            run_head(Head{a, s, i % a.value_heads, first, a.offsets[s + 1] - first, key_width, value_width, pool.scratch(worker)});
        }
    });
}

}  // namespace pocketvlm::POCKETVLM_ISA
