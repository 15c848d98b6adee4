// cross_entropy: masked softmax cross-entropy, its gradient and the number of right answers.
//
//   logits, dlogits  (b, k) f32;  labels (b) u32, or weights (b, k) f32 of images that are several classes in part
//   mask             (k) u32 for all images (mask_step 0) or (b, k) (mask_step k), not 0: the class takes part
//   outcome          (2)    f32: mean loss, right answers
//   target           (1 - smoothing) on the label, or times the weights, + share on each allowed class,
//                    share = smoothing / allowed
//
// One warp per image, 8 images a block; what the images say is added in a fixed order by a second kernel. A
// label that is masked or no class, or a masked class with a share, makes loss and gradient of its image NaN. Traffic:
// 4 b k numbers, mostly from the cache; with weights 6 b k.
#include "include/common.cuh"

constexpr unsigned WARPS = 8;
constexpr unsigned THREADS = WARP * WARPS;

// The class with the largest share of an image, the lower of equals, by the warp; k where one that is masked has a share.
__device__ __forceinline__ unsigned main_class(const float* weights, const uint32_t* mask, unsigned k) {
    const unsigned lane = threadIdx.x % WARP;
    uint64_t best = 0;
    bool wrong = false;
    for (unsigned j = lane; j < k; j += WARP) {
        // Shares are not negative: their bits are in their order.
        const uint64_t candidate = uint64_t(__float_as_uint(weights[j] + 0.f)) << 32 | ~j;
        best = candidate > best ? candidate : best;
        wrong |= weights[j] != 0.f && !mask[j];
    }
#pragma unroll
    for (int o = 16; o > 0; o >>= 1) {
        const uint64_t other = __shfl_xor_sync(ALL_LANES, best, o);
        best = other > best ? other : best;
    }
    return __any_sync(ALL_LANES, wrong) ? k : ~uint32_t(best);
}

// said (b, 2): loss and 0 or 1 of each image. dlogits may be null. One of labels and weights is.
template <bool SOFT>
__device__ __forceinline__ void one_image(
    float* __restrict__ said, float* __restrict__ dlogits, const float* __restrict__ logits, const uint32_t* __restrict__ labels,
    const float* __restrict__ all_weights, const uint32_t* __restrict__ masks, unsigned b, unsigned k, unsigned mask_step,
    float smoothing) {
    const unsigned lane = threadIdx.x % WARP;
    const size_t image = size_t(blockIdx.x) * WARPS + threadIdx.x / WARP;
    if (image >= b) return;
    const float* const z = logits + image * k;
    const uint32_t* const mask = masks + image * mask_step;
    const float* const weights = SOFT ? all_weights + image * k : nullptr;
    const unsigned label = SOFT ? main_class(weights, mask, k) : labels[image];
    const float own = label < k && mask[label] ? z[label] : CUDART_NAN_F;

    float most = own, allowed = 0.f;
    bool beaten = !(own == own);
    for (unsigned j = lane; j < k; j += WARP) {
        if (!mask[j]) continue;
        allowed += 1.f;
        most = fmaxf(most, z[j]);
        beaten |= z[j] > own || (z[j] == own && j < label);
    }
    allowed = warp_sum(allowed);
    most = warp_max(most);
    beaten = __any_sync(ALL_LANES, beaten);

    float sum = 0.f;
    for (unsigned j = lane; j < k; j += WARP)
        if (mask[j]) sum += expf(z[j] - most);
    // -log p of class j is log_sum + (most - z[j]).
    sum = own == own ? warp_sum(sum) : CUDART_NAN_F;
    const float log_sum = logf(sum);

    const float share = smoothing / allowed;
    float rest = 0.f;
    for (unsigned j = lane; j < k; j += WARP) {
        const float part = SOFT ? (1.f - smoothing) * weights[j] : 0.f;
        if (mask[j]) rest += (share + part) * (log_sum + (most - z[j]));
        if (!dlogits) continue;
        const float target = share + (SOFT ? part : j == label ? 1.f - smoothing : 0.f);
        dlogits[image * k + j] = mask[j] ? (expf(z[j] - most) / sum - target) / float(b) : 0.f;
    }
    rest = warp_sum(rest);
    if (lane == 0) {
        said[2 * image] = (SOFT ? 0.f : (1.f - smoothing) * (log_sum + (most - own))) + rest;
        said[2 * image + 1] = beaten ? 0.f : 1.f;
    }
}

extern "C" __global__ void __launch_bounds__(THREADS) cross_entropy_forward_backward_f32(
    float* __restrict__ said, float* __restrict__ dlogits, const float* __restrict__ logits, const uint32_t* __restrict__ labels,
    const uint32_t* __restrict__ mask, unsigned b, unsigned k, unsigned mask_step, float smoothing) {
    one_image<false>(said, dlogits, logits, labels, nullptr, mask, b, k, mask_step, smoothing);
}
EXPORT(cross_entropy_forward_backward_f32)

extern "C" __global__ void __launch_bounds__(THREADS) cross_entropy_forward_backward_soft_f32(
    float* __restrict__ said, float* __restrict__ dlogits, const float* __restrict__ logits, const float* __restrict__ weights,
    const uint32_t* __restrict__ mask, unsigned b, unsigned k, unsigned mask_step, float smoothing) {
    one_image<true>(said, dlogits, logits, nullptr, weights, mask, b, k, mask_step, smoothing);
}
EXPORT(cross_entropy_forward_backward_soft_f32)

// outcome = the mean of the losses and the sum of the right answers. One block.
extern "C" __global__ void __launch_bounds__(THREADS) cross_entropy_outcome_f32(
    float* __restrict__ outcome, const float* __restrict__ said, unsigned b) {
    float loss = 0.f, correct = 0.f;
    for (size_t image = threadIdx.x; image < b; image += THREADS) {
        loss += said[2 * image];
        correct += said[2 * image + 1];
    }
    loss = block_sum<WARPS>(loss);
    correct = block_sum<WARPS>(correct);
    if (threadIdx.x == 0) {
        outcome[0] = loss / float(b);
        outcome[1] = correct;
    }
}
EXPORT(cross_entropy_outcome_f32)
