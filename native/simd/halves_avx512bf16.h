// Pairs of bfloat16 numbers, sixteen at a time: products of pairs summed in float.
#pragma once

#include "simd/avx512.h"

namespace pocketvlm::POCKETVLM_ISA {
namespace {

using Pairs = __m512i;  // sixteen words; the low half of a word is the first of its pair

inline Pairs load_pairs(const uint32_t* p) { return _mm512_loadu_si512(p); }
inline void store_pairs(uint32_t* p, Pairs v) { _mm512_storeu_si512(p, v); }
inline Pairs repeat_pair(const uint32_t* p) { return _mm512_set1_epi32(static_cast<int32_t>(*p)); }

// sums + a.first * b.first + a.second * b.second. As assembly: gcc 12 moves the accumulators of the intrinsic about.
inline Vec dot2(Vec sums, Pairs a, Pairs b) {
    __asm__("vdpbf16ps %2, %1, %0" : "+v"(sums) : "v"(a), "v"(b));
    return sums;
}

// The same for half a vector.
using HalfVec = __m256;
using HalfPairs = __m256i;
inline HalfVec load_half_vec(const float* p) { return _mm256_loadu_ps(p); }
inline void store_half_vec(float* p, HalfVec v) { _mm256_storeu_ps(p, v); }
inline HalfPairs load_half_pairs(const uint32_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
inline HalfPairs repeat_half_pair(const uint32_t* p) { return _mm256_set1_epi32(static_cast<int32_t>(*p)); }
inline HalfVec dot2(HalfVec sums, HalfPairs a, HalfPairs b) {
    __asm__("vdpbf16ps %2, %1, %0" : "+v"(sums) : "v"(a), "v"(b));
    return sums;
}

// 2W neighbouring numbers as W pairs.
inline Pairs neighbours(Vec first, Vec second) { return (__m512i)_mm512_cvtne2ps_pbh(second, first); }

// W pairs (a[i], b[i]).
inline Pairs interleave(Vec a, Vec b) {
    alignas(64) static constexpr uint16_t order[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                                       8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    return _mm512_permutexvar_epi16(_mm512_load_si512(order), neighbours(a, b));
}

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
