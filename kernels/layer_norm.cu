// layer_norm: y = (x - mean) rstd scale + bias over the last axis, rstd = 1 / sqrt(var + eps).
//
//   x, y, dx, dy   (rows, c)   T
//   scale, bias    (c)         f32, and their gradients
//   stats          (rows, 2)   f32: mean and rstd, kept for the backward passes
//
// One warp per row, 8 rows a block; sums in f32, two passes over the row (mean, then variance), which the
// second time comes from the cache. The gradients of scale and bias: one thread per column sums GROUP rows, then one
// thread per column adds the sums of the groups in order. Any c >= 1.
// Traffic: forward and again 2, backward_input 4, backward_params 2 rows c elements.
#include "include/chunk.cuh"

constexpr unsigned WARPS = 8;
constexpr unsigned THREADS = WARP * WARPS;
// Rows that one partial sum of the parameters' gradients covers.
constexpr unsigned GROUP = 64;

__device__ __forceinline__ unsigned row_of_warp() { return blockIdx.x * WARPS + threadIdx.x / WARP; }

// Sum of f(value, column) over the row, for all lanes.
template <class T, class F> __device__ __forceinline__ float row_sum(const T* x, unsigned c, unsigned vectors, F f) {
    float sum = 0.f;
    for (unsigned j = threadIdx.x % WARP * Vec<T>::LEN; j < c; j += WARP * Vec<T>::LEN) {
        const Vec<T> v = load_chunk(x, j, c, vectors);
#pragma unroll
        for (unsigned i = 0; i < Vec<T>::LEN; i++)
            if (j + i < c) sum += f(to_f32(v.at[i]), j + i);
    }
    return warp_sum(sum);
}

template <class T>
__device__ __forceinline__ void normalise(T* y, const T* x, float mean, float rstd, const float* scale, const float* bias, unsigned c, unsigned vectors) {
    for (unsigned j = threadIdx.x % WARP * Vec<T>::LEN; j < c; j += WARP * Vec<T>::LEN) {
        Vec<T> v = load_chunk(x, j, c, vectors);
        const Floats<T> s = load_floats<T>(scale, j, c, vectors), b = load_floats<T>(bias, j, c, vectors);
#pragma unroll
        for (unsigned i = 0; i < Vec<T>::LEN; i++) v.at[i] = from_f32<T>(fmaf((to_f32(v.at[i]) - mean) * rstd, s.at[i], b.at[i]));
        store_chunk(y, j, c, v, vectors);
    }
}

template <class T>
__device__ void forward(T* y, float* stats, const T* x, const float* scale, const float* bias, unsigned rows, unsigned c, float eps, unsigned vectors) {
    const unsigned row = row_of_warp();
    if (row >= rows) return;
    const size_t at = size_t(row) * c;
    const float mean = row_sum(x + at, c, vectors, [](float v, unsigned) { return v; }) / float(c);
    const float var = row_sum(x + at, c, vectors, [=](float v, unsigned) { return (v - mean) * (v - mean); }) / float(c);
    const float rstd = 1.f / sqrtf(var + eps);
    if (threadIdx.x % WARP == 0) {
        stats[2 * size_t(row)] = mean;
        stats[2 * size_t(row) + 1] = rstd;
    }
    normalise(y + at, x + at, mean, rstd, scale, bias, c, vectors);
}

template <class T>
__device__ void again(T* y, const T* x, const float* stats, const float* scale, const float* bias, unsigned rows, unsigned c, unsigned vectors) {
    const unsigned row = row_of_warp();
    if (row >= rows) return;
    const size_t at = size_t(row) * c;
    normalise(y + at, x + at, stats[2 * size_t(row)], stats[2 * size_t(row) + 1], scale, bias, c, vectors);
}

// dx += rstd (g - mean(g) - x^ mean(g x^)) with g = dy scale and x^ = (x - mean) rstd.
template <class T>
__device__ void backward_input(T* dx, const T* dy, const T* x, const float* stats, const float* scale, unsigned rows, unsigned c, unsigned vectors) {
    const unsigned row = row_of_warp();
    if (row >= rows) return;
    const size_t at = size_t(row) * c;
    const float mean = stats[2 * size_t(row)], rstd = stats[2 * size_t(row) + 1];
    float sum_g = 0.f, sum_gx = 0.f;
    for (unsigned j = threadIdx.x % WARP * Vec<T>::LEN; j < c; j += WARP * Vec<T>::LEN) {
        const Vec<T> v = load_chunk(x + at, j, c, vectors), d = load_chunk(dy + at, j, c, vectors);
        const Floats<T> s = load_floats<T>(scale, j, c, vectors);
#pragma unroll
        for (unsigned i = 0; i < Vec<T>::LEN; i++) {
            const float g = to_f32(d.at[i]) * s.at[i]; // zero beyond the row
            sum_g += g;
            sum_gx += g * ((to_f32(v.at[i]) - mean) * rstd);
        }
    }
    const float mean_g = warp_sum(sum_g) / float(c), mean_gx = warp_sum(sum_gx) / float(c);
    for (unsigned j = threadIdx.x % WARP * Vec<T>::LEN; j < c; j += WARP * Vec<T>::LEN) {
        const Vec<T> v = load_chunk(x + at, j, c, vectors), d = load_chunk(dy + at, j, c, vectors);
        const Floats<T> s = load_floats<T>(scale, j, c, vectors);
        Vec<T> to = load_chunk(dx + at, j, c, vectors);
#pragma unroll
        for (unsigned i = 0; i < Vec<T>::LEN; i++) {
            const float normed = (to_f32(v.at[i]) - mean) * rstd;
            to.at[i] = from_f32<T>(to_f32(to.at[i]) + rstd * (to_f32(d.at[i]) * s.at[i] - mean_g - normed * mean_gx));
        }
        store_chunk(dx + at, j, c, to, vectors);
    }
}

