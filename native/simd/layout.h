// The layout in which an instruction set expects the activations of its integer products.
#pragma once

#include <cstdint>

namespace pocketvlm::POCKETVLM_ISA {
namespace {

struct ActivationLayout {
    int32_t weight_offset;  // dot8 multiplies stored 8-bit weights as value + weight_offset: 128 if it takes them unsigned
    int64_t interleave;     // neighbouring inputs of a row that are next to each other
    int64_t tile_rows;      // rows of a full activation tile, interleaved
};

}  // namespace
}  // namespace pocketvlm::POCKETVLM_ISA
