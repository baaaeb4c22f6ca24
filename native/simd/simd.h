// The vector type of the instruction set that this file is compiled for.
//
// Each kernel source is compiled once per instruction set with POCKETVLM_ISA naming it and with that set's compiler flags.
// Everything here and in the kernels sits in an unnamed namespace inside pocketvlm::<isa>: code with AVX-512 instructions
// must never become the one copy of an inline function that the serial build also calls. Standard library templates stay
// out of these sources for the same reason.
#pragma once

#define POCKETVLM_ISA_serial 1
#define POCKETVLM_ISA_neon 2
#define POCKETVLM_ISA_neondot 3
#define POCKETVLM_ISA_neoni8mm 4
#define POCKETVLM_ISA_avx2 5
#define POCKETVLM_ISA_avxvnni 6
#define POCKETVLM_ISA_avx512 7
#define POCKETVLM_ISA_avx512vnni 8
#define POCKETVLM_ISA_avx512bf16 9
#define POCKETVLM_ISA_NUMBER_(isa) POCKETVLM_ISA_##isa
#define POCKETVLM_ISA_NUMBER(isa) POCKETVLM_ISA_NUMBER_(isa)

#if POCKETVLM_ISA_NUMBER(POCKETVLM_ISA) >= POCKETVLM_ISA_avx512
#include "simd/avx512.h"
#elif POCKETVLM_ISA_NUMBER(POCKETVLM_ISA) >= POCKETVLM_ISA_avx2
#include "simd/avx2.h"
#elif POCKETVLM_ISA_NUMBER(POCKETVLM_ISA) >= POCKETVLM_ISA_neon
#include "simd/neon.h"
#else
#include "simd/serial.h"
#endif

namespace pocketvlm::POCKETVLM_ISA {
namespace {

// Of vector registers: 32, or 16.
constexpr bool many_registers =
    POCKETVLM_ISA_NUMBER(POCKETVLM_ISA) != POCKETVLM_ISA_serial && POCKETVLM_ISA_NUMBER(POCKETVLM_ISA) != POCKETVLM_ISA_avx2 &&
    POCKETVLM_ISA_NUMBER(POCKETVLM_ISA) != POCKETVLM_ISA_avxvnni;

inline long smaller(long a, long b) { return a < b ? a : b; }
inline long larger(long a, long b) { return a > b ? a : b; }
inline long divide_up(long a, long b) { return (a + b - 1) / b; }
inline long round_up(long a, long b) { return divide_up(a, b) * b; }

inline void copy(float* to, const float* from, long n) { __builtin_memcpy(to, from, static_cast<unsigned long>(n) * sizeof(float)); }
inline void clear(float* to, long n) { __builtin_memset(to, 0, static_cast<unsigned long>(n) * sizeof(float)); }

}  // namespace
}  // namespace pocketvlm::POCKETVLM_ISA