// partial (groups, 2, c): sums of dy x^ and of dy over GROUP rows. blockIdx.x = group.
template <class T>
__device__ void backward_params(float* partial, const T* dy, const T* x, const float* stats, unsigned rows, unsigned c) {
    const unsigned j = blockIdx.y * THREADS + threadIdx.x;
    if (j >= c) return;
    const unsigned first = blockIdx.x * GROUP, end = min(first + GROUP, rows);
    float dscale = 0.f, dbias = 0.f;
#pragma unroll 4
    for (unsigned row = first; row < end; row++) {
        const float d = to_f32(dy[size_t(row) * c + j]);
        dscale += d * ((to_f32(x[size_t(row) * c + j]) - stats[2 * size_t(row)]) * stats[2 * size_t(row) + 1]);
        dbias += d;
    }
    partial[(size_t(blockIdx.x) * 2) * c + j] = dscale;
    partial[(size_t(blockIdx.x) * 2 + 1) * c + j] = dbias;
}

// Adds the partial sums in the order of the rows: one thread per column, 256 a block.
extern "C" __global__ void __launch_bounds__(THREADS) layer_norm_add_params_f32(
    float* __restrict__ dscale, float* __restrict__ dbias, const float* __restrict__ partial, unsigned groups, unsigned c) {
    const unsigned j = blockIdx.x * THREADS + threadIdx.x;
    if (j >= c) return;
    float scale = 0.f, bias = 0.f;
#pragma unroll 8
    for (unsigned g = 0; g < groups; g++) {
        scale += partial[(size_t(g) * 2) * c + j];
        bias += partial[(size_t(g) * 2 + 1) * c + j];
    }
    dscale[j] += scale;
    dbias[j] += bias;
}
EXPORT(layer_norm_add_params_f32)

#define LAYER_NORM_FORMS(T, form) \
    extern "C" __global__ void __launch_bounds__(THREADS) layer_norm_forward_##form( \
        T* __restrict__ y, float* __restrict__ stats, const T* __restrict__ x, const float* __restrict__ scale, const float* __restrict__ bias, \
        unsigned rows, unsigned c, float eps, unsigned vectors) { \
        forward(y, stats, x, scale, bias, rows, c, eps, vectors); \
    } \
    EXPORT(layer_norm_forward_##form) \
    extern "C" __global__ void __launch_bounds__(THREADS) layer_norm_again_##form( \
        T* __restrict__ y, const T* __restrict__ x, const float* __restrict__ stats, const float* __restrict__ scale, const float* __restrict__ bias, \
        unsigned rows, unsigned c, unsigned vectors) { \
        again(y, x, stats, scale, bias, rows, c, vectors); \
    } \
    EXPORT(layer_norm_again_##form) \
    extern "C" __global__ void __launch_bounds__(THREADS) layer_norm_backward_input_##form( \
        T* __restrict__ dx, const T* __restrict__ dy, const T* __restrict__ x, const float* __restrict__ stats, const float* __restrict__ scale, \
        unsigned rows, unsigned c, unsigned vectors) { \
        backward_input(dx, dy, x, stats, scale, rows, c, vectors); \
    } \
    EXPORT(layer_norm_backward_input_##form) \
    extern "C" __global__ void __launch_bounds__(THREADS) layer_norm_backward_params_##form( \
        float* __restrict__ partial, const T* __restrict__ dy, const T* __restrict__ x, const float* __restrict__ stats, \
        unsigned rows, unsigned c) { \
        backward_params(partial, dy, x, stats, rows, c); \
    } \
    EXPORT(layer_norm_backward_params_##form)

LAYER_NORM_FORMS(float, f32)
LAYER_NORM_FORMS(bf16, bf16)
LAYER_NORM_FORMS(f16, f16)
