// The linear layer in float32. Few rows use dot products that read each weight once; many rows use packed tiles (tile.h).
#include "linear/epilogue.h"
#include "simd/pack.h"
#include "simd/parallel.h"
#include "simd/tile.h"
#if defined(POCKETVLM_BFLOAT16_PRODUCTS)
#include "linear/bfloat16_products.h"
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
inline void load_weights(const float* p, int64_t n, Vec& first, Vec& second) {
    first = load_part(p, n);
    second = load_part(p + min(W, n), n - W);
}
inline void load_weights(const uint16_t* p, int64_t n, Vec& first, Vec& second) {
    const Vec bits = load_bits_part(p, n);
    first = low_bf16(bits);
    second = high_bf16(bits);
}

// x [inputs] padded with zeros to whole blocks of 2W: for bfloat16 weights the even ones of a block, then the odd ones.
inline void arrange(const float* x, int64_t inputs, bool bf16, float* out) {
    for (int64_t k = 0; k < inputs; k += 2 * W) {
        float block[2 * W] = {};
        copy(block, x + k, min(2 * W, inputs - k));
        for (int i = 0; i < W; ++i) {
            out[k + i] = bf16 ? block[2 * i] : block[i];
            out[k + W + i] = bf16 ? block[2 * i + 1] : block[W + i];
        }
    }
}

constexpr int64_t prefetch_bytes = 2048;
constexpr int64_t dot_rows = 4;  // rows of x that share one pass over the weights

