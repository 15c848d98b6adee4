// preprocess: images as the files hold them to network input, with the pixels of src/data/preprocess.rs bit for bit.
//
//   pixels  (images, height, width, channels)  u8, 1 or 3 channels
//   indices (B)     u32: the image of each place; a place whose image does not exist is passed over
//   first   (2)     u32, low and high half: place i draws from stream `Augment`, index first + i; null: test images
//   table   (6)     f32: mean and deviation of each colour
//   rows    (B N, P P 3)  T, N = (size / P)^2 patches of P x P pixels; P = size: whole images
//
// All images are resized to resize x resize and truncated to bytes. Test image: the centre, / 255. Training image: a
// random box, / 255, resized to size x size, flipped or not. Then (x - mean) / deviation. Both resizes are bilinear, and a
// byte of the first is computed where the second needs it: an output value reads at most 16 bytes.
//
// blockIdx.x = place, blockIdx.y = band of BAND output lines; a thread takes a pixel, 256 threads a block. Traffic: the
// images once, 3 B size^2 values out. Sums and products are rounded one by one: the compiler must not join them.
#include "include/philox.cuh"

constexpr unsigned THREADS = 256;
constexpr unsigned BAND = 32;
// rng::Stream::Augment.
constexpr uint32_t AUGMENT = 2;

struct Box {
    unsigned top, left, height, width;
};

// Height and width of a box; false where rounding leaves nothing within the limits.
__device__ bool crop_size(Rng& rng, int full, float aspect, Box& box) {
    const auto width_of = [&](int h) { return int(rintf(float(h) * aspect)); };
    const float image_area = float(full * full), area_min = 0.05f * image_area;
    const int lowest = int(rintf(sqrtf(area_min / aspect)));
    int highest = int(rintf(sqrtf(image_area / aspect)));
    if (width_of(highest) > full) {
        highest = int(__fadd_rn(__fadd_rn(float(full), 0.5f), -1e-7f) / aspect);
        if (width_of(highest) > full) highest -= 1;
    }
    highest = min(highest, full);
    int h = min(lowest, highest);
    if (h < highest) h += int(rng.below(uint32_t(highest - h + 1)));
    // Rounding may have moved the area just out of its limits.
    const auto area_of = [&](int h) { return float(width_of(h) * h); };
    if (area_of(h) < area_min) h += 1;
    if (area_of(h) > image_area) h -= 1;
    const int w = width_of(h);
    box.height = unsigned(h);
    box.width = unsigned(w);
    return h >= 1 && h <= full && w >= 1 && w <= full && area_of(h) >= area_min && area_of(h) <= image_area;
}

// A random box in an image of full x full pixels.
__device__ Box sample_crop(Rng& rng, unsigned full) {
    for (int attempt = 0; attempt < 100; attempt++) {
        const float aspect = __fadd_rn(__fmul_rn(rng.uniform(), 1.33f - 0.75f), 0.75f);
        Box box = { 0, 0, 0, 0 };
        if (!crop_size(rng, int(full), aspect, box)) continue;
        if (box.height < full) box.top = rng.below(full - box.height);
        if (box.width < full) box.left = rng.below(full - box.width);
        return box;
    }
    return { 0, 0, full, full };
}

// The two source positions of a position of a resized axis and the weight of the upper one.
struct Tap {
    unsigned lower, upper;
    float weight;
};
__device__ __forceinline__ Tap tap(unsigned at, unsigned input, unsigned output) {
    const float scale = float(input) / float(output);
    const float source = __fadd_rn(__fmul_rn(float(at) + 0.5f, scale), -0.5f), low = floorf(source);
    return { min(unsigned(fmaxf(low, 0.f)), input - 1), min(unsigned(fmaxf(ceilf(source), 0.f)), input - 1), source - low };
}
__device__ __forceinline__ float between(float a, float b, float weight) { return __fadd_rn(a, __fmul_rn(b - a, weight)); }

