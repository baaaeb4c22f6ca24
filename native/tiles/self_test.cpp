#include "tiles/self_test.h"

#include "simd/simd.h"

#if !defined(POCKETVLM_TILE_REGISTERS)
#error "only sets with tile registers build this file"
#endif

namespace pocketvlm::POCKETVLM_ISA {
namespace {

// Small whole numbers, with which products of every type are exact.
inline int left_of(int64_t row, int64_t input) { return static_cast<int>((row * 7 + input * 5) % 15) - 7; }
inline int right_of(int64_t input, int64_t column, bool is_signed) {
    return static_cast<int>((input * 3 + column * 11) % 13) - (is_signed ? 6 : 0);
}
inline uint16_t bfloat16_of(int value) {
    const float number = static_cast<float>(value);
    uint32_t bits;
    __builtin_memcpy(&bits, &number, sizeof bits);
    return static_cast<uint16_t>(bits >> 16);
}

enum class Factors { unsigned_bytes, signed_bytes, bfloat16 };

// One product of a shape, twice into the same sums: the second begins where the first ended.
template <Factors kind>
__attribute__((noinline)) bool is_exact(int64_t rows, int64_t columns, int64_t depth_words, int32_t error) {
    constexpr int64_t each = kind == Factors::bfloat16 ? 2 : 4;  // inputs of a word
    constexpr bool is_signed = kind != Factors::unsigned_bytes;
    const int64_t inputs = each * depth_words;
    int left[16][64], right[64][16];
    alignas(64) uint8_t a[16 * 64], b[16 * 64];
    const auto put = [](uint8_t* to, int64_t at, int value) {
        if constexpr (kind == Factors::bfloat16) {
            const uint16_t bits = bfloat16_of(value);
            __builtin_memcpy(to + 2 * at, &bits, sizeof bits);
        } else {
            to[at] = static_cast<uint8_t>(value);
        }
    };
    for (int64_t input = 0; input < inputs; ++input) {
        for (int64_t row = 0; row < rows; ++row) put(a, row * inputs + input, left[row][input] = left_of(row, input));
        for (int64_t column = 0; column < columns; ++column)
            put(b, (input / each * columns + column) * each + input % each, right[input][column] = right_of(input, column, is_signed));
    }
    alignas(64) uint32_t sums[16 * 16];
    {
        const TileScope tiles(product_shapes(rows, columns, depth_words));
        zero_tile<0>();
        load_tile<4>(a, 4 * depth_words);
        load_tile<6>(b, 4 * columns);
        for (int i = 0; i < 2; ++i)
            if constexpr (kind == Factors::unsigned_bytes)
                dot_bytes<0, 4, 6>();
            else if constexpr (kind == Factors::signed_bytes)
                dot_signed_bytes<0, 4, 6>();
            else
                dot_bfloat16<0, 4, 6>();
        store_tile<0>(sums, 4 * columns);
    }
    for (int64_t row = 0; row < rows; ++row)
        for (int64_t column = 0; column < columns; ++column) {
            int32_t sum = row == rows - 1 && column == columns - 1 ? error : 0;
            for (int64_t input = 0; input < inputs; ++input) sum += 2 * left[row][input] * right[input][column];
            uint32_t expected = static_cast<uint32_t>(sum);
            if constexpr (kind == Factors::bfloat16) {
                const float number = static_cast<float>(sum);
                __builtin_memcpy(&expected, &number, sizeof expected);
            }
            if (sums[row * columns + column] != expected) return false;
        }
    return true;
}

}  // namespace

bool tile_self_test(int32_t error) {
    constexpr int64_t shapes[][3] = {{16, 16, 16}, {16, 16, 8}, {5, 16, 16}, {7, 3, 10}};
    for (const auto& [rows, columns, depth_words] : shapes) {
        if (!is_exact<Factors::unsigned_bytes>(rows, columns, depth_words, error)) return false;
        if (!is_exact<Factors::signed_bytes>(rows, columns, depth_words, error)) return false;
        if (!is_exact<Factors::bfloat16>(rows, columns, depth_words, error)) return false;
    }
    return true;
}

}  // namespace pocketvlm::POCKETVLM_ISA
