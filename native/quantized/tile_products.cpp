// Products with quantized weights in tile registers, for many rows. The kernel without tiles does the others, with equal bits.
// An operation on the rows is computed for all rows before the products, SwiGLU after them.
#include "quantized/permutation.h"
#include "quantized/product_updates.h"
#include "quantized/row_source.h"
#include "quantized/tile_dots.h"

#if !defined(POCKETVLM_TILE_REGISTERS)
#error "only sets with tile registers build this file"
#endif

namespace pocketvlm::POCKETVLM_INTEGER_WITHOUT_TILES {
void quantized_linear(Pool& pool, const QuantizedProduct* products, int64_t count);
}  // namespace pocketvlm::POCKETVLM_INTEGER_WITHOUT_TILES

namespace pocketvlm::POCKETVLM_ISA {
namespace {

// Not measured yet: estimates from the number of instructions.
constexpr int64_t min_rows = 16;   // fewer rows leave a block partly empty
constexpr int64_t min_group = 32;  // the sums of smaller groups take longer to scale than the products take without tiles
constexpr int64_t cached_bytes = 1 << 20, min_cached_rows = 256;  // rows that stay in the second cache while packed tiles pass
constexpr int64_t tiles_together = 2;

// Whether tiles multiply a matrix. A part of less than 32 inputs would use less than half of a product.
inline bool gains(const QuantizedWeights& w, int64_t rows) {
    if (rows < min_rows) return false;
    return !w.grouped() || (w.group >= min_group && part_of(w.group) >= min_group);
}

// The columns of one task, by rows that stay in the cache.
struct Split {
    int64_t tiles, tiles_of_task, chunks;  // packed tiles, those of one task, tasks of a range of rows
    int64_t rows_of_task, ranges;

