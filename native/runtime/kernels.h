// The kernels of one instruction set.
#pragma once

#include "attention/attention.h"
#include "coded/coded.h"
#include "conv/conv.h"
#include "delta/delta.h"
#include "linear/linear.h"
#include "norm/norm.h"
#include "peak/peak.h"
#include "pointwise/pointwise.h"
#include "rotary/rotary.h"
#include "runtime/isa.h"

namespace pocketvlm {

struct Kernels {
    decltype(&serial::linear) linear;
    decltype(&serial::coded_linear) coded_linear;
    decltype(&serial::encode) encode;
    decltype(&serial::rms_norm) rms_norm;
    decltype(&serial::layer_norm) layer_norm;
    decltype(&serial::gated_rms_norm) gated_rms_norm;
    decltype(&serial::swiglu) swiglu;
    decltype(&serial::sigmoid_gate) sigmoid_gate;
    decltype(&serial::attention_inputs) attention_inputs;
    decltype(&serial::attention) attention;
    decltype(&serial::attention_views) attention_views;
    decltype(&serial::conv_silu) conv_silu;
    decltype(&serial::gated_delta_rule) gated_delta_rule;
    decltype(&serial::read_memory) read_memory;
    decltype(&serial::multiply_bytes) multiply_bytes;
    decltype(&serial::multiply_floats) multiply_floats;
    long width;  // floats in a vector
};

const Kernels& kernels_of(Isa isa);

}  // namespace pocketvlm
