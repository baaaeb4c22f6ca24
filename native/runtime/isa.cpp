// One entry for each instruction set: the CPU features that it needs and its kernels. A set builds those groups of kernels
// that gain from its instructions and takes the others from another set; CMakeLists.txt builds them accordingly. A set with
// tile registers builds the group of tiles, whose kernels replace some of those that it takes from other sets.
#include "runtime/isa.h"

#include <algorithm>
#include <type_traits>

#if defined(POCKETVLM_X86)
#include <cpuid.h>
#endif
#if defined(POCKETVLM_X86) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#if defined(POCKETVLM_ARM) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#elif defined(POCKETVLM_ARM) && defined(__APPLE__)
#include <sys/sysctl.h>
#endif

// The kernels by group, each group in the order of `Kernels`.
#define POCKETVLM_FLOAT_KERNELS(do_for, set) \
    do_for(set, rms_norm) do_for(set, layer_norm) do_for(set, gated_rms_norm) do_for(set, swiglu) do_for(set, sigmoid_gate) \
    do_for(set, attention_inputs) do_for(set, conv_silu) do_for(set, add_low_rank) do_for(set, apply_activation)
#define POCKETVLM_INTEGER_KERNELS(do_for, set) \
    do_for(set, quantized_linear) do_for(set, quantize) do_for(set, read_memory) do_for(set, multiply_bytes) \
    do_for(set, multiply_floats)
#define POCKETVLM_BFLOAT16_KERNELS(do_for, set) \
    do_for(set, linear) do_for(set, attention) do_for(set, attention_views) do_for(set, gated_delta_rule) \
    do_for(set, multiply_bfloat16)
#define POCKETVLM_TILE_KERNELS(do_for, set) \
    do_for(set, quantized_linear) do_for(set, attention) do_for(set, attention_views) do_for(set, gated_delta_rule) \
    do_for(set, multiply_bytes) do_for(set, multiply_bfloat16)

#define POCKETVLM_DECLARE_KERNEL(set, kernel) std::remove_pointer_t<decltype(Kernels::kernel)> kernel;
#define POCKETVLM_DECLARE(set) \
    namespace pocketvlm::set { \
    POCKETVLM_FLOAT_KERNELS(POCKETVLM_DECLARE_KERNEL, set) \
    POCKETVLM_INTEGER_KERNELS(POCKETVLM_DECLARE_KERNEL, set) \
    POCKETVLM_BFLOAT16_KERNELS(POCKETVLM_DECLARE_KERNEL, set) \
    }
#define POCKETVLM_INITIALIZE(set, kernel) .kernel = set::kernel,
#define POCKETVLM_KERNELS(floats, integers, bfloat16) \
    Kernels { \
        POCKETVLM_FLOAT_KERNELS(POCKETVLM_INITIALIZE, floats) \
        POCKETVLM_INTEGER_KERNELS(POCKETVLM_INITIALIZE, integers) \
        POCKETVLM_BFLOAT16_KERNELS(POCKETVLM_INITIALIZE, bfloat16) \
    }

#define POCKETVLM_DECLARE_TILES(set) \
    namespace pocketvlm::set { \
    POCKETVLM_TILE_KERNELS(POCKETVLM_DECLARE_KERNEL, set) \
    TileSelfTest tile_self_test; \
    }
#define POCKETVLM_REPLACE(set, kernel) kernels.kernel = set::kernel;
#define POCKETVLM_KERNELS_WITH_TILES(set, floats, integers, bfloat16) \
    [] { \
        Kernels kernels = POCKETVLM_KERNELS(floats, integers, bfloat16); \
        POCKETVLM_TILE_KERNELS(POCKETVLM_REPLACE, set) \
        return kernels; \
    }()

