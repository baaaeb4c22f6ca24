// What both AVX2 builds share: loading, splitting and converting bytes.
#pragma once

#include "simd/avx2.h"

namespace pocketvlm::POCKETVLM_ISA {
namespace {

using Bytes = __m256i;
using Counts = __m256i;
inline Bytes load_bytes(const uint8_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
inline Bytes repeat_four(const int8_t* p) {
    int32_t four;
    __builtin_memcpy(&four, p, 4);
    return _mm256_set1_epi32(four);
}
inline Bytes low_nibbles(Bytes b) { return _mm256_and_si256(b, _mm256_set1_epi8(15)); }
inline Bytes high_nibbles(Bytes b) { return _mm256_and_si256(_mm256_srli_epi16(b, 4), _mm256_set1_epi8(15)); }
inline Bytes look_up(const uint8_t* table, Bytes nibbles) {
    const __m128i sixteen = _mm_loadu_si128(reinterpret_cast<const __m128i*>(table));
    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(sixteen), nibbles);
}
inline Counts count(int32_t n) { return _mm256_set1_epi32(n); }
inline Counts add(Counts a, Counts b) { return _mm256_add_epi32(a, b); }
inline Vec to_float(Counts c) { return _mm256_cvtepi32_ps(c); }
inline Counts to_counts(Vec v) { return _mm256_cvtps_epi32(v); }
inline Vec load_half(const uint16_t* p) { return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
inline void store_bytes(int8_t* p, Vec v) {
    const __m256i n = _mm256_cvtps_epi32(v);
    const __m128i pairs = _mm_packs_epi32(_mm256_castsi256_si128(n), _mm256_extracti128_si256(n, 1));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packs_epi16(pairs, pairs));
}
inline int32_t sum(Counts c) {
    __m128i s = _mm_add_epi32(_mm256_castsi256_si128(c), _mm256_extracti128_si256(c, 1));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1)));
}

}  // namespace
}  // namespace pocketvlm::POCKETVLM_ISA
