// Linear layers on bfloat16 weights with rows rounded to bfloat16: products of bfloat16 pairs, sums in float32, no packing.
//
// A row and an output have one vector of sums: lane l adds pair l of every block of 2W inputs, block after block, and in the
// end the lanes are added in one order. So results are batch-invariant: a row gets the same bits with any other rows.
#pragma once

#include "linear/epilogue.h"
#include "simd/parallel.h"

namespace pocketvlm::POCKETVLM_ISA {
namespace {

constexpr int64_t bf16_tile_rows = 6;                   // rows whose sums with four outputs fill the registers
constexpr int64_t bf16_block_bytes = 192 << 10;   // weights that stay in the cache while all tiles of rows pass
constexpr int64_t bf16_prefetch = 2048;            // prefetch distance in bytes, in a row of weights

// x [rows][stride] in bfloat16, padded with zeros to whole blocks of 2W.
struct Bf16Rows {
    uint16_t* data;
    int64_t stride;
};

inline void round_row(const float* x, int64_t inputs, uint16_t* out) {
    int64_t k = 0;
    for (; k + 2 * W <= inputs; k += 2 * W) store_bf16(out + k, neighbours(load(x + k), load(x + k + W)));
    if (k == inputs) return;
    float block[2 * W] = {};
    copy(block, x + k, inputs - k);
    store_bf16(out + k, neighbours(load(block), load(block + W)));
}

// Rows of x times four outputs, or one; Cold: the weights are not in the cache yet.
template <int Outputs, int Rows, bool Cold>
__attribute__((noinline)) void bf16_dots(const uint16_t* weight, int64_t inputs, const uint16_t* x, int64_t x_stride, float* out,
                                         int64_t stride) {
    Vec sums[4][Rows];
#pragma GCC unroll 4
    for (int o = 0; o < 4; ++o)
#pragma GCC unroll 6
        for (int r = 0; r < Rows; ++r) sums[o][r] = zero();
    int64_t k = 0;
    for (; k + 2 * W <= inputs; k += 2 * W) {
        Bf16Pairs weights[Outputs];
#pragma GCC unroll 4
        for (int o = 0; o < Outputs; ++o) {
            weights[o] = load_bf16(weight + o * inputs + k);
            if constexpr (Cold) __builtin_prefetch(reinterpret_cast<const char*>(weight + o * inputs + k) + bf16_prefetch);
        }
#pragma GCC unroll 6
        for (int r = 0; r < Rows; ++r) {
            const Bf16Pairs row = load_bf16(x + r * x_stride + k);
#pragma GCC unroll 4
            for (int o = 0; o < Outputs; ++o) sums[o][r] = dot2(sums[o][r], row, weights[o]);
        }
    }
    if (k < inputs) {
        for (int o = 0; o < Outputs; ++o) {
            const Bf16Pairs weights = load_bf16_part(weight + o * inputs + k, inputs - k);
            for (int r = 0; r < Rows; ++r) sums[o][r] = dot2(sums[o][r], load_bf16(x + r * x_stride + k), weights);
        }
    }
#pragma GCC unroll 6
    for (int r = 0; r < Rows; ++r) {
        const Vec4 all = sums_of(sums[0][r], sums[1][r], sums[2][r], sums[3][r]);
        if constexpr (Outputs == 4)
            store_four(out + r * stride, all);
        else
            out[r * stride] = first_of(all);
    }
}

// One tile of rows times outputs [first, last).
template <int Rows>
inline void bf16_outputs(const Linear& a, const Bf16Rows& x, int64_t row, int64_t first, int64_t last, bool cold) {
    const uint16_t *weight = static_cast<const uint16_t*>(a.weight) + first * a.inputs, *in = x.data + row * x.stride;
    float* out = a.out + row * a.outputs;
    int64_t o = first;
    for (; o + 4 <= last; o += 4, weight += 4 * a.inputs) {
        if (cold)
            bf16_dots<4, Rows, true>(weight, a.inputs, in, x.stride, out + o, a.outputs);
        else
            bf16_dots<4, Rows, false>(weight, a.inputs, in, x.stride, out + o, a.outputs);
    }
    for (; o < last; ++o, weight += a.inputs) bf16_dots<1, Rows, false>(weight, a.inputs, in, x.stride, out + o, a.outputs);
}

template <int Rows>
inline void bf16_outputs_of(int64_t rows, const Linear& a, const Bf16Rows& x, int64_t row, int64_t first, int64_t last, bool cold) {
    if constexpr (Rows > 1)
        if (rows < Rows) return bf16_outputs_of<Rows - 1>(rows, a, x, row, first, last, cold);
    bf16_outputs<Rows>(a, x, row, first, last, cold);
}

inline void bf16_linear(Pool& pool, const Linear& a) {
    if (a.rows == 0 || a.outputs == 0) return;
    const int64_t stride = round_up(a.inputs, 2 * W);
    const Bf16Rows x{reinterpret_cast<uint16_t*>(pool.shared(static_cast<size_t>(a.rows * stride) * sizeof(uint16_t))), stride};
    parallel_ranges(pool, a.rows, divide_up(16384, a.inputs), [&](int64_t first, int64_t last) {
        for (int64_t r = first; r < last; ++r) round_row(a.x + r * a.inputs, a.inputs, x.data + r * stride);
    });
    const int64_t weight_bytes = a.inputs * static_cast<int64_t>(sizeof(uint16_t)), tiles = divide_up(a.rows, bf16_tile_rows);
    const int64_t block = max(4, bf16_block_bytes / weight_bytes / 4 * 4);  // outputs
    const int64_t fair = divide_up(a.outputs, 4 * pool.threads()), minimum = divide_up(32768, weight_bytes * tiles);
    const int64_t chunk = round_up(min(max(fair, minimum), max(block, (1 << 20) / (weight_bytes * tiles))), 4);
    const int64_t chunks = divide_up(a.outputs, chunk);
    const int64_t splits = min(divide_up(4 * pool.threads(), chunks), max(1, tiles / 4));  // of the rows, for few outputs
    const auto row_of = [&](int64_t tile) { return tile * a.rows / tiles; };
    parallel(pool, chunks * splits, [&](int64_t task, int) {
        const int64_t first = task / splits * chunk, last = min(a.outputs, first + chunk), split = task % splits;
        const int64_t first_tile = split * tiles / splits, last_tile = (split + 1) * tiles / splits;
        for (int64_t o = first; o < last; o += block)
            for (int64_t t = first_tile; t < last_tile; ++t) {
                const int64_t r = row_of(t), rows = row_of(t + 1) - r, end = min(last, o + block);
                bf16_outputs_of<bf16_tile_rows>(rows, a, x, r, o, end, t == first_tile);
                finish(a, a.out + r * a.outputs + o, a.outputs, r, rows, o, end - o);
            }
    });
}

}  // namespace
}  // namespace pocketvlm::POCKETVLM_ISA
