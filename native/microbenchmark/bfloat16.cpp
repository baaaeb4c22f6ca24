// Microbenchmark of products of bfloat16 pairs in registers alone.
#include "microbenchmark/threads.h"

namespace pocketvlm::POCKETVLM_ISA {

int64_t multiply_bfloat16([[maybe_unused]] Pool& pool, [[maybe_unused]] int64_t rounds) {
#if defined(POCKETVLM_BFLOAT16_PRODUCTS)
    constexpr int64_t chains = 12;  // independent sums in one round
    on_all_threads(pool, [&](int64_t task) {
        const Bf16Pairs a = neighbours(splat(1.0f + static_cast<float>(task)), splat(0.5f)), b = neighbours(splat(0.25f), splat(-0.5f));
        Vec sums[chains];
        for (auto& s : sums) s = zero();
        for (int64_t r = 0; r < rounds; ++r)
#pragma GCC unroll 12
            for (int i = 0; i < chains; ++i) sums[i] = dot2(sums[i], a, b);
        Vec total = zero();
        for (const auto& s : sums) total = total + s;
        return sum(total);
    });
    return 4 * rounds * chains * W * pool.threads();
#else
    return 0;
#endif
}

}  // namespace pocketvlm::POCKETVLM_ISA
