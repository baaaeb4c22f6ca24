// Captured graphs: capture and replay.
#include "bindings/arrays.h"
#include "bindings/runtime.h"

namespace pocketvlm {

// Operations between two products read little, so threads that wait prefetch the weights of the next product.
void Graph::run(Pool& pool, const Kernels& kernels) const {
    std::size_t next = 0;
    for (std::size_t i = 0; i < operations_.size(); ++i) {
        if (next <= i) {
            next = i + 1;
            while (next < operations_.size() && !operations_[next].reads.from) ++next;
            if (next < operations_.size()) pool.prefetch(operations_[next].reads.from, operations_[next].reads.bytes);
        }
        operations_[i].work(pool, kernels);
    }
}

void Runtime::begin_capture() {
    if (graph_) refuse("a capture has begun already");
    graph_ = std::make_unique<Graph>();
    capturing_ = std::this_thread::get_id();
}

std::unique_ptr<Graph> Runtime::end_capture() { return std::move(graph_); }

}  // namespace pocketvlm
