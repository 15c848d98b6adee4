// match_prompts: which prompts an image uses, and the pull term between its query and their keys.
//
//   similarity, dsimilarity  (b, m)   f32
//   ids                      (b, n)   u32; an id that is no prompt is passed over
//   votes                    (groups, m) f32: whole numbers
//   used, counts             (m)      u32: how often each prompt was chosen
//   scores                   (b, m)   f32
//
// All of this is small: what counts is that ids never leave the device. 256 threads a block.
#include "include/common.cuh"

constexpr unsigned WARPS = 8;
constexpr unsigned THREADS = WARP * WARPS;

__device__ __forceinline__ size_t element() { return size_t(blockIdx.x) * THREADS + threadIdx.x; }

// A number that is larger for a better candidate, never 0: by score, ties to the lower position; a NaN is below
// every score.
__device__ __forceinline__ uint64_t rank(float score, unsigned position) {
    const uint32_t bits = __float_as_uint(score + 0.f); // -0 becomes 0
    const uint32_t ordered = score != score ? 0 : bits >> 31 ? ~bits : bits | 0x80000000u;
    return uint64_t(ordered) << 32 | ~position;
}

// ids (b, n) of the `group` images from unit * group: the n best of row `unit` of scores (units, m), best
// first. One warp per unit; each of the n rounds looks for the best candidate behind the last one.
extern "C" __global__ void __launch_bounds__(THREADS) match_prompts_select_f32(
    uint32_t* __restrict__ ids, const float* __restrict__ scores, unsigned b, unsigned n, unsigned m, unsigned group) {
    const unsigned lane = threadIdx.x % WARP;
    const size_t unit = size_t(blockIdx.x) * WARPS + threadIdx.x / WARP;
    const size_t first = unit * group, end = min(first + group, size_t(b));
    if (first >= b) return;
    uint64_t last = ~uint64_t(0);
    for (unsigned i = 0; i < n; i++) {
        uint64_t best = 0;
        for (unsigned j = lane; j < m; j += WARP) {
            const uint64_t candidate = rank(scores[unit * m + j], j);
            if (candidate < last && candidate > best) best = candidate;
        }
#pragma unroll
        for (int o = 16; o > 0; o >>= 1) {
            const uint64_t other = __shfl_xor_sync(ALL_LANES, best, o);
            best = other > best ? other : best;
        }
        last = best;
        for (size_t image = first + lane; image < end; image += WARP) ids[image * n + i] = ~uint32_t(best);
    }
}
EXPORT(match_prompts_select_f32)

// votes[g, j] = how often j is among the ids of the images of group g. One thread per number.
extern "C" __global__ void __launch_bounds__(THREADS) match_prompts_count_votes_f32(
    float* __restrict__ votes, const uint32_t* __restrict__ ids, unsigned b, unsigned n, unsigned m, unsigned group) {
    const size_t g = element() / m, first = g * group, end = min(first + group, size_t(b));
    const unsigned j = element() % m;
    if (first >= b) return;
    unsigned count = 0;
    for (size_t i = first * n; i < end * n; i++) count += ids[i] == j;
    votes[element()] = float(count);
}
EXPORT(match_prompts_count_votes_f32)

// ids[image, i] = start + i; len = b n.
extern "C" __global__ void __launch_bounds__(THREADS) match_prompts_fixed_f32(
    uint32_t* __restrict__ ids, unsigned start, unsigned n, uint64_t len) {
    if (element() < len) ids[element()] = start + unsigned(element() % n);
}
EXPORT(match_prompts_fixed_f32)

// scores: what is chosen rather is larger. A prompt that was used has -(1 - similarity) used, one that never was
// 1 / (1 - similarity), which is beyond all of those; len = b m. One thread per number.
extern "C" __global__ void __launch_bounds__(THREADS) match_prompts_penalise_f32(
    float* __restrict__ scores, const float* __restrict__ similarity, const uint32_t* __restrict__ used, unsigned m, uint64_t len) {
    if (element() >= len) return;
    const float distance = 1.f - similarity[element()], far = distance < 1e-7f ? 1e-7f : distance; // NaN stays NaN
    const uint32_t count = used[element() % m];
    scores[element()] = count ? -far * float(count) : 1.f / far;
}
EXPORT(match_prompts_penalise_f32)

// counts[j] += how often j is among the len ids. One warp per prompt.
extern "C" __global__ void __launch_bounds__(THREADS) match_prompts_count_f32(
    uint32_t* __restrict__ counts, const uint32_t* __restrict__ ids, unsigned m, uint64_t len) {
    const unsigned lane = threadIdx.x % WARP;
    const size_t j = size_t(blockIdx.x) * WARPS + threadIdx.x / WARP;
    if (j >= m) return;
    unsigned count = 0;
    for (size_t i = lane; i < len; i += WARP) count += ids[i] == j;
#pragma unroll
    for (int o = 16; o > 0; o >>= 1) count += __shfl_xor_sync(ALL_LANES, count, o);
    if (lane == 0) counts[j] += count;
}
EXPORT(match_prompts_count_f32)

// out = sum over the ids of all images of their similarity, over b. One block.
extern "C" __global__ void __launch_bounds__(THREADS) match_prompts_pull_f32(
    float* __restrict__ out, const float* __restrict__ similarity, const uint32_t* __restrict__ ids, unsigned b, unsigned n, unsigned m) {
    float sum = 0.f;
    for (size_t i = threadIdx.x; i < size_t(b) * n; i += THREADS)
        if (ids[i] < m) sum += similarity[i / n * m + ids[i]];
    sum = block_sum<WARPS>(sum);
    if (threadIdx.x == 0) out[0] = sum / float(b);
}
EXPORT(match_prompts_pull_f32)

// dsimilarity[image, j] = share for each time that j is among the ids of the image; len = b m. One thread per number.
extern "C" __global__ void __launch_bounds__(THREADS) match_prompts_backward_pull_f32(
    float* __restrict__ dsimilarity, const uint32_t* __restrict__ ids, unsigned n, unsigned m, uint64_t len, float share) {
    if (element() >= len) return;
    const uint32_t* const own = ids + element() / m * n;
    const unsigned j = element() % m;
    float sum = 0.f;
    for (unsigned i = 0; i < n; i++)
        if (own[i] == j) sum += share;
    dsimilarity[element()] = sum;
}
EXPORT(match_prompts_backward_pull_f32)
