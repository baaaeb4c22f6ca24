// Activations for tile registers: rows quantized like those of activations.h, to the same bytes, scales and sums, in blocks
// of sixteen rows that load as left factors.
#pragma once

#include "quantized/activations.h"

namespace pocketvlm::POCKETVLM_ISA {
namespace {

constexpr int64_t row_block = tile_register_rows;

// How many inputs one product of tiles covers: 64, or the largest equal part of a group that is not more.
inline int64_t part_of(int64_t group) {
    if (group <= tile_register_bytes) return group;
    int64_t parts = divide_up(group, tile_register_bytes);
    while (group % parts || group / parts % 4) ++parts;
    return group / parts;
}

struct TileScheme {
    int64_t inputs, depth, group, part;  // depth and group are multiples of the part

    int64_t groups() const { return depth / group; }
    int64_t parts() const { return depth / part; }
    bool operator==(const TileScheme&) const = default;
};

// A matrix with one scale for each output has one group, padded to whole products.
inline TileScheme tile_scheme_of(int64_t inputs, const QuantizedWeights& w) {
    if (w.grouped()) return TileScheme{.inputs = inputs, .depth = w.depth, .group = w.group, .part = part_of(w.group)};
    const int64_t depth = round_up(w.depth, tile_register_bytes);
    return TileScheme{.inputs = inputs, .depth = depth, .group = depth, .part = tile_register_bytes};
}

// A block has zero rows after the last.
struct TileActivations {
    int8_t* bytes;  // [blocks][parts][16][part]
    float* scale;   // [blocks][groups][16]
    float* sum;     // [blocks][groups][16], sums of the bytes
    TileScheme scheme;
    int64_t rows;

    int64_t blocks() const { return divide_up(rows, row_block); }
    const int8_t* bytes_of(int64_t block) const { return bytes + block * row_block * scheme.depth; }
    const float* scale_of(int64_t block) const { return scale + block * row_block * scheme.groups(); }
    const float* sum_of(int64_t block) const { return sum + block * row_block * scheme.groups(); }
};

inline size_t tile_activation_bytes(int64_t rows, const TileScheme& scheme) {
    return static_cast<size_t>(round_up(rows, row_block) * (scheme.depth + 8 * scheme.groups()));
}

inline TileActivations lay_out_tile_activations(float* memory, int64_t rows, const TileScheme& scheme) {
    const int64_t padded = round_up(rows, row_block);
    TileActivations t;
    t.bytes = reinterpret_cast<int8_t*>(memory);
    t.scale = reinterpret_cast<float*>(t.bytes + padded * scheme.depth);
    t.sum = t.scale + padded * scheme.groups();
    t.scheme = scheme, t.rows = rows;
    return t;
}

// x [n] as bytes [parts][part], `stride` bytes from part to part and zero after the n-th; returns their sum.
inline int32_t quantize_to_parts(const float* x, int64_t n, float inverse, int64_t group, int64_t part, int8_t* out, int64_t stride) {
    const Vec factor = splat(inverse);
    Counts sums = count(0);
    for (int64_t begin = 0; begin < group; begin += part, out += stride)
        for (int64_t k = 0; k < part; k += W) {
            const Vec v = load_some(x + begin + k, min(n - begin, part) - k) * factor;
            sums = add(sums, to_counts(v));
            if (part - k >= W) {
                store_bytes(out + k, v);
            } else {
                alignas(64) int8_t last[W];
                store_bytes(last, v);
                __builtin_memcpy(out + k, last, static_cast<size_t>(part - k));
            }
        }
    return sum(sums);
}

inline void quantize_to_tiles(Pool& pool, const float* x, const TileActivations& to) {
    const TileScheme& s = to.scheme;
    const int64_t groups = s.groups();
    parallel_ranges(pool, round_up(to.rows, row_block), 4, [&](int64_t first, int64_t last) {
        for (int64_t row = first; row < last; ++row) {
            const int64_t block = row / row_block, in_block = row % row_block;
            int8_t* bytes = to.bytes + block * row_block * s.depth + in_block * s.part;
            for (int64_t g = 0; g < groups; ++g, bytes += s.group * row_block) {
                const int64_t n = row < to.rows ? max(0, min(s.group, s.inputs - g * s.group)) : 0;
                const float* from = x + min(row, to.rows - 1) * s.inputs + min(g * s.group, s.inputs);
                const float maximum = largest(from, n);
                const int64_t at = (block * groups + g) * row_block + in_block;
                to.scale[at] = maximum / 127.0f;
                to.sum[at] = static_cast<float>(quantize_to_parts(from, n, inverse_of(maximum), s.group, s.part, bytes, s.part * row_block));
            }
        }
    });
}

}  // namespace
}  // namespace pocketvlm::POCKETVLM_ISA
