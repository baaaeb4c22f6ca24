// Depthwise causal convolution with a carried window, then SiLU.
#pragma once

#include <cstdint>

#include "runtime/isa.h"
#include "runtime/pool.h"

namespace pocketvlm {

constexpr long most_taps = 16;

struct ConvSilu {
    const float *x, *weight;  // [rows, channels], [taps, channels]
    float* state;             // [slots, taps - 1, channels]
    const int32_t *offsets, *context, *slots;
    float* out;  // [rows, channels]
    long sequences, channels, taps;
};

#define POCKETVLM_DECLARE(isa) \
    namespace isa { \
    void conv_silu(Pool& pool, const ConvSilu& args); \
    }
POCKETVLM_FOR_EACH_ISA(POCKETVLM_DECLARE)
#undef POCKETVLM_DECLARE

}  // namespace pocketvlm
