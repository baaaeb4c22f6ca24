// Softmax attention: bidirectional inside views, and causal over a paged cache.
#pragma once

#include <cstdint>

namespace pocketvlm {

struct ViewAttention {
    const float *query, *key, *value;  // [rows, heads * head_dim]
    const int32_t* offsets;            // [views + 1]
    float* out;                        // [rows, heads * head_dim]
    int64_t views, heads, head_dim;
    bool fast;   // products may round their factors to bfloat16 if the processor has bfloat16 products
    bool bytes;  // if fast: products for the scores may round their factors to 8 bits
};

// How the pages of a KV cache hold keys and values: int8 numbers have a scale for each token and kv head.
enum class KVType { float32, bfloat16, int8 };

struct CausalAttention {
    const float* query;                       // [rows, heads, head_dim]
    KVType type;
    const void *keys, *values;                // [pages, kv_heads, page_size, head_dim] of the type
    const float *key_scales, *value_scales;   // [pages, kv_heads, page_size] with int8, else null
    const int32_t* offsets;                   // [sequences + 1]
    const int32_t* context_lens;              // [sequences]
    const int32_t* pages;                     // [sequences, table_width]
    float* out;                               // [rows, heads * head_dim]
    int64_t sequences, table_width, page_size, heads, kv_heads, head_dim;
    bool fast;  // as in ViewAttention
};

}  // namespace pocketvlm
