// A thread pool that runs parallel loops and owns their scratch memory.
#pragma once

#include <cstddef>
#include <memory>
#include <mutex>

namespace pocketvlm {

class Pool {
  public:
    explicit Pool(int threads);
    ~Pool();
    Pool(const Pool&) = delete;
    Pool& operator=(const Pool&) = delete;

    int threads() const { return threads_; }

    // Operations of one pool run one after the other; hold this for a whole operation.
    std::unique_lock<std::mutex> acquire();
    std::unique_lock<std::mutex> try_acquire();

    // call(context, task, worker) for each task in [0, tasks) on up to threads() workers, which take them in rising order and
    // end them in any; returns when all are done. Calls must not throw. Scratch memory: scratch(worker) is private to a worker (reserve() sets its size), shared()
    // is common to all; neither moves until a larger one is requested.
    void run(int64_t tasks, void (*call)(void*, int64_t, int), void* context);
    void reserve(std::size_t bytes_per_worker);
    float* scratch(int worker) const;
    float* shared(std::size_t bytes);

    // Names memory that a later job will read from beginning to end; waiting threads prefetch its first part.
    void prefetch(const void* from, int64_t bytes);

    // For tests: fill scratch memory with NaN at each request.
    void poison(bool on) { poison_ = on; }

  private:
    struct State;
    State& current();

    int threads_;
    bool poison_ = false;
    State* state_;
};

}  // namespace pocketvlm
