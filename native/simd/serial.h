// The build that runs anywhere: four floats in the compiler's own vectors, which become SSE2, NEON or plain code.
#pragma once

#include <cstdint>
#include <cstring>

namespace pocketvlm::POCKETVLM_ISA {
namespace {

typedef float Vec __attribute__((vector_size(16)));
typedef uint32_t Bits __attribute__((vector_size(16)));
constexpr long W = 4;

inline Vec splat(float x) { return Vec{x, x, x, x}; }
inline Vec zero() { return splat(0.0f); }
inline Vec load(const float* p) {
    Vec v;
    std::memcpy(&v, p, sizeof v);
    return v;
}
inline Vec load_part(const float* p, long n) {
    Vec v = zero();
    for (long i = 0; i < W && i < n; ++i) v[i] = p[i];
    return v;
}
inline void store(float* p, Vec v) { std::memcpy(p, &v, sizeof v); }
inline void store_part(float* p, Vec v, long n) {
    for (long i = 0; i < W && i < n; ++i) p[i] = v[i];
}
inline Vec fma(Vec a, Vec b, Vec c) { return a * b + c; }
// As the vector instructions do: the second operand when one of them is NaN.
inline Vec vmax(Vec a, Vec b) { return a > b ? a : b; }
inline Vec vmin(Vec a, Vec b) { return a < b ? a : b; }
inline float sum(Vec v) { return (v[0] + v[2]) + (v[1] + v[3]); }
inline Vec where_less(Vec a, Vec b, Vec yes, Vec no) { return a < b ? yes : no; }
inline Vec vabs(Vec v) { return (Vec)((Bits)v & 0x7fffffffu); }

// 2W bfloat16 numbers as they lie in memory, and the even and the odd ones among them as floats.
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

// Turn W rows into W columns.
inline void transpose(Vec* r) {
    const Vec a = r[0], b = r[1], c = r[2], d = r[3];
    r[0] = Vec{a[0], b[0], c[0], d[0]};
    r[1] = Vec{a[1], b[1], c[1], d[1]};
    r[2] = Vec{a[2], b[2], c[2], d[2]};
    r[3] = Vec{a[3], b[3], c[3], d[3]};
}

}  // namespace
}  // namespace pocketvlm::POCKETVLM_ISA