    int64_t tasks() const { return chunks * ranges; }
};

inline Split split_of(const Pool& pool, const Linear& a, const TileScheme& scheme) {
    constexpr int64_t unit = 2 * row_block;
    Split s;
    s.tiles = divide_up(a.outputs, tile_outputs);
    const int64_t max_rows = max(min_cached_rows, cached_bytes / scheme.depth / unit * unit);
    s.ranges = divide_up(a.rows, max_rows);
    s.rows_of_task = round_up(divide_up(a.rows, s.ranges), unit);
    s.ranges = divide_up(a.rows, s.rows_of_task);
    s.tiles_of_task = round_up(max(1, s.tiles * s.ranges / (8 * pool.threads())), tiles_together);
    s.chunks = divide_up(s.tiles, s.tiles_of_task);
    return s;
}

// Packed tiles [first, last) times rows [begin, end) of a matrix with groups.
inline void multiply_grouped(const QuantizedProduct& product, const TileActivations& in, int64_t first, int64_t last, int64_t begin,
                             int64_t end, int8_t* memory) {
    const Linear& a = product.args;
    const QuantizedWeights& w = *product.weights;
    const UnpackedTile unpacked{.high = memory, .low = memory + w.depth * tile_outputs};
    const auto kernel = w.codebook_low ? (w.biased() ? grouped_tile<true, true> : grouped_tile<false, true>)
                                       : (w.biased() ? grouped_tile<true, false> : grouped_tile<false, false>);
    alignas(64) float spare[row_block * tile_outputs];
    for (int64_t tile = first; tile < last; ++tile) {
        unpack(w, tile, unpacked);
        const int64_t column = tile * tile_outputs, width = min(tile_outputs, a.outputs - column);
        for (int64_t row = begin; row < end; row += row_block) {
            const int64_t rows = min(row_block, a.rows - row);
            const bool direct = width == tile_outputs && rows == row_block;
            float* out = direct ? a.out + row * a.outputs + column : spare;
            const int64_t stride = direct ? a.outputs : tile_outputs;
            kernel(w, tile, unpacked, in, row / row_block, out, stride);
            finish<true>(a, out, stride, row, rows, column, width);
        }
    }
}

template <int Tiles>
inline auto kernel_of_whole(int64_t rows, bool cold) {
    if (rows <= row_block) return cold ? multiply_whole<1, Tiles, true> : multiply_whole<1, Tiles, false>;
    return cold ? multiply_whole<2, Tiles, true> : multiply_whole<2, Tiles, false>;
}

// The same for a matrix with one scale for each output.
inline void multiply_whole_matrix(const QuantizedProduct& product, const TileActivations& in, int64_t first, int64_t last, int64_t begin,
                                  int64_t end) {
    const Linear& a = product.args;
    const QuantizedWeights& w = *product.weights;
    constexpr int64_t unit = 2 * row_block;
    alignas(64) int32_t sums[2][2 * tiles_together * sums_of_tile];
    alignas(64) uint8_t padded[tiles_together][tile_register_rows * tile_register_bytes];
    UnfinishedSums unfinished{.args = &a, .weights = &w, .in = &in, .sums = nullptr, .tile = 0, .tiles = 0, .row = 0, .rows = 0};
    int slot = 0;
    for (int64_t tile = first; tile < last; tile += tiles_together) {
        const int64_t tiles = min(tiles_together, last - tile);
        RightFactors right{.whole = {}, .last = {padded[0], padded[1]}, .products = w.depth / tile_register_bytes};
        for (int64_t t = 0; t < tiles_together; ++t) {
            right.whole[t] = w.packed + min(tile + t, last - 1) * w.lines() * line_bytes;
            const int64_t done = right.products * tile_register_rows * line_bytes, size = w.lines() * line_bytes;
            __builtin_memset(padded[t], 0, sizeof padded[t]);
            __builtin_memcpy(padded[t], right.whole[t] + done, static_cast<size_t>(size - done));
        }
        for (int64_t row = begin; row < end; row += unit, slot ^= 1) {
            const int64_t rows = min(unit, a.rows - row);
            const auto kernel = tiles == 1 ? kernel_of_whole<1>(rows, row == begin) : kernel_of_whole<2>(rows, row == begin);
            kernel(right, in, row / row_block, sums[slot], unfinished);
            unfinished.sums = sums[slot], unfinished.tile = tile, unfinished.tiles = tiles;
            unfinished.row = row, unfinished.rows = rows, unfinished.finished = 0;
        }
    }
    finish_rows(unfinished, unfinished.rows);
}

// Products [0, count) of the same rows with the same activations.
inline void run_products(Pool& pool, ProductUpdates& updates, int64_t count, const TileActivations& in) {
    const QuantizedProduct* products = updates.products;
    Split splits[max_products];
    int64_t begin[max_products], tasks = updates.inner.tasks();
    size_t unpacked = 0;
    for (int64_t i = 0; i < count; ++i) {
        splits[i] = split_of(pool, products[i].args, in.scheme);
        begin[i] = tasks;
        tasks += splits[i].tasks();
        const size_t bytes = products[i].weights->grouped() ? unpacked_bytes(*products[i].weights) : 0;
        unpacked = bytes > unpacked ? bytes : unpacked;
    }
    if (unpacked) pool.reserve(unpacked);
    parallel(pool, tasks, [&](int64_t task, int worker) {
        if (task < updates.inner.tasks()) return updates.inner.run(task);
        int64_t i = count - 1;
        while (task < begin[i]) --i;
        const Split& s = splits[i];
        const int64_t range = (task - begin[i]) / s.chunks, chunk = (task - begin[i]) % s.chunks;
        const int64_t first = chunk * s.tiles_of_task, last = min(s.tiles, first + s.tiles_of_task);
        const Linear& a = products[i].args;
        const int64_t row = range * s.rows_of_task, end = min(a.rows, row + s.rows_of_task);
        const TileScope tiles(product_shapes(row_block, tile_outputs, in.scheme.part / 4));
        if (products[i].weights->grouped())
            multiply_grouped(products[i], in, first, last, row, end, reinterpret_cast<int8_t*>(pool.scratch(worker)));
        else
            multiply_whole_matrix(products[i], in, first, last, row, end);
        const int64_t column = first * tile_outputs;
        updates.add(i, OutputBlock{.row = row, .rows = end - row, .column = column, .width = min(last * tile_outputs, a.outputs) - column,
                                   .first = a.out + row * a.outputs + column, .stride = a.outputs});
    });
}

// The rows of a product's input after its operation, [rows, inputs].
inline void compute_rows(Pool& pool, const QuantizedProduct& product, float* out) {
    const Linear& a = product.args;
    const ComputedRows source{product.operation, a.x, a.inputs, pool};
    parallel(pool, divide_up(a.rows, tile_height), [&](int64_t task, int) {
        const int64_t first = task * tile_height;
        source.tile(first, min(tile_height, a.rows - first), out + first * a.inputs).columns(0, a.inputs);
    });
}

// out = silu(gates) * out, both [rows, outputs].
inline void apply_gates(Pool& pool, const float* gates, const Linear& a) {
    parallel(pool, a.rows, [&](int64_t row, int) {
        const float* gate = gates + row * a.outputs;
        float* out = a.out + row * a.outputs;
        across(0, a.outputs, [&](int64_t j, int64_t n) { set(out + j, silu(get(gate + j, n)) * get(out + j, n), n); });
    });
}

}  // namespace

void quantized_linear(Pool& pool, const QuantizedProduct* products, int64_t count) {
    for (int64_t i = 0, n = 1; i < count; i += n, n = 1) {
        const Linear& a = products[i].args;
        const QuantizedWeights& w = *products[i].weights;
        if (!gains(w, a.rows)) {
            while (i + n < count && !gains(*products[i + n].weights, a.rows)) ++n;
            POCKETVLM_INTEGER_WITHOUT_TILES::quantized_linear(pool, products + i, n);
            continue;
        }
        const TileScheme scheme = tile_scheme_of(a.inputs, w);
        const auto shares = [&](const QuantizedWeights& other) {
            return gains(other, a.rows) && other.grouped() == w.grouped() && tile_scheme_of(a.inputs, other) == scheme &&
                   same_order(w.permutation, other.permutation, a.inputs);
        };
        while (i + n < count && n < max_products && shares(*products[i + n].weights)) ++n;
        const bool operation = products[i].operation.kind != RowOperationKind::none, gates = products[i].gates;
        const int64_t computed = operation || w.permutation ? round_up(a.rows * a.inputs, 16) : 0;
        const int64_t gate_floats = gates ? round_up(a.rows * a.outputs, 16) : 0;
        LowRanks low_ranks = updates_of(products + i, n, a.x);
        const int64_t inner = low_ranks.number ? round_up(static_cast<int64_t>(InnerProducts::bytes(low_ranks) / sizeof(float)), 16) : 0;
        float* memory = pool.shared(static_cast<size_t>(computed + gate_floats + inner) * sizeof(float) + tile_activation_bytes(a.rows, scheme));
        float* const rest = memory + computed + gate_floats;
        if (operation) low_ranks.x = memory;
        if (operation)
            compute_rows(pool, products[i], memory);
        else if (w.permutation)
            permute(pool, a.x, a.rows, a.inputs, w.permutation, memory);
        const TileActivations in = lay_out_tile_activations(rest + inner, a.rows, scheme);
        quantize_to_tiles(pool, computed ? memory : a.x, in);
        QuantizedProduct together[max_products];
        for (int64_t p = 0; p < n; ++p) together[p] = products[i + p];
        if (gates) together[0].args.out = memory + computed;
        ProductUpdates updates(pool, together, low_ranks, rest);
        run_products(pool, updates, n, in);
        if (gates) apply_gates(pool, memory + computed, together[1].args);
    }
}

}  // namespace pocketvlm::POCKETVLM_ISA
