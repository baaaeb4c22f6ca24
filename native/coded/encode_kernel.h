// Round-to-nearest codes of a matrix, packed for the kernels.
#pragma once

#include "coded/coded.h"
#include "simd/bytes.h"
#include "simd/parallel.h"

namespace pocketvlm::POCKETVLM_ISA {
namespace {

inline float weight_at(const Encode& e, long row, long k) {
    if (!e.bf16) return static_cast<const float*>(e.weight)[row * e.inputs + k];
    const uint32_t bits = static_cast<uint32_t>(static_cast<const uint16_t*>(e.weight)[row * e.inputs + k]) << 16;
    float value;
    __builtin_memcpy(&value, &bits, 4);
    return value;
}

// Round half to even, as everywhere.
inline float nearest(float x) { return (x + 12582912.0f) - 12582912.0f; }
inline float clamp(float x, float low, float high) { return x < low ? low : x > high ? high : x; }

// The float16 nearest to a value of at most 65504.
inline uint16_t to_half(float value) {
    uint32_t bits;
    __builtin_memcpy(&bits, &value, 4);
    const uint32_t sign = bits >> 16 & 0x8000u;
    bits &= 0x7fffffffu;
    if (bits < 0x38800000u) {  // below 2^-14: a whole number of 2^-24
        float size;
        __builtin_memcpy(&size, &bits, 4);
        return static_cast<uint16_t>(sign | static_cast<uint32_t>(nearest(size * 0x1p24f)));
    }
    bits += 0xfffu + (bits >> 13 & 1u);
    return static_cast<uint16_t>(sign | ((bits - 0x38000000u) >> 13));
}

inline float from_half(uint16_t half) {
    uint16_t lanes[W] = {half};
    float out[W];
    store(out, load_half(lanes));
    return out[0];
}

inline float largest_of(const float* x, long n) {
    float most = 0.0f;
    for (long k = 0; k < n; ++k) most = __builtin_fabsf(x[k]) > most ? __builtin_fabsf(x[k]) : most;
    return most;
}

// One output at 8 bit, with a scale for the whole or one a group.
inline void encode_bytes(const float* row, const Codes& c, long inputs, long lane, uint8_t* codes, uint16_t* scales, float& row_scale) {
    const float most = largest_of(row, inputs);
    row_scale = scales ? (most > 1e-30f ? most : 1.0f) / 64.0f : most / 127.0f;  // group scales are then at most 64 / 127
    for (long g = 0; g < c.groups(); ++g) {
        const long begin = g * c.group, n = inputs - begin < c.group ? inputs - begin : c.group;
        float scale = row_scale;
        if (scales) {
            scales[g * code_panel + lane] = to_half(largest_of(row + begin, n) / 127.0f / row_scale);
            scale = from_half(scales[g * code_panel + lane]) * row_scale;
        }
        const float inverse = scale > 1e-36f ? 1.0f / scale : 0.0f;
        for (long k = 0; k < c.group; ++k) {
            const float q = k < n ? clamp(nearest(row[begin + k] * inverse), -127.0f, 127.0f) : 0.0f;
            codes[(begin + k) / 4 * code_block + k % 4] = static_cast<uint8_t>(static_cast<int>(q) + 128);
        }
    }
}

// The squared error of a group with this scale; codes are -8..7.
inline float error_of(const float* x, long n, float scale) {
    const float inverse = scale == 0.0f ? 0.0f : 1.0f / scale;
    float sum = 0.0f;
    for (long k = 0; k < n; ++k) {
        const float d = x[k] - scale * clamp(nearest(x[k] * inverse), -8.0f, 7.0f);
        sum += d * d;
    }
    return sum;
}

// One output at 4 bit without minima. The scale of a group is the best of a few around the one which puts the largest weight
// on the end of the range, -8 of one sign or the other.
inline void encode_nibbles(const float* row, const Codes& c, long inputs, long lane, uint8_t* codes, uint16_t* scales, float& row_scale) {
    const float most = largest_of(row, inputs);
    row_scale = most > 1e-30f ? most : 1.0f;  // group scales are then at most 1/4: never out of float16's range
    for (long g = 0; g < c.groups(); ++g) {
        const float* x = row + g * c.group;
        const long n = inputs - g * c.group < c.group ? inputs - g * c.group : c.group;
        float end = 0.0f;
        for (long k = 0; k < n; ++k) end = __builtin_fabsf(x[k]) > __builtin_fabsf(end) ? x[k] : end;
        float best = 0.0f, least = __builtin_inff();
        for (int step = 0; step < 8; ++step) {
            const float tried = from_half(to_half(end / -8.0f * (1.06f - 0.04f * static_cast<float>(step)) / row_scale)) * row_scale;
            const float error = error_of(x, n, tried);
            if (error < least) least = error, best = tried;
        }
        scales[g * code_panel + lane] = to_half(best / row_scale);
        const float inverse = best == 0.0f ? 0.0f : 1.0f / best;
        for (long k = 0; k < c.group; ++k) {
            const float q = k < n ? clamp(nearest(x[k] * inverse), -8.0f, 7.0f) : 0.0f;
            const long at = g * c.group + k;
            uint8_t& byte = codes[at / 8 * code_block + at % 4];
            const auto code = static_cast<uint8_t>(static_cast<int>(q) + 8);
            byte = at % 8 < 4 ? code : static_cast<uint8_t>(byte | code << 4);
        }
    }
}

}  // namespace

void encode(Pool& pool, const Encode& e) {
    const Codes& c = e.codes;
    const long panels = divide_up(e.outputs, code_panel);
    pool.reserve(static_cast<size_t>(e.inputs) * sizeof(float));
    parallel(pool, panels, [&](long panel, int worker) {
        float* row = pool.scratch(worker);
        uint8_t* codes = const_cast<uint8_t*>(c.codes) + panel * c.steps() * code_block;
        for (long lane = 0; lane < code_panel; ++lane) {
            const long output = panel * code_panel + lane;
            const long inputs = output < e.outputs ? e.inputs : 0;
            for (long k = 0; k < inputs; ++k) row[k] = weight_at(e, output, k);
            float& scale = const_cast<float*>(c.row_scale)[output];
            auto* scales = c.group_scale ? const_cast<uint16_t*>(c.group_scale) + panel * c.groups() * code_panel : nullptr;
            const auto encode_row = c.bits == 8 ? encode_bytes : encode_nibbles;
            encode_row(row, c, inputs, lane, codes + 4 * lane, scales, scale);
        }
    });
}

}  // namespace pocketvlm::POCKETVLM_ISA
