// The forward pass of attention.cu for heads of 64 channels and at most 256 keys and queries, without a prefix, by the tensor
// memory accelerator and wgmma of compute capability 9.0.
//
//   q, out  (B, Tq, C)   k, v (B, Tk, C)   C = 64 heads; out is dense, the others are read through tensor maps
//   lse     (B, H, Tq)   f32: logarithm of each softmax denominator, natural
//
//   S = q k^T;   P = exp(scale S - scale max S);   out = P v / sum P;   lse = scale max S + log(sum P)
//
// A unit is a head of an image. Its q, k and v are in shared memory as a whole, in boxes of 64 columns. The tensor maps have three
// dimensions (channels, rows, images): a row beyond those of an image is zeros, not the first row of the next image.
//
// One block per multiprocessor, of three warpgroups: one starts copies, two compute. Block i does units i, i + gridDim.x, ...; heads
// are neighbours. There is place for two units: the copies of the next one are under way while one is computed. `full` completes
// when a unit has landed, `empty` when all 8 computing warps have used it. Warpgroups take tiles of 64 rows of q in turns, across
// units.
//
// S of a tile is in registers as a whole: 64 x KEYS, where KEYS is the number of keys rounded up to 64, 128, 192, 208, 224, 240 or
// 256. So the softmax has a single pass. Keys that are not there get minus infinity. P is rounded to T where it lies and is the
// operand of the second product.
//
// Out is turned into rows through its tile of q, which has been used by then.
//
// The same bits: a row is computed from its own unit, all sums in the order of keys or of lanes, whatever the place and the block.
//
// Shared memory: 2 (32 KiB + 256 KEYS bytes) + 32. Traffic: q, k, v and out once.
//
// Source: the division of work is that of FlashAttention-3 (Shah et al. 2024, arXiv:2407.08608) without its loop over keys.
#include "include/attention_hopper.cuh"
#include "include/common.cuh"
#include "include/hopper.cuh"
#include "include/ptx.cuh"

#if defined(L2P_EMU) || defined(__CUDA_ARCH_FEAT_SM90_ALL)

