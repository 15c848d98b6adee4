// matmul: y = x w and the two products of its backward pass, with what follows them fused.
//
//   forward          y  (M, N)  = x (M, K) w (K, N)
//   backward_input   dx (M, K)  = dy (M, N) w (K, N)^T
//   backward_weight  dw (K, N) += x (M, K)^T dy (M, N)      f32
//
// All matrices are row-major as they lie in memory, with leading dimensions: nothing is transposed
// or copied beforehand. Inside, each product is out (rows, cols) = sum over `depth` of a b, and an
// operand's tile keeps the orientation of memory; ldmatrix transposes on the way to the registers.
//
// 16-bit forms: one block of 4 warps per tile of 128x128 (warps of 64x64) or, for few rows, 64x64 (of
// 32x32), 32 deep, through a pipeline of three stages of cp.async; mma.m16n8k16 with f32 sums. Two blocks of
// large tiles fit on a multiprocessor with 100 KB of shared memory.
// f32 form: tiles of 64x64, 16 deep, fused multiply-adds.
//
// The same bits: an element is summed over its whole depth in order, 16 (f32: 1) at a time, whatever
// the tile and its place, so that a row of y does not depend on M. The weight gradient is cut
// into slices of its depth, by the shape only, and in f32 so is backward_input where it has few columns and a long
// sum, by N and K only; the slices are added in order.
//
// The ending of forward and backward_input is that of epilogue.cuh.
//
// Traffic: each operand and the output once, operands again once per tile that L2 does not serve.
#include <type_traits>

#include "include/common.cuh"
#include "include/epilogue.cuh"
#include "include/tile.cuh"

// out (rows, cols) = sum over depth0 <= k < depth_end of a b, for one tile of out.
struct Extents {
    unsigned rows, cols, depth0, depth_end, lda, ldb;
    bool vectors; // both operands can be loaded by 16 bytes
};

