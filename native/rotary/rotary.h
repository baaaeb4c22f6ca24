// What full attention does to its inputs: split query and gate, normalise, rotate, write the cache.
#pragma once

#include <cstdint>

namespace pocketvlm {

struct AttentionInputs {
    const float *query_gate, *key, *value;  // [rows, heads * 2 * head_dim], [rows, kv_heads * head_dim]
    const float *q_norm, *k_norm;           // [head_dim]
    const float* frequencies;               // [rotary_dim / 2]
    float *keys, *values;                   // [pages, page_size, kv_heads, head_dim]
    const int32_t* positions;               // [axes, rows]
    const int32_t* axes;                    // [rotary_dim / 2], the row of positions that each frequency takes
    const int32_t* cache_rows;              // [rows], page * page_size + index in the page
    float *query, *gate;                    // [rows, heads * head_dim]
    int64_t rows, heads, kv_heads, head_dim, rotary_dim;
    float eps;
};

}  // namespace pocketvlm
