// The backward pass of attention.cu for heads of 64 channels and at most 256 queries, without a prefix, by the tensor memory
// accelerator and wgmma of compute capability 9.0.
//
//   q, dout  (B, Tq, C)   k, v (B, Tk, C)   C = 64 heads; all are read through tensor maps
//   lse, delta  (B, H, Tq) f32: logarithm of each softmax denominator, natural; sum over keys of P dP
//   dq  (B, count, C), dk, dv (B, count, C): of `count` rows from first_row on, `stride` numbers apart
//
//   P = exp(scale q k^T - lse);   dP = dout v^T;   delta = sum P dP;   dS = P (dP - delta)
//   dq = scale dS k;   dk = scale dS^T q;   dv = P^T dout
//
// in two kernels. `backward_q` has queries as rows, and writes delta of all and dq of those that are asked for. Its row of scores is in
// registers as a whole, so that delta is known before dS is made: three products, at most 256 keys. `backward_kv` has keys as rows,
// and walks over the queries: four products, any number of keys. Seven products instead of the nine of attention.cu.
//
// A unit is a head of an image. The side that is walked over (`whole`: k and v, or q and dout) is in shared memory as a whole, and has
// place for two units. Of the other side (`own`: q and dout, or k and v) tiles of 64 rows pass through a ring. Tensor maps have three
// dimensions (channels, rows, images), so that rows beyond those of an image are zeros.
//
// One block per multiprocessor, of three warpgroups: one copies, two compute, tiles in turns across units. Block i does units
// i, i + gridDim.x, ... An mbarrier `full` completes when what it guards has landed, `empty` when all warps that read it have.
//
// P and dS are rounded to T where they lie and are operands of the next product. P of backward_q is rounded before delta is summed.
//
// The same bits: a row is computed from its own unit, all sums in the order of the other side or of lanes, whatever the place, the
// block, and the rows that are asked for.
//
// Shared memory: 4 WHOLE 128 + 64 KiB + what the barriers and, in backward_kv, lse and delta take. Traffic: q, k, v, dout once and
// the gradients, for each kernel.
#include "include/attention_hopper.cuh"
#include "include/common.cuh"
#include "include/hopper.cuh"
#include "include/ptx.cuh"

#if defined(L2P_EMU) || defined(__CUDA_ARCH_FEAT_SM90_ALL)

