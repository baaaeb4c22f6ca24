// The instruction sets that this build contains, and which of them this machine runs.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "runtime/kernels.h"
#include "tiles/self_test.h"

namespace pocketvlm {

struct InstructionSet {
    std::string_view name;
    std::vector<std::string_view> needs;  // features of the processor and the system, all of which a machine must have
    Kernels kernels;
    bool only_for_tests = false;  // never chosen unless it is named
    TileSelfTest* tile_self_test = nullptr;  // of a set with tile registers
};

// All sets in order of preference, the best last. The first is plain C++ and needs no feature.
const std::vector<InstructionSet>& instruction_sets();

// The sets that run on a machine with these features, in the same order.
std::vector<const InstructionSet*> usable_instruction_sets(const std::vector<std::string_view>& features);

// The sets that run on this processor and operating system.
std::vector<const InstructionSet*> usable_instruction_sets();

// Why a set does not run on a machine with these features, or nothing if it does.
std::string why_unusable(const InstructionSet& set, const std::vector<std::string_view>& features);

// What this machine has of the features that a set may need. The first call asks the system for the permission to use tiles.
const std::vector<std::string_view>& machine_features();

}  // namespace pocketvlm
