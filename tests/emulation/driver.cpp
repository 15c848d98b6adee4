// libcuda.so.1 of the emulated devices: the part of the CUDA driver API (13.0) that the engine and
// cudarc call. A device runs kernels through emu_launch; queue.h says how streams behave.
//
//   L2P_EMU_DEVICES  how many devices there are (1)
//   L2P_EMU_MEMORY   memory of each in bytes (4 GiB)
//   L2P_EMU_SEED     order of streams, blocks and threads; 0 is as submitted (0)
//   L2P_EMU_RECORD   folder for a copy of every launch (record.cpp)
//   L2P_EMU_DRIVER   the version of CUDA that it knows (13000)
//   L2P_EMU_CAPABILITY  compute capability, 80 for 8.0 (80); of several devices one each, with commas
//   L2P_EMU_FAULT    what fails, a word or several with commas: load (an image), late-load (an image after the
//                    first launch), capture, end-capture, instantiate (a graph), replay (a graph leaves out one of
//                    its nodes), unrecorded (to wait for an event that was never recorded, which drivers pass over)
#include "cuda_emu.h"
#include "queue.h"
#include "record.h"
#include "tensor_map.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <atomic>
#include <map>
#include <mutex>

using namespace emu;

namespace {
constexpr size_t DEFAULT_SMEM = 48 * 1024; // more must be asked for with cuFuncSetAttribute
constexpr int MULTIPROCESSORS = 4;         // few, so that grids are longer than the device

struct Pinned {
    size_t bytes;
    Context* context; // of the thread that made it: whose work may be under way with it
};
struct Device {
    size_t total, used = 0;
    Context* context = nullptr;
    unsigned retained = 0;
};
struct Function {
    const Kernel* kernel;
    int device;
    size_t smem_limit = DEFAULT_SMEM;
};
struct Module {
    int device;
    std::map<std::string, Function> functions;
};

std::mutex driver;
bool initialized;
std::vector<Device> devices;
std::map<char*, Pinned> pinned;
std::set<Event*> events;
thread_local Context* current_context;

size_t environment(const char* name, size_t otherwise) {
    const char* const text = getenv(name);
    return text && *text ? strtoull(text, nullptr, 10) : otherwise;
}

// Whether a word stands in L2P_EMU_FAULT.
bool fault(const char* word) {
    const char* const text = getenv("L2P_EMU_FAULT");
    const std::string all = std::string(",") + (text ? text : "") + ",";
    return all.find(std::string(",") + word + ",") != std::string::npos;
}
std::atomic<bool> launched;

// 80 for 8.0.
int capability(int device) {
    const char* text = getenv("L2P_EMU_CAPABILITY");
    for (int i = 0; i < device && text && strchr(text, ','); i++) text = strchr(text, ',') + 1;
    return text && *text ? atoi(text) : 80;
}
// What a block may ask for (CUDA C++ Programming Guide 13.0, "Technical Specifications per Compute Capability").
size_t optin_smem(int device) { return size_t(capability(device) == 90 ? 227 : 163) * 1024; }

bool valid(int device) { return device >= 0 && size_t(device) < devices.size(); }

// The context of the calling thread, in `c`; its error, or that there is none, ends the call.
#define WITH_CONTEXT(c) \
    const std::lock_guard<std::mutex> lock(driver); \
    if (!initialized) return CUDA_NOT_INITIALIZED; \
    Context* const c = current_context; \
    if (!c) return CUDA_INVALID_CONTEXT; \
    if (c->error != 0) return c->error

// As above, and the stream behind a handle; null and 1 are the legacy default stream.
#define WITH_STREAM(c, s, handle) \
    WITH_CONTEXT(c); \
    Stream* const s = find_stream(c, handle); \
    if (!s) return CUDA_INVALID_HANDLE

Stream* find_stream(Context* c, void* handle) {
    if (!handle || handle == reinterpret_cast<void*>(1)) return &c->legacy;
    Stream* const s = static_cast<Stream*>(handle);
    return c->streams.count(s) ? s : nullptr;
}

Event* find_event(void* handle) {
    Event* const e = static_cast<Event*>(handle);
    return events.count(e) ? e : nullptr;
}

#define TRY(call) \
    do { \
        const int status = (call); \
        if (status != CUDA_SUCCESS) return status; \
    } while (false)

int wait_for(Context* c, WorkPtr work) {
    run_until(work);
    return c->error;
}

// ---- Memory ----

bool peer_allowed(const Context* c, int device) { return c->device == device || c->peers.count(device) > 0; }

// True if the bytes lie in one allocation that the context may use.
bool is_device_range(const Context* c, const void* p, size_t bytes) {
    Place place;
    return find_allocation(p, &place) && static_cast<const char*>(p) + bytes <= place.start + place.bytes && peer_allowed(c, place.device);
}

bool is_pinned(const void* p, size_t bytes) {
    char* const at = static_cast<char*>(const_cast<void*>(p));
    auto after = pinned.upper_bound(at);
    if (after == pinned.begin()) return false;
    --after;
    return at + bytes <= after->first + after->second.bytes;
}

// Waits for what may still use pinned memory, and forgets it.
bool unpin(void* p) {
    const auto found = pinned.find(static_cast<char*>(p));
    if (found == pinned.end()) return false;
    if (found->second.context) run_all(found->second.context);
    return pinned.erase(static_cast<char*>(p)) > 0;
}

bool bad_side(const Context* c, const void* p, size_t bytes, bool on_device) {
    return on_device ? !is_device_range(c, p, bytes) : !p || in_arena(p);
}

// Host memory that is not pinned is read at once and written before the call returns, as the driver
// does it; pinned memory is touched when the stream gets there.
int copy(Context* c, Stream* s, void* to, const void* from, size_t bytes, bool to_device, bool from_device) {
    if (bytes == 0) return CUDA_SUCCESS;
    if (bad_side(c, to, bytes, to_device) || bad_side(c, from, bytes, from_device)) return CUDA_INVALID_VALUE;
    const bool reads_pageable = !from_device && !is_pinned(from, bytes);
    const bool writes_pageable = !to_device && !is_pinned(to, bytes);
    if ((reads_pageable || writes_pageable) && s->capture) {
        s->capture->invalid = true;
        return CUDA_CAPTURE_UNSUPPORTED;
    }
    if (reads_pageable) {
        const char* const start = static_cast<const char*>(from);
        const auto staged = std::make_shared<std::vector<char>>(start, start + bytes);
        return submit(s, [=] {
            memcpy(to, staged->data(), bytes);
            return CUDA_SUCCESS;
        });
    }
    TRY(submit(s, [=] {
        memmove(to, from, bytes);
        return CUDA_SUCCESS;
    }));
    return writes_pageable ? wait_for(c, s->last) : CUDA_SUCCESS;
}

int copy_now(void* to, const void* from, size_t bytes, bool to_device, bool from_device) {
    WITH_CONTEXT(c);
    TRY(check_no_capture());
    TRY(copy(c, &c->legacy, to, from, bytes, to_device, from_device));
    return wait_for(c, c->legacy.last);
}

int copy_async(void* to, const void* from, size_t bytes, void* stream, bool to_device, bool from_device) {
    WITH_STREAM(c, s, stream);
    return copy(c, s, to, from, bytes, to_device, from_device);
}

template <class T> int set(Context* c, Stream* s, void* to, T value, size_t n) {
    if (n == 0) return CUDA_SUCCESS;
    if (bad_side(c, to, n * sizeof(T), true) || reinterpret_cast<uintptr_t>(to) % sizeof(T) != 0) return CUDA_INVALID_VALUE;
    return submit(s, [=] {
        std::fill_n(static_cast<T*>(to), n, value);
        return CUDA_SUCCESS;
    });
}

template <class T> int set_now(void* to, T value, size_t n) {
    WITH_CONTEXT(c);
    TRY(check_no_capture());
    TRY(set(c, &c->legacy, to, value, n));
    return wait_for(c, c->legacy.last);
}

template <class T> int set_async(void* to, T value, size_t n, void* stream) {
    WITH_STREAM(c, s, stream);
    return set(c, s, to, value, n);
}

int allocate(Context* c, void** p, size_t bytes) {
    if (bytes == 0) return CUDA_INVALID_VALUE;
    Device& d = devices[size_t(c->device)];
    if (bytes > d.total - d.used) return CUDA_OUT_OF_MEMORY;
    *p = device_alloc(bytes, c->device);
    if (!*p) return CUDA_OUT_OF_MEMORY;
    d.used += bytes;
    return CUDA_SUCCESS;
}

int release(void* p) {
    Place place;
    if (!find_allocation(p, &place) || place.start != p) return CUDA_INVALID_VALUE;
    devices[size_t(place.device)].used -= place.bytes;
    std::string why;
    if (device_free(p, &why)) return CUDA_SUCCESS;
    fprintf(stderr, "emulation: %s\n", why.c_str());
    return CUDA_ILLEGAL_ADDRESS;
}

// ---- Launch ----

int launch(Function* f, Dim grid, Dim block, Dim cluster, unsigned smem_bytes, void* stream, void** args, void** extra) {
    WITH_STREAM(c, s, stream);
    if (!f || extra || smem_bytes > f->smem_limit) return CUDA_INVALID_VALUE;
    std::vector<std::vector<char>> values;
    for (size_t i = 0; i < f->kernel->arg_sizes.size(); i++) {
        const char* const arg = static_cast<const char*>(args[i]);
        values.emplace_back(arg, arg + f->kernel->arg_sizes[i]);
        // Also the address within a tensor map.
        for (size_t at = 0; at + sizeof(void*) <= values.back().size(); at += sizeof(void*)) {
            void* pointer = nullptr;
            memcpy(&pointer, arg + at, sizeof pointer);
            Place place;
            if (in_arena(pointer) && find_allocation(pointer, &place) && !peer_allowed(c, place.device)) return CUDA_ILLEGAL_ADDRESS;
        }
    }
    launched = true;
    // Registered names live as long as the library.
    const char* const name = f->kernel->name;
    return submit(s, [=]() mutable {
        std::vector<void*> pointers;
        for (auto& v : values) pointers.push_back(v.data());
        if (cluster.x * cluster.y * cluster.z == 1) record_launch({ name, grid, block, smem_bytes, values }); // others are not replayed
        uint64_t devices = uint64_t(1) << c->device;
        for (const int peer : c->peers) devices |= uint64_t(1) << peer;
        reach(devices);
        return emu_launch(name, grid, block, cluster, smem_bytes, pointers.data(), draw_seed());
    });
}

int device_attribute(int which, int device) {
    switch (which) {
        case 1: return 1024;             // MAX_THREADS_PER_BLOCK
        case 2: case 3: return 1024;     // MAX_BLOCK_DIM_X, _Y
        case 4: return 64;               // MAX_BLOCK_DIM_Z
        case 5: return 0x7fffffff;       // MAX_GRID_DIM_X
        case 6: case 7: return 65535;    // MAX_GRID_DIM_Y, _Z
        case 8: return DEFAULT_SMEM;     // MAX_SHARED_MEMORY_PER_BLOCK
        case 10: return 32;              // WARP_SIZE
        case 12: return 65536;           // MAX_REGISTERS_PER_BLOCK
        case 13: return 1410000;         // CLOCK_RATE, kHz
        case 14: return 512;             // TEXTURE_ALIGNMENT
        case 16: return MULTIPROCESSORS; // MULTIPROCESSOR_COUNT
        case 31: return 1;               // CONCURRENT_KERNELS
        case 36: return 1215000;         // MEMORY_CLOCK_RATE, kHz
        case 37: return 5120;            // GLOBAL_MEMORY_BUS_WIDTH
        case 38: return 40 << 20;        // L2_CACHE_SIZE
        case 39: return 2048;            // MAX_THREADS_PER_MULTIPROCESSOR
        case 40: return 2;               // ASYNC_ENGINE_COUNT
        case 41: return 1;               // UNIFIED_ADDRESSING
        case 75: return capability(device) / 10; // COMPUTE_CAPABILITY_MAJOR
        case 76: return capability(device) % 10; // COMPUTE_CAPABILITY_MINOR
        case 78: return 1;               // STREAM_PRIORITIES_SUPPORTED
        case 81: return int(optin_smem(device)) + 1024; // MAX_SHARED_MEMORY_PER_MULTIPROCESSOR
        case 82: return 65536;           // MAX_REGISTERS_PER_MULTIPROCESSOR
        case 97: return int(optin_smem(device));      // MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
        case 106: return 32;             // MAX_BLOCKS_PER_MULTIPROCESSOR
        case 115: return 1;              // MEMORY_POOLS_SUPPORTED
        default: return 0;
    }
}

// A thread that runs work which other processes or ranks wait for, whatever this process's own threads do.
struct Helper {
    mutable std::atomic<bool> over{ false };
    std::thread thread{ [this] {
        while (!over) {
            {
                const std::lock_guard<std::mutex> lock(driver);
                run_urgent();
            }
            usleep(300);
        }
    } };
    ~Helper() {
        over = true;
        thread.join();
    }
};

struct Error { int code; const char *name, *text; };
constexpr Error ERRORS[] = {
    { CUDA_SUCCESS, "CUDA_SUCCESS", "no error" },
    { CUDA_INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE", "invalid argument" },
    { CUDA_OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory" },
    { CUDA_NOT_INITIALIZED, "CUDA_ERROR_NOT_INITIALIZED", "initialization error" },
    { CUDA_INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal" },
    { CUDA_INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context" },
    { CUDA_INVALID_HANDLE, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle" },
    { CUDA_NOT_FOUND, "CUDA_ERROR_NOT_FOUND", "named symbol not found" },
    { CUDA_NOT_READY, "CUDA_ERROR_NOT_READY", "device not ready" },
    { CUDA_ILLEGAL_ADDRESS, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered" },
    { CUDA_INVALID_PTX, "CUDA_ERROR_INVALID_PTX", "a PTX JIT compilation failed" },
    { CUDA_PEER_ACCESS_ALREADY_ENABLED, "CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED", "peer access is already enabled" },
    { CUDA_LAUNCH_FAILED, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure" },
    { CUDA_NOT_SUPPORTED, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported" },
    { CUDA_CAPTURE_UNSUPPORTED, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", "operation not permitted when stream is capturing" },
    { CUDA_CAPTURE_INVALIDATED, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED", "operation failed due to a previous error during capture" },
    { CUDA_CAPTURE_MERGE, "CUDA_ERROR_STREAM_CAPTURE_MERGE", "operation would result in a merge of separate capture sequences" },
    { CUDA_CAPTURE_UNMATCHED, "CUDA_ERROR_STREAM_CAPTURE_UNMATCHED", "capture was not ended in the same stream as it began" },
    { CUDA_CAPTURE_UNJOINED, "CUDA_ERROR_STREAM_CAPTURE_UNJOINED", "capturing stream has unjoined work" },
    { CUDA_CAPTURE_ISOLATION, "CUDA_ERROR_STREAM_CAPTURE_ISOLATION", "dependency created on uncaptured work in another stream" },
    { CUDA_CAPTURE_IMPLICIT, "CUDA_ERROR_STREAM_CAPTURE_IMPLICIT", "operation would make the legacy stream depend on a capturing blocking stream" },
    { CUDA_CAPTURED_EVENT, "CUDA_ERROR_CAPTURED_EVENT", "operation not permitted on an event last recorded in a capturing stream" },
    { CUDA_INVALID_CLUSTER_SIZE, "CUDA_ERROR_INVALID_CLUSTER_SIZE", "cluster misconfiguration" },
    { CUDA_CAPTURE_WRONG_THREAD, "CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD", "attempt to terminate a thread-local capture sequence from another thread" },
};
const Error* find_error(int code) {
    for (const Error& e : ERRORS) {
        if (e.code == code) return &e;
    }
    return nullptr;
}
} // namespace

// The caller holds the lock and looks at everything anew afterwards.
void emu::let_others() {
    driver.unlock();
    usleep(100);
    driver.lock();
}

#define API extern "C" __attribute__((visibility("default"))) int

// ---- Not of the driver: how tests steer it ----

extern "C" __attribute__((visibility("default"))) void emu_set_seed(uint64_t seed) {
    const std::lock_guard<std::mutex> lock(driver);
    set_seed(seed);
}

// What the stream is told to wait for from now on is passed over: an event that the program under test forgot.
extern "C" __attribute__((visibility("default"))) void emu_forget_waits(Stream* stream, int forget) {
    const std::lock_guard<std::mutex> lock(driver);
    stream->forgets = forget != 0;
}

// ---- For libnccl.so.2 (nccl.cpp) ----

// Queues work that `poll` does: a CUresult, or -1 where it waits for another process or rank. While `urgent` says that
// another process waits for it, it is run even if no thread of this process waits. `release` comes when no queue or graph holds it.
API emu_submit(void* stream, int (*poll)(void*), int (*urgent)(void*), void (*release)(void*), void* data) {
    WITH_STREAM(c, s, stream);
    static const Helper helper;
    const std::shared_ptr<void> held(data, release);
    return submit(s, [=] { return poll(held.get()); }, [=] { return urgent(held.get()) != 0; });
}
// Whether the bytes are memory of the stream's device.
API emu_is_memory_of(void* stream, const void* p, size_t bytes) {
    WITH_STREAM(c, s, stream);
    Place place;
    const bool found = find_allocation(p, &place) && static_cast<const char*>(p) + bytes <= place.start + place.bytes;
    return found && place.device == s->context->device ? CUDA_SUCCESS : CUDA_INVALID_VALUE;
}

// ---- Start, devices, contexts ----

API cuInit(unsigned) {
    const std::lock_guard<std::mutex> lock(driver);
    if (initialized) return CUDA_SUCCESS;
    initialized = true;
    print_errors = false; // cuGetErrorString tells
    devices.resize(environment("L2P_EMU_DEVICES", 1));
    for (Device& d : devices) d.total = environment("L2P_EMU_MEMORY", size_t(4) << 30);
    set_seed(environment("L2P_EMU_SEED", 0));
    return CUDA_SUCCESS;
}
API cuDriverGetVersion(int* version) { return *version = int(environment("L2P_EMU_DRIVER", 13000)), CUDA_SUCCESS; }
API cuDeviceGetCount(int* n) { return initialized ? (*n = int(devices.size()), CUDA_SUCCESS) : CUDA_NOT_INITIALIZED; }
API cuDeviceGet(int* device, int ordinal) {
    *device = ordinal;
    return valid(ordinal) ? CUDA_SUCCESS : CUDA_INVALID_DEVICE;
}
API cuDeviceGetName(char* name, int length, int device) {
    snprintf(name, size_t(length), "Emulated GPU");
    return valid(device) ? CUDA_SUCCESS : CUDA_INVALID_DEVICE;
}
API cuDeviceGetUuid_v2(unsigned char* uuid, int device) {
    memset(uuid, 0, 16);
    uuid[15] = static_cast<unsigned char>(device);
    return valid(device) ? CUDA_SUCCESS : CUDA_INVALID_DEVICE;
}
API cuDeviceGetUuid(unsigned char* uuid, int device) { return cuDeviceGetUuid_v2(uuid, device); }
API cuDeviceGetPCIBusId(char* id, int length, int device) {
    snprintf(id, size_t(length), "0000:%02x:00.0", device);
    return valid(device) ? CUDA_SUCCESS : CUDA_INVALID_DEVICE;
}
API cuDeviceTotalMem_v2(size_t* bytes, int device) {
    if (!valid(device)) return CUDA_INVALID_DEVICE;
    *bytes = devices[size_t(device)].total;
    return CUDA_SUCCESS;
}
API cuDeviceGetAttribute(int* value, int which, int device) {
    *value = device_attribute(which, device);
    return valid(device) ? CUDA_SUCCESS : CUDA_INVALID_DEVICE;
}
API cuDeviceCanAccessPeer(int* can, int device, int peer) {
    *can = device != peer;
    return valid(device) && valid(peer) ? CUDA_SUCCESS : CUDA_INVALID_DEVICE;
}
API cuDevicePrimaryCtxRetain(Context** context, int device) {
    const std::lock_guard<std::mutex> lock(driver);
    if (!initialized) return CUDA_NOT_INITIALIZED;
    if (!valid(device)) return CUDA_INVALID_DEVICE;
    Device& d = devices[size_t(device)];
    if (!d.context) {
        d.context = new Context{};
        d.context->device = device;
        d.context->legacy = Stream{ d.context, true, 0, nullptr, nullptr, {} };
    }
    d.retained++;
    *context = d.context;
    return CUDA_SUCCESS;
}
API cuDevicePrimaryCtxRelease_v2(int device) {
    const std::lock_guard<std::mutex> lock(driver);
    if (!valid(device) || devices[size_t(device)].retained == 0) return CUDA_INVALID_CONTEXT;
    devices[size_t(device)].retained--;
    return CUDA_SUCCESS;
}
API cuDevicePrimaryCtxSetFlags_v2(int device, unsigned) { return valid(device) ? CUDA_SUCCESS : CUDA_INVALID_DEVICE; }
API cuDevicePrimaryCtxGetState(int device, unsigned* flags, int* active) {
    if (!valid(device)) return CUDA_INVALID_DEVICE;
    *flags = 0;
    *active = devices[size_t(device)].retained > 0;
    return CUDA_SUCCESS;
}
// Forgets an error; streams and memory stay, unlike on a real device.
API cuDevicePrimaryCtxReset_v2(int device) {
    const std::lock_guard<std::mutex> lock(driver);
    if (!valid(device)) return CUDA_INVALID_DEVICE;
    Context* const c = devices[size_t(device)].context;
    if (c) {
        run_all(c);
        c->error = CUDA_SUCCESS;
        c->message.clear();
    }
    return CUDA_SUCCESS;
}
API cuCtxSetCurrent(Context* context) { return current_context = context, CUDA_SUCCESS; }
API cuCtxGetCurrent(Context** context) { return *context = current_context, CUDA_SUCCESS; }
API cuCtxGetDevice(int* device) {
    if (!current_context) return CUDA_INVALID_CONTEXT;
    *device = current_context->device;
    return CUDA_SUCCESS;
}
API cuCtxSynchronize() {
    WITH_CONTEXT(c);
    for (Stream* s : c->streams) {
        if (!s->capture) continue;
        s->capture->invalid = true;
        return CUDA_CAPTURE_UNSUPPORTED;
    }
    run_all(c);
    return c->error;
}
API cuCtxGetStreamPriorityRange(int* least, int* greatest) { return *least = 0, *greatest = -5, CUDA_SUCCESS; }
API cuCtxEnablePeerAccess(Context* peer, unsigned) {
    WITH_CONTEXT(c);
    if (!peer || peer == c) return CUDA_INVALID_CONTEXT;
    return c->peers.insert(peer->device).second ? CUDA_SUCCESS : CUDA_PEER_ACCESS_ALREADY_ENABLED;
}

// ---- Modules and functions. The image is not looked at: the kernels are in this library. ----

API cuModuleLoadData(Module** module, const void* image) {
    WITH_CONTEXT(c);
    TRY(check_no_capture());
    if (!image) return CUDA_INVALID_VALUE;
    if (fault("load") || (launched && fault("late-load"))) return CUDA_INVALID_PTX;
    *module = new Module{ c->device, {} };
    return c->error;
}
API cuModuleLoadDataEx(Module** module, const void* image, unsigned, int*, void**) { return cuModuleLoadData(module, image); }
API cuModuleLoadFatBinary(Module** module, const void* image) { return cuModuleLoadData(module, image); }
API cuModuleUnload(Module* module) { return delete module, CUDA_SUCCESS; }
API cuModuleGetFunction(Function** function, Module* module, const char* name) {
    const std::lock_guard<std::mutex> lock(driver);
    const Kernel* const kernel = find_kernel(name);
    if (!kernel) return CUDA_NOT_FOUND;
    *function = &module->functions.try_emplace(name, Function{ kernel, module->device }).first->second;
    return CUDA_SUCCESS;
}
API cuFuncGetAttribute(int* value, int which, Function* f) {
    const std::lock_guard<std::mutex> lock(driver);
    switch (which) {
        case 0: *value = 1024; break;              // MAX_THREADS_PER_BLOCK
        case 4: *value = 32; break;                // NUM_REGS: not known here
        case 8: *value = int(f->smem_limit); break; // MAX_DYNAMIC_SHARED_SIZE_BYTES
        default: *value = 0;
    }
    return CUDA_SUCCESS;
}
API cuFuncSetAttribute(Function* f, int which, int value) {
    const std::lock_guard<std::mutex> lock(driver);
    if (which != 8) return CUDA_SUCCESS;
    if (value < 0 || size_t(value) > optin_smem(f->device)) return CUDA_INVALID_VALUE;
    f->smem_limit = std::max(DEFAULT_SMEM, size_t(value));
    return CUDA_SUCCESS;
}
API cuFuncSetCacheConfig(Function*, int) { return CUDA_SUCCESS; }
API cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, Function* f, int threads, size_t smem_bytes) {
    const size_t by_smem = smem_bytes > 0 ? optin_smem(f->device) / smem_bytes : 32;
    return *blocks = int(std::min(by_smem, size_t(2048 / std::max(threads, 32)))), CUDA_SUCCESS;
}
API cuLaunchKernel(Function* f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned smem_bytes, void* stream, void** args, void** extra) {
    return launch(f, { gx, gy, gz }, { bx, by, bz }, { 1, 1, 1 }, smem_bytes, stream, args, extra);
}
struct LaunchAttribute { int id, padding; unsigned value[16]; };
struct LaunchConfig { Dim grid, block; unsigned smem_bytes; void* stream; const LaunchAttribute* attributes; unsigned n_attributes; };
// Of the attributes that change what a kernel may do only the extents of a cluster are emulated.
API cuLaunchKernelEx(const LaunchConfig* l, Function* f, void** args, void** extra) {
    Dim cluster = { 1, 1, 1 };
    for (unsigned i = 0; i < l->n_attributes; i++) {
        const LaunchAttribute& a = l->attributes[i];
        if (a.id != 4) return CUDA_NOT_SUPPORTED; // CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION
        cluster = { a.value[0], a.value[1], a.value[2] };
        if (capability(f->device) < 90 || cluster.x == 0 || cluster.y == 0 || cluster.z == 0) return CUDA_INVALID_VALUE;
        if (cluster.x * cluster.y * cluster.z > 8) return CUDA_INVALID_CLUSTER_SIZE; // more than every device of 9.0 has
        if (l->grid.x % cluster.x != 0 || l->grid.y % cluster.y != 0 || l->grid.z % cluster.z != 0) return CUDA_INVALID_VALUE;
    }
    return launch(f, l->grid, l->block, cluster, l->smem_bytes, l->stream, args, extra);
}

// ---- Tensor maps ----

// As the driver's documentation limits them; interleaved layouts and steps of elements are not emulated.
API cuTensorMapEncodeTiled(void* to, int type, unsigned rank, void* base, const uint64_t* sizes, const uint64_t* strides, const unsigned* box, const unsigned* steps, int interleave, int swizzle, int, int fill) {
    constexpr unsigned BYTES[] = { 1, 2, 4, 4, 8, 8, 2, 4, 8, 2, 4, 4, 4 };
    if (reinterpret_cast<uintptr_t>(to) % 64 != 0 || type < 0 || type > 12 || rank < 1 || rank > 5) return CUDA_INVALID_VALUE;
    if (reinterpret_cast<uintptr_t>(base) % 16 != 0 || swizzle < 0 || swizzle > 3 || fill < 0 || fill > 1) return CUDA_INVALID_VALUE;
    if (interleave != 0) return CUDA_NOT_SUPPORTED;
    TensorMap map = {};
    map.magic = TensorMap::MAGIC;
    map.base = reinterpret_cast<uint64_t>(base);
    map.rank = uint8_t(rank), map.element_bytes = uint8_t(BYTES[type]);
    map.swizzle = uint8_t(swizzle), map.fills_nan = uint8_t(fill);
    map.is_float = type >= 6;
    if (map.fills_nan && !map.is_float) return CUDA_INVALID_VALUE;
    for (unsigned d = 0; d < rank; d++) {
        if (sizes[d] == 0 || sizes[d] > uint64_t(1) << 32 || box[d] == 0 || box[d] > 256 || steps[d] == 0 || steps[d] > 8) return CUDA_INVALID_VALUE;
        if (d > 0 && (strides[d - 1] % 16 != 0 || strides[d - 1] >= uint64_t(1) << 40 || strides[d - 1] < (d > 1 ? strides[d - 2] : sizes[0] * map.element_bytes))) return CUDA_INVALID_VALUE;
        if (steps[d] != 1) return CUDA_NOT_SUPPORTED;
        if (d == 4) map.size_less_one_of_4 = uint32_t(sizes[4] - 1);
        else map.sizes_less_one[d / 2] |= (sizes[d] - 1) << d % 2 * 32;
        if (d > 0) map.strides[d - 1] = strides[d - 1];
        map.box[d] = uint16_t(box[d]), map.steps[d] = 1;
    }
    const unsigned row = box[0] * map.element_bytes;
    if (row % 16 != 0 || (swizzle != 0 && row > 16u << swizzle)) return CUDA_INVALID_VALUE;
    map.check = map.sum();
    memset(to, 0, 128);
    memcpy(to, &map, sizeof map);
    return CUDA_SUCCESS;
}

API cuLaunchHostFunc(void* stream, void (*function)(void*), void* data) {
    WITH_STREAM(c, s, stream);
    return submit(s, [=] { return function(data), CUDA_SUCCESS; });
}

// ---- Memory ----

API cuMemGetInfo_v2(size_t* free, size_t* total) {
    WITH_CONTEXT(c);
    const Device& d = devices[size_t(c->device)];
    return *total = d.total, *free = d.total - d.used, CUDA_SUCCESS;
}
API cuMemAlloc_v2(void** p, size_t bytes) {
    WITH_CONTEXT(c);
    TRY(check_no_capture());
    return allocate(c, p, bytes);
}
API cuMemFree_v2(void* p) {
    const std::lock_guard<std::mutex> lock(driver);
    if (!p) return CUDA_SUCCESS;
    TRY(check_no_capture());
    Place place;
    if (find_allocation(p, &place) && devices[size_t(place.device)].context) {
        run_all(devices[size_t(place.device)].context); // as the driver: everything first
    }
    return release(p);
}
API cuMemAllocAsync(void** p, size_t bytes, void* stream) {
    WITH_STREAM(c, s, stream);
    if (s->capture) return CUDA_NOT_SUPPORTED;
    return allocate(c, p, bytes);
}
API cuMemFreeAsync(void* p, void* stream) {
    WITH_STREAM(c, s, stream);
    if (s->capture) return CUDA_NOT_SUPPORTED;
    return submit(s, [=] { return release(p); });
}
API cuMemHostAlloc(void** p, size_t bytes, unsigned) {
    WITH_CONTEXT(c);
    TRY(check_no_capture());
    if (bytes == 0 || posix_memalign(p, 4096, bytes) != 0) return CUDA_INVALID_VALUE;
    memset(*p, 0xff, bytes);
    pinned[static_cast<char*>(*p)] = { bytes, c };
    return c->error;
}
API cuMemAllocHost_v2(void** p, size_t bytes) { return cuMemHostAlloc(p, bytes, 0); }
API cuMemFreeHost(void* p) {
    const std::lock_guard<std::mutex> lock(driver);
    if (!unpin(p)) return CUDA_INVALID_VALUE;
    free(p);
    return CUDA_SUCCESS;
}
API cuMemHostRegister_v2(void* p, size_t bytes, unsigned) {
    const std::lock_guard<std::mutex> lock(driver);
    return pinned[static_cast<char*>(p)] = { bytes, current_context }, CUDA_SUCCESS;
}
API cuMemHostUnregister(void* p) {
    const std::lock_guard<std::mutex> lock(driver);
    return unpin(p) ? CUDA_SUCCESS : CUDA_INVALID_VALUE;
}
API cuMemcpyHtoD_v2(void* to, const void* from, size_t bytes) { return copy_now(to, from, bytes, true, false); }
API cuMemcpyDtoH_v2(void* to, const void* from, size_t bytes) { return copy_now(to, from, bytes, false, true); }
API cuMemcpyDtoD_v2(void* to, const void* from, size_t bytes) { return copy_now(to, from, bytes, true, true); }
API cuMemcpyHtoDAsync_v2(void* to, const void* from, size_t bytes, void* stream) { return copy_async(to, from, bytes, stream, true, false); }
API cuMemcpyDtoHAsync_v2(void* to, const void* from, size_t bytes, void* stream) { return copy_async(to, from, bytes, stream, false, true); }
API cuMemcpyDtoDAsync_v2(void* to, const void* from, size_t bytes, void* stream) { return copy_async(to, from, bytes, stream, true, true); }
API cuMemcpyAsync(void* to, const void* from, size_t bytes, void* stream) {
    return copy_async(to, from, bytes, stream, in_arena(to), in_arena(from));
}
API cuMemcpyPeerAsync(void* to, Context* to_context, const void* from, Context* from_context, size_t bytes, void* stream) {
    WITH_STREAM(c, s, stream);
    if (!is_device_range(to_context, to, bytes) || !is_device_range(from_context, from, bytes)) return CUDA_INVALID_VALUE;
    return submit(s, [=] { return memmove(to, from, bytes), CUDA_SUCCESS; });
}
API cuMemsetD8_v2(void* to, unsigned char value, size_t n) { return set_now(to, value, n); }
API cuMemsetD16_v2(void* to, unsigned short value, size_t n) { return set_now(to, value, n); }
API cuMemsetD32_v2(void* to, unsigned value, size_t n) { return set_now(to, value, n); }
API cuMemsetD8Async(void* to, unsigned char value, size_t n, void* stream) { return set_async(to, value, n, stream); }
API cuMemsetD16Async(void* to, unsigned short value, size_t n, void* stream) { return set_async(to, value, n, stream); }
API cuMemsetD32Async(void* to, unsigned value, size_t n, void* stream) { return set_async(to, value, n, stream); }

// ---- Streams and events ----

API cuStreamCreateWithPriority(Stream** stream, unsigned flags, int priority) {
    WITH_CONTEXT(c);
    *stream = new Stream{ c, (flags & 1) == 0, priority, nullptr, nullptr, {} };
    c->streams.insert(*stream);
    return CUDA_SUCCESS;
}
API cuStreamCreate(Stream** stream, unsigned flags) { return cuStreamCreateWithPriority(stream, flags, 0); }
// What is queued runs at the latest with the context's next synchronisation.
API cuStreamDestroy_v2(Stream* stream) {
    const std::lock_guard<std::mutex> lock(driver);
    if (!stream || stream->context->streams.erase(stream) == 0) return CUDA_INVALID_HANDLE;
    delete stream;
    return CUDA_SUCCESS;
}
API cuStreamGetPriority(void* stream, int* priority) {
    WITH_STREAM(c, s, stream);
    return *priority = s->priority, CUDA_SUCCESS;
}
API cuStreamSynchronize(void* stream) {
    WITH_STREAM(c, s, stream);
    if (s->capture) {
        s->capture->invalid = true;
        return CUDA_CAPTURE_UNSUPPORTED;
    }
    return wait_for(c, s->last);
}
API cuStreamQuery(void* stream) {
    WITH_STREAM(c, s, stream);
    if (s->capture) return CUDA_CAPTURE_UNSUPPORTED;
    if (!s->last || s->last->done) return CUDA_SUCCESS;
    run_one();
    return c->error ? c->error : CUDA_NOT_READY;
}
API cuStreamWaitEvent(void* stream, void* event, unsigned) {
    WITH_STREAM(c, s, stream);
    Event* const e = find_event(event);
    if (e && s->forgets) return CUDA_SUCCESS;
    if (e && !e->work && !e->capture && fault("unrecorded")) return CUDA_INVALID_VALUE;
    return e ? wait_event(s, e) : CUDA_INVALID_HANDLE;
}
API cuEventCreate(Event** event, unsigned flags) {
    WITH_CONTEXT(c);
    *event = new Event{ c, (flags & 2) == 0, nullptr, nullptr, nullptr, {} };
    events.insert(*event);
    return CUDA_SUCCESS;
}
API cuEventDestroy_v2(Event* event) {
    const std::lock_guard<std::mutex> lock(driver);
    if (events.erase(event) == 0) return CUDA_INVALID_HANDLE;
    delete event;
    return CUDA_SUCCESS;
}
API cuEventRecord(void* event, void* stream) {
    WITH_STREAM(c, s, stream);
    Event* const e = find_event(event);
    return e && e->context == c ? record_event(e, s) : CUDA_INVALID_HANDLE;
}
API cuEventSynchronize(void* event) {
    WITH_CONTEXT(c);
    Event* const e = find_event(event);
    if (!e) return CUDA_INVALID_HANDLE;
    return e->capture ? CUDA_CAPTURED_EVENT : wait_for(c, e->work);
}
API cuEventQuery(void* event) {
    WITH_CONTEXT(c);
    Event* const e = find_event(event);
    if (!e) return CUDA_INVALID_HANDLE;
    if (e->capture) return CUDA_CAPTURED_EVENT;
    if (!e->work || e->work->done) return CUDA_SUCCESS;
    run_one();
    return c->error ? c->error : CUDA_NOT_READY;
}
// Drivers before 12.8 have no other.
API cuEventElapsedTime(float* ms, void* start, void* end) {
    WITH_CONTEXT(c);
    const Event *const a = find_event(start), *const b = find_event(end);
    if (!a || !b || !a->work || !b->work || !a->timing || !b->timing) return CUDA_INVALID_HANDLE;
    if (!a->work->done || !b->work->done) return CUDA_NOT_READY;
    *ms = float(*b->reached - *a->reached);
    return CUDA_SUCCESS;
}

// ---- Graphs ----

API cuStreamBeginCapture_v2(void* stream, int mode) {
    WITH_STREAM(c, s, stream);
    if (fault("capture")) return CUDA_CAPTURE_UNSUPPORTED;
    return begin_capture(s, static_cast<Mode>(mode));
}
API cuStreamEndCapture(void* stream, Graph** graph) {
    WITH_STREAM(c, s, stream);
    TRY(end_capture(s, graph));
    if (!fault("end-capture")) return CUDA_SUCCESS;
    delete *graph;
    return *graph = nullptr, CUDA_CAPTURE_INVALIDATED;
}
API cuStreamIsCapturing(void* stream, int* status) {
    WITH_STREAM(c, s, stream);
    return *status = !s->capture ? 0 : s->capture->invalid ? 2 : 1, CUDA_SUCCESS;
}
API cuGraphInstantiateWithFlags(GraphExec** exec, Graph* graph, unsigned long long) {
    if (fault("instantiate")) return CUDA_OUT_OF_MEMORY;
    *exec = new GraphExec{ *graph, nullptr };
    std::vector<Node>& nodes = (*exec)->graph.nodes;
    if (fault("replay") && !nodes.empty()) nodes[nodes.size() / 2].action = [] { return CUDA_SUCCESS; };
    return CUDA_SUCCESS;
}
API cuGraphLaunch(GraphExec* exec, void* stream) {
    WITH_STREAM(c, s, stream);
    return launch_graph(exec, s);
}
API cuGraphUpload(GraphExec*, void*) { return CUDA_SUCCESS; }
API cuGraphGetNodes(Graph* graph, void** nodes, size_t* n) {
    if (nodes) return CUDA_NOT_SUPPORTED; // only to count
    return *n = graph->nodes.size(), CUDA_SUCCESS;
}
API cuGraphDestroy(Graph* graph) { return delete graph, CUDA_SUCCESS; }
API cuGraphExecDestroy(GraphExec* exec) { return delete exec, CUDA_SUCCESS; }

// ---- Errors and entry points ----

API cuGetErrorName(int code, const char** text) {
    const Error* const e = find_error(code);
    return *text = e ? e->name : nullptr, e ? CUDA_SUCCESS : CUDA_INVALID_VALUE;
}
// After a failed launch also what the emulation saw.
API cuGetErrorString(int code, const char** text) {
    static thread_local std::string sentence;
    const Error* const e = find_error(code);
    if (!e) return *text = nullptr, CUDA_INVALID_VALUE;
    sentence = e->text;
    const std::lock_guard<std::mutex> lock(driver);
    const Context* const c = current_context;
    if ((code == CUDA_LAUNCH_FAILED || code == CUDA_ILLEGAL_ADDRESS) && c && !c->message.empty()) sentence += ": " + c->message;
    return *text = sentence.c_str(), CUDA_SUCCESS;
}
API cuGetProcAddress_v2(const char* symbol, void** function, int, uint64_t, int* status) {
    *function = nullptr;
    for (const char* suffix : { "_v2", "" }) {
        if (!*function) *function = dlsym(RTLD_DEFAULT, (std::string(symbol) + suffix).c_str());
    }
    if (status) *status = *function ? 0 : 1;
    return *function ? CUDA_SUCCESS : CUDA_NOT_FOUND;
}
