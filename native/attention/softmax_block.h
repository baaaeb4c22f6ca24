// Adds one block of keys to the attention of one block of queries; the running softmax is carried from block to block.
//
// Queries lie along vector lanes ("lanes"), keys along rows: scores [keys][lanes]. So the softmax needs no sum across a
// vector, and the probabilities already have the layout of the left side of the second product.
#pragma once

#include "simd/math.h"
#include "simd/pack.h"
#include "simd/parallel.h"
#include "simd/tile.h"

namespace pocketvlm::POCKETVLM_ISA {
namespace {

constexpr int64_t lanes = main_width;
constexpr int64_t key_tile = main_rows;
constexpr int64_t key_block = 16 * key_tile;  // multiple of key_tile
constexpr float lowest = -3.0e38f;

inline int64_t padded(int64_t head_dim) { return round_up(head_dim, W); }

// Keys [n][head_dim] as tiles of key_tile keys, each depth first; a tile takes key_tile * head_dim floats, W more at the end.
inline void pack_keys(const float* keys, int64_t stride, int64_t n, int64_t head_dim, float* out) {
    for (int64_t i = 0; i < n; i += key_tile)
        pack_columns(keys + i * stride, stride, min(key_tile, n - i), head_dim, out + i * head_dim, key_tile);
}

// Values [n][head_dim] with rows of whole vectors.
inline void pack_values(const float* values, int64_t stride, int64_t n, int64_t head_dim, float* out) {
    const int64_t width = padded(head_dim);
    for (int64_t i = 0; i < n; ++i, out += width) {
        copy(out, values + i * stride, head_dim);
        clear(out + head_dim, width - head_dim);
    }
}

// The running softmax of `lanes` queries.
struct Softmax {
    float* maximum;  // [lanes]
    float* total;    // [lanes]
    float* sums;     // [lanes][padded(head_dim)]
};

inline void begin(const Softmax& s, int64_t width) {
    for (int64_t j = 0; j < lanes; ++j) s.maximum[j] = lowest, s.total[j] = 0.0f;
    clear(s.sums, lanes * width);
}

// Add n keys. query [head_dim][lanes] is scaled; used lanes come first; scores is scratch [key_block][lanes].
// With `last_key` [lanes], lane j sees only keys i <= last_key[j].
inline void add_keys(const Softmax& s, const float* query, const float* keys, const float* values, int64_t n, int64_t head_dim,
                     int64_t used, float* scores, const float* last_key) {
    const int64_t width = padded(head_dim), vecs = divide_up(used, W);
    for (int64_t i = 0; i < n; i += key_tile) {
        const Product product{head_dim, keys + i * head_dim, key_tile, query, lanes, scores + i * lanes, lanes};
        multiply(min(key_tile, n - i), vecs, product, false);
    }
    alignas(64) float shrink[lanes];
    bool moved = false;
    for (int64_t v = 0; v < vecs; ++v) {
        float* column = scores + v * W;
        const Vec limit = last_key ? load(last_key + v * W) : splat(3.0e38f);
        const Vec previous = load(s.maximum + v * W);
        Vec top = previous;
        if (last_key)
            for (int64_t i = 0; i < n; ++i) {
                const Vec masked = where_less(limit, splat(static_cast<float>(i)), splat(lowest), load(column + i * lanes));
                store(column + i * lanes, masked);
                top = vmax(top, masked);
            }
        else
            for (int64_t i = 0; i < n; ++i) top = vmax(top, load(column + i * lanes));
        const Vec factor = exp(previous - top);
        Vec total = load(s.total + v * W) * factor;
        for (int64_t i = 0; i < n; ++i) {
            const Vec e = exp(load(column + i * lanes) - top);
            // A lane whose every key so far is masked has top = lowest, so its masked scores need a zero of their own.
            const Vec p = last_key ? where_less(limit, splat(static_cast<float>(i)), zero(), e) : e;
            store(column + i * lanes, p);
            total = total + p;
        }
        store(s.maximum + v * W, top);
        store(s.total + v * W, total);
        store(shrink + v * W, factor);
    }
    for (int64_t j = 0; j < used; ++j) moved = moved || shrink[j] != 1.0f;
    if (moved)
        for (int64_t j = 0; j < used; ++j) {
            float* sums = s.sums + j * width;
            for (int64_t d = 0; d < width; d += W) store(sums + d, load(sums + d) * splat(shrink[j]));
        }
    multiply(used, width / W, Product{n, scores, lanes, values, width, s.sums, width}, true);
}

// Lane j's result.
inline void finish_lane(const Softmax& s, int64_t j, int64_t head_dim, float* out) {
    const Vec factor = splat(1.0f / s.total[j]);
    const float* sums = s.sums + j * padded(head_dim);
    int64_t d = 0;
    for (; d + W <= head_dim; d += W) store(out + d, load(sums + d) * factor);
    if (d < head_dim) store_part(out + d, load(sums + d) * factor, head_dim - d);
}

}  // namespace
}  // namespace pocketvlm::POCKETVLM_ISA
