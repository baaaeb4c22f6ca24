// Attention scores of twelve queries in 8-bit integers, whose products run at twice the rate of bfloat16 products.
//
// The mean key is subtracted from every key first. It adds the same to all scores of a query, so the softmax does not change,
// and a mean far from zero would take most of the range of the bytes.
#pragma once

#include "attention/bfloat16_block.h"
#include "simd/simd.h"

namespace pocketvlm::POCKETVLM_ISA {
namespace {

// W rows (zero after the last) minus `shift`, as signed bytes with a scale each: out[word][row] holds four
// neighbouring numbers. Returns the sums of the rows' bytes. With AddOffset, 128 is added to every byte.
template <bool AddOffset>
inline Counts transpose_bytes(const float* const* rows, int64_t used, const float* shift, int64_t head_dim, uint32_t* out, int64_t stride,
                              float* scale) {
    float inverse[W];
    for (int64_t r = 0; r < W; ++r) {
        Vec maximum = zero();
        if (r < used)
            for (int64_t d = 0; d < head_dim; d += W) maximum = vmax(vabs(load_some(rows[r] + d, head_dim - d) - load(shift + d)), maximum);
        const float m = max_of(maximum);
        scale[r] = m / 127.0f;
        inverse[r] = m > 1e-36f ? 127.0f / m : 0.0f;
    }
    Counts sums = count(0);
    for (int64_t d = 0; d < head_dim; d += 4 * W) {
        Vec block[W];
        for (int64_t r = 0; r < W; ++r) block[r] = zero();
        for (int64_t r = 0; r < used; ++r) {
            Vec v[4];
#pragma GCC unroll 4
            for (int64_t i = 0; i < 4; ++i) {
                const int64_t at = d + i * W;
                v[i] = at < head_dim ? (load_some(rows[r] + at, head_dim - at) - load(shift + at)) * splat(inverse[r]) : zero();
            }
            block[r] = (Vec)bytes_of(v);
        }
        transpose(block);
        const int64_t words = min(W, divide_up(head_dim - d, 4));
        for (int64_t s = 0; s < words; ++s) {
            const Bytes word = (Bytes)block[s % 4 * 4 + s / 4];
            sums = add(sums, sum_of_words(word));
            store_words(out + (d / 4 + s) * stride, AddOffset ? exclusive_or(word, count(static_cast<int32_t>(0x80808080u))) : word);
        }
    }
    return sums;
}

// The mean of n keys, in whole vectors.
template <class Row>
inline void mean_of_keys(const Row& row, int64_t n, int64_t head_dim, float* mean) {
    const int64_t width = round_up(head_dim, W);
    for (int64_t d = 0; d < width; d += 4 * W) {
        Vec sums[4] = {zero(), zero(), zero(), zero()};
        const int64_t vecs = min(4, (width - d) / W);
        for (int64_t k = 0; k < n; ++k) {
            const float* key = row(k) + d;
            if (d + 4 * W <= head_dim) {
#pragma GCC unroll 4
                for (int64_t i = 0; i < 4; ++i) sums[i] = sums[i] + load(key + i * W);
            } else {
#pragma GCC unroll 4
                for (int64_t i = 0; i < 4; ++i) sums[i] = sums[i] + load_some(key + i * W, head_dim - d - i * W);
            }
        }
        for (int64_t i = 0; i < vecs; ++i) store(mean + d + i * W, sums[i] * splat(1.0f / static_cast<float>(n)));
    }
}

// Keys of a view as [tiles of W keys][words][W], with a scale each.
template <class Row>
inline void pack_byte_keys(const Row& row, int64_t n, int64_t head_dim, float* mean, uint32_t* out, float* scale) {
    const int64_t words = divide_up(head_dim, 4);
    mean_of_keys(row, n, head_dim, mean);
    for (int64_t k = 0; k < round_up(n, bf16_keys); k += W) {
        const float* rows[W];
        const int64_t used = max(0, min(W, n - k));
        for (int64_t r = 0; r < used; ++r) rows[r] = row(k + r);
        transpose_bytes<true>(rows, used, mean, head_dim, out + k * words, W, scale + k);
    }
}

// Queries as [words][bf16_rows], W words more at the end; offset: what the 128 in the bytes of keys adds to a sum, negative.
inline void pack_byte_queries(const float* const* rows, int64_t used, int64_t head_dim, const float* zeros, uint32_t* out, float* scale,
                              int32_t* offset) {
    const Counts sums = transpose_bytes<false>(rows, used, zeros, head_dim, out, bf16_rows, scale);
    store_words(reinterpret_cast<uint32_t*>(offset), multiply_words(sums, -128));
}

struct ByteScores {
    const uint32_t* query;
    const float* query_scale;
    const int32_t* offset;
    const uint32_t* keys;
    const float* key_scale;
    int64_t words;

    void operator()(int64_t key, float* out) const;
    float scale(int64_t r) const { return query_scale[r]; }
};

__attribute__((noinline)) void byte_tile(const ByteScores& s, const uint32_t* keys, const float* key_scale, float* out) {
    Counts sums[bf16_rows][2];
#pragma GCC unroll 12
    for (int64_t r = 0; r < bf16_rows; ++r) sums[r][0] = sums[r][1] = count(s.offset[r]);
    const int8_t* query = reinterpret_cast<const int8_t*>(s.query);
    const uint32_t* second = keys + s.words * W;
    int64_t remaining = s.words;
    do {
        const Bytes a = load_words(keys), b = load_words(second);
#pragma GCC unroll 12
        for (int64_t r = 0; r < bf16_rows; ++r) {
            const Bytes four = repeat_four(query + 4 * r);
            sums[r][0] = dot8(sums[r][0], a, four);
            sums[r][1] = dot8(sums[r][1], b, four);
        }
        keys += W, second += W, query += 4 * bf16_rows;
    } while (--remaining > 0);
    const Vec low = load(key_scale), high = load(key_scale + W);
#pragma GCC unroll 12
    for (int64_t r = 0; r < bf16_rows; ++r) {
        store(out + r * score_stride, to_float(sums[r][0]) * low);
        store(out + r * score_stride + W, to_float(sums[r][1]) * high);
    }
}

inline void ByteScores::operator()(int64_t key, float* out) const { byte_tile(*this, keys + key * words, key_scale + key, out); }

}  // namespace
}  // namespace pocketvlm::POCKETVLM_ISA
