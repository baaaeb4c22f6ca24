// Dequantizes rows of a quantized matrix to float32.
#include "quantized/quantized.h"

namespace pocketvlm {
namespace {

float from_float16(uint16_t half) {
    const uint32_t moved = static_cast<uint32_t>(half & 0x7fffu) << 13;
    float value;
    __builtin_memcpy(&value, &moved, 4);
    value *= 0x1p112f;  // rebases the exponent, right for subnormals too
    return half & 0x8000u ? -value : value;
}

void dequantize_row(const QuantizedWeights& w, int64_t row, int64_t inputs, float* out) {
    const int64_t tile = row / tile_outputs, lane = row % tile_outputs;
    const uint8_t* packed = w.packed + tile * w.steps() * step_bytes + 4 * lane;
    const float scale = w.row_scale[row];
    const uint16_t* scales = w.group_scale ? w.group_scale + tile * w.groups() * tile_outputs + lane : nullptr;
    const uint16_t* biases = w.group_bias ? w.group_bias + tile * w.groups() * tile_outputs + lane : nullptr;
    for (int64_t k = 0; k < inputs; ++k) {
        int value;
        if (w.bits == 8) {
            value = packed[k / 4 * step_bytes + k % 4] - 128;
        } else {
            const int code = packed[k / 8 * step_bytes + k % 4] >> (k % 8 < 4 ? 0 : 4) & 15;
            value = w.codebook ? w.codebook[code] - 128 : code - 8;
        }
        const int64_t group = k / w.group * tile_outputs;
        const float scaled = scales ? from_float16(scales[group]) * static_cast<float>(value) : static_cast<float>(value);
        out[k] = scale * (biases ? scaled + from_float16(biases[group]) : scaled);
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
