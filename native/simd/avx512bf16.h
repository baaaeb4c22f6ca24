// AVX-512 with BF16: products of bfloat16 pairs summed in float, sixteen pairs at a time. Products of bytes are those of VNNI.
#pragma once

#include "simd/avx512vnni.h"

#define POCKETVLM_BFLOAT16_PRODUCTS

namespace pocketvlm::POCKETVLM_ISA {
namespace {

using Bf16Pairs = __m512i;  // sixteen words; the low half of a word is the first of its pair

inline Bf16Pairs load_words(const uint32_t* p) { return _mm512_loadu_si512(p); }
inline void store_words(uint32_t* p, Bf16Pairs v) { _mm512_storeu_si512(p, v); }
inline Bf16Pairs repeat_word(const uint32_t* p) { return _mm512_set1_epi32(static_cast<int32_t>(*p)); }

// sums + a.first * b.first + a.second * b.second. As assembly: gcc 12 moves the accumulators of the intrinsic about.
inline Vec dot2(Vec sums, Bf16Pairs a, Bf16Pairs b) {
    __asm__("vdpbf16ps %2, %1, %0" : "+v"(sums) : "v"(a), "v"(b));
    return sums;
}

// bfloat16 numbers as they are in memory, 2W of them or the first n < 2W.
inline Bf16Pairs load_bf16(const uint16_t* p) { return _mm512_loadu_si512(p); }
inline Bf16Pairs load_bf16_part(const uint16_t* p, int64_t n) {
    return _mm512_maskz_loadu_epi16(static_cast<__mmask32>((1u << n) - 1u), p);
}
inline void store_bf16(uint16_t* p, Bf16Pairs v) { _mm512_storeu_si512(p, v); }

// The same for half a vector.
using HalfVec = __m256;
using HalfVecPairs = __m256i;
inline HalfVec load_half_vec(const float* p) { return _mm256_loadu_ps(p); }
inline void store_half_vec(float* p, HalfVec v) { _mm256_storeu_ps(p, v); }
inline HalfVecPairs load_half_words(const uint32_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
inline HalfVecPairs repeat_half_word(const uint32_t* p) { return _mm256_set1_epi32(static_cast<int32_t>(*p)); }
inline HalfVec dot2(HalfVec sums, HalfVecPairs a, HalfVecPairs b) {
    __asm__("vdpbf16ps %2, %1, %0" : "+v"(sums) : "v"(a), "v"(b));
    return sums;
}

// 2W neighbouring numbers as W pairs.
inline Bf16Pairs neighbours(Vec first, Vec second) { return (__m512i)_mm512_cvtne2ps_pbh(second, first); }

// W pairs (a[i], b[i]).
inline Bf16Pairs interleave(Vec a, Vec b) {
    alignas(64) static constexpr uint16_t order[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                                       8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    return _mm512_permutexvar_epi16(_mm512_load_si512(order), neighbours(a, b));
}

// The first and the last W pairs (a[i], b[i]) of 2W bfloat16 numbers each.
inline Bf16Pairs interleave_low(Bf16Pairs a, Bf16Pairs b) {
    alignas(64) static constexpr uint16_t order[32] = {0, 32, 1, 33, 2,  34, 3,  35, 4,  36, 5,  37, 6,  38, 7,  39,
                                                       8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47};
    return _mm512_permutex2var_epi16(a, _mm512_load_si512(order), b);
}
inline Bf16Pairs interleave_high(Bf16Pairs a, Bf16Pairs b) {
    alignas(64) static constexpr uint16_t order[32] = {16, 48, 17, 49, 18, 50, 19, 51, 20, 52, 21, 53, 22, 54, 23, 55,
                                                       24, 56, 25, 57, 26, 58, 27, 59, 28, 60, 29, 61, 30, 62, 31, 63};
    return _mm512_permutex2var_epi16(a, _mm512_load_si512(order), b);
}

// The sum of the lanes of each of four vectors.
using Vec4 = __m128;
inline void store_four(float* p, Vec4 v) { _mm_storeu_ps(p, v); }
inline float first_of(Vec4 v) { return _mm_cvtss_f32(v); }
inline Vec4 sums_of(Vec a, Vec b, Vec c, Vec d) {
    const __m512d ab = _mm512_castps_pd(_mm512_unpacklo_ps(a, b) + _mm512_unpackhi_ps(a, b));
    const __m512d cd = _mm512_castps_pd(_mm512_unpacklo_ps(c, d) + _mm512_unpackhi_ps(c, d));
    const Vec all = _mm512_castpd_ps(_mm512_unpacklo_pd(ab, cd)) + _mm512_castpd_ps(_mm512_unpackhi_pd(ab, cd));
    const __m256 half = _mm512_castps512_ps256(all) + _mm512_extractf32x8_ps(all, 1);
    return _mm256_castps256_ps128(half) + _mm256_extractf128_ps(half, 1);
}

inline float max_of(Vec v) { return _mm512_reduce_max_ps(v); }
// The first n lanes of v (zero after them), and the maximum of best and v in these lanes; any n.
inline Vec first_of(Vec v, int64_t n) { return _mm512_maskz_mov_ps(first_lanes(n), v); }
inline Vec max_part(Vec best, Vec v, int64_t n) { return _mm512_mask_max_ps(best, first_lanes(n), best, v); }

// On words of four bytes: exclusive or, and products with one number.
inline Counts exclusive_or(Counts a, Counts b) { return _mm512_xor_si512(a, b); }
inline Counts multiply_words(Counts a, int32_t factor) { return _mm512_mullo_epi32(a, count(factor)); }

// 2^x for x <= 0, to 8e-5 of its value: enough for what is rounded to bfloat16.
inline Vec power_of_two(Vec x) {
    const Vec n = _mm512_roundscale_ps(x, 0), r = x - n;
    Vec p = fma(splat(0.05517149f), r, splat(0.24261111f));
    p = fma(p, r, splat(0.69326102f));
    p = fma(p, r, splat(0.99992808f));
    return _mm512_scalef_ps(p, n);
}

}  // namespace
}  // namespace pocketvlm::POCKETVLM_ISA
