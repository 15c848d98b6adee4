// A tensor map as the emulated driver encodes it (driver.cpp) and kernels read it (hopper_emu.cpp).
#pragma once
#include <stdint.h>

namespace emu {
struct TensorMap {
    static constexpr uint64_t MAGIC = 0x70616d5265736e54;
    uint64_t magic;
    uint64_t base;
    uint64_t strides[4]; // bytes from one to the next of dimension 1 on
    uint64_t sizes_less_one[2]; // of dimensions 0 and 1, 2 and 3, each 32 bits
    uint32_t size_less_one_of_4;
    uint16_t box[5];
    uint8_t rank, element_bytes;
    uint8_t swizzle; // chunks of 16 bytes are permuted within 16 << swizzle bytes; 0: not at all
    uint8_t fills_nan;
    uint8_t steps[5]; // element strides
    uint8_t is_float;
    uint64_t check; // of all before

    uint64_t size(unsigned d) const {
        return 1 + (d == 4 ? size_less_one_of_4 : sizes_less_one[d / 2] >> d % 2 * 32 & 0xffffffff);
    }
    uint64_t sum() const {
        uint64_t sum = 0x9e3779b97f4a7c15;
        for (const unsigned char* p = reinterpret_cast<const unsigned char*>(this); p < reinterpret_cast<const unsigned char*>(&check); p++) sum = (sum ^ *p) * 0x100000001b3;
        return sum;
    }
};
static_assert(sizeof(TensorMap) <= 128);
} // namespace emu
