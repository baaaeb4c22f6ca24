// Activations of single numbers, and products with one.
#pragma once

#include <cstdint>

#include "linear/linear.h"

namespace pocketvlm {

struct Pointwise {
    const float *gate, *x;
    float* out;
    int64_t count;
};

// out = activation(x)
struct Activate {
    const float* x;
    float* out;
    int64_t count;
    Activation activation;
};

}  // namespace pocketvlm
