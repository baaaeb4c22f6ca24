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

// The sixteen values of a table in order, and what lies between neighbours.
struct Levels {
    float least, most;
    float middle[15], step[15];
};

inline Levels levels_of(const uint8_t* table) {
    Levels l;
    l.least = static_cast<float>(table[0]) - 128.0f;
    l.most = static_cast<float>(table[15]) - 128.0f;
    for (int i = 0; i < 15; ++i) {
        l.middle[i] = 0.5f * static_cast<float>(table[i] + table[i + 1]) - 128.0f;
        l.step[i] = static_cast<float>(table[i + 1] - table[i]);
    }
    return l;
}

// The squared error of a group with this scale.
inline float error_of(const float* x, long n, const Levels& l, float scale) {
    const Vec inverse = splat(scale == 0.0f ? 0.0f : 1.0f / scale);
    Vec squares = zero();
    for (long k = 0; k < n; k += W) {
        const Vec t = (k + W <= n ? load(x + k) : load_part(x + k, n - k)) * inverse;
        Vec value = splat(l.least);
#pragma GCC unroll 15
        for (int i = 0; i < 15; ++i) value = value + where_less(splat(l.middle[i]), t, splat(l.step[i]), zero());
        alignas(64) float d[W];
        store(d, (t - value) * splat(scale));
        if (k + W > n)
            for (long i = n - k; i < W; ++i) d[i] = 0.0f;
        squares = fma(load(d), load(d), squares);
    }
    return sum(squares);
}

// One output at 4 bit without minima. The scale of a group is the best of a few around those which put the largest weight
// on one end of the table or the other.
inline void encode_nibbles(const float* row, const Codes& c, long inputs, long lane, uint8_t* codes, uint16_t* scales, float& row_scale) {
    const Levels l = levels_of(c.table);
    const float most = largest_of(row, inputs);
    row_scale = (most > 1e-30f ? most : 1.0f) / 32.0f;  // group scales are then about 1/2 at most, never out of float16's range
    for (long g = 0; g < c.groups(); ++g) {
        const float* x = row + g * c.group;
        const long n = inputs - g * c.group < c.group ? inputs - g * c.group : c.group;
        float end = 0.0f;
        for (long k = 0; k < n; ++k) end = __builtin_fabsf(x[k]) > __builtin_fabsf(end) ? x[k] : end;
        float best = 0.0f, error = __builtin_inff();
        for (int step = 0; step < 12; ++step) {
            const float at = (step < 6 ? l.least : l.most) * (1.18f - 0.06f * static_cast<float>(step % 6));
            const float tried = from_half(to_half(end / at / row_scale)) * row_scale;
            const float now = error_of(x, n, l, tried);
            if (now < error) error = now, best = tried;
        }
        scales[g * code_panel + lane] = to_half(best / row_scale);
        const float inverse = best == 0.0f ? 0.0f : 1.0f / best;
        for (long k = 0; k < c.group; ++k) {
            const float t = k < n ? x[k] * inverse : 0.0f;
            int code = 0;
            for (int i = 0; i < 15; ++i) code += l.middle[i] < t;
            const long at = g * c.group + k;
            uint8_t& byte = codes[at / 8 * code_block + at % 4];
            byte = at % 8 < 4 ? static_cast<uint8_t>(code) : static_cast<uint8_t>(byte | code << 4);
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
