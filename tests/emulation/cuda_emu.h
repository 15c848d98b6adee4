// The part of CUDA C++ that kernels/ uses, for the host compiler. Included by common.cuh when L2P_EMU
// is defined; `ptx_emu.h` adds what ptx.cuh wraps. Threads of a block are fibers (emu.cpp); a
// collective is computed for all lanes by the last one to arrive.
#pragma once
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
#define __constant__ const
#define __grid_constant__

// Collectives touch what other lanes posted. ThreadSanitizer must not take that for the kernel's own
// access, and must not see it ordered either, so they are compiled without it. (A lambda inside of one
// would be compiled with it.)
#ifdef EMU_TSAN
#define EMU_UNSEEN __attribute__((no_sanitize("thread"), noinline))
#else
#define EMU_UNSEEN inline
#endif

struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(8) uint2 { unsigned x, y; };
struct uint3 { unsigned x, y, z; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(8) int2 { int x, y; };
struct alignas(16) int4 { int x, y, z, w; };
struct alignas(4) uchar4 { unsigned char x, y, z, w; };
inline float2 make_float2(float x, float y) { return { x, y }; }
inline float4 make_float4(float x, float y, float z, float w) { return { x, y, z, w }; }
inline uint2 make_uint2(unsigned x, unsigned y) { return { x, y }; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return { x, y, z, w }; }
inline int2 make_int2(int x, int y) { return { x, y }; }
inline int4 make_int4(int x, int y, int z, int w) { return { x, y, z, w }; }

namespace emu {

// Where in the source a thread waits.
struct Site {
    const char* file;
    int line;
    bool operator!=(const Site& o) const { return line != o.line || (file != o.file && strcmp(file, o.file) != 0); }
};
#define EMU_HERE const char *file = __builtin_FILE(), int line = __builtin_LINE()

// One 16-byte copy of cp.async that has not landed.
struct Copy { void* to; const void* from; bool valid; };

enum class Op {
    None, Shuffle, Vote, SyncWarp, LdMatrix, LdMatrixTrans, Mma, SyncThreads,
    // Of hopper_emu.h.
    Wgmma, WgmmaFence, WgmmaCommit, WgmmaWait, MaxRegisters, NamedBarrier, Mbarrier, ClusterSync,
};

struct Lane {
    uint3 thread;
    unsigned linear, warp, lane;
    unsigned block; // in its cluster
    bool done;
    Op op; // what it waits for, with whom, where, and its arguments
    uint32_t mask;
    Site site;
    const void* post;
    std::vector<Copy> copies;    // since the last commit
    std::vector<std::vector<Copy>> groups; // committed, oldest first
};

struct Dim { unsigned x, y, z; };

extern Lane* current;
extern Lane* lanes;
extern Dim block_index, block_dim, grid_dim;

// Ends the launch with an error that names kernel, block and thread.
[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));
// Waits for all lanes of `mask`. True for the last one, which computes and then calls `warp_release`.
bool warp_arrive(Op op, uint32_t mask, const void* post, Site site);
void warp_release(uint32_t mask);
void sync_warp(uint32_t mask, Site site);
void sync_threads(Site site);
// The copies of the current thread. Not inline: ThreadSanitizer must not take this for the kernel's own access.
void begin_copy(const Copy& copy);
void commit_copies();
// The next copy to land so that at most `most` groups stay under way; false when there is none.
bool next_copy(size_t most, Copy* copy);
// A point where the schedule may go on with another thread.
void preempt();
unsigned char* dynamic_smem();
// The same array for all threads of a block, and for each `key` another.
void* static_smem(const void* key, size_t bytes);
bool is_shared(const void* p, size_t bytes);
bool is_global(const void* p, size_t bytes);
// Ends the launch where the bytes lie beside an allocation of the device or an array in shared memory. `code`: an
// address in the code that does the access, or null.
void check_access(const void* p, size_t bytes, bool write, void* code);
// " (file:line from file:line…)" of an address in a kernel's code, innermost first; nothing without addr2line.
std::string line_of(void* code);

inline Lane& lane_of(unsigned l) { return lanes[current->warp * 32 + l]; }
template <class P> const P& posted(unsigned l) { return *static_cast<const P*>(lane_of(l).post); }

struct Shuffle { uint64_t in; unsigned from; uint64_t* out; };
static EMU_UNSEEN uint64_t shuffle(uint32_t mask, uint64_t value, unsigned from, Site site) {
    uint64_t out = 0;
    const Shuffle mine = { value, from, &out };
    if (warp_arrive(Op::Shuffle, mask, &mine, site)) {
        for (uint32_t m = mask; m != 0; m &= m - 1) {
            const Shuffle& p = posted<Shuffle>(unsigned(__builtin_ctz(m)));
            if (!(mask >> p.from & 1)) fail("a shuffle reads lane %u, which is not in its mask %08x (%s:%d)", p.from, mask, site.file, site.line);
            *p.out = posted<Shuffle>(p.from).in;
        }
        warp_release(mask);
    }
    return out;
}
template <class T> inline T shuffle_of(uint32_t mask, T value, unsigned from, Site site) {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8);
    uint64_t bits = 0;
    memcpy(&bits, &value, sizeof(T));
    bits = shuffle(mask, bits, from, site);
    memcpy(&value, &bits, sizeof(T));
    return value;
}

