#include "runtime/kernels.h"

namespace pocketvlm {

#define POCKETVLM_KERNELS(floats, bytes, halves) \
    Kernels{halves::linear, bytes::coded_linear, bytes::encode, floats::rms_norm, floats::layer_norm, floats::gated_rms_norm, \
            floats::swiglu, floats::sigmoid_gate, floats::attention_inputs, halves::attention, halves::attention_views, \
            floats::conv_silu, floats::gated_delta_rule, bytes::read_memory, bytes::multiply_bytes, bytes::multiply_floats, \
            floats::vector_width}
#define POCKETVLM_TABLE(isa) const Kernels isa##_kernels = POCKETVLM_KERNELS(isa, isa, isa);
POCKETVLM_FOR_EACH_ISA(POCKETVLM_TABLE)
#undef POCKETVLM_TABLE
#if defined(POCKETVLM_X86)
const Kernels avxvnni_kernels = POCKETVLM_KERNELS(avx2, avxvnni, avx2);
const Kernels avx512vnni_kernels = POCKETVLM_KERNELS(avx512, avx512vnni, avx512);
const Kernels avx512bf16_kernels = POCKETVLM_KERNELS(avx512, avx512vnni, avx512bf16);
#elif defined(POCKETVLM_ARM)
const Kernels neondot_kernels = POCKETVLM_KERNELS(neon, neondot, neon);
const Kernels neoni8mm_kernels = POCKETVLM_KERNELS(neon, neoni8mm, neon);
#endif
#undef POCKETVLM_KERNELS

const Kernels& kernels_of(Isa isa) {
#if defined(POCKETVLM_X86)
    if (isa == Isa::avx512bf16) return avx512bf16_kernels;
    if (isa == Isa::avx512vnni) return avx512vnni_kernels;
    if (isa == Isa::avx512) return avx512_kernels;
    if (isa == Isa::avxvnni) return avxvnni_kernels;
    if (isa == Isa::avx2) return avx2_kernels;
#elif defined(POCKETVLM_ARM)
    if (isa == Isa::neoni8mm) return neoni8mm_kernels;
    if (isa == Isa::neondot) return neondot_kernels;
    if (isa == Isa::neon) return neon_kernels;
#endif
    return serial_kernels;
}

}  // namespace pocketvlm
