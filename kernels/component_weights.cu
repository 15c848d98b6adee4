// component_weights: how much of each component an image uses, the cosine of its query times the component's
// attention vector and the component's key.
//
//   w[b, m] = sum_j u(q[b] A[m])[j] u(K[m])[j],  u(x) = x / max(|x|, 1e-12)
//
//   w, dw          (b, m)     f32
//   q              (b, c)     f32; a constant
//   A, K, dA, dK   (m, c)     f32
//   factors        (m, 2, b)  f32: dw / |q A|, and w dw / |q A|^2, which is 0 where the length is at its floor
//
// forward and factors: one warp per component and IMAGES images, 8 components a block; blocks (images, components).
// backward: one block per component, one thread per column. 256 threads a block. The numbers of an image depend on
// no other image, the sums of backward run over images in order. Traffic: q once per component, from the cache; A and
// K once per IMAGES images; backward 6 m c besides.
#include "include/common.cuh"

constexpr unsigned WARPS = 8;
constexpr unsigned THREADS = WARP * WARPS;
constexpr unsigned IMAGES = 4;

// 1 / max(sqrt(squares), 1e-12), and whether the length is above that floor.
struct Inverse {
    float value;
    bool moves;
};
__device__ __forceinline__ Inverse inverse(float squares) {
    const float norm = sqrtf(squares);
    return norm > 1e-12f ? Inverse{ 1.f / norm, true } : Inverse{ 1.f / 1e-12f, false };
}

// Of one component and IMAGES images from `first` on, those behind the last being the last: sum q A K, sum (q A)^2,
// and sum K^2, to all lanes.
struct Products {
    float along[IMAGES], squares[IMAGES], key;
};
__device__ __forceinline__ Products products(
    const float* query, const float* attention, const float* key, unsigned component, unsigned first, unsigned b, unsigned c) {
    const size_t at = size_t(component) * c;
    Products sum = {};
    for (unsigned j = threadIdx.x % WARP; j < c; j += WARP) {
        const float a = attention[at + j], k = key[at + j];
        sum.key = fmaf(k, k, sum.key);
#pragma unroll
        for (unsigned i = 0; i < IMAGES; i++) {
            const float u = query[size_t(min(first + i, b - 1)) * c + j] * a;
            sum.along[i] = fmaf(u, k, sum.along[i]);
            sum.squares[i] = fmaf(u, u, sum.squares[i]);
        }
    }
    sum.key = warp_sum(sum.key);
#pragma unroll
    for (unsigned i = 0; i < IMAGES; i++) {
        sum.along[i] = warp_sum(sum.along[i]);
        sum.squares[i] = warp_sum(sum.squares[i]);
    }
    return sum;
}

extern "C" __global__ void __launch_bounds__(THREADS) component_weights_forward_f32(
    float* __restrict__ weights, const float* __restrict__ query, const float* __restrict__ attention,
    const float* __restrict__ key, unsigned b, unsigned m, unsigned c) {
    const unsigned component = blockIdx.y * WARPS + threadIdx.x / WARP, first = blockIdx.x * IMAGES;
    if (component >= m) return;
    const Products of = products(query, attention, key, component, first, b, c);
    const float to_unit = inverse(of.key).value;
#pragma unroll
    for (unsigned i = 0; i < IMAGES; i++) {
        if (threadIdx.x % WARP == i && first + i < b)
            weights[size_t(first + i) * m + component] = of.along[i] * inverse(of.squares[i]).value * to_unit;
    }
}
EXPORT(component_weights_forward_f32)

extern "C" __global__ void __launch_bounds__(THREADS) component_weights_factors_f32(
    float* __restrict__ factors, const float* __restrict__ dweights, const float* __restrict__ query,
    const float* __restrict__ attention, const float* __restrict__ key, unsigned b, unsigned m, unsigned c) {
    const unsigned component = blockIdx.y * WARPS + threadIdx.x / WARP, first = blockIdx.x * IMAGES;
    if (component >= m) return;
    const Products of = products(query, attention, key, component, first, b, c);
    const float to_unit = inverse(of.key).value;
    float* const own = factors + size_t(component) * 2 * b;
#pragma unroll
    for (unsigned i = 0; i < IMAGES; i++) {
        if (threadIdx.x % WARP == i && first + i < b) {
            const Inverse inv = inverse(of.squares[i]);
            const float factor = dweights[size_t(first + i) * m + component] * inv.value;
            own[first + i] = factor;
            own[b + first + i] = inv.moves ? factor * (of.along[i] * inv.value * to_unit) * inv.value : 0.f;
        }
    }
}
EXPORT(component_weights_factors_f32)

// With S = sum_b factors[0, b] q[b] and R = sum_b factors[1, b] q[b]^2:
//   dA += S u(K) - R A,  dK += S A / |K| - K sum_j (S A K)[j] / |K|^3, the last term only where |K| is above its floor.
extern "C" __global__ void __launch_bounds__(THREADS) component_weights_backward_f32(
    float* __restrict__ dattention, float* __restrict__ dkey, const float* __restrict__ factors,
    const float* __restrict__ query, const float* __restrict__ attention, const float* __restrict__ key, unsigned b, unsigned c) {
    const size_t at = size_t(blockIdx.x) * c;
    const float* const own = factors + size_t(blockIdx.x) * 2 * b;
    float squares = 0.f;
    for (unsigned j = threadIdx.x; j < c; j += THREADS) squares = fmaf(key[at + j], key[at + j], squares);
    const Inverse inv = inverse(block_sum<WARPS>(squares));
    float along = 0.f;
    for (unsigned j = threadIdx.x; j < c; j += THREADS) {
        float s = 0.f, r = 0.f;
#pragma unroll 8
        for (unsigned i = 0; i < b; i++) {
            const float q = query[size_t(i) * c + j];
            s = fmaf(own[i], q, s);
            r = fmaf(own[b + i], q * q, r);
        }
        const float a = attention[at + j], k = key[at + j];
        dattention[at + j] += s * (k * inv.value) - r * a;
        dkey[at + j] += s * a * inv.value;
        along = fmaf(s * a, k, along);
    }
    along = block_sum<WARPS>(along);
    if (!inv.moves) return;
    along *= inv.value * inv.value * inv.value;
    for (unsigned j = threadIdx.x; j < c; j += THREADS) dkey[at + j] -= key[at + j] * along;
}
EXPORT(component_weights_backward_f32)
