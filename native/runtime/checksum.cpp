// Sums up chunks of 1 MiB, each on one thread and in eight lanes that take the words in turn. A step of a lane is
// one-to-one in its state and in the word, so no change of one word can get lost; multiplication carries differences up,
// rotation brings them down again.
#include "runtime/checksum.h"

#include <bit>
#include <cstring>
#include <vector>

namespace pocketvlm {
namespace {

constexpr int64_t lanes = 8;
constexpr int64_t stride = lanes * 8;
constexpr int64_t chunk = 1 << 20;
constexpr uint64_t factor = 0xcf93a85cfecad007u;
constexpr uint64_t start = 0xe653296ab7883785u;

inline uint64_t step(uint64_t state, uint64_t word) { return std::rotl((state ^ word) * factor, 29); }

inline uint64_t spread(uint64_t x) {
    x = (x ^ x >> 32) * factor;
    x = (x ^ x >> 29) * factor;
    return x ^ x >> 32;
}

uint64_t of_chunk(const uint8_t* bytes, int64_t count, int64_t index) {
    uint64_t state[lanes], words[lanes];
    for (int64_t i = 0; i < lanes; ++i) state[i] = spread(start + static_cast<uint64_t>(index * lanes + i));
    const uint8_t* const whole = bytes + count / stride * stride;
    for (; bytes < whole; bytes += stride) {
        std::memcpy(words, bytes, stride);
        for (int64_t i = 0; i < lanes; ++i) state[i] = step(state[i], words[i]);
    }
    if (count % stride) {
        std::memset(words, 0, stride);
        std::memcpy(words, bytes, static_cast<std::size_t>(count % stride));
        for (int64_t i = 0; i < lanes; ++i) state[i] = step(state[i], words[i]);
    }
    uint64_t sum = static_cast<uint64_t>(count);
    for (int64_t i = 0; i < lanes; ++i) sum = step(sum, spread(state[i]));
    return spread(sum);
}

}  // namespace

uint64_t checksum(Pool& pool, const uint8_t* bytes, int64_t count) {
    std::vector<uint64_t> sums(static_cast<std::size_t>((count + chunk - 1) / chunk));
    const auto body = [&](int64_t t) { sums[t] = of_chunk(bytes + t * chunk, count - t * chunk < chunk ? count - t * chunk : chunk, t); };
    using Body = decltype(body);
    pool.run(static_cast<int64_t>(sums.size()), [](void* f, int64_t t, int) { (*static_cast<Body*>(f))(t); },
             const_cast<void*>(static_cast<const void*>(&body)));
    uint64_t sum = spread(start ^ static_cast<uint64_t>(count));
    for (const uint64_t each : sums) sum = step(sum, each);
    return spread(sum);
}

}  // namespace pocketvlm