// Blocks of BM x BN by warps of WM x WN. A: depth is contiguous (x, dy) or rows are (xᵀ); B: columns
// are contiguous (w, dy) or depth is (wᵀ).
template <class T, Inner A, Inner B, unsigned BM, unsigned BN, unsigned WM, unsigned WN> struct MmaProduct {
    static constexpr unsigned DEPTH = 32, STAGES = 3, THREADS = BM / WM * (BN / WN) * WARP;
    using StreamA = Stream<T, A, BM, DEPTH, THREADS>;
    using StreamB = Stream<T, B, BN, DEPTH, THREADS>;
    using TileA = typename StreamA::Into;
    using TileB = typename StreamB::Into;
    using Acc = float[WM / 16][WN / 8][4];
    static constexpr unsigned STAGE = TileA::SIZE + TileB::SIZE, PIPELINE = STAGES * STAGE;
    // The sums take the place of the pipeline, WM rows after WM rows.
    static_assert(WM * BN * sizeof(float) <= PIPELINE * sizeof(T));

    // Fills stage after stage, by 16 bytes in the background: both operands are aligned.
    struct Vectors {
        StreamA a;
        StreamB b;
        int left; // depth that no copy has been asked for
        __device__ __forceinline__ void operator()(T* stage) {
            a.copy({ stage }, left);
            b.copy({ stage + TileA::SIZE }, left);
            left -= int(DEPTH);
        }
    };
    // The same element by element, done on return.
    struct Elements {
        const T *a, *b;
        unsigned row0, col0, k;
        const Extents& e;
        __device__ __forceinline__ void operator()(T* stage) {
            const Matrix<T> ma = { a, e.lda, A == Inner::Depth ? e.rows : e.depth_end };
            const Matrix<T> mb = { b, e.ldb, B == Inner::Depth ? e.cols : e.depth_end };
            const TileA ta = { stage };
            const TileB tb = { stage + TileA::SIZE };
            if constexpr (A == Inner::Depth) ta.template load<THREADS, false>(ma, row0, k, e.depth_end);
            else ta.template load<THREADS, false>(ma, k, row0, e.rows);
            if constexpr (B == Inner::Depth) tb.template load<THREADS, false>(mb, col0, k, e.depth_end);
            else tb.template load<THREADS, false>(mb, k, col0, e.cols);
            k += DEPTH;
        }
    };

    // acc += the product of `steps` stages, which `load` fills one after the other.
    template <class Load> static __device__ __forceinline__ void sum_up(Acc& acc, T* pipeline, unsigned steps, Load load) {
        const unsigned warp = threadIdx.x / WARP, wm = warp / (BN / WN) * WM, wn = warp % (BN / WN) * WN;
#pragma unroll
        for (unsigned s = 0; s < STAGES - 1; s++) {
            load(pipeline + s * STAGE);
            cp_async_commit();
        }
        unsigned used = 0, filled = (STAGES - 1) * STAGE;
        for (unsigned step = 0; step < steps; step++) {
            cp_async_wait<STAGES - 2>();
            __syncthreads(); // this stage has landed, and no warp reads the one that is filled next
            load(pipeline + filled); // beyond the depth zeros, which nobody reads
            cp_async_commit();
            T* const stage = pipeline + used;
            filled = filled == PIPELINE - STAGE ? 0 : filled + STAGE;
            used = used == PIPELINE - STAGE ? 0 : used + STAGE;
#pragma unroll
            for (unsigned k = 0; k < DEPTH; k += 16) {
                uint32_t fa[WM / 16][4], fb[WN / 16][4];
#pragma unroll
                for (unsigned i = 0; i < WM / 16; i++) fragment_a<A>(fa[i], TileA{ stage }, wm + i * 16, k);
#pragma unroll
                for (unsigned j = 0; j < WN / 16; j++) fragment_b<B>(fb[j], TileB{ stage + TileA::SIZE }, wn + j * 16, k);
#pragma unroll
                for (unsigned i = 0; i < WM / 16; i++) {
#pragma unroll
                    for (unsigned j = 0; j < WN / 8; j++) {
                        mma_16816<T>(acc[i][j], fa[i], fb[j / 2][j % 2 * 2], fb[j / 2][j % 2 * 2 + 1]);
                    }
                }
            }
        }
        cp_async_wait<0>();
    }

    // Calls done(sums, row) for each WM rows, from `row` of the tile on.
    template <class Done>
    static __device__ __forceinline__ void run(unsigned char* smem, const T* __restrict__ a, const T* __restrict__ b,
                                               unsigned row0, unsigned col0, const Extents& e, const Done& done) {
        const unsigned warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, wn = warp % (BN / WN) * WN;
        const unsigned depth = e.depth_end - e.depth0, steps = div_ceil(depth, DEPTH);
        T* const pipeline = reinterpret_cast<T*>(smem);
        Acc acc = {};
        if (e.vectors) {
            const StreamA stream_a(a, e.lda, row0, e.rows, e.depth0);
            const StreamB stream_b(b, e.ldb, col0, e.cols, e.depth0);
            sum_up(acc, pipeline, steps, Vectors{ stream_a, stream_b, int(depth) });
        } else {
            sum_up(acc, pipeline, steps, Elements{ a, b, row0, col0, e.depth0, e });
        }
        const Sums<WM, BN> sums = { reinterpret_cast<float*>(smem) };
        for (unsigned row = 0; row < BM; row += WM) {
            __syncthreads(); // nobody reads the pipeline, or the rows before, any more
            if (warp / (BN / WN) * WM == row) {
#pragma unroll
                for (unsigned i = 0; i < WM / 16; i++) {
#pragma unroll
                    for (unsigned j = 0; j < WN / 8; j++) {
#pragma unroll
                        for (unsigned half = 0; half < 2; half++) {
                            float* const to = sums.at(i * 16 + half * 8 + lane / 4, wn + j * 8 + lane % 4 * 2);
                            *reinterpret_cast<float2*>(to) = make_float2(acc[i][j][half * 2], acc[i][j][half * 2 + 1]);
                        }
                    }
                }
            }
            __syncthreads();
            done(sums, row);
        }
    }
};

