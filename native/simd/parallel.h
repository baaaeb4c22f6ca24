// Parallel loops over a pool, with a lambda as the body.
#pragma once

#include "runtime/pool.h"
#include "simd/simd.h"

namespace pocketvlm::POCKETVLM_ISA {
namespace {

// body(task, worker) for each task in [0, tasks).
template <class Body>
inline void parallel(Pool& pool, int64_t tasks, const Body& body) {
    const auto call = [](void* context, int64_t task, int worker) { (*static_cast<const Body*>(context))(task, worker); };
    pool.run(tasks, call, const_cast<void*>(static_cast<const void*>(&body)));
}

// body(first, last) over [0, count) in chunks of at least `minimum`, several for each thread.
template <class Body>
inline void parallel_ranges(Pool& pool, int64_t count, int64_t minimum, const Body& body) {
    const int64_t chunk = max(max(minimum, 1), divide_up(count, 4 * pool.threads()));
    parallel(pool, divide_up(count, chunk), [&](int64_t t, int) { body(t * chunk, min(count, (t + 1) * chunk)); });
}

}  // namespace
}  // namespace pocketvlm::POCKETVLM_ISA
