#pragma once

#include "peak/peak.h"
#include "simd/bytes.h"
#include "simd/parallel.h"

namespace pocketvlm::POCKETVLM_ISA {
namespace {

// One task a thread, each with its own sum.
template <class Body>
inline float on_all_threads(Pool& pool, const Body& body) {
    float* sums = pool.shared(static_cast<size_t>(pool.threads()) * 64);
    parallel(pool, pool.threads(), [&](long task, int) { sums[16 * task] = body(task); });
    float total = 0.0f;
    for (int i = 0; i < pool.threads(); ++i) total += sums[16 * i];
    return total;
}

}  // namespace

float read_memory(Pool& pool, const float* data, long count) {
    constexpr long step = 8 * W;
    const long blocks = count / step, threads = pool.threads();
    return on_all_threads(pool, [&](long task) {
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
}

float multiply_bytes(Pool& pool, long rounds) {
    return on_all_threads(pool, [&](long task) {
        alignas(64) uint8_t weights[4 * W];
        alignas(64) int8_t x[8 * peak_chains];
        for (long i = 0; i < 4 * W; ++i) weights[i] = static_cast<uint8_t>(i + task);
        for (long i = 0; i < 8 * peak_chains; ++i) x[i] = static_cast<int8_t>(i - task);
        const Bytes a = load_bytes(weights);
        Counts sums[peak_chains];
        for (auto& s : sums) s = count(1);
        for (long r = 0; r < rounds; ++r) {
            const int8_t* factors = x + (r & 1) * 4 * peak_chains;  // another factor each time: nothing can be worked out beforehand
#pragma GCC unroll 12
            for (int i = 0; i < peak_chains; ++i) sums[i] = dot8(sums[i], a, repeat_four(factors + 4 * i));
        }
        Counts total = count(0);
        for (const auto& s : sums) total = add(total, s);
        return static_cast<float>(sum(total));
    });
}

float multiply_floats(Pool& pool, long rounds) {
    return on_all_threads(pool, [&](long task) {
        const Vec a = splat(1.0f + 1e-7f * static_cast<float>(task)), b = splat(1e-9f);
        Vec sums[peak_chains];
        for (auto& s : sums) s = b;
        for (long r = 0; r < rounds; ++r)
#pragma GCC unroll 12
            for (int i = 0; i < peak_chains; ++i) sums[i] = fma(sums[i], a, b);
        Vec total = zero();
        for (const auto& s : sums) total = total + s;
        return sum(total);
    });
}

}  // namespace pocketvlm::POCKETVLM_ISA
