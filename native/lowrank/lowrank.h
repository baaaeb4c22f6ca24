// Low-rank updates of a product (LoRA), for chosen rows.
#pragma once

#include <cstdint>

namespace pocketvlm {

// out[rows[i]] += scale * (x[rows[i]] a^T) b for each of `count` rows.
struct LowRank {
    const float* x;        // [height, inputs]
    const int32_t* rows;   // [count]
    const float *a, *b;    // [rank, inputs], [rank, outputs]
    float* out;            // [height, outputs]
    int64_t count, inputs, outputs, rank;
    float scale;
};

}  // namespace pocketvlm
