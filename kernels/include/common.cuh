// What every kernel uses: types, conversion, 16-byte loads, reductions in a fixed order.
//
// Under L2P_EMU the language itself comes from tests/emulation/cuda_emu.h; everything below the
// first block is the same text for both compilers.
#pragma once

#ifdef L2P_EMU
#include "cuda_emu.h"
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <math_constants.h>
#include <stddef.h>
#include <stdint.h>

typedef __nv_bfloat16 bf16;
typedef __half f16;

// Nothing here; the emulation registers the kernel under its name.
#define EXPORT(name)
// Static shared memory: an array of N.
#define SMEM(T, name, N) __shared__ __align__(128) T name[N]
// The block's dynamic shared memory, in bytes.
#define DYN_SMEM(name) extern __shared__ __align__(1024) unsigned char name[]

__device__ __forceinline__ float to_f32(bf16 x) { return __bfloat162float(x); }
__device__ __forceinline__ float to_f32(f16 x) { return __half2float(x); }
template <class T> __device__ __forceinline__ T from_f32(float x);
template <> __device__ __forceinline__ bf16 from_f32<bf16>(float x) { return __float2bfloat16_rn(x); }
template <> __device__ __forceinline__ f16 from_f32<f16>(float x) { return __float2half_rn(x); }

// Two 16-bit numbers in one register, `lo` in the low half, as mma operands hold them.
template <class T> __device__ __forceinline__ uint32_t pack(float lo, float hi);
template <> __device__ __forceinline__ uint32_t pack<bf16>(float lo, float hi) {
    const __nv_bfloat162 v = __floats2bfloat162_rn(lo, hi);
    return *reinterpret_cast<const uint32_t*>(&v);
}
template <> __device__ __forceinline__ uint32_t pack<f16>(float lo, float hi) {
    const __half2 v = __floats2half2_rn(lo, hi);
    return *reinterpret_cast<const uint32_t*>(&v);
}
template <class T> __device__ __forceinline__ float2 unpack(uint32_t two);
template <> __device__ __forceinline__ float2 unpack<bf16>(uint32_t two) {
    return __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(&two));
}
template <> __device__ __forceinline__ float2 unpack<f16>(uint32_t two) {
    return __half22float2(*reinterpret_cast<const __half2*>(&two));
}
#endif

__device__ __forceinline__ float to_f32(float x) { return x; }
template <> __device__ __forceinline__ float from_f32<float>(float x) { return x; }

constexpr unsigned WARP = 32;
constexpr uint32_t ALL_LANES = 0xffffffffu;
constexpr float LOG2_E = 1.442695041f, LN_2 = 0.6931471806f;

// Which index of an operand is contiguous: the one that is summed over, or the other.
enum class Inner { Depth, Outer };

__host__ __device__ constexpr unsigned div_ceil(unsigned a, unsigned b) { return (a + b - 1) / b; }

// 16 bytes of T, moved by one instruction. Addresses must be multiples of 16 bytes.
template <class T> struct alignas(16) Vec {
    static constexpr unsigned LEN = 16 / sizeof(T);
    T at[LEN];
};
template <class T> __device__ __forceinline__ Vec<T> load_vec(const T* p) {
    union { uint4 bits; Vec<T> v; } u = { *reinterpret_cast<const uint4*>(p) };
    return u.v;
}
template <class T> __device__ __forceinline__ void store_vec(T* p, const Vec<T>& v) {
    *reinterpret_cast<uint4*>(p) = *reinterpret_cast<const uint4*>(&v);
}

// Sum over the 32 lanes; every lane gets the same bits, because every lane adds the same pairs.
__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
    for (int o = 16; o > 0; o >>= 1) x += __shfl_xor_sync(ALL_LANES, x, o);
    return x;
}
__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
    for (int o = 16; o > 0; o >>= 1) x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, o));
    return x;
}

// The same over the four lanes that share a row of a product of matrices.
__device__ __forceinline__ float quad_sum(float x) {
    x += __shfl_xor_sync(ALL_LANES, x, 1);
    return x + __shfl_xor_sync(ALL_LANES, x, 2);
}
__device__ __forceinline__ float quad_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, 1));
    return fmaxf(x, __shfl_xor_sync(ALL_LANES, x, 2));
}

// Sum and maximum over a one-dimensional block of 32 * WARPS threads, to every thread. All threads
// of the block must call; the barriers also order what the block wrote to shared memory before.
template <unsigned WARPS> __device__ __forceinline__ float block_sum(float x) {
    SMEM(float, partial, WARPS);
    x = warp_sum(x);
    if (threadIdx.x % WARP == 0) partial[threadIdx.x / WARP] = x;
    __syncthreads();
    float sum = 0.f;
#pragma unroll
    for (unsigned w = 0; w < WARPS; w++) sum += partial[w];
    __syncthreads(); // `partial` may be used again at once
    return sum;
}
template <unsigned WARPS> __device__ __forceinline__ float block_max(float x) {
    SMEM(float, partial, WARPS);
    x = warp_max(x);
    if (threadIdx.x % WARP == 0) partial[threadIdx.x / WARP] = x;
    __syncthreads();
    float most = partial[0];
#pragma unroll
    for (unsigned w = 1; w < WARPS; w++) most = fmaxf(most, partial[w]);
    __syncthreads();
    return most;
}
