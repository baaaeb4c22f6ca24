// The block product of all float32 kernels: C = A B or C += A B with all of C's block in registers.
//
// A and B are "depth first": A[k * a_stride + row], B[k * b_stride + column]; C is row-major. Columns come in whole vectors.
#pragma once

#include "simd/simd.h"

namespace pocketvlm::POCKETVLM_ISA {
namespace {

// Rows of a block by its width in vectors, so that accumulators, a row of B and one element of A fill the registers. At
// most W: packing (pack.h) writes whole vectors.
constexpr int rows_of_block(int vecs) {
    if (W == 4) return 4;
    if (many_registers) return vecs <= 2 ? 14 : 8;
    return vecs <= 2 ? 6 : 4;
}
template <int Vecs>
constexpr int tile_rows = rows_of_block(Vecs);
constexpr int main_vecs = W == 4 && many_registers ? 4 : 2;  // width of the main block: short vectors need more of them
constexpr int64_t main_width = main_vecs * W;
constexpr int main_rows = tile_rows<main_vecs>;

struct Product {
    int64_t depth;
    const float* a;
    int64_t a_stride;
    const float* b;
    int64_t b_stride;
    float* c;
    int64_t c_stride;
};

template <int Rows, int Vecs, bool Add>
__attribute__((noinline)) void tile(const Product& p) {
    Vec sums[Rows][Vecs];
#pragma GCC unroll 16
    for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 8
        for (int j = 0; j < Vecs; ++j) sums[i][j] = Add ? load(p.c + i * p.c_stride + j * W) : zero();
    const float *a = p.a, *b = p.b;
    for (int64_t k = 0; k < p.depth; ++k, a += p.a_stride, b += p.b_stride) {
        Vec right[Vecs];
#pragma GCC unroll 8
        for (int j = 0; j < Vecs; ++j) right[j] = load(b + j * W);
#pragma GCC unroll 16
        for (int i = 0; i < Rows; ++i) {
            const Vec left = splat(a[i]);
#pragma GCC unroll 8
            for (int j = 0; j < Vecs; ++j) sums[i][j] = fma(left, right[j], sums[i][j]);
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 8
        for (int j = 0; j < Vecs; ++j) store(p.c + i * p.c_stride + j * W, sums[i][j]);
}

template <int Rows, int Vecs, bool Add>
inline void tile_of(int64_t rows, const Product& p) {
    if constexpr (Rows > 1)
        if (rows < Rows) return tile_of<Rows - 1, Vecs, Add>(rows, p);
    tile<Rows, Vecs, Add>(p);
}

template <int Vecs>
inline void columns(int64_t rows, Product p, bool add) {
    const int64_t count = divide_up(rows, tile_rows<Vecs>), height = rows / count, higher = rows % count;
    for (int64_t t = 0; t < count; ++t) {
        const int64_t h = height + (t < higher);
        if (add)
            tile_of<tile_rows<Vecs>, Vecs, true>(h, p);
        else
            tile_of<tile_rows<Vecs>, Vecs, false>(h, p);
        p.a += h;
        p.c += h * p.c_stride;
    }
}

// Any number of rows, any number of vectors of columns.
inline void multiply(int64_t rows, int64_t vecs, Product p, bool add) {
    while (vecs > 0) {
        int64_t done;
        if (main_vecs == 4 && vecs >= 4 && vecs != 5)
            columns<main_vecs>(rows, p, add), done = main_vecs;
        else if (vecs >= 3 && vecs % 2 == 1)
            columns<3>(rows, p, add), done = 3;
        else if (vecs >= 2)
            columns<2>(rows, p, add), done = 2;
        else
            columns<1>(rows, p, add), done = 1;
        vecs -= done;
        p.b += done * W;
        p.c += done * W;
    }
}

}  // namespace
}  // namespace pocketvlm::POCKETVLM_ISA
