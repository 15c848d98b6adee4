// patches: images to rows of pixels. Patch (y, x) of an image becomes the row [u, v, channel].
//
//   images   (b, side, side, channels)                        f32
//   rows     (b (side/patch)^2, patch patch channels)         T
//
// One block row per patch, one thread per pixel value, 128 threads a block. Traffic: both once.
#include "include/common.cuh"

constexpr unsigned THREADS = 128;

template <class T>
__device__ void forward(T* rows, const float* images, unsigned side, unsigned patch, unsigned channels) {
    const unsigned line = patch * channels, width = patch * line, grid = side / patch;
    const unsigned j = blockIdx.y * THREADS + threadIdx.x;
    if (j >= width) return;
    const unsigned image = blockIdx.x / (grid * grid), y = blockIdx.x / grid % grid, x = blockIdx.x % grid;
    const unsigned u = j / line, at = j % line;
    rows[size_t(blockIdx.x) * width + j] =
        from_f32<T>(images[((size_t(image) * side + y * patch + u) * side + x * patch) * channels + at]);
}

#define PATCHES_FORMS(T, form) \
    extern "C" __global__ void __launch_bounds__(THREADS) patches_forward_##form( \
        T* __restrict__ rows, const float* __restrict__ images, unsigned side, unsigned patch, unsigned channels) { \
        forward(rows, images, side, patch, channels); \
    } \
    EXPORT(patches_forward_##form)

PATCHES_FORMS(float, f32)
PATCHES_FORMS(bf16, bf16)
PATCHES_FORMS(f16, f16)
