// pool_tokens: one vector per image from its rows from..from + n: their mean, maximum, or maximum + 2 mean.
//
//   x, dx   (b, t, c)   T
//   y, dy   (b, c)      f32: what head and keys read
//
// One thread per image and column, rows in order; 128 threads a block. Traffic: forward b n c, backward
// b t c elements, and x again where a maximum is asked for.
#include "include/common.cuh"

constexpr unsigned THREADS = 128;

// As src/ops/pool_tokens/cuda.rs passes them.
enum Pool : unsigned { POOL_MEAN = 0, POOL_MAX = 1, POOL_MEAN_MAX = 2 };

__device__ __forceinline__ float mean_weight(unsigned n, unsigned kind) {
    return kind == POOL_MAX ? 0.f : (kind == POOL_MEAN_MAX ? 2.f : 1.f) / float(n);
}

template <class T>
__device__ void forward(float* y, const T* x, unsigned t, unsigned c, unsigned from, unsigned n, unsigned kind) {
    const unsigned j = blockIdx.y * THREADS + threadIdx.x;
    if (j >= c) return;
    const T* const first = x + (size_t(blockIdx.x) * t + from) * c + j;
    float sum = 0.f, most = to_f32(first[0]);
#pragma unroll 8
    for (unsigned i = 0; i < n; i++) {
        const float v = to_f32(first[size_t(i) * c]);
        sum += v;
        most = v > most ? v : most;
    }
    const float mean = sum * mean_weight(n, kind);
    y[size_t(blockIdx.x) * c + j] = kind == POOL_MEAN ? mean : kind == POOL_MAX ? most : mean + most;
}

// Overwrites dx, zero outside of the rows; rows that share a maximum share its gradient.
template <class T>
__device__ void backward(T* dx, const float* dy, const T* x, unsigned t, unsigned c, unsigned from, unsigned n, unsigned kind) {
    const unsigned j = blockIdx.y * THREADS + threadIdx.x;
    if (j >= c) return;
    const size_t image = size_t(blockIdx.x) * t * c + j;
    const float d = dy[size_t(blockIdx.x) * c + j], even = d * mean_weight(n, kind);
    float most = 0.f, share = 0.f;
    if (kind != POOL_MEAN) {
        most = to_f32(x[image + size_t(from) * c]);
        unsigned ties = 0;
#pragma unroll 8
        for (unsigned i = from; i < from + n; i++) {
            const float v = to_f32(x[image + size_t(i) * c]);
            ties = v > most ? 1 : ties + (v == most);
            most = v > most ? v : most;
        }
        share = d / float(ties);
    }
    for (unsigned i = 0; i < t; i++) {
        float g = 0.f;
        if (i >= from && i < from + n) {
            g = even;
            if (kind != POOL_MEAN && to_f32(x[image + size_t(i) * c]) == most) g += share;
        }
        dx[image + size_t(i) * c] = from_f32<T>(g);
    }
}

#define POOL_TOKENS_FORMS(T, form) \
    extern "C" __global__ void __launch_bounds__(THREADS) pool_tokens_forward_##form( \
        float* __restrict__ y, const T* __restrict__ x, unsigned t, unsigned c, unsigned from, unsigned n, unsigned kind) { \
        forward(y, x, t, c, from, n, kind); \
    } \
    EXPORT(pool_tokens_forward_##form) \
    extern "C" __global__ void __launch_bounds__(THREADS) pool_tokens_backward_##form( \
        T* __restrict__ dx, const float* __restrict__ dy, const T* __restrict__ x, unsigned t, unsigned c, unsigned from, unsigned n, unsigned kind) { \
        backward(dx, dy, x, t, c, from, n, kind); \
    } \
    EXPORT(pool_tokens_backward_##form)

POOL_TOKENS_FORMS(float, f32)
POOL_TOKENS_FORMS(bf16, bf16)
POOL_TOKENS_FORMS(f16, f16)
