// Low-rank updates: each row alone and in one order, so that results are batch-invariant.
#include "lowrank/lowrank.h"
#include "simd/parallel.h"

namespace pocketvlm::POCKETVLM_ISA {
namespace {

inline float dot(const float* x, const float* y, int64_t n) {
    Vec total = zero();
    int64_t i = 0;
    for (; i + W <= n; i += W) total = fma(load(x + i), load(y + i), total);
    if (i < n) total = fma(load_part(x + i, n - i), load_part(y + i, n - i), total);
    return sum(total);
}

}  // namespace

void add_low_rank(Pool& pool, const LowRank& a) {
    pool.reserve(static_cast<size_t>(a.rank) * sizeof(float));
    parallel(pool, a.count, [&](int64_t task, int worker) {
        const float* x = a.x + a.rows[task] * a.inputs;
        float *inner = pool.scratch(worker), *out = a.out + a.rows[task] * a.outputs;
        for (int64_t k = 0; k < a.rank; ++k) inner[k] = a.scale * dot(x, a.a + k * a.inputs, a.inputs);
        for (int64_t j = 0; j < a.outputs; j += W) {
            const int64_t n = min(W, a.outputs - j);
            const bool whole = n == W;
            Vec total = zero();
            for (int64_t k = 0; k < a.rank; ++k) {
                const float* b = a.b + k * a.outputs + j;
                total = fma(splat(inner[k]), whole ? load(b) : load_part(b, n), total);
            }
            if (whole)
                store(out + j, load(out + j) + total);
            else
                store_part(out + j, load_part(out + j, n) + total, n);
        }
    });
}

}  // namespace pocketvlm::POCKETVLM_ISA
