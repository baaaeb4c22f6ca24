// The kernels of one instruction set, by groups: a set may build one group of its own and take the others from another set.
#pragma once

#include "attention/attention.h"
#include "conv/conv.h"
#include "delta/delta.h"
#include "linear/linear.h"
#include "lowrank/lowrank.h"
#include "norm/norm.h"
#include "pointwise/pointwise.h"
#include "quantized/quantized.h"
#include "rotary/rotary.h"
#include "runtime/pool.h"

namespace pocketvlm {

struct Kernels {
    // Arithmetic in float32 alone.
    void (*rms_norm)(Pool&, const RmsNorm&);
    void (*layer_norm)(Pool&, const LayerNorm&);
    void (*gated_rms_norm)(Pool&, const GatedRmsNorm&);
    void (*swiglu)(Pool&, const Pointwise&);
    void (*sigmoid_gate)(Pool&, const Pointwise&);
    void (*attention_inputs)(Pool&, const AttentionInputs&);
    void (*conv_silu)(Pool&, const ConvSilu&);
    void (*add_low_rank)(Pool&, const LowRanks&);
    void (*apply_activation)(Pool&, const Activate&);

    // Integer products, and microbenchmarks. `quantized_linear` takes `count` products of the same rows; `quantize` rounds
    // to nearest. Each microbenchmark returns how many bytes it reads, or how many multiplications and additions it does.
    void (*quantized_linear)(Pool&, const QuantizedProduct* products, int64_t count);
    void (*quantize)(Pool&, const Quantize&);
    int64_t (*read_memory)(Pool&, const float* data, int64_t count);
    int64_t (*multiply_bytes)(Pool&, int64_t rounds);
    int64_t (*multiply_floats)(Pool&, int64_t rounds);

    // Products of matrices, which may use products of bfloat16 pairs; their microbenchmark returns 0 if they do not.
    void (*linear)(Pool&, const Linear&);
    void (*attention)(Pool&, const CausalAttention&);
    void (*attention_views)(Pool&, const ViewAttention&);
    void (*gated_delta_rule)(Pool&, const DeltaRule&);
    int64_t (*multiply_bfloat16)(Pool&, int64_t rounds);
};

}  // namespace pocketvlm
