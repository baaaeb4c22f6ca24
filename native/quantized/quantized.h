// Products with quantized matrices of 4 and 8 bits: y = activation(x W^T + bias) + residual in integer arithmetic.
//
// Packed layout. A packed tile has 16 outputs, padded with zero weights; inputs are padded to whole groups. A step of a tile is
// 64 bytes, four bytes for each output: four neighbouring inputs (8 bit, value + 128), or eight of them, inputs 0..3 in the
// low and 4..7 in the high nibbles of the bytes (4 bit). A weight is row_scale * v, or with groups
// row_scale * (group_scale * v + group_bias), where v is code - 128 (8 bit), codebook[code] - 128 or code - 8 (4 bit).
#pragma once

#include <cstdint>

#include "linear/linear.h"
#include "runtime/pool.h"

namespace pocketvlm {

constexpr int64_t tile_outputs = 16;
constexpr int64_t step_bytes = 64;

struct QuantizedWeights {
    int bits;                          // 4 or 8
    int64_t group;                     // inputs that share a scale, a multiple of 8
    int64_t depth;                     // inputs, padded to a multiple of the group
    const uint8_t* packed;             // [tiles][depth * bits / 32][64]
    const uint16_t* group_scale;       // float16 [tiles][depth / group][16]; null if there is only row_scale (8 bit)
    const uint16_t* group_bias;        // the same shape, or null for zero
    const float* row_scale;            // [tiles * 16]
    const uint8_t* codebook;           // [16]: value + 128 of each 4-bit code, or null for code - 8
    uint8_t offset_codebook[16] = {};  // codebook - codebook_offset, if that fits 7 bits: unsigned factors without overflow
    int32_t codebook_offset = -1;      // the smallest entry of the codebook, or -1 if its range is wider

    int64_t steps() const { return depth * bits / 32; }
    int64_t groups() const { return depth / group; }
};

// Round to nearest: the matrix to quantize and where to write it.
struct Quantize {
    const void* weight;  // [outputs, inputs], bfloat16 bits or float
    bool bf16;
    int64_t inputs, outputs;
    QuantizedWeights to;  // sizes and codebook; the arrays are written
};

constexpr int64_t max_products = 8;  // of one call

// Several products of the same rows: x, rows and inputs are those of the first.
struct QuantizedProduct {
    Linear args;
    const QuantizedWeights* weights;
};

// Dequantizes rows of a matrix.
void dequantize_rows(Pool& pool, const QuantizedWeights& weights, const int32_t* ids, int64_t n, int64_t inputs, float* out);

}  // namespace pocketvlm
