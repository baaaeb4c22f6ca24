// Rounds the weights of a matrix to nearest and packs them for the kernels.
#include "quantized/quantized.h"
#include "simd/parallel.h"

namespace pocketvlm::POCKETVLM_ISA {
namespace {

inline float weight_at(const Quantize& e, int64_t row, int64_t k) {
    if (!e.bf16) return static_cast<const float*>(e.weight)[row * e.inputs + k];
    const uint32_t bits = static_cast<uint32_t>(static_cast<const uint16_t*>(e.weight)[row * e.inputs + k]) << 16;
    float value;
    __builtin_memcpy(&value, &bits, 4);
    return value;
}

// Round half to even, as everywhere.
inline float nearest(float x) { return (x + 12582912.0f) - 12582912.0f; }
inline float clamp(float x, float low, float high) {
    if (x < low) return low;
    return x > high ? high : x;
}

// The float16 nearest to a value of at most 65504.
inline uint16_t to_float16(float value) {
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

inline float from_float16(uint16_t half) {
    uint16_t lanes[W] = {half};
    float out[W];
    store(out, load_float16(lanes));
    return out[0];
}

inline float largest_of(const float* x, int64_t n) {
    float maximum = 0.0f;
    for (int64_t k = 0; k < n; ++k) maximum = __builtin_fabsf(x[k]) > maximum ? __builtin_fabsf(x[k]) : maximum;
    return maximum;
}

// One output with 8 bits, with one scale or a scale for each group.
inline void quantize_8bit(const float* row, const QuantizedWeights& w, int64_t inputs, int64_t lane, uint8_t* packed, uint16_t* scales,
                          float& row_scale) {
    const float maximum = largest_of(row, inputs);
    row_scale = maximum / 127.0f;
    if (scales) row_scale = (maximum > 1e-30f ? maximum : 1.0f) / 64.0f;  // group scales are then at most 64 / 127
    for (int64_t g = 0; g < w.groups(); ++g) {
        const int64_t begin = g * w.group, n = inputs - begin < w.group ? inputs - begin : w.group;
        float scale = row_scale;
        if (scales) {
            scales[g * tile_outputs + lane] = to_float16(largest_of(row + begin, n) / 127.0f / row_scale);
            scale = from_float16(scales[g * tile_outputs + lane]) * row_scale;
        }
        const float inverse = scale > 1e-36f ? 1.0f / scale : 0.0f;
        for (int64_t k = 0; k < w.group; ++k) {
            const float q = k < n ? clamp(nearest(row[begin + k] * inverse), -127.0f, 127.0f) : 0.0f;
            packed[(begin + k) / 4 * line_bytes + k % 4] = static_cast<uint8_t>(static_cast<int>(q) + 128);
        }
    }
}

// The sixteen values of a codebook in order: the first and the last, and middle and distance of neighbours.
struct Levels {
    float lowest, highest;
    float middle[15], step[15];
};

inline Levels levels_of(const uint8_t* codebook) {
    Levels l;
    l.lowest = static_cast<float>(codebook[0]) - 128.0f;
    l.highest = static_cast<float>(codebook[15]) - 128.0f;
    for (int i = 0; i < 15; ++i) {
        l.middle[i] = 0.5f * static_cast<float>(codebook[i] + codebook[i + 1]) - 128.0f;
        l.step[i] = static_cast<float>(codebook[i + 1] - codebook[i]);
    }
    return l;
}

// The squared error of a group with this scale.
inline float error_of(const float* x, int64_t n, const Levels& l, float scale) {
    const Vec inverse = splat(scale == 0.0f ? 0.0f : 1.0f / scale);
    Vec squares = zero();
    for (int64_t k = 0; k < n; k += W) {
        const Vec t = (k + W <= n ? load(x + k) : load_part(x + k, n - k)) * inverse;
        Vec value = splat(l.lowest);
#pragma GCC unroll 15
        for (int i = 0; i < 15; ++i) value = value + where_less(splat(l.middle[i]), t, splat(l.step[i]), zero());
        alignas(64) float d[W];
        store(d, (t - value) * splat(scale));
        if (k + W > n)
            for (int64_t i = n - k; i < W; ++i) d[i] = 0.0f;
        squares = fma(load(d), load(d), squares);
    }
    return sum(squares);
}

// One output with 4 bits and no biases. The scale of a group is the best of a few that put the largest weight near one end of
// the codebook or the other.
inline void quantize_4bit(const float* row, const QuantizedWeights& w, int64_t inputs, int64_t lane, uint8_t* packed, uint16_t* scales,
                          float& row_scale) {
    const Levels l = levels_of(w.codebook);
    const float maximum = largest_of(row, inputs);
    row_scale = (maximum > 1e-30f ? maximum : 1.0f) / 32.0f;  // group scales are then about 1/2 at most, never out of float16's range
    for (int64_t g = 0; g < w.groups(); ++g) {
        const float* x = row + g * w.group;
        const int64_t n = inputs - g * w.group < w.group ? inputs - g * w.group : w.group;
        float end = 0.0f;
        for (int64_t k = 0; k < n; ++k) end = __builtin_fabsf(x[k]) > __builtin_fabsf(end) ? x[k] : end;
        float best = 0.0f, error = __builtin_inff();
        for (int step = 0; step < 12; ++step) {
            const float at = (step < 6 ? l.lowest : l.highest) * (1.18f - 0.06f * static_cast<float>(step % 6));
            const float tried = from_float16(to_float16(end / at / row_scale)) * row_scale;
            const float squared_error = error_of(x, n, l, tried);
            if (squared_error < error) error = squared_error, best = tried;
        }
        scales[g * tile_outputs + lane] = to_float16(best / row_scale);
        const float inverse = best == 0.0f ? 0.0f : 1.0f / best;
        for (int64_t k = 0; k < w.group; ++k) {
            const float t = k < n ? x[k] * inverse : 0.0f;
            int code = 0;
            for (int i = 0; i < 15; ++i) code += l.middle[i] < t;
            const int64_t at = g * w.group + k;
            uint8_t& byte = packed[at / 8 * line_bytes + at % 4];
            byte = at % 8 < 4 ? static_cast<uint8_t>(code) : static_cast<uint8_t>(byte | code << 4);
        }
    }
}

}  // namespace

void quantize(Pool& pool, const Quantize& e) {
    const QuantizedWeights& w = e.to;
    const int64_t tiles = divide_up(e.outputs, tile_outputs);
    pool.reserve(static_cast<size_t>(e.inputs) * sizeof(float));
    parallel(pool, tiles, [&](int64_t tile, int worker) {
        float* row = pool.scratch(worker);
        uint8_t* packed = const_cast<uint8_t*>(w.packed) + tile * w.lines() * line_bytes;
        for (int64_t lane = 0; lane < tile_outputs; ++lane) {
            const int64_t output = tile * tile_outputs + lane;
            const int64_t inputs = output < e.outputs ? e.inputs : 0;
            for (int64_t k = 0; k < inputs; ++k) row[k] = weight_at(e, output, k);
            float& scale = const_cast<float*>(w.row_scale)[output];
            auto* scales = static_cast<uint16_t*>(const_cast<void*>(w.group_scale.values));
            if (scales) scales += tile * w.groups() * tile_outputs;
            const auto quantize_row = w.bits == 8 ? quantize_8bit : quantize_4bit;
            quantize_row(row, w, inputs, lane, packed + 4 * lane, scales, scale);
        }
    });
}

}  // namespace pocketvlm::POCKETVLM_ISA