// The same in f32: 256 threads, each 4x4 elements, k one by one.
template <Inner A, Inner B> struct FmaProduct {
    static constexpr unsigned BM = 64, BN = 64, DEPTH = 16, THREADS = 256;
    static constexpr unsigned PITCH = 68; // 64 and a chunk, against bank conflicts
    static constexpr unsigned SMEM_BYTES = BM * BN * sizeof(float);
    static_assert(2 * DEPTH * PITCH * sizeof(float) <= SMEM_BYTES);

    // tile[k][outer], zero outside of the matrix. Neighbouring threads read neighbours in memory.
    template <Inner I>
    static __device__ __forceinline__ void load(float* tile, const float* __restrict__ from, unsigned ld, unsigned outer0,
                                                unsigned outer_end, unsigned k0, unsigned k_end) {
#pragma unroll
        for (unsigned n = 0; n < 64 * DEPTH / THREADS; n++) {
            const unsigned i = n * THREADS + threadIdx.x;
            const unsigned k = I == Inner::Depth ? i % DEPTH : i / 64, o = I == Inner::Depth ? i / DEPTH : i % 64;
            const bool there = outer0 + o < outer_end && k0 + k < k_end;
            const size_t at = I == Inner::Depth ? size_t(outer0 + o) * ld + k0 + k : size_t(k0 + k) * ld + outer0 + o;
            tile[k * PITCH + o] = there ? from[at] : 0.f;
        }
    }

    template <class Done>
    static __device__ __forceinline__ void run(unsigned char* smem, const float* __restrict__ a, const float* __restrict__ b,
                                               unsigned row0, unsigned col0, const Extents& e, const Done& done) {
        float* const ta = reinterpret_cast<float*>(smem);
        float* const tb = ta + DEPTH * PITCH;
        const Sums<BM, BN> sums = { ta };
        const unsigned r = threadIdx.x / 16 * 4, c = threadIdx.x % 16 * 4;
        float acc[4][4] = {};
        for (unsigned k0 = e.depth0; k0 < e.depth_end; k0 += DEPTH) {
            load<A>(ta, a, e.lda, row0, e.rows, k0, e.depth_end);
            load<B>(tb, b, e.ldb, col0, e.cols, k0, e.depth_end);
            __syncthreads();
#pragma unroll
            for (unsigned k = 0; k < DEPTH; k++) {
                float va[4], vb[4];
                read_four(va, ta + k * PITCH + r, 4, true);
                read_four(vb, tb + k * PITCH + c, 4, true);
#pragma unroll
                for (unsigned i = 0; i < 4; i++) {
#pragma unroll
                    for (unsigned j = 0; j < 4; j++) acc[i][j] = fmaf(va[i], vb[j], acc[i][j]);
                }
            }
            __syncthreads();
        }
#pragma unroll
        for (unsigned i = 0; i < 4; i++) write_four(sums.at(r + i, c), acc[i], 4, true);
        __syncthreads();
        done(sums, 0);
    }
};

// One tile of a product and its ending. Tiles of a row of tiles are neighbours, so that the rows of
// `a` are read once from memory and `b`, the smaller operand, stays in L2.
template <class Product, unsigned BM, unsigned BN, class T, class Out>
__device__ __forceinline__ void product(unsigned tile, const T* __restrict__ a, const T* __restrict__ b,
                                        const Extents& e, const Ending<Out>& end) {
    DYN_SMEM(smem);
    const unsigned across = div_ceil(e.cols, BN);
    const unsigned row0 = tile / across * BM, col0 = tile % across * BN;
    Product::run(smem, a, b, row0, col0, e, [&](const auto& sums, unsigned row) {
        finish<Product::THREADS>(threadIdx.x, sums, end, row0 + row, col0, e.rows, e.cols);
    });
}

template <class T, Inner A, Inner B> using Large = MmaProduct<T, A, B, 128, 128, 64, 64>;
template <class T, Inner A, Inner B> using Small = MmaProduct<T, A, B, 64, 64, 32, 32>;
template <class T, Inner A, Inner B> using Exact = FmaProduct<A, B>;

