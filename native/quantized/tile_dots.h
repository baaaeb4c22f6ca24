// Dot products of blocks of sixteen rows with packed tiles of sixteen outputs, in tile registers. Sums are integers; they are
// scaled and added in the order of dots.h, so a row gets the same bits as there.
#pragma once

#include "linear/epilogue.h"
#include "quantized/dots.h"
#include "quantized/tile_activations.h"

namespace pocketvlm::POCKETVLM_ISA {
namespace {

constexpr int64_t sums_of_tile = tile_outputs * row_block;

// --- matrices with groups ---

// Codes of a packed tile as signed bytes: value, or the high and the low part of a value of a wide codebook.
struct UnpackedTile {
    int8_t* high;  // [depth / 4][64]
    int8_t* low;   // the same, for a wide codebook
};

inline size_t unpacked_bytes(const QuantizedWeights& w) { return static_cast<size_t>(w.depth * tile_outputs * (w.codebook_low ? 2 : 1)); }

inline Bytes signed_of(Bytes value_plus_128) { return _mm512_xor_si512(value_plus_128, _mm512_set1_epi8(-128)); }

inline void put(int8_t* out, Bytes b) { _mm512_storeu_si512(out, b); }

// Words of a unit of codes of 5 or 6 bits.
template <int bits, int word = 0>
[[gnu::always_inline]] inline void unpack_joined(const uint8_t* p, Bytes upper, int8_t* out) {
    const Bytes codes = joined_codes<bits, word>(p, upper);
    put(out + word * line_bytes, _mm512_sub_epi8(codes, _mm512_set1_epi8(1 << (bits - 1))));
    if constexpr (word + 1 < unit_inputs(bits) / 4) unpack_joined<bits, word + 1>(p, upper, out);
}

template <int bits>
inline void unpack_units(const uint8_t* p, int64_t depth, int8_t* out) {
    constexpr int lines = unit_lines(bits);
    for (int64_t k = 0; k < depth; k += unit_inputs(bits), p += lines * line_bytes, out += unit_inputs(bits) * tile_outputs) {
        for (int i = 0; i < lines; ++i) __builtin_prefetch(p + i * line_bytes + ahead);
        unpack_joined<bits>(p, load_bytes(p + (lines - 1) * line_bytes), out);
    }
}

inline void unpack(const QuantizedWeights& w, int64_t tile, const UnpackedTile& to) {
    const uint8_t* p = w.packed + tile * w.lines() * line_bytes;
    if (w.bits == 5) return unpack_units<5>(p, w.depth, to.high);
    if (w.bits == 6) return unpack_units<6>(p, w.depth, to.high);
    if (w.bits == 8) {
        for (int64_t line = 0; line < w.lines(); ++line) {
            __builtin_prefetch(p + line * line_bytes + ahead);
            put(to.high + line * line_bytes, signed_of(load_bytes(p + line * line_bytes)));
        }
        return;
    }
    alignas(64) uint8_t high[16], low[16];
    for (int i = 0; i < 16; ++i) {
        high[i] = static_cast<uint8_t>(w.codebook ? w.codebook[i] - 128 : i - 8);
        low[i] = static_cast<uint8_t>(w.codebook_low ? w.codebook_low[i] - 128 : 0);
    }
    for (int64_t line = 0; line < w.lines(); ++line) {
        const Bytes bytes = load_bytes(p + line * line_bytes), first = low_nibbles(bytes), second = high_nibbles(bytes);
        __builtin_prefetch(p + line * line_bytes + ahead);
        put(to.high + 2 * line * line_bytes, look_up(high, first));
        put(to.high + (2 * line + 1) * line_bytes, look_up(high, second));
        if (!w.codebook_low) continue;
        put(to.low + 2 * line * line_bytes, look_up(low, first));
        put(to.low + (2 * line + 1) * line_bytes, look_up(low, second));
    }
}

// Sums of one group in int32 [16][16]; a wide codebook has a second such array.
template <int Slot, bool Wide>
inline void add_group(const TileScheme& s, const int8_t* rows, const int8_t* high, const int8_t* low, int32_t* sums) {
    zero_tile<Slot>();
    if constexpr (Wide) zero_tile<2 + Slot>();
    for (int64_t k = 0; k < s.group; k += s.part) {
        load_tile<4 + Slot>(rows + k * row_block, s.part);
        load_tile<6>(high + k * tile_outputs, line_bytes);
        dot_signed_bytes<Slot, 4 + Slot, 6>();
        if constexpr (Wide) {
            load_tile<7>(low + k * tile_outputs, line_bytes);
            dot_signed_bytes<2 + Slot, 4 + Slot, 7>();
        }
    }
    store_tile<Slot>(sums, 4 * tile_outputs);
    if constexpr (Wide) store_tile<2 + Slot>(sums + sums_of_tile, 4 * tile_outputs);
}

// The factors and summands of a group's sums, for the rows of a block, as `grouped` in dots.h applies them.
struct GroupOfRows {
    const int32_t* sums;
    const float *row_scale, *row_sum;
    Vec scale, shift;
};

// Rows Row to 15. A recursion, because a loop would leave the totals in memory: `total` would be an array when the compiler
// chooses registers, and the assembly of tiles keeps it from moving an array to registers later.
template <int Row, bool Biased, bool Wide>
[[gnu::always_inline]] inline void scale_rows(const GroupOfRows& g, Vec (&total)[row_block]) {
    const auto sum_of = [&](int64_t from) { return to_float(_mm512_load_si512(g.sums + from + Row * tile_outputs)); };
    Vec part = Wide ? fma(sum_of(0), splat(256.0f), sum_of(sums_of_tile)) * g.scale : sum_of(0) * g.scale;
    if constexpr (Biased) part = fma(g.shift, splat(g.row_sum[Row]), part);
    total[Row] = fma(part, splat(g.row_scale[Row]), total[Row]);
    if constexpr (Row + 1 < row_block) scale_rows<Row + 1, Biased, Wide>(g, total);
}

template <int Row>
[[gnu::always_inline]] inline void clear_rows(Vec (&total)[row_block]) {
    total[Row] = zero();
    if constexpr (Row + 1 < row_block) clear_rows<Row + 1>(total);
}

template <int Row>
[[gnu::always_inline]] inline void store_rows(const Vec (&total)[row_block], Vec scale, float* out, int64_t stride) {
    store(out + Row * stride, total[Row] * scale);
    if constexpr (Row + 1 < row_block) store_rows<Row + 1>(total, scale, out, stride);
}

// A block of rows times an unpacked tile; out [16][16]. The products of a group run while the sums of the group before it are
// scaled: two slots of registers and of memory alternate.
template <bool Biased, bool Wide>
__attribute__((noinline)) void grouped_tile(const QuantizedWeights& w, int64_t tile, const UnpackedTile& unpacked, const TileActivations& in,
                                            int64_t block, float* out, int64_t stride) {
    static_assert(tile_outputs == W && row_block == W);
    const TileScheme& s = in.scheme;
    const int64_t groups = s.groups();
    const NumbersOfVector scale(w.group_scale, groups, tile, 0), bias(w.group_bias, groups, tile, 0);
    const int8_t* zero_points = Biased && w.zero_points ? w.zero_points + tile * groups * tile_outputs : nullptr;
    const int8_t* rows = in.bytes_of(block);
    const float* row_scale = in.scale_of(block);
    const float* row_sum = in.sum_of(block);
    alignas(64) int32_t sums[2][2 * sums_of_tile];
    Vec total[row_block];
    clear_rows<0>(total);
    const auto multiply = [&](int64_t g) {
        const int64_t at = g * s.group;
        const int8_t *left = rows + at * row_block, *high = unpacked.high + at * tile_outputs, *low = unpacked.low + at * tile_outputs;
        g % 2 ? add_group<1, Wide>(s, left, high, low, sums[1]) : add_group<0, Wide>(s, left, high, low, sums[0]);
    };
    multiply(0);
    for (int64_t g = 0; g < groups; ++g) {
        if (g + 1 < groups) multiply(g + 1);
        const Vec group_scale = scale.of(g);
        Vec shift = zero();  // what a group adds for each unit of the sum of its inputs
        if constexpr (Biased) {
            const Vec zeros = zero_points ? load_int8(zero_points + g * tile_outputs) : splat(static_cast<float>(w.zero));
            shift = fma(group_scale, zero() - zeros, bias.of(g));
        }
        const GroupOfRows group{sums[g % 2], row_scale + g * row_block, row_sum + g * row_block, group_scale, shift};
        scale_rows<0, Biased, Wide>(group, total);
    }
    store_rows<0>(total, load(w.row_scale + tile * tile_outputs), out, stride);
}

// --- matrices with one scale for each output ---

// Up to two packed tiles that are multiplied together. The inputs after the last whole product are copied, padded with zeros.
struct RightFactors {
    const uint8_t* whole[2];
    const uint8_t* last[2];
    int64_t products;  // of whole tiles
};

// Sums [blocks of rows][tiles][16][16] that are multiplied but not yet scaled and stored.
struct UnfinishedSums {
    const Linear* args;
    const QuantizedWeights* weights;
    const TileActivations* in;
    const int32_t* sums;
    int64_t tile, tiles;  // packed tiles
    int64_t row, rows;
    int64_t finished = 0;  // rows
};

// Scales and stores the next n rows. Bias and residual are added where tiles_of_rows in products.cpp and `whole` in dots.h
// add them: this decides the rounding.
__attribute__((noinline)) void finish_rows(UnfinishedSums& u, int64_t n) {
    const Linear& a = *u.args;
    const int64_t column = u.tile * tile_outputs, width = min(u.tiles * tile_outputs, a.outputs - column);
    const bool full = width == u.tiles * tile_outputs, all = full && a.activation == Activation::none;
    Linear remaining = a;
    if (full) remaining.bias = nullptr;
    for (const int64_t last = min(u.rows, u.finished + n); u.finished < last; ++u.finished) {
        const int64_t r = u.finished, row = u.row + r, at = row * a.outputs + column;
        alignas(64) float spare[2 * tile_outputs];
        const Counts offset = count(-128 * static_cast<int32_t>(u.in->sum[row]));  // stored weights are value + 128
        const Vec row_scale = splat(u.in->scale[row]);
        for (int64_t t = 0; t < u.tiles; ++t) {
            const int32_t* sums = u.sums + (r / row_block * u.tiles + t) * sums_of_tile + r % row_block * tile_outputs;
            const Vec bias = full && a.bias ? load(a.bias + column + t * tile_outputs) : zero();
            const Vec scale = load(u.weights->row_scale + column + t * tile_outputs);
            const Vec v = fma(to_float(add(_mm512_load_si512(sums), offset)) * row_scale, scale, bias);
            const int64_t lane = at + t * tile_outputs;
            if (all)
                store(a.out + lane, a.residual ? v + load(a.residual + lane) : v);
            else
                store(spare + t * tile_outputs, v);
        }
        if (!all) finish<true>(remaining, spare, 2 * tile_outputs, row, 1, column, width);
    }
}

// One or two blocks of rows times one or two packed tiles; sums [Blocks][Tiles][16][16]. Rows of the block before are finished
// while the tiles multiply.
template <int Blocks, int Tiles, bool Cold>
__attribute__((noinline)) void multiply_whole(const RightFactors& right, const TileActivations& in, int64_t block, int32_t* sums,
                                              UnfinishedSums& before) {
    constexpr int64_t product_bytes = tile_register_rows * tile_register_bytes;
    const int8_t *above = in.bytes_of(block), *below = in.bytes_of(block + (Blocks > 1));
    const int64_t rows_between = divide_up(before.rows, max(1, right.products));
    zero_tile<0>();
    if constexpr (Tiles > 1) zero_tile<1>();
    if constexpr (Blocks > 1) zero_tile<2>();
    if constexpr (Blocks > 1 && Tiles > 1) zero_tile<3>();
    const auto product = [&](int64_t k, const uint8_t* first, const uint8_t* second) {
        load_tile<4>(above + k * product_bytes, tile_register_bytes);
        load_tile<6>(first, line_bytes);
        dot_bytes<0, 4, 6>();
        if constexpr (Tiles > 1) {
            load_tile<7>(second, line_bytes);
            dot_bytes<1, 4, 7>();
        }
        if constexpr (Blocks > 1) {
            load_tile<5>(below + k * product_bytes, tile_register_bytes);
            dot_bytes<2, 5, 6>();
            if constexpr (Tiles > 1) dot_bytes<3, 5, 7>();
        }
    };
    for (int64_t k = 0; k < right.products; ++k) {
        if constexpr (Cold)
            for (int64_t line = 0; line < product_bytes; line += 64)
                for (int tile = 0; tile < Tiles; ++tile) __builtin_prefetch(right.whole[tile] + k * product_bytes + ahead + line);
        product(k, right.whole[0] + k * product_bytes, right.whole[1] + k * product_bytes);
        if (before.finished < before.rows) finish_rows(before, rows_between);
    }
    if (right.products * tile_register_bytes < in.scheme.depth) product(right.products, right.last[0], right.last[1]);
    store_tile<0>(sums, 4 * tile_outputs);
    if constexpr (Tiles > 1) store_tile<1>(sums + sums_of_tile, 4 * tile_outputs);
    if constexpr (Blocks > 1) store_tile<2>(sums + Tiles * sums_of_tile, 4 * tile_outputs);
    if constexpr (Blocks > 1 && Tiles > 1) store_tile<3>(sums + 3 * sums_of_tile, 4 * tile_outputs);
    finish_rows(before, before.rows);
}

}  // namespace
}  // namespace pocketvlm::POCKETVLM_ISA