struct Vote { bool yes; uint32_t* out; };
static EMU_UNSEEN uint32_t ballot(uint32_t mask, bool yes, Site site) {
    uint32_t out = 0;
    const Vote mine = { yes, &out };
    if (warp_arrive(Op::Vote, mask, &mine, site)) {
        uint32_t all = 0;
        for (uint32_t m = mask; m != 0; m &= m - 1) {
            const unsigned l = unsigned(__builtin_ctz(m));
            all |= uint32_t(posted<Vote>(l).yes) << l;
        }
        for (uint32_t m = mask; m != 0; m &= m - 1) *posted<Vote>(unsigned(__builtin_ctz(m))).out = all;
        warp_release(mask);
    }
    return out;
}

// The registry: kernels by name, launched with cuLaunchKernel's array of pointers to arguments.
struct Kernel {
    const char* name;
    void (*call)(void** args);
    std::vector<size_t> arg_sizes;
};
struct Register { explicit Register(Kernel kernel); };
const Kernel* find_kernel(const char* name);
std::vector<std::string> kernel_names();

// An argument as a kernel gets it: at an address that its type asks for.
template <class A> A copy_of(const void* from) {
    A value;
    memcpy(&value, from, sizeof value);
    return value;
}
template <auto F> struct Unpack;
template <class... A, void (*F)(A...)> struct Unpack<F> {
    template <size_t... I> static void call_with(void** args, std::index_sequence<I...>) {
        F(copy_of<std::remove_cv_t<A>>(args[I])...);
    }
    static void call(void** args) { call_with(args, std::index_sequence_for<A...>{}); }
    static std::vector<size_t> arg_sizes() { return { sizeof(A)... }; }
};
} // namespace emu

