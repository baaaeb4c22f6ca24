// The operations of tiles.h in plain C++, for tests on machines without tile registers: as Intel's manual states them.
//
// A wrong use stops the program, as the processor does: shapes that do not fit each other, a register without a shape, any
// operation before configure_tiles or after release_tiles.
#pragma once

#include "simd/tiles.h"

namespace pocketvlm::POCKETVLM_ISA {
namespace {

struct PlainTiles {
    TileShapes shapes;
    bool configured;
    alignas(64) uint8_t bytes[tile_registers][tile_register_rows][tile_register_bytes];
};
constinit thread_local PlainTiles plain_tiles{.shapes = {.palette = 0}, .configured = false, .bytes = {}};

inline void require(bool fits) {
    if (!fits) __builtin_trap();
}

inline void configure_tiles(const TileShapes& shapes) {
    require(shapes.palette == 1 && shapes.start_row == 0);
    for (int tile = 0; tile < 16; ++tile) {
        require(shapes.rows[tile] <= tile_register_rows && shapes.row_bytes[tile] <= tile_register_bytes);
        require((shapes.rows[tile] == 0) == (shapes.row_bytes[tile] == 0) && (tile < tile_registers || shapes.rows[tile] == 0));
    }
    plain_tiles.shapes = shapes;
    plain_tiles.configured = true;
    __builtin_memset(plain_tiles.bytes, 0, sizeof plain_tiles.bytes);
}
inline void release_tiles() {
    plain_tiles.configured = false;
    __builtin_memset(plain_tiles.bytes, 0xff, sizeof plain_tiles.bytes);
}

// One register and its shape.
struct PlainTile {
    int64_t rows, row_bytes;
    uint8_t (*bytes)[tile_register_bytes];
};
template <int Tile>
inline PlainTile plain_tile() {
    static_assert(Tile >= 0 && Tile < tile_registers);
    PlainTiles& all = plain_tiles;
    require(all.configured && all.shapes.rows[Tile] > 0);
    return PlainTile{all.shapes.rows[Tile], all.shapes.row_bytes[Tile], all.bytes[Tile]};
}

template <int Tile>
inline void zero_tile() {
    __builtin_memset(plain_tile<Tile>().bytes, 0, tile_register_rows * tile_register_bytes);
}
template <int Tile>
inline void load_tile(const void* from, int64_t stride) {
    zero_tile<Tile>();
    const PlainTile t = plain_tile<Tile>();
    for (int64_t row = 0; row < t.rows; ++row)
        __builtin_memcpy(t.bytes[row], static_cast<const uint8_t*>(from) + row * stride, static_cast<size_t>(t.row_bytes));
}
template <int Tile>
inline void store_tile(void* to, int64_t stride) {
    const PlainTile t = plain_tile<Tile>();
    for (int64_t row = 0; row < t.rows; ++row)
        __builtin_memcpy(static_cast<uint8_t*>(to) + row * stride, t.bytes[row], static_cast<size_t>(t.row_bytes));
}

inline void require_product(const PlainTile& sums, const PlainTile& a, const PlainTile& b) {
    require(sums.bytes != a.bytes && sums.bytes != b.bytes && a.bytes != b.bytes);
    require(sums.row_bytes % 4 == 0 && a.row_bytes % 4 == 0 && b.row_bytes % 4 == 0);
    require(sums.rows == a.rows && sums.row_bytes == b.row_bytes && a.row_bytes == 4 * b.rows);
}

// Columns outside the shape are zero in B, so all sixteen can be computed.
template <class Right>
inline void add_byte_products(const PlainTile& sums, const PlainTile& a, const PlainTile& b) {
    require_product(sums, a, b);
    for (int64_t row = 0; row < sums.rows; ++row) {
        uint32_t total[16];  // unsigned: overflow wraps
        __builtin_memcpy(total, sums.bytes[row], sizeof total);
        for (int64_t word = 0; word < b.rows; ++word) {
            int8_t left[4];
            __builtin_memcpy(left, a.bytes[row] + 4 * word, sizeof left);
            Right right[64];
            __builtin_memcpy(right, b.bytes[word], sizeof right);
            for (int column = 0; column < 16; ++column) {
                int32_t sum = 0;
                for (int i = 0; i < 4; ++i) sum += left[i] * right[4 * column + i];
                total[column] += static_cast<uint32_t>(sum);
            }
        }
        __builtin_memcpy(sums.bytes[row], total, sizeof total);
    }
}
template <int Sums, int A, int B>
inline void dot_bytes() {
    add_byte_products<uint8_t>(plain_tile<Sums>(), plain_tile<A>(), plain_tile<B>());
}
template <int Sums, int A, int B>
inline void dot_signed_bytes() {
    add_byte_products<int8_t>(plain_tile<Sums>(), plain_tile<A>(), plain_tile<B>());
}

// The first or the second bfloat16 number of a word.
inline float first_of_pair(uint32_t pair) { return __builtin_bit_cast(float, pair << 16); }
inline float second_of_pair(uint32_t pair) { return __builtin_bit_cast(float, pair & 0xffff0000u); }

inline void add_bfloat16_products(const PlainTile& sums, const PlainTile& a, const PlainTile& b) {
    require_product(sums, a, b);
    for (int64_t row = 0; row < sums.rows; ++row) {
        float first[16] = {}, second[16] = {}, total[16];
        for (int64_t word = 0; word < b.rows; ++word) {
            uint32_t left, right[16];
            __builtin_memcpy(&left, a.bytes[row] + 4 * word, sizeof left);
            __builtin_memcpy(right, b.bytes[word], sizeof right);
            for (int column = 0; column < 16; ++column) {
                first[column] = __builtin_fmaf(first_of_pair(left), first_of_pair(right[column]), first[column]);
                second[column] = __builtin_fmaf(second_of_pair(left), second_of_pair(right[column]), second[column]);
            }
        }
        __builtin_memcpy(total, sums.bytes[row], sizeof total);
        for (int column = 0; column < 16; ++column) total[column] += first[column] + second[column];
        __builtin_memcpy(sums.bytes[row], total, static_cast<size_t>(sums.row_bytes));  // infinity * 0 is outside the shape
    }
}
template <int Sums, int A, int B>
inline void dot_bfloat16() {
    add_bfloat16_products(plain_tile<Sums>(), plain_tile<A>(), plain_tile<B>());
}

}  // namespace
}  // namespace pocketvlm::POCKETVLM_ISA
