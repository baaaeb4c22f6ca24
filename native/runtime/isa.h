// The instruction sets that this build contains, and which of them this machine runs.
#pragma once

#include <string_view>
#include <vector>

#include "runtime/kernels.h"

namespace pocketvlm {

struct InstructionSet {
    std::string_view name;
    std::vector<std::string_view> needs;  // CPU features, all of which a machine must have
    Kernels kernels;
};

// All sets in order of preference, the best last. The first is plain C++ and needs no feature.
const std::vector<InstructionSet>& instruction_sets();

// The sets that run on a machine with these CPU features, in the same order.
std::vector<const InstructionSet*> usable_instruction_sets(const std::vector<std::string_view>& features);

// The sets that run on this processor and operating system.
std::vector<const InstructionSet*> usable_instruction_sets();

}  // namespace pocketvlm
