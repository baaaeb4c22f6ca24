// Microbenchmarks of the machine's limits for the roofline: reading memory, and products in registers alone. Each kernel
// stores numbers that depend on all its work, so that the compiler cannot omit any of it.
#include "microbenchmark/threads.h"

namespace pocketvlm::POCKETVLM_ISA {
namespace {

constexpr int64_t chains = 12;  // independent sums in one round

}  // namespace

int64_t read_memory(Pool& pool, const float* data, int64_t count) {
    constexpr int64_t step = 8 * W;
    const int64_t blocks = count / step, threads = pool.threads();
    on_all_threads(pool, [&](int64_t task) {
        Vec sums[8];
        for (auto& s : sums) s = zero();
        const float* end = data + (task + 1) * blocks / threads * step;
        for (const float* p = data + task * blocks / threads * step; p < end; p += step) {
#pragma GCC unroll 8
            for (int i = 0; i < 8; ++i) {
                __builtin_prefetch(p + i * W + 1024);
                sums[i] = sums[i] + load(p + i * W);
            }
        }
        Vec total = zero();
        for (const auto& s : sums) total = total + s;
        return sum(total);
    });
    return blocks * step * static_cast<int64_t>(sizeof(float));
}

int64_t multiply_bytes(Pool& pool, int64_t rounds) {
    on_all_threads(pool, [&](int64_t task) {
        alignas(64) uint8_t weights[4 * W];
        alignas(64) int8_t x[8 * chains];
        for (int64_t i = 0; i < 4 * W; ++i) weights[i] = static_cast<uint8_t>(i + task);
        for (int64_t i = 0; i < 8 * chains; ++i) x[i] = static_cast<int8_t>(i - task);
        const Bytes a = load_bytes(weights);
        Counts sums[chains];
        for (auto& s : sums) s = count(1);
        for (int64_t r = 0; r < rounds; ++r) {
            const int8_t* factors = x + (r & 1) * 4 * chains;  // alternating factors: the compiler cannot compute anything in advance
#pragma GCC unroll 12
            for (int i = 0; i < chains; ++i) sums[i] = dot8(sums[i], a, repeat_four(factors + 4 * i));
        }
        Counts total = count(0);
        for (const auto& s : sums) total = add(total, s);
        return static_cast<float>(sum(total));
    });
    return 2 * rounds * chains * 4 * W * pool.threads();
}

int64_t multiply_floats(Pool& pool, int64_t rounds) {
    on_all_threads(pool, [&](int64_t task) {
        const Vec a = splat(1.0f + 1e-7f * static_cast<float>(task)), b = splat(1e-9f);
        Vec sums[chains];
        for (auto& s : sums) s = b;
        for (int64_t r = 0; r < rounds; ++r)
#pragma GCC unroll 12
            for (int i = 0; i < chains; ++i) sums[i] = fma(sums[i], a, b);
        Vec total = zero();
        for (const auto& s : sums) total = total + s;
        return sum(total);
    });
    return 2 * rounds * chains * W * pool.threads();
}

}  // namespace pocketvlm::POCKETVLM_ISA
