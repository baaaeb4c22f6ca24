// The gated delta rule. Short runs go row by row; long runs go in chunks, which read and write the state once for each chunk.
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
constexpr int64_t diagonal_block = 16;  // of the matrices between the rows of a chunk: blocks after the diagonal are not computed
constexpr int64_t solve_step = 8;
static_assert(chunk % diagonal_block == 0 && diagonal_block % solve_step == 0 && diagonal_block % W == 0);

// log(1 + e^x) as max(x, 0) + log(1 + u) with u = e^-|x|, and log(1 + u) = 2 artanh(u / (2 + u)).
inline Vec softplus(Vec x) {
    const Vec u = exp(zero() - vabs(x)), s = u / (u + splat(2.0f)), t = s * s;
    Vec p = splat(2.0f / 15.0f);
    for (const float c : {2.0f / 13.0f, 2.0f / 11.0f, 2.0f / 9.0f, 2.0f / 7.0f, 2.0f / 5.0f, 2.0f / 3.0f, 2.0f}) p = fma(p, t, splat(c));
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

// --- chunks ---

// The gates of a chunk. G, the running sum of the log decays, is a sum of two floats, so that differences keep their digits.
struct Gates {
    float beta[chunk], log_sum[chunk], log_sum_rest[chunk];
    float grow[chunk], remaining[chunk];  // e^G, e^(Glast - G)
};

struct ChunkMemory {
    float* state;               // panels of columns, each [key_dim][its width]
    float* rows;                // normalised keys, then queries: [2 n][key_width]
    float* columns;             // the same transposed: [key_dim][2 chunk]
    float *coupling, *mixing;   // [j][i] couples row i of the chunk to the earlier row j
    float* sums;                // of a panel: X, then O, [2 n][its width]
    Gates* gates;
};

constexpr int64_t panel_width = main_width;
constexpr int64_t gate_floats = 5 * chunk;

inline int64_t chunk_floats(int64_t key_width, int64_t value_width, int64_t key_dim) {
    return key_dim * value_width + 2 * chunk * (key_width + key_dim) + W + 2 * chunk * chunk + 2 * chunk * panel_width + gate_floats + 64;
}

inline ChunkMemory lay_out(const Head& h) {
    ChunkMemory s;
    float* m = h.memory;
    const auto take = [&m](int64_t n) {
        float* p = m;
        m += n;
        return p;
    };
    s.gates = reinterpret_cast<Gates*>(take(gate_floats));
    s.coupling = take(chunk * chunk);
    s.mixing = take(chunk * chunk);
    s.sums = take(2 * chunk * panel_width);
    s.rows = take(2 * chunk * h.key_width);
    s.columns = take(2 * chunk * h.a.key_dim + W);
    s.state = take(h.a.key_dim * h.value_width);
    return s;
}

inline void find_gates(const Head& h, int64_t first, int64_t n, Gates& g) {
    alignas(64) float log_decay[chunk];
    h.find_gates(first, n, g.beta, log_decay);
    double sum = 0.0;
    for (int64_t i = 0; i < n; ++i) {
        sum += static_cast<double>(log_decay[i]);
        g.log_sum[i] = static_cast<float>(sum);
        g.log_sum_rest[i] = static_cast<float>(sum - static_cast<double>(g.log_sum[i]));
    }
    const Vec last = splat(g.log_sum[n - 1]), last_rest = splat(g.log_sum_rest[n - 1]);
    for (int64_t i = 0; i < n; i += W) {
        const Vec log_sum = load(g.log_sum + i), rest = load(g.log_sum_rest + i);
        store(g.grow + i, exp(log_sum + rest));
        store(g.remaining + i, exp((last - log_sum) + (last_rest - rest)));
    }
}

// Products of the chunk's keys with keys and queries, times the decay between the rows: -A and the factor of X in O, transposed.
// Below the diagonal blocks nothing is written, and in them only the mixing matrix is zero.
inline void couple(const ChunkMemory& s, const Gates& g, int64_t n, int64_t key_dim) {
    alignas(64) float lane[W];
    for (int64_t i = 0; i < W; ++i) lane[i] = static_cast<float>(i);
    for (int64_t j0 = 0; j0 < n; j0 += diagonal_block) {
        const int64_t height = min(diagonal_block, n - j0), vecs = divide_up(n - j0, W), at = j0 * chunk + j0;
        const float *keys = s.columns + j0, *queries = keys + n;
        multiply(height, vecs, Product{key_dim, keys, 2 * chunk, keys, 2 * chunk, s.coupling + at, chunk}, false);
        multiply(height, vecs, Product{key_dim, keys, 2 * chunk, queries, 2 * chunk, s.mixing + at, chunk}, false);
        for (int64_t j = j0; j < j0 + height; ++j) {
            float *coupling = s.coupling + j * chunk, *mixing = s.mixing + j * chunk;
            const Vec log_sum = splat(g.log_sum[j]), rest = splat(g.log_sum_rest[j]);
            for (int64_t i = j0; i < j0 + vecs * W; i += W) {
                const Vec weight = exp((load(g.log_sum + i) - log_sum) + (load(g.log_sum_rest + i) - rest));
                store(coupling + i, zero() - load(coupling + i) * weight * load(g.beta + i));
                const Vec mixed = load(mixing + i) * weight;
                store(mixing + i, i > j ? mixed : where_less(load(lane), splat(static_cast<float>(j - i)), zero(), mixed));
            }
        }
    }
}

// C = scale C + A B for blocks of rows; between(block) runs before each block.
template <int Rows, int Vecs>
__attribute__((noinline)) void scaled_tile(const Product& p, float scale) {
    Vec sums[Rows][Vecs];
#pragma GCC unroll 16
    for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 8
        for (int v = 0; v < Vecs; ++v) sums[i][v] = load(p.c + i * p.c_stride + v * W) * splat(scale);
    const float *a = p.a, *b = p.b;
    for (int64_t k = 0; k < p.depth; ++k, a += p.a_stride, b += p.b_stride) {
        Vec right[Vecs];
#pragma GCC unroll 8
        for (int v = 0; v < Vecs; ++v) right[v] = load(b + v * W);
#pragma GCC unroll 16
        for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 8
            for (int v = 0; v < Vecs; ++v) sums[i][v] = fma(splat(a[i]), right[v], sums[i][v]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 8
        for (int v = 0; v < Vecs; ++v) store(p.c + i * p.c_stride + v * W, sums[i][v]);
}

template <int Rows, int Vecs>
inline void scaled_tile_of(int64_t rows, const Product& p, float scale) {
    if constexpr (Rows > 1)
        if (rows < Rows) return scaled_tile_of<Rows - 1, Vecs>(rows, p, scale);
    scaled_tile<Rows, Vecs>(p, scale);
}

template <int Vecs, class Between>
inline void multiply_scaled(int64_t rows, Product p, float scale, const Between& between) {
    const int64_t count = divide_up(rows, tile_rows<Vecs>), height = rows / count, higher = rows % count;
    for (int64_t t = 0; t < count; ++t) {
        const int64_t h = height + (t < higher);
        between();
        scaled_tile_of<tile_rows<Vecs>, Vecs>(h, p, scale);
        p.a += h;
        p.c += h * p.c_stride;
    }
}

// Rows [i0, i0 + Rows) of (I + A) X = R in place, in registers; the rows before them are solved.
template <int Rows, int Vecs>
__attribute__((noinline)) void solve_rows(float* x, int64_t width, const float* coupling, int64_t i0) {
    Vec rows[Rows][Vecs];
#pragma GCC unroll 8
    for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 8
        for (int v = 0; v < Vecs; ++v) rows[i][v] = load(x + (i0 + i) * width + v * W);
    const float* c = coupling + i0;
    for (int64_t j = 0; j < i0; ++j, c += chunk) {
        Vec right[Vecs];
#pragma GCC unroll 8
        for (int v = 0; v < Vecs; ++v) right[v] = load(x + j * width + v * W);
#pragma GCC unroll 8
        for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 8
            for (int v = 0; v < Vecs; ++v) rows[i][v] = fma(splat(c[i]), right[v], rows[i][v]);
    }
#pragma GCC unroll 8
    for (int j = 0; j < Rows; ++j, c += chunk)
#pragma GCC unroll 8
        for (int i = j + 1; i < Rows; ++i)
#pragma GCC unroll 8
            for (int v = 0; v < Vecs; ++v) rows[i][v] = fma(splat(c[i]), rows[j][v], rows[i][v]);
#pragma GCC unroll 8
    for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 8
        for (int v = 0; v < Vecs; ++v) store(x + (i0 + i) * width + v * W, rows[i][v]);
}

template <int Rows, int Vecs>
inline void solve_rows_of(int64_t rows, float* x, int64_t width, const float* coupling, int64_t i0) {
    if constexpr (Rows > 1)
        if (rows < Rows) return solve_rows_of<Rows - 1, Vecs>(rows, x, width, coupling, i0);
    solve_rows<Rows, Vecs>(x, width, coupling, i0);
}

// Columns [column, column + width) of the values: X, O and the state after the chunk.
template <int Vecs, class Prefetch>
inline void run_panel(const Head& h, const ChunkMemory& s, const Gates& g, int64_t first, int64_t n, int64_t column,
                      const Prefetch& prefetch) {
    constexpr int64_t width = Vecs * W;
    const int64_t kd = h.a.key_dim, vd = h.a.value_dim;
    float *state = s.state + column * kd, *x = s.sums, *o = x + n * width;
    multiply(2 * n, Vecs, Product{kd, s.columns, 2 * chunk, state, width, x, width}, false);
    for (int64_t i = 0; i < n; ++i) {
        const Vec grow = splat(g.grow[i]), beta = splat(g.beta[i]);
        const float* value = h.value(first + i) + column;
        for (int64_t d = 0; d < width; d += W) {
            store(x + i * width + d, (load_some(value + d, vd - column - d) - load(x + i * width + d) * grow) * beta);
            store(o + i * width + d, load(o + i * width + d) * grow);
        }
    }
    for (int64_t i0 = 0; i0 < n; i0 += solve_step) {
        const int64_t last = min(n, i0 + solve_step);
        solve_rows_of<solve_step, Vecs>(last - i0, x, width, s.coupling, i0);
        multiply(last - i0, Vecs, Product{last, s.mixing + i0, chunk, x, width, o + i0 * width, width}, true);
    }
    for (int64_t i = 0; i < n; ++i)
        for (int64_t d = 0; d < width; d += W) store_some(h.out(first + i) + column + d, load(o + i * width + d), vd - column - d);
    multiply_scaled<Vecs>(kd, Product{n, s.rows, h.key_width, x, width, state, width}, g.grow[n - 1], prefetch);
}

// Rows [first, first + n) of the head against the state in s.state.
inline void run_chunk(const Head& h, const ChunkMemory& s, int64_t first, int64_t n) {
    const int64_t kd = h.a.key_dim, kw = h.key_width;
    Gates& g = *s.gates;
    find_gates(h, first, n, g);
    for (int64_t i = 0; i < n; ++i) {
        normalise(h.key(first + i), kd, kw, 1.0f, s.rows + i * kw);
        normalise(h.query(first + i), kd, kw, query_scale(h.a), s.rows + (n + i) * kw);
    }
    pack_columns(s.rows, kw, 2 * n, kd, s.columns, 2 * chunk);
    couple(s, g, n, kd);
    for (int64_t i = 0; i < n; ++i)
        for (int64_t d = 0; d < kw; d += W) store(s.rows + i * kw + d, load(s.rows + i * kw + d) * splat(g.remaining[i]));
    // Rows of one head are far apart. Those of the next chunk are prefetched a few at a time: all at once would fill the buffers.
    int64_t column = 0, next = first + chunk;
    const auto prefetch = [&] {
        if (next < min(first + 2 * chunk, h.rows)) h.prefetch(next++);
    };
    for (; column + panel_width <= h.value_width; column += panel_width) run_panel<main_vecs>(h, s, g, first, n, column, prefetch);
    for (; column < h.value_width; column += W) run_panel<1>(h, s, g, first, n, column, prefetch);
}

// Between the rows of a state in its slot and its panels.
template <class Move>
inline void for_panels(const Head& h, float* panels, const Move& move) {
    for (int64_t column = 0; column < h.value_width;) {
        const int64_t width = column + panel_width <= h.value_width ? panel_width : W;
        for (int64_t i = 0; i < h.a.key_dim; ++i)
            for (int64_t d = 0; d < width; d += W)
                move(panels + column * h.a.key_dim + i * width + d, i * h.a.value_dim + column + d, h.a.value_dim - column - d);
        column += width;
    }
}

inline void run_chunks(const Head& h) {
    const ChunkMemory s = lay_out(h);
    if (h.is_fresh()) {
        clear(s.state, h.a.key_dim * h.value_width);
    } else {
        const float* before = h.state_before();
        for_panels(h, s.state, [&](float* panel, int64_t at, int64_t n) { store(panel, load_some(before + at, n)); });
    }
    for (int64_t r = 0; r < h.rows; r += chunk) run_chunk(h, s, r, min(chunk, h.rows - r));
    float* after = h.state_after();
    for_panels(h, s.state, [&](float* panel, int64_t at, int64_t n) { store_some(after + at, load(panel), n); });
}

}  // namespace

void gated_delta_rule(Pool& pool, const DeltaRule& a) {
    const int64_t key_width = round_up(a.key_dim, W), value_width = round_up(a.value_dim, W);
    pool.reserve(static_cast<size_t>(max(chunk_floats(key_width, value_width, a.key_dim), row_floats(key_width, value_width, a.key_dim))) *
                 sizeof(float));
    // Neighbouring heads, whose states are neighbours in memory, go to one worker.
    const int64_t heads = a.sequences * a.value_heads, together = max(1, min(8, heads / (4 * pool.threads())));
    parallel(pool, divide_up(heads, together), [&](int64_t task, int worker) {
        for (int64_t i = task * together; i < min(heads, (task + 1) * together); ++i) {
            const int64_t s = i / a.value_heads, first = a.offsets[s];
            const Head head{a, s, i % a.value_heads, first, a.offsets[s + 1] - first, key_width, value_width, pool.scratch(worker)};
            head.rows <= short_run ? run_rows(head) : run_chunks(head);
        }
    });
}

}  // namespace pocketvlm::POCKETVLM_ISA