// The way of operands to the warpgroups that compute. At most WHOLE rows of the side that is walked over.
template <unsigned WHOLE> struct Operands {
    static constexpr unsigned CONSUMERS = 2, PLACES = 2, STAGES = 4, MATRIX = WHOLE * ROW_BYTES;
    static constexpr unsigned TILES_AT = PLACES * 2 * MATRIX, NUMBERS_AT = TILES_AT + STAGES * 2 * TILE_BYTES;
    // Three warpgroups share 504 registers per thread.
    static constexpr unsigned FEW_REGISTERS = 40, MANY_REGISTERS = 232;

    unsigned char* smem;
    unsigned barriers_at, heads, units, row0, tiles; // tiles from row0 on

    // The two matrices of the whole side in a place, and of a tile in a stage.
    __device__ __forceinline__ unsigned char* whole(unsigned place, unsigned which) const { return smem + (place * 2 + which) * MATRIX; }
    __device__ __forceinline__ unsigned char* tile(unsigned stage, unsigned which) const { return smem + TILES_AT + (stage * 2 + which) * TILE_BYTES; }
    __device__ __forceinline__ uint64_t* whole_full() const { return reinterpret_cast<uint64_t*>(smem + barriers_at); }
    __device__ __forceinline__ uint64_t* whole_empty() const { return whole_full() + PLACES; }
    __device__ __forceinline__ uint64_t* tile_full() const { return whole_empty() + PLACES; }
    __device__ __forceinline__ uint64_t* tile_empty() const { return tile_full() + STAGES; }
    static constexpr unsigned BARRIER_BYTES = 2 * (PLACES + STAGES) * sizeof(uint64_t);

    // `writers`: the warps that write to a place beside the copies.
    __device__ __forceinline__ void init(unsigned writers) const {
        if (threadIdx.x != 0) return;
        if (smem_address(smem) % 1024 != 0) __trap(); // the swizzle goes by addresses
        for (unsigned place = 0; place < PLACES; place++) {
            mbarrier_init(whole_full() + place, 1 + writers);
            mbarrier_init(whole_empty() + place, CONSUMERS * GROUP / WARP);
        }
        for (unsigned stage = 0; stage < STAGES; stage++) {
            mbarrier_init(tile_full() + stage, 1);
            mbarrier_init(tile_empty() + stage, GROUP / WARP);
        }
        fence_mbarrier_init();
    }

    // Calls use(unit, place, i) for the units of the block in order.
    template <class Use> __device__ __forceinline__ void each_unit(const Use& use) const {
        unsigned i = 0;
        for (unsigned unit = blockIdx.x; unit < units; unit += gridDim.x, i++) use(unit, i % PLACES, i);
    }
    __device__ __forceinline__ void wait_for_room(unsigned place, unsigned i) const { mbarrier_wait(whole_empty() + place, i / PLACES % 2 ^ 1); }

    // One thread copies all units of the block. Boxes of the whole side have WHOLE rows, those of the own side 64.
    __device__ __forceinline__ void produce(const CUtensorMap* whole0, const CUtensorMap* whole1, const CUtensorMap* own0, const CUtensorMap* own1) const {
        each_unit([&](unsigned unit, unsigned place, unsigned i) {
            const int col = int(unit % heads * HEAD_WIDTH), image = int(unit / heads);
            uint64_t* const done = whole_full() + place;
            wait_for_room(place, i);
            mbarrier_arrive_expect_tx(done, 2 * MATRIX);
            tma_load_3d(whole(place, 0), whole0, done, col, 0, image);
            tma_load_3d(whole(place, 1), whole1, done, col, 0, image);
            for (unsigned t = 0; t < tiles; t++) {
                const unsigned n = i * tiles + t, stage = n % STAGES;
                const int row = int(row0 + t * TILE_ROWS);
                uint64_t* const landed = tile_full() + stage;
                mbarrier_wait(tile_empty() + stage, n / STAGES % 2 ^ 1);
                mbarrier_arrive_expect_tx(landed, 2 * TILE_BYTES);
                tma_load_3d(tile(stage, 0), own0, landed, col, row, image);
                tma_load_3d(tile(stage, 1), own1, landed, col, row, image);
            }
        });
    }

    // Calls use(unit, place, tile, stage) for a warpgroup's tiles once their operands are there. It leaves no use of them under way.
    template <class Use> __device__ __forceinline__ void consume(unsigned consumer, const Use& use) const {
        const bool first = threadIdx.x % WARP == 0;
        each_unit([&](unsigned unit, unsigned place, unsigned i) {
            mbarrier_wait(whole_full() + place, i / PLACES % 2);
            for (unsigned t = (consumer + i * tiles) % CONSUMERS; t < tiles; t += CONSUMERS) {
                const unsigned n = i * tiles + t, stage = n % STAGES;
                mbarrier_wait(tile_full() + stage, n / STAGES % 2);
                use(unit, place, t, stage);
                fence_proxy_async(); // copies will overwrite what was stored to the tile
                __syncwarp();
                if (first) mbarrier_arrive(tile_empty() + stage);
            }
            __syncwarp();
            if (first) mbarrier_arrive(whole_empty() + place);
        });
    }

    // After init: one thread does copy(), another warp write(), and two warpgroups pass.attend(...) for their tiles.
    template <class Pass, class Copy, class Write> __device__ __forceinline__ void run(const Pass& pass, const Copy& copy, const Write& write) const {
        const unsigned group = threadIdx.x / GROUP;
        __syncthreads();
        if (group == 0) {
            set_max_registers_dec<FEW_REGISTERS>();
            if (threadIdx.x == 0) copy();
            if (threadIdx.x / WARP == 1) write();
        } else {
            set_max_registers_inc<MANY_REGISTERS>();
            consume(group - 1, [&](unsigned unit, unsigned place, unsigned tile, unsigned stage) { pass.attend(unit, place, tile, stage, group - 1); });
        }
    }
};

