// The portable build: vectors of four floats in the compiler's extension, which become SSE2, NEON or plain code. Loops over
// bytes are left to the compiler to vectorize.
#pragma once

#include <cstdint>
#include <cstring>

#include "simd/layout.h"

namespace pocketvlm::POCKETVLM_ISA {
namespace {

typedef float Vec __attribute__((vector_size(16)));
typedef uint32_t Bits __attribute__((vector_size(16)));
constexpr int64_t W = 4;
constexpr int vector_registers = 16;

inline Vec splat(float x) { return Vec{x, x, x, x}; }
inline Vec zero() { return splat(0.0f); }
inline Vec load(const float* p) {
    Vec v;
    std::memcpy(&v, p, sizeof v);
    return v;
}
inline Vec load_part(const float* p, int64_t n) {
    Vec v = zero();
    for (int64_t i = 0; i < W && i < n; ++i) v[i] = p[i];
    return v;
}
inline void store(float* p, Vec v) { std::memcpy(p, &v, sizeof v); }
inline void store_part(float* p, Vec v, int64_t n) {
    for (int64_t i = 0; i < W && i < n; ++i) p[i] = v[i];
}
inline Vec fma(Vec a, Vec b, Vec c) { return a * b + c; }
// As the vector instructions do: the second operand when one of them is NaN.
inline Vec vmax(Vec a, Vec b) { return a > b ? a : b; }
inline Vec vmin(Vec a, Vec b) { return a < b ? a : b; }
inline float sum(Vec v) { return (v[0] + v[2]) + (v[1] + v[3]); }
inline Vec where_less(Vec a, Vec b, Vec yes, Vec no) { return a < b ? yes : no; }
inline Vec vabs(Vec v) { return (Vec)((Bits)v & 0x7fffffffu); }

// 2W bfloat16 numbers as they are in memory, and the even and the odd ones among them as floats.
inline Vec load_bits(const uint16_t* p) {
    Vec v;
    std::memcpy(&v, p, sizeof v);
    return v;
}
inline Vec low_bf16(Vec bits) { return (Vec)((Bits)bits << 16); }
inline Vec high_bf16(Vec bits) { return (Vec)((Bits)bits & 0xffff0000u); }

// p * 2^n for whole n in [-160, 160]; in two steps so that subnormal results and overflow come out right.
inline Vec scale_by_power(Vec p, Vec n) {
    typedef int32_t Whole __attribute__((vector_size(16)));
    // n + 1.5 * 2^23 holds n in its low bits: no conversion, which a NaN would not survive.
    const Whole whole = (Whole)(n + splat(12582912.0f)) - 0x4b400000, half = whole >> 1;
    return p * (Vec)((half + 127) << 23) * (Vec)((whole - half + 127) << 23);
}

// Transposes W rows into W columns.
inline void transpose(Vec* r) {
    const Vec a = r[0], b = r[1], c = r[2], d = r[3];
    r[0] = Vec{a[0], b[0], c[0], d[0]};
    r[1] = Vec{a[1], b[1], c[1], d[1]};
    r[2] = Vec{a[2], b[2], c[2], d[2]};
    r[3] = Vec{a[3], b[3], c[3], d[3]};
}

// --- bytes ---

constexpr ActivationLayout activation_layout{.weight_offset = 0, .interleave = 4, .tile_rows = 4};

struct Bytes {
    int16_t b[4 * W];
};
typedef int32_t Counts __attribute__((vector_size(16)));
inline Bytes load_bytes(const uint8_t* p) {
    Bytes out;
    for (int64_t i = 0; i < 4 * W; ++i) out.b[i] = p[i];
    return out;
}
inline Bytes repeat_four(const int8_t* p) {
    Bytes out;
    for (int64_t i = 0; i < 4 * W; ++i) out.b[i] = p[i % 4];
    return out;
}
inline Bytes low_nibbles(Bytes b) {
    for (auto& v : b.b) v &= 15;
    return b;
}
inline Bytes high_nibbles(Bytes b) {
    for (auto& v : b.b) v >>= 4;
    return b;
}
// Codes of more than 4 bits: bits of another line, shifted left (right if n < 0) and joined to nibbles under a mask.
template <int n>
inline Bytes shifted(Bytes b) {
    for (auto& v : b.b) v = static_cast<int16_t>(n > 0 ? v << (n > 0 ? n : 0) : v >> (n < 0 ? -n : 0));
    return b;
}
template <int mask>
inline Bytes with_bits(Bytes nibbles, Bytes bits) {
    for (int64_t i = 0; i < 4 * W; ++i) nibbles.b[i] = static_cast<int16_t>(nibbles.b[i] | (bits.b[i] & mask));
    return nibbles;
}
inline Bytes look_up(const uint8_t* codebook, Bytes nibbles) {
    for (auto& v : nibbles.b) v = codebook[v];
    return nibbles;
}
inline Counts count(int32_t n) { return Counts{n, n, n, n}; }
inline Counts add(Counts a, Counts b) { return a + b; }
inline Vec to_float(Counts c) { return __builtin_convertvector(c, Vec); }
inline int32_t sum(Counts c) { return (c[0] + c[2]) + (c[1] + c[3]); }

inline Vec load_float16(const uint16_t* p) {
    Vec out;
    for (int64_t i = 0; i < W; ++i) {
        const uint32_t bits = p[i], sign = (bits & 0x8000u) << 16, magnitude = bits & 0x7fffu;
        // Exponent and mantissa moved into place, then rebased by a product, which is right for subnormals too.
        const uint32_t moved = magnitude << 13;
        float value;
        std::memcpy(&value, &moved, 4);
        value *= 0x1p112f;
        out[i] = sign ? -value : value;
    }
    return out;
}

inline Vec load_int8(const int8_t* p) {
    Vec out;
    for (int64_t i = 0; i < W; ++i) out[i] = p[i];
    return out;
}

// Rounds to the nearest whole number, to even between two; the sum holds it in its low bits.
inline Counts to_counts(Vec v) { return (Counts)(v + splat(12582912.0f)) - 0x4b400000; }
inline void store_bytes(int8_t* p, Vec v) {
    const Counts n = to_counts(v);
    for (int64_t i = 0; i < W; ++i) p[i] = static_cast<int8_t>(n[i]);
}

inline Counts dot4(Counts sums, Bytes weights, Bytes x) {
    for (int64_t i = 0; i < W; ++i) {
        int32_t s = 0;
        for (int64_t j = 0; j < 4; ++j) s += weights.b[4 * i + j] * x.b[4 * i + j];
        sums[i] += s;
    }
    return sums;
}
inline Counts dot8(Counts sums, Bytes weights, Bytes x) {
    for (auto& w : weights.b) w = static_cast<int16_t>(w - 128);
    return dot4(sums, weights, x);
}

}  // namespace
}  // namespace pocketvlm::POCKETVLM_ISA
