// The native side of a backend object: its threads and the kernels of the chosen instruction set.
#pragma once

#include <nanobind/nanobind.h>

#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "runtime/kernels.h"
#include "runtime/pool.h"

namespace pocketvlm {

// Weights that an operation reads from beginning to end.
struct Reads {
    const void* from = nullptr;
    int64_t bytes = 0;
};

// A captured graph: operations that ran once, for replay on the same memory. The owner of the graph must hold that memory.
class Graph {
  public:
    struct Operation {
        std::function<void(Pool&, const Kernels&)> work;
        Reads reads;
    };

    void add(Operation operation) { operations_.push_back(std::move(operation)); }
    void run(Pool& pool, const Kernels& kernels) const;
    int64_t size() const { return static_cast<int64_t>(operations_.size()); }

  private:
    std::vector<Operation> operations_;
};

class Runtime {
  public:
    Runtime(int threads, const std::string& isa);

    // Run work(pool, kernels) alone on the pool. Without the interpreter lock, unless the work (in multiply-adds or floats
    // touched) takes a few microseconds and nothing else runs: to get the lock back from a busy thread can take milliseconds.
    template <class Work>
    void run(int64_t cost, const Work& work) {
        if (cost < 65536) {
            if (const auto lock = pool_.try_acquire()) {
                work(pool_, kernels_);
                return;
            }
        }
        nanobind::gil_scoped_release unlocked;
        const auto lock = pool_.acquire();
        work(pool_, kernels_);
    }

    // The same for an operation that may be captured: `work` owns copies of all it needs but the memory of the arrays.
    template <class Work>
    void operate(int64_t cost, Work work, Reads reads = {}) {
        run(cost, work);
        if (graph_ && capturing_ == std::this_thread::get_id()) graph_->add({std::move(work), reads});
    }

    // Operations of this thread are captured in a new graph from begin_capture() to end_capture().
    void begin_capture();
    std::unique_ptr<Graph> end_capture();
    void replay(const Graph& graph) {
        run(1 << 30, [&](Pool& pool, const Kernels& kernels) { graph.run(pool, kernels); });
    }

    int threads() const { return pool_.threads(); }
    const Kernels& kernels() const { return kernels_; }
    void poison(bool on) { pool_.poison(on); }

  private:
    Pool pool_;
    const Kernels& kernels_;
    std::unique_ptr<Graph> graph_;
    std::thread::id capturing_;
};

void bind_quantized(nanobind::module_& module, nanobind::class_<Runtime>& runtime);
void bind_dense(nanobind::class_<Runtime>& runtime);
void bind_sequence(nanobind::class_<Runtime>& runtime);

}  // namespace pocketvlm
