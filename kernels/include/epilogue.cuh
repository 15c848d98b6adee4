// What is done with the sums of a product before they are stored, in this order; a null pointer leaves a part out:
//   v = sum + bias[col];  pre = v;  v = gelu(v);  v = v * gelu'(slope);  v = v + residual
// To add to the output, pass the output itself as the residual.
#pragma once
#include "common.cuh"
#include "gelu.cuh"

// The sums of a block on their way to global memory: ROWS x COLS of f32, permuted as 16-byte chunks
// so that the rows of a warp's accumulators fall into different banks.
template <unsigned ROWS, unsigned COLS> struct Sums {
    float* data;
    __device__ __forceinline__ float* at(unsigned row, unsigned col) const {
        return data + row * COLS + ((col / 4 ^ row % 4 * 2) * 4 + col % 4);
    }
};

template <class T> struct Ending {
    T* out;
    T* pre; // lies like out
    const float* bias;
    const T* residual;
    const T* slope; // lies like out
    unsigned ld, ld_residual, gelu;
    bool vectors; // every group of four columns is whole and aligned
};

template <class T> struct alignas(4 * sizeof(T)) Four { T at[4]; };

// Four neighbours of a row, of which the first `count` exist.
template <class T> __device__ __forceinline__ void read_four(float (&v)[4], const T* from, unsigned count, bool vectors) {
    if (vectors) {
        const Four<T> four = *reinterpret_cast<const Four<T>*>(from);
#pragma unroll
        for (unsigned e = 0; e < 4; e++) v[e] = to_f32(four.at[e]);
    } else {
#pragma unroll
        for (unsigned e = 0; e < 4; e++) v[e] = e < count ? to_f32(from[e]) : 0.f;
    }
}
template <class T> __device__ __forceinline__ void write_four(T* to, const float (&v)[4], unsigned count, bool vectors) {
    if (vectors) {
        Four<T> four;
#pragma unroll
        for (unsigned e = 0; e < 4; e++) four.at[e] = from_f32<T>(v[e]);
        *reinterpret_cast<Four<T>*>(to) = four;
    } else {
#pragma unroll
        for (unsigned e = 0; e < 4; e++) {
            if (e < count) to[e] = from_f32<T>(v[e]);
        }
    }
}

// Writes the part of the sums, of which the first is that of row0 and col0, that lies within (rows, cols), four neighbours per
// thread; `thread` is one of THREADS.
template <unsigned THREADS, class T, unsigned ROWS, unsigned COLS>
__device__ __forceinline__ void finish(unsigned thread, Sums<ROWS, COLS> sums, const Ending<T>& end, unsigned row0,
                                       unsigned col0, unsigned rows, unsigned cols) {
    const unsigned col = col0 + thread % (COLS / 4) * 4;
    if (col >= cols) return;
    const unsigned count = min(4u, cols - col);
    float bias[4] = {};
    if (end.bias != nullptr) read_four(bias, end.bias + col, count, false);
    for (unsigned r = thread / (COLS / 4); r < ROWS && row0 + r < rows; r += THREADS / (COLS / 4)) {
        const size_t at = size_t(row0 + r) * end.ld + col;
        float v[4];
        read_four(v, sums.at(r, col - col0), 4, true);
#pragma unroll
        for (unsigned e = 0; e < 4; e++) v[e] += bias[e];
        if (end.pre != nullptr) write_four(end.pre + at, v, count, end.vectors);
        if (end.slope != nullptr) {
            float x[4];
            read_four(x, end.slope + at, count, end.vectors);
#pragma unroll
            for (unsigned e = 0; e < 4; e++) v[e] *= gelu_slope<T>(x[e], end.gelu);
        } else if (end.gelu != GELU_NONE) {
#pragma unroll
            for (unsigned e = 0; e < 4; e++) v[e] = gelu_value<T>(v[e], end.gelu);
        }
        if (end.residual != nullptr) {
            float x[4];
            read_four(x, end.residual + size_t(row0 + r) * end.ld_residual + col, count, end.vectors);
#pragma unroll
            for (unsigned e = 0; e < 4; e++) v[e] += x[e];
        }
        write_four(end.out + at, v, count, end.vectors);
    }
}
