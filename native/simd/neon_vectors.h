// Shared by the NEON sets: four floats at a time, as on every 64-bit ARM processor; loading, splitting and converting bytes.
#pragma once

#include <arm_neon.h>

#include <cstdint>

#include "simd/layout.h"

namespace pocketvlm::POCKETVLM_ISA {
namespace {

using Vec = float32x4_t;
constexpr int64_t W = 4;
constexpr int vector_registers = 32;

inline Vec zero() { return vdupq_n_f32(0.0f); }
inline Vec splat(float x) { return vdupq_n_f32(x); }
inline Vec load(const float* p) { return vld1q_f32(p); }
inline Vec load_part(const float* p, int64_t n) {
    Vec v = zero();
    if (n > 0) v = vld1q_lane_f32(p, v, 0);
    if (n > 1) v = vld1q_lane_f32(p + 1, v, 1);
    if (n > 2) v = vld1q_lane_f32(p + 2, v, 2);
    if (n > 3) v = vld1q_lane_f32(p + 3, v, 3);
    return v;
}
inline void store(float* p, Vec v) { vst1q_f32(p, v); }
inline void store_part(float* p, Vec v, int64_t n) {
    if (n > 0) vst1q_lane_f32(p, v, 0);
    if (n > 1) vst1q_lane_f32(p + 1, v, 1);
    if (n > 2) vst1q_lane_f32(p + 2, v, 2);
    if (n > 3) vst1q_lane_f32(p + 3, v, 3);
}
inline Vec fma(Vec a, Vec b, Vec c) { return vfmaq_f32(c, a, b); }
// As on other processors: the second operand when one of them is NaN. FMAX and FMIN would give NaN in either case.
inline Vec vmax(Vec a, Vec b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }
inline Vec vmin(Vec a, Vec b) { return vbslq_f32(vcltq_f32(a, b), a, b); }
inline float sum(Vec v) { return vaddvq_f32(v); }
inline Vec where_less(Vec a, Vec b, Vec yes, Vec no) { return vbslq_f32(vcltq_f32(a, b), yes, no); }
inline Vec vabs(Vec v) { return vabsq_f32(v); }

// 2W bfloat16 numbers as they are in memory, and the even and the odd ones among them as floats.
inline Vec load_bits(const uint16_t* p) { return vreinterpretq_f32_u16(vld1q_u16(p)); }
inline Vec low_bf16(Vec bits) { return vreinterpretq_f32_u32(vshlq_n_u32(vreinterpretq_u32_f32(bits), 16)); }
inline Vec high_bf16(Vec bits) {
    return vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(bits), vdupq_n_u32(0xffff0000u)));
}

// p * 2^n for whole n in [-160, 160]; in two steps so that subnormal results and overflow come out right.
inline Vec scale_by_power(Vec p, Vec n) {
    const int32x4_t whole = vcvtnq_s32_f32(n), half = vshrq_n_s32(whole, 1), bias = vdupq_n_s32(127);
    const int32x4_t first = vshlq_n_s32(vaddq_s32(half, bias), 23);
    const int32x4_t second = vshlq_n_s32(vaddq_s32(vsubq_s32(whole, half), bias), 23);
    return vmulq_f32(vmulq_f32(p, vreinterpretq_f32_s32(first)), vreinterpretq_f32_s32(second));
}

// Transposes W rows into W columns.
inline void transpose(Vec* r) {
    const float64x2_t a = vreinterpretq_f64_f32(vtrn1q_f32(r[0], r[1])), b = vreinterpretq_f64_f32(vtrn2q_f32(r[0], r[1]));
    const float64x2_t c = vreinterpretq_f64_f32(vtrn1q_f32(r[2], r[3])), d = vreinterpretq_f64_f32(vtrn2q_f32(r[2], r[3]));
    r[0] = vreinterpretq_f32_f64(vtrn1q_f64(a, c));
    r[1] = vreinterpretq_f32_f64(vtrn1q_f64(b, d));
    r[2] = vreinterpretq_f32_f64(vtrn2q_f64(a, c));
    r[3] = vreinterpretq_f32_f64(vtrn2q_f64(b, d));
}

// --- bytes ---

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
// Codes of more than 4 bits: bits of another line, shifted left (right if n < 0) and joined to nibbles under a mask.
template <int n>
inline Bytes shifted(Bytes b) {
    if constexpr (n > 0) return vshlq_n_u8(b, n);
    if constexpr (n < 0) return vshrq_n_u8(b, -n);
    return b;
}
template <int mask>
inline Bytes with_bits(Bytes nibbles, Bytes bits) {
    return vorrq_u8(nibbles, vandq_u8(bits, vdupq_n_u8(mask)));
}
inline Bytes look_up(const uint8_t* codebook, Bytes nibbles) { return vqtbl1q_u8(vld1q_u8(codebook), nibbles); }
inline Counts count(int32_t n) { return vdupq_n_s32(n); }
inline Counts add(Counts a, Counts b) { return vaddq_s32(a, b); }
inline Vec to_float(Counts c) { return vcvtq_f32_s32(c); }
inline Counts to_counts(Vec v) { return vcvtnq_s32_f32(v); }
inline Vec load_float16(const uint16_t* p) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p))); }
inline Vec load_int8(const int8_t* p) {
    int32_t four;
    __builtin_memcpy(&four, p, 4);
    return vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(vreinterpret_s8_s32(vdup_n_s32(four))))));
}
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
