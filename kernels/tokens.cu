// tokens: class token, patches and positions into one sequence, and rows from one sequence to another.
//
//   sequences       (b, t, c)   T
//   cls, positions  (c), (t, c) f32, and their gradients; row (c) f32
//
// One block row per token row, one chunk of 16 bytes a thread, 128 threads a block.
#include "include/chunk.cuh"

constexpr unsigned THREADS = 128;

template <class T> __device__ __forceinline__ unsigned column() { return (blockIdx.y * THREADS + threadIdx.x) * Vec<T>::LEN; }

// x = [cls; patches] + positions; blockIdx.x = image * t + row. Traffic: 2 b t c elements.
template <class T>
__device__ void embed(T* x, const T* patches, const float* cls, const float* positions, unsigned t, unsigned c, unsigned vectors) {
    const unsigned j = column<T>(), row = blockIdx.x % t;
    if (j >= c) return;
    const Floats<T> position = load_floats<T>(positions + size_t(row) * c, j, c, vectors);
    Vec<T> v;
    if (row > 0) {
        v = load_chunk(patches + (size_t(blockIdx.x / t) * (t - 1) + row - 1) * c, j, c, vectors);
#pragma unroll
        for (unsigned i = 0; i < Vec<T>::LEN; i++) v.at[i] = from_f32<T>(to_f32(v.at[i]) + position.at[i]);
    } else {
        const Floats<T> first = load_floats<T>(cls, j, c, vectors);
#pragma unroll
        for (unsigned i = 0; i < Vec<T>::LEN; i++) v.at[i] = from_f32<T>(first.at[i] + position.at[i]);
    }
    store_chunk(x + size_t(blockIdx.x) * c, j, c, v, vectors);
}

// sum (n, c) += the rows from.. of all images, in the order of the images; blockIdx.x = row of `sum`.
// Traffic: b n c elements.
template <class T>
__device__ void sum_images(float* sum, const T* x, unsigned b, unsigned t, unsigned c, unsigned from, unsigned vectors) {
    const unsigned j = column<T>();
    if (j >= c) return;
    float total[Vec<T>::LEN] = {};
#pragma unroll 4
    for (unsigned image = 0; image < b; image++) {
        const Vec<T> v = load_chunk(x + (size_t(image) * t + from + blockIdx.x) * c, j, c, vectors);
#pragma unroll
        for (unsigned i = 0; i < Vec<T>::LEN; i++) total[i] += to_f32(v.at[i]);
    }
#pragma unroll
    for (unsigned i = 0; i < Vec<T>::LEN; i++)
        if (j + i < c) sum[size_t(blockIdx.x) * c + j + i] += total[i];
}

// Row to + i of each image of y becomes, or grows by, row from + i of x; blockIdx.x = image * n + i.
// Traffic: 2, with `add` 3 b n c elements.
template <class T>
__device__ void copy(T* y, const T* x, unsigned n, unsigned ty, unsigned tx, unsigned to, unsigned from, unsigned c, unsigned add, unsigned vectors) {
    const unsigned j = column<T>(), image = blockIdx.x / n, i = blockIdx.x % n;
    if (j >= c) return;
    T* const target = y + (size_t(image) * ty + to + i) * c;
    Vec<T> v = load_chunk(x + (size_t(image) * tx + from + i) * c, j, c, vectors);
    if (add) {
        const Vec<T> old = load_chunk(target, j, c, vectors);
#pragma unroll
        for (unsigned k = 0; k < Vec<T>::LEN; k++) v.at[k] = from_f32<T>(to_f32(old.at[k]) + to_f32(v.at[k]));
    }
    store_chunk(target, j, c, v, vectors);
}

// x += row, for every row of x; blockIdx.x = row. Traffic: x twice.
template <class T> __device__ void add_row(T* x, const float* row, unsigned c, unsigned vectors) {
    const unsigned j = column<T>();
    if (j >= c) return;
    Vec<T> v = load_chunk(x + size_t(blockIdx.x) * c, j, c, vectors);
    const Floats<T> r = load_floats<T>(row, j, c, vectors);
#pragma unroll
    for (unsigned i = 0; i < Vec<T>::LEN; i++) v.at[i] = from_f32<T>(to_f32(v.at[i]) + r.at[i]);
    store_chunk(x + size_t(blockIdx.x) * c, j, c, v, vectors);
}

#define TOKENS_FORMS(T, form) \
    extern "C" __global__ void __launch_bounds__(THREADS) tokens_embed_##form( \
        T* __restrict__ x, const T* __restrict__ patches, const float* __restrict__ cls, const float* __restrict__ positions, \
        unsigned t, unsigned c, unsigned vectors) { \
        embed(x, patches, cls, positions, t, c, vectors); \
    } \
    EXPORT(tokens_embed_##form) \
    extern "C" __global__ void __launch_bounds__(THREADS) tokens_sum_images_##form( \
        float* __restrict__ sum, const T* __restrict__ x, unsigned b, unsigned t, unsigned c, unsigned from, unsigned vectors) { \
        sum_images(sum, x, b, t, c, from, vectors); \
    } \
    EXPORT(tokens_sum_images_##form) \
    extern "C" __global__ void __launch_bounds__(THREADS) tokens_copy_##form( \
        T* __restrict__ y, const T* __restrict__ x, unsigned n, unsigned ty, unsigned tx, unsigned to, unsigned from, unsigned c, \
        unsigned add, unsigned vectors) { \
        copy(y, x, n, ty, tx, to, from, c, add, vectors); \
    } \
    EXPORT(tokens_copy_##form) \
    extern "C" __global__ void __launch_bounds__(THREADS) tokens_add_row_##form( \
        T* __restrict__ x, const float* __restrict__ row, unsigned c, unsigned vectors) { \
        add_row(x, row, c, vectors); \
    } \
    EXPORT(tokens_add_row_##form)

TOKENS_FORMS(float, f32)
TOKENS_FORMS(bf16, bf16)
TOKENS_FORMS(f16, f16)
