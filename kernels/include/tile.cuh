// Tiles of matrices of 16-bit numbers in shared memory, and the operands of mma.m16n8k16 from them.
#pragma once
#include <type_traits>

#include "common.cuh"
#include "ptx.cuh"

// Rows of a matrix in global memory, of which the first `end` are there.
template <class T> struct Matrix {
    const T* data;
    unsigned ld, end;
    __device__ __forceinline__ const T* operator()(unsigned row) const { return data + size_t(row) * ld; }
};

// A tile of ROWS x COLS. Chunks of 16 bytes are permuted within a row so that the eight rows of an
// ldmatrix fall into different banks.
template <class T, unsigned ROWS, unsigned COLS> struct Tile {
    static constexpr unsigned CHUNK = 8, CHUNKS = COLS / CHUNK, COLUMNS = COLS, SIZE = ROWS * COLS;
    static_assert(sizeof(T) == 2 && (CHUNKS == 4 || CHUNKS % 8 == 0));

    T* data;

    __device__ __forceinline__ T* at(unsigned row, unsigned col) const {
        // A row of 32 is half a line of the banks: two rows share a permutation.
        const unsigned turn = CHUNKS == 4 ? row / 2 % 4 : row % 8;
        return data + row * COLS + (col / CHUNK ^ turn) * CHUNK + col % CHUNK;
    }

    // Fills the tile from row0, col0 of `rows`, which says where a row begins and has their `end`; zeros from there
    // and from col_end on. With VECTORS, rows start at multiples of 16 bytes and col_end is a multiple
    // of 8; the copies are then those of cp.async, otherwise they are done on return.
    template <unsigned THREADS, bool VECTORS, class Rows>
    __device__ __forceinline__ void load(const Rows& rows, unsigned row0, unsigned col0, unsigned col_end) const {
        static_assert(ROWS * CHUNKS % THREADS == 0);
#pragma unroll
        for (unsigned i = 0; i < ROWS * CHUNKS / THREADS; i++) {
            const unsigned chunk = i * THREADS + threadIdx.x;
            const unsigned r = chunk / CHUNKS, c = chunk % CHUNKS * CHUNK, col = col0 + c;
            const bool some = row0 + r < rows.end && col < col_end;
            if constexpr (VECTORS) {
                cp_async16(at(r, c), rows(row0 + r) + col, some);
            } else {
                Vec<T> v;
#pragma unroll
                for (unsigned e = 0; e < CHUNK; e++) v.at[e] = some && col + e < col_end ? rows(row0 + r)[col + e] : from_f32<T>(0.f);
                store_vec(at(r, c), v);
            }
        }
    }

    // One warp writes COUNT rows from `first` on to those of `rows` from row0 on, where they are there.
    template <unsigned COUNT, bool VECTORS, class Rows>
    __device__ __forceinline__ void store_warp(const Rows& rows, unsigned row0, unsigned first, unsigned cols) const {
        for (unsigned i = threadIdx.x % WARP; i < COUNT * CHUNKS; i += WARP) {
            const unsigned r = first + i / CHUNKS, col = i % CHUNKS * CHUNK;
            if (row0 + r >= rows.end || col >= cols) continue;
            T* const row = rows(row0 + r);
            if constexpr (VECTORS) {
                store_vec(row + col, load_vec(at(r, col)));
            } else {
                for (unsigned e = 0; e < min(CHUNK, cols - col); e++) row[col + e] = at(r, col)[e];
            }
        }
    }
};

// The chunks that one thread copies into tile after tile of an operand: OUTER wide, DEPTH deep, the next tile DEPTH further on. Places are
// computed once and then moved. Beyond the depth zeros are written and nothing is read; beyond the outer end the last row (of
// Inner::Depth) or chunk is read again, whose products nobody keeps.
template <class T, Inner I, unsigned OUTER, unsigned DEPTH, unsigned THREADS> struct Stream {
    using Into = std::conditional_t<I == Inner::Depth, Tile<T, OUTER, DEPTH>, Tile<T, DEPTH, OUTER>>;
    static constexpr unsigned COUNT = Into::SIZE / Into::CHUNK / THREADS, ROWS_APART = THREADS / Into::CHUNKS;
    static_assert(Into::SIZE % (Into::CHUNK * THREADS) == 0 && THREADS % Into::CHUNKS == 0);
    static_assert(ROWS_APART % 8 == 0); // so that a thread's chunks have one permutation

    const T* from[COUNT];
    size_t step;           // elements from a tile to the next
    unsigned row, col;     // of the first chunk in the tile; the next ones lie ROWS_APART further down

    // `data` has rows `ld` apart. Rows start at multiples of 16 bytes, their ends are multiples of 8.
    __device__ __forceinline__ Stream(const T* data, unsigned ld, unsigned outer0, unsigned outer_end, unsigned depth0)
        : step(I == Inner::Depth ? DEPTH : size_t(DEPTH) * ld), row(threadIdx.x / Into::CHUNKS),
          col(threadIdx.x % Into::CHUNKS * Into::CHUNK) {
#pragma unroll
        for (unsigned i = 0; i < COUNT; i++) {
            const unsigned r = row + i * ROWS_APART;
            if constexpr (I == Inner::Depth) from[i] = data + size_t(min(outer0 + r, outer_end - 1)) * ld + depth0 + col;
            else from[i] = data + size_t(depth0 + r) * ld + min(outer0 + col, outer_end - Into::CHUNK);
        }
    }

    // Fills `tile`, of whose depth `left` remains, in the background and moves on.
    __device__ __forceinline__ void copy(const Into& tile, int left) {
        T* const to = tile.at(row, col);
#pragma unroll
        for (unsigned i = 0; i < COUNT; i++) {
            const unsigned k = I == Inner::Depth ? col : row + i * ROWS_APART;
            cp_async16(to + i * ROWS_APART * Into::COLUMNS, from[i], int(k) < left);
            from[i] += step;
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
