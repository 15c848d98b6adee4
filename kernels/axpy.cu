// axpy: y += a x, x *= a, and y = x in another type. All over n elements in one dimension.
//
// One thread takes one element, 256 threads a block. Traffic: axpy 3 n, scale 2 n, cast 2 n elements.
#include "include/common.cuh"

constexpr unsigned THREADS = 256;

// The element of this thread.
__device__ __forceinline__ size_t element() { return size_t(blockIdx.x) * THREADS + threadIdx.x; }

template <class T> __device__ void axpy(T* y, const T* x, size_t n, float a) {
    const size_t i = element();
    if (i < n) y[i] = from_f32<T>(fmaf(a, to_f32(x[i]), to_f32(y[i])));
}

template <class T> __device__ void scale(T* x, size_t n, float a) {
    const size_t i = element();
    if (i < n) x[i] = from_f32<T>(a * to_f32(x[i]));
}

// Rounds to nearest, ties to even; what does not fit becomes infinite.
template <class To, class From> __device__ void cast(To* y, const From* x, size_t n) {
    const size_t i = element();
    if (i < n) y[i] = from_f32<To>(to_f32(x[i]));
}

#define AXPY_FORMS(T, form) \
    extern "C" __global__ void __launch_bounds__(THREADS) axpy_axpy_##form(T* __restrict__ y, const T* __restrict__ x, uint64_t n, float a) { \
        axpy(y, x, n, a); \
    } \
    EXPORT(axpy_axpy_##form) \
    extern "C" __global__ void __launch_bounds__(THREADS) axpy_scale_##form(T* __restrict__ x, uint64_t n, float a) { \
        scale(x, n, a); \
    } \
    EXPORT(axpy_scale_##form) \
    extern "C" __global__ void __launch_bounds__(THREADS) axpy_to_f32_##form(float* __restrict__ y, const T* __restrict__ x, uint64_t n) { \
        cast(y, x, n); \
    } \
    EXPORT(axpy_to_f32_##form) \
    extern "C" __global__ void __launch_bounds__(THREADS) axpy_from_f32_##form(T* __restrict__ y, const float* __restrict__ x, uint64_t n) { \
        cast(y, x, n); \
    } \
    EXPORT(axpy_from_f32_##form)

AXPY_FORMS(float, f32)
AXPY_FORMS(bf16, bf16)
AXPY_FORMS(f16, f16)
