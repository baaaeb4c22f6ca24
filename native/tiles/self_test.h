// The self-test of tile registers: whether their products are those of plain arithmetic. It takes less than 0.1 ms.
#pragma once

#include <cstdint>

namespace pocketvlm {

// A set with tile registers defines tile_self_test. `error` is added to an expected sum: the test must then fail.
using TileSelfTest = bool(int32_t error);

}  // namespace pocketvlm
