// patches: images to rows of pixels. Patch (y, x) of an image becomes the row [u, v, channel].
//
//   images   (b, side, side, channels)                        f32
//   rows     (b (side/patch)^2, patch patch channels)         T
//
// blockIdx.x = row; one chunk of 16 bytes of the row a thread, 128 threads a block. Traffic: both once.
#include "include/chunk.cuh"

constexpr unsigned THREADS = 128;

// `vectors`: no chunk crosses a line of a patch, and lines of patches begin at multiples of 16 bytes.
template <class T>
__device__ void forward(T* rows, const float* images, unsigned side, unsigned patch, unsigned channels, unsigned vectors) {
    const unsigned line = patch * channels, width = patch * line, grid = side / patch;
    const unsigned j = (blockIdx.y * THREADS + threadIdx.x) * Vec<T>::LEN;
    if (j >= width) return;
    const unsigned image = blockIdx.x / (grid * grid), y = blockIdx.x / grid % grid, x = blockIdx.x % grid;
    const float* const corner = images + ((size_t(image) * side + size_t(y) * patch) * side + size_t(x) * patch) * channels;
    const size_t next_line = size_t(side) * channels;
    Vec<T> v;
    if (vectors) {
        const Floats<T> pixels = load_floats<T>(corner + j / line * next_line, j % line, line, vectors);
#pragma unroll
        for (unsigned i = 0; i < Vec<T>::LEN; i++) v.at[i] = from_f32<T>(pixels.at[i]);
    } else {
#pragma unroll
        for (unsigned i = 0; i < Vec<T>::LEN; i++) {
            const unsigned at = j + i;
            v.at[i] = from_f32<T>(at < width ? corner[at / line * next_line + at % line] : 0.f);
        }
    }
    store_chunk(rows + size_t(blockIdx.x) * width, j, width, v, vectors);
}

#define PATCHES_FORMS(T, form) \
    extern "C" __global__ void __launch_bounds__(THREADS) patches_forward_##form( \
        T* __restrict__ rows, const float* __restrict__ images, unsigned side, unsigned patch, unsigned channels, unsigned vectors) { \
        forward(rows, images, side, patch, channels, vectors); \
    } \
    EXPORT(patches_forward_##form)

PATCHES_FORMS(float, f32)
PATCHES_FORMS(bf16, bf16)
PATCHES_FORMS(f16, f16)
