// What both NEON builds share: loading, splitting and converting bytes.
#pragma once

#include "simd/neon.h"

namespace pocketvlm::POCKETVLM_ISA {
namespace {

using Bytes = uint8x16_t;
using Counts = int32x4_t;

inline Bytes load_bytes(const uint8_t* p) { return vld1q_u8(p); }
inline Bytes repeat_four(const int8_t* p) {
    int32_t four;
    __builtin_memcpy(&four, p, 4);
    return vreinterpretq_u8_s32(vdupq_n_s32(four));
}
inline Bytes low_nibbles(Bytes b) { return vandq_u8(b, vdupq_n_u8(15)); }
inline Bytes high_nibbles(Bytes b) { return vshrq_n_u8(b, 4); }
inline Bytes look_up(const uint8_t* table, Bytes nibbles) { return vqtbl1q_u8(vld1q_u8(table), nibbles); }
inline Counts count(int32_t n) { return vdupq_n_s32(n); }
inline Counts add(Counts a, Counts b) { return vaddq_s32(a, b); }
inline Vec to_float(Counts c) { return vcvtq_f32_s32(c); }
inline Counts to_counts(Vec v) { return vcvtnq_s32_f32(v); }
inline Vec load_half(const uint16_t* p) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p))); }
// W whole numbers within -128..127 as bytes.
inline void store_bytes(int8_t* p, Vec v) {
    const int16x4_t pairs = vqmovn_s32(vcvtnq_s32_f32(v));
    const int32_t four = vget_lane_s32(vreinterpret_s32_s8(vqmovn_s16(vcombine_s16(pairs, pairs))), 0);
    __builtin_memcpy(p, &four, 4);
}
inline int32_t sum(Counts c) { return vaddvq_s32(c); }

// Stored weights, value + 128, as signed bytes.
inline int8x16_t signed_weights(Bytes weights) { return vreinterpretq_s8_u8(veorq_u8(weights, vdupq_n_u8(128))); }

}  // namespace
}  // namespace pocketvlm::POCKETVLM_ISA