// The three products of one form by one kind of tile.
//
// Grid: a block per tile; for the weight, of each slice of `depth` rows, slice after slice.
// 16-bit: 128 threads and 49152 bytes of shared memory (tiles of 128x128), or with `_few_rows` 24576 bytes
// (tiles of 64x64). f32: 256 threads, 16384 bytes (64x64).
// `vectors`: bit 0, operands may be loaded by 16 bytes; bit 1, the ending may move four elements at once.
//
// backward_input: with `pre`, the sums are multiplied by gelu'(pre). backward_weight: one slice adds to dw,
// given as `out` and `residual`; several write to scratch (slices, K, N), `slice_len` = K N apart.
#define MATMUL(form, T, PRODUCT, TILE, THREADS, BLOCKS) \
    extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) \
        matmul_forward_##form(T* y, T* __restrict__ pre, const T* __restrict__ x, const T* __restrict__ w, \
                              const float* __restrict__ bias, const T* residual, unsigned m, unsigned k, unsigned n, \
                              unsigned ldy, unsigned ldx, unsigned ldw, unsigned ld_residual, unsigned gelu, \
                              unsigned vectors) { \
        const Extents e = { m, n, 0, k, ldx, ldw, (vectors & 1) != 0 }; \
        const Ending<T> end = { y, pre, bias, residual, nullptr, ldy, ld_residual, gelu, (vectors & 2) != 0 }; \
        product<PRODUCT<T, Inner::Depth, Inner::Outer>, TILE, TILE>(blockIdx.x, x, w, e, end); \
    } \
    EXPORT(matmul_forward_##form) \
    extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) \
        matmul_backward_input_##form(T* dx, const T* __restrict__ dy, const T* __restrict__ w, const T* residual, \
                                     const T* __restrict__ pre, unsigned m, unsigned k, unsigned n, unsigned lddx, \
                                     unsigned lddy, unsigned ldw, unsigned ld_residual, unsigned gelu, unsigned vectors) { \
        const Extents e = { m, k, 0, n, lddy, ldw, (vectors & 1) != 0 }; \
        const Ending<T> end = { dx, nullptr, nullptr, residual, pre, lddx, ld_residual, gelu, (vectors & 2) != 0 }; \
        product<PRODUCT<T, Inner::Depth, Inner::Depth>, TILE, TILE>(blockIdx.x, dy, w, e, end); \
    } \
    EXPORT(matmul_backward_input_##form) \
    extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) \
        matmul_backward_weight_##form(float* out, const T* __restrict__ x, const T* __restrict__ dy, const float* residual, \
                                      unsigned m, unsigned k, unsigned n, unsigned ld_out, unsigned ldx, unsigned lddy, \
                                      unsigned depth, uint64_t slice_len, unsigned vectors) { \
        const unsigned tiles = div_ceil(k, TILE) * div_ceil(n, TILE), slice = blockIdx.x / tiles; \
        const Extents e = { k, n, slice * depth, min(m, (slice + 1) * depth), ldx, lddy, (vectors & 1) != 0 }; \
        const Ending<float> end = { out + slice * slice_len, nullptr, nullptr, residual, nullptr, \
                                    ld_out, ld_out, GELU_NONE, (vectors & 2) != 0 }; \
        product<PRODUCT<T, Inner::Outer, Inner::Outer>, TILE, TILE>(blockIdx.x % tiles, x, dy, e, end); \
    } \
    EXPORT(matmul_backward_weight_##form)

MATMUL(bf16, bf16, Large, 128, 128, 2)
MATMUL(f16, f16, Large, 128, 128, 2)
MATMUL(few_rows_bf16, bf16, Small, 64, 128, 4)
MATMUL(few_rows_f16, f16, Small, 64, 128, 4)
MATMUL(f32, float, Exact, 64, 256, 2)

// out (rows, cols) = a (rows, sum) times b, of few columns and long sums, in f32: a block per tile and slice of `depth` of the
// sum, slice after slice; each slice to scratch (slices, rows, cols), `slice_len` = rows cols apart. `vectors`: bit 1 as above.
#define MATMUL_SLICES(pass, B) \
    extern "C" __global__ void __launch_bounds__(256, 2) \
        matmul_##pass##_slices_f32(float* __restrict__ parts, const float* __restrict__ a, const float* __restrict__ b, \
                                   unsigned rows, unsigned cols, unsigned sum, unsigned lda, unsigned ldb, unsigned depth, \
                                   uint64_t slice_len, unsigned vectors) { \
        const unsigned tiles = div_ceil(rows, 64) * div_ceil(cols, 64), slice = blockIdx.x / tiles; \
        const Extents e = { rows, cols, slice * depth, min(sum, (slice + 1) * depth), lda, ldb, false }; \
        const Ending<float> end = { parts + slice * slice_len, nullptr, nullptr, nullptr, nullptr, cols, cols, GELU_NONE, (vectors & 2) != 0 }; \
        product<Exact<float, Inner::Depth, B>, 64, 64>(blockIdx.x % tiles, a, b, e, end); \
    } \
    EXPORT(matmul_##pass##_slices_f32)

MATMUL_SLICES(forward, Inner::Outer)
MATMUL_SLICES(backward_input, Inner::Depth)

// out (rows, cols) = the sum of `slices` parts (rows, cols), in order, and of a bias if there is one; or added to it. Blocks of 256
// threads, one element each.
extern "C" __global__ void __launch_bounds__(256)
    matmul_add_slices_f32(float* __restrict__ out, const float* __restrict__ parts, const float* __restrict__ bias, unsigned rows,
                          unsigned cols, unsigned ld, unsigned slices, unsigned add) {
    const size_t i = size_t(blockIdx.x) * 256 + threadIdx.x, len = size_t(rows) * cols;
    if (i >= len) return;
    float sum = 0.f;
    for (unsigned s = 0; s < slices; s++) sum += parts[s * len + i];
    if (bias != nullptr) sum += bias[i % cols];
    float* const to = out + i / cols * ld + i % cols;
    *to = add != 0 ? *to + sum : sum;
}
EXPORT(matmul_add_slices_f32)
