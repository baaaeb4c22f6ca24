// Quantizes rows of activations to signed bytes: x = scale * q with |q| <= 127, one scale for each group of inputs.
//
// Rows are interleaved in activation tiles: a tile holds, for every word of four inputs, the word of each of its rows. So a
// product reads its left side as one stream.
#pragma once

#include "quantized/quantized.h"
#include "simd/parallel.h"

namespace pocketvlm::POCKETVLM_ISA {
namespace {

constexpr int64_t tile_height = activation_layout.tile_rows, word = activation_layout.interleave;

// Products are built for few heights: a last, lower tile is padded with zero rows to the next of them.
inline int64_t height_of(int64_t rows) {
    if (rows >= tile_height) return tile_height;
    if (rows <= 4) return rows;
    if (rows <= 6) return 6;
    return rows <= 8 ? 8 : tile_height;
}

struct ActivationTile {
    const int8_t* words;    // [depth / word][height][word]
    const float* scale;     // [groups][height]
    const int32_t* offset;  // [groups][height], zero-point correction: added to the sum of stored weight * q, gives that of value * q
    const float* sum;       // [groups][height], sum of the bytes
};

// The sizes and the offset with which a product expects its activations.
struct ActivationScheme {
    int64_t inputs, depth, group;
    int32_t weight_offset;  // stored weight - value
};

struct Activations {
    int8_t* words;
    float* scale;
    int32_t* offset;
    float* sum;
    int64_t rows, depth, groups;

