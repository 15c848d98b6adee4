// gelu: y = gelu(x), and d := d gelu'(x); formulas in include/gelu.cuh.
//
//   x, y, d   n elements
//
// One thread takes one chunk of 16 bytes, 256 threads a block. Traffic: forward 2 n, backward 3 n elements.
#include "include/chunk.cuh"
#include "include/gelu.cuh"

constexpr unsigned THREADS = 256;

template <class T> __device__ void forward(T* y, const T* x, size_t n, unsigned gelu, unsigned vectors) {
    const size_t j = (size_t(blockIdx.x) * THREADS + threadIdx.x) * Vec<T>::LEN;
    if (j >= n) return;
    Vec<T> v = load_chunk(x, j, n, vectors);
#pragma unroll
    for (unsigned i = 0; i < Vec<T>::LEN; i++) v.at[i] = from_f32<T>(gelu_value<T>(to_f32(v.at[i]), gelu));
    store_chunk(y, j, n, v, vectors);
}

template <class T> __device__ void backward(T* d, const T* x, size_t n, unsigned gelu, unsigned vectors) {
    const size_t j = (size_t(blockIdx.x) * THREADS + threadIdx.x) * Vec<T>::LEN;
    if (j >= n) return;
    const Vec<T> v = load_chunk(x, j, n, vectors);
    Vec<T> g = load_chunk(d, j, n, vectors);
#pragma unroll
    for (unsigned i = 0; i < Vec<T>::LEN; i++) g.at[i] = from_f32<T>(to_f32(g.at[i]) * gelu_slope<T>(to_f32(v.at[i]), gelu));
    store_chunk(d, j, n, g, vectors);
}

#define GELU_FORMS(T, form) \
    extern "C" __global__ void __launch_bounds__(THREADS) gelu_forward_##form( \
        T* __restrict__ y, const T* __restrict__ x, uint64_t n, unsigned gelu, unsigned vectors) { \
        forward(y, x, n, gelu, vectors); \
    } \
    EXPORT(gelu_forward_##form) \
    extern "C" __global__ void __launch_bounds__(THREADS) gelu_backward_##form( \
        T* __restrict__ d, const T* __restrict__ x, uint64_t n, unsigned gelu, unsigned vectors) { \
        backward(d, x, n, gelu, vectors); \
    } \
    EXPORT(gelu_backward_##form)

GELU_FORMS(float, f32)
GELU_FORMS(bf16, bf16)
GELU_FORMS(f16, f16)
