// What hopper.cuh wraps: kernels that are right, and the same with one fault each, which the emulation must find.
#include "include/common.cuh"
#include "include/hopper.cuh"

// ---- d (64, 64) = a (64, 64) b (64, 64) through every layout of operands: one block of 128 threads. ----

// A 64 x 64 operand in boxes as wide as the permuted pattern, 16 << SWIZZLE bytes. `a` (64, depth) and `b` (64 columns, depth) with
// contiguous depth, (depth, 64) otherwise.
template <Inner I, unsigned SWIZZLE> struct Operand {
    static constexpr unsigned ROW = 16u << SWIZZLE, WIDE = ROW / 2, BOX = 64 * ROW;
    unsigned char* to;
    __device__ __forceinline__ void load(const CUtensorMap* map, uint64_t* barrier) const {
        for (unsigned i = 0; i < 64 / WIDE; i++) tma_load_2d(to + i * BOX, map, barrier, int(i * WIDE), 0);
    }
    // Of depth k and on.
    __device__ __forceinline__ uint64_t descriptor(unsigned k) const {
        const bool deep = I == Inner::Depth;
        const unsigned char* const first = deep ? to + k / WIDE * BOX + k % WIDE * 2 : to + k * ROW;
        const unsigned eight = 8 * ROW;
        const unsigned leading = SWIZZLE > 0 || deep ? BOX : eight, stride = SWIZZLE > 0 || deep ? eight : BOX;
        return uint64_t(smem_address(first) >> 4) | uint64_t(leading >> 4) << 16 | uint64_t(stride >> 4) << 32 |
               uint64_t(SWIZZLE == 0 ? 0 : 4 - SWIZZLE) << 62;
    }
};

__device__ __forceinline__ void store_sums(float* d, const float (&acc)[32]) {
    const unsigned warp = threadIdx.x % 128 / WARP, lane = threadIdx.x % WARP;
    for (unsigned i = 0; i < 32; i++) d[(warp * 16 + lane / 4 + i / 2 % 2 * 8) * 64 + i / 4 * 8 + lane % 4 * 2 + i % 2] = acc[i];
}

template <class T, Inner A, Inner B, unsigned SWIZZLE>
__device__ __forceinline__ void layouts(float* d, const CUtensorMap* a, const CUtensorMap* b, const T* rows) {
    DYN_SMEM(smem);
    const Operand<A, SWIZZLE> oa = { smem };
    const Operand<B, SWIZZLE> ob = { smem + 8192 };
    uint64_t* const full = reinterpret_cast<uint64_t*>(smem + 16384);
    if (threadIdx.x == 0) {
        mbarrier_init(full, 1);
        fence_mbarrier_init();
        mbarrier_arrive_expect_tx(full, rows == nullptr ? 16384 : 8192);
        if (rows == nullptr) oa.load(a, full);
        ob.load(b, full);
    }
    __syncthreads();
    mbarrier_wait(full, 0);
    float acc[32];
    uint32_t fa[4][4];
    const unsigned row = threadIdx.x / WARP * 16 + threadIdx.x % WARP / 4, col = threadIdx.x % 4 * 2;
    if (rows != nullptr) {
        for (unsigned k = 0; k < 4; k++) {
            for (unsigned i = 0; i < 4; i++) {
                const T* const pair = rows + (row + i % 2 * 8) * 64 + k * 16 + col + i / 2 * 8;
                fa[k][i] = pack<T>(to_f32(pair[0]), to_f32(pair[1]));
            }
        }
    }
    wgmma_fence();
    for (unsigned k = 0; k < 4; k++) {
        if (rows == nullptr) wgmma<T, 64, A, B>(acc, oa.descriptor(k * 16), ob.descriptor(k * 16), k > 0);
        else wgmma<T, 64, B>(acc, fa[k], ob.descriptor(k * 16), k > 0);
    }
    wgmma_commit();
    wgmma_wait<0>();
    store_sums(d, acc);
}

