// The operations of native/simd/tiles.h, checked against plain sums by code that is compiled for each set with tile registers.
#pragma once

#include <cstdint>

namespace pocketvlm::test {

// Ends of memory for factors and sums, 2 KiB each; the byte after an end must not be touched.
struct TileMemory {
    uint8_t *a, *b, *sums;
};

// What is wrong with products of this shape, or null. The factors are random.
using TileProducts = const char*(const TileMemory& memory, int64_t rows, int64_t columns, int64_t depth_words, uint64_t seed);

// The same for loading and storing with a stride that is not a row's size.
using TileRows = const char*(const TileMemory& memory, int64_t rows, int64_t row_bytes, int64_t stride);

}  // namespace pocketvlm::test

namespace pocketvlm::plaintiles {
test::TileProducts tile_products;
test::TileRows tile_rows;
}  // namespace pocketvlm::plaintiles

namespace pocketvlm::amx {
test::TileProducts tile_products;
test::TileRows tile_rows;
}  // namespace pocketvlm::amx
