// The instruction sets that kernels are built for.
#pragma once

#include <string>
#include <vector>

#if defined(POCKETVLM_X86)
#define POCKETVLM_FOR_EACH_ISA(do_for) do_for(serial) do_for(avx2) do_for(avx512)
#else
#define POCKETVLM_FOR_EACH_ISA(do_for) do_for(serial)
#endif

namespace pocketvlm {

enum class Isa { serial, avx2, avx512 };

// Those that this build holds and this processor and operating system run, best last.
std::vector<Isa> usable_isas();

std::string isa_name(Isa isa);

}  // namespace pocketvlm
