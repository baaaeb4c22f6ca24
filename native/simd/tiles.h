// Tile registers: eight two-dimensional registers of up to 16 rows of 64 bytes, and products of two of them added to a third.
//
// Sets with tile registers define POCKETVLM_TILE_REGISTERS. amx_tiles.h has the instructions of Intel AMX, plain_tiles.h the
// same operations in plain C++. Both offer:
//
//   configure_tiles(shapes), release_tiles()   the shapes of all registers, which also clears them; TileScope does both
//   zero_tile<T>()                             clears register T
//   load_tile<T>(from, stride)                 rows of the register's shape, `stride` bytes apart; what is outside the shape is zero
//   store_tile<T>(to, stride)                  rows of the register's shape
//   dot_bytes<Sums, A, B>()                    Sums += A B in int32, A signed, B unsigned
//   dot_signed_bytes<Sums, A, B>()             Sums += A B in int32, both signed
//   dot_bfloat16<Sums, A, B>()                 Sums += A B in float32
//
// A product of `rows` rows and `columns` columns over `depth` inputs, with 4 inputs of one byte or 2 of bfloat16 in a word:
//
//   register   rows            bytes of a row   element
//   A          rows            4 depth_words    row-major: A[row][input]
//   B          depth_words     4 columns        B[word][column][input of the word]: 64 bytes are one step of packed 8-bit weights
//   Sums       rows            4 columns        int32 or float32, row-major
//
// depth_words is at most 16, so one product covers 64 bytes or 32 bfloat16 numbers of depth. product_shapes() makes the shapes of
// such products. The three registers of a product must be different ones.
//
// Rules:
// - Make a TileScope at the start of a task of a parallel loop, never outside of it: shapes belong to a thread, and a thread
//   that waits should have no tile state for the system to save. A call to a function that makes a TileScope, or that
//   configures tiles, clears every register.
// - Register numbers are template arguments, because the instructions hold them.
// - Integer sums wrap at 32 bits and are the same in any order. Sums of bfloat16 are not: dot_bfloat16 adds the products of
//   first inputs and those of second inputs of the words apart, each with fused multiply-adds from zero in the order of words, then both
//   sums to each other, then that to Sums. This is neither the order nor the rounding of dot2 (avx512bf16.h).
// - AMX takes subnormal numbers as zero, as factors and as sums; plain_tiles.h does not.
// - Address sanitizers do not see what load_tile and store_tile of amx_tiles.h touch; they do with plain_tiles.h.
#pragma once

#include <cstdint>

namespace pocketvlm::POCKETVLM_ISA {
namespace {

constexpr int tile_registers = 8;
constexpr int64_t tile_register_rows = 16, tile_register_bytes = 64;  // of the largest shape

// The operand of the instruction that configures tiles.
struct alignas(64) TileShapes {
    uint8_t palette = 1;
    uint8_t start_row = 0;
    uint8_t reserved[14] = {};
    uint16_t row_bytes[16] = {};
    uint8_t rows[16] = {};

    void set(int tile, int64_t new_rows, int64_t new_row_bytes) {
        rows[tile] = static_cast<uint8_t>(new_rows);
        row_bytes[tile] = static_cast<uint16_t>(new_row_bytes);
    }
};
static_assert(sizeof(TileShapes) == 64);

// Registers 0 to 3 are sums [rows, columns], 4 and 5 left factors [rows, depth_words], 6 and 7 right factors [depth_words, columns].
inline TileShapes product_shapes(int64_t rows, int64_t columns, int64_t depth_words) {
    TileShapes shapes;
    for (int tile = 0; tile < 4; ++tile) shapes.set(tile, rows, 4 * columns);
    for (int tile = 4; tile < 6; ++tile) shapes.set(tile, rows, 4 * depth_words);
    for (int tile = 6; tile < 8; ++tile) shapes.set(tile, depth_words, 4 * columns);
    return shapes;
}

}  // namespace
}  // namespace pocketvlm::POCKETVLM_ISA

#if defined(POCKETVLM_PLAIN_TILES)
#include "simd/plain_tiles.h"
#else
#include "simd/amx_tiles.h"
#endif

namespace pocketvlm::POCKETVLM_ISA {
namespace {

// Configures the tiles of this thread for as long as it lives.
class TileScope {
  public:
    explicit TileScope(const TileShapes& shapes) { configure_tiles(shapes); }
    ~TileScope() { release_tiles(); }
    TileScope(const TileScope&) = delete;
    TileScope& operator=(const TileScope&) = delete;
};

}  // namespace
}  // namespace pocketvlm::POCKETVLM_ISA
