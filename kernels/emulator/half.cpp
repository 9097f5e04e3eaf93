// SPDX-License-Identifier: MPL-2.0
//
// Conversions of IEEE half precision.

#include "../prims.cuh"

namespace emulator {

float f16_to_float(u16 bits) {
    const u32 sign = u32(bits & 0x8000) << 16, exponent = bits >> 10 & 31, fraction = bits & 0x3ff;
    if (exponent == 31) return float_of_bits(sign | 0x7f800000 | fraction << 13);
    if (exponent == 0) return std::copysign(std::ldexp(float(fraction), -24), sign ? -1.0f : 1.0f);
    return float_of_bits(sign | (exponent + 112) << 23 | fraction << 13);
}

// Rounds to nearest, ties to even.
u16 f16_from_float(float x) {
    const u32 bits = bits_of_float(x), sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
    if (magnitude > 0x7f800000) return 0x7fff;
    if (magnitude >= 0x477ff000) return u16(sign | 0x7c00);
    if (magnitude < 0x38800000) return u16(sign | u32(std::nearbyint(std::ldexp(std::fabs(x), 24))));
    const u32 rounded = magnitude + 0xfff + (magnitude >> 13 & 1);
    return u16(sign | (rounded - (112u << 23)) >> 13);
}

}
