// Finishes a matrix product: adds the bias, applies the activation, adds the residual.
#pragma once

#include "linear/linear.h"
#include "simd/math.h"

namespace pocketvlm::POCKETVLM_ISA {
namespace {

template <bool Rough>
inline Vec activate(Vec v, Activation kind) {
    switch (kind) {
        case Activation::gelu_tanh: return Rough ? rough_gelu_tanh(v) : gelu_tanh(v);
        case Activation::gelu_erf: return gelu_erf(v);
        case Activation::silu: return silu(v);
        default: return v;
    }
}

// Finishes sums [rows, columns] of the block at (row, column) and writes them to a.out; `sums` may already lie in a.out. Rough
// activations are for products whose own rounding is far coarser.
template <bool Rough = false>
inline void finish(const Linear& a, const float* sums, int64_t stride, int64_t row, int64_t rows, int64_t column, int64_t columns) {
    if (!a.bias && !a.residual && a.activation == Activation::none && sums == a.out + row * a.outputs + column) return;
    for (int64_t i = 0; i < rows; ++i) {
        const int64_t at = (row + i) * a.outputs + column;
        for (int64_t j = 0; j < columns; j += W) {
            const int64_t n = min(W, columns - j);
            Vec v = n == W ? load(sums + i * stride + j) : load_part(sums + i * stride + j, n);
            if (a.bias) v = v + (n == W ? load(a.bias + column + j) : load_part(a.bias + column + j, n));
            v = activate<Rough>(v, a.activation);
            if (a.residual) v = v + (n == W ? load(a.residual + at + j) : load_part(a.residual + at + j, n));
            if (n == W)
                store(a.out + at + j, v);
            else
                store_part(a.out + at + j, v, n);
        }
    }
}

}  // namespace
}  // namespace pocketvlm::POCKETVLM_ISA
