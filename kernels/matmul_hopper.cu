// The products of matmul.cu with 16-bit operands, by the tensor memory accelerator and wgmma of compute capability 9.0.
//
//   forward          y  (M, N)  = x (M, K) w (K, N)
//   backward_input   dx (M, K)  = dy (M, N) w (K, N)^T
//
// All matrices are row-major as they lie in memory; nothing is transposed or copied beforehand. Inside, each product is out
// (rows, cols) = sum over `depth` of a b. The tensor maps of both operands take addresses and leading dimensions that are multiples
// of 16 bytes. `a` is read in boxes of 64 deep x 128 rows. `b` of forward is read in boxes of 64 columns x 64 deep, and
// wgmma takes it as it is (contiguous columns); that of backward_input in boxes of 64 deep x BN columns. Beyond the
// matrices boxes are filled with zeros, and nothing is written there.
//
// One block per multiprocessor, of three warpgroups: one starts copies, two compute 64 of the tile's 128 rows each. Tiles are 128
// rows x BN columns (128, 192, 256). A ring of stages, each 64 deep, connects them: `full` completes when a
// stage has landed, `empty` when all 8 computing warps have used it. One stage is multiplied while the next is waited for.
//
// Block i does tiles i, i + gridDim.x, ...; columns of tiles are neighbours. So the tiles at work are those of
// a few rows of tiles: their `a` is read once from memory, and `b`, the smaller operand, stays in L2.
//
// The same bits: an element is summed over its whole depth in order, whatever the tile and its place, so that a row of the output
// does not depend on how many there are.
//
// The ending is that of epilogue.cuh; sums reach it through shared memory, 64 columns at a time.
#include "include/common.cuh"
#include "include/epilogue.cuh"
#include "include/hopper.cuh"

#if defined(L2P_EMU) || defined(__CUDA_ARCH_FEAT_SM90_ALL)

// A product whose `b` has contiguous columns (Inner::Outer) or contiguous depth (Inner::Depth).
template <class T, Inner B, unsigned BN> struct HopperProduct {
    static constexpr unsigned BM = 128, DEPTH = 64, GROUP = 128, CONSUMERS = 2, ROWS = BM / CONSUMERS, COLS = 64;
    static constexpr unsigned THREADS = (1 + CONSUMERS) * GROUP;
    static constexpr unsigned ROW = DEPTH * sizeof(T), A_BYTES = BM * ROW, B_BYTES = BN * ROW, STAGE = A_BYTES + B_BYTES;
    static constexpr unsigned SUMS = ROWS * COLS * sizeof(float);
    // As many stages as 227 KiB hold, with the barriers behind them.
    static constexpr unsigned STAGES = (227 * 1024 - CONSUMERS * SUMS - 1024) / STAGE;
    static constexpr unsigned SMEM_BYTES = STAGES * STAGE + CONSUMERS * SUMS + 2 * STAGES * sizeof(uint64_t);
    // Three warpgroups share 504 registers per thread.
    static constexpr unsigned FEW_REGISTERS = 40, MANY_REGISTERS = 232;
    static_assert(ROW == 128 && STAGES >= 3 && BN % COLS == 0);

    unsigned char* smem;
    unsigned rows, cols, depth;

    __device__ __forceinline__ unsigned char* stage(unsigned s) const { return smem + s * STAGE; }
    __device__ __forceinline__ Sums<ROWS, COLS> sums(unsigned consumer) const {
        return { reinterpret_cast<float*>(smem + STAGES * STAGE + consumer * SUMS) };
    }
    __device__ __forceinline__ uint64_t* full() const { return reinterpret_cast<uint64_t*>(smem + STAGES * STAGE + CONSUMERS * SUMS); }
    __device__ __forceinline__ uint64_t* empty() const { return full() + STAGES; }
    __device__ __forceinline__ unsigned steps() const { return div_ceil(depth, DEPTH); }
    __device__ __forceinline__ unsigned across() const { return div_ceil(cols, BN); }
    __device__ __forceinline__ unsigned tiles() const { return div_ceil(rows, BM) * across(); }

    // A place in the ring: the parity of the phase of `full` that a round completes.
    struct Place {
        unsigned stage = 0, parity = 0;
        __device__ __forceinline__ void next() {
            stage++;
            if (stage == STAGES) stage = 0, parity ^= 1;
        }
    };

    // One thread copies stage after stage, of all tiles of the block.
    __device__ __forceinline__ void produce(const CUtensorMap* a, const CUtensorMap* b) const {
        Place at;
        for (unsigned tile = blockIdx.x; tile < tiles(); tile += gridDim.x) {
            const int row0 = int(tile / across() * BM), col0 = int(tile % across() * BN);
            for (unsigned step = 0; step < steps(); step++, at.next()) {
                unsigned char* const to = stage(at.stage);
                uint64_t* const done = full() + at.stage;
                const int k = int(step * DEPTH);
                mbarrier_wait(empty() + at.stage, at.parity ^ 1);
                mbarrier_arrive_expect_tx(done, STAGE);
                tma_load_2d(to, a, done, k, row0);
                if constexpr (B == Inner::Depth) {
                    tma_load_2d(to + A_BYTES, b, done, k, col0);
                } else {
#pragma unroll
                    for (unsigned c = 0; c < BN / COLS; c++) tma_load_2d(to + A_BYTES + c * DEPTH * ROW, b, done, col0 + int(c * COLS), k);
                }
            }
        }
    }

    // acc += the product of a stage.
    __device__ __forceinline__ void multiply(float (&acc)[BN / 2], const unsigned char* from, unsigned consumer, bool accumulate) const {
        // 8 rows of 128 bytes lie together; with contiguous columns, 64 columns at all depths of a stage do.
        constexpr unsigned EIGHT = 8 * ROW, NEXT_COLUMNS = B == Inner::Outer ? DEPTH * ROW : 16;
        const uint64_t a = matrix_descriptor(from + consumer * ROWS * ROW, 16, EIGHT);
        const uint64_t b = matrix_descriptor(from + A_BYTES, NEXT_COLUMNS, EIGHT);
        constexpr unsigned B_STEP = B == Inner::Outer ? 2 * EIGHT : 32;
        wgmma_fence();
#pragma unroll
        for (unsigned k = 0; k < DEPTH / 16; k++) {
            wgmma<T, BN, Inner::Depth, B>(acc, a + k * (32 >> 4), b + k * (B_STEP >> 4), accumulate || k > 0);
        }
        wgmma_commit();
    }

    // A warpgroup's 64 rows of all tiles of the block.
    __device__ __forceinline__ void consume(unsigned consumer, const Ending<T>& end) const {
        const unsigned thread = threadIdx.x % GROUP, warp = thread / WARP, lane = thread % WARP;
        Place at;
        for (unsigned tile = blockIdx.x; tile < tiles(); tile += gridDim.x) {
            float acc[BN / 2];
            unsigned used = at.stage; // the stage whose product may be under way
            for (unsigned step = 0; step < steps(); step++, at.next()) {
                mbarrier_wait(full() + at.stage, at.parity);
                multiply(acc, stage(at.stage), consumer, step > 0);
                wgmma_wait<1>();
                if (step > 0 && lane == 0) mbarrier_arrive(empty() + used);
                used = at.stage;
            }
            wgmma_wait<0>();
            if (lane == 0) mbarrier_arrive(empty() + used);
            const unsigned row0 = tile / across() * BM + consumer * ROWS, col0 = tile % across() * BN;
            const Sums<ROWS, COLS> to = sums(consumer);
#pragma unroll
            for (unsigned c = 0; c < BN / COLS; c++) {
#pragma unroll
                for (unsigned j = 0; j < COLS / 8; j++) {
#pragma unroll
                    for (unsigned half = 0; half < 2; half++) {
                        const unsigned i = (c * COLS / 8 + j) * 4 + half * 2;
                        *reinterpret_cast<float2*>(to.at(warp * 16 + half * 8 + lane / 4, j * 8 + lane % 4 * 2)) = make_float2(acc[i], acc[i + 1]);
                    }
                }
                named_barrier_sync(1 + consumer, GROUP);
                finish<GROUP>(thread, to, end, row0, col0 + c * COLS, rows, cols);
                named_barrier_sync(1 + consumer, GROUP); // the sums may be overwritten
            }
        }
    }

    __device__ __forceinline__ void run(const CUtensorMap* a, const CUtensorMap* b, const Ending<T>& end) const {
        const unsigned group = threadIdx.x / GROUP;
        if (threadIdx.x == 0) {
            if (smem_address(smem) % 1024 != 0) __trap(); // the swizzle goes by addresses
            prefetch_tensor_map(a);
            prefetch_tensor_map(b);
            for (unsigned s = 0; s < STAGES; s++) {
                mbarrier_init(full() + s, 1);
                mbarrier_init(empty() + s, CONSUMERS * GROUP / WARP);
            }
            fence_mbarrier_init();
        }
        __syncthreads();
        if (group == 0) {
            set_max_registers_dec<FEW_REGISTERS>();
            if (threadIdx.x == 0) produce(a, b);
        } else {
            set_max_registers_inc<MANY_REGISTERS>();
            consume(group - 1, end);
        }
    }
};

