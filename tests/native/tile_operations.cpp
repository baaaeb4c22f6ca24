#include "tile_operations.h"

#include "simd/simd.h"

namespace pocketvlm::POCKETVLM_ISA {
namespace {

inline uint64_t next(uint64_t& state) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return state >> 33;
}
inline float number_of(const uint8_t* p) {
    uint16_t bits;
    __builtin_memcpy(&bits, p, sizeof bits);
    return __builtin_bit_cast(float, static_cast<uint32_t>(bits) << 16);
}

template <class Left, class Right>
inline bool bytes_differ(const uint8_t* a, const uint8_t* b, const uint32_t* sums, uint32_t first, int64_t rows, int64_t columns, int64_t words) {
    for (int64_t row = 0; row < rows; ++row)
        for (int64_t column = 0; column < columns; ++column) {
            uint32_t expected = first;
            for (int64_t k = 0; k < 4 * words; ++k)
                expected += static_cast<uint32_t>(static_cast<Left>(a[row * 4 * words + k]) * static_cast<Right>(b[(k / 4 * columns + column) * 4 + k % 4]));
            if (sums[row * columns + column] != expected) return true;
        }
    return false;
}

}  // namespace

const char* tile_products(const test::TileMemory& memory, int64_t rows, int64_t columns, int64_t words, uint64_t seed) {
    uint8_t *a = memory.a - rows * 4 * words, *b = memory.b - words * 4 * columns, *out = memory.sums - rows * 4 * columns;
    auto* sums = reinterpret_cast<uint32_t*>(out);
    const TileScope tiles(product_shapes(rows, columns, words));
    for (int64_t i = 0; i < rows * 4 * words; ++i) a[i] = static_cast<uint8_t>(next(seed) % 4 ? next(seed) : 0x80);  // extremes often
    for (int64_t i = 0; i < columns * 4 * words; ++i) b[i] = static_cast<uint8_t>(next(seed) % 4 ? next(seed) : 0xff);
    constexpr uint32_t first = 0x7fffff00u;  // sums wrap
    for (int64_t i = 0; i < rows * columns; ++i) sums[i] = first;

    load_tile<1>(out, 4 * columns);
    load_tile<3>(out, 4 * columns);
    load_tile<5>(a, 4 * words);
    load_tile<7>(b, 4 * columns);
    dot_bytes<1, 5, 7>();
    dot_signed_bytes<3, 5, 7>();
    store_tile<1>(out, 4 * columns);
    if (bytes_differ<int8_t, uint8_t>(a, b, sums, first, rows, columns, words)) return "dot_bytes";
    store_tile<3>(out, 4 * columns);
    if (bytes_differ<int8_t, int8_t>(a, b, sums, first, rows, columns, words)) return "dot_signed_bytes";
    zero_tile<3>();
    store_tile<3>(out, 4 * columns);
    for (int64_t i = 0; i < rows * columns; ++i)
        if (sums[i]) return "zero_tile";

    // Numbers from 1/16 to 16 of both signs.
    const auto fill = [&](uint8_t* p, int64_t count) {
        for (int64_t i = 0; i < count; ++i) {
            const uint64_t bits = next(seed);
            const auto number = static_cast<uint16_t>((bits & 0x807fu) | (123 + (bits >> 16) % 9) << 7);
            __builtin_memcpy(p + 2 * i, &number, sizeof number);
        }
    };
    fill(a, rows * 2 * words), fill(b, columns * 2 * words);
    load_tile<4>(a, 4 * words);
    load_tile<6>(b, 4 * columns);
    const float start = 3.25f;
    for (int64_t i = 0; i < rows * columns; ++i) __builtin_memcpy(sums + i, &start, sizeof start);
    load_tile<0>(out, 4 * columns);
    dot_bfloat16<0, 4, 6>();
    store_tile<0>(out, 4 * columns);
    for (int64_t row = 0; row < rows; ++row)
        for (int64_t column = 0; column < columns; ++column) {
            float parts[2] = {0.0f, 0.0f};
            for (int64_t k = 0; k < 2 * words; ++k)
                parts[k % 2] = __builtin_fmaf(number_of(a + (row * 2 * words + k) * 2), number_of(b + (k / 2 * columns + column) * 4 + k % 2 * 2), parts[k % 2]);
            const float expected = start + (parts[0] + parts[1]);
            if (__builtin_bit_cast(uint32_t, expected) != sums[row * columns + column]) return "dot_bfloat16";
        }
    return nullptr;
}

const char* tile_rows(const test::TileMemory& memory, int64_t rows, int64_t row_bytes, int64_t stride) {
    uint8_t *from = memory.a - ((rows - 1) * stride + row_bytes), *to = memory.sums - ((rows - 1) * stride + row_bytes);
    const int64_t size = (rows - 1) * stride + row_bytes;
    for (int64_t i = 0; i < size; ++i) from[i] = static_cast<uint8_t>(i * 7 + 1), to[i] = 0xee;
    TileShapes shapes;
    shapes.set(2, rows, row_bytes);
    {
        const TileScope tiles(shapes);
        load_tile<2>(from, stride);
        store_tile<2>(to, stride);
    }
    for (int64_t i = 0; i < size; ++i)
        if (to[i] != (i % stride < row_bytes ? from[i] : 0xee)) return "rows with a stride";
    return nullptr;
}

}  // namespace pocketvlm::POCKETVLM_ISA
