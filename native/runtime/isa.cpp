#include "runtime/isa.h"

#if defined(POCKETVLM_ARM) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#elif defined(POCKETVLM_ARM) && defined(__APPLE__)
#include <sys/sysctl.h>
#endif

namespace pocketvlm {

std::string isa_name(Isa isa) {
    switch (isa) {
        case Isa::neon: return "neon";
        case Isa::neondot: return "neondot";
        case Isa::neoni8mm: return "neoni8mm";
        case Isa::avx2: return "avx2";
        case Isa::avx512: return "avx512";
        case Isa::avxvnni: return "avxvnni";
        case Isa::avx512vnni: return "avx512vnni";
        case Isa::avx512bf16: return "avx512bf16";
        default: return "serial";
    }
}

#if defined(POCKETVLM_ARM)
namespace {

#if defined(__APPLE__)
bool has(const char* feature) {
    int answer = 0;
    size_t size = sizeof answer;
    return sysctlbyname(feature, &answer, &size, nullptr, 0) == 0 && answer != 0;
}
#endif

bool has_dot_product() {
#if defined(__linux__)
    return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
#elif defined(__APPLE__)
    return has("hw.optional.arm.FEAT_DotProd");
#else
    return false;
#endif
}

bool has_mixed_products() {
#if defined(__linux__) && defined(HWCAP2_I8MM)
    return (getauxval(AT_HWCAP2) & HWCAP2_I8MM) != 0;
#elif defined(__APPLE__)
    return has("hw.optional.arm.FEAT_I8MM");
#else
    return false;
#endif
}

}  // namespace
#endif

std::vector<Isa> usable_isas() {
    std::vector<Isa> usable{Isa::serial};
#if defined(POCKETVLM_X86)
    // These answer for the operating system too: they look at XCR0 before they admit AVX or AVX-512.
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c")) {
        usable.push_back(Isa::avx2);
#if defined(POCKETVLM_LONG_VNNI)
        if (__builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vl")) usable.push_back(Isa::avxvnni);
#else
        if (__builtin_cpu_supports("avxvnni")) usable.push_back(Isa::avxvnni);
#endif
        if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
            __builtin_cpu_supports("avx512vl")) {
            usable.push_back(Isa::avx512);
            if (__builtin_cpu_supports("avx512vnni")) {
                usable.push_back(Isa::avx512vnni);
                if (__builtin_cpu_supports("avx512bf16")) usable.push_back(Isa::avx512bf16);
            }
        }
    }
#elif defined(POCKETVLM_ARM)
    usable.push_back(Isa::neon);
    if (has_dot_product()) {
        usable.push_back(Isa::neondot);
        if (has_mixed_products()) usable.push_back(Isa::neoni8mm);
    }
#endif
    return usable;
}

}  // namespace pocketvlm
