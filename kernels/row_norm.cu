// row_norm: rows of unit length, y = x inv.
//
//   rsqrt: inv = 1 / sqrt(max(s, 1e-12)),  plus: inv = 1 / (sqrt(s) + 1e-10),  s = sum x^2
//   x, y, dx, dy   (rows, c)   f32: queries, keys, head inputs
//
// One warp per row, 8 rows a block; columns: 32 of them a block. Traffic: forward 2, backward 4 rows c elements.
#include "include/common.cuh"

constexpr unsigned WARPS = 8;
constexpr unsigned THREADS = WARP * WARPS;

// As src/ops/row_norm/cuda.rs passes them.
enum RowNorm : unsigned { ROW_NORM_RSQRT = 0, ROW_NORM_PLUS = 1 };

// inv and d inv / d s.
__device__ __forceinline__ float2 inverse(float s, unsigned how) {
    if (how == ROW_NORM_RSQRT) {
        if (s > 1e-12f) {
            const float inv = 1.f / sqrtf(s);
            return { inv, -0.5f * inv * inv * inv };
        }
        return { 1e6f, 0.f };
    }
    const float norm = sqrtf(s), inv = 1.f / (norm + 1e-10f);
    return { inv, norm > 0.f ? -0.5f * inv * inv / norm : 0.f };
}

__device__ __forceinline__ float dot(const float* a, const float* b, unsigned c) {
    float sum = 0.f;
    for (unsigned j = threadIdx.x % WARP; j < c; j += WARP) sum += a[j] * b[j];
    return warp_sum(sum);
}

extern "C" __global__ void __launch_bounds__(THREADS) row_norm_forward_f32(
    float* __restrict__ y, const float* __restrict__ x, unsigned rows, unsigned c, unsigned how) {
    const unsigned row = blockIdx.x * WARPS + threadIdx.x / WARP;
    if (row >= rows) return;
    const size_t at = size_t(row) * c;
    const float inv = inverse(dot(x + at, x + at, c), how).x;
    for (unsigned j = threadIdx.x % WARP; j < c; j += WARP) y[at + j] = x[at + j] * inv;
}
EXPORT(row_norm_forward_f32)

// dx += dy inv + x (2 d inv/d s) sum(dy x)
extern "C" __global__ void __launch_bounds__(THREADS) row_norm_backward_f32(
    float* __restrict__ dx, const float* __restrict__ dy, const float* __restrict__ x, unsigned rows, unsigned c, unsigned how) {
    const unsigned row = blockIdx.x * WARPS + threadIdx.x / WARP;
    if (row >= rows) return;
    const size_t at = size_t(row) * c;
    const float2 inv = inverse(dot(x + at, x + at, c), how);
    const float along = 2.f * inv.y * dot(dy + at, x + at, c);
    for (unsigned j = threadIdx.x % WARP; j < c; j += WARP) dx[at + j] += dy[at + j] * inv.x + x[at + j] * along;
}
EXPORT(row_norm_backward_f32)

// x[:, j] /= |x[:, j]| + 1e-10. Each warp of a block sums every eighth row of 32 columns; the sums are added in order.
extern "C" __global__ void __launch_bounds__(THREADS) row_norm_columns_f32(float* __restrict__ x, unsigned rows, unsigned c) {
    SMEM(float, partial, THREADS);
    const unsigned lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const size_t j = size_t(blockIdx.x) * WARP + lane;
    float sum = 0.f;
    if (j < c)
        for (size_t row = warp; row < rows; row += WARPS) sum += x[row * c + j] * x[row * c + j];
    partial[threadIdx.x] = sum;
    __syncthreads();
    sum = 0.f;
    for (unsigned w = 0; w < WARPS; w++) sum += partial[w * WARP + lane];
    const float inv = 1.f / (sqrtf(sum) + 1e-10f);
    if (j < c)
        for (size_t row = warp; row < rows; row += WARPS) x[row * c + j] *= inv;
}
EXPORT(row_norm_columns_f32)
