// Inline PTX of sm_90a: mbarriers, tensor memory access (TMA), warpgroup products (wgmma). The host emulation
// (tests/emulation/hopper_emu.h) supplies the same functions. Nothing is here for other targets.
//
// Sources: PTX ISA 9.0; the layouts of matrix descriptors are those of CUTLASS 3, mma_traits_sm90_gmma.hpp.
#pragma once
#include <type_traits>

#include "common.cuh"
#include "ptx.cuh"

#if defined(L2P_EMU) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
#ifdef L2P_EMU
#include "hopper_emu.h"
#else

// A tensor map of cuTensorMapEncodeTiled, which kernels take as `const __grid_constant__ CUtensorMap`.
struct alignas(128) CUtensorMap { uint64_t opaque[16]; };

// ---- mbarriers: a phase is complete after `count` arrivals and all bytes that were announced ----

__device__ __forceinline__ void mbarrier_init(uint64_t* barrier, unsigned count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(smem_address(barrier)), "r"(count) : "memory");
}
// Before copies use the barriers that this thread initialised; other threads see them after a barrier.
__device__ __forceinline__ void fence_mbarrier_init() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
__device__ __forceinline__ void mbarrier_arrive(uint64_t* barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(smem_address(barrier)) : "memory");
}
// Arrives, and announces bytes that copies will bring.
__device__ __forceinline__ void mbarrier_arrive_expect_tx(uint64_t* barrier, unsigned bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(smem_address(barrier)), "r"(bytes) : "memory");
}
// Waits until the phase of this parity is over: 0 for the first phase; 1 returns at once during it. A wait of several
// seconds means that nobody will arrive: it ends the kernel with an error.
__device__ __forceinline__ void mbarrier_wait(uint64_t* barrier, unsigned parity) {
    const uint32_t at = smem_address(barrier);
    for (unsigned polls = 0; polls < 1u << 26; polls++) {
        uint32_t over;
        asm volatile("{ .reg .pred p;\n"
                     "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
                     "selp.u32 %0, 1, 0, p; }"
                     : "=r"(over) : "r"(at), "r"(parity) : "memory");
        if (over != 0) return;
    }
    __trap();
}

// ---- Clusters: blocks that are launched together, see each other's shared memory and barriers ----

// The block's number in its cluster.
__device__ __forceinline__ unsigned cluster_rank() {
    uint32_t rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}
// A barrier of all threads of the cluster. One stands between the initialisation of mbarriers and their use by other blocks, and one
// before a block ends whose shared memory others may use.
__device__ __forceinline__ void cluster_sync() {
    asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}
// Arrives at the mbarrier of block `rank` that lies where `barrier` lies in this one.
__device__ __forceinline__ void mbarrier_arrive_at(uint64_t* barrier, unsigned rank) {
    asm volatile("{ .reg .b32 there;\n"
                 "mapa.shared::cluster.u32 there, %0, %1;\n"
                 "mbarrier.arrive.release.cluster.shared::cluster.b64 _, [there]; }"
                 ::"r"(smem_address(barrier)), "r"(rank) : "memory");
}

// A barrier of `threads` threads, a multiple of 32: 1 to 15. 0 is __syncthreads.
__device__ __forceinline__ void named_barrier_sync(unsigned id, unsigned threads) {
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// Registers per thread, by all warps of a warpgroup: more, when others have given some back, or fewer.
template <unsigned N> __device__ __forceinline__ void set_max_registers_inc() { asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N)); }
template <unsigned N> __device__ __forceinline__ void set_max_registers_dec() { asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N)); }

// ---- TMA. Coordinates in elements, the contiguous dimension first; outside of the tensor zeros are read and nothing is written.
// Shared addresses are multiples of 128 bytes, with the 128-byte swizzle of 1024. ----

__device__ __forceinline__ void prefetch_tensor_map(const CUtensorMap* map) {
    asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}
