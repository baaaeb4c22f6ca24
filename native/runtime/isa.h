// The instruction sets that kernels are built for; those that multiply bytes or
// pairs of bfloat16 numbers have one more each. Every instruction set of a processor family holds those before it.
#pragma once

#include <string>
#include <vector>

#if defined(POCKETVLM_X86)
#define POCKETVLM_FOR_EACH_ISA(do_for) do_for(serial) do_for(avx2) do_for(avx512)
#define POCKETVLM_FOR_EACH_BYTES_ISA(do_for) POCKETVLM_FOR_EACH_ISA(do_for) do_for(avxvnni) do_for(avx512vnni)
#define POCKETVLM_FOR_EACH_HALVES_ISA(do_for) POCKETVLM_FOR_EACH_ISA(do_for) do_for(avx512bf16)
#elif defined(POCKETVLM_ARM)
#define POCKETVLM_FOR_EACH_ISA(do_for) do_for(serial) do_for(neon)
#define POCKETVLM_FOR_EACH_BYTES_ISA(do_for) POCKETVLM_FOR_EACH_ISA(do_for) do_for(neondot) do_for(neoni8mm)
#define POCKETVLM_FOR_EACH_HALVES_ISA(do_for) POCKETVLM_FOR_EACH_ISA(do_for)
#else
#define POCKETVLM_FOR_EACH_ISA(do_for) do_for(serial)
#define POCKETVLM_FOR_EACH_BYTES_ISA(do_for) POCKETVLM_FOR_EACH_ISA(do_for)
#define POCKETVLM_FOR_EACH_HALVES_ISA(do_for) POCKETVLM_FOR_EACH_ISA(do_for)
#endif

namespace pocketvlm {

enum class Isa { serial, neon, neondot, neoni8mm, avx2, avxvnni, avx512, avx512vnni, avx512bf16 };

// Those that this build holds and this processor and operating system run, best last.
std::vector<Isa> usable_isas();

std::string isa_name(Isa isa);

namespace serial {
constexpr long vector_width = 4;
}
#if defined(POCKETVLM_X86)
namespace avx2 {
constexpr long vector_width = 8;
}
namespace avx512 {
constexpr long vector_width = 16;
}
#elif defined(POCKETVLM_ARM)
namespace neon {
constexpr long vector_width = 4;
}
#endif

}  // namespace pocketvlm
