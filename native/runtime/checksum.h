// A 64-bit checksum that detects accidental changes of any byte and of the order of bytes.
#pragma once

#include <cstdint>

#include "runtime/pool.h"

namespace pocketvlm {

// The result is the same for any number of threads, but differs between machines of different byte orders.
uint64_t checksum(Pool& pool, const uint8_t* bytes, int64_t count);

}  // namespace pocketvlm
