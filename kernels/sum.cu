// sum: columns of a matrix, out += sum over rows of x, and the squares of a vector, out += sum of x^2.
//
//   columns   x (rows, c) T, out (c) f32
//   squares   x (n) f32, out (1) f32
//
// Each pass has two kernels: one writes partial sums of a fixed number of rows or elements to scratch memory,
// the other adds them in order. 256 threads a block. Traffic: columns rows c, squares n elements.
#include "include/chunk.cuh"

constexpr unsigned WARPS = 8;
constexpr unsigned THREADS = WARP * WARPS;
// Rows of one partial sum of a column.
constexpr unsigned GROUP = 64;
// Elements of one partial sum of squares: four chunks a thread.
constexpr unsigned PIECE = 4 * Vec<float>::LEN * THREADS;

// partial (groups, c): sums over GROUP rows. One thread per column; blocks: (groups, columns / THREADS).
template <class T> __device__ void columns(float* partial, const T* x, unsigned rows, unsigned c) {
    const unsigned j = blockIdx.y * THREADS + threadIdx.x;
    if (j >= c) return;
    const unsigned first = blockIdx.x * GROUP, end = min(first + GROUP, rows);
    float sum = 0.f;
#pragma unroll 8
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

// One number of `partial` per block, over PIECE elements. `vectors`: x is aligned and n a multiple of a chunk.
extern "C" __global__ void __launch_bounds__(THREADS) sum_squares_f32(
    float* __restrict__ partial, const float* __restrict__ x, uint64_t n, unsigned vectors) {
    const size_t first = size_t(blockIdx.x) * PIECE, end = min(first + PIECE, size_t(n));
    float sum = 0.f;
    for (size_t j = first + threadIdx.x * Vec<float>::LEN; j < end; j += THREADS * Vec<float>::LEN) {
        const Vec<float> v = load_chunk(x, j, end, vectors);
#pragma unroll
        for (unsigned i = 0; i < Vec<float>::LEN; i++) sum = fmaf(v.at[i], v.at[i], sum);
    }
    sum = block_sum<WARPS>(sum);
    if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}
EXPORT(sum_squares_f32)

// One block.
extern "C" __global__ void __launch_bounds__(THREADS) sum_add_squares_f32(
    float* __restrict__ out, const float* __restrict__ partial, unsigned pieces) {
    float sum = 0.f;
    for (unsigned i = threadIdx.x; i < pieces; i += THREADS) sum += partial[i];
    sum = block_sum<WARPS>(sum);
    if (threadIdx.x == 0) out[0] += sum;
}
EXPORT(sum_add_squares_f32)

#define SUM_FORMS(T, form) \
    extern "C" __global__ void __launch_bounds__(THREADS) sum_columns_##form( \
        float* __restrict__ partial, const T* __restrict__ x, unsigned rows, unsigned c) { \
        columns(partial, x, rows, c); \
    } \
    EXPORT(sum_columns_##form)

SUM_FORMS(float, f32)
SUM_FORMS(bf16, bf16)
SUM_FORMS(f16, f16)
