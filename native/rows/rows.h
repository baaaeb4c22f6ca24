// Copies, gathers and regroups rows. One build serves all processors, because this work gains nothing from vector code.
#pragma once

#include <cstdint>

#include "runtime/pool.h"

namespace pocketvlm {

enum class Stored { float32, bfloat16, float16 };

void embed(Pool& pool, const void* table, Stored type, const int32_t* ids, int64_t count, int64_t width, float* out);
void take_rows(Pool& pool, const float* x, const int32_t* rows, int64_t count, int64_t width, float* out);
void put_rows(float* x, const int32_t* rows, int64_t count, int64_t width, const float* values);
// offsets [views]: first row of each view; sizes [views][2]: its rows and columns of tokens.
void regroup_2x2(Pool& pool, const float* x, const int32_t* sizes, const int32_t* offsets, int64_t views, int64_t channels, float* out);
void window_mean(Pool& pool, const float* x, int64_t windows, int64_t channels, float* out);

}  // namespace pocketvlm
