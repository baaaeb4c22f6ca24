// The value of a float16 number, for code that is compiled once for all processors.
#pragma once

#include <cstdint>
#include <cstring>

namespace pocketvlm {

inline float from_float16(uint16_t half) {
    const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
    uint32_t bits = static_cast<uint32_t>(half & 0x7fffu) << 13;
    float value;
    if (bits < 0x0f800000u) {  // rebases the exponent, right for subnormal numbers too
        std::memcpy(&value, &bits, sizeof value);
        value *= 0x1p112f;
        std::memcpy(&bits, &value, sizeof value);
    } else {  // infinity or NaN
        bits |= 0x7f800000u;
    }
    bits |= sign;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

}  // namespace pocketvlm
