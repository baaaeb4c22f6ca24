// Scores of twelve queries from bytes: products of bytes run at twice the rate of products of bfloat16 pairs.
//
// The mean key is taken away from every key first. It adds the same to all scores of a query, which no softmax sees, and
// where keys have it in common it would take most of the bytes' range.
#pragma once

#include "attention/half_block.h"
#include "simd/bytes.h"

namespace pocketvlm::POCKETVLM_ISA {
namespace {

// W rows (those behind the last are zero) less `shift`, as signed bytes with a scale each: out[word][row] holds four
// neighbouring numbers. Returns the sums of the rows' bytes. With Raised, 128 is added to every byte.
template <bool Raised>
inline Counts turn_bytes(const float* const* rows, long used, const float* shift, long head_dim, uint32_t* out, long stride, float* scale) {
    float inverse[W];
    for (long r = 0; r < W; ++r) {
        Vec most = zero();
        if (r < used)
            for (long d = 0; d < head_dim; d += W) most = vmax(vabs(load_some(rows[r] + d, head_dim - d) - load(shift + d)), most);
        const float m = _mm512_reduce_max_ps(most);
        scale[r] = m / 127.0f;
        inverse[r] = m > 1e-36f ? 127.0f / m : 0.0f;
    }
    Counts sums = count(0);
    for (long d = 0; d < head_dim; d += 4 * W) {
        Vec block[W];
        for (long r = 0; r < W; ++r) block[r] = zero();
        for (long r = 0; r < used; ++r) {
            Vec v[4];
#pragma GCC unroll 4
            for (long i = 0; i < 4; ++i) {
                const long at = d + i * W;
                v[i] = at < head_dim ? (load_some(rows[r] + at, head_dim - at) - load(shift + at)) * splat(inverse[r]) : zero();
            }
            block[r] = (Vec)bytes_of(v);
        }
        transpose(block);
        const long words = smaller(W, divide_up(head_dim - d, 4));
        for (long s = 0; s < words; ++s) {
            const Bytes word = (Bytes)block[s % 4 * 4 + s / 4];
            sums = add(sums, sum_of_words(word));
            store_pairs(out + (d / 4 + s) * stride, Raised ? _mm512_xor_si512(word, count(static_cast<int32_t>(0x80808080u))) : word);
        }
    }
    return sums;
}

// Keys of a view as [tiles of W keys][words][W], with a scale each.
template <class Row>
inline void pack_byte_keys(const Row& row, long n, long head_dim, float* mean, uint32_t* out, float* scale) {
    const long words = divide_up(head_dim, 4), width = round_up(head_dim, W);
    for (long d = 0; d < width; d += 4 * W) {
        Vec sums[4] = {zero(), zero(), zero(), zero()};
        const long vecs = smaller(4, (width - d) / W);
        for (long k = 0; k < n; ++k) {
            const float* key = row(k) + d;
            if (d + 4 * W <= head_dim) {
#pragma GCC unroll 4
                for (long i = 0; i < 4; ++i) sums[i] = sums[i] + load(key + i * W);
            } else {
#pragma GCC unroll 4
                for (long i = 0; i < 4; ++i) sums[i] = sums[i] + load_some(key + i * W, head_dim - d - i * W);
            }
        }
        for (long i = 0; i < vecs; ++i) store(mean + d + i * W, sums[i] * splat(1.0f / static_cast<float>(n)));
    }
    for (long k = 0; k < round_up(n, half_keys); k += W) {
        const float* rows[W];
        const long used = larger(0, smaller(W, n - k));
        for (long r = 0; r < used; ++r) rows[r] = row(k + r);
        turn_bytes<true>(rows, used, mean, head_dim, out + k * words, W, scale + k);
    }
}

// Queries as [words][half_rows], W words more at the end; offset: what the 128 in the bytes of keys adds to a sum, negative.
inline void pack_byte_queries(const float* const* rows, long used, long head_dim, const float* zeros, uint32_t* out, float* scale,
                              int32_t* offset) {
    const Counts sums = turn_bytes<false>(rows, used, zeros, head_dim, out, half_rows, scale);
    store_pairs(reinterpret_cast<uint32_t*>(offset), _mm512_mullo_epi32(sums, count(-128)));
}

struct ByteScores {
    const uint32_t* query;
    const float* query_scale;
    const int32_t* offset;
    const uint32_t* keys;
    const float* key_scale;
    long words;

    void operator()(long key, float* out) const;
    float scale(long r) const { return query_scale[r]; }
};

__attribute__((noinline)) void byte_tile(const ByteScores& s, const uint32_t* keys, const float* key_scale, float* out) {
    Counts sums[half_rows][2];
#pragma GCC unroll 12
    for (long r = 0; r < half_rows; ++r) sums[r][0] = sums[r][1] = count(s.offset[r]);
    const int8_t* query = reinterpret_cast<const int8_t*>(s.query);
    const uint32_t* second = keys + s.words * W;
    long left = s.words;
    do {
        const Bytes a = load_pairs(keys), b = load_pairs(second);
#pragma GCC unroll 12
        for (long r = 0; r < half_rows; ++r) {
            const Bytes four = repeat_four(query + 4 * r);
            sums[r][0] = dot8(sums[r][0], a, four);
            sums[r][1] = dot8(sums[r][1], b, four);
        }
        keys += W, second += W, query += 4 * half_rows;
    } while (--left > 0);
    const Vec low = load(key_scale), high = load(key_scale + W);
#pragma GCC unroll 12
    for (long r = 0; r < half_rows; ++r) {
        store(out + r * score_stride, to_float(sums[r][0]) * low);
        store(out + r * score_stride + W, to_float(sums[r][1]) * high);
    }
}

inline void ByteScores::operator()(long key, float* out) const { byte_tile(*this, keys + key * words, key_scale + key, out); }

}  // namespace
}  // namespace pocketvlm::POCKETVLM_ISA
