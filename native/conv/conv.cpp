// Causal convolution and SiLU. A sequence of one row shifts its window while it reads it. For longer sequences the windows are
// copied first (a task may overwrite the state while another still reads it); then blocks of rows and channels are independent.
#include "conv/conv.h"
#include "simd/math.h"
#include "simd/parallel.h"

namespace pocketvlm::POCKETVLM_ISA {
namespace {

constexpr int64_t channels_a_task = 1024, rows_a_task = 64;

inline Vec get(const float* p, int64_t n) { return n == W ? load(p) : load_part(p, n); }
inline void put(float* p, Vec v, int64_t n) {
    if (n == W)
        store(p, v);
    else
        store_part(p, v, n);
}

// The only row of a sequence, channels [begin, end).
inline void conv_row(const ConvSilu& a, int64_t sequence, int64_t begin, int64_t end) {
    const int64_t past = a.taps - 1, row = a.offsets[sequence] * a.channels;
    const float* before = a.state + a.read_slots[sequence] * past * a.channels;
    float* after = a.state + a.write_slots[sequence] * past * a.channels;
    const bool fresh = a.context_lens[sequence] == 0;
    for (int64_t c = begin; c < end; c += W) {
        const int64_t n = min(W, end - c);
        const Vec x = get(a.x + row + c, n);
        Vec total = zero();
        for (int64_t j = 0; j < past; ++j) {
            const float* from = before + j * a.channels + c;
            float* to = after + j * a.channels + c;
            total = fma(get(a.weight + j * a.channels + c, n), fresh ? zero() : get(from, n), total);
            if (j + 1 == past)
                put(to, x, n);
            else
                put(to, fresh ? zero() : get(from + a.channels, n), n);
        }
        total = fma(get(a.weight + past * a.channels + c, n), x, total);
        put(a.out + row + c, silu(total), n);
    }
}

// One row of a block, channels [begin, end). window[j]: the input that tap j multiplies. Taps: their number, or 0 for any; a
// known number leaves the loop over channels free of other loops.
template <int Taps>
inline void conv_channels(const ConvSilu& a, const float* const* window, int64_t begin, int64_t end, float* out) {
    const int64_t taps = Taps ? Taps : a.taps;
    const auto total = [&](int64_t c, const auto& get) {
        Vec sums = zero();
        for (int64_t j = 0; j < taps; ++j) sums = fma(get(a.weight + j * a.channels + c), get(window[j] + c), sums);
        return silu(sums);
    };
    int64_t c = begin;
    for (; c + W <= end; c += W) store(out + c, total(c, [](const float* p) { return load(p); }));
    if (c < end) store_part(out + c, total(c, [&](const float* p) { return load_part(p, end - c); }), end - c);
}

// Rows [first, last) of a sequence, channels [begin, end). `past_rows` [taps - 1][channels] precede row 0.
inline void conv_block(const ConvSilu& a, int64_t sequence, int64_t first, int64_t last, int64_t begin, int64_t end,
                       const float* past_rows) {
    const int64_t past = a.taps - 1, start = a.offsets[sequence], rows = a.offsets[sequence + 1] - start;
    const float* x = a.x + start * a.channels;
    const auto input = [&](int64_t row) { return row < 0 ? past_rows + (past + row) * a.channels : x + row * a.channels; };
    const float* window[max_taps];
    for (int64_t r = first; r < last; ++r) {
        for (int64_t j = 0; j < a.taps; ++j) window[j] = input(r - past + j);
        float* out = a.out + (start + r) * a.channels;
        a.taps == 4 ? conv_channels<4>(a, window, begin, end, out) : conv_channels<0>(a, window, begin, end, out);
    }
    if (last < rows) return;
    float* state = a.state + a.write_slots[sequence] * past * a.channels;
    for (int64_t j = 0; j < past; ++j) copy(state + j * a.channels + begin, input(rows - past + j) + begin, end - begin);
}

}  // namespace

void conv_silu(Pool& pool, const ConvSilu& a) {
    const int64_t past = a.taps - 1, window = past * a.channels, blocks = divide_up(a.channels, channels_a_task);
    float* windows = pool.shared(static_cast<size_t>(a.sequences * window) * sizeof(float));
    const auto rows = [&](int64_t s) { return a.offsets[s + 1] - a.offsets[s]; };
    const auto range = [&](int64_t block, const auto& body) {
        body(block * channels_a_task, min(a.channels, (block + 1) * channels_a_task));
    };
    parallel(pool, a.sequences * blocks, [&](int64_t task, int) {
        const int64_t s = task / blocks;
        range(task % blocks, [&](int64_t begin, int64_t end) {
            if (rows(s) == 1) return conv_row(a, s, begin, end);
            for (int64_t j = 0; j < past; ++j) {
                float* to = windows + s * window + j * a.channels + begin;
                if (a.context_lens[s] == 0)
                    clear(to, end - begin);
                else
                    copy(to, a.state + a.read_slots[s] * window + j * a.channels + begin, end - begin);
            }
        });
    });
    int64_t chunks = 0;  // row blocks of all longer sequences
    for (int64_t s = 0; s < a.sequences; ++s) chunks += rows(s) == 1 ? 0 : divide_up(rows(s), rows_a_task);
    parallel(pool, chunks * blocks, [&](int64_t task, int) {
        int64_t chunk = task / blocks, s = 0;
        for (;; ++s) {
            const int64_t count = rows(s) == 1 ? 0 : divide_up(rows(s), rows_a_task);
            if (chunk < count) break;
            chunk -= count;
        }
        const int64_t first = chunk * rows_a_task;
        range(task % blocks, [&](int64_t begin, int64_t end) {
            conv_block(a, s, first, min(rows(s), first + rows_a_task), begin, end, windows + s * window);
        });
    });
}

}  // namespace pocketvlm::POCKETVLM_ISA