struct Image {
    const uint8_t* pixels;
    unsigned height, width, channels;
    __device__ __forceinline__ float at(unsigned y, unsigned x, unsigned channel) const {
        return float(pixels[(size_t(y) * width + x) * channels + channel]);
    }
};

// The byte at (y, x) of the resized image, over 255; taps of the row and the column in the image.
__device__ __forceinline__ float unit_value(const Image& image, const Tap& y, const Tap& x, unsigned channel) {
    const float top = between(image.at(y.lower, x.lower, channel), image.at(y.lower, x.upper, channel), x.weight);
    const float bottom = between(image.at(y.upper, x.lower, channel), image.at(y.upper, x.upper, channel), x.weight);
    return float(unsigned(between(top, bottom, y.weight))) / 255.f;
}

template <class T>
__device__ void forward(T* rows, const uint8_t* pixels, const uint32_t* indices, const uint32_t* first, const float* table, unsigned images, unsigned height, unsigned width, unsigned channels, unsigned resize, unsigned size, unsigned patch, unsigned flips, uint64_t seed) {
    SMEM(Box, box, 1);
    SMEM(unsigned, flip, 1);
    if (threadIdx.x == 0) {
        const unsigned offset = (resize - size) / 2;
        box[0] = { offset, offset, size, size };
        flip[0] = 0;
        if (first) {
            Rng rng(seed, AUGMENT, (uint64_t(first[1]) << 32 | first[0]) + blockIdx.x);
            box[0] = sample_crop(rng, resize);
            flip[0] = flips ? rng.next_u32() >> 31 : 0;
        }
    }
    __syncthreads();
    const unsigned pick = indices[blockIdx.x];
    if (pick >= images) return;
    const Image image = { pixels + size_t(pick) * height * width * channels, height, width, channels };
    const unsigned grid = size / patch, lines = min(BAND, size - blockIdx.y * BAND);
    for (unsigned i = threadIdx.x; i < lines * size; i += THREADS) {
        const unsigned y = blockIdx.y * BAND + i / size, x = i % size;
        // Where the box is as large as the output, this tap is the position itself with weight 0.
        const Tap down = tap(y, box[0].height, size), across = tap(flip[0] ? size - 1 - x : x, box[0].width, size);
        const Tap upper_row = tap(box[0].top + down.lower, height, resize), lower_row = tap(box[0].top + down.upper, height, resize);
        const Tap left = tap(box[0].left + across.lower, width, resize), right = tap(box[0].left + across.upper, width, resize);
        const size_t row = (size_t(blockIdx.x) * grid + y / patch) * grid + x / patch;
        T* const to = rows + (row * patch * patch + size_t(y % patch) * patch + x % patch) * 3;
#pragma unroll
        for (unsigned channel = 0; channel < 3; channel++) {
            const unsigned from = channels == 1 ? 0 : channel;
            const float top = between(unit_value(image, upper_row, left, from), unit_value(image, upper_row, right, from), across.weight);
            const float bottom = between(unit_value(image, lower_row, left, from), unit_value(image, lower_row, right, from), across.weight);
            to[channel] = from_f32<T>((between(top, bottom, down.weight) - table[channel]) / table[3 + channel]);
        }
    }
}

#define PREPROCESS_FORMS(T, form) \
    extern "C" __global__ void __launch_bounds__(THREADS) preprocess_forward_##form( \
        T* __restrict__ rows, const uint8_t* __restrict__ pixels, const uint32_t* __restrict__ indices, \
        const uint32_t* __restrict__ first, const float* __restrict__ table, unsigned images, unsigned height, unsigned width, \
        unsigned channels, unsigned resize, unsigned size, unsigned patch, unsigned flips, uint64_t seed) { \
        forward(rows, pixels, indices, first, table, images, height, width, channels, resize, size, patch, flips, seed); \
    } \
    EXPORT(preprocess_forward_##form)

PREPROCESS_FORMS(float, f32)
PREPROCESS_FORMS(bf16, bf16)
PREPROCESS_FORMS(f16, f16)
