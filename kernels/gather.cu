// gather: rows of a table into token sequences by number, and their gradients back.
//
//   tokens  (B, T, c)  T, already at the first row that is written; images are `ld` elements apart
//   table   (R, c)     f32 (`forward`, `backward`) or T (`forward_narrow`, `backward_narrow`), and its gradient
//   ids     (B, n)     u32; an id stands for `length` rows of the table. Rows that the table does not have are passed over.
#include "include/chunk.cuh"

constexpr unsigned THREADS = 128;

// tokens[b, i length + l] = table[ids[b, i] length + l]. blockIdx.x = row of all images, one chunk of 16 bytes a
// thread, 128 threads a block. Traffic: 2 B n length c elements.
template <class T, class Table>
__device__ void forward(T* tokens, const Table* table, const uint32_t* ids, unsigned table_rows, unsigned n, unsigned length, unsigned c, unsigned ld, unsigned vectors) {
    const unsigned j = (blockIdx.y * THREADS + threadIdx.x) * Vec<T>::LEN;
    const unsigned per_image = n * length, image = blockIdx.x / per_image, row = blockIdx.x % per_image;
    const size_t from = size_t(ids[size_t(image) * n + row / length]) * length + row % length;
    if (j >= c || from >= table_rows) return;
    Vec<T> v;
#pragma unroll
    for (unsigned i = 0; i < Vec<T>::LEN; i++)
        if (j + i < c) v.at[i] = from_f32<T>(to_f32(table[from * c + j + i]));
    store_chunk(tokens + size_t(image) * ld + size_t(row) * c, j, c, v, vectors);
}

constexpr unsigned SHARES = 8;

// dtable[r] += the sum of the rows of dtokens that came from r. blockIdx.x = r, blockIdx.y = group of 32 chunks of
// columns; 256 threads a block. Each warp looks through an eighth of the `places` = B n ids, 32 at a time, and sums what
// it finds in the order of the places; the eighths are added in order. Traffic: B n length c + 2 R c elements, and
// the ids once per block, from the cache.
template <class Table, class T>
__device__ void backward(Table* dtable, const T* dtokens, const uint32_t* ids, unsigned places, unsigned n, unsigned length, unsigned c, unsigned ld, unsigned vectors) {
    constexpr unsigned COLUMNS = WARP * Vec<T>::LEN;
    SMEM(float, partial, SHARES * COLUMNS);
    const unsigned prompt = blockIdx.x / length, part = blockIdx.x % length;
    const unsigned warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, j = blockIdx.y * COLUMNS + lane * Vec<T>::LEN;
    const unsigned share = div_ceil(places, SHARES), end = min(places, (warp + 1) * share);
    float sum[Vec<T>::LEN] = {};
    for (unsigned first = warp * share; first < end; first += WARP) {
        const bool here = first + lane < end && ids[first + lane] == prompt;
        for (uint32_t found = __ballot_sync(ALL_LANES, here); found != 0; found &= found - 1) {
            const unsigned place = first + unsigned(__ffs(int(found))) - 1;
            const size_t row = size_t(place / n) * ld + size_t(place % n * length + part) * c;
            if (j >= c) continue;
            const Vec<T> v = load_chunk(dtokens + row, j, c, vectors);
#pragma unroll
            for (unsigned i = 0; i < Vec<T>::LEN; i++) sum[i] += to_f32(v.at[i]);
        }
    }
#pragma unroll
    for (unsigned i = 0; i < Vec<T>::LEN; i++) partial[warp * COLUMNS + lane * Vec<T>::LEN + i] = sum[i];
    __syncthreads();
    const unsigned column = blockIdx.y * COLUMNS + threadIdx.x;
    if (threadIdx.x >= COLUMNS || column >= c) return;
    float all = 0.f;
#pragma unroll
    for (unsigned s = 0; s < SHARES; s++) all += partial[s * COLUMNS + threadIdx.x];
    Table* const to = dtable + size_t(blockIdx.x) * c + column;
    *to = from_f32<Table>(to_f32(*to) + all);
}

#define GATHER_FORMS(T, Table, forth, back, form) \
    extern "C" __global__ void __launch_bounds__(THREADS) gather_##forth##_##form( \
        T* __restrict__ tokens, const Table* __restrict__ table, const uint32_t* __restrict__ ids, unsigned table_rows, \
        unsigned n, unsigned length, unsigned c, unsigned ld, unsigned vectors) { \
        forward(tokens, table, ids, table_rows, n, length, c, ld, vectors); \
    } \
    EXPORT(gather_##forth##_##form) \
    extern "C" __global__ void __launch_bounds__(SHARES * WARP) gather_##back##_##form( \
        Table* __restrict__ dtable, const T* __restrict__ dtokens, const uint32_t* __restrict__ ids, unsigned places, \
        unsigned n, unsigned length, unsigned c, unsigned ld, unsigned vectors) { \
        backward(dtable, dtokens, ids, places, n, length, c, ld, vectors); \
    } \
    EXPORT(gather_##back##_##form)

GATHER_FORMS(float, float, forward, backward, f32)
GATHER_FORMS(bf16, float, forward, backward, bf16)
GATHER_FORMS(f16, float, forward, backward, f16)
GATHER_FORMS(bf16, bf16, forward_narrow, backward_narrow, bf16)
GATHER_FORMS(f16, f16, forward_narrow, backward_narrow, f16)
