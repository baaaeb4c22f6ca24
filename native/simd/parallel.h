// Parallel loops over a pool, with a lambda as the body.
#pragma once

#include <sched.h>

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

// Counts what some tasks of a loop have done, for later tasks of the loop that wait for it. Threads take tasks in rising order,
// so the tasks that are waited for are all taken, and end as long as they wait for earlier ones only.
class Progress {
  public:
    void add() { __atomic_fetch_add(&done_, 1, __ATOMIC_RELEASE); }
    bool reached(int64_t count) const { return __atomic_load_n(&done_, __ATOMIC_ACQUIRE) >= count; }
    // Gives the processor away now and then, to a thread that may have been interrupted.
    void wait(int64_t count) const {
        for (int64_t i = 1; !reached(count); ++i) {
#if defined(__x86_64__) || defined(__i386__)
            __builtin_ia32_pause();
#endif
            if (i % 1024 == 0) sched_yield();
        }
    }

  private:
    int64_t done_ = 0;
};

}  // namespace
}  // namespace pocketvlm::POCKETVLM_ISA
