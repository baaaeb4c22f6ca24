// Elementwise products with an activation.
#pragma once

#include <cstdint>

namespace pocketvlm {

struct Pointwise {
    const float *gate, *x;
    float* out;
    int64_t count;
};

}  // namespace pocketvlm
