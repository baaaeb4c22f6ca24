// What all microbenchmarks share: one task for each thread.
#pragma once

#include "simd/parallel.h"

namespace pocketvlm::POCKETVLM_ISA {
namespace {

// body(task) returns a sum that depends on all work of the task; the sums are stored, so that the compiler omits nothing.
template <class Body>
inline void on_all_threads(Pool& pool, const Body& body) {
    float* sums = pool.shared(static_cast<size_t>(pool.threads()) * 64);
    parallel(pool, pool.threads(), [&](int64_t task, int) { sums[16 * task] = body(task); });
}

}  // namespace
}  // namespace pocketvlm::POCKETVLM_ISA
