// What the machine can do at most, for the benchmark's roofline: reading memory, and products without any memory.
#pragma once

#include <cstdint>

#include "runtime/isa.h"
#include "runtime/pool.h"

namespace pocketvlm {

// Each returns a number that depends on all the work, so that none of it can be left out.
#define POCKETVLM_DECLARE(isa) \
    namespace isa { \
    float read_memory(Pool& pool, const float* data, long count); \
    float multiply_bytes(Pool& pool, long rounds); \
    float multiply_floats(Pool& pool, long rounds); \
    }
POCKETVLM_FOR_EACH_BYTES_ISA(POCKETVLM_DECLARE)
#undef POCKETVLM_DECLARE

constexpr long peak_chains = 12;  // independent sums of one round

}  // namespace pocketvlm
