// optimizer: one step over the flat buffer of what learns, with gradients clipped to a norm of max_norm.
//
//   adam   m = beta1 m + rest1 g, v = beta2 v + rest2 g^2, p -= lr (m / step_scalars[1]) / (sqrt(v / step_scalars[2]) + eps) + lr decay p
//   sgd    u = momentum u + g, p -= lr (g + momentum u) with nesterov, otherwise p -= lr u
//
//   p, m, v, u, g  (n) f32;  rest = 1 - beta, rounded once
//   squares        (1) f32: sum of g^2 over all gradients that are clipped together
//   step_scalars   (4) f32: lr, 1 - beta1^t, 1 - beta2^t, unscale (of g, for a scaled loss)
//
// What changes from step to step is read from device memory. One chunk of 16 bytes a thread, 256 threads a block.
// Traffic: adam 7 n, sgd 5 n numbers; nothing is written when the gradients are not finite.
#include "include/chunk.cuh"

constexpr unsigned THREADS = 256;
using Chunk = Vec<float>;

__device__ __forceinline__ size_t chunk_start() { return (size_t(blockIdx.x) * THREADS + threadIdx.x) * Chunk::LEN; }

// The factor of all gradients: unscale min(1, max_norm / (norm + 1e-6)); max_norm 0: no clipping. Not finite when
// the gradients are not.
__device__ __forceinline__ float grad_scale(float squares, float unscale, float max_norm) {
    const float norm = sqrtf(squares) * unscale;
    if (!(norm <= 3.402823466e38f)) return CUDART_NAN_F;
    return max_norm == 0.f ? unscale : unscale * fminf(1.f, max_norm / (norm + 1e-6f));
}

extern "C" __global__ void __launch_bounds__(THREADS) optimizer_adam_f32(
    float* __restrict__ p, float* __restrict__ m, float* __restrict__ v, const float* __restrict__ g, const float* __restrict__ squares,
    const float* __restrict__ step_scalars, uint64_t n, float beta1, float rest1, float beta2, float rest2, float eps, float decay, float max_norm,
    unsigned vectors) {
    const size_t j = chunk_start();
    const float scale = grad_scale(squares[0], step_scalars[3], max_norm);
    if (j >= n || scale != scale) return;
    const float lr = step_scalars[0], correct1 = step_scalars[1], correct2 = step_scalars[2];
    Chunk value = load_chunk(p, j, n, vectors), first = load_chunk(m, j, n, vectors), second = load_chunk(v, j, n, vectors);
    const Chunk grad = load_chunk(g, j, n, vectors);
#pragma unroll
    for (unsigned i = 0; i < Chunk::LEN; i++) {
        const float d = grad.at[i] * scale;
        first.at[i] = beta1 * first.at[i] + rest1 * d;
        second.at[i] = beta2 * second.at[i] + rest2 * d * d;
        const float update = (first.at[i] / correct1) / (sqrtf(second.at[i] / correct2) + eps);
        value.at[i] -= lr * update + lr * decay * value.at[i];
    }
    store_chunk(p, j, n, value, vectors);
    store_chunk(m, j, n, first, vectors);
    store_chunk(v, j, n, second, vectors);
}
EXPORT(optimizer_adam_f32)

extern "C" __global__ void __launch_bounds__(THREADS) optimizer_sgd_f32(
    float* __restrict__ p, float* __restrict__ u, const float* __restrict__ g, const float* __restrict__ squares,
    const float* __restrict__ step_scalars, uint64_t n, float momentum, unsigned nesterov, float max_norm, unsigned vectors) {
    const size_t j = chunk_start();
    const float scale = grad_scale(squares[0], step_scalars[3], max_norm);
    if (j >= n || scale != scale) return;
    const float lr = step_scalars[0];
    Chunk value = load_chunk(p, j, n, vectors), speed = load_chunk(u, j, n, vectors);
    const Chunk grad = load_chunk(g, j, n, vectors);
#pragma unroll
    for (unsigned i = 0; i < Chunk::LEN; i++) {
        const float d = grad.at[i] * scale;
        speed.at[i] = momentum * speed.at[i] + d;
        value.at[i] -= lr * (nesterov ? d + momentum * speed.at[i] : speed.at[i]);
    }
    store_chunk(p, j, n, value, vectors);
    store_chunk(u, j, n, speed, vectors);
}
EXPORT(optimizer_sgd_f32)
