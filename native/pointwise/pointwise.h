// Elementwise products with an activation.
#pragma once

#include "runtime/isa.h"
#include "runtime/pool.h"

namespace pocketvlm {

struct Pointwise {
    const float *gate, *x;
    float* out;
    long count;
};

#define POCKETVLM_DECLARE(isa) \
    namespace isa { \
    void swiglu(Pool& pool, const Pointwise& args); \
    void sigmoid_gate(Pool& pool, const Pointwise& args); \
    }
POCKETVLM_FOR_EACH_ISA(POCKETVLM_DECLARE)
#undef POCKETVLM_DECLARE

}  // namespace pocketvlm
