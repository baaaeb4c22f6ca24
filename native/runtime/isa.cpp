#include "runtime/isa.h"

namespace pocketvlm {

std::string isa_name(Isa isa) {
    switch (isa) {
        case Isa::avx2: return "avx2";
        case Isa::avx512: return "avx512";
        case Isa::avx512vnni: return "avx512vnni";
        case Isa::avx512bf16: return "avx512bf16";
        default: return "serial";
    }
}

std::vector<Isa> usable_isas() {
    std::vector<Isa> usable{Isa::serial};
#if defined(POCKETVLM_X86)
    // These answer for the operating system too: they look at XCR0 before they admit AVX or AVX-512.
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c")) {
        usable.push_back(Isa::avx2);
        if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
            __builtin_cpu_supports("avx512vl")) {
            usable.push_back(Isa::avx512);
            if (__builtin_cpu_supports("avx512vnni")) {
                usable.push_back(Isa::avx512vnni);
                if (__builtin_cpu_supports("avx512bf16")) usable.push_back(Isa::avx512bf16);
            }
        }
    }
#endif
    return usable;
}

}  // namespace pocketvlm
