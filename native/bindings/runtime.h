// What a backend object holds on the native side: its threads and the kernels that were chosen.
#pragma once

#include <nanobind/nanobind.h>

#include <string>

#include "runtime/kernels.h"
#include "runtime/pool.h"

namespace pocketvlm {

class Runtime {
  public:
    Runtime(int threads, const std::string& isa);

    // Run work(pool, kernels) alone on the pool. Without the interpreter lock, unless the work (in multiply-adds or floats
    // touched) takes a few microseconds and nothing else runs: to get the lock back from a busy thread can take milliseconds.
    template <class Work>
    void run(long cost, const Work& work) {
        if (cost < 65536) {
            if (const auto turn = pool_.try_acquire()) {
                work(pool_, kernels_);
                return;
            }
        }
        nanobind::gil_scoped_release unlocked;
        const auto turn = pool_.acquire();
        work(pool_, kernels_);
    }

    int threads() const { return pool_.threads(); }
    const Kernels& kernels() const { return kernels_; }
    void poison(bool on) { pool_.poison(on); }

  private:
    Pool pool_;
    const Kernels& kernels_;
};

void bind_coded(nanobind::module_& module, nanobind::class_<Runtime>& runtime);
void bind_dense(nanobind::class_<Runtime>& runtime);
void bind_sequence(nanobind::class_<Runtime>& runtime);

}  // namespace pocketvlm
