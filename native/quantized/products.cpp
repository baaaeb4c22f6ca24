// Products with quantized weights. Activations are quantized once for all products that can share them. Then each task takes
// some packed tiles and visits every activation tile, so that each weight is read from memory once.
#include "quantized/dots.h"
#include "quantized/permutation.h"
#include "linear/epilogue.h"
#include "quantized/product_updates.h"
#include "quantized/row_source.h"

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

// Whether the bytes of the activations are the same; zero-point corrections may differ.
inline bool same_bytes(const ActivationScheme& a, const ActivationScheme& b) { return a.depth == b.depth && a.group == b.group; }

// The same activations with the zero-point corrections of another weight offset, written to `offset`.
inline Activations with_offset(const Activations& in, int32_t weight_offset, int32_t* offset) {
    for (int64_t i = 0; i < padded_rows(in.rows) * in.groups; ++i) offset[i] = -weight_offset * static_cast<int32_t>(in.sum[i]);
    Activations other = in;
    other.offset = offset;
    return other;
}

// All activation tiles times packed tiles [first, last) of a product, and its updates. One update follows the packed tiles as
// soon as its inner products are there; several read their factors in longer pieces, so they come after all tiles.
inline void tiles_of_rows(const ProductUpdates& updates, int64_t index, const Activations& in, int64_t first, int64_t last, float* spare) {
    const QuantizedProduct& product = updates.products[index];
    const Linear& a = product.args;
    const bool follows = product.update_count == 1;
    updates.prefetch(index, first * tile_outputs);
    int64_t pending = first * tile_outputs;  // the first column whose updates are to be added
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
        const int64_t end = column + width;
        if (tile + tiles < last && !(follows && updates.inner.finished())) continue;
        updates.add(index, OutputBlock{.row = 0, .rows = a.rows, .column = pending, .width = end - pending, .first = a.out + pending, .stride = a.outputs});
        pending = end;
    }
}

