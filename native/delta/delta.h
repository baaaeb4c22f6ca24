// The gated delta rule: a matrix of state for each head, updated by every row.
#pragma once

#include <cstdint>

namespace pocketvlm {

struct DeltaRule {
    const float* mixed;            // [rows, 2 * key_heads * key_dim + value_heads * value_dim]
    const float *b, *a;            // [rows, value_heads]
    const float *a_log, *dt_bias;  // [value_heads]
    float* state;                  // [slots, value_heads, key_dim, value_dim]
    const int32_t *offsets, *context_lens, *read_slots, *write_slots;
    float* out;  // [rows, value_heads * value_dim]
    int64_t sequences, key_heads, value_heads, key_dim, value_dim;
    bool fast;  // products of long runs may round their factors to bfloat16 if the processor has fast products of such numbers
};

}  // namespace pocketvlm
