// Where activations come from before they are quantized: rows in memory, or rows that an operation computes tile by tile in
// the cache.
#pragma once

#include "norm/rows.h"
#include "quantized/activations.h"
#include "quantized/row_operation.h"

namespace pocketvlm::POCKETVLM_ISA {
namespace {

// Rows as they are in memory.
struct StoredRows {
    const float* x;
    int64_t inputs;

    struct Tile {
        const float* x;
        const float* columns(int64_t, int64_t) const { return x; }
    };

    int64_t groups_together(const ActivationScheme& scheme) const { return scheme.depth / scheme.group; }
    Tile tile(int64_t first, int64_t, int) const { return Tile{x + first * inputs}; }
};

// Rows of x after an operation. They are written to `out` [rows, inputs], or computed in the scratch memory of each worker if
// that is null: reserve scratch_bytes() before.
struct ComputedRows {
    const RowOperation& operation;
    const float* x;
    int64_t inputs;
    const Pool& pool;
    float* out = nullptr;

    struct Tile {
        const RowOperation& operation;
        const float *x, *other;
        int64_t inputs, rows;
        float* out;
        RowStatistics statistics[tile_height];

        // Columns [begin, end) of the tile's rows, which lie `inputs` apart; returns the first row.
        const float* columns(int64_t begin, int64_t end) const {
            for (int64_t r = 0; r < rows; ++r) row(r, begin, end);
            return out;
        }

        void row(int64_t r, int64_t begin, int64_t end) const {
            const RowOperation& o = operation;
            const float* in = x + r * inputs;
            float* to = out + r * inputs;
            switch (o.kind) {
                case RowOperationKind::rms_norm: return rms_norm_row(in, o.weight, statistics[r], begin, end, to);
                case RowOperationKind::layer_norm: return layer_norm_row(in, o.weight, o.bias, statistics[r], begin, end, to);
                case RowOperationKind::gated_rms_norm:
                    for (int64_t at = begin / o.width * o.width; at < end; at += o.width)
                        gated_rms_norm_row(in + at, other + r * inputs + at, o.weight, rms_statistics(in + at, o.width, o.eps),
                                           max(0, begin - at), min(o.width, end - at), to + at);
                    return;
                case RowOperationKind::sigmoid_gate: return sigmoid_gate_row(in, other + r * inputs, begin, end, to);
                case RowOperationKind::none: return;
            }
        }
    };

    size_t scratch_bytes() const { return static_cast<size_t>(tile_height * inputs) * sizeof(float); }

    // Groups that are computed and then quantized: few enough for the first cache, and whole heads.
    int64_t groups_together(const ActivationScheme& scheme) const {
        const bool heads = operation.kind == RowOperationKind::gated_rms_norm;
        return max(1, round_up(256, heads ? operation.width : 1) / scheme.group);
    }

    Tile tile(int64_t first, int64_t rows, int worker) const {
        return tile(first, rows, out ? out + first * inputs : pool.scratch(worker));
    }

    Tile tile(int64_t first, int64_t rows, float* to) const {
        Tile t{.operation = operation,
               .x = x + first * inputs,
               .other = operation.other ? operation.other + first * inputs : nullptr,
               .inputs = inputs,
               .rows = rows,
               .out = to,
               .statistics = {}};
        for (int64_t r = 0; r < rows; ++r) {
            const float* row = t.x + r * inputs;
            if (operation.kind == RowOperationKind::rms_norm) t.statistics[r] = rms_statistics(row, inputs, operation.eps);
            if (operation.kind == RowOperationKind::layer_norm) t.statistics[r] = layer_statistics(row, inputs, operation.eps);
        }
        return t;
    }
};

}  // namespace
}  // namespace pocketvlm::POCKETVLM_ISA
