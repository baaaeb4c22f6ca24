// Normalizations along rows: RMS norm, layer norm and gated RMS norm.
#pragma once

#include <cstdint>

namespace pocketvlm {

struct RmsNorm {  // x rsqrt(mean(x^2) + eps) (1 + weight)
    const float *x, *weight;
    float* out;
    int64_t rows, width;
    float eps;
};

struct LayerNorm {  // (x - mean) rsqrt(var + eps) weight + bias
    const float *x, *weight, *bias;
    float* out;
    int64_t rows, width;
    float eps;
};

struct GatedRmsNorm {  // weight (x rsqrt(mean(x^2) + eps)) silu(z)
    const float *x, *z, *weight;
    float* out;
    int64_t rows, width;  // a row is one head of one token
    float eps;
};

}  // namespace pocketvlm