// Rows x Outputs dot products. The order of the additions is the same for every Rows and Outputs.
template <int Outputs, int Rows, class T>
inline void dots(const float* x, int64_t x_stride, const T* weight, int64_t inputs, float* out, int64_t out_stride) {
    Vec sums[Outputs][Rows];
#pragma GCC unroll 4
    for (int o = 0; o < Outputs; ++o)
#pragma GCC unroll 4
        for (int r = 0; r < Rows; ++r) sums[o][r] = zero();
    int64_t k = 0;
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
inline void dots_of(const float* x, int64_t x_stride, const T* weight, int64_t outputs, const Linear& a, float* out) {
    constexpr int together = many_registers || Rows <= 2 ? 4 : 2;
    int64_t o = 0;
    for (; o + together <= outputs; o += together)
        dots<together, Rows>(x, x_stride, weight + o * a.inputs, a.inputs, out + o, a.outputs);
    for (; o < outputs; ++o) dots<1, Rows>(x, x_stride, weight + o * a.inputs, a.inputs, out + o, a.outputs);
}

template <class T>
void few_rows(Pool& pool, const Linear& a) {
    const int64_t stride = round_up(a.inputs, 2 * W);
    float* x = pool.shared(static_cast<size_t>(a.rows * stride) * sizeof(float));
    for (int64_t r = 0; r < a.rows; ++r) arrange(a.x + r * a.inputs, a.inputs, a.bf16, x + r * stride);
    const int64_t weight_bytes = a.inputs * static_cast<int64_t>(sizeof(T));
    // Outputs of a task: few enough for several tasks per thread and for the cache, enough for a task to be worth its start.
    const int64_t fair = divide_up(a.outputs, 4 * pool.threads()), minimum = divide_up(32768, weight_bytes);
    const int64_t maximum = divide_up(1 << 20, weight_bytes), chunk = round_up(max(1, min(max(fair, minimum), maximum)), 4);
    const int64_t batch = min(chunk, max(4, 16384 / weight_bytes / 4 * 4));  // outputs whose weights stay in the cache
    parallel(pool, divide_up(a.outputs, chunk), [&](int64_t t, int) {
        const int64_t last = min(a.outputs, (t + 1) * chunk);
        for (int64_t o = t * chunk; o < last; o += batch) {
            const int64_t count = min(batch, last - o);
            const T* weight = static_cast<const T*>(a.weight) + o * a.inputs;
            for (int64_t r = 0; r < a.rows; r += dot_rows) {
                float* out = a.out + r * a.outputs + o;
                const float* rows = x + r * stride;
                switch (min(dot_rows, a.rows - r)) {
                    case 1: dots_of<1>(rows, stride, weight, count, a, out); break;
                    case 2: dots_of<2>(rows, stride, weight, count, a, out); break;
                    case 3: dots_of<3>(rows, stride, weight, count, a, out); break;
                    default: dots_of<4>(rows, stride, weight, count, a, out); break;
                }
            }
        }
        const int64_t first = t * chunk;
        finish(a, a.out + first, a.outputs, 0, a.rows, first, last - first);
    });
}

// --- many rows ---

constexpr int64_t depth_block = 1536, row_block = 1024, max_column_tiles = 4;
constexpr int64_t few = W == 16 ? 32 : 12;  // up to here dot products are faster

template <class T>
void many_rows(Pool& pool, const Linear& a) {
    const int64_t column_tiles = divide_up(a.outputs, main_width);
    const int64_t depth_step = round_up(divide_up(a.inputs, divide_up(a.inputs, depth_block)), 2 * W);
    const int64_t row_step = divide_up(a.rows, divide_up(a.rows, row_block));
    const int64_t group = max(1, min(max_column_tiles, column_tiles / (8 * pool.threads())));
    const int64_t groups = divide_up(column_tiles, group), column_tile_size = depth_step * main_width;
    pool.reserve(static_cast<size_t>(group * column_tile_size + main_rows * main_width) * sizeof(float));
    for (int64_t row = 0; row < a.rows; row += row_step) {
        const int64_t rows = min(row_step, a.rows - row);
        const int64_t height = divide_up(rows, divide_up(rows, main_rows)), tiles = divide_up(rows, height);
        const int64_t tile_size = depth_step * height + W;
        float* left = pool.shared(static_cast<size_t>(tiles * tile_size) * sizeof(float));
        const int64_t splits = min(divide_up(4 * pool.threads(), groups), max(1, rows / 96));
        for (int64_t k = 0; k < a.inputs; k += depth_step) {
            const int64_t depth = min(depth_step, a.inputs - k);
            parallel(pool, tiles, [&](int64_t t, int) {
                const int64_t first = t * height;
                pack_columns(a.x + (row + first) * a.inputs + k, a.inputs, min(height, rows - first), depth,
                             left + t * tile_size, height);
            });
            parallel(pool, groups * splits, [&](int64_t task, int worker) {
                const int64_t first_column_tile = task / splits * group, count = min(group, column_tiles - first_column_tile);
                const int64_t split = task % splits, last_tile = (split + 1) * tiles / splits;
                float *right = pool.scratch(worker), *spare = right + group * column_tile_size;
                for (int64_t p = 0; p < count; ++p) {
                    const int64_t column = (first_column_tile + p) * main_width;
                    pack_columns(static_cast<const T*>(a.weight) + column * a.inputs + k, a.inputs,
                                 min(main_width, a.outputs - column), depth, right + p * column_tile_size, main_width);
                }
                for (int64_t t = split * tiles / splits; t < last_tile; ++t) {
                    const int64_t r = row + t * height, h = min(height, row + rows - r);
                    for (int64_t p = 0; p < count; ++p) {
                        const int64_t column = (first_column_tile + p) * main_width, width = min(main_width, a.outputs - column);
                        const bool whole = width == main_width, add = k > 0, end = k + depth == a.inputs;
                        float *out = a.out + r * a.outputs + column, *sums = whole ? out : spare;
                        const int64_t stride = whole ? a.outputs : main_width;
                        if (!whole && add)
                            for (int64_t i = 0; i < h; ++i) copy(spare + i * stride, out + i * a.outputs, width);
                        const Product product{depth, left + t * tile_size, height, right + p * column_tile_size, main_width, sums, stride};
                        multiply(h, main_vecs, product, add);
                        if (end)
                            finish(a, sums, stride, r, h, column, width);
                        else if (!whole)
                            for (int64_t i = 0; i < h; ++i) copy(out + i * a.outputs, spare + i * stride, width);
                    }
                }
            });
        }
    }
}

}  // namespace

void linear(Pool& pool, const Linear& args) {
#if defined(POCKETVLM_BFLOAT16_PRODUCTS)
    if (args.fast && args.bf16) return bf16_linear(pool, args);
#endif
    if (args.rows <= few)
        args.bf16 ? few_rows<uint16_t>(pool, args) : few_rows<float>(pool, args);
    else
        args.bf16 ? many_rows<uint16_t>(pool, args) : many_rows<float>(pool, args);
}

}  // namespace pocketvlm::POCKETVLM_ISA
