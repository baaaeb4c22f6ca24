// Low-rank updates as the bindings see them.
#pragma once

#include <vector>

#include "bindings/arrays.h"
#include "lowrank/lowrank.h"

namespace pocketvlm {

// One update (rows, a, b, scale) of a product of x [height, inputs], written to out [height, outputs]; a and b are float32 or
// the bits of bfloat16.
inline LowRank update_of(const nb::tuple& fields, float* out, int64_t height, int64_t inputs, int64_t outputs, bool bf16) {
    const auto check = [&](const auto& a, const auto& b) {
        a.shaped(-1, (inputs + low_rank_block - 1) / low_rank_block * low_rank_block);
        b.shaped(-1, a.dim(0), low_rank_block);
        if (b.dim(0) != (outputs + low_rank_block - 1) / low_rank_block)
            refuse("b has " + std::to_string(b.dim(0)) + " blocks, which " + std::to_string(outputs) + " outputs do not fill");
        LowRank made{nullptr, a.data(), b.data(), out, height, outputs, a.dim(0), nb::cast<float>(fields[3])};
        if (made.rank == 0) refuse("a has no rows");
        if (!nb::handle(fields[0]).is_none()) {
            const Ints rows(fields[0], "rows");
            rows.shaped(-1);
            made.rows = rows.data();
            made.count = rows.size();
        }
        return made;
    };
    if (bf16) return check(Array<const uint16_t>(fields[1], "a"), Array<const uint16_t>(fields[2], "b"));
    return check(Floats(fields[1], "a"), Floats(fields[2], "b"));
}

// Refuses rows that do not rise below `height`. Rows may change between the replays of a captured graph.
inline void check_rows(const std::vector<LowRank>& updates, int64_t height) {
    for (const LowRank& u : updates) {
        if (!u.rows) continue;
        check_indices(u.rows, u.count, "rows", height);
        for (int64_t i = 1; i < u.count; ++i)
            if (u.rows[i] <= u.rows[i - 1]) refuse("rows[" + std::to_string(i) + "] must be greater than the row before");
    }
}

}  // namespace pocketvlm
