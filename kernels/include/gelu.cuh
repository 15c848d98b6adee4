// The formulas of GELU, shared by gelu.cu and the endings of matmul.cu.
//
//   tanh form: x s with s = sigmoid(2 u), u = sqrt(2/pi) (x + 0.044715 x^3), because 1 + tanh u = 2 s
//   erf form:  x Phi(x), Phi the normal distribution function
//
// T is the form of the kernel: f32 takes the library's exp and division, 16-bit forms the special
// function unit, whose error (2^-21) is far below their rounding.
#pragma once
#include "common.cuh"
#include "ptx.cuh"

// As src/ops/gelu/cuda.rs passes them.
enum Gelu : unsigned { GELU_NONE = 0, GELU_TANH = 1, GELU_ERF = 2 };

template <class T> __device__ __forceinline__ float exp_of(float x) {
    if constexpr (sizeof(T) == 4) return expf(x);
    else return exp2_approx(x * 1.442695041f);
}

template <class T> __device__ __forceinline__ float sigmoid(float z) {
    if constexpr (sizeof(T) == 4) return 1.f / (1.f + expf(-z));
    // Beyond 80 the denominator would leave the range in which fast division is exact to 2 ulp.
    else return __fdividef(1.f, 1.f + exp_of<T>(-fmaxf(z, -80.f)));
}

constexpr float GELU_TWICE_ROOT = 1.595769122f; // 2 sqrt(2/pi)
constexpr float GELU_CUBIC = 0.044715f;

template <class T> __device__ __forceinline__ float gelu_sigmoid(float x) {
    return sigmoid<T>(GELU_TWICE_ROOT * (x + GELU_CUBIC * x * x * x));
}
__device__ __forceinline__ float normal_distribution(float x) { return 0.5f * (1.f + erff(x * 0.7071067812f)); }

template <class T> __device__ __forceinline__ float gelu_value(float x, unsigned form) {
    return form == GELU_TANH ? x * gelu_sigmoid<T>(x) : x * normal_distribution(x);
}

// d gelu(x) / dx.
template <class T> __device__ __forceinline__ float gelu_slope(float x, unsigned form) {
    if (form == GELU_TANH) {
        const float s = gelu_sigmoid<T>(x);
        return s + x * s * (1.f - s) * (GELU_TWICE_ROOT * (1.f + 3.f * GELU_CUBIC * x * x));
    }
    return normal_distribution(x) + x * (0.3989422804f * exp_of<T>(-0.5f * x * x));
}
