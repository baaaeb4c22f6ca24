// Products with quantized weights. Activations are quantized once for all products that can share them. Then each task takes
// some packed tiles and visits every activation tile, so that each weight is read from memory once.
#include "quantized/dots.h"
#include "quantized/permutation.h"
#include "linear/epilogue.h"

namespace pocketvlm::POCKETVLM_ISA {
namespace {

constexpr int64_t tiles_together = 2;

// Stored weight - value, as the products of dots.h see the stored weight.
inline int32_t weight_offset_of(const QuantizedWeights& w) {
    if (w.bits < 8 && !w.codebook) return 1 << (w.bits - 1);
    if (w.bits < 8 && !w.codebook_low && w.codebook_offset >= 0) return 128 - w.codebook_offset;
    return activation_layout.weight_offset;
}

inline ActivationScheme scheme_of(const Linear& a, const QuantizedWeights& w) {
    return ActivationScheme{
        .inputs = a.inputs, .depth = w.depth, .group = w.grouped() ? w.group : w.depth, .weight_offset = weight_offset_of(w)};
}

inline bool same(const ActivationScheme& a, const ActivationScheme& b) {
    return a.depth == b.depth && a.group == b.group && a.weight_offset == b.weight_offset;
}

// All activation tiles times packed tiles [first, last).
inline void tiles_of_rows(const QuantizedProduct& product, const Activations& in, int64_t first, int64_t last, float* spare) {
    const Linear& a = product.args;
    for (int64_t tile = first; tile < last; tile += tiles_together) {
        const int64_t tiles = min(tiles_together, last - tile);
        const int64_t column = tile * tile_outputs, width = min(tiles * tile_outputs, a.outputs - column);
        const bool full = width == tiles * tile_outputs;
        const bool early = full && !product.weights->grouped();  // dots adds the bias, in every row
        const bool whole = early && a.activation == Activation::none;  // and nothing remains to do after dots
        for (int64_t r = 0; r < a.rows; r += tile_height) {
            const int64_t rows = min(tile_height, a.rows - r), at = r * a.outputs + column;
            const bool direct = full && (whole || !early) && rows == height_of(rows);
            const float* bias = early && a.bias ? a.bias + column : nullptr;
            Destination to{.out = spare,
                           .stride = tiles_together * tile_outputs,
                           .bias = bias,
                           .residual = nullptr,
                           .final_out = a.out + at,
                           .final_stride = a.outputs};
            if (direct) to.out = a.out + at, to.stride = a.outputs;
            if (direct && whole && a.residual) to.residual = a.residual + at;
            dots(*product.weights, tile, tiles, in, r, to);
            if (direct && whole) continue;
            Linear remaining = a;
            if (early) remaining.bias = nullptr;
            finish<true>(remaining, to.out, to.stride, r, rows, column, width);
        }
    }
}

// Packed tiles of one task: enough for every thread to get several tasks, and for a task to be worth its start; few enough
// for the tiles of a task to fit the cache.
inline int64_t tiles_of_task(const Pool& pool, const QuantizedWeights& weights, int64_t tiles, int64_t rows) {
    const int64_t cost = weights.lines() * line_bytes * max(1, rows / 4);
    const int64_t fair = divide_up(tiles, 4 * pool.threads()), minimum = divide_up(32768, cost), maximum = max(2, (1 << 20) / cost);
    return round_up(min(max(fair, minimum), maximum), tiles_together);
}

// Products [0, count) of the same rows with the same activation scheme.
inline void run_products(Pool& pool, const QuantizedProduct* products, int64_t count, const Activations& in) {
    int64_t begin[max_products], chunks[max_products], size[max_products], tasks = 0;
    for (int64_t i = 0; i < count; ++i) {
        const int64_t tiles = divide_up(products[i].args.outputs, tile_outputs);
        size[i] = tiles_of_task(pool, *products[i].weights, tiles, in.rows);
        begin[i] = tasks;
        chunks[i] = divide_up(tiles, size[i]);
        tasks += chunks[i];
    }
    parallel(pool, tasks, [&](int64_t task, int) {
        int64_t i = count - 1;
        while (task < begin[i]) --i;
        const int64_t first = (task - begin[i]) * size[i], tiles = divide_up(products[i].args.outputs, tile_outputs);
        alignas(64) float spare[tile_height * tiles_together * tile_outputs];
        tiles_of_rows(products[i], in, first, min(tiles, first + size[i]), spare);
    });
}

}  // namespace

void quantized_linear(Pool& pool, const QuantizedProduct* products, int64_t count) {
    for (int64_t i = 0; i < count;) {
        const Linear& a = products[i].args;
        const ActivationScheme scheme = scheme_of(a, *products[i].weights);
        const int32_t* permutation = products[i].weights->permutation;
        const auto shares = [&](const QuantizedProduct& p) {
            return same(scheme, scheme_of(p.args, *p.weights)) && same_order(permutation, p.weights->permutation, a.inputs);
        };
        int64_t n = 1;
        while (i + n < count && n < max_products && shares(products[i + n])) ++n;
        const int64_t permuted = permutation ? round_up(a.rows * a.inputs, 16) : 0;
        float* memory = pool.shared(static_cast<size_t>(permuted) * sizeof(float) + activation_bytes(a.rows, scheme));
        if (permutation) permute(pool, a.x, a.rows, a.inputs, permutation, memory);
        const Activations in = lay_out_activations(memory + permuted, a.rows, scheme);
        quantize_activations(pool, permutation ? memory : a.x, a.rows, scheme, in);
        run_products(pool, products + i, n, in);
        i += n;
    }
}

}  // namespace pocketvlm::POCKETVLM_ISA
