// Sums of products of one tile of rows with the 16 outputs of a panel. A row's sums are the same in a tile of any height:
// whole numbers inside a group, groups in their order.
#pragma once

#include "coded/quantize.h"

namespace pocketvlm::POCKETVLM_ISA {
namespace {

constexpr long panel_vectors = code_panel / W;  // vectors of outputs in a panel
constexpr long vector_bytes = 4 * W;            // of a block
constexpr long ahead = 3072, near = 512;        // bytes to ask for early: from memory, from the second cache

// Where the sums of a tile go. Bias, residual and what is asked for early are for products with a scale an output alone.
struct Place {
    float* out;
    long stride;
    const float* bias;      // of the tile's columns, or null
    const float* residual;  // as out, or null
    const float* soon;      // what will be written to in the end, perhaps not by the tile itself
    long soon_stride;

    Place right(long columns) const {
        return Place{out + columns,  stride, bias ? bias + columns : nullptr, residual ? residual + columns : nullptr,
                     soon + columns, soon_stride};
    }
};

enum class Kind { nibbles, raised, table, bytes };

// Panels with a scale, and perhaps a minimum, a group.
template <int Rows, Kind kind, bool Minimum>
__attribute__((noinline)) void grouped(const Codes& c, long panel, const Tile& in, const Place& to) {
    constexpr bool split = Rows <= (W == 4 ? 4 : 2);  // short chains of additions where there are few of them
    constexpr int step = kind == Kind::bytes ? 1 : 2;  // words of a block
    const uint8_t* codes = c.codes + panel * c.steps() * code_block;
    const uint16_t* scale = c.group_scale + panel * c.groups() * code_panel;
    const uint16_t* minimum = Minimum ? c.group_minimum + panel * c.groups() * code_panel : nullptr;
    const long steps = kind == Kind::bytes ? c.group / 4 : c.group / 8, groups = c.groups();
    for (long v = 0; v < panel_vectors; ++v) {
        Vec total[Rows];
#pragma GCC unroll 12
        for (int r = 0; r < Rows; ++r) total[r] = zero();
        const uint8_t* p = codes + v * vector_bytes;
        const int8_t* x = in.words;
        for (long g = 0; g < groups; ++g) {
            Counts sums[Rows], more[split ? Rows : 1];
#pragma GCC unroll 12
            for (int r = 0; r < Rows; ++r) sums[r] = count(in.offset[g * Rows + r]);
            if constexpr (split)
                for (int r = 0; r < Rows; ++r) more[r] = count(0);
            long left = steps;
            do {  // a group has at least one block: a loop that might run no time costs copies of all sums
                const Bytes block = load_bytes(p);
                if constexpr (Rows <= 8) __builtin_prefetch(p + ahead);
                if constexpr (kind == Kind::bytes) {
#pragma GCC unroll 12
                    for (int r = 0; r < Rows; ++r) sums[r] = dot8(sums[r], block, repeat_four(x + 4 * r));
                } else {
                    Bytes first = low_nibbles(block), second = high_nibbles(block);
                    if constexpr (kind == Kind::table) first = look_up(c.table, first), second = look_up(c.table, second);
                    if constexpr (kind == Kind::raised) first = look_up(c.raised, first), second = look_up(c.raised, second);
#pragma GCC unroll 12
                    for (int r = 0; r < Rows; ++r) {
                        const Bytes four = repeat_four(x + 4 * r);
                        sums[r] = kind == Kind::table ? dot8(sums[r], first, four) : dot4(sums[r], first, four);
                    }
#pragma GCC unroll 12
                    for (int r = 0; r < Rows; ++r) {
                        const Bytes four = repeat_four(x + 4 * (Rows + r));
                        Counts& to = split ? more[split ? r : 0] : sums[r];
                        to = kind == Kind::table ? dot8(to, second, four) : dot4(to, second, four);
                    }
                }
                p += code_block, x += 4 * step * Rows;
            } while (--left > 0);
            const Vec s = load_half(scale + g * code_panel + v * W);
#pragma GCC unroll 12
            for (int r = 0; r < Rows; ++r) {
                Vec part = to_float(split ? add(sums[r], more[split ? r : 0]) : sums[r]) * s;
                if constexpr (Minimum) part = fma(load_half(minimum + g * code_panel + v * W), splat(in.sum[g * Rows + r]), part);
                total[r] = fma(part, splat(in.scale[g * Rows + r]), total[r]);
            }
        }
#pragma GCC unroll 12
        for (int r = 0; r < Rows; ++r) store(to.out + r * to.stride + v * W, total[r] * load(c.row_scale + panel * code_panel + v * W));
    }
}

// Panels of bytes with a scale an output: the rows' groups are their whole length. Lines that will be written are asked for
// one row after another: all at once they would keep those from coming that the sums wait for.
template <int Rows, int Panels>
__attribute__((noinline)) void whole(const Codes& c, long panel, const Tile& in, const Place& to) {
    constexpr int vecs = Panels * panel_vectors;
    const long panel_bytes = c.steps() * code_block;
    const uint8_t* p = c.codes + panel * panel_bytes;
    const int8_t* x = in.words;
    Counts sums[Rows][vecs];
#pragma GCC unroll 12
    for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 4
        for (int v = 0; v < vecs; ++v) sums[r][v] = count(in.offset[r]);
    const float *soon = to.soon, *residual = to.residual;
    long left = c.steps();
    const long every = Rows > 4 ? divide_up(left, 2 * Rows) : left;
    int asked = 0;
    do {
        if (Rows > 4 && asked < Rows) {
            ++asked;
            for (int i = 0; i < Panels; ++i) __builtin_prefetch(soon + i * code_panel, 1);
            soon += to.soon_stride;
            if (residual) {
                for (int i = 0; i < Panels; ++i) __builtin_prefetch(residual + i * code_panel);
                residual += to.stride;
            }
        }
        long n = smaller(left, every);
        left -= n;
        do {
            Bytes weights[vecs];
#pragma GCC unroll 4
            for (int v = 0; v < vecs; ++v) {
                const uint8_t* from = p + v / panel_vectors * panel_bytes + v % panel_vectors * vector_bytes;
                weights[v] = load_bytes(from);
                if (v % panel_vectors == 0) __builtin_prefetch(from + (Rows <= 4 ? ahead : near));
            }
#pragma GCC unroll 12
            for (int r = 0; r < Rows; ++r) {
                const Bytes four = repeat_four(x + 4 * r);
#pragma GCC unroll 4
                for (int v = 0; v < vecs; ++v) sums[r][v] = dot8(sums[r][v], weights[v], four);
            }
            p += code_block, x += 4 * Rows;
        } while (--n > 0);
    } while (left > 0);
    Vec scale[vecs], bias[vecs];
#pragma GCC unroll 4
    for (int v = 0; v < vecs; ++v) {
        scale[v] = load(c.row_scale + panel * code_panel + v * W);
        bias[v] = to.bias ? load(to.bias + v * W) : zero();
    }
    if (to.residual) {
#pragma GCC unroll 12
        for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 4
            for (int v = 0; v < vecs; ++v)
                store(to.out + r * to.stride + v * W, fma(to_float(sums[r][v]) * splat(in.scale[r]), scale[v], bias[v]) +
                                                          load(to.residual + r * to.stride + v * W));
    } else {
#pragma GCC unroll 12
        for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 4
            for (int v = 0; v < vecs; ++v)
                store(to.out + r * to.stride + v * W, fma(to_float(sums[r][v]) * splat(in.scale[r]), scale[v], bias[v]));
    }
}

template <int Rows>
inline void dots_of_rows(const Codes& c, long panel, long panels, const Tile& in, Place to) {
    constexpr int pair = W == 16 ? 2 : 1;
    if (!c.group_scale) {
        for (; panels >= pair; panels -= pair, panel += pair, to = to.right(pair * code_panel)) whole<Rows, pair>(c, panel, in, to);
        for (; panels > 0; --panels, ++panel, to = to.right(code_panel)) whole<Rows, 1>(c, panel, in, to);
        return;
    }
    for (; panels > 0; --panels, ++panel, to = to.right(code_panel)) {
        if (c.bits == 8)
            c.group_minimum ? grouped<Rows, Kind::bytes, true>(c, panel, in, to) : grouped<Rows, Kind::bytes, false>(c, panel, in, to);
        else if (c.table && c.least >= 0)
            c.group_minimum ? grouped<Rows, Kind::raised, true>(c, panel, in, to) : grouped<Rows, Kind::raised, false>(c, panel, in, to);
        else if (c.table)
            c.group_minimum ? grouped<Rows, Kind::table, true>(c, panel, in, to) : grouped<Rows, Kind::table, false>(c, panel, in, to);
        else
            c.group_minimum ? grouped<Rows, Kind::nibbles, true>(c, panel, in, to) : grouped<Rows, Kind::nibbles, false>(c, panel, in, to);
    }
}

// The tile that begins with row `first` times `panels` panels from `panel` on; there is room for height_of(rows) rows.
inline void dots(const Codes& c, long panel, long panels, const Tiles& in, long first, const Place& to) {
    const Tile tile = in.tile(first);
    switch (height_of(in.rows - first)) {
        case 1: return dots_of_rows<1>(c, panel, panels, tile, to);
        case 2: return dots_of_rows<2>(c, panel, panels, tile, to);
        case 3: return dots_of_rows<3>(c, panel, panels, tile, to);
        case 4: return dots_of_rows<4>(c, panel, panels, tile, to);
        case 6: return dots_of_rows<tile_height == 12 ? 6 : 1>(c, panel, panels, tile, to);
        case 8: return dots_of_rows<tile_height == 12 ? 8 : 1>(c, panel, panels, tile, to);
        default: return dots_of_rows<tile_height>(c, panel, panels, tile, to);
    }
}

}  // namespace
}  // namespace pocketvlm::POCKETVLM_ISA
