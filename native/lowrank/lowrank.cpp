// Low-rank updates of finished products: both products of all updates in one parallel loop.
#include "lowrank/lowrank.h"

#include "lowrank/updates.h"

namespace pocketvlm::POCKETVLM_ISA {
namespace {

constexpr int64_t block_bytes = 16384;

// Tasks of the second product: blocks of rows and of outputs.
inline int64_t outputs_at_once(const LowRank& u, bool bf16) { return max(1, block_bytes / (u.rank * low_rank_block * (bf16 ? 2 : 4))) * low_rank_block; }
inline int64_t parts_of(const LowRank& u, bool bf16) { return divide_up(u.outputs, outputs_at_once(u, bf16)); }
inline int64_t tasks_of(const LowRank& u, bool bf16) { return divide_up(u.count, update_rows) * parts_of(u, bf16); }

inline void add_part(LowRank u, bool bf16, int64_t task, const float* inner) {
    const int64_t parts = parts_of(u, bf16), many = outputs_at_once(u, bf16);
    const int64_t first = task / parts * update_rows, rows = min(update_rows, u.count - first), column = task % parts * many;
    OutputBlock to{.row = 0, .rows = INT32_MAX, .column = column, .width = min(many, u.outputs - column),
                   .first = u.out + column, .stride = u.outputs};
    if (u.rows) {
        u.rows += first, u.count = rows, inner += first * u.rank;
    } else {
        to.row = first, to.rows = rows, to.first += first * u.outputs;
    }
    add_update(u, bf16, inner, to);
}

}  // namespace

void add_low_rank(Pool& pool, const LowRanks& a) {
    InnerProducts inner(pool, a, pool.shared(InnerProducts::bytes(a)));
    int64_t tasks = inner.tasks();
    for (int64_t i = 0; i < a.number; ++i) tasks += tasks_of(a.updates[i], a.bf16);
    parallel(pool, tasks, [&](int64_t task, int) {
        if (task < inner.tasks()) return inner.run(task);
        task -= inner.tasks();
        inner.wait();
        int64_t i = 0;
        for (; task >= tasks_of(a.updates[i], a.bf16); ++i) task -= tasks_of(a.updates[i], a.bf16);
        add_part(a.updates[i], a.bf16, task, inner.of(i));
    });
}

}  // namespace pocketvlm::POCKETVLM_ISA
