// Rows of head_dim numbers as the pages of a KV cache hold them: float32, bfloat16 (as bits), or int8 with a scale for each row.
#pragma once

#include "attention/attention.h"
#include "simd/simd.h"

namespace pocketvlm::POCKETVLM_ISA {
namespace {

// A step of `vecs` vectors is widened at a time; position(j) is the index of number j in a widened row of whole steps.
template <class T>
struct KVRow;

template <>
struct KVRow<float> {
    static constexpr int vecs = 1;
    static Vec widen(const float* p, int) { return load(p); }
    static int64_t position(int64_t j) { return j; }
    static float number(float x) { return x; }
};

// The even numbers of a step come first, so that widening needs no shuffle.
template <>
struct KVRow<uint16_t> {
    static constexpr int vecs = 2;
    static Vec widen(const uint16_t* p, int v) {
        const Vec bits = load_bits(p);
        return v == 0 ? low_bf16(bits) : high_bf16(bits);
    }
    static int64_t position(int64_t j) { return j / (2 * W) * (2 * W) + j % 2 * W + j % (2 * W) / 2; }
    static float number(uint16_t x) { return __builtin_bit_cast(float, static_cast<uint32_t>(x) << 16); }
};

template <>
struct KVRow<int8_t> {
    static constexpr int vecs = many_registers ? 4 : 2;
    static Vec widen(const int8_t* p, int v) { return load_int8(p + v * W); }
    static int64_t position(int64_t j) { return j; }
    static float number(int8_t x) { return static_cast<float>(x); }
};

template <class T>
constexpr int64_t kv_step = KVRow<T>::vecs * W;

// The first n numbers of a step, then zeros.
template <class T>
struct LastStep {
    T numbers[kv_step<T>];
    LastStep() = default;
    LastStep(const T* p, int64_t n) : numbers{} { __builtin_memcpy(numbers, p, static_cast<size_t>(n) * sizeof(T)); }
};

template <class T>
inline void widen_row(const T* row, float scale, int64_t d, float* out) {
    for (int64_t j = 0; j < d; ++j) out[j] = KVRow<T>::number(row[j]) * scale;
}

// --- writing ---

inline void store_row(const float* x, int64_t d, float* out, float*) { copy(out, x, d); }

// Rounded to the nearest, to even between two; NaN stays NaN.
inline void store_row(const float* x, int64_t d, uint16_t* out, float*) {
    for (int64_t j = 0; j < d; ++j) {
        const uint32_t bits = __builtin_bit_cast(uint32_t, x[j]);
        const uint32_t rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16, quiet = bits >> 16 | 0x40u;
        out[j] = static_cast<uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? quiet : rounded);
    }
}

// The largest number of the row becomes 127 or -127.
inline void store_row(const float* x, int64_t d, int8_t* out, float* scale) {
    Vec partial = zero();
    for (int64_t j = 0; j < d; j += W) partial = vmax(vabs(load_some(x + j, d - j)), partial);
    float parts[W], top = 0.0f;
    store(parts, partial);
    for (int64_t i = 0; i < W; ++i) top = parts[i] > top ? parts[i] : top;
    *scale = top / 127.0f;
    const Vec inverse = splat(top > 1e-36f ? 127.0f / top : 0.0f);
    int64_t j = 0;
    for (; j + W <= d; j += W) store_bytes(out + j, load(x + j) * inverse);
    if (j < d) {
        int8_t last[W];
        store_bytes(last, load_part(x + j, d - j) * inverse);
        __builtin_memcpy(out + j, last, static_cast<size_t>(d - j));
    }
}

}  // namespace
}  // namespace pocketvlm::POCKETVLM_ISA
