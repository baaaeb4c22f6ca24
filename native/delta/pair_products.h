// Products of bfloat16 pairs with float32 sums: C = A B or C += A B, in tile registers or in vectors.
//
// A is row-major, A[row * a_stride + word]; B has the pairs of a column in one word, B[word * b_stride + column]. Rows come in
// multiples of 16, columns in vectors of 16, words of depth in steps of 16: what does not exist is zero.
#pragma once

#include "simd/simd.h"

namespace pocketvlm::POCKETVLM_ISA {
namespace {

struct PairProduct {
    int64_t words;
    const uint32_t* a;
    int64_t a_stride;
    const uint32_t* b;
    int64_t b_stride;
    float* c;
    int64_t c_stride;
};

#if defined(POCKETVLM_TILE_REGISTERS)

constexpr int64_t pair_step = 16;  // rows, columns and words of a tile

template <int RowTiles, int ColumnTiles, bool Add>
inline void pair_block(const PairProduct& p) {
    const int64_t a_bytes = 4 * p.a_stride, b_bytes = 4 * p.b_stride, c_bytes = 4 * p.c_stride;
    float* below = p.c + pair_step * p.c_stride;
    if constexpr (Add) {
        load_tile<0>(p.c, c_bytes);
        if constexpr (ColumnTiles == 2) load_tile<1>(p.c + pair_step, c_bytes);
        if constexpr (RowTiles == 2) load_tile<2>(below, c_bytes);
        if constexpr (RowTiles == 2 && ColumnTiles == 2) load_tile<3>(below + pair_step, c_bytes);
    } else {
        zero_tile<0>(), zero_tile<1>(), zero_tile<2>(), zero_tile<3>();
    }
    for (int64_t w = 0; w < p.words; w += pair_step) {
        const uint32_t *a = p.a + w, *b = p.b + w * p.b_stride;
        load_tile<6>(b, b_bytes);
        load_tile<4>(a, a_bytes);
        dot_bfloat16<0, 4, 6>();
        if constexpr (ColumnTiles == 2) {
            load_tile<7>(b + pair_step, b_bytes);
            dot_bfloat16<1, 4, 7>();
        }
        if constexpr (RowTiles == 2) {
            load_tile<5>(a + pair_step * p.a_stride, a_bytes);
            dot_bfloat16<2, 5, 6>();
            if constexpr (ColumnTiles == 2) dot_bfloat16<3, 5, 7>();
        }
    }
    store_tile<0>(p.c, c_bytes);
    if constexpr (ColumnTiles == 2) store_tile<1>(p.c + pair_step, c_bytes);
    if constexpr (RowTiles == 2) store_tile<2>(below, c_bytes);
    if constexpr (RowTiles == 2 && ColumnTiles == 2) store_tile<3>(below + pair_step, c_bytes);
}

template <int Vecs, bool Add>
inline void multiply_pairs(int64_t rows, PairProduct p) {
    for (; rows >= 2 * pair_step; rows -= 2 * pair_step) {
        pair_block<2, Vecs, Add>(p);
        p.a += 2 * pair_step * p.a_stride;
        p.c += 2 * pair_step * p.c_stride;
    }
    if (rows > 0) pair_block<1, Vecs, Add>(p);
}

inline TileShapes pair_shapes() { return product_shapes(pair_step, pair_step, pair_step); }

#else

template <int Rows, int Vecs, bool Add>
__attribute__((noinline)) void pair_block(const PairProduct& p) {
    Vec sums[Rows][Vecs];
#pragma GCC unroll 12
    for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 2
        for (int v = 0; v < Vecs; ++v) sums[i][v] = Add ? load(p.c + i * p.c_stride + v * W) : zero();
    const uint32_t *a = p.a, *b = p.b;
    for (int64_t w = 0; w < p.words; ++w, ++a, b += p.b_stride) {
        Bf16Pairs right[Vecs];
#pragma GCC unroll 2
        for (int v = 0; v < Vecs; ++v) right[v] = load_words(b + v * W);
#pragma GCC unroll 12
        for (int i = 0; i < Rows; ++i) {
            const Bf16Pairs left = repeat_word(a + i * p.a_stride);
#pragma GCC unroll 2
            for (int v = 0; v < Vecs; ++v) sums[i][v] = dot2(sums[i][v], left, right[v]);
        }
    }
#pragma GCC unroll 12
    for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 2
        for (int v = 0; v < Vecs; ++v) store(p.c + i * p.c_stride + v * W, sums[i][v]);
}

template <int Rows, int Vecs, bool Add>
inline void pair_block_of(int64_t rows, const PairProduct& p) {
    if constexpr (Rows > 1)
        if (rows < Rows) return pair_block_of<Rows - 1, Vecs, Add>(rows, p);
    pair_block<Rows, Vecs, Add>(p);
}

template <int Vecs, bool Add>
inline void multiply_pairs(int64_t rows, PairProduct p) {
    const int64_t count = divide_up(rows, 12), height = rows / count, higher = rows % count;
    for (int64_t t = 0; t < count; ++t) {
        const int64_t h = height + (t < higher);
        pair_block_of<12, Vecs, Add>(h, p);
        p.a += h * p.a_stride;
        p.c += h * p.c_stride;
    }
}

#endif

}  // namespace
}  // namespace pocketvlm::POCKETVLM_ISA