// Copies a box to shared memory in the background and then takes its bytes from those that `barrier` waits for.
__device__ __forceinline__ void tma_load_2d(void* to, const CUtensorMap* map, uint64_t* barrier, int x, int y) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];"
                 ::"r"(smem_address(to)), "l"(map), "r"(smem_address(barrier)), "r"(x), "r"(y) : "memory");
}
// The same to the place and the mbarrier of the same offsets in all blocks of the cluster of which `blocks` has a bit.
__device__ __forceinline__ void tma_load_2d_multicast(void* to, const CUtensorMap* map, uint64_t* barrier, int x, int y, uint16_t blocks) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster "
                 "[%0], [%1, {%3, %4}], [%2], %5;"
                 ::"r"(smem_address(to)), "l"(map), "r"(smem_address(barrier)), "r"(x), "r"(y), "h"(blocks) : "memory");
}
__device__ __forceinline__ void tma_load_3d(void* to, const CUtensorMap* map, uint64_t* barrier, int x, int y, int z) {
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], [%2];"
                 ::"r"(smem_address(to)), "l"(map), "r"(smem_address(barrier)), "r"(x), "r"(y), "r"(z) : "memory");
}
// Copies a box from shared memory in the background, as a part of this thread's next group.
__device__ __forceinline__ void tma_store_2d(const CUtensorMap* map, const void* from, int x, int y) {
    asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%0, {%2, %3}], [%1];"
                 ::"l"(map), "r"(smem_address(from)), "r"(x), "r"(y) : "memory");
}
__device__ __forceinline__ void bulk_commit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
// Waits until at most N groups of this thread are under way, or until at most N still read shared memory.
template <int N> __device__ __forceinline__ void bulk_wait() { asm volatile("cp.async.bulk.wait_group %0;" ::"n"(N) : "memory"); }
template <int N> __device__ __forceinline__ void bulk_wait_read() { asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(N) : "memory"); }
// Before TMA or wgmma use what this thread stored to shared memory; a barrier follows where another thread starts them.
__device__ __forceinline__ void fence_proxy_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// ---- wgmma, by all 128 threads of a warpgroup ----