// The same for two matrices: silu of the products with the first times those with the second. gates: [tile_height][columns of
// the task]. With one activation tile, each matrix is read from memory in one piece; with more, two packed tiles of each stay
// in the first cache.
inline void gated_tiles_of_rows(const ProductUpdates& updates, int64_t index, const Activations& gate_in, const Activations& up_in,
                                int64_t first, int64_t last, float* spare, float* gates) {
    const QuantizedProduct &gate = updates.products[index - 1], &up = updates.products[index];
    const Linear& a = up.args;
    const int64_t block = a.rows <= tile_height ? last - first : tiles_together, stride = block * tile_outputs;
    for (int64_t begin = first; begin < last; begin += block) {
        const int64_t end = min(last, begin + block);
        updates.prefetch(index - 1, begin * tile_outputs);
        updates.prefetch(index, begin * tile_outputs);
        for (int64_t r = 0; r < a.rows; r += tile_height) {
            const int64_t rows = min(tile_height, a.rows - r);
            float* out = a.out + r * a.outputs;
            Destination to{.out = gates, .stride = stride, .bias = nullptr, .residual = nullptr, .final_out = out, .final_stride = a.outputs};
            // The columns of some packed tiles, whose sums begin at `sums`.
            const auto columns = [&](int64_t tile, int64_t tiles, float* sums, int64_t distance) {
                const int64_t column = tile * tile_outputs;
                return OutputBlock{.row = r, .rows = rows, .column = column, .width = min(tiles * tile_outputs, a.outputs - column), .first = sums, .stride = distance};
            };
            for (int64_t tile = begin; tile < end; tile += tiles_together) {
                to.out = gates + (tile - begin) * tile_outputs, to.final_out = out + tile * tile_outputs;
                dots(*gate.weights, tile, min(tiles_together, end - tile), gate_in, r, to);
            }
            updates.add(index - 1, columns(begin, end - begin, gates, stride));
            to.out = spare, to.stride = tiles_together * tile_outputs;
            for (int64_t tile = begin; tile < end; tile += tiles_together) {
                const OutputBlock sums = columns(tile, min(tiles_together, end - tile), spare, to.stride);
                to.final_out = out + sums.column;
                dots(*up.weights, tile, min(tiles_together, end - tile), up_in, r, to);
                updates.add(index, sums);
                for (int64_t i = 0; i < rows; ++i)
                    across(0, sums.width, [&](int64_t j, int64_t n) {
                        const Vec g = load(gates + i * stride + (tile - begin) * tile_outputs + j);
                        set(out + i * a.outputs + sums.column + j, silu(g) * load(spare + i * to.stride + j), n);
                    });
            }
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

// What a product's loop does first where one thread quantizes the rows: the others begin with inner products meanwhile, as
// soon as the rows are there as floats.
struct FirstTask {
    explicit FirstTask(bool is_needed) : needed(is_needed) {}
    bool needed;
    Progress rows, activations;  // 1 when they are there
};

// Products [0, count) of the same rows; in[i]: the activations of product i. prepare(first): does the first task, if needed.
template <class Prepare>
inline void run_products(Pool& pool, ProductUpdates& updates, int64_t count, const Activations* in, FirstTask& first_task, const Prepare& prepare) {
    const QuantizedProduct* products = updates.products;
    const int64_t inners = first_task.needed, outers = inners + updates.inner.tasks();
    int64_t begin[max_products], size[max_products], tasks = outers;
    for (int64_t i = 0; i < count; ++i) {
        const int64_t tiles = divide_up(products[i].args.outputs, tile_outputs);
        const bool gated = i > 0 && products[i - 1].gates;
        size[i] = tiles_of_task(pool, *products[i].weights, tiles, products->args.rows);
        if (gated) size[i] = round_up(divide_up(size[i], 2), tiles_together);  // its tasks read two matrices
        begin[i] = tasks;
        tasks += products[i].gates ? 0 : divide_up(tiles, size[i]);
        if (gated) pool.reserve(static_cast<size_t>(tile_height * size[i] * tile_outputs) * sizeof(float));
    }
    parallel(pool, tasks, [&](int64_t task, int worker) {
        if (task < inners) return prepare(first_task);
        if (task < outers) {
            first_task.rows.wait(inners);
            return updates.inner.run(task - inners);
        }
        first_task.activations.wait(inners);
        int64_t i = count - 1;
        while (task < begin[i]) --i;
        const int64_t first = (task - begin[i]) * size[i], tiles = divide_up(products[i].args.outputs, tile_outputs);
        const int64_t last = min(tiles, first + size[i]);
        alignas(64) float spare[tile_height * tiles_together * tile_outputs];
        if (i > 0 && products[i - 1].gates)
            gated_tiles_of_rows(updates, i, in[i - 1], in[i], first, last, spare, pool.scratch(worker));
        else
            tiles_of_rows(updates, i, in[i], first, last, spare);
    });
}

// The activations of each product, where `in` are those of the first. Matrices of another kind have other zero-point
// corrections for the same bytes, written to `spare`, `offsets` for each.
inline void share_activations(const QuantizedProduct* products, int64_t count, const Activations& in, int32_t* spare, int64_t offsets,
                              Activations* of_product) {
    int32_t weight_offset[max_products];
    for (int64_t p = 0; p < count; ++p) {
        weight_offset[p] = weight_offset_of(*products[p].weights);
        int64_t equal = 0;
        while (weight_offset[equal] != weight_offset[p]) ++equal;
        if (equal < p || p == 0) {
            of_product[p] = p == 0 ? in : of_product[equal];
            continue;
        }
        of_product[p] = with_offset(in, weight_offset[p], spare);
        spare += offsets;
    }
}

}  // namespace

void quantized_linear(Pool& pool, const QuantizedProduct* products, int64_t count) {
    for (int64_t i = 0; i < count;) {
        const Linear& a = products[i].args;
        const ActivationScheme scheme = scheme_of(a, *products[i].weights);
        const int32_t* permutation = products[i].weights->permutation;
        const auto shares = [&](const QuantizedProduct& p) {
            return same_bytes(scheme, scheme_of(p.args, *p.weights)) && same_order(permutation, p.weights->permutation, a.inputs);
        };
        int64_t n = 1;
        while (i + n < count && n < max_products && shares(products[i + n])) ++n;
        const int64_t permuted = permutation ? round_up(a.rows * a.inputs, 16) : 0;
        const size_t bytes = activation_bytes(a.rows, scheme) / 64 * 64 + 64;
        const int64_t offsets = round_up(padded_rows(a.rows) * (scheme.depth / scheme.group), 16);
        const RowOperation& operation = products[i].operation;
        LowRanks low_ranks = updates_of(products + i, n, a.x);
        const bool computed = operation.kind != RowOperationKind::none;
        const int64_t stored = computed && low_ranks.number ? round_up(a.rows * a.inputs, 16) : 0;  // updates need the rows as floats
        const int64_t inner = low_ranks.number ? round_up(static_cast<int64_t>(InnerProducts::bytes(low_ranks) / sizeof(float)), 16) : 0;
        float* const beginning = pool.shared(static_cast<size_t>(stored + inner + permuted + (n - 1) * offsets) * sizeof(float) + bytes);
        float* const memory = beginning + stored + inner;
        if (stored) low_ranks.x = beginning;
        if (permutation) permute(pool, a.x, a.rows, a.inputs, permutation, memory);
        const Activations in = lay_out_activations(memory + permuted, a.rows, scheme);
        int32_t* const spare = reinterpret_cast<int32_t*>(reinterpret_cast<char*>(memory + permuted) + bytes);
        Activations of_product[max_products];
        const ComputedRows rows{operation, a.x, a.inputs, pool, stored ? beginning : nullptr};
        const auto prepare = [&](FirstTask& task) {
            if (computed) rows.tile(0, a.rows, 0).columns(0, a.inputs);
            task.rows.add();
            quantize_part(StoredRows{permutation ? memory : low_ranks.x, a.inputs}, a.rows, scheme, in, 0, 0, 1, 0);
            share_activations(products + i, n, in, spare, offsets, of_product);
            task.activations.add();
        };
        FirstTask first_task(low_ranks.number > 0 && takes_one_thread(a.rows, a.inputs));
        if (!first_task.needed) {
            if (computed) {
                if (!stored) pool.reserve(rows.scratch_bytes());
                quantize_activations(pool, rows, a.rows, scheme, in);
            } else {
                quantize_activations(pool, StoredRows{permutation ? memory : a.x, a.inputs}, a.rows, scheme, in);
            }
            share_activations(products + i, n, in, spare, offsets, of_product);
        }
        ProductUpdates updates(pool, products + i, low_ranks, beginning + stored);
        run_products(pool, updates, n, of_product, first_task, prepare);
        i += n;
    }
}

}  // namespace pocketvlm::POCKETVLM_ISA
