// Microbenchmarks of products in tile registers alone.
#include "microbenchmark/threads.h"

namespace pocketvlm::POCKETVLM_ISA {
namespace {

// One round of tiles takes the place of sixteen rounds of vectors, because it does more. dots() runs four products.
template <class Dots>
inline int64_t multiply_tiles(Pool& pool, int64_t rounds, int64_t depth, const Dots& dots) {
    const int64_t repeats = divide_up(rounds, 16);
    on_all_threads(pool, [&](int64_t task) {
        alignas(64) uint8_t factors[tile_register_rows * tile_register_bytes];
        for (int64_t i = 0; i < tile_register_rows * tile_register_bytes; ++i) factors[i] = static_cast<uint8_t>((i + task) % 64);
        alignas(64) int32_t sums[16 * 16];
        const TileScope tiles(product_shapes(tile_register_rows, 16, 16));
        load_tile<4>(factors, tile_register_bytes);
        load_tile<5>(factors, tile_register_bytes);
        load_tile<6>(factors, tile_register_bytes);
        load_tile<7>(factors, tile_register_bytes);
        for (int64_t r = 0; r < repeats; ++r) dots();
        store_tile<0>(sums, tile_register_bytes);
        return static_cast<float>(sums[0]);
    });
    return repeats * 4 * 2 * 16 * 16 * depth * pool.threads();
}

}  // namespace

int64_t multiply_bytes(Pool& pool, int64_t rounds) {
    return multiply_tiles(pool, rounds, 64, [] { dot_bytes<0, 4, 6>(), dot_bytes<1, 4, 7>(), dot_bytes<2, 5, 6>(), dot_bytes<3, 5, 7>(); });
}

int64_t multiply_bfloat16(Pool& pool, int64_t rounds) {
    return multiply_tiles(pool, rounds, 32,
                          [] { dot_bfloat16<0, 4, 6>(), dot_bfloat16<1, 4, 7>(), dot_bfloat16<2, 5, 6>(), dot_bfloat16<3, 5, 7>(); });
}

}  // namespace pocketvlm::POCKETVLM_ISA
