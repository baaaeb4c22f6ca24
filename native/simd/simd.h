// The vector type and the integer products of the instruction set that this file is compiled for.
//
// CMake compiles each kernel source once for each instruction set, with the flags of the set, its name as POCKETVLM_ISA and
// its header in this folder as POCKETVLM_ISA_HEADER. Everything here and in the kernels is in an unnamed namespace inside
// pocketvlm::<set>: the linker must never choose a copy of an inline function that has AVX-512 instructions for the serial
// kernels. Kernel sources use no standard library templates for the same reason. tests/native/check_symbols.cmake checks both.
//
// The header of a set defines:
// - Vec, W floats at a time, and vector_registers; load, store, fma and the other functions of serial.h;
// - Bytes, four neighbouring inputs for each of W outputs, and Counts, W integer sums. dot8 takes weights stored as
//   value + 128 and signed inputs and adds sum((value + weight_offset) * input). Instructions with unsigned weights leave the
//   128 in the weights; the caller subtracts it again with the sum of the inputs. dot4 takes weights 0..127 as they are;
// - POCKETVLM_MULTIPLIES_MEMORY if it has dot8 and dot4 with four inputs in memory, which are repeated for every output;
// - activation_layout (layout.h), how these products expect their inputs;
// - POCKETVLM_TRANSPOSES_BYTES if it has bytes_of and sum_of_words, with which full tiles are quantized in registers;
// - POCKETVLM_BFLOAT16_PRODUCTS if it has products of bfloat16 pairs (avx512bf16.h);
// - POCKETVLM_TILE_REGISTERS if it has tile registers (tiles.h), and the sets whose kernels do the work that tiles do not speed up:
//   POCKETVLM_INTEGER_WITHOUT_TILES and POCKETVLM_BFLOAT16_WITHOUT_TILES. Kernels in tiles call the kernel of the same name there.
#pragma once

#include <cstddef>

#include POCKETVLM_ISA_HEADER

namespace pocketvlm::POCKETVLM_ISA {
namespace {

constexpr bool many_registers = vector_registers >= 32;

inline int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t max(int64_t a, int64_t b) { return a > b ? a : b; }
inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t round_up(int64_t a, int64_t b) { return divide_up(a, b) * b; }

// The first n of W floats, zero after them; any n.
inline Vec load_some(const float* p, int64_t n) { return n >= W ? load(p) : load_part(p, n > 0 ? n : 0); }

inline void copy(float* to, const float* from, int64_t n) { __builtin_memcpy(to, from, static_cast<size_t>(n) * sizeof(float)); }
inline void clear(float* to, int64_t n) { __builtin_memset(to, 0, static_cast<size_t>(n) * sizeof(float)); }

}  // namespace
}  // namespace pocketvlm::POCKETVLM_ISA
