// Chunks with float32 products. All matrices between the rows of a chunk are transposed, as the block product expects its left factor.
#pragma once

#include "delta/chunk.h"
#include "simd/pack.h"
#include "simd/tile.h"

namespace pocketvlm::POCKETVLM_ISA {
namespace {

constexpr int64_t diagonal_block = 16;  // of the matrices between the rows of a chunk: blocks after the diagonal are not computed
static_assert(chunk % diagonal_block == 0 && diagonal_block % solve_step == 0 && diagonal_block % W == 0);

struct ChunkMemory {
    float* state;               // blocks of columns, each [key_dim][its width]
    float* rows;                // normalised keys, then queries: [2 n][key_width]
    float* columns;             // the same transposed: [key_dim][2 chunk]
    float *coupling, *mixing;   // [j][i] couples row i of the chunk to the earlier row j
    float* sums;                // of a block: X, then O, [2 n][its width]
};

constexpr int64_t block_width = main_width;

inline int64_t chunk_floats(int64_t key_width, int64_t value_width, int64_t key_dim) {
    return key_dim * value_width + 2 * chunk * (key_width + key_dim) + W + 2 * chunk * chunk + 2 * chunk * block_width + 64;
}

inline ChunkMemory lay_out(const Head& h) {
    ChunkMemory s;
    float* m = h.memory;
    const auto take = [&m](int64_t n) {
        float* p = m;
        m += n;
        return p;
    };
    s.coupling = take(chunk * chunk);
    s.mixing = take(chunk * chunk);
    s.sums = take(2 * chunk * block_width);
    s.rows = take(2 * chunk * h.key_width);
    s.columns = take(2 * chunk * h.a.key_dim + W);
    s.state = take(h.a.key_dim * h.value_width);
    return s;
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

// C = scale C + A B for a block of rows.
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

// The same for any number of rows in blocks; between() runs before each block.
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

// Columns [column, column + width) of the values: X, O and the state after the chunk.
template <int Vecs, class Prefetch>
inline void run_column_block(const Head& h, const ChunkMemory& s, const Gates& g, int64_t first, int64_t n, int64_t column,
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
        solve_rows_of<Vecs, true>(last - i0, x, width, s.coupling, i0);
        multiply(last - i0, Vecs, Product{last, s.mixing + i0, chunk, x, width, o + i0 * width, width}, true);
    }
    for (int64_t i = 0; i < n; ++i)
        for (int64_t d = 0; d < width; d += W) store_some(h.out(first + i) + column + d, load(o + i * width + d), vd - column - d);
    multiply_scaled<Vecs>(kd, Product{n, s.rows, h.key_width, x, width, state, width}, g.grow[n - 1], prefetch);
}

// Rows [first, first + n) of the head against the state in s.state.
inline void run_chunk(const Head& h, const ChunkMemory& s, int64_t first, int64_t n) {
    const int64_t kd = h.a.key_dim, kw = h.key_width;
    Gates g;
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
    for (; column + block_width <= h.value_width; column += block_width) run_column_block<main_vecs>(h, s, g, first, n, column, prefetch);
    for (; column < h.value_width; column += W) run_column_block<1>(h, s, g, first, n, column, prefetch);
}

// Between the rows of a state in its slot and its blocks.
template <class Move>
inline void for_column_blocks(const Head& h, float* blocks, const Move& move) {
    for (int64_t column = 0; column < h.value_width;) {
        const int64_t width = column + block_width <= h.value_width ? block_width : W;
        for (int64_t i = 0; i < h.a.key_dim; ++i)
            for (int64_t d = 0; d < width; d += W)
                move(blocks + column * h.a.key_dim + i * width + d, i * h.a.value_dim + column + d, h.a.value_dim - column - d);
        column += width;
    }
}

inline void run_chunks(const Head& h) {
    const ChunkMemory s = lay_out(h);
    if (h.is_fresh()) {
        clear(s.state, h.a.key_dim * h.value_width);
    } else {
        const float* before = h.state_before();
        for_column_blocks(h, s.state, [&](float* block, int64_t at, int64_t n) { store(block, load_some(before + at, n)); });
    }
    for (int64_t r = 0; r < h.rows; r += chunk) run_chunk(h, s, r, min(chunk, h.rows - r));
    float* after = h.state_after();
    for_column_blocks(h, s.state, [&](float* block, int64_t at, int64_t n) { store_some(after + at, load(block), n); });
}

}  // namespace
}  // namespace pocketvlm::POCKETVLM_ISA
