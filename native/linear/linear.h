// The linear layer: y = activation(x W^T + bias) + residual.
#pragma once

#include <cstdint>

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
    int64_t rows, inputs, outputs;
    bool fast = false;  // with bfloat16 weights, x may be rounded to bfloat16 if the processor has bfloat16 products
};

}  // namespace pocketvlm
