// Depthwise causal convolution with a carried window, then SiLU.
#pragma once

#include <cstdint>

namespace pocketvlm {

constexpr int64_t most_taps = 16;

struct ConvSilu {
    const float *x, *weight;  // [rows, channels], [taps, channels]
    float* state;             // [slots, taps - 1, channels]
    const int32_t *offsets, *context_lens, *read_slots, *write_slots;
    float* out;  // [rows, channels]
    int64_t sequences, channels, taps;
};

}  // namespace pocketvlm