// d (64 x N) = the rows of a tile times the first N rows of `other`, over the channels. Under way on return, as below.
template <class T, unsigned N>
__device__ __forceinline__ void row_products(float (&d)[N / 2], const unsigned char* tile, const unsigned char* other) {
    const uint64_t a = matrix_descriptor(tile, 16, EIGHT_ROWS), b = matrix_descriptor(other, 16, EIGHT_ROWS);
    wgmma_fence();
#pragma unroll
    for (unsigned k = 0; k < HEAD_WIDTH / 16; k++) {
        wgmma<T, N, Inner::Depth, Inner::Depth>(d, a + k * (32 >> 4), b + k * (32 >> 4), k > 0);
    }
    wgmma_commit();
}
// d (64 x channels) = p (64 x 16 N) times 16 N rows of a matrix from `first` on, added to d with `accumulate`.
template <class T, unsigned N>
__device__ __forceinline__ void weighted_rows(float (&d)[HEAD_WIDTH / 2], const uint32_t (&p)[N][4], const unsigned char* first, bool accumulate) {
    // 64 channels lie together, so that there are no next ones.
    const uint64_t b = matrix_descriptor(first, TILE_BYTES, EIGHT_ROWS);
    wgmma_fence();
#pragma unroll
    for (unsigned k = 0; k < N; k++) wgmma<T, HEAD_WIDTH, Inner::Outer>(d, p[k], b + k * (2 * EIGHT_ROWS >> 4), accumulate || k > 0);
    wgmma_commit();
}

// Where gradients go, and which rows of them.
template <class T> struct Target {
    T* to;
    unsigned first_row, count, stride;
    bool vectors;
    // A warp's 16 rows of a tile of a head, from row0 of the image on.
    __device__ __forceinline__ void store(unsigned char* tile, unsigned image, unsigned head, unsigned row0, const float (&sum)[HEAD_WIDTH / 2],
                                          float factor) const {
        T* const at = to + size_t(image) * count * stride + head * HEAD_WIDTH;
        store_rows(tile, at, row0 - first_row, count, stride, sum, factor, factor, vectors);
    }
};

