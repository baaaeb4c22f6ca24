// What both AVX-512 builds share: loading, splitting and converting bytes.
#pragma once

#include "simd/avx512.h"

namespace pocketvlm::POCKETVLM_ISA {
namespace {

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
inline Bytes look_up(const uint8_t* table, Bytes nibbles) {
    const __m128i sixteen = _mm_loadu_si128(reinterpret_cast<const __m128i*>(table));
    return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(sixteen), nibbles);
}
inline Counts count(int32_t n) { return _mm512_set1_epi32(n); }
inline Counts add(Counts a, Counts b) { return _mm512_add_epi32(a, b); }
inline Vec to_float(Counts c) { return _mm512_cvtepi32_ps(c); }
inline Vec load_half(const uint16_t* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
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
