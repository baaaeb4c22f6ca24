// Rows of activations in the order of a matrix's columns.
#pragma once

#include "simd/parallel.h"

namespace pocketvlm::POCKETVLM_ISA {
namespace {

// Matrices of one layer are often permuted alike, each with its own copy of the permutation.
inline bool same_order(const int32_t* a, const int32_t* b, int64_t inputs) {
    return a == b || (a && b && !__builtin_memcmp(a, b, static_cast<size_t>(inputs) * sizeof *a));
}

// Rows of x [rows, inputs] in the order of a matrix's columns.
inline void permute(Pool& pool, const float* x, int64_t rows, int64_t inputs, const int32_t* permutation, float* out) {
    const auto row = [&](int64_t r, int) {
        for (int64_t k = 0; k < inputs; ++k) out[r * inputs + k] = x[r * inputs + permutation[k]];
    };
    if (rows * inputs >= 8192) return parallel(pool, rows, row);
    for (int64_t r = 0; r < rows; ++r) row(r, 0);  // less work than the start of a parallel loop
}

}  // namespace
}  // namespace pocketvlm::POCKETVLM_ISA
