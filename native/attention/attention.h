// Softmax attention: bidirectional inside views, and causal over a paged cache.
#pragma once

#include <cstdint>

#include "runtime/isa.h"
#include "runtime/pool.h"

namespace pocketvlm {

struct ViewAttention {
    const float *query, *key, *value;  // [rows, heads * head_dim]
    const int32_t* offsets;            // [views + 1]
    float* out;                        // [rows, heads * head_dim]
    long views, heads, head_dim;
    bool fast;   // products may round their factors to bfloat16 where the processor has such products
    bool bytes;  // and then scores theirs to 8 bits
};

struct CausalAttention {
    const float* query;          // [rows, heads, head_dim]
    const float *keys, *values;  // [pages, page_size, kv_heads, head_dim]
    const int32_t* offsets;      // [sequences + 1]
    const int32_t* context;      // [sequences]
    const int32_t* pages;        // [sequences, table_width]
    float* out;                  // [rows, heads * head_dim]
    long sequences, table_width, page_size, heads, kv_heads, head_dim;
    bool fast;  // as the first above
};

#define POCKETVLM_DECLARE(isa) \
    namespace isa { \
    void attention(Pool& pool, const CausalAttention& args); \
    void attention_views(Pool& pool, const ViewAttention& args); \
    }
POCKETVLM_FOR_EACH_HALVES_ISA(POCKETVLM_DECLARE)
#undef POCKETVLM_DECLARE

}  // namespace pocketvlm
