// anchor: parameters p held near an anchor a, each by its importance F.
//
//   p, a, F, g, dp  (n) f32;  penalty, loss (1) f32
//   penalty  = sum F (p - a)^2
//   backward   dp += twice_scale F (p - a)
//   squares    F += factor g^2, with a loss: F += factor e^-loss g^2
//
// The penalty has two kernels: one writes a partial sum of a fixed number of elements for each block to scratch memory, the
// other adds them in order. The others take one element a thread. 256 threads a block. Traffic: penalty 3 n, backward 5 n,
// squares 3 n elements.
#include "include/chunk.cuh"

constexpr unsigned WARPS = 8;
constexpr unsigned THREADS = WARP * WARPS;
// Elements of one partial sum: four chunks a thread.
constexpr unsigned PIECE = 4 * Vec<float>::LEN * THREADS;

// The element of this thread.
__device__ __forceinline__ size_t element() { return size_t(blockIdx.x) * THREADS + threadIdx.x; }

// One number of `partial` per block, over PIECE elements. `vectors`: all are aligned and n is a multiple of a chunk.
extern "C" __global__ void __launch_bounds__(THREADS) anchor_penalty_f32(
    float* __restrict__ partial, const float* __restrict__ p, const float* __restrict__ anchor,
    const float* __restrict__ importance, uint64_t n, unsigned vectors) {
    const size_t first = size_t(blockIdx.x) * PIECE, end = min(first + PIECE, size_t(n));
    float sum = 0.f;
    for (size_t j = first + threadIdx.x * Vec<float>::LEN; j < end; j += THREADS * Vec<float>::LEN) {
        const Vec<float> w = load_chunk(p, j, end, vectors), a = load_chunk(anchor, j, end, vectors);
        const Vec<float> f = load_chunk(importance, j, end, vectors);
#pragma unroll
        for (unsigned i = 0; i < Vec<float>::LEN; i++) {
            const float away = w.at[i] - a.at[i];
            sum = fmaf(f.at[i] * away, away, sum);
        }
    }
    sum = block_sum<WARPS>(sum);
    if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}
EXPORT(anchor_penalty_f32)

// One block.
extern "C" __global__ void __launch_bounds__(THREADS) anchor_total_f32(
    float* __restrict__ penalty, const float* __restrict__ partial, unsigned pieces) {
    float sum = 0.f;
    for (unsigned i = threadIdx.x; i < pieces; i += THREADS) sum += partial[i];
    sum = block_sum<WARPS>(sum);
    if (threadIdx.x == 0) penalty[0] = sum;
}
EXPORT(anchor_total_f32)

extern "C" __global__ void __launch_bounds__(THREADS) anchor_backward_f32(
    float* __restrict__ dp, const float* __restrict__ p, const float* __restrict__ anchor,
    const float* __restrict__ importance, uint64_t n, float twice_scale) {
    const size_t i = element();
    if (i < n) dp[i] = fmaf(twice_scale * importance[i], p[i] - anchor[i], dp[i]);
}
EXPORT(anchor_backward_f32)

// `loss` may be null.
extern "C" __global__ void __launch_bounds__(THREADS) anchor_squares_f32(
    float* __restrict__ importance, const float* __restrict__ g, const float* __restrict__ loss, uint64_t n, float factor) {
    const float weight = loss ? factor * expf(-loss[0]) : factor;
    const size_t i = element();
    if (i < n) importance[i] = fmaf(weight * g[i], g[i], importance[i]);
}
EXPORT(anchor_squares_f32)
