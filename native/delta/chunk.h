// What the chunks of all precisions share: the gates of a chunk and the solution of its triangular system, in float32.
#pragma once

#include "delta/head.h"

namespace pocketvlm::POCKETVLM_ISA {
namespace {

constexpr int64_t chunk = 32;
constexpr int solve_step = 8;

// The gates of a chunk. G, the running sum of the log decays, is a sum of two floats, so that differences keep their digits.
struct Gates {
    float beta[chunk], log_sum[chunk], log_sum_rest[chunk];
    float grow[chunk], remaining[chunk];  // e^G, e^(Glast - G)
};

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

// Rows [i0, i0 + Rows) of (I + A) X = R in place, in registers; the rows before them are solved. `coupling` is -A, [i][j] or
// transposed; of a row only what lies before the diagonal is read.
template <int Rows, int Vecs, bool Transposed>
__attribute__((noinline)) void solve_rows(float* x, int64_t width, const float* coupling, int64_t i0) {
    constexpr int64_t row_stride = Transposed ? 1 : chunk, earlier_stride = Transposed ? chunk : 1;
    Vec rows[Rows][Vecs];
#pragma GCC unroll 8
    for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 8
        for (int v = 0; v < Vecs; ++v) rows[i][v] = load(x + (i0 + i) * width + v * W);
    const float* c = coupling + i0 * row_stride;
    for (int64_t j = 0; j < i0; ++j, c += earlier_stride) {
        Vec right[Vecs];
#pragma GCC unroll 8
        for (int v = 0; v < Vecs; ++v) right[v] = load(x + j * width + v * W);
#pragma GCC unroll 8
        for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 8
            for (int v = 0; v < Vecs; ++v) rows[i][v] = fma(splat(c[i * row_stride]), right[v], rows[i][v]);
    }
#pragma GCC unroll 8
    for (int j = 0; j < Rows; ++j, c += earlier_stride)
#pragma GCC unroll 8
        for (int i = j + 1; i < Rows; ++i)
#pragma GCC unroll 8
            for (int v = 0; v < Vecs; ++v) rows[i][v] = fma(splat(c[i * row_stride]), rows[j][v], rows[i][v]);
#pragma GCC unroll 8
    for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 8
        for (int v = 0; v < Vecs; ++v) store(x + (i0 + i) * width + v * W, rows[i][v]);
}

template <int Vecs, bool Transposed, int Rows = solve_step>
inline void solve_rows_of(int64_t rows, float* x, int64_t width, const float* coupling, int64_t i0) {
    if constexpr (Rows > 1)
        if (rows < Rows) return solve_rows_of<Vecs, Transposed, Rows - 1>(rows, x, width, coupling, i0);
    solve_rows<Rows, Vecs, Transposed>(x, width, coupling, i0);
}

}  // namespace
}  // namespace pocketvlm::POCKETVLM_ISA
