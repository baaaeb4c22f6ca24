#include "rows/rows.h"

#include <cstring>

#include "runtime/float16.h"

namespace pocketvlm {
namespace {

template <class Body>
void each_block(Pool& pool, int64_t rows, int64_t width, const Body& body) {
    const int64_t minimum = width > 0 ? 65536 / width + 1 : 1, fair = rows / (4 * pool.threads()) + 1;
    const int64_t chunk = minimum > fair ? minimum : fair;
    const auto block = [&](int64_t t) {
        const int64_t last = (t + 1) * chunk < rows ? (t + 1) * chunk : rows;
        for (int64_t r = t * chunk; r < last; ++r) body(r);
    };
    using Block = decltype(block);
    pool.run((rows + chunk - 1) / chunk, [](void* f, int64_t t, int) { (*static_cast<Block*>(f))(t); },
             const_cast<void*>(static_cast<const void*>(&block)));
}

std::size_t bytes(int64_t floats) { return static_cast<std::size_t>(floats) * sizeof(float); }

}  // namespace

void embed(Pool& pool, const void* table, Stored type, const int32_t* ids, int64_t count, int64_t width, float* out) {
    each_block(pool, count, width, [&](int64_t r) {
        float* to = out + r * width;
        if (type == Stored::float32) {
            std::memcpy(to, static_cast<const float*>(table) + ids[r] * width, bytes(width));
            return;
        }
        // Rows of a mapped file may begin at an odd address.
        const uint8_t* from = static_cast<const uint8_t*>(table) + ids[r] * width * 2;
        const auto number = [from](int64_t i) {
            uint16_t value;
            std::memcpy(&value, from + 2 * i, sizeof value);
            return value;
        };
        if (type == Stored::float16) {
            for (int64_t i = 0; i < width; ++i) to[i] = from_float16(number(i));
            return;
        }
        for (int64_t i = 0; i < width; ++i) {
            const uint32_t bits = static_cast<uint32_t>(number(i)) << 16;
            std::memcpy(to + i, &bits, sizeof bits);
        }
    });
}

void take_rows(Pool& pool, const float* x, const int32_t* rows, int64_t count, int64_t width, float* out) {
    each_block(pool, count, width, [&](int64_t r) { std::memcpy(out + r * width, x + rows[r] * width, bytes(width)); });
}

void put_rows(float* x, const int32_t* rows, int64_t count, int64_t width, const float* values) {
    for (int64_t r = 0; r < count; ++r) std::memcpy(x + rows[r] * width, values + r * width, bytes(width));
}

void regroup_2x2(Pool& pool, const float* x, const int32_t* sizes, const int32_t* offsets, int64_t views, int64_t channels, float* out) {
    for (int64_t v = 0; v < views; ++v) {
        const int64_t height = sizes[2 * v], width = sizes[2 * v + 1], across = width / 2;
        const float* from = x + offsets[v] * channels;
        float* to = out + offsets[v] * channels;
        each_block(pool, height / 2 * across, 4 * channels, [&](int64_t w) {
            const float* corner = from + (w / across * 2 * width + w % across * 2) * channels;
            std::memcpy(to + w * 4 * channels, corner, bytes(2 * channels));
            std::memcpy(to + (w * 4 + 2) * channels, corner + width * channels, bytes(2 * channels));
        });
    }
}

void window_mean(Pool& pool, const float* x, int64_t windows, int64_t channels, float* out) {
    each_block(pool, windows, channels, [&](int64_t w) {
        const float* from = x + w * 4 * channels;
        float* to = out + w * channels;
        for (int64_t c = 0; c < channels; ++c)
            to[c] = (from[c] + from[c + channels] + from[c + 2 * channels] + from[c + 3 * channels]) * 0.25f;
    });
}

}  // namespace pocketvlm