// For FEWEST to KEYS keys.
template <class T, unsigned FEWEST, unsigned KEYS> struct HopperAttention {
    static constexpr unsigned CONSUMERS = 2, MOST_ROWS = 256, PLACES = 2;
    static constexpr unsigned OTHER = KEYS * ROW_BYTES, QUERIES = MOST_ROWS * ROW_BYTES, UNIT = QUERIES + 2 * OTHER;
    static constexpr unsigned SMEM_BYTES = PLACES * UNIT + 2 * PLACES * sizeof(uint64_t);
    // Three warpgroups share 504 registers per thread.
    static constexpr unsigned FEW_REGISTERS = 40, MANY_REGISTERS = 232;
    static_assert(KEYS % 16 == 0 && KEYS <= 256 && SMEM_BYTES <= 227 * 1024);

    unsigned char* smem;
    T* out;
    float* lse;
    unsigned heads, tq, tk, units;
    float scale;
    bool vectors;

    // Tiles of q, k and v of the unit in a place.
    __device__ __forceinline__ unsigned char* queries(unsigned place) const { return smem + place * UNIT; }
    __device__ __forceinline__ unsigned char* keys(unsigned place) const { return queries(place) + QUERIES; }
    __device__ __forceinline__ unsigned char* values(unsigned place) const { return keys(place) + OTHER; }
    __device__ __forceinline__ uint64_t* full() const { return reinterpret_cast<uint64_t*>(smem + PLACES * UNIT); }
    __device__ __forceinline__ uint64_t* empty() const { return full() + PLACES; }
    __device__ __forceinline__ unsigned tiles() const { return div_ceil(tq, TILE_ROWS); }

    // One thread copies all units of the block.
    __device__ __forceinline__ void produce(const CUtensorMap* q, const CUtensorMap* k, const CUtensorMap* v) const {
        unsigned i = 0;
        for (unsigned unit = blockIdx.x; unit < units; unit += gridDim.x, i++) {
            const unsigned place = i % PLACES;
            const int col = int(unit % heads * HEAD_WIDTH), image = int(unit / heads);
            uint64_t* const done = full() + place;
            mbarrier_wait(empty() + place, i / PLACES % 2 ^ 1);
            mbarrier_arrive_expect_tx(done, tiles() * TILE_BYTES + 2 * OTHER);
            tma_load_3d(keys(place), k, done, col, 0, image);
            for (unsigned tile = 0; tile < tiles(); tile++) tma_load_3d(queries(place) + tile * TILE_BYTES, q, done, col, int(tile * TILE_ROWS), image);
            tma_load_3d(values(place), v, done, col, 0, image);
        }
    }

    // p = exp(scale (s - top)) as operands, with maxima and sums of the lane's two rows.
    __device__ __forceinline__ void softmax(uint32_t (&p)[KEYS / 16][4], float (&s)[KEYS / 2], float (&top)[2], float (&sum)[2]) const {
        const float unit = scale * LOG2_E; // exp2 is what the machine has
        const unsigned t = threadIdx.x % 4 * 2;
        float most[2][2] = { { -CUDART_INF_F, -CUDART_INF_F }, { -CUDART_INF_F, -CUDART_INF_F } }; // of even and odd columns
#pragma unroll
        for (unsigned i = 0; i < KEYS / 2; i++) {
            const unsigned col = i / 4 * 8, half = i / 2 % 2;
            if (col + 8 > FEWEST && col + t + i % 2 >= tk) s[i] = -CUDART_INF_F;
            most[half][i % 2] = fmaxf(most[half][i % 2], s[i]);
        }
        float shift[2];
#pragma unroll
        for (unsigned half = 0; half < 2; half++) {
            top[half] = quad_max(fmaxf(most[half][0], most[half][1]));
            shift[half] = -unit * top[half];
            sum[half] = 0.f;
        }
#pragma unroll
        for (unsigned k = 0; k < KEYS / 16; k++) {
#pragma unroll
            for (unsigned pair = 0; pair < 4; pair++) {
                const unsigned i = k * 8 + pair * 2, half = pair % 2;
                const float a = exp2_approx(fmaf(unit, s[i], shift[half])), b = exp2_approx(fmaf(unit, s[i + 1], shift[half]));
                sum[half] += a;
                sum[half] += b;
                p[k][pair] = pack<T>(a, b);
            }
        }
#pragma unroll
        for (unsigned half = 0; half < 2; half++) sum[half] = quad_sum(sum[half]);
    }

    // Writes a warp's 16 rows, divided by their sums, through its rows of the tile.
    __device__ __forceinline__ void store(unsigned char* tile, unsigned unit, unsigned row0, const float (&o)[HEAD_WIDTH / 2],
                                          const float (&top)[2], const float (&sum)[2]) const {
        const unsigned lane = threadIdx.x % WARP, image = unit / heads, head = unit % heads;
        T* const to = out + (size_t(image) * tq * heads + head) * HEAD_WIDTH;
        store_rows(tile, to, row0, tq, heads * HEAD_WIDTH, o, 1.f / sum[0], 1.f / sum[1], vectors);
        if (lane % 4 < 2) {
            const unsigned half = lane % 4, row = row0 + half * 8 + lane / 4;
            const float most = half == 0 ? top[0] : top[1], all = half == 0 ? sum[0] : sum[1];
            if (row < tq) lse[size_t(unit) * tq + row] = fmaf(scale, most, log2f(all) * LN_2);
        }
    }

    // A warpgroup's 64 rows of a tile.
    __device__ __forceinline__ void attend(unsigned place, unsigned unit, unsigned tile, unsigned consumer) const {
        const unsigned warp = threadIdx.x % GROUP / WARP, row0 = tile * TILE_ROWS + warp * 16;
        unsigned char* const own = queries(place) + tile * TILE_BYTES;
        const uint64_t a = matrix_descriptor(own, 16, EIGHT_ROWS), b = matrix_descriptor(keys(place), 16, EIGHT_ROWS);
        float s[KEYS / 2];
        wgmma_fence();
#pragma unroll
        for (unsigned d = 0; d < HEAD_WIDTH / 16; d++) {
            wgmma<T, KEYS, Inner::Depth, Inner::Depth>(s, a + d * (32 >> 4), b + d * (32 >> 4), d > 0);
        }
        wgmma_commit();
        wgmma_wait<0>();
        uint32_t p[KEYS / 16][4] = {};
        float top[2], sum[2];
        if (row0 < tq) softmax(p, s, top, sum);
        // 64 columns lie together, so that there are no next ones.
        const uint64_t c = matrix_descriptor(values(place), TILE_BYTES, EIGHT_ROWS);
        float o[HEAD_WIDTH / 2];
        wgmma_fence();
#pragma unroll
        for (unsigned k = 0; k < KEYS / 16; k++) wgmma<T, HEAD_WIDTH, Inner::Outer>(o, p[k], c + k * (2 * EIGHT_ROWS >> 4), k > 0);
        wgmma_commit();
        named_barrier_sync(1 + consumer, GROUP); // all four warps have used the tile of q
        wgmma_wait<0>();
        if (row0 < tq) store(own + warp * 16 * ROW_BYTES, unit, row0, o, top, sum);
    }

    __device__ __forceinline__ void consume(unsigned consumer) const {
        unsigned i = 0;
        for (unsigned unit = blockIdx.x; unit < units; unit += gridDim.x, i++) {
            const unsigned place = i % PLACES;
            mbarrier_wait(full() + place, i / PLACES % 2);
            for (unsigned tile = (consumer + i * tiles()) % CONSUMERS; tile < tiles(); tile += CONSUMERS) attend(place, unit, tile, consumer);
            fence_proxy_async(); // copies will overwrite what was stored to the tiles of q
            __syncwarp();
            if (threadIdx.x % WARP == 0) mbarrier_arrive(empty() + place);
        }
    }

    __device__ __forceinline__ void run(const CUtensorMap* q, const CUtensorMap* k, const CUtensorMap* v) const {
        const unsigned group = threadIdx.x / GROUP;
        if (threadIdx.x == 0) {
            if (smem_address(smem) % 1024 != 0) __trap(); // the swizzle goes by addresses
            if (tk < FEWEST || tk > KEYS || tq > MOST_ROWS) __trap();
            prefetch_tensor_map(q);
            prefetch_tensor_map(k);
            prefetch_tensor_map(v);
            for (unsigned place = 0; place < PLACES; place++) {
                mbarrier_init(full() + place, 1);
                mbarrier_init(empty() + place, CONSUMERS * GROUP / WARP);
            }
            fence_mbarrier_init();
        }
        __syncthreads();
        if (group == 0) {
            set_max_registers_dec<FEW_REGISTERS>();
            if (threadIdx.x == 0) produce(q, k, v);
        } else {
            set_max_registers_inc<MANY_REGISTERS>();
            consume(group - 1);
        }
    }
};