#define LAYOUT(name, T, A, B, SWIZZLE) \
    extern "C" __global__ void __launch_bounds__(128) layout_##name(float* d, const __grid_constant__ CUtensorMap a, const __grid_constant__ CUtensorMap b, const T* rows) { \
        layouts<T, Inner::A, Inner::B, SWIZZLE>(d, &a, &b, rows); \
    } \
    EXPORT(layout_##name)
#define LAYOUTS(SWIZZLE) \
    LAYOUT(dd_##SWIZZLE, bf16, Depth, Depth, SWIZZLE) LAYOUT(do_##SWIZZLE, f16, Depth, Outer, SWIZZLE) \
    LAYOUT(od_##SWIZZLE, f16, Outer, Depth, SWIZZLE) LAYOUT(oo_##SWIZZLE, bf16, Outer, Outer, SWIZZLE)
LAYOUTS(0)
LAYOUTS(1)
LAYOUTS(2)
LAYOUTS(3)

// ---- A ring of two stages between a warpgroup that copies and one that computes: d (64, 64) = a (64, 64 n) b (64, 64 n)^T, and
// once more, by 384 threads, of which the last 128 only give
// registers back. ----

enum Fault {
    NONE, NO_EXPECT, TOO_FEW_BYTES, TOO_MANY_BYTES, MORE_BYTES_THAN_COUNTED, WRONG_PARITY, NO_FULL_WAIT, NO_EMPTY_WAIT, EARLY_RELEASE,
    RELEASE_BY_ONE_WARP, NO_EMPTY_ARRIVE, ONE_ARRIVAL_MORE, NO_WGMMA_FENCE, ZEROED_AFTER_FENCE, READ_EARLY, WRITTEN_EARLY, NEVER_WAITED,
    THREE_WARPS, OTHER_LINE, LANES_APART, PLACE_NOT_ALIGNED, DESCRIPTOR_NOT_ALIGNED, OPERAND_OUTSIDE, WRONG_STRIDE, NO_INIT,
    BARRIER_NOT_ALIGNED, NO_INIT_FENCE, BARRIER_OVERWRITTEN, REGISTERS_44, REGISTERS_OF_ONE_WARP, REGISTERS_NOT_GIVEN, THREADS_40,
    OTHER_COUNTS, LOAD_AT_END, NO_MAP, SAME_PLACE, WRONG_RANK,
};

template <Fault F> __device__ __forceinline__ void ring(float* d, const CUtensorMap* a, const CUtensorMap* b, unsigned n) {
    DYN_SMEM(smem);
    constexpr unsigned OPERAND = 8192, STAGE = 2 * OPERAND;
    unsigned char* const place = smem + (F == PLACE_NOT_ALIGNED ? 128 : 0);
    uint64_t* const full = reinterpret_cast<uint64_t*>(smem + 2 * STAGE + 1024 + (F == BARRIER_NOT_ALIGNED ? 4 : 0));
    uint64_t* const empty = full + 2;
    if (threadIdx.x == 0 && F != NO_INIT) {
        for (unsigned s = 0; s < 2; s++) {
            mbarrier_init(full + s, 1);
            mbarrier_init(empty + s, F == RELEASE_BY_ONE_WARP ? 1 : 4);
        }
        if (F != NO_INIT_FENCE) fence_mbarrier_init();
        if (F == BARRIER_OVERWRITTEN) empty[1] = 0;
    }
    __syncthreads();
    if (threadIdx.x < 128 || threadIdx.x >= 256) {
        if (F == REGISTERS_44) set_max_registers_dec<44>();
        else if (F != REGISTERS_NOT_GIVEN && (F != REGISTERS_OF_ONE_WARP || threadIdx.x < 32 || threadIdx.x >= 256)) set_max_registers_dec<40>();
        if (threadIdx.x > 0) return;
        for (unsigned i = 0; i < 2 * n; i++) {
            const unsigned s = i % 2, at = i % n * 64;
            if (F != NO_EMPTY_WAIT) mbarrier_wait(empty + s, i / 2 % 2 ^ 1);
            unsigned bytes = STAGE;
            if (F == TOO_FEW_BYTES) bytes -= 128;
            if (F == TOO_MANY_BYTES) bytes += 128;
            if (F == MORE_BYTES_THAN_COUNTED) bytes = 1 << 20;
            if (F == NO_EXPECT) mbarrier_arrive(full + s);
            else mbarrier_arrive_expect_tx(full + s, bytes);
            if (F == ONE_ARRIVAL_MORE) mbarrier_arrive(full + s);
            const CUtensorMap none = {};
            tma_load_2d(place + s * STAGE, F == NO_MAP ? &none : a, full + s, int(at), 0);
            if (F == WRONG_RANK) tma_load_3d(place + s * STAGE + OPERAND, b, full + s, int(at), 0, 0);
            else tma_load_2d(place + s * STAGE + (F == SAME_PLACE ? 0 : OPERAND), b, full + s, int(at), 0);
        }
        if (F == LOAD_AT_END) {
            mbarrier_wait(empty, 1 ^ n % 2);
            tma_load_2d(place, a, full, 0, 0);
        }
        return;
    }
    set_max_registers_inc<240>();
    const unsigned warp = threadIdx.x % 128 / WARP, lane = threadIdx.x % WARP;
    for (unsigned tile = 0; tile < 2; tile++) {
        float acc[32];
        for (unsigned i = 0; i < 32; i++) acc[i] = 0.f;
        for (unsigned step = 0; step < n; step++) {
            const unsigned i = tile * n + step, s = i % 2;
            if (F != NO_FULL_WAIT) mbarrier_wait(full + s, i / 2 % 2 ^ (F == WRONG_PARITY ? 1 : 0));
            if (F != NO_WGMMA_FENCE) wgmma_fence();
            if (F == ZEROED_AFTER_FENCE && step == 0) {
                for (unsigned e = 0; e < 32; e++) acc[e] = float(tile);
            }
            const unsigned char* const from = place + s * STAGE + (F == DESCRIPTOR_NOT_ALIGNED ? 128 : 0);
            for (unsigned k = 0; k < 4; k++) {
                if (F == THREE_WARPS && warp == 3) continue;
                const uint64_t da = matrix_descriptor(from + k * 32, 16, F == WRONG_STRIDE ? 512 : F == OPERAND_OUTSIDE ? 131072 : 1024);
                const uint64_t db = matrix_descriptor(from + OPERAND + k * 32, 16, 1024);
                if (F == OTHER_LINE && warp == 1) wgmma<bf16, 64, Inner::Depth, Inner::Depth>(acc, da, db, true);
                else if (F == LANES_APART && lane == 7) wgmma<bf16, 64, Inner::Depth, Inner::Depth>(acc, da, db, true);
                else wgmma<bf16, 64, Inner::Depth, Inner::Depth>(acc, da, db, true);
            }
            wgmma_commit();
            if (F == EARLY_RELEASE && lane == 0) mbarrier_arrive(empty + s);
            if (F == WRITTEN_EARLY) acc[3] = 0.f;
            float early = 0.f;
            if (F == READ_EARLY) early = acc[0] * 0.f;
            if (F == NEVER_WAITED) return;
            wgmma_wait<0>();
            if (F == READ_EARLY) acc[0] += early;
            if (F == RELEASE_BY_ONE_WARP ? threadIdx.x == 128 : lane == 0 && F != EARLY_RELEASE && F != NO_EMPTY_ARRIVE) mbarrier_arrive(empty + s);
        }
        if (F == THREADS_40) named_barrier_sync(1, 40);
        if (F == OTHER_COUNTS) named_barrier_sync(1, warp == 0 ? 96 : 128);
        else named_barrier_sync(1, 128);
        store_sums(d, acc);
        named_barrier_sync(1, 128);
    }
}

#define RING(name, FAULT) \
    extern "C" __global__ void __launch_bounds__(384) ring_##name(float* d, const __grid_constant__ CUtensorMap a, const __grid_constant__ CUtensorMap b, unsigned n) { ring<FAULT>(d, &a, &b, n); } \
    EXPORT(ring_##name)
RING(right, NONE)
RING(no_expect, NO_EXPECT)
RING(too_few_bytes, TOO_FEW_BYTES)
RING(too_many_bytes, TOO_MANY_BYTES)
RING(more_bytes_than_counted, MORE_BYTES_THAN_COUNTED)
RING(wrong_parity, WRONG_PARITY)
RING(no_full_wait, NO_FULL_WAIT)
RING(no_empty_wait, NO_EMPTY_WAIT)
RING(early_release, EARLY_RELEASE)
RING(release_by_one_warp, RELEASE_BY_ONE_WARP)
RING(no_empty_arrive, NO_EMPTY_ARRIVE)
RING(one_arrival_more, ONE_ARRIVAL_MORE)
RING(no_wgmma_fence, NO_WGMMA_FENCE)
RING(zeroed_after_fence, ZEROED_AFTER_FENCE)
RING(read_early, READ_EARLY)
RING(written_early, WRITTEN_EARLY)
RING(never_waited, NEVER_WAITED)
RING(three_warps, THREE_WARPS)
RING(other_line, OTHER_LINE)
RING(lanes_apart, LANES_APART)
RING(place_not_aligned, PLACE_NOT_ALIGNED)
RING(descriptor_not_aligned, DESCRIPTOR_NOT_ALIGNED)
RING(operand_outside, OPERAND_OUTSIDE)
RING(wrong_stride, WRONG_STRIDE)
RING(no_init, NO_INIT)
RING(barrier_not_aligned, BARRIER_NOT_ALIGNED)
RING(no_init_fence, NO_INIT_FENCE)
RING(barrier_overwritten, BARRIER_OVERWRITTEN)
RING(registers_44, REGISTERS_44)
RING(registers_of_one_warp, REGISTERS_OF_ONE_WARP)
RING(registers_not_given, REGISTERS_NOT_GIVEN)
RING(threads_40, THREADS_40)
RING(other_counts, OTHER_COUNTS)
RING(load_at_end, LOAD_AT_END)
RING(no_map, NO_MAP)
RING(same_place, SAME_PLACE)
RING(wrong_rank, WRONG_RANK)

// A thread that waits for a phase while two go by, and a warpgroup of 64 threads: one block.
extern "C" __global__ void missed_phase(float* d) {
    DYN_SMEM(smem);
    uint64_t* const barrier = reinterpret_cast<uint64_t*>(smem);
    if (threadIdx.x == 0) mbarrier_init(barrier, 1);
    __syncthreads();
    if (threadIdx.x >= 32) mbarrier_wait(barrier, 0);
    if (threadIdx.x == 0) {
        for (unsigned i = 0; i < 2; i++) mbarrier_arrive(barrier);
    }
    d[threadIdx.x] = 1.f;
}
EXPORT(missed_phase)
extern "C" __global__ void too_few_threads(float* d) {
    DYN_SMEM(smem);
    float acc[32] = {};
    wgmma_fence();
    wgmma<bf16, 64, Inner::Depth, Inner::Depth>(acc, matrix_descriptor(smem, 16, 1024), matrix_descriptor(smem, 16, 1024), true);
    wgmma_commit();
    wgmma_wait<0>();
    store_sums(d, acc);
}
EXPORT(too_few_threads)

// ---- Operands that threads store, A in registers, sums that leave by a tensor store: d (64, 32) of the first 32 columns of
// a (64, 16) b (64, 16)^T, one block of 128 threads. ----

enum StoreFault {
    ALL_RIGHT, NO_PROXY_FENCE, FENCE_BEFORE_STORES, NO_BARRIER, A_CHANGED, SUMS_NOT_FENCED, SUMS_OVERWRITTEN, STORE_NOT_WAITED, STORE_NOT_COMMITTED,
    STORE_NOT_ALIGNED,
};

template <StoreFault F> __device__ __forceinline__ void stored(const CUtensorMap* d, const bf16* a, const bf16* b) {
    DYN_SMEM(smem);
    const unsigned t = threadIdx.x, warp = t / WARP, lane = t % WARP;
    if (F == FENCE_BEFORE_STORES) fence_proxy_async();
    // Two chunks of a row of 64 elements each, of which 16 are used: chunk c of row r lies at c ^ r % 8.
    const unsigned row = t / 2, chunk = t % 2;
    store_vec(reinterpret_cast<bf16*>(smem + row * 128 + (chunk ^ row % 8) * 16), load_vec(b + row * 16 + chunk * 8));
    if (F != NO_PROXY_FENCE && F != FENCE_BEFORE_STORES) fence_proxy_async();
    if (F != NO_BARRIER) __syncthreads();
    uint32_t fa[4];
    for (unsigned i = 0; i < 4; i++) {
        const bf16* const pair = a + (warp * 16 + lane / 4 + i % 2 * 8) * 16 + lane % 4 * 2 + i / 2 * 8;
        fa[i] = pack<bf16>(to_f32(pair[0]), to_f32(pair[1]));
    }
    float acc[32];
    wgmma_fence();
    wgmma<bf16, 64, Inner::Depth>(acc, fa, matrix_descriptor(smem, 16, 1024), false);
    wgmma_commit();
    if (F == A_CHANGED) fa[1] ^= 1;
    wgmma_wait<0>();
    if (F == A_CHANGED && fa[1] == 12345) return;
    float* const sums = reinterpret_cast<float*>(smem + 8192 + (F == STORE_NOT_ALIGNED ? 64 : 0));
    for (unsigned i = 0; i < 16; i++) sums[(warp * 16 + lane / 4 + i / 2 % 2 * 8) * 32 + i / 4 * 8 + lane % 4 * 2 + i % 2] = acc[i];
    if (F != SUMS_NOT_FENCED) fence_proxy_async();
    __syncthreads();
    if (t > 0) return;
    tma_store_2d(d, sums, 0, 0);
    if (F != STORE_NOT_COMMITTED) bulk_commit();
    if (F == SUMS_OVERWRITTEN) sums[5] = 1.f;
    if (F != STORE_NOT_WAITED) bulk_wait_read<0>();
}

#define STORED(name, FAULT) \
    extern "C" __global__ void __launch_bounds__(128) stored_##name(const __grid_constant__ CUtensorMap d, const bf16* a, const bf16* b) { stored<FAULT>(&d, a, b); } \
    EXPORT(stored_##name)
STORED(right, ALL_RIGHT)
STORED(no_proxy_fence, NO_PROXY_FENCE)
STORED(fence_before_stores, FENCE_BEFORE_STORES)
STORED(no_barrier, NO_BARRIER)
STORED(a_changed, A_CHANGED)
STORED(sums_not_fenced, SUMS_NOT_FENCED)
STORED(sums_overwritten, SUMS_OVERWRITTEN)
STORED(store_not_waited, STORE_NOT_WAITED)
STORED(store_not_committed, STORE_NOT_COMMITTED)
STORED(store_not_aligned, STORE_NOT_ALIGNED)

// ---- Clusters of two blocks that share b: d (64 per block, 64) = a (64 per block, 64 n) b (64, 64 n)^T. Each block copies half of b to
// both. 160 threads: a warpgroup computes, a warp copies. ----

enum ClusterFault { SHARED_RIGHT, ENDS_EARLY, NO_FIRST_SYNC, RELEASED_HERE_ONLY, OUTSIDE_OF_CLUSTER, ARRIVES_OUTSIDE, NO_CLUSTER_FENCE };

template <ClusterFault F> __device__ __forceinline__ void shared_b(float* d, const CUtensorMap* a, const CUtensorMap* b, unsigned n) {
    DYN_SMEM(smem);
    constexpr unsigned OPERAND = 8192, STAGE = 2 * OPERAND;
    uint64_t* const full = reinterpret_cast<uint64_t*>(smem + 2 * STAGE);
    uint64_t* const empty = full + 2;
    const unsigned rank = cluster_rank(), lane = threadIdx.x % WARP;
    if (threadIdx.x == 0) {
        for (unsigned s = 0; s < 2; s++) {
            mbarrier_init(full + s, 1);
            mbarrier_init(empty + s, F == RELEASED_HERE_ONLY ? 4 : 8);
        }
        if (F != NO_CLUSTER_FENCE) fence_mbarrier_init();
    }
    if (F == NO_FIRST_SYNC) __syncthreads();
    else cluster_sync();
    if (threadIdx.x >= 128) {
        for (unsigned i = 0; i < n && lane == 0; i++) {
            const unsigned s = i % 2;
            mbarrier_wait(empty + s, i / 2 % 2 ^ 1);
            mbarrier_arrive_expect_tx(full + s, STAGE);
            tma_load_2d(smem + s * STAGE, a, full + s, int(i * 64), int(blockIdx.x * 64));
            tma_load_2d_multicast(smem + s * STAGE + OPERAND + rank * OPERAND / 2, b, full + s, int(i * 64), int(rank * 32), F == OUTSIDE_OF_CLUSTER ? 5 : 3);
        }
    } else {
        float acc[32];
        for (unsigned i = 0; i < n; i++) {
            const unsigned s = i % 2;
            mbarrier_wait(full + s, i / 2 % 2);
            wgmma_fence();
            for (unsigned k = 0; k < 4; k++) {
                const unsigned char* const from = smem + s * STAGE + k * 32;
                wgmma<bf16, 64, Inner::Depth, Inner::Depth>(acc, matrix_descriptor(from, 16, 1024), matrix_descriptor(from + OPERAND, 16, 1024), i + k > 0);
            }
            wgmma_commit();
            wgmma_wait<0>();
            for (unsigned to = 0; to < 2 && lane == 0; to++) {
                if (F != RELEASED_HERE_ONLY || to == rank) mbarrier_arrive_at(empty + s, to + (F == ARRIVES_OUTSIDE ? 1 : 0));
            }
        }
        store_sums(d + blockIdx.x * 4096, acc);
    }
    __syncwarp();
    if (F != ENDS_EARLY) cluster_sync();
}

#define SHARED(name, FAULT) \
    extern "C" __global__ void __launch_bounds__(160) shared_##name(float* d, const __grid_constant__ CUtensorMap a, const __grid_constant__ CUtensorMap b, unsigned n) { shared_b<FAULT>(d, &a, &b, n); } \
    EXPORT(shared_##name)
SHARED(right, SHARED_RIGHT)
SHARED(ends_early, ENDS_EARLY)
SHARED(no_first_sync, NO_FIRST_SYNC)
SHARED(released_here_only, RELEASED_HERE_ONLY)
SHARED(outside_of_cluster, OUTSIDE_OF_CLUSTER)
SHARED(arrives_outside, ARRIVES_OUTSIDE)
SHARED(no_cluster_fence, NO_CLUSTER_FENCE)
