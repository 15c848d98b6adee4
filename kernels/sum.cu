// sum: columns of a matrix, out += sum over rows of x.
//
//   x     (rows, c)   T
//   out   (c)         f32: gradient of a bias
//
// Partial sums of GROUP rows in scratch memory, then added in the order of the rows: the order depends on
// the shape only. One thread per column, 256 threads a block. Traffic: rows c elements.
#include "include/common.cuh"

constexpr unsigned THREADS = 256;
constexpr unsigned GROUP = 64;

// partial (groups, c); blockIdx.x = group.
template <class T> __device__ void columns(float* partial, const T* x, unsigned rows, unsigned c) {
    const unsigned j = blockIdx.y * THREADS + threadIdx.x;
    if (j >= c) return;
    const unsigned first = blockIdx.x * GROUP, end = min(first + GROUP, rows);
    float sum = 0.f;
    for (unsigned row = first; row < end; row++) sum += to_f32(x[size_t(row) * c + j]);
    partial[size_t(blockIdx.x) * c + j] = sum;
}

extern "C" __global__ void __launch_bounds__(THREADS) sum_add_groups_f32(
    float* __restrict__ out, const float* __restrict__ partial, unsigned groups, unsigned c) {
    const unsigned j = blockIdx.x * THREADS + threadIdx.x;
    if (j >= c) return;
    float sum = 0.f;
    for (unsigned g = 0; g < groups; g++) sum += partial[size_t(g) * c + j];
    out[j] += sum;
}
EXPORT(sum_add_groups_f32)

#define SUM_FORMS(T, form) \
    extern "C" __global__ void __launch_bounds__(THREADS) sum_columns_##form( \
        float* __restrict__ partial, const T* __restrict__ x, unsigned rows, unsigned c) { \
        columns(partial, x, rows, c); \
    } \
    EXPORT(sum_columns_##form)

SUM_FORMS(float, f32)
SUM_FORMS(bf16, bf16)
SUM_FORMS(f16, f16)
