// What the parts of the emulation share: error codes of the driver and the memory of the devices.
#pragma once
#include <stddef.h>
#include <stdint.h>

#include <string>

namespace emu {
enum { CUDA_SUCCESS = 0, CUDA_INVALID_VALUE = 1, CUDA_OUT_OF_MEMORY = 2, CUDA_NOT_FOUND = 500, CUDA_ILLEGAL_ADDRESS = 700, CUDA_LAUNCH_FAILED = 719 };

// Device memory, filled with 0xff. Behind it lies at least a page that faults.
void* device_alloc(size_t bytes);
// False where no allocation starts at p, or something was written behind its end.
bool device_free(void* p, std::string* why);
// A sentence about an address that faulted: where it lies, and beside which allocation.
std::string describe_address(const void* p);
} // namespace emu
