// distill: the cross-entropy of a network's answers and a teacher's at a temperature T, and its gradient.
//
//   logits z, teacher t, dlogits (b, k) f32;  mask (k) u32, not 0: the class takes part;  distance (1) f32
//   a = softmax(t / T), b = softmax(z / T) over the classes of the mask
//   distance = mean over images of -sum a log b,  dlogits += weight (b - a) / (B T)
//
// One warp per image, 8 images a block; what the images say is added in a fixed order by a second kernel. Without a class
// in the mask the distance is 0. Traffic: 8 b k numbers, mostly from the cache.
#include "include/common.cuh"

constexpr unsigned WARPS = 8;
constexpr unsigned THREADS = WARP * WARPS;

// said (b): the distance of each image.
extern "C" __global__ void __launch_bounds__(THREADS) distill_images_f32(
    float* __restrict__ said, float* __restrict__ dlogits, const float* __restrict__ logits, const float* __restrict__ teacher,
    const uint32_t* __restrict__ mask, unsigned b, unsigned k, float temperature, float weight) {
    const unsigned lane = threadIdx.x % WARP;
    const size_t image = size_t(blockIdx.x) * WARPS + threadIdx.x / WARP;
    if (image >= b) return;
    const float* const z = logits + image * k;
    const float* const t = teacher + image * k;

    float most_z = -CUDART_INF_F, most_t = -CUDART_INF_F;
    for (unsigned j = lane; j < k; j += WARP) {
        if (!mask[j]) continue;
        most_z = fmaxf(most_z, z[j]);
        most_t = fmaxf(most_t, t[j]);
    }
    most_z = warp_max(most_z);
    most_t = warp_max(most_t);

    float sum_z = 0.f, sum_t = 0.f;
    for (unsigned j = lane; j < k; j += WARP) {
        if (!mask[j]) continue;
        sum_z += expf((z[j] - most_z) / temperature);
        sum_t += expf((t[j] - most_t) / temperature);
    }
    sum_z = warp_sum(sum_z);
    sum_t = warp_sum(sum_t);
    const float log_sum = logf(sum_z), scale = weight / (float(b) * temperature);

    float distance = 0.f;
    for (unsigned j = lane; j < k; j += WARP) {
        if (!mask[j]) continue;
        const float own = (z[j] - most_z) / temperature, wanted = expf((t[j] - most_t) / temperature) / sum_t;
        distance += wanted * (log_sum - own);
        dlogits[image * k + j] += scale * (expf(own) / sum_z - wanted);
    }
    distance = warp_sum(distance);
    if (lane == 0) said[image] = distance;
}
EXPORT(distill_images_f32)

// distance = the mean over images. One block.
extern "C" __global__ void __launch_bounds__(THREADS) distill_mean_f32(
    float* __restrict__ distance, const float* __restrict__ said, unsigned b) {
    float sum = 0.f;
    for (size_t image = threadIdx.x; image < b; image += THREADS) sum += said[image];
    sum = block_sum<WARPS>(sum);
    if (threadIdx.x == 0) distance[0] = sum / float(b);
}
EXPORT(distill_mean_f32)
