// Normalisations along rows.
#pragma once

#include "runtime/isa.h"
#include "runtime/pool.h"

namespace pocketvlm {

struct RmsNorm {  // x rsqrt(mean(x^2) + eps) (1 + weight)
    const float *x, *weight;
    float* out;
    long rows, width;
    float eps;
};

struct LayerNorm {  // (x - mean) rsqrt(var + eps) weight + bias
    const float *x, *weight, *bias;
    float* out;
    long rows, width;
    float eps;
};

struct GatedRmsNorm {  // weight (x rsqrt(mean(x^2) + eps)) silu(z)
    const float *x, *z, *weight;
    float* out;
    long rows, width;  // a row is one head of one token
    float eps;
};

#define POCKETVLM_DECLARE(isa) \
    namespace isa { \
    void rms_norm(Pool& pool, const RmsNorm& args); \
    void layer_norm(Pool& pool, const LayerNorm& args); \
    void gated_rms_norm(Pool& pool, const GatedRmsNorm& args); \
    }
POCKETVLM_FOR_EACH_ISA(POCKETVLM_DECLARE)
#undef POCKETVLM_DECLARE

}  // namespace pocketvlm
