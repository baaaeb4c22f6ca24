// A 64-bit checksum against accidents: every byte counts, and so does the order.
#pragma once

#include <cstdint>

#include "runtime/pool.h"

namespace pocketvlm {

// The same for any number of threads; other on machines of another byte order.
uint64_t checksum(Pool& pool, const uint8_t* bytes, int64_t count);

}  // namespace pocketvlm
