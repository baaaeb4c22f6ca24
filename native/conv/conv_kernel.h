#pragma once

#include "conv/conv.h"
#include "simd/math.h"
#include "simd/parallel.h"

namespace pocketvlm::POCKETVLM_ISA {
namespace {

constexpr long channels_a_task = 256;

// Channels [c, c + n), n <= W, of one sequence.
inline void conv_channels(const ConvSilu& a, long sequence, long c, long n, const float* taps) {
    const long first = a.offsets[sequence], rows = a.offsets[sequence + 1] - first, past = a.taps - 1;
    const float* x = a.x + first * a.channels + c;
    float *state = a.state + a.slots[sequence] * past * a.channels + c, *out = a.out + first * a.channels + c;
    const auto get = [n](const float* p) { return n == W ? load(p) : load_part(p, n); };
    const auto put = [n](float* p, Vec v) { n == W ? store(p, v) : store_part(p, v, n); };
    const bool fresh = a.context[sequence] == 0;
    Vec before[most_taps];  // the window before the first row, oldest first
    for (long j = 0; j < past; ++j) before[j] = fresh ? zero() : get(state + j * a.channels);
    for (long r = 0; r < rows; ++r) {
        Vec total = zero();
        for (long j = 0; j < a.taps; ++j) {
            const long at = r - past + j;
            total = fma(load(taps + j * W), at < 0 ? before[past + at] : get(x + at * a.channels), total);
        }
        put(out + r * a.channels, silu(total));
    }
    for (long j = 0; j < past; ++j) {
        const long at = rows - past + j;
        put(state + j * a.channels, at < 0 ? before[past + at] : get(x + at * a.channels));
    }
}

}  // namespace

void conv_silu(Pool& pool, const ConvSilu& a) {
    const long blocks = divide_up(a.channels, channels_a_task);
    parallel(pool, blocks, [&](long block, int) {
        const long last = smaller(a.channels, (block + 1) * channels_a_task);
        for (long c = block * channels_a_task; c < last; c += W) {
            const long n = smaller(W, last - c);
            alignas(64) float taps[most_taps * W] = {};
            for (long j = 0; j < a.taps; ++j)
                for (long i = 0; i < n; ++i) taps[j * W + i] = a.weight[(c + i) * a.taps + j];
            for (long s = 0; s < a.sequences; ++s) conv_channels(a, s, c, n, taps);
        }
    });
}

}  // namespace pocketvlm::POCKETVLM_ISA
