// Prepares the inputs of full attention: splits query and gate, normalizes, rotates, writes keys and values to the cache.
#pragma once

#include <cstdint>

#include "attention/attention.h"

namespace pocketvlm {

struct AttentionInputs {
    const float *query_gate, *key, *value;  // [rows, heads * 2 * head_dim], [rows, kv_heads * head_dim]
    const float *q_norm, *k_norm;           // [head_dim]
    const float* frequencies;               // [rotary_dim / 2]
    KVType type;
    void *keys, *values;                    // [pages, kv_heads, page_size, head_dim] of the type
    float *key_scales, *value_scales;       // [pages, kv_heads, page_size] with int8, else null
    const int32_t* positions;               // [axes, rows]
    const int32_t* axes;                    // [rotary_dim / 2], the row of positions that each frequency takes
    const int32_t* cache_rows;              // [rows], page * page_size + index in the page
    float *query, *gate;                    // [rows, heads * head_dim]
    int64_t page_size, rows, heads, kv_heads, head_dim, rotary_dim;
    float eps;
};

}  // namespace pocketvlm
