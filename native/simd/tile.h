// The block product that everything here is made of: C = A B or C += A B with all of C's block in registers.
//
// A and B lie "depth first": A[k * a_stride + row], B[k * b_stride + column]; C is row-major. Columns come in whole vectors.
#pragma once

#include "simd/simd.h"

namespace pocketvlm::POCKETVLM_ISA {
namespace {

// Rows of a block by its width in vectors, so that accumulators, a row of B and one element of A fill the registers. At
// most W: packing (pack.h) writes whole vectors.
template <int Vecs>
constexpr int tile_rows = W == 16 ? (Vecs <= 2 ? 14 : 8) : W == 8 ? (Vecs <= 2 ? 6 : 4) : 4;
constexpr int panel_vecs = W == 4 && many_registers ? 4 : 2;  // width of the main block
constexpr long panel_width = panel_vecs * W;
constexpr int panel_rows = tile_rows<panel_vecs>;

struct Product {
    long depth;
    const float* a;
    long a_stride;
    const float* b;
    long b_stride;
    float* c;
    long c_stride;
};

template <int Rows, int Vecs, bool Add>
__attribute__((noinline)) void tile(const Product& p) {
    Vec sums[Rows][Vecs];
#pragma GCC unroll 16
    for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 8
        for (int j = 0; j < Vecs; ++j) sums[i][j] = Add ? load(p.c + i * p.c_stride + j * W) : zero();
    const float *a = p.a, *b = p.b;
    for (long k = 0; k < p.depth; ++k, a += p.a_stride, b += p.b_stride) {
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
inline void tile_of(long rows, const Product& p) {
    if constexpr (Rows > 1)
        if (rows < Rows) return tile_of<Rows - 1, Vecs, Add>(rows, p);
    tile<Rows, Vecs, Add>(p);
}

template <int Vecs>
inline void columns(long rows, Product p, bool add) {
    const long count = divide_up(rows, tile_rows<Vecs>), height = rows / count, higher = rows % count;
    for (long t = 0; t < count; ++t) {
        const long h = height + (t < higher);
        if (add)
            tile_of<tile_rows<Vecs>, Vecs, true>(h, p);
        else
            tile_of<tile_rows<Vecs>, Vecs, false>(h, p);
        p.a += h;
        p.c += h * p.c_stride;
    }
}

// Any number of rows, any number of vectors of columns.
inline void multiply(long rows, long vecs, Product p, bool add) {
    while (vecs > 0) {
        long done;
        if (panel_vecs == 4 && vecs >= 4 && vecs != 5)
            columns<panel_vecs>(rows, p, add), done = panel_vecs;
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
