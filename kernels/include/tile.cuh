// Tiles of matrices of 16-bit numbers in shared memory, and the operands of mma.m16n8k16 from them.
#pragma once
#include "common.cuh"
#include "ptx.cuh"

// Which index of an operand is contiguous: the one that is summed over, or the other.
enum class Inner { Depth, Outer };

// Rows of a matrix in global memory: where a row begins, or null beyond the end.
template <class T> struct Matrix {
    const T* data;
    unsigned ld, rows;
    __device__ __forceinline__ const T* operator()(unsigned row) const {
        return row < rows ? data + size_t(row) * ld : nullptr;
    }
};

// A tile of ROWS x COLS. Chunks of 16 bytes are permuted within a row so that the eight rows of an
// ldmatrix fall into different banks.
template <class T, unsigned ROWS, unsigned COLS> struct Tile {
    static constexpr unsigned CHUNK = 8, CHUNKS = COLS / CHUNK, SIZE = ROWS * COLS;
    static_assert(sizeof(T) == 2 && (CHUNKS == 4 || CHUNKS % 8 == 0));

    T* data;

    __device__ __forceinline__ T* at(unsigned row, unsigned col) const {
        // A row of 32 is half a line of the banks: two rows share a permutation.
        const unsigned turn = CHUNKS == 4 ? row / 2 % 4 : row % 8;
        return data + row * COLS + (col / CHUNK ^ turn) * CHUNK + col % CHUNK;
    }

    // Fills the tile from row0, col0 of `rows`, a function from a row to its start or null; zeros there
    // and from col_end on. With `vectors`, rows start at multiples of 16 bytes and col_end is a multiple
    // of 8; the copies are then those of cp.async, otherwise they are done on return.
    template <unsigned THREADS, class Rows>
    __device__ __forceinline__ void load(const Rows& rows, unsigned row0, unsigned col0, unsigned col_end,
                                         bool vectors) const {
        static_assert(ROWS * CHUNKS % THREADS == 0);
#pragma unroll
        for (unsigned i = 0; i < ROWS * CHUNKS / THREADS; i++) {
            const unsigned chunk = i * THREADS + threadIdx.x;
            const unsigned r = chunk / CHUNKS, c = chunk % CHUNKS * CHUNK, col = col0 + c;
            const T* const row = rows(row0 + r);
            const bool some = row != nullptr && col < col_end;
            if (vectors) {
                cp_async16(at(r, c), some ? row + col : nullptr, some);
            } else {
                Vec<T> v;
#pragma unroll
                for (unsigned e = 0; e < CHUNK; e++) v.at[e] = some && col + e < col_end ? row[col + e] : from_f32<T>(0.f);
                store_vec(at(r, c), v);
            }
        }
    }

    // One warp writes the rows first..first + 16 to `rows` (a function as above, of the same numbers).
    template <class Rows>
    __device__ __forceinline__ void store_warp(const Rows& rows, unsigned first, unsigned cols, bool vectors) const {
        for (unsigned i = threadIdx.x % WARP; i < 16 * CHUNKS; i += WARP) {
            const unsigned r = first + i / CHUNKS, col = i % CHUNKS * CHUNK;
            T* const row = rows(r);
            if (row == nullptr || col >= cols) continue;
            if (vectors) {
                store_vec(row + col, load_vec(at(r, col)));
            } else {
                for (unsigned e = 0; e < min(CHUNK, cols - col); e++) row[col + e] = at(r, col)[e];
            }
        }
    }
};

// Four 8x8 matrices of a tile: 16 outer x 16 deep from (outer, k). The second matrix is the next one
// in the outer direction or in depth.
template <Inner I, bool OUTER_SECOND, class Operand>
__device__ __forceinline__ void fragment(uint32_t (&r)[4], const Operand& tile, unsigned outer, unsigned k) {
    const unsigned lane = threadIdx.x % WARP, second = lane / 8 % 2 * 8, third = lane / 16 * 8;
    outer += OUTER_SECOND ? second : third;
    k += OUTER_SECOND ? third : second;
    if constexpr (I == Inner::Depth) ldmatrix_x4(r, tile.at(outer + lane % 8, k));
    else ldmatrix_x4_trans(r, tile.at(k + lane % 8, outer));
}

// `a` of mma_16816: 16 rows.
template <Inner I, class Operand>
__device__ __forceinline__ void fragment_a(uint32_t (&r)[4], const Operand& tile, unsigned row, unsigned k) {
    fragment<I, true>(r, tile, row, k);
}
// `b` of mma_16816 for two products side by side: r[0], r[1] for eight columns, r[2], r[3] for the next.
template <Inner I, class Operand>
__device__ __forceinline__ void fragment_b(uint32_t (&r)[4], const Operand& tile, unsigned col, unsigned k) {
    fragment<I, false>(r, tile, col, k);
}
