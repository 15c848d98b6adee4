// Kernels that are right: what the headers of kernels/include promise, and simple work for streams.
#include "include/common.cuh"
#include "include/hopper.cuh"
#include "include/philox.cuh"
#include "include/ptx.cuh"

// y = 2 x + a, so that the order of launches shows in the value.
extern "C" __global__ void twice_plus(float* __restrict__ y, const float* __restrict__ x, unsigned n, float a) {
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = 2.f * x[i] + a;
}
EXPORT(twice_plus)

// Sum and maximum of each row of c numbers.
extern "C" __global__ void __launch_bounds__(128) reduce_rows(float* __restrict__ sum, float* __restrict__ most, const float* __restrict__ x, unsigned c) {
    float total = 0.f, largest = -CUDART_INF_F;
    for (unsigned j = threadIdx.x; j < c; j += blockDim.x) {
        total += x[size_t(blockIdx.x) * c + j];
        largest = fmaxf(largest, x[size_t(blockIdx.x) * c + j]);
    }
    total = block_sum<4>(total);
    largest = block_max<4>(largest);
    if (threadIdx.x == 0) {
        sum[blockIdx.x] = total;
        most[blockIdx.x] = largest;
    }
}
EXPORT(reduce_rows)

extern "C" __global__ void draw(unsigned* __restrict__ words, float* __restrict__ uniforms, double* __restrict__ wide, unsigned* __restrict__ below, uint64_t seed, uint64_t index, unsigned n) {
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    Rng rng(seed, 5, index + i);
    words[i] = rng.next_u32();
    uniforms[i] = rng.uniform();
    wide[i] = rng.uniform_f64();
    below[i] = rng.below(1000 + i);
}
EXPORT(draw)

// d (16x8) = a (16x16) b, all row-major; b is (8x16) and taken transposed, or (16x8). One warp.
template <class T> __device__ __forceinline__ void product(float* d, const T* a, const T* b, unsigned transposed) {
    SMEM(T, as, 16 * 24);
    SMEM(T, bs, 16 * 24);
    const unsigned l = threadIdx.x;
    cp_async16(&as[l / 2 * 24 + l % 2 * 8], a + l * 8, true);
    if (l < 16) cp_async16(transposed ? &bs[l / 2 * 24 + l % 2 * 8] : &bs[l * 24], b + l * 8, true);
    cp_async_commit();
    cp_async_wait<0>();
    __syncthreads();
    uint32_t fa[4], fb[4];
    ldmatrix_x4(fa, &as[l % 16 * 24 + l / 16 * 8]);
    if (transposed) {
        ldmatrix_x4(fb, &bs[l % 8 * 24 + l / 8 % 2 * 8]);
    } else {
        ldmatrix_x4_trans(fb, &bs[l % 16 * 24]);
    }
    float sum[4] = { 0.f, 0.f, 0.f, 0.f };
    mma_16816<T>(sum, fa, fb[0], fb[1]);
    for (unsigned i = 0; i < 4; i++) d[(l / 4 + i / 2 * 8) * 8 + l % 4 * 2 + i % 2] = sum[i];
}
extern "C" __global__ void __launch_bounds__(32) product_bf16(float* __restrict__ d, const bf16* __restrict__ a, const bf16* __restrict__ b, unsigned transposed) {
    product(d, a, b, transposed);
}
EXPORT(product_bf16)
extern "C" __global__ void __launch_bounds__(32) product_f16(float* __restrict__ d, const f16* __restrict__ a, const f16* __restrict__ b, unsigned transposed) {
    product(d, a, b, transposed);
}
EXPORT(product_f16)

// The number of threads that came; the last block to finish writes it. `tickets` start as 0.
extern "C" __global__ void count_threads(unsigned* __restrict__ n, unsigned* __restrict__ tickets) {
    SMEM(unsigned, last, 1);
    atomicAdd(&tickets[1], 1u);
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) last[0] = atomicAdd(&tickets[0], 1u) == gridDim.x - 1;
    __syncthreads();
    if (threadIdx.x == 0 && last[0] != 0) *n = atomicAdd(&tickets[1], 0u);
}
EXPORT(count_threads)

// y[i] = n, handed from thread to thread through shared memory behind an mbarrier and then a named barrier. One block of 96.
extern "C" __global__ void hand_over(float* __restrict__ y, unsigned n) {
    DYN_SMEM(raw);
    SMEM(float, s, 96);
    SMEM(float, t, 96);
    uint64_t* const barrier = reinterpret_cast<uint64_t*>(raw);
    if (threadIdx.x == 0) mbarrier_init(barrier, 96);
    __syncthreads();
    for (unsigned i = 0; i < 3; i++) {
        s[threadIdx.x] = float(n + i);
        mbarrier_arrive(barrier);
        mbarrier_wait(barrier, i % 2);
        t[threadIdx.x] = s[95 - threadIdx.x];
        named_barrier_sync(1, 96);
        y[threadIdx.x] = t[(threadIdx.x + 40) % 96] - float(i);
        named_barrier_sync(2, 96);
    }
}
EXPORT(hand_over)
