// Rows moved about: no arithmetic worth a vector instruction of its own, so one build of these for all processors.
#pragma once

#include <cstdint>

#include "runtime/pool.h"

namespace pocketvlm {

void embed(Pool& pool, const void* table, bool bf16, const int32_t* ids, long count, long width, float* out);
void take_rows(Pool& pool, const float* x, const int32_t* rows, long count, long width, float* out);
void put_rows(float* x, const int32_t* rows, long count, long width, const float* values);
// offsets [views]: first row of each view; sizes [views][2]: its rows and columns of tokens.
void regroup_2x2(Pool& pool, const float* x, const int32_t* sizes, const int32_t* offsets, long views, long channels, float* out);
void window_mean(Pool& pool, const float* x, long windows, long channels, float* out);

}  // namespace pocketvlm
