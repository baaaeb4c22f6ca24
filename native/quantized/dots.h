// Dot products of one activation tile with the 16 outputs of a packed tile. A row gets the same sums in a tile of any height:
// sums inside a group are integers, and groups are added in their order.
#pragma once

#include "quantized/activations.h"

namespace pocketvlm::POCKETVLM_ISA {
namespace {

constexpr int64_t tile_vectors = tile_outputs / W;  // vectors of outputs in a packed tile
constexpr int64_t vector_bytes = 4 * W;             // of a line
constexpr int64_t ahead = 3072, near = 512;         // prefetch distance in bytes: from memory, from the second cache
// whole_tiles: packed tiles with one scale for each output that are multiplied together. split_rows: up to so many rows, each
// sum is split in two to shorten the chain of additions. The number of registers limits both.
constexpr int whole_tiles = W == 16 ? 2 : 1;
constexpr int split_rows = W == 4 ? 4 : 2;
static_assert(word == 4, "these products read words of four inputs");

#if !defined(POCKETVLM_MULTIPLIES_MEMORY)
// Four inputs in memory, repeated for every output.
inline Counts dot8(Counts sums, Bytes weights, const int8_t* x) { return dot8(sums, weights, repeat_four(x)); }
inline Counts dot4(Counts sums, Bytes weights, const int8_t* x) { return dot4(sums, weights, repeat_four(x)); }
#endif

// Where a product writes the sums of a tile. Bias, residual and final_out are for products with one scale for each output.
struct Destination {
    float* out;
    int64_t stride;
    const float* bias;      // of the tile's columns, or null
    const float* residual;  // as out, or null
    const float* final_out;  // the final output, prefetched for writing even if `out` is scratch memory
    int64_t final_stride;

    Destination right(int64_t columns) const {
        return Destination{.out = out + columns,
                           .stride = stride,
                           .bias = bias ? bias + columns : nullptr,
                           .residual = residual ? residual + columns : nullptr,
                           .final_out = final_out + columns,
                           .final_stride = final_stride};
    }
};

enum class Kind { nibbles, five_bits, six_bits, offset_codebook, codebook, wide_codebook, bytes };

constexpr int bits_of(Kind kind) {
    if (kind == Kind::bytes) return 8;
    return kind == Kind::five_bits ? 5 : kind == Kind::six_bits ? 6 : 4;
}

// Codes of more than 4 bits: word `word` of the unit of lines at p, whose last line is `upper`.
template <int bits, int word>
inline Bytes joined_codes(const uint8_t* p, Bytes upper) {
    const Bytes line = load_bytes(p + word / 2 * line_bytes);
    constexpr int mask = ((1 << (bits - 4)) - 1) << 4;
    return with_bits<mask>(word % 2 ? high_nibbles(line) : low_nibbles(line), shifted<4 - upper_bit(bits, word)>(upper));
}

// Adds the products of this word and the next ones of a unit; odd words go to `odd`.
template <int Rows, int bits, int word = 0>
[[gnu::always_inline]] inline void add_joined(Counts* even, Counts* odd, const uint8_t* p, Bytes upper, const int8_t* x) {
    const Bytes codes = joined_codes<bits, word>(p, upper);
    Counts* sums = word % 2 ? odd : even;
#pragma GCC unroll 12
    for (int r = 0; r < Rows; ++r) sums[r] = dot4(sums[r], codes, repeat_four(x + 4 * (word * Rows + r)));
    if constexpr (word + 1 < unit_inputs(bits) / 4) add_joined<Rows, bits, word + 1>(even, odd, p, upper, x);
}

// The numbers of groups for one vector of outputs. Their type is looked at once a group, not once a product.
struct NumbersOfVector {
    NumbersOfVector(const GroupNumbers& n, int64_t groups, int64_t tile, int64_t v)
        : type(n.type), first((tile * groups) * tile_outputs + v * W), shift(n.shift), values(n.values) {
        factor = n.factor + (n.factor ? tile * n.factors(groups) * tile_outputs + v * W : 0);
    }