POCKETVLM_DECLARE(serial)
#if defined(POCKETVLM_X86)
POCKETVLM_DECLARE(avx2)
POCKETVLM_DECLARE(avxvnni)
POCKETVLM_DECLARE(avx512)
POCKETVLM_DECLARE(avx512vnni)
POCKETVLM_DECLARE(avx512bf16)
POCKETVLM_DECLARE_TILES(plaintiles)
POCKETVLM_DECLARE_TILES(amx)
#elif defined(POCKETVLM_ARM)
POCKETVLM_DECLARE(neon)
POCKETVLM_DECLARE(neondot)
POCKETVLM_DECLARE(neoni8mm)
#endif

namespace pocketvlm {
namespace {

#if defined(POCKETVLM_LONG_VNNI)
#define POCKETVLM_AVXVNNI "avx512vl", "avx512vnni"
#else
#define POCKETVLM_AVXVNNI "avxvnni"
#endif
#define POCKETVLM_AVX512 "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512dq", "avx512vl"

// What tiles need from the system, in this order: each is checked only if all before it are there.
constexpr std::string_view tile_state = "tile_state", tile_permission = "tile_permission", tile_arithmetic = "tile_arithmetic";

const std::vector<InstructionSet> sets{
    {.name = "serial", .needs = {}, .kernels = POCKETVLM_KERNELS(serial, serial, serial)},
#if defined(POCKETVLM_X86)
    {.name = "avx2", .needs = {"avx2", "fma", "f16c"}, .kernels = POCKETVLM_KERNELS(avx2, avx2, avx2)},
    {.name = "avxvnni", .needs = {"avx2", "fma", "f16c", POCKETVLM_AVXVNNI}, .kernels = POCKETVLM_KERNELS(avx2, avxvnni, avx2)},
    {.name = "avx512", .needs = {POCKETVLM_AVX512}, .kernels = POCKETVLM_KERNELS(avx512, avx512, avx512)},
    {.name = "avx512vnni", .needs = {POCKETVLM_AVX512, "avx512vnni"}, .kernels = POCKETVLM_KERNELS(avx512, avx512vnni, avx512)},
    {.name = "avx512bf16",
     .needs = {POCKETVLM_AVX512, "avx512vnni", "avx512bf16"},
     .kernels = POCKETVLM_KERNELS(avx512, avx512vnni, avx512bf16)},
    {.name = "plaintiles",
     .needs = {POCKETVLM_AVX512, "avx512vnni", "avx512bf16"},
     .kernels = POCKETVLM_KERNELS_WITH_TILES(plaintiles, avx512, avx512vnni, avx512bf16),
     .only_for_tests = true,
     .tile_self_test = plaintiles::tile_self_test},
    {.name = "amx",
     .needs = {POCKETVLM_AVX512, "avx512vnni", "avx512bf16", "amx_tile", "amx_int8", "amx_bf16", tile_state, tile_permission, tile_arithmetic},
     .kernels = POCKETVLM_KERNELS_WITH_TILES(amx, avx512, avx512vnni, avx512bf16),
     .tile_self_test = amx::tile_self_test},
#elif defined(POCKETVLM_ARM)
    {.name = "neon", .needs = {}, .kernels = POCKETVLM_KERNELS(neon, neon, neon)},
    {.name = "neondot", .needs = {"dotprod"}, .kernels = POCKETVLM_KERNELS(neon, neondot, neon)},
    {.name = "neoni8mm", .needs = {"dotprod", "i8mm"}, .kernels = POCKETVLM_KERNELS(neon, neoni8mm, neon)},
#endif
};

#if defined(POCKETVLM_ARM) && defined(__APPLE__)
bool has(const char* feature) {
    int answer = 0;
    size_t size = sizeof answer;
    return sysctlbyname(feature, &answer, &size, nullptr, 0) == 0 && answer != 0;
}
#endif

#if defined(POCKETVLM_X86)
// Whether the system saves the state of tiles: bits 17 and 18 of XCR0, which only a processor with OSXSAVE lets us read.
bool system_saves_tiles() {
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE)) return false;
    unsigned low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (low >> 17 & 3u) == 3u;
}

// Linux lets a process use tiles after it has asked once; the answer holds for all its threads and for its forks.
bool system_permits_tiles() {
#if defined(__linux__)
    constexpr long request_permission = 0x1023, tile_data = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
#else
    return false;
#endif
}

