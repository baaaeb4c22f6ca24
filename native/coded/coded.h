// Matrices of 4- and 8-bit codes: y = activation(x W^T + bias) + residual with integer products.
//
// Packed form. Outputs lie in panels of 16, padded with zero weights; inputs are padded to whole groups. A block is 64 bytes,
// four bytes for each output of the panel: four neighbouring inputs (8 bit, value + 128), or eight of them, inputs 0..3 in
// the low and 4..7 in the high halves of the bytes (4 bit). The value of a weight is row_scale * v, or with groups
// row_scale * (group_scale * v + group_minimum), where v is code - 128 (8 bit), table[code] - 128 or code - 8 (4 bit).
#pragma once

#include <cstdint>

#include "linear/linear.h"

namespace pocketvlm {

constexpr long code_panel = 16;
constexpr long code_block = 64;

struct Codes {
    int bits;                       // 4 or 8
    long group;                     // inputs that share a scale, a multiple of 8
    long depth;                     // inputs, padded to a multiple of the group
    const uint8_t* codes;           // [panels][depth * bits / 32][64]
    const uint16_t* group_scale;    // float16 [panels][depth / group][16]; null where row_scale is all there is (8 bit)
    const uint16_t* group_minimum;  // the same shape, or null for zero
    const float* row_scale;         // [panels * 16]
    const uint8_t* table;           // [16]: value + 128 of each 4-bit code, or null for code - 8
    uint8_t raised[16] = {};        // the table less its least entry, where that leaves 7 bits: unsigned factors without overflow
    int32_t least = -1;             // that entry, or -1 where the table is wider

    long steps() const { return depth * bits / 32; }
    long groups() const { return depth / group; }
};

// Round to nearest: what to make codes from and where to.
struct Encode {
    const void* weight;  // [outputs, inputs], bfloat16 bits or float
    bool bf16;
    long inputs, outputs;
    Codes codes;  // sizes and table; the pointers are written to
};

constexpr long most_products = 8;  // of one call

// Several products of the same rows: x, rows and inputs are those of the first.
struct CodedProduct {
    Linear args;
    const Codes* codes;
};

#define POCKETVLM_DECLARE(isa) \
    namespace isa { \
    void coded_linear(Pool& pool, const CodedProduct* products, long count); \
    void encode(Pool& pool, const Encode& args); \
    }
POCKETVLM_FOR_EACH_BYTES_ISA(POCKETVLM_DECLARE)
#undef POCKETVLM_DECLARE

// Rows of a coded matrix as floats.
void decode_rows(Pool& pool, const Codes& codes, const int32_t* ids, long n, long inputs, float* out);

}  // namespace pocketvlm