// delta of all queries and dq of some, for FEWEST to KEYS keys.
template <class T, unsigned FEWEST, unsigned KEYS> struct BackwardQueries {
    static_assert(KEYS % 16 == 0 && KEYS <= 256);
    Operands<KEYS> operands; // whole: k, v; tiles: q, dout
    Target<T> dq;
    float* delta;
    const float* lse;
    unsigned tq, tk;
    float scale;

    // P of a warp's rows as operands.
    __device__ __forceinline__ void probabilities(uint32_t (&p)[KEYS / 16][4], const float (&s)[KEYS / 2], const float (&bound)[2]) const {
        const float unit = scale * LOG2_E; // exp2 is what the machine has
        const unsigned t = threadIdx.x % 4 * 2;
#pragma unroll
        for (unsigned k = 0; k < KEYS / 16; k++) {
#pragma unroll
            for (unsigned pair = 0; pair < 4; pair++) {
                const unsigned i = k * 8 + pair * 2, col = i / 4 * 8, half = pair % 2;
                float two[2];
#pragma unroll
                for (unsigned e = 0; e < 2; e++) {
                    two[e] = exp2_approx(fmaf(unit, s[i + e], -bound[half]));
                    if (col + 8 > FEWEST && col + t + e >= tk) two[e] = 0.f;
                }
                p[k][pair] = pack<T>(two[0], two[1]);
            }
        }
    }

    // A warpgroup's 64 queries.
    __device__ __forceinline__ void attend(unsigned unit, unsigned place, unsigned tile, unsigned stage, unsigned consumer) const {
        const unsigned warp = threadIdx.x % GROUP / WARP, g = threadIdx.x % WARP / 4, t = threadIdx.x % 4;
        const unsigned row0 = tile * TILE_ROWS + warp * 16;
        const size_t entry = size_t(unit) * tq + row0 + g;
        float bound[2];
#pragma unroll
        for (unsigned half = 0; half < 2; half++) bound[half] = row0 + half * 8 + g < tq ? lse[entry + half * 8] * LOG2_E : CUDART_INF_F; // beyond: P = 0
        uint32_t p[KEYS / 16][4] = {};
        float dp[KEYS / 2], mean[2] = { 0.f, 0.f }; // dp is S at first: there is no room for both
        row_products<T, KEYS>(dp, operands.tile(stage, 0), operands.whole(place, 0));
        wgmma_wait<0>();
        if (row0 < tq) probabilities(p, dp, bound);
        row_products<T, KEYS>(dp, operands.tile(stage, 1), operands.whole(place, 1));
        wgmma_wait<0>();
#pragma unroll
        for (unsigned i = 0; i < KEYS / 2; i += 2) {
            const float2 prob = unpack<T>(p[i / 8][i / 2 % 4]);
            const unsigned half = i / 2 % 2;
            mean[half] = fmaf(prob.x, dp[i], mean[half]);
            mean[half] = fmaf(prob.y, dp[i + 1], mean[half]);
        }
#pragma unroll
        for (unsigned half = 0; half < 2; half++) {
            mean[half] = quad_sum(mean[half]);
            if (t == 0 && row0 + half * 8 + g < tq) delta[entry + half * 8] = mean[half];
        }
        const unsigned first = tile * TILE_ROWS;
        if (first >= dq.first_row + dq.count || first + TILE_ROWS <= dq.first_row) return; // none of its dq is asked for
        // 0, which the compiler does not know: it would keep P in f32 from above, and there is no room for that beside dP.
        const uint32_t zero = operands.units >> 31;
#pragma unroll
        for (unsigned i = 0; i < KEYS / 2; i += 2) {
            const float2 prob = unpack<T>(p[i / 8][i / 2 % 4] ^ zero);
            const unsigned half = i / 2 % 2;
            p[i / 8][i / 2 % 4] = pack<T>(prob.x * (dp[i] - mean[half]), prob.y * (dp[i + 1] - mean[half]));
        }
        float sum[HEAD_WIDTH / 2];
        weighted_rows<T>(sum, p, operands.whole(place, 0), false);
        named_barrier_sync(1 + consumer, GROUP); // all four warps have used the tile of q
        wgmma_wait<0>();
        dq.store(operands.tile(stage, 0) + warp * 16 * ROW_BYTES, unit / operands.heads, unit % operands.heads, row0, sum, scale);
    }

    __device__ __forceinline__ void run(const CUtensorMap* q, const CUtensorMap* k, const CUtensorMap* v, const CUtensorMap* dout) const {
        if (tk < FEWEST || tk > KEYS) __trap();
        operands.init(0);
        operands.run(*this, [&] { operands.produce(k, v, q, dout); }, [] {});
    }
};

