// Few rows: each code is read once, products are summed a group at a time. Many rows: 8-bit blocks; 4-bit codes become 8-bit
// ones with a scale a row first, one panel at a time, which costs little against the products and less precision than the
// 4 bits already did.
#pragma once

#include "coded/coded.h"
#include "coded/quantize.h"
#include "linear/epilogue.h"
#include "simd/parallel.h"

namespace pocketvlm::POCKETVLM_ISA {
namespace {

typedef int32_t Lanes __attribute__((vector_size(4 * W)));

constexpr long panel_vectors = code_panel / W;  // vectors of outputs in a panel
constexpr long vector_bytes = 4 * W;            // of a block

// --- few rows ---

constexpr long few_codes = 16;  // up to so many rows share one pass over the codes
constexpr int dot_rows = W == 16 ? 4 : 2;

struct Quantized {
    const int8_t* x;     // [rows, depth]
    const float* scale;  // [rows, groups]
    const int32_t* sum;  // [rows, groups]
    long depth, groups;
};

// 16 outputs of Rows rows from 4-bit codes. Groups are added in their order: a row's result does not depend on the others.
template <int Rows, bool Table, bool Minimum>
inline void dots_of_four_bits(const Codes& c, long panel, const Quantized& in, float* out, long stride) {
    const uint8_t* codes = c.codes + panel * c.steps() * code_block;
    const uint16_t* scale = c.group_scale + panel * c.groups() * code_panel;
    const uint16_t* minimum = Minimum ? c.group_minimum + panel * c.groups() * code_panel : nullptr;
    const long steps = c.group / 8;
    for (long v = 0; v < panel_vectors; ++v) {
        Vec total[Rows];
#pragma GCC unroll 4
        for (int r = 0; r < Rows; ++r) total[r] = zero();
        const uint8_t* p = codes + v * vector_bytes;
        for (long g = 0; g < in.groups; ++g) {
            Counts low[Rows], high[Rows];
#pragma GCC unroll 4
            for (int r = 0; r < Rows; ++r) {
                const int32_t away = Table ? dot8_excess : 8;
                low[r] = count(-away * in.sum[r * in.groups + g]);
                high[r] = count(0);
            }
            const int8_t* x = in.x + g * c.group;
            for (long j = 0; j < steps; ++j, p += code_block, x += 8) {
                const Bytes both = load_bytes(p);
                __builtin_prefetch(p + 4096);
                Bytes first = low_nibbles(both), second = high_nibbles(both);
                if constexpr (Table) first = look_up(c.table, first), second = look_up(c.table, second);
#pragma GCC unroll 4
                for (int r = 0; r < Rows; ++r) {
                    const Bytes xa = repeat_four(x + r * in.depth), xb = repeat_four(x + r * in.depth + 4);
                    low[r] = Table ? dot8(low[r], first, xa) : dot4(low[r], first, xa);
                    high[r] = Table ? dot8(high[r], second, xb) : dot4(high[r], second, xb);
                }
            }
            const Vec s = load_half(scale + g * code_panel + v * W);
#pragma GCC unroll 4
            for (int r = 0; r < Rows; ++r) {
                Vec part = to_float(add(low[r], high[r])) * s;
                if constexpr (Minimum)
                    part = fma(load_half(minimum + g * code_panel + v * W), splat(static_cast<float>(in.sum[r * in.groups + g])), part);
                total[r] = fma(part, splat(in.scale[r * in.groups + g]), total[r]);
            }
        }
#pragma GCC unroll 4
        for (int r = 0; r < Rows; ++r) store(out + r * stride + v * W, total[r] * load(c.row_scale + panel * code_panel + v * W));
    }
}

// The same from 8-bit codes.
template <int Rows>
inline void dots_of_eight_bits(const Codes& c, long panel, const Quantized& in, float* out, long stride) {
    for (long v = 0; v < panel_vectors; ++v) {
        const uint8_t* p = c.codes + panel * c.steps() * code_block + v * vector_bytes;
        Counts sums[4][Rows];
#pragma GCC unroll 4
        for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 4
            for (int i = 0; i < 4; ++i) sums[i][r] = count(i == 0 ? -dot8_excess * in.sum[r] : 0);
        const int8_t* x = in.x;
        for (long j = 0; j < c.steps(); j += 4, p += 4 * code_block, x += 16) {
#pragma GCC unroll 4
            for (int i = 0; i < 4; ++i) {
                const Bytes w = load_bytes(p + i * code_block);
                __builtin_prefetch(p + i * code_block + 4096);
#pragma GCC unroll 4
                for (int r = 0; r < Rows; ++r) sums[i][r] = dot8(sums[i][r], w, repeat_four(x + r * in.depth + 4 * i));
            }
        }
#pragma GCC unroll 4
        for (int r = 0; r < Rows; ++r) {
            const Vec total = to_float(add(add(sums[0][r], sums[1][r]), add(sums[2][r], sums[3][r])));
            store(out + r * stride + v * W, total * splat(in.scale[r]) * load(c.row_scale + panel * code_panel + v * W));
        }
    }
}

template <int Rows>
inline void dots_of_codes(const Codes& c, long panel, const Quantized& in, float* out, long stride) {
    if (c.bits == 8) return dots_of_eight_bits<Rows>(c, panel, in, out, stride);
    if (c.table) {
        if (c.group_minimum) return dots_of_four_bits<Rows, true, true>(c, panel, in, out, stride);
        return dots_of_four_bits<Rows, true, false>(c, panel, in, out, stride);
    }
    if (c.group_minimum) return dots_of_four_bits<Rows, false, true>(c, panel, in, out, stride);
    return dots_of_four_bits<Rows, false, false>(c, panel, in, out, stride);
}

// x of all rows as bytes, in the pool's shared memory; groups of `group` inputs.
inline Quantized quantize_rows(Pool& pool, const Linear& a, long depth, long group) {
    const long groups = depth / group;
    const size_t bytes = static_cast<size_t>(a.rows) * (static_cast<size_t>(depth) + static_cast<size_t>(groups) * 8);
    float* memory = pool.shared(bytes + 64);
    auto* scale = memory;
    auto* sum = reinterpret_cast<int32_t*>(scale + a.rows * groups);
    auto* x = reinterpret_cast<int8_t*>(sum + a.rows * groups);
    const auto row = [&](long r) {
        for (long g = 0; g < groups; ++g) {
            const long begin = g * group, n = larger(0, smaller(group, a.inputs - begin));
            scale[r * groups + g] = quantize(a.x + r * a.inputs + begin, n, group, x + r * depth + begin, sum[r * groups + g]);
        }
    };
    if (a.rows <= few_codes)
        for (long r = 0; r < a.rows; ++r) row(r);
    else
        parallel_ranges(pool, a.rows, 8, [&](long first, long last) {
            for (long r = first; r < last; ++r) row(r);
        });
    return Quantized{x, scale, sum, depth, groups};
}

void few_rows_of_codes(Pool& pool, const Linear& a, const Codes& c) {
    const Quantized in = quantize_rows(pool, a, c.depth, c.bits == 8 ? c.depth : c.group);
    const long panels = divide_up(a.outputs, code_panel), panel_bytes = c.steps() * code_block;
    const long fair = divide_up(panels, 4L * pool.threads());
    const long piece = larger(1, smaller(larger(fair, divide_up(32768, panel_bytes)), divide_up(1 << 20, panel_bytes)));
    parallel(pool, divide_up(panels, piece), [&](long task, int) {
        const long last = smaller(panels, (task + 1) * piece);
        for (long panel = task * piece; panel < last; ++panel) {
            const long column = panel * code_panel, width = smaller(code_panel, a.outputs - column);
            alignas(64) float spare[dot_rows * code_panel];
            for (long r = 0; r < a.rows; r += dot_rows) {
                const long rows = smaller(dot_rows, a.rows - r);
                const bool whole = width == code_panel;
                float* sums = whole ? a.out + r * a.outputs + column : spare;
                const long stride = whole ? a.outputs : code_panel;
                const Quantized part{in.x + r * in.depth, in.scale + r * in.groups, in.sum + r * in.groups, in.depth, in.groups};
                switch (rows) {
                    case 1: dots_of_codes<1>(c, panel, part, sums, stride); break;
                    case 2: dots_of_codes<2>(c, panel, part, sums, stride); break;
                    case 3: dots_of_codes<dot_rows == 4 ? 3 : 1>(c, panel, part, sums, stride); break;
                    default: dots_of_codes<dot_rows>(c, panel, part, sums, stride); break;
                }
                finish(a, sums, stride, r, rows, column, width);
            }
        }
    });
}

// --- many rows ---

constexpr int block_vecs = W == 16 ? 4 : panel_vectors;                   // outputs of a block, in vectors
constexpr int block_rows = W == 16 ? 6 : W == 8 ? 4 : 2;
constexpr long block_width = block_vecs * W, block_panels = block_width / code_panel;

struct Block {
    const int8_t* x;       // [rows, depth]
    const float* x_scale;  // [rows]
    const int32_t* x_sum;  // [rows]
    long depth;
    const uint8_t* codes;  // panels, panel_bytes apart
    long panel_bytes;
    const float* row_scale;  // of the outputs
    float* out;
    long stride;
};

// Rows x Vecs vectors of sums.
template <int Rows, int Vecs>
__attribute__((noinline)) void block(const Block& b) {
    Counts sums[Rows][Vecs];
#pragma GCC unroll 8
    for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 4
        for (int j = 0; j < Vecs; ++j) sums[i][j] = count(-dot8_excess * b.x_sum[i]);
    const uint8_t* codes = b.codes;
    const int8_t* x = b.x;
    for (long k = 0; k < b.depth; k += 4, codes += code_block, x += 4) {
        Bytes weights[Vecs];
#pragma GCC unroll 4
        for (int j = 0; j < Vecs; ++j) weights[j] = load_bytes(codes + j * W / code_panel * b.panel_bytes + j * W % code_panel * 4);
#pragma GCC unroll 8
        for (int i = 0; i < Rows; ++i) {
            const Bytes four = repeat_four(x + i * b.depth);
#pragma GCC unroll 4
            for (int j = 0; j < Vecs; ++j) sums[i][j] = dot8(sums[i][j], weights[j], four);
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 4
        for (int j = 0; j < Vecs; ++j)
            store(b.out + i * b.stride + j * W, to_float(sums[i][j]) * splat(b.x_scale[i]) * load(b.row_scale + j * W));
}

template <int Rows, int Vecs>
inline void block_of(long rows, const Block& b) {
    if constexpr (Rows > 1)
        if (rows < Rows) return block_of<Rows - 1, Vecs>(rows, b);
    block<Rows, Vecs>(b);
}

// A panel of 4-bit codes as 8-bit ones with one scale for each output.
inline void widen(const Codes& c, long panel, uint8_t* out, float* row_scale) {
    const long groups = c.groups(), steps = c.group / 8;
    float values[16], most = 0.0f;
    for (int i = 0; i < 16; ++i) {
        values[i] = c.table ? static_cast<float>(c.table[i]) - 128.0f : static_cast<float>(i - 8);
        most = values[i] > most ? values[i] : -values[i] > most ? -values[i] : most;
    }
    for (long v = 0; v < panel_vectors; ++v) {
        const uint16_t* scale = c.group_scale + panel * groups * code_panel + v * W;
        const uint16_t* minimum = c.group_minimum ? c.group_minimum + panel * groups * code_panel + v * W : nullptr;
        Vec reach = splat(1e-30f);
        for (long g = 0; g < groups; ++g) {
            Vec r = vabs(load_half(scale + g * code_panel)) * splat(most);
            if (minimum) r = r + vabs(load_half(minimum + g * code_panel));
            reach = vmax(reach, r);
        }
        const Vec inverse = splat(127.0f) / reach;
        store(row_scale + v * W, reach * splat(1.0f / 127.0f) * load(c.row_scale + panel * code_panel + v * W));
        const uint8_t* in = c.codes + panel * c.steps() * code_block + v * vector_bytes;
        uint8_t* to = out + v * vector_bytes;
        for (long g = 0; g < groups; ++g) {
            const Vec factor = load_half(scale + g * code_panel) * inverse;
            const Vec offset = minimum ? load_half(minimum + g * code_panel) * inverse : zero();
            for (long j = 0; j < steps; ++j, in += code_block, to += 2 * code_block) {
                Lanes word;
                __builtin_memcpy(&word, in, vector_bytes);
                for (int half = 0; half < 2; ++half) {
                    Lanes packed = {};
#pragma GCC unroll 4
                    for (int b = 0; b < 4; ++b) {
                        const Lanes code = (word >> (8 * b + 4 * half)) & 15;
                        Vec value;
                        if (c.table)
                            for (long i = 0; i < W; ++i) value[i] = values[code[i]];
                        else
                            value = __builtin_convertvector(code - 8, Vec);
                        packed |= (((Lanes)to_counts(fma(value, factor, offset)) + 128) & 255) << (8 * b);
                    }
                    __builtin_memcpy(to + half * code_block, &packed, vector_bytes);
                }
            }
        }
    }
}

void many_rows_of_codes(Pool& pool, const Linear& a, const Codes& c) {
    const Quantized in = quantize_rows(pool, a, c.depth, c.depth);
    const long columns = divide_up(a.outputs, block_width), panels = divide_up(a.outputs, code_panel);
    const long splits = larger(1, smaller(divide_up(4L * pool.threads(), columns), a.rows / 48));
    const long panel_bytes = c.depth * code_panel;
    const bool narrow = c.bits == 4;
    const size_t wide = static_cast<size_t>(narrow ? block_panels * panel_bytes : 0);
    pool.reserve(wide + static_cast<size_t>(block_width + block_rows * block_width) * sizeof(float));
    parallel(pool, columns * splits, [&](long task, int worker) {
        const long column = task / splits * block_width, width = smaller(block_width, a.outputs - column), split = task % splits;
        const long first_panel = column / code_panel, here = smaller(block_panels, panels - first_panel);
        float *scales = pool.scratch(worker), *spare = scales + block_width;
        auto* widened = reinterpret_cast<uint8_t*>(spare + block_rows * block_width);
        const uint8_t* codes = widened;
        if (narrow) {
            for (long p = 0; p < here; ++p) widen(c, first_panel + p, widened + p * panel_bytes, scales + p * code_panel);
        } else {
            codes = c.codes + first_panel * panel_bytes;
            copy(scales, c.row_scale + column, here * code_panel);
        }
        const long first = split * a.rows / splits, last = (split + 1) * a.rows / splits;
        const bool whole = width == block_width;
        for (long r = first; r < last; r += block_rows) {
            const long rows = smaller(block_rows, last - r);
            float* sums = whole ? a.out + r * a.outputs + column : spare;
            const long stride = whole ? a.outputs : block_width;
            Block b{in.x + r * c.depth, in.scale + r, in.sum + r, c.depth, codes, panel_bytes, scales, sums, stride};
            if (here == block_panels)
                block_of<block_rows, block_vecs>(rows, b);
            else
                for (long p = 0; p < here; ++p, b.codes += panel_bytes, b.row_scale += code_panel, b.out += code_panel)
                    block_of<block_rows, panel_vectors>(rows, b);
            finish(a, sums, stride, r, rows, column, width);
        }
    });
}

}  // namespace

void coded_linear(Pool& pool, const Linear& args, const Codes& codes) {
    if (args.rows <= few_codes)
        few_rows_of_codes(pool, args, codes);
    else
        many_rows_of_codes(pool, args, codes);
}

}  // namespace pocketvlm::POCKETVLM_ISA
