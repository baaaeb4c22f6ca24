// Shared by the AVX-512 sets: sixteen floats at a time (F, BW, DQ and VL); loading, splitting and converting bytes.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "simd/layout.h"

#define POCKETVLM_TRANSPOSES_BYTES

namespace pocketvlm::POCKETVLM_ISA {
namespace {

using Vec = __m512;
constexpr int64_t W = 16;
constexpr int vector_registers = 32;

inline __mmask16 first_lanes(int64_t n) {
    if (n >= W) return static_cast<__mmask16>(0xffff);
    return n <= 0 ? static_cast<__mmask16>(0) : static_cast<__mmask16>((1u << n) - 1u);
}

inline Vec zero() { return _mm512_setzero_ps(); }
inline Vec splat(float x) { return _mm512_set1_ps(x); }
inline Vec load(const float* p) { return _mm512_loadu_ps(p); }
inline Vec load_part(const float* p, int64_t n) { return _mm512_maskz_loadu_ps(first_lanes(n), p); }
inline void store(float* p, Vec v) { _mm512_storeu_ps(p, v); }
inline void store_part(float* p, Vec v, int64_t n) { _mm512_mask_storeu_ps(p, first_lanes(n), v); }
inline Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
inline Vec vmax(Vec a, Vec b) { return _mm512_max_ps(a, b); }
inline Vec vmin(Vec a, Vec b) { return _mm512_min_ps(a, b); }
inline float sum(Vec v) {
    const __m256 h = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
inline Vec where_less(Vec a, Vec b, Vec yes, Vec no) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), no, yes);
}
inline Vec vabs(Vec v) { return _mm512_abs_ps(v); }

// 2W bfloat16 numbers as they are in memory, and the even and the odd ones among them as floats.
inline Vec load_bits(const uint16_t* p) { return _mm512_castsi512_ps(_mm512_loadu_si512(p)); }
inline Vec low_bf16(Vec bits) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(bits), 16)); }
inline Vec high_bf16(Vec bits) {
    return _mm512_castsi512_ps(
        _mm512_and_si512(_mm512_castps_si512(bits), _mm512_set1_epi32(static_cast<int>(0xffff0000u))));
}

// p * 2^n for whole n.
inline Vec scale_by_power(Vec p, Vec n) { return _mm512_scalef_ps(p, n); }

// Transposes W rows into W columns.
inline void transpose(Vec* r) {
    __m512 t[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < 16; i += 4) {
        r[i] = _mm512_shuffle_ps(t[i], t[i + 2], 0x44);
        r[i + 1] = _mm512_shuffle_ps(t[i], t[i + 2], 0xee);
        r[i + 2] = _mm512_shuffle_ps(t[i + 1], t[i + 3], 0x44);
        r[i + 3] = _mm512_shuffle_ps(t[i + 1], t[i + 3], 0xee);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
        t[i] = _mm512_shuffle_f32x4(r[i], r[i + 4], 0x88);
        t[i + 4] = _mm512_shuffle_f32x4(r[i], r[i + 4], 0xdd);
        t[i + 8] = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0x88);
        t[i + 12] = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0xdd);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
        r[i] = _mm512_shuffle_f32x4(t[i], t[i + 8], 0x88);
        r[i + 8] = _mm512_shuffle_f32x4(t[i], t[i + 8], 0xdd);
        r[i + 4] = _mm512_shuffle_f32x4(t[i + 4], t[i + 12], 0x88);
        r[i + 12] = _mm512_shuffle_f32x4(t[i + 4], t[i + 12], 0xdd);
    }
}

// --- bytes ---

using Bytes = __m512i;
using Counts = __m512i;

inline Bytes load_bytes(const uint8_t* p) { return _mm512_loadu_si512(p); }
inline Bytes repeat_four(const int8_t* p) {
    int32_t four;
    __builtin_memcpy(&four, p, 4);
    return _mm512_set1_epi32(four);
}
inline Bytes low_nibbles(Bytes b) { return _mm512_and_si512(b, _mm512_set1_epi8(15)); }
inline Bytes high_nibbles(Bytes b) { return _mm512_and_si512(_mm512_srli_epi16(b, 4), _mm512_set1_epi8(15)); }
// Codes of more than 4 bits: bits of another line, shifted left (right if n < 0) and joined to nibbles under a mask. Shifted
// bytes may hold bits of their neighbours.
template <int n>
inline Bytes shifted(Bytes b) {
    if constexpr (n == 0) return b;
    return n > 0 ? _mm512_slli_epi16(b, n > 0 ? n : 0) : _mm512_srli_epi16(b, n < 0 ? -n : 0);
}
template <int mask>
inline Bytes with_bits(Bytes nibbles, Bytes bits) {
    return _mm512_ternarylogic_epi32(nibbles, bits, _mm512_set1_epi8(mask), 0xf8);  // nibbles | (bits & mask)
}
inline Bytes look_up(const uint8_t* codebook, Bytes nibbles) {
    const __m128i sixteen = _mm_loadu_si128(reinterpret_cast<const __m128i*>(codebook));
    return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(sixteen), nibbles);
}
inline Counts count(int32_t n) { return _mm512_set1_epi32(n); }
inline Counts add(Counts a, Counts b) { return _mm512_add_epi32(a, b); }
inline Vec to_float(Counts c) { return _mm512_cvtepi32_ps(c); }
inline Vec load_float16(const uint16_t* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
inline Vec load_int8(const int8_t* p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}
// W whole numbers within -128..127 as bytes.
inline void store_bytes(int8_t* p, Vec v) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(v)));
}
// 4W whole numbers within -128..127 as bytes in order of their quarters: word 4 i + j holds four numbers of v[j], from 4 i on.
inline Bytes bytes_of(const Vec* v) {
    const __m512i low = _mm512_packs_epi32(_mm512_cvtps_epi32(v[0]), _mm512_cvtps_epi32(v[1]));
    const __m512i high = _mm512_packs_epi32(_mm512_cvtps_epi32(v[2]), _mm512_cvtps_epi32(v[3]));
    return _mm512_packs_epi16(low, high);
}
// The sum of the four signed bytes of each word.
inline Counts sum_of_words(Bytes b) {
    return _mm512_madd_epi16(_mm512_maddubs_epi16(_mm512_set1_epi8(1), b), _mm512_set1_epi16(1));
}
inline int32_t sum(Counts c) { return _mm512_reduce_add_epi32(c); }
inline Counts to_counts(Vec v) { return _mm512_cvtps_epi32(v); }

}  // namespace
}  // namespace pocketvlm::POCKETVLM_ISA
