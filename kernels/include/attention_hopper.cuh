// What the passes of attention for compute capability 9.0 share: tiles of heads of 64 channels, and the way of a product of
// such a tile from registers to memory.
#pragma once
#include "common.cuh"

// A tile is 64 rows of 64 numbers of 16 bits, as a tensor copy with the 128-byte swizzle puts it: 8 rows of 128 bytes lie together.
constexpr unsigned HEAD_WIDTH = 64, TILE_ROWS = 64, ROW_BYTES = HEAD_WIDTH * 2, EIGHT_ROWS = 8 * ROW_BYTES, TILE_BYTES = TILE_ROWS * ROW_BYTES;
constexpr unsigned GROUP = 128; // threads of a warpgroup

// Writes a warp's 16 rows of a product with 64 columns, times a factor for rows g and one for rows g + 8, to rows row0.. of `to`, of
// which there are `count`, `stride` numbers apart. Beyond `count` nothing is written; row0 may have wrapped around.
//
// They go by 16 bytes of whole rows, through the warp's 16 rows of a tile in shared memory that nobody reads any more. That takes no
// shared memory of its own, and unlike a tensor store it has no alignment that `to` must have: without `vectors` numbers go one by one.
template <class T>
__device__ __forceinline__ void store_rows(unsigned char* tile, T* to, unsigned row0, unsigned count, size_t stride,
                                           const float (&sum)[HEAD_WIDTH / 2], float factor, float factor8, bool vectors) {
    const unsigned lane = threadIdx.x % WARP, g = lane / 4, chunk = lane % 8;
    // Chunk c of row r lies at c ^ r % 8, so that neither access has conflicts of banks.
#pragma unroll
    for (unsigned i = 0; i < HEAD_WIDTH / 2; i += 2) {
        const unsigned half = i / 2 % 2;
        const float by = half == 0 ? factor : factor8;
        *reinterpret_cast<uint32_t*>(tile + (g + half * 8) * ROW_BYTES + (i / 4 ^ g) * 16 + lane % 4 * 4) = pack<T>(sum[i] * by, sum[i + 1] * by);
    }
    __syncwarp();
#pragma unroll
    for (unsigned i = 0; i < 4; i++) {
        const unsigned r = i * 4 + lane / 8, row = row0 + r;
        if (row >= count) continue;
        const T* const from = reinterpret_cast<const T*>(tile + r * ROW_BYTES + (chunk ^ r % 8) * 16);
        T* const at = to + row * stride + chunk * 8;
        if (vectors) {
            const uint4 bits = *reinterpret_cast<const uint4*>(from); // nvcc 13.0 splits store_vec in four here
            *reinterpret_cast<uint4*>(at) = bits;
        } else {
            for (unsigned e = 0; e < 8; e++) at[e] = from[e];
        }
    }
}
