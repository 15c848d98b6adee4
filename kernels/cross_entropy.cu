// cross_entropy: masked softmax cross-entropy, its gradient and the number of right answers.
//
//   logits, dlogits  (b, k) f32;  labels (b) u32;  mask (k) u32, not 0: the class takes part
//   outcome          (2)    f32: mean loss, right answers
//   target           (1 - smoothing) on the label + share on each allowed class, share = smoothing / allowed
//
// One warp per image, 8 images a block; what the images say is added in a fixed order by a second kernel. A
// label that is masked or no class makes its loss and gradient NaN. Traffic: 4 b k numbers, mostly from the cache.
#include "include/common.cuh"

constexpr unsigned WARPS = 8;
constexpr unsigned THREADS = WARP * WARPS;

// said (b, 2): loss and 0 or 1 of each image. dlogits may be null.
extern "C" __global__ void __launch_bounds__(THREADS) cross_entropy_forward_backward_f32(
    float* __restrict__ said, float* __restrict__ dlogits, const float* __restrict__ logits, const uint32_t* __restrict__ labels,
    const uint32_t* __restrict__ mask, unsigned b, unsigned k, float smoothing) {
    const unsigned lane = threadIdx.x % WARP;
    const size_t image = size_t(blockIdx.x) * WARPS + threadIdx.x / WARP;
    if (image >= b) return;
    const float* const z = logits + image * k;
    const unsigned label = labels[image];
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
    float smooth = 0.f;
    for (unsigned j = lane; j < k; j += WARP) {
        if (mask[j]) smooth += share * (log_sum + (most - z[j]));
        if (!dlogits) continue;
        const float target = share + (j == label ? 1.f - smoothing : 0.f);
        dlogits[image * k + j] = mask[j] ? (expf(z[j] - most) / sum - target) / float(b) : 0.f;
    }
    smooth = warp_sum(smooth);
    if (lane == 0) {
        said[2 * image] = (1.f - smoothing) * (log_sum + (most - own)) + smooth;
        said[2 * image + 1] = beaten ? 0.f : 1.f;
    }
}
EXPORT(cross_entropy_forward_backward_f32)

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
