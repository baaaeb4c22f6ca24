// First the taps, channel by channel in the caller, become rows of channels, and the windows are set aside (a task may
// overwrite the state while another still needs it). Then blocks of rows and channels are independent of each other.
#pragma once

#include "conv/conv.h"
#include "simd/math.h"
#include "simd/parallel.h"

namespace pocketvlm::POCKETVLM_ISA {
namespace {

constexpr long channels_a_task = 1024, rows_a_task = 64;

inline Vec get(const float* p, long n) { return n == W ? load(p) : load_part(p, n); }
inline void put(float* p, Vec v, long n) {
    if (n == W)
        store(p, v);
    else
        store_part(p, v, n);
}

// [channels, Taps] -> [Taps, channels] for channels [first, last).
template <int Taps>
inline void turn_taps(const ConvSilu& a, long first, long last, float* out) {
    const long taps = Taps ? Taps : a.taps;
    for (long c = first; c < last; ++c)
        for (long j = 0; j < taps; ++j) out[j * a.channels + c] = a.weight[c * taps + j];
}

// Rows [first, last) of a sequence, channels [begin, end). `past_rows` [taps - 1][channels] precede row 0.
inline void conv_block(const ConvSilu& a, long sequence, long first, long last, long begin, long end, const float* taps,
                       const float* past_rows) {
    const long past = a.taps - 1, start = a.offsets[sequence], rows = a.offsets[sequence + 1] - start;
    const float* x = a.x + start * a.channels;
    const auto input = [&](long row) { return row < 0 ? past_rows + (past + row) * a.channels : x + row * a.channels; };
    const float* window[most_taps];
    for (long r = first; r < last; ++r) {
        for (long j = 0; j < a.taps; ++j) window[j] = input(r - past + j);
        float* out = a.out + (start + r) * a.channels;
        for (long c = begin; c < end; c += W) {
            const long n = smaller(W, end - c);
            Vec total = zero();
            for (long j = 0; j < a.taps; ++j) total = fma(get(taps + j * a.channels + c, n), get(window[j] + c, n), total);
            put(out + c, silu(total), n);
        }
    }
    if (last < rows) return;
    float* state = a.state + a.slots[sequence] * past * a.channels;
    for (long j = 0; j < past; ++j) copy(state + j * a.channels + begin, input(rows - past + j) + begin, end - begin);
}

}  // namespace

void conv_silu(Pool& pool, const ConvSilu& a) {
    const long past = a.taps - 1, window = past * a.channels, blocks = divide_up(a.channels, channels_a_task);
    float* taps = pool.shared(static_cast<size_t>(a.taps * a.channels + a.sequences * window) * sizeof(float));
    float* windows = taps + a.taps * a.channels;
    parallel(pool, blocks, [&](long block, int) {
        const long begin = block * channels_a_task, end = smaller(a.channels, begin + channels_a_task);
        a.taps == 4 ? turn_taps<4>(a, begin, end, taps) : turn_taps<0>(a, begin, end, taps);
        for (long s = 0; s < a.sequences; ++s)
            for (long j = 0; j < past; ++j) {
                float* to = windows + s * window + j * a.channels + begin;
                if (a.context[s] == 0)
                    clear(to, end - begin);
                else
                    copy(to, a.state + a.slots[s] * window + j * a.channels + begin, end - begin);
            }
    });
    long pieces = 0;  // row blocks of all sequences
    for (long s = 0; s < a.sequences; ++s) pieces += divide_up(a.offsets[s + 1] - a.offsets[s], rows_a_task);
    parallel(pool, pieces * blocks, [&](long task, int) {
        long piece = task / blocks, s = 0;
        for (;; ++s) {
            const long count = divide_up(a.offsets[s + 1] - a.offsets[s], rows_a_task);
            if (piece < count) break;
            piece -= count;
        }
        const long begin = task % blocks * channels_a_task, first = piece * rows_a_task;
        conv_block(a, s, first, smaller(a.offsets[s + 1] - a.offsets[s], first + rows_a_task), begin,
                   smaller(a.channels, begin + channels_a_task), taps, windows + s * window);
    });
}

}  // namespace pocketvlm::POCKETVLM_ISA