// The features of the processor are known; those of the system and the self-test follow.
void add_tile_features(std::vector<std::string_view>& found) {
    for (const InstructionSet& set : sets) {
        const auto system = std::ranges::find(set.needs, tile_state);
        const auto is_found = [&](std::string_view need) { return std::ranges::find(found, need) != found.end(); };
        if (system == set.needs.end() || !std::all_of(set.needs.begin(), system, is_found)) continue;
        if (!system_saves_tiles()) return;
        found.push_back(tile_state);
        if (!system_permits_tiles()) return;
        found.push_back(tile_permission);
        if (set.tile_self_test(0)) found.push_back(tile_arithmetic);
        return;
    }
}
#endif

// The features that an entry may need, as far as this machine has them. An unknown feature counts as missing.
std::vector<std::string_view> find_features() {
    std::vector<std::string_view> found;
    [[maybe_unused]] const auto add = [&](std::string_view feature, bool present) {
        if (present) found.push_back(feature);
    };
#if defined(POCKETVLM_X86)
    // The compiler's check covers the operating system too: it reads XCR0 before it reports AVX or AVX-512.
    __builtin_cpu_init();
#define POCKETVLM_CHECK(feature) add(feature, __builtin_cpu_supports(feature));
    POCKETVLM_CHECK("avx2")
    POCKETVLM_CHECK("fma")
    POCKETVLM_CHECK("f16c")
    POCKETVLM_CHECK("avxvnni")
    POCKETVLM_CHECK("avx512f")
    POCKETVLM_CHECK("avx512bw")
    POCKETVLM_CHECK("avx512dq")
    POCKETVLM_CHECK("avx512vl")
    POCKETVLM_CHECK("avx512vnni")
    POCKETVLM_CHECK("avx512bf16")
#undef POCKETVLM_CHECK
    unsigned a, b, c, d;
    const bool known = __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0;  // __builtin_cpu_supports of gcc 12 lacks these
    add("amx_tile", known && d & bit_AMX_TILE);
    add("amx_int8", known && d & bit_AMX_INT8);
    add("amx_bf16", known && d & bit_AMX_BF16);
    add_tile_features(found);
#elif defined(POCKETVLM_ARM) && defined(__linux__)
    add("dotprod", (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0);
#if defined(HWCAP2_I8MM)
    add("i8mm", (getauxval(AT_HWCAP2) & HWCAP2_I8MM) != 0);
#endif
#elif defined(POCKETVLM_ARM) && defined(__APPLE__)
    add("dotprod", has("hw.optional.arm.FEAT_DotProd"));
    add("i8mm", has("hw.optional.arm.FEAT_I8MM"));
#endif
    return found;
}

}  // namespace

const std::vector<InstructionSet>& instruction_sets() { return sets; }

const std::vector<std::string_view>& machine_features() {
    static const std::vector<std::string_view> features = find_features();
    return features;
}

std::string why_unusable(const InstructionSet& set, const std::vector<std::string_view>& features) {
    const auto missing = std::ranges::find_if(set.needs, [&](std::string_view need) { return std::ranges::find(features, need) == features.end(); });
    if (missing == set.needs.end()) return "";
    if (*missing == tile_state) return "the operating system does not save the state of tiles";
    if (*missing == tile_permission) return "the operating system does not permit this process to use tiles";
    if (*missing == tile_arithmetic) return "products in tiles were wrong in the self-test";
    return "the processor has no " + std::string(*missing);
}

std::vector<const InstructionSet*> usable_instruction_sets(const std::vector<std::string_view>& features) {
    std::vector<const InstructionSet*> usable;
    for (const InstructionSet& set : sets)
        if (why_unusable(set, features).empty()) usable.push_back(&set);
    return usable;
}

std::vector<const InstructionSet*> usable_instruction_sets() { return usable_instruction_sets(machine_features()); }

}  // namespace pocketvlm
