// Few rows: dot products that stream each weight once (memory-bound). Many rows: packed panels and the block product.
#pragma once

#include "linear/epilogue.h"
#include "simd/pack.h"
#include "simd/parallel.h"
#include "simd/tile.h"
#if POCKETVLM_ISA_NUMBER(POCKETVLM_ISA) == POCKETVLM_ISA_avx512bf16
#include "linear/half_products.h"
#endif

namespace pocketvlm::POCKETVLM_ISA {
namespace {

// --- few rows ---

// The next 2W weights as two vectors; x is laid out to match (arrange).
inline void load_weights(const float* p, Vec& first, Vec& second) {
    first = load(p);
    second = load(p + W);
}
inline void load_weights(const uint16_t* p, Vec& first, Vec& second) {
    const Vec bits = load_bits(p);
    first = low_bf16(bits);
    second = high_bf16(bits);
}
inline void load_weights(const float* p, long n, Vec& first, Vec& second) {
    first = load_part(p, n);
    second = load_part(p + smaller(W, n), n - W);
}
inline void load_weights(const uint16_t* p, long n, Vec& first, Vec& second) {
    const Vec bits = load_bits_part(p, n);
    first = low_bf16(bits);
    second = high_bf16(bits);
}

// x [inputs] padded with zeros to whole blocks of 2W: for bfloat16 weights the even ones of a block, then the odd ones.
inline void arrange(const float* x, long inputs, bool bf16, float* out) {
    for (long k = 0; k < inputs; k += 2 * W) {
        float block[2 * W] = {};
        copy(block, x + k, smaller(2 * W, inputs - k));
        for (int i = 0; i < W; ++i) {
            out[k + i] = bf16 ? block[2 * i] : block[i];
            out[k + W + i] = bf16 ? block[2 * i + 1] : block[W + i];
        }
    }
}

constexpr long prefetch_bytes = 2048;
constexpr long dot_rows = 4;  // rows of x that share one pass over the weights

// Rows x Outputs dot products. The order of the additions is the same for every Rows and Outputs.
template <int Outputs, int Rows, class T>
inline void dots(const float* x, long x_stride, const T* weight, long inputs, float* out, long out_stride) {
    Vec sums[Outputs][Rows];
#pragma GCC unroll 4
    for (int o = 0; o < Outputs; ++o)
#pragma GCC unroll 4
        for (int r = 0; r < Rows; ++r) sums[o][r] = zero();
    long k = 0;
    for (; k + 2 * W <= inputs; k += 2 * W) {
#pragma GCC unroll 4
        for (int o = 0; o < Outputs; ++o) {
            Vec first, second;
            __builtin_prefetch(reinterpret_cast<const char*>(weight + o * inputs + k) + prefetch_bytes);
            load_weights(weight + o * inputs + k, first, second);
#pragma GCC unroll 4
            for (int r = 0; r < Rows; ++r) {
                sums[o][r] = fma(first, load(x + r * x_stride + k), sums[o][r]);
                sums[o][r] = fma(second, load(x + r * x_stride + k + W), sums[o][r]);
            }
        }
    }
    if (k < inputs) {
        for (int o = 0; o < Outputs; ++o) {
            Vec first, second;
            load_weights(weight + o * inputs + k, inputs - k, first, second);
            for (int r = 0; r < Rows; ++r) {
                sums[o][r] = fma(first, load(x + r * x_stride + k), sums[o][r]);
                sums[o][r] = fma(second, load(x + r * x_stride + k + W), sums[o][r]);
            }
        }
    }
    for (int o = 0; o < Outputs; ++o)
        for (int r = 0; r < Rows; ++r) out[r * out_stride + o] = sum(sums[o][r]);
}

template <int Rows, class T>
inline void dots_of(const float* x, long x_stride, const T* weight, long outputs, const Linear& a, float* out) {
    constexpr int together = many_registers || Rows <= 2 ? 4 : 2;
    long o = 0;
    for (; o + together <= outputs; o += together)
        dots<together, Rows>(x, x_stride, weight + o * a.inputs, a.inputs, out + o, a.outputs);
    for (; o < outputs; ++o) dots<1, Rows>(x, x_stride, weight + o * a.inputs, a.inputs, out + o, a.outputs);
}

template <class T>
void few_rows(Pool& pool, const Linear& a) {
    const long stride = round_up(a.inputs, 2 * W);
    float* x = pool.shared(static_cast<size_t>(a.rows * stride) * sizeof(float));
    for (long r = 0; r < a.rows; ++r) arrange(a.x + r * a.inputs, a.inputs, a.bf16, x + r * stride);
    const long weight_bytes = a.inputs * static_cast<long>(sizeof(T));
    const long fair = divide_up(a.outputs, 4L * pool.threads());
    const long piece = round_up(larger(1, smaller(larger(fair, divide_up(32768, weight_bytes)), divide_up(1 << 20, weight_bytes))), 4);
    const long batch = smaller(piece, larger(4, 16384 / weight_bytes / 4 * 4));  // outputs whose weights stay in the cache
    parallel(pool, divide_up(a.outputs, piece), [&](long t, int) {
        const long last = smaller(a.outputs, (t + 1) * piece);
        for (long o = t * piece; o < last; o += batch) {
            const long count = smaller(batch, last - o);
            const T* weight = static_cast<const T*>(a.weight) + o * a.inputs;
            for (long r = 0; r < a.rows; r += dot_rows) {
                float* out = a.out + r * a.outputs + o;
                const float* rows = x + r * stride;
                switch (smaller(dot_rows, a.rows - r)) {
                    case 1: dots_of<1>(rows, stride, weight, count, a, out); break;
                    case 2: dots_of<2>(rows, stride, weight, count, a, out); break;
                    case 3: dots_of<3>(rows, stride, weight, count, a, out); break;
                    default: dots_of<4>(rows, stride, weight, count, a, out); break;
                }
            }
        }
        const long first = t * piece;
        finish(a, a.out + first, a.outputs, 0, a.rows, first, last - first);
    });
}

// --- many rows ---

constexpr long depth_block = 1536, row_block = 1024, most_panels = 4;
constexpr long few = W == 16 ? 32 : 12;  // up to here dot products are faster

template <class T>
void many_rows(Pool& pool, const Linear& a) {
    const long panels = divide_up(a.outputs, panel_width);
    const long depth_step = round_up(divide_up(a.inputs, divide_up(a.inputs, depth_block)), 2 * W);
    const long row_step = divide_up(a.rows, divide_up(a.rows, row_block));
    const long group = larger(1, smaller(most_panels, panels / (8L * pool.threads())));
    const long groups = divide_up(panels, group), panel_size = depth_step * panel_width;
    pool.reserve(static_cast<size_t>(group * panel_size + panel_rows * panel_width) * sizeof(float));
    for (long row = 0; row < a.rows; row += row_step) {
        const long rows = smaller(row_step, a.rows - row);
        const long height = divide_up(rows, divide_up(rows, panel_rows)), tiles = divide_up(rows, height);
        const long tile_size = depth_step * height + W;
        float* left = pool.shared(static_cast<size_t>(tiles * tile_size) * sizeof(float));
        const long splits = smaller(divide_up(4L * pool.threads(), groups), larger(1, rows / 96));
        for (long k = 0; k < a.inputs; k += depth_step) {
            const long depth = smaller(depth_step, a.inputs - k);
            parallel(pool, tiles, [&](long t, int) {
                const long first = t * height;
                pack_columns(a.x + (row + first) * a.inputs + k, a.inputs, smaller(height, rows - first), depth,
                             left + t * tile_size, height);
            });
            parallel(pool, groups * splits, [&](long task, int worker) {
                const long first_panel = task / splits * group, count = smaller(group, panels - first_panel);
                const long split = task % splits, last_tile = (split + 1) * tiles / splits;
                float *right = pool.scratch(worker), *spare = right + group * panel_size;
                for (long p = 0; p < count; ++p) {
                    const long column = (first_panel + p) * panel_width;
                    pack_columns(static_cast<const T*>(a.weight) + column * a.inputs + k, a.inputs,
                                 smaller(panel_width, a.outputs - column), depth, right + p * panel_size, panel_width);
                }
                for (long t = split * tiles / splits; t < last_tile; ++t) {
                    const long r = row + t * height, h = smaller(height, row + rows - r);
                    for (long p = 0; p < count; ++p) {
                        const long column = (first_panel + p) * panel_width, width = smaller(panel_width, a.outputs - column);
                        const bool whole = width == panel_width, add = k > 0, end = k + depth == a.inputs;
                        float *out = a.out + r * a.outputs + column, *sums = whole ? out : spare;
                        const long stride = whole ? a.outputs : panel_width;
                        if (!whole && add)
                            for (long i = 0; i < h; ++i) copy(spare + i * stride, out + i * a.outputs, width);
                        const Product product{depth, left + t * tile_size, height, right + p * panel_size, panel_width, sums, stride};
                        multiply(h, panel_vecs, product, add);
                        if (end)
                            finish(a, sums, stride, r, h, column, width);
                        else if (!whole)
                            for (long i = 0; i < h; ++i) copy(out + i * a.outputs, spare + i * stride, width);
                    }
                }
            });
        }
    }
}

}  // namespace

void linear(Pool& pool, const Linear& args) {
#if POCKETVLM_ISA_NUMBER(POCKETVLM_ISA) == POCKETVLM_ISA_avx512bf16
    if (args.fast && args.bf16) return half_linear(pool, args);
#endif
    if (args.rows <= few)
        args.bf16 ? few_rows<uint16_t>(pool, args) : few_rows<float>(pool, args);
    else
        args.bf16 ? many_rows<uint16_t>(pool, args) : many_rows<float>(pool, args);
}

}  // namespace pocketvlm::POCKETVLM_ISA