#define EXPORT(name) static const emu::Register registered_##name({ #name, &emu::Unpack<&name>::call, emu::Unpack<&name>::arg_sizes() });
#define SMEM(T, name, N) \
    static char name##_key; \
    T(&name)[N] = *static_cast<T(*)[N]>(emu::static_smem(&name##_key, sizeof(T) * (N)))
#define DYN_SMEM(name) unsigned char* const name = emu::dynamic_smem()

#define threadIdx (emu::current->thread)
#define blockIdx (emu::block_index)
#define blockDim (emu::block_dim)
#define gridDim (emu::grid_dim)

inline void __syncthreads(EMU_HERE) { emu::sync_threads({ file, line }); }
inline void __syncwarp(uint32_t mask = ~0u, EMU_HERE) { emu::sync_warp(mask, { file, line }); }
template <class T> inline T __shfl_sync(uint32_t mask, T v, int from, int width = 32, EMU_HERE) {
    const unsigned first = emu::current->lane & ~unsigned(width - 1);
    return emu::shuffle_of(mask, v, first + (unsigned(from) & unsigned(width - 1)), { file, line });
}
template <class T> inline T __shfl_xor_sync(uint32_t mask, T v, int bits, int width = 32, EMU_HERE) {
    const unsigned l = emu::current->lane, from = l ^ unsigned(bits);
    return emu::shuffle_of(mask, v, from / unsigned(width) > l / unsigned(width) ? l : from, { file, line });
}
template <class T> inline T __shfl_down_sync(uint32_t mask, T v, unsigned by, int width = 32, EMU_HERE) {
    const unsigned l = emu::current->lane;
    return emu::shuffle_of(mask, v, l % unsigned(width) + by < unsigned(width) ? l + by : l, { file, line });
}
template <class T> inline T __shfl_up_sync(uint32_t mask, T v, unsigned by, int width = 32, EMU_HERE) {
    const unsigned l = emu::current->lane;
    return emu::shuffle_of(mask, v, l % unsigned(width) >= by ? l - by : l, { file, line });
}
inline unsigned __ballot_sync(uint32_t mask, int yes, EMU_HERE) { return emu::ballot(mask, yes != 0, { file, line }); }
inline int __any_sync(uint32_t mask, int yes, EMU_HERE) { return emu::ballot(mask, yes != 0, { file, line }) != 0; }
inline int __all_sync(uint32_t mask, int yes, EMU_HERE) { return emu::ballot(mask, yes != 0, { file, line }) == mask; }

// Atomics. Blocks run one after the other on one thread of the host, so plain code is atomic; the
// builtins are for ThreadSanitizer. ThreadSanitizer does not model fences, so every atomic orders what comes before and after.
namespace emu {
template <class F> inline uint32_t atomic(uint32_t* p, F next) {
    uint32_t old = __atomic_load_n(p, __ATOMIC_RELAXED);
    while (!__atomic_compare_exchange_n(p, &old, next(old), false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED)) {}
    preempt();
    return old;
}
} // namespace emu
inline unsigned atomicAdd(unsigned* p, unsigned v) { return emu::atomic(p, [=](unsigned o) { return o + v; }); }
inline unsigned atomicMax(unsigned* p, unsigned v) { return emu::atomic(p, [=](unsigned o) { return o > v ? o : v; }); }
inline unsigned atomicMin(unsigned* p, unsigned v) { return emu::atomic(p, [=](unsigned o) { return o < v ? o : v; }); }
inline unsigned atomicOr(unsigned* p, unsigned v) { return emu::atomic(p, [=](unsigned o) { return o | v; }); }
inline unsigned atomicExch(unsigned* p, unsigned v) { return emu::atomic(p, [=](unsigned) { return v; }); }
inline unsigned atomicInc(unsigned* p, unsigned top) { return emu::atomic(p, [=](unsigned o) { return o >= top ? 0 : o + 1; }); }
inline unsigned atomicCAS(unsigned* p, unsigned expected, unsigned v) { return emu::atomic(p, [=](unsigned o) { return o == expected ? v : o; }); }
inline void __trap() { emu::fail("__trap"); }
inline void __threadfence() { emu::preempt(); }
inline void __threadfence_block() { emu::preempt(); }
template <class T> inline T __ldg(const T* p) { return *p; }

// Arithmetic. The host compiler must not contract a product and a sum where the source does not say so.
inline float rsqrtf(float x) { return 1.f / sqrtf(x); }
inline float __expf(float x) { return expf(x); }
inline float __logf(float x) { return logf(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __frcp_rn(float x) { return 1.f / x; }
inline float __fsqrt_rn(float x) { return sqrtf(x); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline int __clz(int x) { return x ? __builtin_clz(unsigned(x)) : 32; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned(uint64_t(a) * b >> 32); }
template <class To, class From> inline To emu_bits(From x) { To y; static_assert(sizeof(To) == sizeof(From)); memcpy(&y, &x, sizeof(To)); return y; }
inline unsigned __float_as_uint(float x) { return emu_bits<unsigned>(x); }
inline float __uint_as_float(unsigned x) { return emu_bits<float>(x); }
inline int __float_as_int(float x) { return emu_bits<int>(x); }
inline float __int_as_float(int x) { return emu_bits<float>(x); }
template <class T> inline constexpr std::enable_if_t<std::is_arithmetic_v<T>, T> min(T a, T b) { return b < a ? b : a; }
template <class T> inline constexpr std::enable_if_t<std::is_arithmetic_v<T>, T> max(T a, T b) { return a < b ? b : a; }
inline constexpr unsigned min(unsigned a, int b) { return min(a, unsigned(b)); }
inline constexpr unsigned max(unsigned a, int b) { return max(a, unsigned(b)); }
inline constexpr unsigned min(int a, unsigned b) { return min(unsigned(a), b); }
inline constexpr unsigned max(int a, unsigned b) { return max(unsigned(a), b); }
#define CUDART_INF_F INFINITY
#define CUDART_NAN_F NAN

// 16-bit numbers. No arithmetic: kernels convert to f32 first.
struct alignas(2) bf16 { uint16_t bits; };
struct alignas(2) f16 { uint16_t bits; };
inline float to_f32(bf16 x) { return emu_bits<float>(uint32_t(x.bits) << 16); }
// The exponent's bias is 15 instead of 127; exact, and faster than the library that _Float16 calls.
inline float to_f32(f16 x) {
    const uint32_t sign = uint32_t(x.bits & 0x8000u) << 16, rest = uint32_t(x.bits & 0x7fffu) << 13;
    if (rest >= 0x7c00u << 13) return emu_bits<float>(sign | rest | 0x7f800000u);
    return emu_bits<float>(sign | emu_bits<uint32_t>(emu_bits<float>(rest) * 0x1p112f));
}
template <class T> inline T from_f32(float x);
template <> inline bf16 from_f32<bf16>(float x) { // to nearest, ties to even
    const uint32_t u = emu_bits<uint32_t>(x);
    if (x != x) return { 0x7fff };
    return { uint16_t((u + 0x7fff + (u >> 16 & 1)) >> 16) };
}
template <> inline f16 from_f32<f16>(float x) { return x != x ? f16{ 0x7fff } : f16{ emu_bits<uint16_t>(_Float16(x)) }; }
template <class T> inline uint32_t pack(float lo, float hi) {
    return from_f32<T>(lo).bits | uint32_t(from_f32<T>(hi).bits) << 16;
}
template <class T> inline float2 unpack(uint32_t two) {
    return { to_f32(T{ uint16_t(two) }), to_f32(T{ uint16_t(two >> 16) }) };
}

// Runs a kernel. `args` as for cuLaunchKernel; seed 0 runs blocks and threads in order, any other one in
// an order of its own. The blocks of a cluster run side by side. 0, or a driver error code with the sentence in `emu_message`.
extern "C" __attribute__((visibility("default"))) int emu_launch(const char* name, emu::Dim grid, emu::Dim block, emu::Dim cluster, unsigned smem_bytes, void** args, uint64_t seed);
extern "C" __attribute__((visibility("default"))) const char* emu_message();
