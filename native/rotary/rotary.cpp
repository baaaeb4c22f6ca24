// Rotary positions: splits query and gate, normalizes and rotates the heads, writes keys and values to the cache.
#include "rotary/rotary.h"
#include "attention/kv_rows.h"
#include "simd/parallel.h"

namespace pocketvlm::POCKETVLM_ISA {
namespace {

// One head: zero-centred RMS norm, then pairs (i, i + half) rotated by their angle.
inline void norm_and_rotate(const float* x, const float* weight, const float* cosine, const float* sine, const AttentionInputs& a,
                            float* out) {
    Vec squares = zero();
    const int64_t d = a.head_dim, half = a.rotary_dim / 2;
    for (int64_t j = 0; j < d; j += W) {
        const Vec v = j + W <= d ? load(x + j) : load_part(x + j, d - j);
        squares = fma(v, v, squares);
    }
    const Vec factor = splat(1.0f / __builtin_sqrtf(sum(squares) / static_cast<float>(d) + a.eps)), one = splat(1.0f);
    for (int64_t j = 0; j < d; j += W) {
        if (j + W <= d)
            store(out + j, load(x + j) * factor * (one + load(weight + j)));
        else
            store_part(out + j, load_part(x + j, d - j) * factor * (one + load_part(weight + j, d - j)), d - j);
    }
    for (int64_t i = 0; i < half; ++i) {
        const float first = out[i], second = out[i + half];
        out[i] = first * cosine[i] - second * sine[i];
        out[i + half] = second * cosine[i] + first * sine[i];
    }
}

template <class T>
inline void attention_inputs_of(Pool& pool, const AttentionInputs& a) {
    const int64_t d = a.head_dim, half = a.rotary_dim / 2, kv = a.kv_heads * d;
    pool.reserve(static_cast<size_t>(2 * half + d) * sizeof(float));
    parallel(pool, divide_up(a.rows, 4), [&](int64_t task, int worker) {
        float *cosine = pool.scratch(worker), *sine = cosine + half, *rotated = sine + half;
        for (int64_t r = task * 4; r < min(a.rows, task * 4 + 4); ++r) {
            for (int64_t i = 0; i < half; ++i) {
                const int32_t position = a.positions[a.axes[i] * a.rows + r];
                const float angle = static_cast<float>(position) * a.frequencies[i];
                cosine[i] = __builtin_cosf(angle);
                sine[i] = __builtin_sinf(angle);
            }
            for (int64_t h = 0; h < a.heads; ++h) {
                const float* x = a.query_gate + (r * a.heads + h) * 2 * d;
                norm_and_rotate(x, a.q_norm, cosine, sine, a, a.query + (r * a.heads + h) * d);
                copy(a.gate + (r * a.heads + h) * d, x + d, d);
            }
            const int64_t page = a.cache_rows[r] / a.page_size, inside = a.cache_rows[r] % a.page_size;
            for (int64_t h = 0; h < a.kv_heads; ++h) {
                const int64_t row = (page * a.kv_heads + h) * a.page_size + inside;
                norm_and_rotate(a.key + r * kv + h * d, a.k_norm, cosine, sine, a, rotated);
                store_row(rotated, d, static_cast<T*>(a.keys) + row * d, a.key_scales ? a.key_scales + row : nullptr);
                store_row(a.value + r * kv + h * d, d, static_cast<T*>(a.values) + row * d, a.value_scales ? a.value_scales + row : nullptr);
            }
        }
    });
}

}  // namespace

void attention_inputs(Pool& pool, const AttentionInputs& a) {
    if (a.type == KVType::float32) return attention_inputs_of<float>(pool, a);
    if (a.type == KVType::bfloat16) return attention_inputs_of<uint16_t>(pool, a);
    attention_inputs_of<int8_t>(pool, a);
}

}  // namespace pocketvlm::POCKETVLM_ISA