    Vec of(int64_t g) const {
        const int64_t at = first + g * tile_outputs;
        switch (type) {
            case NumberType::float16: return load_float16(static_cast<const uint16_t*>(values) + at);
            case NumberType::float32: return load(static_cast<const float*>(values) + at);
            case NumberType::int8:
                return load_int8(static_cast<const int8_t*>(values) + at) * load_float16(factor + (g >> shift) * tile_outputs);
            default: return zero();
        }
    }

    NumberType type;
    int64_t first;
    int shift;
    const void* values;
    const uint16_t* factor;
};

// Packed tiles with a scale, and perhaps a zero point or bias, for each group.
template <int Rows, Kind kind, bool Biased>
__attribute__((noinline)) void grouped(const QuantizedWeights& w, int64_t tile, const ActivationTile& in, const Destination& to) {
    constexpr bool split = Rows <= split_rows;
    constexpr bool wide = kind == Kind::wide_codebook;
    constexpr int bits = bits_of(kind), lines = unit_lines(bits);
    // Units without a loop: gcc 12 copies all sums at the ends of a loop, as many instructions as the products of half a line.
    constexpr int unrolled = W == 16 && Rows == tile_height && !wide && lines == 1 ? 8 : 1;
    const uint8_t* packed = w.packed + tile * w.lines() * line_bytes;
    const int64_t units = w.group / unit_inputs(bits), groups = w.groups();
    for (int64_t v = 0; v < tile_vectors; ++v) {
        const NumbersOfVector scale(w.group_scale, groups, tile, v), bias(w.group_bias, groups, tile, v);
        const int8_t* zero_points = Biased && w.zero_points ? w.zero_points + tile * groups * tile_outputs + v * W : nullptr;
        Vec total[Rows];
#pragma GCC unroll 12
        for (int r = 0; r < Rows; ++r) total[r] = zero();
        const uint8_t* p = packed + v * vector_bytes;
        const int8_t* x = in.words;
        for (int64_t g = 0; g < groups; ++g) {
            Counts sums[Rows], more[split || wide ? Rows : 1];  // of a wide codebook: high and low parts
#pragma GCC unroll 12
            for (int r = 0; r < Rows; ++r) sums[r] = count(in.offset[g * Rows + r]);
            if constexpr (split || wide)
#pragma GCC unroll 12
                for (int r = 0; r < Rows; ++r) more[r] = wide ? sums[r] : count(0);
            const auto dot = [](Counts to, Bytes weights, const int8_t* inputs) {
                constexpr bool eight = kind == Kind::bytes || kind == Kind::codebook;
                if constexpr (unrolled > 1) return eight ? dot8(to, weights, inputs) : dot4(to, weights, inputs);
                const Bytes four = repeat_four(inputs);
                return eight ? dot8(to, weights, four) : dot4(to, weights, four);
            };
            const auto take_unit = [&] {
                const Bytes bytes = load_bytes(p + (lines - 1) * line_bytes);
                if constexpr (Rows <= 8)
#pragma GCC unroll 5
                    for (int i = 0; i < lines; ++i) __builtin_prefetch(p + i * line_bytes + ahead);
                if constexpr (kind == Kind::five_bits || kind == Kind::six_bits) {
                    add_joined<Rows, bits>(sums, split ? more : sums, p, bytes, x);
                } else if constexpr (kind == Kind::bytes) {
#pragma GCC unroll 12
                    for (int r = 0; r < Rows; ++r) sums[r] = dot(sums[r], bytes, x + 4 * r);
                } else if constexpr (wide) {
#pragma GCC unroll 2
                    for (int half = 0; half < 2; ++half) {
                        const Bytes codes = half ? high_nibbles(bytes) : low_nibbles(bytes);
                        const Bytes high = look_up(w.codebook, codes), low = look_up(w.codebook_low, codes);
#pragma GCC unroll 12
                        for (int r = 0; r < Rows; ++r) {
                            const Bytes four = repeat_four(x + 4 * (half * Rows + r));
                            sums[r] = dot8(sums[r], high, four), more[r] = dot8(more[r], low, four);
                        }
                    }
                } else {
                    Bytes first = low_nibbles(bytes), second = high_nibbles(bytes);
                    if constexpr (kind == Kind::codebook || kind == Kind::offset_codebook) {
                        const uint8_t* values = kind == Kind::codebook ? w.codebook : w.offset_codebook;
                        first = look_up(values, first), second = look_up(values, second);
                    }
#pragma GCC unroll 12
                    for (int r = 0; r < Rows; ++r) sums[r] = dot(sums[r], first, x + 4 * r);
#pragma GCC unroll 12
                    for (int r = 0; r < Rows; ++r) {
                        Counts& to = split ? more[split ? r : 0] : sums[r];
                        to = dot(to, second, x + 4 * (Rows + r));
                    }
                }
                p += lines * line_bytes, x += unit_inputs(bits) * Rows;
            };
            int64_t remaining = units;
            // A group has at least one unit: a loop that may run zero times copies all sums.
            if (unrolled > 1 && units % unrolled == 0) {
                do {
#pragma GCC unroll 8
                    for (int i = 0; i < unrolled; ++i) take_unit();
                } while ((remaining -= unrolled) > 0);
            } else {
                do take_unit();
                while (--remaining > 0);
            }
            const Vec s = scale.of(g);
            Vec shift = zero();  // what a group adds for each unit of the sum of its inputs
            if constexpr (Biased) {
                const Vec zeros = zero_points ? load_int8(zero_points + g * tile_outputs) : splat(static_cast<float>(w.zero));
                shift = fma(s, zero() - zeros, bias.of(g));
            }
#pragma GCC unroll 12
            for (int r = 0; r < Rows; ++r) {
                Vec part;
                if constexpr (wide)
                    part = fma(to_float(sums[r]), splat(256.0f), to_float(more[r])) * s;
                else
                    part = to_float(split ? add(sums[r], more[split ? r : 0]) : sums[r]) * s;
                if constexpr (Biased) part = fma(shift, splat(in.sum[g * Rows + r]), part);
                total[r] = fma(part, splat(in.scale[g * Rows + r]), total[r]);
            }
        }
#pragma GCC unroll 12
        for (int r = 0; r < Rows; ++r) store(to.out + r * to.stride + v * W, total[r] * load(w.row_scale + tile * tile_outputs + v * W));
    }
}

// Packed tiles of bytes with one scale for each output: an activation row is one group. Cache lines that will be written are
// prefetched one row at a time, because prefetching all of them at once would delay the weights that the sums need.
template <int Rows, int Tiles>
__attribute__((noinline)) void whole(const QuantizedWeights& w, int64_t tile, const ActivationTile& in, const Destination& to) {
    constexpr int vecs = Tiles * tile_vectors;
    const int64_t tile_bytes = w.lines() * line_bytes;
    const uint8_t* p = w.packed + tile * tile_bytes;
    const int8_t* x = in.words;
    Counts sums[Rows][vecs];
#pragma GCC unroll 12
    for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 4
        for (int v = 0; v < vecs; ++v) sums[r][v] = count(in.offset[r]);
    const float *final_out = to.final_out, *residual = to.residual;
    int64_t remaining = w.lines();
    const int64_t every = Rows > 4 ? divide_up(remaining, 2 * Rows) : remaining;
    int asked = 0;
    do {
        if (Rows > 4 && asked < Rows) {
            ++asked;
            for (int i = 0; i < Tiles; ++i) __builtin_prefetch(final_out + i * tile_outputs, 1);
            final_out += to.final_stride;
            if (residual) {
                for (int i = 0; i < Tiles; ++i) __builtin_prefetch(residual + i * tile_outputs);
                residual += to.stride;
            }
        }
        int64_t n = min(remaining, every);
        remaining -= n;
        do {
            Bytes weights[vecs];
#pragma GCC unroll 4
            for (int v = 0; v < vecs; ++v) {
                const uint8_t* from = p + v / tile_vectors * tile_bytes + v % tile_vectors * vector_bytes;
                weights[v] = load_bytes(from);
                if (v % tile_vectors == 0) __builtin_prefetch(from + (Rows <= 4 ? ahead : near));
            }
#pragma GCC unroll 12
            for (int r = 0; r < Rows; ++r) {
                const Bytes four = repeat_four(x + 4 * r);
#pragma GCC unroll 4
                for (int v = 0; v < vecs; ++v) sums[r][v] = dot8(sums[r][v], weights[v], four);
            }
            p += line_bytes, x += 4 * Rows;
        } while (--n > 0);
    } while (remaining > 0);
    Vec scale[vecs], bias[vecs];
#pragma GCC unroll 4
    for (int v = 0; v < vecs; ++v) {
        scale[v] = load(w.row_scale + tile * tile_outputs + v * W);
        bias[v] = to.bias ? load(to.bias + v * W) : zero();
    }
    if (to.residual) {
#pragma GCC unroll 12
        for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 4
            for (int v = 0; v < vecs; ++v)
                store(to.out + r * to.stride + v * W, fma(to_float(sums[r][v]) * splat(in.scale[r]), scale[v], bias[v]) +
                                                          load(to.residual + r * to.stride + v * W));
    } else {
#pragma GCC unroll 12
        for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 4
            for (int v = 0; v < vecs; ++v)
                store(to.out + r * to.stride + v * W, fma(to_float(sums[r][v]) * splat(in.scale[r]), scale[v], bias[v]));
    }
}

template <int Rows, Kind kind>
inline void grouped_of(const QuantizedWeights& w, int64_t tile, const ActivationTile& in, const Destination& to) {
    w.biased() ? grouped<Rows, kind, true>(w, tile, in, to) : grouped<Rows, kind, false>(w, tile, in, to);
}

template <int Rows>
inline void dots_of_rows(const QuantizedWeights& w, int64_t tile, int64_t tiles, const ActivationTile& in, Destination to) {
    if (!w.grouped()) {
        for (; tiles >= whole_tiles; tiles -= whole_tiles, tile += whole_tiles, to = to.right(whole_tiles * tile_outputs))
            whole<Rows, whole_tiles>(w, tile, in, to);
        for (; tiles > 0; --tiles, ++tile, to = to.right(tile_outputs)) whole<Rows, 1>(w, tile, in, to);
        return;
    }
    for (; tiles > 0; --tiles, ++tile, to = to.right(tile_outputs)) {
        if (w.bits == 8)
            grouped_of<Rows, Kind::bytes>(w, tile, in, to);
        else if (w.bits == 6)
            grouped_of<Rows, Kind::six_bits>(w, tile, in, to);
        else if (w.bits == 5)
            grouped_of<Rows, Kind::five_bits>(w, tile, in, to);
        else if (w.codebook_low)
            grouped_of<Rows, Kind::wide_codebook>(w, tile, in, to);
        else if (w.codebook && w.codebook_offset >= 0)
            grouped_of<Rows, Kind::offset_codebook>(w, tile, in, to);
        else if (w.codebook)
            grouped_of<Rows, Kind::codebook>(w, tile, in, to);
        else
            grouped_of<Rows, Kind::nibbles>(w, tile, in, to);
    }
}

// The activation tile that begins with row `first` times `tiles` packed tiles from `tile` on, for height_of(rows) rows.
inline void dots(const QuantizedWeights& w, int64_t tile, int64_t tiles, const Activations& in, int64_t first, const Destination& to) {
    const ActivationTile rows = in.tile_from(first);
    switch (height_of(in.rows - first)) {
        case 1: return dots_of_rows<1>(w, tile, tiles, rows, to);
        case 2: return dots_of_rows<2>(w, tile, tiles, rows, to);
        case 3: return dots_of_rows<3>(w, tile, tiles, rows, to);
        case 4: return dots_of_rows<4>(w, tile, tiles, rows, to);
        case 6: return dots_of_rows<tile_height == 12 ? 6 : 1>(w, tile, tiles, rows, to);
        case 8: return dots_of_rows<tile_height == 12 ? 8 : 1>(w, tile, tiles, rows, to);
        default: return dots_of_rows<tile_height>(w, tile, tiles, rows, to);
    }
}

}  // namespace
}  // namespace pocketvlm::POCKETVLM_ISA
