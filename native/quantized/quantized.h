// Products with quantized matrices of 4, 5, 6 and 8 bits: y = activation(x W^T + bias) + residual in integer arithmetic.
//
// Packed layout. A packed tile has 16 outputs, padded; inputs are padded to whole groups. A line of a tile is 64 bytes, four
// bytes for each output: four neighbouring inputs (8 bit, value + 128), or eight of them, inputs 0..3 in the low and 4..7 in
// the high nibbles of the bytes (4 bit). Codes of 5 and 6 bits have lines of nibbles as codes of 4 bits have, and after each
// four (5 bit) or two (6 bit) of them a line with the upper bits of the same inputs: see `upper_bit`.
// A weight is row_scale * v, or with groups
//   row_scale * (group_scale * (v - zero) + group_bias),
// where v is code - 2^(bits - 1), codebook[code] - 128, or, with both parts of a wide codebook,
// 256 * (codebook[code] - 128) + codebook_low[code] - 128.
#pragma once

#include <cstdint>

#include "linear/linear.h"
#include "lowrank/lowrank.h"
#include "quantized/row_operation.h"
#include "runtime/pool.h"

namespace pocketvlm {

// Functions of this file are always inlined: a copy that an instruction set compiles must not serve the others.

constexpr int64_t tile_outputs = 16;
constexpr int64_t line_bytes = 64;

// Inputs whose codes are in the same lines, and these lines: a unit of the packed layout. Groups are multiples of it.
[[gnu::always_inline]] constexpr int64_t unit_inputs(int bits) { return bits == 8 ? 4 : bits == 4 ? 8 : 32 / (bits - 4); }
[[gnu::always_inline]] constexpr int64_t unit_lines(int bits) { return unit_inputs(bits) * bits / 32; }
// The bit of a byte at which the upper bits of word `word` of a unit begin, four inputs each; those of the first need no shift.
[[gnu::always_inline]] constexpr int upper_bit(int bits, int word) { return (4 + (bits - 4) * word) % 8; }

enum class NumberType { none, float16, float32, int8 };

// A number for each group of each output, [tiles][groups][16]. Numbers in int8 have a factor in float16 that 2^shift
// neighbouring groups of an output share, [tiles][ceil(groups / 2^shift)][16].
struct GroupNumbers {
    NumberType type = NumberType::none;
    const void* values = nullptr;
    const uint16_t* factor = nullptr;
    int shift = 0;

    [[gnu::always_inline]] int64_t factors(int64_t groups) const { return (groups + (int64_t{1} << shift) - 1) >> shift; }
};

struct QuantizedWeights {
    int bits;                              // 4, 5, 6 or 8
    int64_t group;                         // inputs that share a scale, a multiple of 8 and of a unit
    int64_t depth;                         // inputs, padded to a multiple of the group
    const uint8_t* packed;                 // [tiles][lines][64]
    GroupNumbers group_scale;              // none: there is only row_scale (8 bit)
    GroupNumbers group_bias;               // none: zero
    const float* row_scale;                // [tiles * 16]
    const uint8_t* codebook;               // [16]: value + 128 of each 4-bit code, or null
    const uint8_t* codebook_low = nullptr;  // [16]: the low part of a wide codebook, or null
    const int8_t* zero_points = nullptr;   // [tiles][groups][16], or null: `zero` for all groups
    int32_t zero = 0;
    const int32_t* permutation = nullptr;  // [inputs]: the input that each column multiplies, or null for their own order
    uint8_t offset_codebook[16] = {};      // codebook - codebook_offset, if that fits 7 bits: unsigned factors without overflow
    int32_t codebook_offset = -1;          // the smallest entry of the codebook, or -1 if its range is wider

    [[gnu::always_inline]] int64_t lines() const { return depth * bits / 32; }
    [[gnu::always_inline]] int64_t groups() const { return depth / group; }
    [[gnu::always_inline]] bool grouped() const { return group_scale.type != NumberType::none; }
    // Whether a group adds something to scale * v.
    [[gnu::always_inline]] bool biased() const { return group_bias.type != NumberType::none || zero_points || zero; }
};

// Round to nearest: the matrix to quantize and where to write it.
struct Quantize {
    const void* weight;  // [outputs, inputs], bfloat16 bits or float
    bool bf16;
    int64_t inputs, outputs;
    QuantizedWeights to;  // sizes and codebook; the arrays are written, group scales as float16
};

constexpr int64_t max_products = 8;  // of one call

// Several products of the same rows: x, rows, inputs and the operation on the rows are those of the first. Products with such
// an operation quantize their activations alike (quantized_alike) and have no permutation.
struct QuantizedProduct {
    Linear args;
    const QuantizedWeights* weights;
    RowOperation operation = {};
    // SwiGLU: silu of this product times the next one, which has the output. Both quantize their activations alike and have
    // equally many outputs, and neither has a bias, a residual or an activation.
    bool gates = false;
    // Updates that adapters add to this product, after bias and residual, of the rows after the operation; excludes an
    // activation. Their `out` is not used. Those of all products of a call lie one after the other.
    const LowRank* updates = nullptr;
    int64_t update_count = 0;
    bool bf16_updates = false;
};

// Whether products with two matrices can share the bytes of their activations.
[[gnu::always_inline]] inline bool quantized_alike(const QuantizedWeights& a, const QuantizedWeights& b) {
    return a.depth == b.depth && a.group == b.group && !a.permutation && !b.permutation;
}

// Dequantizes rows of a matrix.
void dequantize_rows(Pool& pool, const QuantizedWeights& weights, const int32_t* ids, int64_t n, int64_t inputs, float* out);

}  // namespace pocketvlm
