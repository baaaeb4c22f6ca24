// An operation on the rows of a product's input that the product's kernel does before it quantizes them. Kernels without tile
// registers compute some columns of an activation tile at a time, so the result stays in the cache.
#pragma once

#include <cstdint>

namespace pocketvlm {

enum class RowOperationKind { none, rms_norm, layer_norm, gated_rms_norm, sigmoid_gate };

struct RowOperation {
    RowOperationKind kind = RowOperationKind::none;
    const float* other = nullptr;   // z or gate, [rows, inputs]
    const float* weight = nullptr;  // of a norm, [inputs], or [width] of a gated norm
    const float* bias = nullptr;    // of a layer norm, [inputs]
    int64_t width = 0;              // inputs of a head, over which a gated norm runs
    float eps = 0.0f;
};

}  // namespace pocketvlm