    ActivationTile tile_from(int64_t first) const {
        const int64_t g = first * groups;
        return ActivationTile{words + first * depth, scale + g, offset + g, sum + g};
    }
};

inline int64_t padded_rows(int64_t rows) { return rows / tile_height * tile_height + height_of(rows % tile_height); }

inline size_t activation_bytes(int64_t rows, const ActivationScheme& scheme) {
    return static_cast<size_t>(padded_rows(rows)) * static_cast<size_t>(scheme.depth + scheme.depth / scheme.group * 12) + 256;
}

inline Activations lay_out_activations(float* memory, int64_t rows, const ActivationScheme& scheme) {
    const int64_t padded = padded_rows(rows), groups = scheme.depth / scheme.group;
    Activations t;
    t.words = reinterpret_cast<int8_t*>(memory);
    t.scale = reinterpret_cast<float*>(t.words + round_up(padded * scheme.depth, 64));
    t.offset = reinterpret_cast<int32_t*>(t.scale + padded * groups);
    t.sum = reinterpret_cast<float*>(t.offset + padded * groups);
    t.rows = rows, t.depth = scheme.depth, t.groups = groups;
    return t;
}

inline float largest(const float* x, int64_t n) {
    Vec partial[4] = {zero(), zero(), zero(), zero()};  // four chains: a step waits for the step before it in its chain
    int64_t k = 0;
    for (; k + 4 * W <= n; k += 4 * W)
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) partial[i] = vmax(vabs(load(x + k + i * W)), partial[i]);
    Vec maximum = vmax(vmax(partial[0], partial[1]), vmax(partial[2], partial[3]));
    for (; k + W <= n; k += W) maximum = vmax(vabs(load(x + k)), maximum);
    if (k < n) maximum = vmax(vabs(load_part(x + k, n - k)), maximum);
    float lanes[W], result = 0.0f;
    store(lanes, maximum);
    for (int64_t i = 0; i < W; ++i) result = lanes[i] > result ? lanes[i] : result;
    return result;
}

// Below 1e-36 the inverse would overflow, so such a group counts as zero.
inline float inverse_of(float maximum) { return maximum > 1e-36f ? 127.0f / maximum : 0.0f; }

// x [n] as bytes q [padded], zero after the n-th; returns the scale and the sum of q. `padded` is a multiple of 8 and of a
// word; words are `stride` bytes apart.
inline float quantize_group(const float* x, int64_t n, int64_t padded, int8_t* q, int64_t stride, int32_t& total) {
    const float maximum = largest(x, n), scale = maximum / 127.0f;
    const Vec inverse = splat(inverse_of(maximum));
    Counts sums = count(0);
    alignas(64) int8_t bytes[W];
    for (int64_t k = 0; k < padded; k += W) {
        const Vec v = load_some(x + k, n - k) * inverse;
        sums = add(sums, to_counts(v));
        store_bytes(bytes, v);
        for (int64_t j = 0; j < W && k + j < padded; j += word) __builtin_memcpy(q + (k + j) / word * stride, bytes + j, word);
    }
    total = sum(sums);
    return scale;
}

// Groups [begin, end) of the tile of `rows` rows that begins with row `first`; x is that row.
inline void quantize_tile(const float* x, int64_t rows, const ActivationScheme& scheme, const Activations& to, int64_t first,
                          int64_t begin, int64_t end) {
    const int64_t height = height_of(rows), groups = to.groups;
    int8_t* words = to.words + first * scheme.depth;
    for (int64_t g = begin; g < end; ++g)
        for (int64_t r = 0; r < height; ++r) {
            const int64_t from = g * scheme.group, at = first * groups + g * height + r;
            int32_t total = 0;
            const int64_t n = r < rows ? max(0, min(scheme.group, scheme.inputs - from)) : 0;
            int8_t* row = words + from * height + word * r;
            to.scale[at] = quantize_group(x + r * scheme.inputs + from, n, scheme.group, row, word * height, total);
            to.offset[at] = -scheme.weight_offset * total;
            to.sum[at] = static_cast<float>(total);
        }
}

#if defined(POCKETVLM_TRANSPOSES_BYTES)
// The same for a tile of full height: bytes of W words at a time are transposed in registers.
inline void quantize_full_tile(const float* x, const ActivationScheme& scheme, const Activations& to, int64_t first, int64_t begin,
                               int64_t end) {
    static_assert(word == 4, "bytes_of makes words of four inputs");
    const int64_t stride = scheme.inputs;
    for (int64_t g = begin; g < end; ++g) {
        const int64_t from = g * scheme.group, at = first * to.groups + g * tile_height;
        const int64_t n = max(0, min(scheme.group, scheme.inputs - from));
        float inverse[tile_height];
        for (int64_t r = 0; r < tile_height; ++r) {
            const float maximum = largest(x + r * stride + from, n);
            to.scale[at + r] = maximum / 127.0f;
            inverse[r] = inverse_of(maximum);
        }
        Counts sums = count(0);
        int8_t* words = to.words + first * scheme.depth + from * tile_height;
        for (int64_t k = 0; k < scheme.group; k += 4 * W) {
            Vec block[W];
            for (int64_t r = 0; r < W; ++r) block[r] = zero();
#pragma GCC unroll 12
            for (int64_t r = 0; r < tile_height; ++r) {
                const float* row = x + r * stride + from;
                Vec v[4];
#pragma GCC unroll 4
                for (int64_t i = 0; i < 4; ++i) {
                    const int64_t j = k + i * W;
                    v[i] = load_some(row + j, n - j) * splat(inverse[r]);
                }
                block[r] = (Vec)bytes_of(v);
            }
            transpose(block);
            const int64_t steps = min(W, (scheme.group - k) / 4);
            for (int64_t s = 0; s < steps; ++s) {
                const Vec words_of_rows = block[s % 4 * 4 + s / 4];
                sums = add(sums, sum_of_words((Bytes)words_of_rows));
                store_part(reinterpret_cast<float*>(words + (k + 4 * s) * tile_height), words_of_rows, tile_height);
            }
        }
        int32_t totals[W];
        __builtin_memcpy(totals, &sums, sizeof totals);
        for (int64_t r = 0; r < tile_height; ++r) {
            to.offset[at + r] = -scheme.weight_offset * totals[r];
            to.sum[at + r] = static_cast<float>(totals[r]);
        }
    }
}
#endif

// Part `part` of `parts` of the groups of the tile that begins with row `first`. Source: StoredRows or ComputedRows
// (row_source.h).
template <class Source>
inline void quantize_part(const Source& source, int64_t rows, const ActivationScheme& scheme, const Activations& to, int64_t first,
                          int64_t part, int64_t parts, int worker) {
    const int64_t height = min(tile_height, rows - first), last = (part + 1) * to.groups / parts, together = source.groups_together(scheme);
    const auto tile = source.tile(first, height, worker);
    for (int64_t begin = part * to.groups / parts; begin < last; begin += together) {
        const int64_t end = min(last, begin + together);
        const float* x = tile.columns(begin * scheme.group, min(scheme.inputs, end * scheme.group));
#if defined(POCKETVLM_TRANSPOSES_BYTES)
        if (height == tile_height) {
            quantize_full_tile(x, scheme, to, first, begin, end);
            continue;
        }
#endif
        quantize_tile(x, height, scheme, to, first, begin, end);
    }
}

// Whether rows are too few to be worth sharing among threads.
inline bool takes_one_thread(int64_t rows, int64_t inputs) { return rows <= tile_height && rows * inputs < 4096; }

template <class Source>
inline void quantize_activations(Pool& pool, const Source& source, int64_t rows, const ActivationScheme& scheme, const Activations& to) {
    const int64_t tiles = divide_up(rows, tile_height);
    // Few tiles are split by groups so that every thread has work, unless the work is too small to share.
    const int64_t fair = rows * scheme.inputs < 4096 ? 1 : divide_up(2 * pool.threads(), tiles), parts = min(fair, to.groups);
    parallel(pool, tiles * parts, [&](int64_t task, int worker) {
        quantize_part(source, rows, scheme, to, task / parts * tile_height, task % parts, parts, worker);
    });
}

}  // namespace
}  // namespace pocketvlm::POCKETVLM_ISA
