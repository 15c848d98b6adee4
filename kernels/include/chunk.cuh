// Rows in chunks of 16 bytes. Element j of a row belongs to the same chunk, and so to the same thread,
// whether the chunk is moved by one instruction or element by element: the order of sums does not depend
// on the address.
#pragma once
#include "common.cuh"

// The elements from j on; those at `end` and beyond are zero. `vectors`: all chunks are whole and aligned.
template <class T> __device__ __forceinline__ Vec<T> load_chunk(const T* row, size_t j, size_t end, unsigned vectors) {
    if (vectors) return load_vec(row + j);
    Vec<T> v;
#pragma unroll
    for (unsigned i = 0; i < Vec<T>::LEN; i++) v.at[i] = j + i < end ? row[j + i] : from_f32<T>(0.f);
    return v;
}

// The elements of a row of f32 that belong to chunk j of a row of T.
template <class T> struct Floats {
    float at[Vec<T>::LEN];
};
template <class T> __device__ __forceinline__ Floats<T> load_floats(const float* row, size_t j, size_t end, unsigned vectors) {
    Floats<T> f;
#pragma unroll
    for (unsigned i = 0; i < Vec<T>::LEN; i += Vec<float>::LEN) {
        const Vec<float> v = load_chunk(row, j + i, end, vectors);
#pragma unroll
        for (unsigned k = 0; k < Vec<float>::LEN; k++) f.at[i + k] = v.at[k];
    }
    return f;
}

template <class T> __device__ __forceinline__ void store_chunk(T* row, size_t j, size_t end, const Vec<T>& v, unsigned vectors) {
    if (vectors) return store_vec(row + j, v);
#pragma unroll
    for (unsigned i = 0; i < Vec<T>::LEN; i++)
        if (j + i < end) row[j + i] = v.at[i];
}