// Before the first wgmma, and after registers that it uses were written.
__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Waits until at most N groups are under way. Until then nobody touches their registers and operands.
template <int N> __device__ __forceinline__ void wgmma_wait() { asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory"); }

#define WGMMA_NAMES_0 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define WGMMA_NAMES_1 "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define WGMMA_NAMES_2 "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define WGMMA_NAMES_96 "%96, %97, %98, %99, %100, %101, %102, %103"
#define WGMMA_NAMES_104 "%104, %105, %106, %107, %108, %109, %110, %111"
#define WGMMA_NAMES_112 "%112, %113, %114, %115, %116, %117, %118, %119"
#define WGMMA_NAMES_120 "%120, %121, %122, %123, %124, %125, %126, %127"
#define WGMMA_NAMES_3 WGMMA_NAMES_96 ", " WGMMA_NAMES_104 ", " WGMMA_NAMES_112 ", " WGMMA_NAMES_120
#define WGMMA_8(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), "+f"(d[i + 7])
#define WGMMA_32(i) WGMMA_8(i), WGMMA_8(i + 8), WGMMA_8(i + 16), WGMMA_8(i + 24)
// The instruction for one N: the names of the sums, the numbers of the operands behind them, the sums.
#define WGMMA(N, TYPE, NAMES, A, B, P, TA, TB, ...) \
    asm volatile("{ .reg .pred p;\nsetp.ne.b32 p, %" P ", 0;\n" \
                 "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." TYPE "." TYPE " {" NAMES "}, %" A ", %" B ", p, 1, 1, %" TA ", %" TB "; }" \
                 : __VA_ARGS__ : "l"(desc_a), "l"(desc_b), "r"(int(accumulate)), "n"(int(A_OUTER)), "n"(int(B_OUTER)))
#define WGMMA_REGISTERS(N, TYPE, NAMES, A0, A1, A2, A3, B, P, TB, ...) \
    asm volatile("{ .reg .pred p;\nsetp.ne.b32 p, %" P ", 0;\n" \
                 "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." TYPE "." TYPE " {" NAMES "}, {%" A0 ", %" A1 ", %" A2 ", %" A3 "}, %" B ", p, 1, 1, %" TB "; }" \
                 : __VA_ARGS__ : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(desc_b), "r"(int(accumulate)), "n"(int(B_OUTER)))

// d (64, N, f32) = a (64, 16) b (16, N), added to d with `accumulate`; T = bf16 or f16. Warp w of the warpgroup holds rows
// 16 w and on: d[4 j + 2 h + e] is row lane/4 + 8 h, column 8 j + 2 (lane%4) + e. `A` and `B`: which index is contiguous in
// shared memory, described by matrix descriptors.
template <class T, unsigned N, Inner A, Inner B>
__device__ __forceinline__ void wgmma(float (&d)[N / 2], uint64_t desc_a, uint64_t desc_b, bool accumulate) {
    static_assert(N == 64 || N == 128 || N == 192 || N == 208 || N == 224 || N == 240 || N == 256);
    constexpr bool IS_BF16 = std::is_same<T, bf16>::value, A_OUTER = A == Inner::Outer, B_OUTER = B == Inner::Outer;
    if constexpr (IS_BF16 && N == 64) WGMMA(64, "bf16", WGMMA_NAMES_0, "32", "33", "34", "35", "36", WGMMA_32(0));
    else if constexpr (N == 64) WGMMA(64, "f16", WGMMA_NAMES_0, "32", "33", "34", "35", "36", WGMMA_32(0));
    else if constexpr (IS_BF16 && N == 128) WGMMA(128, "bf16", WGMMA_NAMES_0 ", " WGMMA_NAMES_1, "64", "65", "66", "67", "68", WGMMA_32(0), WGMMA_32(32));
    else if constexpr (N == 128) WGMMA(128, "f16", WGMMA_NAMES_0 ", " WGMMA_NAMES_1, "64", "65", "66", "67", "68", WGMMA_32(0), WGMMA_32(32));
    else if constexpr (IS_BF16 && N == 192) WGMMA(192, "bf16", WGMMA_NAMES_0 ", " WGMMA_NAMES_1 ", " WGMMA_NAMES_2, "96", "97", "98", "99", "100", WGMMA_32(0), WGMMA_32(32), WGMMA_32(64));
    else if constexpr (N == 192) WGMMA(192, "f16", WGMMA_NAMES_0 ", " WGMMA_NAMES_1 ", " WGMMA_NAMES_2, "96", "97", "98", "99", "100", WGMMA_32(0), WGMMA_32(32), WGMMA_32(64));
    else if constexpr (IS_BF16 && N == 208) WGMMA(208, "bf16", WGMMA_NAMES_0 ", " WGMMA_NAMES_1 ", " WGMMA_NAMES_2 ", " WGMMA_NAMES_96, "104", "105", "106", "107", "108", WGMMA_32(0), WGMMA_32(32), WGMMA_32(64), WGMMA_8(96));
    else if constexpr (N == 208) WGMMA(208, "f16", WGMMA_NAMES_0 ", " WGMMA_NAMES_1 ", " WGMMA_NAMES_2 ", " WGMMA_NAMES_96, "104", "105", "106", "107", "108", WGMMA_32(0), WGMMA_32(32), WGMMA_32(64), WGMMA_8(96));
    else if constexpr (IS_BF16 && N == 224) WGMMA(224, "bf16", WGMMA_NAMES_0 ", " WGMMA_NAMES_1 ", " WGMMA_NAMES_2 ", " WGMMA_NAMES_96 ", " WGMMA_NAMES_104, "112", "113", "114", "115", "116", WGMMA_32(0), WGMMA_32(32), WGMMA_32(64), WGMMA_8(96), WGMMA_8(104));
    else if constexpr (N == 224) WGMMA(224, "f16", WGMMA_NAMES_0 ", " WGMMA_NAMES_1 ", " WGMMA_NAMES_2 ", " WGMMA_NAMES_96 ", " WGMMA_NAMES_104, "112", "113", "114", "115", "116", WGMMA_32(0), WGMMA_32(32), WGMMA_32(64), WGMMA_8(96), WGMMA_8(104));
    else if constexpr (IS_BF16 && N == 240) WGMMA(240, "bf16", WGMMA_NAMES_0 ", " WGMMA_NAMES_1 ", " WGMMA_NAMES_2 ", " WGMMA_NAMES_96 ", " WGMMA_NAMES_104 ", " WGMMA_NAMES_112, "120", "121", "122", "123", "124", WGMMA_32(0), WGMMA_32(32), WGMMA_32(64), WGMMA_8(96), WGMMA_8(104), WGMMA_8(112));
    else if constexpr (N == 240) WGMMA(240, "f16", WGMMA_NAMES_0 ", " WGMMA_NAMES_1 ", " WGMMA_NAMES_2 ", " WGMMA_NAMES_96 ", " WGMMA_NAMES_104 ", " WGMMA_NAMES_112, "120", "121", "122", "123", "124", WGMMA_32(0), WGMMA_32(32), WGMMA_32(64), WGMMA_8(96), WGMMA_8(104), WGMMA_8(112));
    else if constexpr (IS_BF16 && N == 256) WGMMA(256, "bf16", WGMMA_NAMES_0 ", " WGMMA_NAMES_1 ", " WGMMA_NAMES_2 ", " WGMMA_NAMES_3, "128", "129", "130", "131", "132", WGMMA_32(0), WGMMA_32(32), WGMMA_32(64), WGMMA_32(96));
    else if constexpr (N == 256) WGMMA(256, "f16", WGMMA_NAMES_0 ", " WGMMA_NAMES_1 ", " WGMMA_NAMES_2 ", " WGMMA_NAMES_3, "128", "129", "130", "131", "132", WGMMA_32(0), WGMMA_32(32), WGMMA_32(64), WGMMA_32(96));
}
// The same with a in registers, as mma_16816 takes it, for the warp's 16 rows.
template <class T, unsigned N, Inner B>
__device__ __forceinline__ void wgmma(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t desc_b, bool accumulate) {
    static_assert(N == 64 || N == 128 || N == 192 || N == 256);
    constexpr bool IS_BF16 = std::is_same<T, bf16>::value, B_OUTER = B == Inner::Outer;
    if constexpr (IS_BF16 && N == 64) WGMMA_REGISTERS(64, "bf16", WGMMA_NAMES_0, "32", "33", "34", "35", "36", "37", "38", WGMMA_32(0));
    else if constexpr (N == 64) WGMMA_REGISTERS(64, "f16", WGMMA_NAMES_0, "32", "33", "34", "35", "36", "37", "38", WGMMA_32(0));
    else if constexpr (IS_BF16 && N == 128) WGMMA_REGISTERS(128, "bf16", WGMMA_NAMES_0 ", " WGMMA_NAMES_1, "64", "65", "66", "67", "68", "69", "70", WGMMA_32(0), WGMMA_32(32));
    else if constexpr (N == 128) WGMMA_REGISTERS(128, "f16", WGMMA_NAMES_0 ", " WGMMA_NAMES_1, "64", "65", "66", "67", "68", "69", "70", WGMMA_32(0), WGMMA_32(32));
    else if constexpr (IS_BF16 && N == 192) WGMMA_REGISTERS(192, "bf16", WGMMA_NAMES_0 ", " WGMMA_NAMES_1 ", " WGMMA_NAMES_2, "96", "97", "98", "99", "100", "101", "102", WGMMA_32(0), WGMMA_32(32), WGMMA_32(64));
    else if constexpr (N == 192) WGMMA_REGISTERS(192, "f16", WGMMA_NAMES_0 ", " WGMMA_NAMES_1 ", " WGMMA_NAMES_2, "96", "97", "98", "99", "100", "101", "102", WGMMA_32(0), WGMMA_32(32), WGMMA_32(64));
    else if constexpr (IS_BF16 && N == 256) WGMMA_REGISTERS(256, "bf16", WGMMA_NAMES_0 ", " WGMMA_NAMES_1 ", " WGMMA_NAMES_2 ", " WGMMA_NAMES_3, "128", "129", "130", "131", "132", "133", "134", WGMMA_32(0), WGMMA_32(32), WGMMA_32(64), WGMMA_32(96));
    else if constexpr (N == 256) WGMMA_REGISTERS(256, "f16", WGMMA_NAMES_0 ", " WGMMA_NAMES_1 ", " WGMMA_NAMES_2 ", " WGMMA_NAMES_3, "128", "129", "130", "131", "132", "133", "134", WGMMA_32(0), WGMMA_32(32), WGMMA_32(64), WGMMA_32(96));
}
#undef WGMMA_NAMES_0
#undef WGMMA_NAMES_1
#undef WGMMA_NAMES_2
#undef WGMMA_NAMES_3
#undef WGMMA_NAMES_96
#undef WGMMA_NAMES_104
#undef WGMMA_NAMES_112
#undef WGMMA_NAMES_120
#undef WGMMA_8
#undef WGMMA_32
#undef WGMMA
#undef WGMMA_REGISTERS
#endif

// The matrix descriptor of an operand in rows of 128 bytes with the 128-byte swizzle, 16 deep from `first` on.
//
// Contiguous depth: a row is 64 of the depth; `stride` bytes lie between 8 rows and the next 8, `leading` is not used; 16
// deeper is 32 bytes further on. Contiguous outer index: a row is 64 of the outer index at one depth; `leading`
// bytes lie between 64 of them and the next 64, `stride` between 8 of the depth and the next 8; 16 deeper is 2 `stride` further on.
__device__ __forceinline__ uint64_t matrix_descriptor(const void* first, unsigned leading, unsigned stride) {
    return uint64_t((smem_address(first) & 0x3ffff) >> 4) | uint64_t(leading >> 4) << 16 | uint64_t(stride >> 4) << 32 | uint64_t(1) << 62;
}
#endif
