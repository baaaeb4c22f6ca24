// The instruction sets that kernels are built for; those that multiply bytes have one more.
#pragma once

#include <string>
#include <vector>

#if defined(POCKETVLM_X86)
#define POCKETVLM_FOR_EACH_ISA(do_for) do_for(serial) do_for(avx2) do_for(avx512)
#define POCKETVLM_FOR_EACH_BYTES_ISA(do_for) POCKETVLM_FOR_EACH_ISA(do_for) do_for(avx512vnni)
#else
#define POCKETVLM_FOR_EACH_ISA(do_for) do_for(serial)
#define POCKETVLM_FOR_EACH_BYTES_ISA(do_for) POCKETVLM_FOR_EACH_ISA(do_for)
#endif

namespace pocketvlm {

enum class Isa { serial, avx2, avx512, avx512vnni };

// Those that this build holds and this processor and operating system run, best last.
std::vector<Isa> usable_isas();

std::string isa_name(Isa isa);

}  // namespace pocketvlm
