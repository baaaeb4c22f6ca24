// Attention of 32 queries to blocks of keys with products in tile registers: factors in bfloat16, sums and a running softmax in float32.
//
// Both products are transposed: scores [keys, queries] = keys x queries, then sums [dims, queries] += values x weights. Queries
// lie along the lanes of vectors, so the softmax sums across no vector, and two rows of weights are one row of the next factor.
//
// Dims are padded to 32 for scores (72 to 96) and to 16 for sums, so all registers have the largest shape. For 64 + 8 dims as many
// products would be needed, and a product should take as many cycles as its left factor has rows, whatever its depth.
#pragma once

#include "attention/bfloat16_block.h"
#include "attention/kv_rows.h"

namespace pocketvlm::POCKETVLM_ISA {
namespace {

constexpr int64_t tile_words = 256;                  // pairs of bfloat16 numbers, or float32 sums, of one tile
constexpr int64_t tile_depth = 32;                   // numbers of a row of a factor
constexpr int64_t tile_queries = 32;                 // queries of a block: two tiles
constexpr int64_t tile_keys = 256;                   // keys of a block: the scores take 32 KiB, so they stay in the first cache
constexpr int64_t query_scores = tile_keys * W;      // of one tile of queries

inline int64_t score_chunks(int64_t head_dim) { return divide_up(head_dim, tile_depth); }
inline int64_t dim_tiles(int64_t head_dim) { return divide_up(head_dim, W); }

inline int64_t tile_key_words(int64_t keys, int64_t head_dim) {
    return round_up(keys, tile_depth) / W * score_chunks(head_dim) * tile_words;
}
inline int64_t tile_value_words(int64_t keys, int64_t head_dim) { return divide_up(keys, tile_depth) * dim_tiles(head_dim) * tile_words; }
inline int64_t tile_query_words(int64_t head_dim) { return 2 * score_chunks(head_dim) * tile_words; }

// --- packing: row(k) is the address of a key or value; rows after the last are zero, up to a multiple of 32 ---

// Left factors [tiles of 16 keys][chunks of 32 dims][16 keys][32 dims]. pairs(key, d): the numbers of a key from d on.
template <class Row, class Pairs>
inline void pack_tile_keys(const Row& row, const Pairs& pairs, int64_t n, int64_t head_dim, uint32_t* out) {
    const int64_t chunks = score_chunks(head_dim);
    for (int64_t k = 0; k < round_up(n, tile_depth); ++k) {
        uint32_t* to = out + k / W * chunks * tile_words + k % W * W;
        if (k >= n) {
            for (int64_t c = 0; c < chunks; ++c) store_words(to + c * tile_words, (Bf16Pairs)zero());
            continue;
        }
        const auto* key = row(k);
        for (int64_t c = 0; c < chunks; ++c) store_words(to + c * tile_words, pairs(key, c * tile_depth));
    }
}

// Left factors [steps of 32 keys][tiles of 16 dims][16 dims][32 keys].
template <class T, class Row>
inline void pack_tile_values(const Row& row, int64_t n, int64_t head_dim, uint32_t* out) {
    const int64_t tiles = dim_tiles(head_dim);
    for (int64_t k = 0; k < n; k += tile_depth, out += tiles * tile_words) {
        const T* rows[tile_depth];
        for (int64_t i = 0; i < tile_depth; ++i) rows[i] = k + i < n ? row(k + i) : nullptr;
        for (int64_t d = 0; d < head_dim; d += 2 * W) {
            const auto numbers = [&](int64_t i) { return rows[i] ? pairs_of(rows[i] + d, head_dim - d) : (Bf16Pairs)zero(); };
            Vec low[W], high[W];  // pairs of keys, for 16 dims and for the next 16
#pragma GCC unroll 16
            for (int64_t j = 0; j < W; ++j) {
                const Bf16Pairs first = numbers(2 * j), second = numbers(2 * j + 1);
                low[j] = (Vec)interleave_low(first, second), high[j] = (Vec)interleave_high(first, second);
            }
            uint32_t* to = out + d / W * tile_words;
            transpose(low);
            for (int64_t i = 0; i < W; ++i) store_words(to + i * W, (Bf16Pairs)low[i]);
            if (d + W >= head_dim) break;
            transpose(high);
            for (int64_t i = 0; i < W; ++i) store_words(to + tile_words + i * W, (Bf16Pairs)high[i]);
        }
    }
}

// Right factors [2 tiles of 16 queries][chunks][16 pairs of dims][16 queries]; queries after the `used` ones are zero.
inline void pack_tile_queries(const float* const* rows, int64_t used, int64_t head_dim, uint32_t* out) {
    const int64_t pairs = divide_up(head_dim, 2), words = score_chunks(head_dim) * tile_words;
    for (int64_t first = 0; first < tile_queries; first += W, out += words) {
        transpose_bf16(rows + first, used - first, head_dim, out, W, W);
        clear(reinterpret_cast<float*>(out + pairs * W), words - pairs * W);
    }
}

// --- products ---

inline TileShapes attention_shapes() { return product_shapes(W, W, W); }

// Scores of 32 keys and 32 queries: query tile q at scores + q * query_scores, a row for each key.
inline void score_tiles(const uint32_t* keys, const uint32_t* queries, int64_t chunks, float* scores) {
    const uint32_t *more_keys = keys + chunks * tile_words, *more_queries = queries + chunks * tile_words;
    zero_tile<0>(), zero_tile<1>(), zero_tile<2>(), zero_tile<3>();
    for (int64_t c = 0; c < chunks * tile_words; c += tile_words) {
        load_tile<4>(keys + c, tile_register_bytes);
        load_tile<6>(queries + c, tile_register_bytes);
        dot_bfloat16<0, 4, 6>();
        load_tile<5>(more_keys + c, tile_register_bytes);
        dot_bfloat16<1, 5, 6>();
        load_tile<7>(more_queries + c, tile_register_bytes);
        dot_bfloat16<2, 4, 7>();
        dot_bfloat16<3, 5, 7>();
    }
    store_tile<0>(scores, tile_register_bytes);
    store_tile<1>(scores + tile_words, tile_register_bytes);
    store_tile<2>(scores + query_scores, tile_register_bytes);
    store_tile<3>(scores + query_scores + tile_words, tile_register_bytes);
}

// sums [Tiles of dims][2 tiles of queries] += values x weights over steps of 32 keys, `stride` words apart in the values.
template <int Tiles>
inline void weigh_tiles(const uint32_t* values, int64_t stride, const uint32_t* weights, int64_t steps, bool first, float* sums) {
    if (first) {
        zero_tile<0>(), zero_tile<2>();
        if constexpr (Tiles == 2) zero_tile<1>(), zero_tile<3>();
    } else {
        load_tile<0>(sums, tile_register_bytes), load_tile<2>(sums + tile_words, tile_register_bytes);
        if constexpr (Tiles == 2)
            load_tile<1>(sums + 2 * tile_words, tile_register_bytes), load_tile<3>(sums + 3 * tile_words, tile_register_bytes);
    }
    for (int64_t s = 0; s < steps; ++s, values += stride, weights += tile_words) {
        load_tile<4>(values, tile_register_bytes);
        load_tile<6>(weights, tile_register_bytes);
        dot_bfloat16<0, 4, 6>();
        load_tile<7>(weights + query_scores, tile_register_bytes);
        dot_bfloat16<2, 4, 7>();
        if constexpr (Tiles == 2) {
            load_tile<5>(values + tile_words, tile_register_bytes);
            dot_bfloat16<1, 5, 6>();
            dot_bfloat16<3, 5, 7>();
        }
    }
    store_tile<0>(sums, tile_register_bytes), store_tile<2>(sums + tile_words, tile_register_bytes);
    if constexpr (Tiles == 2)
        store_tile<1>(sums + 2 * tile_words, tile_register_bytes), store_tile<3>(sums + 3 * tile_words, tile_register_bytes);
}

// --- softmax ---

// The running softmax of 32 queries.
struct TileSoftmax {
    float* sums;   // [tiles of dims][2 tiles of queries][16 dims][16 queries]
    float* total;  // [32], the sums of weights
    float* top;    // [32]
};

inline int64_t tile_softmax_floats(int64_t head_dim) { return dim_tiles(head_dim) * 2 * tile_words + 2 * tile_queries; }

inline TileSoftmax lay_out_tile_softmax(float* memory, int64_t head_dim) {
    float* total = memory + dim_tiles(head_dim) * 2 * tile_words;
    return TileSoftmax{memory, total, total + tile_queries};
}

// A block of packed keys and values. Query j sees its first seen[j] keys; with null, all n.
struct TileBlock {
    const uint32_t *keys, *values;
    int64_t n;                               // at most tile_keys
    const float* seen;                       // [32]
    const float *key_scales, *value_scales;  // [n] or null: they multiply scores and weights
};

// The maxima of a tile's scores, each over the keys that its query sees; scales the scores.
template <bool Masked, bool Scaled>
inline Vec highest_scores(const TileBlock& b, Vec seen, float* scores) {
    const auto score = [&](int64_t k) {
        Vec x = load(scores + k * W);
        if constexpr (Scaled) store(scores + k * W, x = x * splat(b.key_scales[k]));
        return Masked ? where_less(splat(static_cast<float>(k)), seen, x, splat(-3.0e38f)) : x;
    };
    Vec top[4];
    for (Vec& v : top) v = splat(-3.0e38f);
    int64_t k = 0;
    for (; k + 4 <= b.n; k += 4)
#pragma GCC unroll 4
        for (int64_t i = 0; i < 4; ++i) top[i] = vmax(top[i], score(k + i));
    for (; k < b.n; ++k) top[0] = vmax(top[0], score(k));
    return vmax(vmax(top[0], top[1]), vmax(top[2], top[3]));
}

// Replaces a tile's scores by weights 2^(score * factor - top) in pairs of keys, zero for keys that a query does not see and
// up to a multiple of 32 keys. Returns their sums without the scales of values.
template <bool Masked, bool Scaled>
inline Vec weights_of_scores(const TileBlock& b, Vec seen, Vec factor, Vec top, float* scores) {
    uint32_t* weights = reinterpret_cast<uint32_t*>(scores);  // row k / 2 is written after scores k and k + 1 were read
    const Vec shift = zero() - top;
    Vec even = zero(), odd = zero();
    const auto weight = [&](int64_t k) {
        const Vec w = power_of_two(fma(load(scores + k * W), factor, shift));
        return Masked ? where_less(splat(static_cast<float>(k)), seen, w, zero()) : w;
    };
    const auto scaled = [&](Vec w, int64_t k) { return Scaled ? w * splat(b.value_scales[k]) : w; };
    int64_t k = 0;
    for (; k + 2 <= b.n; k += 2) {
        const Vec first = weight(k), second = weight(k + 1);
        even = even + first, odd = odd + second;
        store_words(weights + k / 2 * W, interleave(scaled(first, k), scaled(second, k + 1)));
    }
    if (k < b.n) {
        const Vec last = weight(k);
        even = even + last;
        store_words(weights + k / 2 * W, interleave(scaled(last, k), zero()));
        k += 2;
    }
    for (; k < round_up(b.n, tile_depth); k += 2) store_words(weights + k / 2 * W, (Bf16Pairs)zero());
    return even + odd;
}

template <bool Masked, bool Scaled>
__attribute__((noinline)) void weigh_scores(const TileSoftmax& s, const TileBlock& b, int64_t q, int64_t head_dim, bool first,
                                            float* scores) {
    const Vec factor = splat(1.44269504f / __builtin_sqrtf(static_cast<float>(head_dim)));  // powers of two, not of e
    const Vec seen = Masked ? load(b.seen + q * W) : zero();
    const Vec previous = first ? splat(-3.0e38f) : load(s.top + q * W);
    const Vec top = vmax(previous, highest_scores<Masked, Scaled>(b, seen, scores));
    Vec total = zero();
    if (!first) {
        total = load(s.total + q * W);
        if (max_of(top - previous) > 0.0f) {
            const Vec power = power_of_two(vmax((previous - top) * factor, splat(-200.0f)));
            const Vec shrink = where_less(previous, top, power, splat(1.0f));
            total = total * shrink;
            for (int64_t t = 0; t < dim_tiles(head_dim); ++t) {
                float* sums = s.sums + (2 * t + q) * tile_words;
#pragma GCC unroll 16
                for (int64_t i = 0; i < W; ++i) store(sums + i * W, load(sums + i * W) * shrink);
            }
        }
    }
    store(s.top + q * W, top);
    store(s.total + q * W, total + weights_of_scores<Masked, Scaled>(b, seen, factor, top * factor, scores));
}

// Adds a block of keys to the attention of packed queries; the first block begins the sums. scores is scratch [2 query_scores].
inline void add_tile_keys(const TileSoftmax& s, const TileBlock& b, const uint32_t* queries, int64_t head_dim, bool first, float* scores) {
    const int64_t chunks = score_chunks(head_dim), tiles = dim_tiles(head_dim), steps = divide_up(b.n, tile_depth);
    for (int64_t step = 0; step < steps; ++step)
        score_tiles(b.keys + step * 2 * chunks * tile_words, queries, chunks, scores + step * 2 * tile_words);
    const auto weigh = b.key_scales ? (b.seen ? weigh_scores<true, true> : weigh_scores<false, true>)
                                    : (b.seen ? weigh_scores<true, false> : weigh_scores<false, false>);
    for (int64_t q = 0; q < 2; ++q) weigh(s, b, q, head_dim, first, scores + q * query_scores);
    const uint32_t* weights = reinterpret_cast<const uint32_t*>(scores);
    int64_t t = 0;
    for (; t + 2 <= tiles; t += 2)
        weigh_tiles<2>(b.values + t * tile_words, tiles * tile_words, weights, steps, first, s.sums + 2 * t * tile_words);
    if (t < tiles) weigh_tiles<1>(b.values + t * tile_words, tiles * tile_words, weights, steps, first, s.sums + 2 * t * tile_words);
}

// The results of the first `used` queries; row(j) is where those of query j go.
template <class Row>
inline void finish_tile_queries(const TileSoftmax& s, int64_t used, int64_t head_dim, const Row& row) {
    for (int64_t q = 0; q * W < used; ++q) {
        const Vec inverse = splat(1.0f) / load(s.total + q * W);
        for (int64_t t = 0; t < dim_tiles(head_dim); ++t) {
            const float* sums = s.sums + (2 * t + q) * tile_words;
            Vec block[W];
#pragma GCC unroll 16
            for (int64_t i = 0; i < W; ++i) block[i] = load(sums + i * W) * inverse;
            transpose(block);
            for (int64_t j = 0; j < min(W, used - q * W); ++j) store_part(row(q * W + j) + t * W, block[j], head_dim - t * W);
        }
    }
}

}  // namespace
}  // namespace pocketvlm::POCKETVLM_ISA
