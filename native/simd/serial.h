// One float at a time: the build that runs anywhere and that the others are compared with.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace pocketvlm::POCKETVLM_ISA {
namespace {

using Vec = float;
constexpr long W = 1;

inline Vec zero() { return 0.0f; }
inline Vec splat(float x) { return x; }
inline Vec load(const float* p) { return *p; }
inline Vec load_part(const float* p, long n) { return n > 0 ? *p : 0.0f; }
inline void store(float* p, Vec v) { *p = v; }
inline void store_part(float* p, Vec v, long n) {
    if (n > 0) *p = v;
}
inline Vec fma(Vec a, Vec b, Vec c) { return a * b + c; }
// As the vector instructions do: the second operand when one of them is NaN.
inline Vec vmax(Vec a, Vec b) { return a > b ? a : b; }
inline Vec vmin(Vec a, Vec b) { return a < b ? a : b; }
inline float sum(Vec v) { return v; }
inline Vec where_less(Vec a, Vec b, Vec yes, Vec no) { return a < b ? yes : no; }
inline Vec vabs(Vec v) { return std::fabs(v); }

// 2W bfloat16 numbers as they lie in memory, and the even and the odd ones among them as floats.
inline Vec load_bits(const uint16_t* p) {
    float v;
    std::memcpy(&v, p, sizeof v);
    return v;
}
inline Vec low_bf16(Vec bits) {
    uint32_t u;
    std::memcpy(&u, &bits, sizeof u);
    u <<= 16;
    std::memcpy(&bits, &u, sizeof u);
    return bits;
}
inline Vec high_bf16(Vec bits) {
    uint32_t u;
    std::memcpy(&u, &bits, sizeof u);
    u &= 0xffff0000u;
    std::memcpy(&bits, &u, sizeof u);
    return bits;
}

// p * 2^n for whole n in [-160, 160]; in two steps so that subnormal results and overflow come out right.
inline Vec scale_by_power(Vec p, Vec n) {
    if (!(n == n)) return n;
    const int whole = static_cast<int>(n), half = whole / 2;
    const uint32_t first = static_cast<uint32_t>(half + 127) << 23, second = static_cast<uint32_t>(whole - half + 127) << 23;
    float a, b;
    std::memcpy(&a, &first, sizeof a);
    std::memcpy(&b, &second, sizeof b);
    return p * a * b;
}

inline void transpose(Vec*) {}

}  // namespace
}  // namespace pocketvlm::POCKETVLM_ISA
