// Plain loops over bytes, which the compiler may turn into what the machine has.
#pragma once

#include "simd/serial.h"

namespace pocketvlm::POCKETVLM_ISA {
namespace {

struct Bytes {
    int16_t b[4 * W];
};
typedef int32_t Counts __attribute__((vector_size(16)));
constexpr int dot8_excess = 0;

inline Bytes load_bytes(const uint8_t* p) {
    Bytes out;
    for (long i = 0; i < 4 * W; ++i) out.b[i] = p[i];
    return out;
}
inline Bytes repeat_four(const int8_t* p) {
    Bytes out;
    for (long i = 0; i < 4 * W; ++i) out.b[i] = p[i % 4];
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
inline Bytes look_up(const uint8_t* table, Bytes nibbles) {
    for (auto& v : nibbles.b) v = table[v];
    return nibbles;
}
inline Counts count(int32_t n) { return Counts{n, n, n, n}; }
inline Counts add(Counts a, Counts b) { return a + b; }
inline Vec to_float(Counts c) { return __builtin_convertvector(c, Vec); }
inline int32_t sum(Counts c) { return (c[0] + c[2]) + (c[1] + c[3]); }

inline Vec load_half(const uint16_t* p) {
    Vec out;
    for (long i = 0; i < W; ++i) {
        const uint32_t bits = p[i], sign = (bits & 0x8000u) << 16, rest = bits & 0x7fffu;
        // Exponent and mantissa moved into place, then rebased by a product, which is right for subnormals too.
        const uint32_t moved = rest << 13;
        float value;
        std::memcpy(&value, &moved, 4);
        value *= 0x1p112f;
        out[i] = sign ? -value : value;
    }
    return out;
}

// Rounds to the nearest whole number, to even between two; the sum holds it in its low bits.
inline Counts to_counts(Vec v) { return (Counts)(v + splat(12582912.0f)) - 0x4b400000; }
inline void store_bytes(int8_t* p, Vec v) {
    const Counts n = to_counts(v);
    for (long i = 0; i < W; ++i) p[i] = static_cast<int8_t>(n[i]);
}

inline Counts dot4(Counts sums, Bytes weights, Bytes x) {
    for (long i = 0; i < W; ++i) {
        int32_t s = 0;
        for (long j = 0; j < 4; ++j) s += weights.b[4 * i + j] * x.b[4 * i + j];
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
