// y = activation(x W^T + bias) + residual.
#pragma once

#include "runtime/isa.h"
#include "runtime/pool.h"

namespace pocketvlm {

enum class Activation { none, gelu_tanh, gelu_erf, silu };

struct Linear {
    const float* x;       // [rows, inputs]
    const void* weight;   // [outputs, inputs], bfloat16 bits or float
    bool bf16;
    const float* bias;      // [outputs] or null
    const float* residual;  // [rows, outputs] or null
    Activation activation;
    float* out;  // [rows, outputs]
    long rows, inputs, outputs;
    bool fast = false;  // products with bfloat16 weights may round x to bfloat16 where the processor has such products
};

#define POCKETVLM_DECLARE(isa) \
    namespace isa { \
    void linear(Pool& pool, const Linear& args); \
    }
POCKETVLM_FOR_EACH_HALVES_ISA(POCKETVLM_DECLARE)
#undef POCKETVLM_DECLARE

}  // namespace pocketvlm