// dk and dv of some keys, for at most QUERIES queries.
template <class T, unsigned QUERIES> struct BackwardKeys {
    static constexpr unsigned STEP = 64;
    static_assert(QUERIES % STEP == 0);
    Operands<QUERIES> operands; // whole: q, dout; tiles: k, v
    Target<T> dk, dv;
    const float *delta, *lse;
    unsigned tq;
    float scale;

    // lse (which 0, times log2 e) and delta (1) of the queries of a unit.
    static constexpr unsigned NUMBER_BYTES = Operands<QUERIES>::PLACES * 2 * QUERIES * sizeof(float);
    __device__ __forceinline__ float* numbers(unsigned place, unsigned which) const {
        return reinterpret_cast<float*>(operands.smem + Operands<QUERIES>::NUMBERS_AT) + (place * 2 + which) * QUERIES;
    }

    // One warp writes them for all units of the block.
    __device__ __forceinline__ void write_numbers() const {
        const unsigned lane = threadIdx.x % WARP;
        operands.each_unit([&](unsigned unit, unsigned place, unsigned i) {
            operands.wait_for_room(place, i);
            for (unsigned r = lane; r < QUERIES; r += WARP) {
                numbers(place, 0)[r] = r < tq ? lse[size_t(unit) * tq + r] * LOG2_E : CUDART_INF_F; // queries beyond: P = 0
                numbers(place, 1)[r] = r < tq ? delta[size_t(unit) * tq + r] : 0.f;
            }
            __syncwarp();
            if (lane == 0) mbarrier_arrive(operands.whole_full() + place);
        });
    }

    // A warpgroup's 64 keys.
    __device__ __forceinline__ void attend(unsigned unit, unsigned place, unsigned tile, unsigned stage, unsigned consumer) const {
        const unsigned warp = threadIdx.x % GROUP / WARP, t = threadIdx.x % 4 * 2;
        const float unit_scale = scale * LOG2_E;
        float sum_k[HEAD_WIDTH / 2], sum_v[HEAD_WIDTH / 2];
        for (unsigned first = 0; first < tq; first += STEP) {
            const unsigned char* const q = operands.whole(place, 0) + first * ROW_BYTES;
            const unsigned char* const dout = operands.whole(place, 1) + first * ROW_BYTES;
            const float *const bounds = numbers(place, 0) + first + t, *const means = numbers(place, 1) + first + t;
            float s[STEP / 2], dp[STEP / 2];
            uint32_t p[STEP / 16][4], ds[STEP / 16][4];
            row_products<T, STEP>(s, operands.tile(stage, 0), q);
            row_products<T, STEP>(dp, operands.tile(stage, 1), dout);
            wgmma_wait<1>();
#pragma unroll
            for (unsigned i = 0; i < STEP / 2; i += 2) {
                const float2 bound = *reinterpret_cast<const float2*>(bounds + i / 4 * 8);
                s[i] = exp2_approx(fmaf(unit_scale, s[i], -bound.x));
                s[i + 1] = exp2_approx(fmaf(unit_scale, s[i + 1], -bound.y));
                p[i / 8][i / 2 % 4] = pack<T>(s[i], s[i + 1]);
            }
            weighted_rows<T>(sum_v, p, dout, first > 0);
            wgmma_wait<1>();
#pragma unroll
            for (unsigned i = 0; i < STEP / 2; i += 2) {
                const float2 mean = *reinterpret_cast<const float2*>(means + i / 4 * 8);
                ds[i / 8][i / 2 % 4] = pack<T>(s[i] * (dp[i] - mean.x), s[i + 1] * (dp[i + 1] - mean.y));
            }
            weighted_rows<T>(sum_k, ds, q, first > 0);
            wgmma_wait<0>();
        }
        named_barrier_sync(1 + consumer, GROUP); // all four warps have used the tiles of k and v
        const unsigned image = unit / operands.heads, head = unit % operands.heads, row0 = dk.first_row + tile * TILE_ROWS + warp * 16;
        dk.store(operands.tile(stage, 0) + warp * 16 * ROW_BYTES, image, head, row0, sum_k, scale);
        dv.store(operands.tile(stage, 1) + warp * 16 * ROW_BYTES, image, head, row0, sum_v, 1.f);
    }

    __device__ __forceinline__ void run(const CUtensorMap* q, const CUtensorMap* k, const CUtensorMap* v, const CUtensorMap* dout) const {
        if (tq > QUERIES) __trap();
        operands.init(1);
        operands.run(*this, [&] { operands.produce(q, dout, k, v); }, [&] { write_numbers(); });
    }
};

