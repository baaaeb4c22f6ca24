// Codes back to floats, row by row.
#include "coded/coded.h"

namespace pocketvlm {
namespace {

float from_half(uint16_t half) {
    const uint32_t moved = static_cast<uint32_t>(half & 0x7fffu) << 13;
    float value;
    __builtin_memcpy(&value, &moved, 4);
    value *= 0x1p112f;  // rebases the exponent, right for subnormals too
    return half & 0x8000u ? -value : value;
}

void decode_row(const Codes& c, long row, long inputs, float* out) {
    const long panel = row / code_panel, lane = row % code_panel;
    const uint8_t* codes = c.codes + panel * c.steps() * code_block + 4 * lane;
    const float scale = c.row_scale[row];
    const uint16_t* scales = c.group_scale ? c.group_scale + panel * c.groups() * code_panel + lane : nullptr;
    const uint16_t* minima = c.group_minimum ? c.group_minimum + panel * c.groups() * code_panel + lane : nullptr;
    for (long k = 0; k < inputs; ++k) {
        int value;
        if (c.bits == 8) {
            value = codes[k / 4 * code_block + k % 4] - 128;
        } else {
            const int code = codes[k / 8 * code_block + k % 4] >> (k % 8 < 4 ? 0 : 4) & 15;
            value = c.table ? c.table[code] - 128 : code - 8;
        }
        const long group = k / c.group * code_panel;
        const float scaled = scales ? from_half(scales[group]) * static_cast<float>(value) : static_cast<float>(value);
        out[k] = scale * (minima ? scaled + from_half(minima[group]) : scaled);
    }
}

}  // namespace

void decode_rows(Pool& pool, const Codes& codes, const int32_t* ids, long n, long inputs, float* out) {
    struct Work {
        const Codes& codes;
        const int32_t* ids;
        long n, inputs;
        float* out;
    } work{codes, ids, n, inputs, out};
    constexpr long piece = 16;
    const auto call = [](void* context, long task, int) {
        const Work& w = *static_cast<Work*>(context);
        for (long i = task * piece; i < w.n && i < (task + 1) * piece; ++i) decode_row(w.codes, w.ids[i], w.inputs, w.out + i * w.inputs);
    };
    pool.run((n + piece - 1) / piece, call, &work);
}

}  // namespace pocketvlm
