// Rows of activations as signed bytes: x = scale * q with |q| <= 127, one scale for each group of inputs.
//
// Rows lie in tiles: a tile holds, for every four inputs, one word of each of its rows. So a product reads its left side
// from one place that moves on evenly.
#pragma once

#include "coded/coded.h"
#include "simd/bytes.h"
#include "simd/parallel.h"

namespace pocketvlm::POCKETVLM_ISA {
namespace {

// Rows of a tile. A last, lower tile is filled up with zeros to one of these heights.
constexpr long tile_height = W == 16 ? 12 : 4;

inline long height_of(long rows) { return rows >= tile_height ? tile_height : rows <= 4 ? rows : rows <= 6 ? 6 : rows <= 8 ? 8 : tile_height; }

struct Tile {
    const int8_t* words;    // [depth / 4][height][4]
    const float* scale;     // [groups][height]
    const int32_t* offset;  // [groups][height], what to add to the sum of code * x for that of value * x
    const float* sum;       // [groups][height], sum of the bytes
};

// How a product wants its rows.
struct Form {
    long inputs, depth, group;
    int32_t excess;  // code - value
};

struct Tiles {
    int8_t* words;
    float* scale;
    int32_t* offset;
    float* sum;
    long rows, depth, groups;

    Tile tile(long first) const {
        const long g = first * groups;
        return Tile{words + first * depth, scale + g, offset + g, sum + g};
    }
};

inline long padded_rows(long rows) { return rows / tile_height * tile_height + height_of(rows % tile_height); }

inline size_t tiles_bytes(long rows, const Form& f) {
    return static_cast<size_t>(padded_rows(rows)) * static_cast<size_t>(f.depth + f.depth / f.group * 12) + 256;
}

inline Tiles lay_out_tiles(float* memory, long rows, const Form& f) {
    const long padded = padded_rows(rows), groups = f.depth / f.group;
    Tiles t;
    t.words = reinterpret_cast<int8_t*>(memory);
    t.scale = reinterpret_cast<float*>(t.words + round_up(padded * f.depth, 64));
    t.offset = reinterpret_cast<int32_t*>(t.scale + padded * groups);
    t.sum = reinterpret_cast<float*>(t.offset + padded * groups);
    t.rows = rows, t.depth = f.depth, t.groups = groups;
    return t;
}

inline float largest(const float* x, long n) {
    Vec some[4] = {zero(), zero(), zero(), zero()};  // several chains: each step of one waits for the step before
    long k = 0;
    for (; k + 4 * W <= n; k += 4 * W)
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) some[i] = vmax(vabs(load(x + k + i * W)), some[i]);
    Vec most = vmax(vmax(some[0], some[1]), vmax(some[2], some[3]));
    for (; k + W <= n; k += W) most = vmax(vabs(load(x + k)), most);
    if (k < n) most = vmax(vabs(load_part(x + k, n - k)), most);
    float lanes[W], best = 0.0f;
    store(lanes, most);
    for (long i = 0; i < W; ++i) best = lanes[i] > best ? lanes[i] : best;
    return best;
}

// Below this the inverse would overflow: such a group is zero for every purpose.
inline float inverse_of(float most) { return most > 1e-36f ? 127.0f / most : 0.0f; }

// x [n] as bytes q [padded] with zeros behind; returns the scale and the sum of q. padded is a multiple of 8 and of four
// bytes a word, which are `stride` bytes apart.
inline float quantize(const float* x, long n, long padded, int8_t* q, long stride, int32_t& total) {
    const float most = largest(x, n), scale = most / 127.0f;
    const Vec inverse = splat(inverse_of(most));
    Counts sums = count(0);
    alignas(64) int8_t bytes[W];
    for (long k = 0; k < padded; k += W) {
        const Vec v = (k + W <= n ? load(x + k) : k < n ? load_part(x + k, n - k) : zero()) * inverse;
        sums = add(sums, to_counts(v));
        store_bytes(bytes, v);
        for (long j = 0; j < W && k + j < padded; j += 4) __builtin_memcpy(q + (k + j) / 4 * stride, bytes + j, 4);
    }
    total = sum(sums);
    return scale;
}

// Groups [begin, end) of the tile of `rows` rows that begins with row `first`.
inline void quantize_tile(const float* x, long rows, const Form& f, const Tiles& to, long first, long begin, long end) {
    const long height = height_of(rows), groups = to.groups;
    int8_t* words = to.words + first * f.depth;
    for (long g = begin; g < end; ++g)
        for (long r = 0; r < height; ++r) {
            const long from = g * f.group, at = first * groups + g * height + r;
            int32_t total = 0;
            const long n = r < rows ? larger(0, smaller(f.group, f.inputs - from)) : 0;
            to.scale[at] = quantize(x + (first + r) * f.inputs + from, n, f.group, words + from * height + 4 * r, 4 * height, total);
            to.offset[at] = -f.excess * total;
            to.sum[at] = static_cast<float>(total);
        }
}

#if POCKETVLM_ISA_NUMBER(POCKETVLM_ISA) >= POCKETVLM_ISA_avx512
// The same of a tile of full height: bytes of W steps at a time are turned in registers.
inline void quantize_full_tile(const float* x, const Form& f, const Tiles& to, long first, long begin, long end) {
    const long stride = f.inputs;
    x += first * stride;
    for (long g = begin; g < end; ++g) {
        const long from = g * f.group, at = first * to.groups + g * tile_height, n = larger(0, smaller(f.group, f.inputs - from));
        float inverse[tile_height];
        for (long r = 0; r < tile_height; ++r) {
            const float most = largest(x + r * stride + from, n);
            to.scale[at + r] = most / 127.0f;
            inverse[r] = inverse_of(most);
        }
        Counts sums = count(0);
        int8_t* words = to.words + first * f.depth + from * tile_height;
        for (long k = 0; k < f.group; k += 4 * W) {
            Vec block[W];
            for (long r = 0; r < W; ++r) block[r] = zero();
#pragma GCC unroll 12
            for (long r = 0; r < tile_height; ++r) {
                const float* row = x + r * stride + from;
                Vec v[4];
#pragma GCC unroll 4
                for (long i = 0; i < 4; ++i) {
                    const long j = k + i * W;
                    v[i] = (j + W <= n ? load(row + j) : j < n ? load_part(row + j, n - j) : zero()) * splat(inverse[r]);
                }
                block[r] = (Vec)bytes_of(v);
            }
            transpose(block);
            const long steps = smaller(W, (f.group - k) / 4);
            for (long s = 0; s < steps; ++s) {
                const Vec word = block[s % 4 * 4 + s / 4];
                sums = add(sums, sum_of_words((Bytes)word));
                store_part(reinterpret_cast<float*>(words + (k + 4 * s) * tile_height), word, tile_height);
            }
        }
        int32_t totals[W];
        __builtin_memcpy(totals, &sums, sizeof totals);
        for (long r = 0; r < tile_height; ++r) {
            to.offset[at + r] = -f.excess * totals[r];
            to.sum[at + r] = static_cast<float>(totals[r]);
        }
    }
}
#endif

inline void quantize_rows(Pool& pool, const float* x, long rows, const Form& f, const Tiles& to) {
    const long tiles = divide_up(rows, tile_height), fair = rows * f.inputs < 4096 ? 1 : divide_up(2L * pool.threads(), tiles);
    const long parts = smaller(fair, to.groups);
    parallel(pool, tiles * parts, [&](long task, int) {
        const long first = task / parts * tile_height, part = task % parts;
        const long begin = part * to.groups / parts, end = (part + 1) * to.groups / parts;
#if POCKETVLM_ISA_NUMBER(POCKETVLM_ISA) >= POCKETVLM_ISA_avx512
        if (rows - first >= tile_height) return quantize_full_tile(x, f, to, first, begin, end);
#endif
        quantize_tile(x, smaller(tile_height, rows - first), f, to, first, begin, end);
    });
}

}  // namespace
}  // namespace pocketvlm::POCKETVLM_ISA