// Grid: at most one block of 384 threads per multiprocessor. Boxes of the whole side have KEYS or QUERIES rows, the others 64.
#define ATTENTION_BACKWARD_Q(form, T, FEWEST, KEYS) \
    extern "C" __global__ void __launch_bounds__(384, 1) \
        attention_hopper_backward_q_##form(T* __restrict__ dq, float* __restrict__ delta, const float* __restrict__ lse, \
                                           const __grid_constant__ CUtensorMap q, const __grid_constant__ CUtensorMap k, \
                                           const __grid_constant__ CUtensorMap v, const __grid_constant__ CUtensorMap dout, \
                                           unsigned heads, unsigned tq, unsigned tk, unsigned units, float scale, \
                                           unsigned first_row, unsigned count, unsigned dq_stride, unsigned vectors) { \
        DYN_SMEM(smem); \
        const Operands<KEYS> operands = { smem, Operands<KEYS>::NUMBERS_AT, heads, units, 0, div_ceil(tq, TILE_ROWS) }; \
        const Target<T> to = { dq, first_row, count, dq_stride, vectors != 0 }; \
        BackwardQueries<T, FEWEST, KEYS>{ operands, to, delta, lse, tq, tk, scale }.run(&q, &k, &v, &dout); \
    } \
    EXPORT(attention_hopper_backward_q_##form)
#define ATTENTION_BACKWARD_KV(form, T, QUERIES) \
    extern "C" __global__ void __launch_bounds__(384, 1) \
        attention_hopper_backward_kv_##form(T* __restrict__ dk, T* __restrict__ dv, const float* __restrict__ delta, \
                                            const float* __restrict__ lse, const __grid_constant__ CUtensorMap q, \
                                            const __grid_constant__ CUtensorMap k, const __grid_constant__ CUtensorMap v, \
                                            const __grid_constant__ CUtensorMap dout, unsigned heads, unsigned tq, unsigned units, \
                                            float scale, unsigned first_row, unsigned count, unsigned dkv_stride, unsigned vectors) { \
        DYN_SMEM(smem); \
        constexpr unsigned BARRIERS_AT = Operands<QUERIES>::NUMBERS_AT + BackwardKeys<T, QUERIES>::NUMBER_BYTES; \
        static_assert(BARRIERS_AT + Operands<QUERIES>::BARRIER_BYTES <= 227 * 1024); \
        const Operands<QUERIES> operands = { smem, BARRIERS_AT, heads, units, first_row, div_ceil(count, TILE_ROWS) }; \
        const Target<T> to_k = { dk, first_row, count, dkv_stride, vectors != 0 }, to_v = { dv, first_row, count, dkv_stride, vectors != 0 }; \
        BackwardKeys<T, QUERIES>{ operands, to_k, to_v, delta, lse, tq, scale }.run(&q, &k, &v, &dout); \
    } \
    EXPORT(attention_hopper_backward_kv_##form)

ATTENTION_BACKWARD_Q(n128_bf16, bf16, 1, 128)
ATTENTION_BACKWARD_Q(n128_f16, f16, 1, 128)
ATTENTION_BACKWARD_Q(n208_bf16, bf16, 129, 208)
ATTENTION_BACKWARD_Q(n208_f16, f16, 129, 208)
ATTENTION_BACKWARD_Q(n224_bf16, bf16, 209, 224)
ATTENTION_BACKWARD_Q(n224_f16, f16, 209, 224)
ATTENTION_BACKWARD_Q(n240_bf16, bf16, 225, 240)
ATTENTION_BACKWARD_Q(n240_f16, f16, 225, 240)
ATTENTION_BACKWARD_Q(n256_bf16, bf16, 241, 256)
ATTENTION_BACKWARD_Q(n256_f16, f16, 241, 256)
ATTENTION_BACKWARD_KV(n64_bf16, bf16, 64)
ATTENTION_BACKWARD_KV(n64_f16, f16, 64)
ATTENTION_BACKWARD_KV(n256_bf16, bf16, 256)
ATTENTION_BACKWARD_KV(n256_f16, f16, 256)
#endif
