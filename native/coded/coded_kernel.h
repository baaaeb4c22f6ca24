// Products with codes: rows become bytes once for all products that can share them, then every task takes some panels and
// walks over the tiles of rows, so that each code is read from memory once.
#pragma once

#include "coded/dots.h"
#include "linear/epilogue.h"

namespace pocketvlm::POCKETVLM_ISA {
namespace {

constexpr long panels_together = 2;

inline Form form_of(const Linear& a, const Codes& c) {
    const int32_t excess = c.bits == 8 ? dot8_excess : !c.table ? 8 : c.least >= 0 ? 128 - c.least : dot8_excess;
    return Form{a.inputs, c.depth, c.group_scale ? c.group : c.depth, excess};
}

inline bool same(const Form& a, const Form& b) { return a.depth == b.depth && a.group == b.group && a.excess == b.excess; }

// All tiles of rows times panels [first, last).
inline void panels_of_rows(const CodedProduct& product, const Tiles& in, long first, long last, float* spare) {
    const Linear& a = product.args;
    for (long panel = first; panel < last; panel += panels_together) {
        const long panels = smaller(panels_together, last - panel);
        const long column = panel * code_panel, width = smaller(panels * code_panel, a.outputs - column);
        const bool full = width == panels * code_panel;
        const bool early = full && !product.codes->group_scale;  // tiles add the bias themselves, in every row
        const bool whole = early && a.activation == Activation::none;  // and nothing is left to do after them
        for (long r = 0; r < a.rows; r += tile_height) {
            const long rows = smaller(tile_height, a.rows - r), at = r * a.outputs + column;
            const bool direct = full && (whole || !early) && rows == height_of(rows);
            const float* bias = early && a.bias ? a.bias + column : nullptr;
            Place to{spare, panels_together * code_panel, bias, nullptr, a.out + at, a.outputs};
            if (direct) to.out = a.out + at, to.stride = a.outputs;
            if (direct && whole && a.residual) to.residual = a.residual + at;
            dots(*product.codes, panel, panels, in, r, to);
            if (direct && whole) continue;
            Linear rest = a;
            if (early) rest.bias = nullptr;
            finish<true>(rest, to.out, to.stride, r, rows, column, width);
        }
    }
}

// Products [0, count) of the same rows in the same form.
inline void run_products(Pool& pool, const CodedProduct* products, long count, const Tiles& in) {
    long begin[most_products], pieces[most_products], size[most_products], tasks = 0;
    for (long i = 0; i < count; ++i) {
        const long panels = divide_up(products[i].args.outputs, code_panel);
        const long bytes = products[i].codes->steps() * code_block * larger(1, in.rows / 4);
        const long fair = divide_up(panels, 4L * pool.threads()), least = divide_up(32768, bytes), greatest = larger(2, (1 << 20) / bytes);
        size[i] = round_up(smaller(larger(fair, least), greatest), panels_together);
        begin[i] = tasks;
        pieces[i] = divide_up(panels, size[i]);
        tasks += pieces[i];
    }
    parallel(pool, tasks, [&](long task, int) {
        long i = count - 1;
        while (task < begin[i]) --i;
        const long first = (task - begin[i]) * size[i], panels = divide_up(products[i].args.outputs, code_panel);
        alignas(64) float spare[tile_height * panels_together * code_panel];
        panels_of_rows(products[i], in, first, smaller(panels, first + size[i]), spare);
    });
}

}  // namespace

void coded_linear(Pool& pool, const CodedProduct* products, long count) {
    for (long i = 0; i < count;) {
        const Linear& a = products[i].args;
        const Form form = form_of(a, *products[i].codes);
        long n = 1;
        while (i + n < count && n < most_products && same(form, form_of(products[i + n].args, *products[i + n].codes))) ++n;
        const Tiles in = lay_out_tiles(pool.shared(tiles_bytes(a.rows, form)), a.rows, form);
        quantize_rows(pool, a.x, a.rows, form, in);
        run_products(pool, products + i, n, in);
        i += n;
    }
}

}  // namespace pocketvlm::POCKETVLM_ISA