// Grid: at most one block of 384 threads per multiprocessor. Boxes of q have 64 rows, those of k and v have KEYS.
#define ATTENTION_HOPPER(form, T, FEWEST, KEYS) \
    extern "C" __global__ void __launch_bounds__(384, 1) \
        attention_hopper_forward_##form(T* __restrict__ out, float* __restrict__ lse, const __grid_constant__ CUtensorMap q, \
                                        const __grid_constant__ CUtensorMap k, const __grid_constant__ CUtensorMap v, \
                                        unsigned heads, unsigned tq, unsigned tk, unsigned units, float scale, \
                                        unsigned vectors) { \
        DYN_SMEM(smem); \
        HopperAttention<T, FEWEST, KEYS>{ smem, out, lse, heads, tq, tk, units, scale, vectors != 0 }.run(&q, &k, &v); \
    } \
    EXPORT(attention_hopper_forward_##form)

ATTENTION_HOPPER(n64_bf16, bf16, 1, 64)
ATTENTION_HOPPER(n64_f16, f16, 1, 64)
ATTENTION_HOPPER(n128_bf16, bf16, 65, 128)
ATTENTION_HOPPER(n128_f16, f16, 65, 128)
ATTENTION_HOPPER(n192_bf16, bf16, 129, 192)
ATTENTION_HOPPER(n192_f16, f16, 129, 192)
ATTENTION_HOPPER(n208_bf16, bf16, 193, 208)
ATTENTION_HOPPER(n208_f16, f16, 193, 208)
ATTENTION_HOPPER(n224_bf16, bf16, 209, 224)
ATTENTION_HOPPER(n224_f16, f16, 209, 224)
ATTENTION_HOPPER(n240_bf16, bf16, 225, 240)
ATTENTION_HOPPER(n240_f16, f16, 225, 240)
ATTENTION_HOPPER(n256_bf16, bf16, 241, 256)
ATTENTION_HOPPER(n256_f16, f16, 241, 256)
#endif
