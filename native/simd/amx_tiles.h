// The operations of tiles.h as instructions of Intel AMX.
//
// As assembly: the intrinsics of gcc 12 are macros that take literal numbers, so a template could not pass one on. The compiler
// does not know these registers; `volatile` keeps the instructions in their order.
#pragma once

#include "simd/tiles.h"

namespace pocketvlm::POCKETVLM_ISA {
namespace {

inline void configure_tiles(const TileShapes& shapes) { __asm__ volatile("ldtilecfg %0" : : "m"(shapes)); }
inline void release_tiles() { __asm__ volatile("tilerelease" : : : "memory"); }

template <int Tile>
inline void zero_tile() {
    static_assert(Tile >= 0 && Tile < tile_registers);
    __asm__ volatile("tilezero %%tmm%c0" : : "i"(Tile));
}

// "memory": the compiler must have stored what is loaded, and must load again what is stored.
template <int Tile>
inline void load_tile(const void* from, int64_t stride) {
    static_assert(Tile >= 0 && Tile < tile_registers);
    __asm__ volatile("tileloadd (%1,%2,1), %%tmm%c0" : : "i"(Tile), "r"(from), "r"(stride) : "memory");
}
template <int Tile>
inline void store_tile(void* to, int64_t stride) {
    static_assert(Tile >= 0 && Tile < tile_registers);
    __asm__ volatile("tilestored %%tmm%c0, (%1,%2,1)" : : "i"(Tile), "r"(to), "r"(stride) : "memory");
}

template <int Sums, int A, int B>
constexpr bool are_factors = Sums != A && Sums != B && A != B && Sums >= 0 && A >= 0 && B >= 0 && Sums < tile_registers &&
                             A < tile_registers && B < tile_registers;

template <int Sums, int A, int B>
inline void dot_bytes() {
    static_assert(are_factors<Sums, A, B>);
    __asm__ volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(Sums), "i"(A), "i"(B));
}
template <int Sums, int A, int B>
inline void dot_signed_bytes() {
    static_assert(are_factors<Sums, A, B>);
    __asm__ volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(Sums), "i"(A), "i"(B));
}
template <int Sums, int A, int B>
inline void dot_bfloat16() {
    static_assert(are_factors<Sums, A, B>);
    __asm__ volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(Sums), "i"(A), "i"(B));
}

}  // namespace
}  // namespace pocketvlm::POCKETVLM_ISA
