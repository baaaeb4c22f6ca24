// Chunks with products of bfloat16 pairs. State, gates, sums and the solution of the triangular system are float32.
//
// A copy of the state in pairs of rows is the right factor of the products with keys and queries, X in pairs of rows that of the
// products with the mixing matrix and with the decayed keys. Left factors are row-major. Rows after the last, columns and
// dimensions that do not exist are zero where a sum would take them.
#pragma once

#include "delta/chunk.h"
#include "delta/pair_products.h"

namespace pocketvlm::POCKETVLM_ISA {
namespace {

constexpr int64_t pair_dims = 32;  // key_dim is padded to a multiple, a step of pair_products.h
constexpr int64_t pair_width = 2 * W;
constexpr int64_t chunk_words = chunk / 2;
static_assert(W == 16 && chunk == pair_dims && chunk == pair_width);

struct PairMemory {
    float* state;           // blocks of columns, each [padded key_dim][its width]
    uint32_t* state_pairs;  // the same in pairs of rows: [padded key_dim / 2][its width]
    float* keys;            // normalised: [chunk][padded key_dim]
    uint32_t* rows;         // keys, then queries from the next multiple of 16 rows: [2 chunk][padded key_dim / 2]
    uint32_t* columns;      // the keys transposed: [padded key_dim / 2][chunk]
    uint32_t* decayed;      // the keys times e^(Glast - G), transposed: [padded key_dim][chunk / 2]
    float* coupling;        // [i][j] couples row i to the earlier row j; products of queries and keys follow
    uint32_t* mixing;       // [chunk][chunk / 2]
    float* sums;            // of a block: X, then O, [2 chunk][its width]
    uint32_t* x;            // X in pairs of rows: [chunk / 2][width of the block]
    float* query;           // [padded key_dim]
};

inline int64_t padded_dims(const DeltaRule& a) { return round_up(a.key_dim, pair_dims); }

inline int64_t pair_floats(int64_t dims, int64_t value_width) {
    return dims * value_width + dims / 2 * value_width + chunk * dims + chunk * dims + dims / 2 * chunk + dims * chunk_words +
           2 * chunk * chunk + chunk * chunk_words + 2 * chunk * pair_width + chunk_words * pair_width + dims;
}

inline PairMemory lay_out_pairs(const Head& h) {
    PairMemory s;
    float* m = h.memory;
    const auto take = [&m](int64_t n) {
        float* p = m;
        m += n;
        return p;
    };
    const auto take_words = [&](int64_t n) { return reinterpret_cast<uint32_t*>(take(n)); };
    const int64_t dims = padded_dims(h.a);
    s.state = take(dims * h.value_width);
    s.state_pairs = take_words(dims / 2 * h.value_width);
    s.keys = take(chunk * dims);
    s.rows = take_words(chunk * dims);
    s.columns = take_words(dims / 2 * chunk);
    s.decayed = take_words(dims * chunk_words);
    s.coupling = take(2 * chunk * chunk);
    s.mixing = take_words(chunk * chunk_words);
    s.sums = take(2 * chunk * pair_width);
    s.x = take_words(chunk_words * pair_width);
    s.query = take(dims);
    return s;
}

inline void store_vec(uint32_t* p, Vec v) { store(reinterpret_cast<float*>(p), v); }

inline void store_row(const float* row, int64_t dims, uint32_t* out) {
    for (int64_t d = 0; d < dims; d += 2 * W) store_words(out + d / 2, neighbours(load(row + d), load(row + d + W)));
}

// Rows i and i + 1 of n as pairs; zero from row n on.
inline Bf16Pairs pairs_of_rows(const float* rows, int64_t stride, int64_t i, int64_t n) {
    return interleave(i < n ? load(rows + i * stride) : zero(), i + 1 < n ? load(rows + (i + 1) * stride) : zero());
}

// The factors of a chunk that all blocks share, but for those that the gates scale.
inline void load_rows(const Head& h, const PairMemory& s, int64_t first, int64_t n, int64_t rows) {
    const int64_t kd = h.a.key_dim, dims = padded_dims(h.a), words = dims / 2;
    for (int64_t i = 0; i < n; ++i) {
        normalise(h.key(first + i), kd, dims, 1.0f, s.keys + i * dims);
        store_row(s.keys + i * dims, dims, s.rows + i * words);
        normalise(h.query(first + i), kd, dims, query_scale(h.a), s.query);
        store_row(s.query, dims, s.rows + (rows + i) * words);
    }
    for (int64_t i = 0; i < chunk; i += W)
        for (int64_t w = 0; w < words; w += W) {
            Vec block[W];
#pragma GCC unroll 16
            for (int64_t r = 0; r < W; ++r) block[r] = i + r < n ? (Vec)load_words(s.rows + (i + r) * words + w) : zero();
            transpose(block);
#pragma GCC unroll 16
            for (int64_t r = 0; r < W; ++r) store_vec(s.columns + (w + r) * chunk + i, block[r]);
        }
}

inline void decay_keys(const PairMemory& s, const Gates& g, int64_t n, int64_t dims) {
    for (int64_t d = 0; d < dims; d += W) {
        Vec block[chunk_words];
#pragma GCC unroll 16
        for (int64_t j = 0; j < chunk_words; ++j) {
            const float* key = s.keys + 2 * j * dims + d;
            const Vec first = 2 * j < n ? load(key) * splat(g.remaining[2 * j]) : zero();
            const Vec second = 2 * j + 1 < n ? load(key + dims) * splat(g.remaining[2 * j + 1]) : zero();
            block[j] = (Vec)interleave(first, second);
        }
        transpose(block);
#pragma GCC unroll 16
        for (int64_t r = 0; r < W; ++r) store_vec(s.decayed + (d + r) * chunk_words, block[r]);
    }
}

// -A, and the factor of X in O.
inline void couple_pairs(const PairMemory& s, const Gates& g, int64_t n, int64_t rows, int64_t dims) {
    alignas(64) float lane[chunk];
    for (int64_t i = 0; i < chunk; ++i) lane[i] = static_cast<float>(i);
    multiply_pairs<2, false>(2 * rows, PairProduct{dims / 2, s.rows, dims / 2, s.columns, chunk, s.coupling, chunk});
    for (int64_t i = 0; i < n; ++i) {
        float *coupling = s.coupling + i * chunk, *product = coupling + rows * chunk;
        const Vec log_sum = splat(g.log_sum[i]), rest = splat(g.log_sum_rest[i]), beta = splat(-g.beta[i]);
        const Vec row = splat(static_cast<float>(i));
        Vec mixed[2];
#pragma GCC unroll 2
        for (int v = 0; v < 2; ++v) {
            if (v * W > i) {
                mixed[v] = zero();
                continue;
            }
            const Vec weight = exp((log_sum - load(g.log_sum + v * W)) + (rest - load(g.log_sum_rest + v * W)));
            store(coupling + v * W, load(coupling + v * W) * weight * beta);
            mixed[v] = where_less(row, load(lane + v * W), zero(), load(product + v * W) * weight);
        }
        store_words(s.mixing + i * chunk_words, neighbours(mixed[0], mixed[1]));
    }
}

// S = decay S + (diag(e^(Glast - G)) K)^T X for a block, and S in pairs.
template <int Vecs>
inline void add_to_state(const PairMemory& s, float* state, uint32_t* pairs, int64_t dims, float decay) {
    constexpr int64_t width = Vecs * W;
    for (int64_t d = 0; d < dims; d += pair_dims) {
        multiply_pairs<Vecs, false>(pair_dims, PairProduct{chunk_words, s.decayed + d * chunk_words, chunk_words, s.x, width, s.sums, width});
        for (int64_t i = 0; i < pair_dims; i += 2)
#pragma GCC unroll 2
            for (int64_t v = 0; v < width; v += W) {
                float *first = state + (d + i) * width + v, *second = first + width;
                const Vec a = fma(load(first), splat(decay), load(s.sums + i * width + v));
                const Vec b = fma(load(second), splat(decay), load(s.sums + (i + 1) * width + v));
                store(first, a);
                store(second, b);
                store_words(pairs + (d + i) / 2 * width + v, interleave(a, b));
            }
    }
}

template <int Vecs>
inline void run_pair_block(const Head& h, const PairMemory& s, const Gates& g, int64_t first, int64_t n, int64_t rows, int64_t column) {
    constexpr int64_t width = Vecs * W;
    const int64_t dims = padded_dims(h.a), vd = h.a.value_dim;
    float *state = s.state + column * dims, *x = s.sums, *o = x + rows * width;
    uint32_t* pairs = s.state_pairs + column * dims / 2;
    multiply_pairs<Vecs, false>(2 * rows, PairProduct{dims / 2, s.rows, dims / 2, pairs, width, x, width});
    for (int64_t i = 0; i < n; ++i) {
        const Vec grow = splat(g.grow[i]), beta = splat(g.beta[i]);
        const float* value = h.value(first + i) + column;
        for (int64_t d = 0; d < width; d += W) {
            store(x + i * width + d, (load_some(value + d, vd - column - d) - load(x + i * width + d) * grow) * beta);
            store(o + i * width + d, load(o + i * width + d) * grow);
        }
    }
    for (int64_t i = 0; i < n; i += solve_step) solve_rows_of<Vecs, false>(min(solve_step, n - i), x, width, s.coupling, i);
    for (int64_t i = 0; i < chunk; i += 2)
        for (int64_t d = 0; d < width; d += W) store_words(s.x + i / 2 * width + d, pairs_of_rows(x + d, width, i, n));
    multiply_pairs<Vecs, true>(rows, PairProduct{chunk_words, s.mixing, chunk_words, s.x, width, o, width});
    for (int64_t i = 0; i < n; ++i)
        for (int64_t d = 0; d < width; d += W) store_some(h.out(first + i) + column + d, load(o + i * width + d), vd - column - d);
    add_to_state<Vecs>(s, state, pairs, dims, g.grow[n - 1]);
}

inline void run_pair_chunk(const Head& h, const PairMemory& s, int64_t first, int64_t n) {
    const int64_t dims = padded_dims(h.a), rows = round_up(n, 16);
    Gates g;
    find_gates(h, first, n, g);
    load_rows(h, s, first, n, rows);
    couple_pairs(s, g, n, rows, dims);
    decay_keys(s, g, n, dims);
    int64_t column = 0;
    for (; column + pair_width <= h.value_width; column += pair_width) run_pair_block<2>(h, s, g, first, n, rows, column);
    if (column < h.value_width) run_pair_block<1>(h, s, g, first, n, rows, column);
}

// move(address in the blocks, key dimension, column, columns of it) for all vectors of the state.
template <class Move>
inline void for_pair_blocks(const Head& h, const PairMemory& s, const Move& move) {
    const int64_t dims = padded_dims(h.a);
    for (int64_t column = 0; column < h.value_width;) {
        const int64_t width = min(pair_width, h.value_width - column);
        for (int64_t i = 0; i < dims; ++i)
            for (int64_t d = 0; d < width; d += W) move(s.state + column * dims + i * width + d, i, column + d, width);
        column += width;
    }
}

inline void run_chunks_of_pairs(const Head& h) {
#if defined(POCKETVLM_TILE_REGISTERS)
    const TileScope tiles(pair_shapes());
#endif
    const PairMemory s = lay_out_pairs(h);
    const int64_t dims = padded_dims(h.a), kd = h.a.key_dim, vd = h.a.value_dim;
    const float* before = h.is_fresh() ? nullptr : h.state_before();
    for_pair_blocks(h, s, [&](float* at, int64_t i, int64_t column, int64_t) {
        store(at, before && i < kd ? load_some(before + i * vd + column, vd - column) : zero());
    });
    for_pair_blocks(h, s, [&](float* at, int64_t i, int64_t column, int64_t width) {
        if (i % 2 == 1) return;
        const int64_t block = column / pair_width * pair_width;
        store_words(s.state_pairs + block * dims / 2 + i / 2 * width + column - block, interleave(load(at), load(at + width)));
    });
    for (int64_t r = 0; r < h.rows; r += chunk) run_pair_chunk(h, s, r, min(chunk, h.rows - r));
    float* after = h.state_after();
    for_pair_blocks(h, s, [&](float* at, int64_t i, int64_t column, int64_t) {
        if (i < kd) store_some(after + i * vd + column, load(at), vd - column);
    });
}

}  // namespace
}  // namespace pocketvlm::POCKETVLM_ISA