#define MATMUL_HOPPER(form, T, BN) \
    extern "C" __global__ void __launch_bounds__(384, 1) \
        matmul_hopper_forward_##form(T* __restrict__ y, T* __restrict__ pre, const __grid_constant__ CUtensorMap x, \
                                     const __grid_constant__ CUtensorMap w, const float* __restrict__ bias, \
                                     const T* residual, unsigned m, unsigned k, unsigned n, unsigned ldy, \
                                     unsigned ld_residual, unsigned gelu, unsigned vectors) { \
        DYN_SMEM(smem); \
        const Ending<T> end = { y, pre, bias, residual, nullptr, ldy, ld_residual, gelu, vectors != 0 }; \
        HopperProduct<T, Inner::Outer, BN>{ smem, m, n, k }.run(&x, &w, end); \
    } \
    EXPORT(matmul_hopper_forward_##form) \
    extern "C" __global__ void __launch_bounds__(384, 1) \
        matmul_hopper_backward_input_##form(T* __restrict__ dx, const __grid_constant__ CUtensorMap dy, \
                                            const __grid_constant__ CUtensorMap w, const T* residual, \
                                            const T* __restrict__ pre, unsigned m, unsigned k, unsigned n, unsigned lddx, \
                                            unsigned ld_residual, unsigned gelu, unsigned vectors) { \
        DYN_SMEM(smem); \
        const Ending<T> end = { dx, nullptr, nullptr, residual, pre, lddx, ld_residual, gelu, vectors != 0 }; \
        HopperProduct<T, Inner::Depth, BN>{ smem, m, k, n }.run(&dy, &w, end); \
    } \
    EXPORT(matmul_hopper_backward_input_##form)

MATMUL_HOPPER(n128_bf16, bf16, 128)
MATMUL_HOPPER(n128_f16, f16, 128)
MATMUL_HOPPER(n192_bf16, bf16, 192)
MATMUL_HOPPER(n192_f16, f16, 192)
MATMUL_HOPPER(n256_bf16, bf16, 256)
MATMUL_HOPPER(n256_f16, f16, 256)
#endif
