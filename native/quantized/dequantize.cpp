// Dequantizes rows of a quantized matrix to float32.
#include "quantized/quantized.h"
#include "runtime/float16.h"

namespace pocketvlm {
namespace {

// The number of group g of an output, the lane of a tile.
float number_of(const GroupNumbers& numbers, int64_t groups, int64_t tile, int64_t lane, int64_t g) {
    const int64_t at = (tile * groups + g) * tile_outputs + lane;
    switch (numbers.type) {
        case NumberType::float16: return from_float16(static_cast<const uint16_t*>(numbers.values)[at]);
        case NumberType::float32: return static_cast<const float*>(numbers.values)[at];
        case NumberType::int8: {
            const int64_t factor = (tile * numbers.factors(groups) + (g >> numbers.shift)) * tile_outputs + lane;
            return static_cast<float>(static_cast<const int8_t*>(numbers.values)[at]) * from_float16(numbers.factor[factor]);
        }
        default: return 0.0f;
    }
}

int value_of(const QuantizedWeights& w, const uint8_t* packed, int64_t k) {
    if (w.bits == 8) return packed[k / 4 * line_bytes + k % 4] - 128;
    const int64_t inputs = unit_inputs(w.bits), lines = unit_lines(w.bits);
    const int word = static_cast<int>(k % inputs / 4);
    packed += k / inputs * lines * line_bytes + k % 4;
    int code = packed[word / 2 * line_bytes] >> word % 2 * 4 & 15;
    if (w.bits > 4) code |= (packed[(lines - 1) * line_bytes] >> upper_bit(w.bits, word) & ((1 << (w.bits - 4)) - 1)) << 4;
    if (!w.codebook) return code - (1 << (w.bits - 1));
    const int value = w.codebook[code] - 128;
    return w.codebook_low ? 256 * value + w.codebook_low[code] - 128 : value;
}

void dequantize_row(const QuantizedWeights& w, int64_t row, int64_t inputs, float* out) {
    const int64_t tile = row / tile_outputs, lane = row % tile_outputs, groups = w.groups();
    const uint8_t* packed = w.packed + tile * w.lines() * line_bytes + 4 * lane;
    const float row_scale = w.row_scale[row];
    float scale = 1.0f, bias = 0.0f;
    int zero = w.zero;
    for (int64_t k = 0; k < inputs; ++k) {
        if (w.grouped() && k % w.group == 0) {
            const int64_t g = k / w.group;
            scale = number_of(w.group_scale, groups, tile, lane, g);
            bias = number_of(w.group_bias, groups, tile, lane, g);
            if (w.zero_points) zero = w.zero_points[(tile * groups + g) * tile_outputs + lane];
        }
        const float value = scale * static_cast<float>(value_of(w, packed, k) - zero);
        out[w.permutation ? w.permutation[k] : k] = row_scale * (value + bias);
    }
}

}  // namespace

void dequantize_rows(Pool& pool, const QuantizedWeights& weights, const int32_t* ids, int64_t n, int64_t inputs, float* out) {
    struct Work {
        const QuantizedWeights& weights;
        const int32_t* ids;
        int64_t n, inputs;
        float* out;
    } work{weights, ids, n, inputs, out};
    constexpr int64_t chunk = 16;
    const auto call = [](void* context, int64_t task, int) {
        const Work& w = *static_cast<Work*>(context);
        for (int64_t i = task * chunk; i < w.n && i < (task + 1) * chunk; ++i)
            dequantize_row(w.weights, w.ids[i], w.inputs, w.out + i * w.inputs);
    };
    pool.run((n + chunk - 1) / chunk, call, &work);
}

}  // namespace pocketvlm
