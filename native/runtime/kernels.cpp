#include "runtime/kernels.h"

namespace pocketvlm {

#define POCKETVLM_TABLE(isa) \
    const Kernels isa##_kernels{isa::linear, isa::rms_norm, isa::layer_norm, isa::gated_rms_norm, isa::swiglu, isa::sigmoid_gate, \
                                isa::attention_inputs, isa::attention, isa::attention_views, isa::conv_silu, isa::gated_delta_rule};
POCKETVLM_FOR_EACH_ISA(POCKETVLM_TABLE)
#undef POCKETVLM_TABLE

const Kernels& kernels_of(Isa isa) {
#if defined(POCKETVLM_X86)
    if (isa == Isa::avx512) return avx512_kernels;
    if (isa == Isa::avx2) return avx2_kernels;
#endif
    return serial_kernels;
}

}  // namespace pocketvlm
