// Low-rank updates of products (LoRA), for chosen rows: several matrices and adapters in one call.
#pragma once

#include <cstdint>

namespace pocketvlm {

constexpr int64_t low_rank_block = 32;

// out[row] += scale * (x[row] a^T) b for each of `count` rows.
//
// a: [rank, inputs in whole blocks], b: [blocks of outputs, rank, block], zero after the last input or output; float32, or
// bfloat16 with each block interleaved: number 2 i of a block in memory is its number i, number 2 i + 1 its number i + 16.
struct LowRank {
    const int32_t* rows;  // [count], or null for the first `count` rows
    const void *a, *b;
    float* out;  // [height, outputs]
    int64_t count, outputs, rank;
    float scale;
};

// All updates of products of the same rows x [height, inputs].
struct LowRanks {
    const float* x;
    const LowRank* updates;
    int64_t number, inputs;
    bool bf16;
};

}  // namespace pocketvlm
