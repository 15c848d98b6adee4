// What the parts of the emulation share: error codes of the driver and the memory of the devices.
#pragma once
#include <stddef.h>
#include <stdint.h>

#include <string>

namespace emu {
// CUresult.
enum {
    CUDA_SUCCESS = 0,
    CUDA_INVALID_VALUE = 1,
    CUDA_OUT_OF_MEMORY = 2,
    CUDA_NOT_INITIALIZED = 3,
    CUDA_INVALID_DEVICE = 101,
    CUDA_INVALID_CONTEXT = 201,
    CUDA_INVALID_HANDLE = 400,
    CUDA_NOT_FOUND = 500,
    CUDA_NOT_READY = 600,
    CUDA_ILLEGAL_ADDRESS = 700,
    CUDA_INVALID_PTX = 218,
    CUDA_PEER_ACCESS_ALREADY_ENABLED = 704,
    CUDA_LAUNCH_FAILED = 719,
    CUDA_NOT_SUPPORTED = 801,
    CUDA_CAPTURE_UNSUPPORTED = 900,
    CUDA_CAPTURE_INVALIDATED = 901,
    CUDA_CAPTURE_MERGE = 902,
    CUDA_CAPTURE_UNMATCHED = 903,
    CUDA_CAPTURE_UNJOINED = 904,
    CUDA_CAPTURE_ISOLATION = 905,
    CUDA_CAPTURE_IMPLICIT = 906,
    CUDA_CAPTURED_EVENT = 907,
    CUDA_CAPTURE_WRONG_THREAD = 908,
    CUDA_INVALID_CLUSTER_SIZE = 912,
};

// Whether a failed launch says so on stderr, and not only in `emu_message`.
extern bool print_errors;

// Device memory, filled with 0xff. Behind it lies at least a page that faults.
void* device_alloc(size_t bytes, int device);
// An allocation at an address that an earlier process got from `device_alloc`.
bool device_alloc_at(char* start, size_t bytes);
// False where no allocation starts at p, or something was written beside it.
bool device_free(void* p, std::string* why);
// The allocation that holds the address.
struct Place {
    char* start;
    size_t bytes;
    int device;
};
bool find_allocation(const void* p, Place* place);
// Whether one allocation, of a device that the launch may touch, holds all of the bytes. For a kernel's thread, while the
// launch has the devices for itself.
bool is_allocated(const void* p, size_t bytes);
// Which devices' memory the next launches may touch, a bit for each; all before the first call.
void reach(uint64_t devices);
// The addresses that device memory may have.
constexpr uintptr_t ARENA_AT = 0x1000000000;
constexpr size_t ARENA_BYTES = size_t(64) << 30;
inline bool in_arena(const void* p) { return reinterpret_cast<uintptr_t>(p) - ARENA_AT < ARENA_BYTES; }
// A sentence about an allocation beside which something was written since the last call, or nothing.
std::string spoilt_guard();
// Where an address lies: in words, beside which allocation.
std::string describe_address(const void* p);
} // namespace emu
