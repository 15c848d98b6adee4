// Random numbers by (seed, stream, index), equal to src/rng.rs bit for bit.
// Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", Philox4x32-10.
#pragma once
#include "common.cuh"

// Ten rounds of Philox4x32.
__device__ __forceinline__ uint4 philox4x32(uint4 counter, uint2 key) {
#pragma unroll
    for (int round = 0; round < 10; round++) {
        const uint64_t p0 = uint64_t(0xD2511F53u) * counter.x;
        const uint64_t p1 = uint64_t(0xCD9E8D57u) * counter.z;
        counter = make_uint4(uint32_t(p1 >> 32) ^ counter.y ^ key.x, uint32_t(p1),
                             uint32_t(p0 >> 32) ^ counter.w ^ key.y, uint32_t(p0));
        key = make_uint2(key.x + 0x9E3779B9u, key.y + 0xBB67AE85u);
    }
    return counter;
}

// The numbers of one (seed, stream, index); `stream` is a value of `rng::Stream`.
class Rng {
  public:
    __device__ __forceinline__ Rng(uint64_t seed, uint32_t stream, uint64_t index)
        : key(make_uint2(uint32_t(seed), uint32_t(seed >> 32))), stream(stream), index(index) {}

    __device__ __forceinline__ uint32_t next_u32() {
        const uint32_t lane = drawn % 4;
        if (lane == 0) {
            block = philox4x32(make_uint4(drawn / 4, stream, uint32_t(index), uint32_t(index >> 32)), key);
        }
        drawn += 1;
        return lane == 0 ? block.x : lane == 1 ? block.y : lane == 2 ? block.z : block.w;
    }

    // Uniform in [0, 1) with 24 bits: exact in f32.
    __device__ __forceinline__ float uniform() { return float(next_u32() >> 8) * (1.f / 16777216.f); }

    // Uniform in [0, 1) with 53 bits.
    __device__ __forceinline__ double uniform_f64() {
        const uint64_t high = next_u32() >> 5;
        const uint64_t low = next_u32() >> 6;
        return double(high * 67108864u + low) * (1.0 / 9007199254740992.0);
    }

    // Uniform integer in [0, n), without bias (Lemire 2019, arXiv:1805.10941). `n` must not be 0.
    __device__ __forceinline__ uint32_t below(uint32_t n) {
        const uint32_t threshold = (0u - n) % n;
        for (;;) {
            const uint64_t product = uint64_t(next_u32()) * n;
            if (uint32_t(product) >= threshold) return uint32_t(product >> 32);
        }
    }

  private:
    uint2 key;
    uint32_t stream;
    uint64_t index;
    uint32_t drawn = 0;
    uint4 block = make_uint4(0, 0, 0, 0);
};
