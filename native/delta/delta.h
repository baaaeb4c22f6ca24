// The gated delta rule: a matrix of state for each head, updated by every row.
#pragma once

#include <cstdint>

#include "runtime/isa.h"
#include "runtime/pool.h"

namespace pocketvlm {

struct DeltaRule {
    const float* mixed;            // [rows, 2 * key_heads * key_dim + value_heads * value_dim]
    const float *b, *a;            // [rows, value_heads]
    const float *a_log, *dt_bias;  // [value_heads]
    float* state;                  // [slots, value_heads, key_dim, value_dim]
    const int32_t *offsets, *context, *slots;
    float* out;  // [rows, value_heads * value_dim]
    long sequences, key_heads, value_heads, key_dim, value_dim;
};

#define POCKETVLM_DECLARE(isa) \
    namespace isa { \
    void gated_delta_rule(Pool& pool, const DeltaRule& args); \
    }
POCKETVLM_FOR_EACH_ISA(POCKETVLM_DECLARE)
#undef POCKETVLM_DECLARE

}  // namespace pocketvlm
