// attention: out = softmax(scale q k^T) v per head; rows of a prefix may stand in front of k and v.
//
//   q, out, dout     (B, Tq, C) and k, v (B, Tk, C), C = heads * head_dim; rows `stride` apart, so that
//                    packed (B, T, 3C) and separate tensors are the same to a kernel
//   prefix_k, _v     (B, prefix, C), dense; key j is prefix row j, or row j - prefix of k
//   lse              (B, H, Tq) f32: logarithm of each softmax denominator, natural
//   delta            (B, H, Tq) f32: sum over keys of P dP, scratch of the backward pass
//
// Backward, with P = exp(scale q k^T - lse) computed again and dP = dout v^T:
//   delta = sum P dP;   dS = P (dP - delta);   dq = scale dS k;   dk = scale dS^T q;   dv = P^T dout
// in three kernels: delta and dq have queries as rows, dkv has keys as rows. Nine products instead
// of the five of a single pass; in exchange no atomics, no (Tq, Tk) matrix in memory, and each
// kernel computes only the rows that are asked for.
//
// 16-bit forms: a block owns 128 rows of one head of one image, a warp 32 of them, with wide heads 16; the
// other side passes through shared memory in tiles, two at a time, by cp.async. What a warp reads of it serves all its rows. Products by
// mma.m16n8k16, softmax in f32 (forward: online), P and dS rounded to T as operands.
// f32 form: a warp owns a row, its lanes are 32 rows of the other side.
//
// The same bits: an output row depends on its own image and head alone, and the other side is
// walked in order. Widths: head_dim <= 32 (`_narrow`), <= 64, <= 128 (`_wide`), zeros beyond.
//
// Traffic at least: q, k, v, out once (forward); q, k, v, dout 3 times, dq, dk, dv once (backward).
#include <type_traits>

#include "include/common.cuh"
#include "include/ptx.cuh"
#include "include/tile.cuh"

// Rows of one head of one image, of which the first `first` are those of a prefix. With T const for reading.
template <class T> struct Rows {
    T* data; // where row 0 would lie without a prefix
    unsigned stride, first, end; // rows first..end are here
    T* prefix;
    unsigned prefix_stride;
    __device__ __forceinline__ T* operator()(unsigned row) const {
        const bool before = row < first;
        // One multiply-add: a distance in bytes of 32 bits.
        const unsigned bytes = unsigned(sizeof(T)) * (before ? prefix_stride : stride);
        return (T*)((const char*)(before ? prefix : data) + size_t(row) * bytes);
    }
};
// `count` rows per image of `stride` elements.
template <class T> __device__ __forceinline__ Rows<T> rows_of(T* data, unsigned image, unsigned col, unsigned count, unsigned stride) {
    return { data + size_t(image) * count * stride + col, stride, 0, count, nullptr, 0 };
}
template <class T>
__device__ __forceinline__ Rows<T> rows_of(T* data, unsigned image, unsigned col, unsigned count, unsigned stride,
                                           T* prefix, unsigned prefix_count, unsigned prefix_stride) {
    T* const before = prefix_count == 0 ? nullptr : prefix + size_t(image) * prefix_count * prefix_stride + col;
    T* const begin = data + size_t(image) * count * stride + col - size_t(prefix_count) * stride;
    return { begin, stride, prefix_count, prefix_count + count, before, prefix_stride };
}

// What the extents and the number of a block say.
struct Problem {
    unsigned heads, head_dim, tq, tk, prefix, q_stride, kv_stride;
    float scale;
};
struct Place {
    unsigned image, head, col; // col: first column of the head
    unsigned row0;             // first row of the block
    __device__ __forceinline__ Place(const Problem& p, unsigned rows, unsigned rows_per_block) {
        const unsigned blocks = div_ceil(rows, rows_per_block), unit = blockIdx.x / blocks;
        image = unit / p.heads, head = unit % p.heads, col = head * p.head_dim;
        row0 = blockIdx.x % blocks * rows_per_block;
    }
    // The head's first entry in a tensor (B, H, n).
    __device__ __forceinline__ size_t vector(const Problem& p, unsigned n) const {
        return (size_t(image) * p.heads + head) * n;
    }
};

// Tiles of one head: WIDTH >= head_dim columns; blocks own ROWS rows, warps GROUPS times 16 of them, the other side comes in STEPs.
template <class T, unsigned WIDTH> struct Shape {
    static constexpr unsigned ROWS = 128, GROUPS = WIDTH <= 64 ? 2 : 1, OWN = GROUPS * 16, THREADS = ROWS / OWN * WARP;
    static constexpr unsigned STEP = WIDTH <= 64 ? 64 : 32; // so that all tiles fit into 99 KiB
    using Own = Tile<T, ROWS, WIDTH>;
    using Other = Tile<T, STEP, WIDTH>;
    static constexpr unsigned FORWARD_LEN = Own::SIZE + 4 * Other::SIZE;
    static constexpr unsigned BACKWARD_LEN = 2 * Own::SIZE + 4 * Other::SIZE; // of T; lse and delta follow
};

// The rows of a warp as `a` operands. With KEPT in registers, else read each time.
template <class T, unsigned WIDTH, bool KEPT> struct OwnRows {
    static constexpr unsigned GROUPS = Shape<T, WIDTH>::GROUPS;
    typename Shape<T, WIDTH>::Own tile;
    unsigned row;
    uint32_t kept[GROUPS][KEPT ? WIDTH / 16 : 1][4];

    __device__ __forceinline__ void fetch() {
        if constexpr (KEPT) {
#pragma unroll
            for (unsigned g = 0; g < GROUPS; g++) {
#pragma unroll
                for (unsigned d = 0; d < WIDTH / 16; d++) fragment_a<Inner::Depth>(kept[g][d], tile, row + g * 16, d * 16);
            }
        }
    }
    __device__ __forceinline__ const uint32_t (&get(unsigned g, unsigned d))[4] {
        if constexpr (KEPT) return kept[g][d];
        fragment_a<Inner::Depth>(kept[g][0], tile, row + g * 16, d * 16);
        return kept[g][0];
    }
};

// s (16 columns for each row of a group) = own rows times rows first.. of the other side.
template <class T, unsigned WIDTH, bool KEPT, unsigned GROUPS>
__device__ __forceinline__ void scores(float (&s)[GROUPS][2][4], OwnRows<T, WIDTH, KEPT>& own,
                                       const typename Shape<T, WIDTH>::Other& other, unsigned first) {
#pragma unroll
    for (unsigned g = 0; g < GROUPS; g++) {
#pragma unroll
        for (unsigned e = 0; e < 8; e++) s[g][e / 4][e % 4] = 0.f;
    }
#pragma unroll
    for (unsigned d = 0; d < WIDTH / 16; d++) {
        uint32_t b[4];
        fragment_b<Inner::Depth>(b, other, first, d * 16);
#pragma unroll
        for (unsigned g = 0; g < GROUPS; g++) {
            const uint32_t (&a)[4] = own.get(g, d);
            mma_16816<T>(s[g][0], a, b[0], b[1]);
            mma_16816<T>(s[g][1], a, b[2], b[3]);
        }
    }
}

// The sums of a product with 16 columns as the `a` operand of the next one.
template <class T> __device__ __forceinline__ void as_operand(uint32_t (&a)[4], const float (&s)[2][4]) {
    a[0] = pack<T>(s[0][0], s[0][1]);
    a[1] = pack<T>(s[0][2], s[0][3]);
    a[2] = pack<T>(s[1][0], s[1][1]);
    a[3] = pack<T>(s[1][2], s[1][3]);
}

// sum (WIDTH columns for each row of a group) += s (16 columns) times rows first.. of the other side.
template <class T, unsigned WIDTH, unsigned GROUPS>
__device__ __forceinline__ void accumulate(float (&sum)[GROUPS][WIDTH / 8][4], const float (&s)[GROUPS][2][4],
                                           const typename Shape<T, WIDTH>::Other& other, unsigned first) {
    uint32_t a[GROUPS][4];
#pragma unroll
    for (unsigned g = 0; g < GROUPS; g++) as_operand<T>(a[g], s[g]);
#pragma unroll
    for (unsigned d = 0; d < WIDTH / 16; d++) {
        uint32_t b[4];
        fragment_b<Inner::Outer>(b, other, d * 16, first);
#pragma unroll
        for (unsigned g = 0; g < GROUPS; g++) {
            mma_16816<T>(sum[g][2 * d], a[g], b[0], b[1]);
            mma_16816<T>(sum[g][2 * d + 1], a[g], b[2], b[3]);
        }
    }
}

// Writes a warp's sums, times a factor per row (of a group g and g + 8), through its own rows of the tile,
// which is not read any more.
template <class T, unsigned WIDTH, bool VECTORS, unsigned GROUPS>
__device__ __forceinline__ void store(const Rows<T>& to, const typename Shape<T, WIDTH>::Own& tile, unsigned row0, unsigned row,
                                      const float (&sum)[GROUPS][WIDTH / 8][4], const float (&factor)[GROUPS][2], const Problem& p) {
    const unsigned g = threadIdx.x % WARP / 4, t = threadIdx.x % 4 * 2;
    __syncwarp();
#pragma unroll
    for (unsigned i = 0; i < GROUPS; i++) {
#pragma unroll
        for (unsigned d = 0; d < WIDTH / 8; d++) {
#pragma unroll
            for (unsigned half = 0; half < 2; half++) {
                const float by = factor[i][half], *const two = sum[i][d] + half * 2;
                *reinterpret_cast<uint32_t*>(tile.at(row + i * 16 + half * 8 + g, d * 8 + t)) = pack<T>(two[0] * by, two[1] * by);
            }
        }
    }
    __syncwarp();
    tile.template store_warp<GROUPS * 16, VECTORS>(to, row0, row, p.head_dim);
}

// Calls begin() once what was copied before has landed, then whole(step) for each STEP of `count` rows, and rest(step, left)
// for those that are left, after load(step) has filled a stage and what it copies has landed. The next tiles are on
// their way while some are used.
template <unsigned STEP, class Load, class Begin, class Whole, class Rest>
__device__ __forceinline__ void walk(unsigned count, const Load& load, const Begin& begin, const Whole& whole, const Rest& rest) {
    const unsigned steps = count / STEP, left = count % STEP;
    cp_async_commit();
    load(0);
    cp_async_commit();
    cp_async_wait<1>();
    __syncthreads();
    begin();
    for (unsigned i = 0; i < steps; i++) {
        if ((i + 1) * STEP < count) load(i + 1);
        cp_async_commit();
        cp_async_wait<1>();
        __syncthreads();
        whole(i);
        __syncthreads(); // the stage may be filled again
    }
    if (left == 0) return;
    cp_async_wait<0>();
    __syncthreads();
    rest(steps, left);
}

// Calls use(groups) with the number of groups of 16 rows, at most MOST, that `left` rows take, known to the compiler.
template <unsigned MOST, class Use> __device__ __forceinline__ void in_groups(unsigned left, const Use& use) {
    if constexpr (MOST > 1) {
        if (left <= (MOST - 1) * 16) return in_groups<MOST - 1>(left, use);
    }
    use(std::integral_constant<unsigned, MOST>());
}

template <class T, unsigned WIDTH, bool VECTORS>
__device__ __forceinline__ void forward(T* out, float* __restrict__ lse, const T* __restrict__ q, const T* __restrict__ k,
                                        const T* __restrict__ v, const T* __restrict__ prefix_k,
                                        const T* __restrict__ prefix_v, const Problem& p) {
    using S = Shape<T, WIDTH>;
    DYN_SMEM(smem);
    T* const tiles = reinterpret_cast<T*>(smem);
    const auto stage = [&](unsigned step, unsigned which) {
        return typename S::Other{ tiles + S::Own::SIZE + (step % 2 * 2 + which) * S::Other::SIZE };
    };
    const Place at(p, p.tq, S::ROWS);
    const unsigned c = p.heads * p.head_dim, keys = p.prefix + p.tk;
    const auto queries = rows_of(q, at.image, at.col, p.tq, p.q_stride);
    const auto key_rows = rows_of(k, at.image, at.col, p.tk, p.kv_stride, prefix_k, p.prefix, c);
    const auto value_rows = rows_of(v, at.image, at.col, p.tk, p.kv_stride, prefix_v, p.prefix, c);
    const unsigned row = threadIdx.x / WARP * S::OWN, g = threadIdx.x % WARP / 4, t = threadIdx.x % 4 * 2;
    const bool busy = at.row0 + row < p.tq; // a warp without rows only helps to load

    OwnRows<T, WIDTH, WIDTH <= 64> own = { { tiles }, row, {} };
    own.tile.template load<S::THREADS, VECTORS>(queries, at.row0, 0, p.head_dim);
    const float unit = p.scale * LOG2_E; // exp2 is what the machine has
    float o[S::GROUPS][WIDTH / 8][4] = {}, top[S::GROUPS][2], sum[S::GROUPS][2] = {};
#pragma unroll
    for (unsigned i = 0; i < S::GROUPS; i++) top[i][0] = top[i][1] = -CUDART_INF_F;
    const auto load = [&](unsigned step) {
        stage(step, 0).template load<S::THREADS, VECTORS>(key_rows, step * S::STEP, 0, p.head_dim);
        stage(step, 1).template load<S::THREADS, VECTORS>(value_rows, step * S::STEP, 0, p.head_dim);
    };
    // The first `sixteens` of 16 keys of a step; with `last`, keys of the last one may be missing.
    const auto use = [&](unsigned step, auto sixteens, auto last) {
        constexpr unsigned KEYS = decltype(sixteens)::value;
        float s[KEYS][S::GROUPS][2][4];
#pragma unroll
        for (unsigned k = 0; k < KEYS; k++) scores(s[k], own, stage(step, 0), k * 16);
#pragma unroll
        for (unsigned i = 0; i < S::GROUPS; i++) {
            float most[2] = { top[i][0], top[i][1] }, shift[2];
#pragma unroll
            for (unsigned k = 0; k < KEYS; k++) {
#pragma unroll
                for (unsigned e = 0; e < 8; e++) {
                    float& x = s[k][i][e / 4][e % 4];
                    if constexpr (decltype(last)::value) {
                        const unsigned key = step * S::STEP + k * 16 + e / 4 * 8 + t + e % 2;
                        if (k + 1 == KEYS && key >= keys) x = -CUDART_INF_F;
                    }
                    most[e % 4 / 2] = fmaxf(most[e % 4 / 2], x);
                }
            }
#pragma unroll
            for (unsigned half = 0; half < 2; half++) {
                most[half] = quad_max(most[half]);
                shift[half] = -unit * most[half];
                const float shrink = exp2_approx(fmaf(unit, top[i][half], shift[half]));
                top[i][half] = most[half];
                sum[i][half] *= shrink;
#pragma unroll
                for (unsigned d = 0; d < WIDTH / 8; d++) {
                    o[i][d][half * 2] *= shrink;
                    o[i][d][half * 2 + 1] *= shrink;
                }
            }
#pragma unroll
            for (unsigned k = 0; k < KEYS; k++) {
#pragma unroll
                for (unsigned e = 0; e < 8; e++) {
                    float& x = s[k][i][e / 4][e % 4];
                    x = exp2_approx(fmaf(unit, x, shift[e % 4 / 2]));
                    sum[i][e % 4 / 2] += x;
                }
            }
        }
#pragma unroll
        for (unsigned k = 0; k < KEYS; k++) accumulate<T, WIDTH>(o, s[k], stage(step, 1), k * 16);
    };
    const auto whole = [&](unsigned step) {
        if (busy) use(step, std::integral_constant<unsigned, S::STEP / 16>(), std::false_type());
    };
    const auto rest = [&](unsigned step, unsigned left) {
        if (busy) in_groups<S::STEP / 16>(left, [&](auto sixteens) { use(step, sixteens, std::true_type()); });
    };
    walk<S::STEP>(keys, load, [&] { own.fetch(); }, whole, rest);
    if (!busy) return;
    float factor[S::GROUPS][2];
#pragma unroll
    for (unsigned i = 0; i < S::GROUPS; i++) {
#pragma unroll
        for (unsigned half = 0; half < 2; half++) {
            sum[i][half] = quad_sum(sum[i][half]);
            factor[i][half] = 1.f / sum[i][half];
        }
    }
    const auto outputs = rows_of(out, at.image, at.col, p.tq, c);
    store<T, WIDTH, VECTORS>(outputs, own.tile, at.row0, row, o, factor, p);
#pragma unroll
    for (unsigned i = 0; i < S::GROUPS; i++) {
#pragma unroll
        for (unsigned half = 0; half < 2; half++) {
            const unsigned r = at.row0 + row + i * 16 + half * 8 + g;
            if (t == 0 && r < p.tq) lse[at.vector(p, p.tq) + r] = fmaf(p.scale, top[i][half], log2f(sum[i][half]) * LN_2);
        }
    }
}

// delta of all queries (DQ false, written to `delta`), or dq of the queries first_row.. (count of them),
// with delta read.
template <class T, unsigned WIDTH, bool DQ, bool VECTORS>
__device__ __forceinline__ void backward_queries(T* dq, float* delta, const T* __restrict__ dout, const float* __restrict__ lse,
                                                 const T* __restrict__ q, const T* __restrict__ k, const T* __restrict__ v,
                                                 const T* __restrict__ prefix_k, const T* __restrict__ prefix_v,
                                                 const Problem& p, unsigned first_row, unsigned count, unsigned dq_stride) {
    using S = Shape<T, WIDTH>;
    DYN_SMEM(smem);
    T* const tiles = reinterpret_cast<T*>(smem);
    const auto stage = [&](unsigned step, unsigned which) {
        return typename S::Other{ tiles + 2 * S::Own::SIZE + (step % 2 * 2 + which) * S::Other::SIZE };
    };
    const Place at(p, count, S::ROWS);
    const unsigned c = p.heads * p.head_dim, keys = p.prefix + p.tk;
    const auto queries = rows_of(q, at.image, at.col, p.tq, p.q_stride);
    const auto dout_rows = rows_of(dout, at.image, at.col, p.tq, c);
    const auto key_rows = rows_of(k, at.image, at.col, p.tk, p.kv_stride, prefix_k, p.prefix, c);
    const auto value_rows = rows_of(v, at.image, at.col, p.tk, p.kv_stride, prefix_v, p.prefix, c);
    const unsigned row = threadIdx.x / WARP * S::OWN, g = threadIdx.x % WARP / 4, t = threadIdx.x % 4 * 2;
    const bool busy = at.row0 + row < count;

    OwnRows<T, WIDTH, WIDTH <= 64> own_q = { { tiles }, row, {} }, own_dout = { { tiles + S::Own::SIZE }, row, {} };
    own_q.tile.template load<S::THREADS, VECTORS>(queries, first_row + at.row0, 0, p.head_dim);
    own_dout.tile.template load<S::THREADS, VECTORS>(dout_rows, first_row + at.row0, 0, p.head_dim);
    const float unit = p.scale * LOG2_E;
    float bound[S::GROUPS][2], mean[S::GROUPS][2] = {};
#pragma unroll
    for (unsigned i = 0; i < S::GROUPS; i++) {
#pragma unroll
        for (unsigned half = 0; half < 2; half++) {
            const unsigned r = at.row0 + row + i * 16 + half * 8 + g;
            const size_t entry = at.vector(p, p.tq) + first_row + r;
            bound[i][half] = r < count ? lse[entry] * LOG2_E : CUDART_INF_F; // rows beyond: P = 0
            if (DQ && r < count) mean[i][half] = delta[entry];
        }
    }
    float sum[S::GROUPS][DQ ? WIDTH / 8 : 1][4] = {};
    const auto load = [&](unsigned step) {
        stage(step, 0).template load<S::THREADS, VECTORS>(key_rows, step * S::STEP, 0, p.head_dim);
        stage(step, 1).template load<S::THREADS, VECTORS>(value_rows, step * S::STEP, 0, p.head_dim);
    };
    // 16 keys from `first` of a step on, of which those from `left` of the step on are missing if it is the rest.
    const auto use = [&](unsigned step, unsigned first, unsigned left, auto rest) {
        float s[S::GROUPS][2][4], dp[S::GROUPS][2][4];
        scores(s, own_q, stage(step, 0), first);
        scores(dp, own_dout, stage(step, 1), first);
#pragma unroll
        for (unsigned i = 0; i < S::GROUPS; i++) {
#pragma unroll
            for (unsigned e = 0; e < 8; e++) {
                const unsigned j = e / 4, half = e % 4 / 2;
                float& x = s[i][j][e % 4];
                float prob = exp2_approx(fmaf(unit, x, -bound[i][half]));
                if constexpr (decltype(rest)::value) prob = first + j * 8 + t + e % 2 < left ? prob : 0.f;
                if constexpr (DQ) x = prob * (dp[i][j][e % 4] - mean[i][half]);
                else mean[i][half] += prob * dp[i][j][e % 4];
            }
        }
        if constexpr (DQ) accumulate<T, WIDTH>(sum, s, stage(step, 0), first);
    };
    const auto fetch = [&] {
        own_q.fetch();
        own_dout.fetch();
    };
    const auto whole = [&](unsigned step) {
        if (!busy) return;
#pragma unroll 1 // more is in the way of the registers
        for (unsigned i = 0; i < S::STEP; i += 16) use(step, i, S::STEP, std::false_type());
    };
    const auto rest = [&](unsigned step, unsigned left) {
        if (!busy) return;
#pragma unroll 1
        for (unsigned i = 0; i < left; i += 16) use(step, i, left, std::true_type());
    };
    walk<S::STEP>(keys, load, fetch, whole, rest);
    if (!busy) return;
    if constexpr (DQ) {
        const auto outputs = rows_of(dq, at.image, at.col, count, dq_stride);
        float factor[S::GROUPS][2];
#pragma unroll
        for (unsigned i = 0; i < S::GROUPS; i++) factor[i][0] = factor[i][1] = p.scale;
        store<T, WIDTH, VECTORS>(outputs, own_q.tile, at.row0, row, sum, factor, p);
    } else {
#pragma unroll
        for (unsigned i = 0; i < S::GROUPS; i++) {
#pragma unroll
            for (unsigned half = 0; half < 2; half++) {
                mean[i][half] = quad_sum(mean[i][half]);
                const unsigned r = at.row0 + row + i * 16 + half * 8 + g;
                if (t == 0 && r < count) delta[at.vector(p, p.tq) + r] = mean[i][half];
            }
        }
    }
}

// dk and dv of the keys first_row.. (count of them; keys are counted with the prefix).
template <class T, unsigned WIDTH, bool VECTORS>
__device__ __forceinline__ void backward_keys(T* dk, T* dv, const float* __restrict__ delta, const T* __restrict__ dout,
                                              const float* __restrict__ lse, const T* __restrict__ q,
                                              const T* __restrict__ k, const T* __restrict__ v,
                                              const T* __restrict__ prefix_k, const T* __restrict__ prefix_v,
                                              const Problem& p, unsigned first_row, unsigned count, unsigned dkv_stride) {
    using S = Shape<T, WIDTH>;
    DYN_SMEM(smem);
    T* const tiles = reinterpret_cast<T*>(smem);
    float* const vectors = reinterpret_cast<float*>(tiles + S::BACKWARD_LEN); // lse and delta of two stages
    const auto stage = [&](unsigned step, unsigned which) {
        return typename S::Other{ tiles + 2 * S::Own::SIZE + (step % 2 * 2 + which) * S::Other::SIZE };
    };
    const Place at(p, count, S::ROWS);
    const unsigned c = p.heads * p.head_dim;
    const auto queries = rows_of(q, at.image, at.col, p.tq, p.q_stride);
    const auto dout_rows = rows_of(dout, at.image, at.col, p.tq, c);
    const auto key_rows = rows_of(k, at.image, at.col, p.tk, p.kv_stride, prefix_k, p.prefix, c);
    const auto value_rows = rows_of(v, at.image, at.col, p.tk, p.kv_stride, prefix_v, p.prefix, c);
    const unsigned row = threadIdx.x / WARP * S::OWN, t = threadIdx.x % 4 * 2;
    const bool busy = at.row0 + row < count;

    // There are registers for one of them beside the sums.
    OwnRows<T, WIDTH, WIDTH <= 64> own_k = { { tiles }, row, {} };
    OwnRows<T, WIDTH, WIDTH <= 32> own_v = { { tiles + S::Own::SIZE }, row, {} };
    own_k.tile.template load<S::THREADS, VECTORS>(key_rows, first_row + at.row0, 0, p.head_dim);
    own_v.tile.template load<S::THREADS, VECTORS>(value_rows, first_row + at.row0, 0, p.head_dim);
    const float unit = p.scale * LOG2_E;
    float sum_k[S::GROUPS][WIDTH / 8][4] = {}, sum_v[S::GROUPS][WIDTH / 8][4] = {};
    const auto load = [&](unsigned step) {
        stage(step, 0).template load<S::THREADS, VECTORS>(queries, step * S::STEP, 0, p.head_dim);
        stage(step, 1).template load<S::THREADS, VECTORS>(dout_rows, step * S::STEP, 0, p.head_dim);
        if (threadIdx.x < S::STEP) {
            const unsigned r = step * S::STEP + threadIdx.x;
            const size_t entry = at.vector(p, p.tq) + r;
            float* const to = vectors + step % 2 * 2 * S::STEP + threadIdx.x;
            to[0] = r < p.tq ? lse[entry] * LOG2_E : CUDART_INF_F; // queries beyond: P = 0
            to[S::STEP] = r < p.tq ? delta[entry] : 0.f;
        }
    };
    // Rows of the other side that are not there have P = 0.
    const auto use = [&](unsigned step, unsigned rows) {
        if (!busy) return;
        const float* const bounds = vectors + step % 2 * 2 * S::STEP;
#pragma unroll 1 // more is in the way of the registers
        for (unsigned i = 0; i < rows; i += 16) {
            float s[S::GROUPS][2][4], dp[S::GROUPS][2][4];
            scores(s, own_k, stage(step, 0), i);
            scores(dp, own_v, stage(step, 1), i);
#pragma unroll
            for (unsigned j = 0; j < 2; j++) {
                const float2 bound = *reinterpret_cast<const float2*>(bounds + i + j * 8 + t);
                const float2 mean = *reinterpret_cast<const float2*>(bounds + S::STEP + i + j * 8 + t);
#pragma unroll
                for (unsigned group = 0; group < S::GROUPS; group++) {
#pragma unroll
                    for (unsigned e = 0; e < 4; e++) {
                        float &x = s[group][j][e], &y = dp[group][j][e];
                        x = exp2_approx(fmaf(unit, x, -(e % 2 == 0 ? bound.x : bound.y)));
                        y = x * (y - (e % 2 == 0 ? mean.x : mean.y));
                    }
                }
            }
            accumulate<T, WIDTH>(sum_v, s, stage(step, 1), i);
            accumulate<T, WIDTH>(sum_k, dp, stage(step, 0), i);
        }
    };
    const auto fetch = [&] {
        own_k.fetch();
        own_v.fetch();
    };
    walk<S::STEP>(p.tq, load, fetch, [&](unsigned step) { use(step, S::STEP); }, use);
    if (!busy) return;
    const auto to_k = rows_of(dk, at.image, at.col, count, dkv_stride), to_v = rows_of(dv, at.image, at.col, count, dkv_stride);
    float by_scale[S::GROUPS][2], by_one[S::GROUPS][2];
#pragma unroll
    for (unsigned i = 0; i < S::GROUPS; i++) {
        by_scale[i][0] = by_scale[i][1] = p.scale;
        by_one[i][0] = by_one[i][1] = 1.f;
    }
    store<T, WIDTH, VECTORS>(to_k, own_k.tile, at.row0, row, sum_k, by_scale, p);
    store<T, WIDTH, VECTORS>(to_v, own_v.tile, at.row0, row, sum_v, by_one, p);
}

// The f32 form. A block of 8 warps owns 8 rows; the other side comes in tiles of 32 rows, one per lane.
struct Exact {
    static constexpr unsigned ROWS = 8, STEP = 32, THREADS = ROWS * WARP, WIDTH = 128, PITCH = WIDTH + 1;
    static constexpr unsigned SUMS = WIDTH / WARP; // a lane's columns: lane, lane + 32, ...

    // Rows of two matrices in shared memory, zeros beyond their end.
    template <unsigned N>
    static __device__ __forceinline__ void load(float* a, float* b, const Rows<const float>& rows_a,
                                                const Rows<const float>& rows_b, unsigned row0, unsigned head_dim) {
        for (unsigned i = threadIdx.x; i < N * head_dim; i += THREADS) {
            const unsigned r = i / head_dim, d = i % head_dim;
            a[r * PITCH + d] = row0 + r < rows_a.end ? rows_a(row0 + r)[d] : 0.f;
            b[r * PITCH + d] = row0 + r < rows_b.end ? rows_b(row0 + r)[d] : 0.f;
        }
    }
    static __device__ __forceinline__ float dot(const float* a, const float* b, unsigned head_dim) {
        float sum = 0.f;
        for (unsigned d = 0; d < head_dim; d++) sum = fmaf(a[d], b[d], sum);
        return sum;
    }
    // sum[column] += weight of each lane times its row of the tile.
    static __device__ __forceinline__ void accumulate(float (&sum)[SUMS], float weight, const float* tile, unsigned head_dim) {
        for (unsigned j = 0; j < STEP; j++) {
            const float w = __shfl_sync(ALL_LANES, weight, int(j));
#pragma unroll
            for (unsigned i = 0; i < SUMS; i++) {
                const unsigned d = i * WARP + threadIdx.x % WARP;
                if (d < head_dim) sum[i] = fmaf(w, tile[j * PITCH + d], sum[i]);
            }
        }
    }
    static __device__ __forceinline__ void store(const Rows<float>& to, unsigned row, const float (&sum)[SUMS], float factor,
                                                 unsigned head_dim) {
#pragma unroll
        for (unsigned i = 0; i < SUMS; i++) {
            const unsigned d = i * WARP + threadIdx.x % WARP;
            if (row < to.end && d < head_dim) to(row)[d] = sum[i] * factor;
        }
    }
};

// The widths 32, 64 and 128 compute the same in f32.
template <>
__device__ __forceinline__ void forward<float, Exact::WIDTH, false>(float* out, float* __restrict__ lse, const float* __restrict__ q,
                                                             const float* __restrict__ k, const float* __restrict__ v,
                                                             const float* __restrict__ prefix_k,
                                                             const float* __restrict__ prefix_v, const Problem& p) {
    SMEM(float, own, Exact::ROWS * Exact::PITCH);
    SMEM(float, ks, Exact::STEP * Exact::PITCH);
    SMEM(float, vs, Exact::STEP * Exact::PITCH);
    const Place at(p, p.tq, Exact::ROWS);
    const unsigned c = p.heads * p.head_dim, keys = p.prefix + p.tk, warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    const auto queries = rows_of(q, at.image, at.col, p.tq, p.q_stride);
    const auto key_rows = rows_of(k, at.image, at.col, p.tk, p.kv_stride, prefix_k, p.prefix, c);
    const auto value_rows = rows_of(v, at.image, at.col, p.tk, p.kv_stride, prefix_v, p.prefix, c);
    Exact::load<Exact::ROWS>(own, own, queries, queries, at.row0, p.head_dim);
    float o[Exact::SUMS] = {}, top = -CUDART_INF_F, sum = 0.f;
    for (unsigned key0 = 0; key0 < keys; key0 += Exact::STEP) {
        Exact::load<Exact::STEP>(ks, vs, key_rows, value_rows, key0, p.head_dim);
        __syncthreads();
        const bool there = key0 + lane < keys;
        const float s = there ? p.scale * Exact::dot(own + warp * Exact::PITCH, ks + lane * Exact::PITCH, p.head_dim) : -CUDART_INF_F;
        const float most = fmaxf(top, warp_max(s)), shrink = expf(top - most), prob = expf(s - most);
        top = most;
        sum = sum * shrink + warp_sum(prob);
#pragma unroll
        for (unsigned i = 0; i < Exact::SUMS; i++) o[i] *= shrink;
        Exact::accumulate(o, prob, vs, p.head_dim);
        __syncthreads();
    }
    const unsigned row = at.row0 + warp;
    Exact::store(rows_of(out, at.image, at.col, p.tq, c), row, o, 1.f / sum, p.head_dim);
    if (lane == 0 && row < p.tq) lse[at.vector(p, p.tq) + row] = top + logf(sum);
}

template <bool DQ>
__device__ __forceinline__ void exact_backward_queries(float* dq, float* delta, const float* __restrict__ dout,
                                                       const float* __restrict__ lse, const float* __restrict__ q,
                                                       const float* __restrict__ k, const float* __restrict__ v,
                                                       const float* __restrict__ prefix_k, const float* __restrict__ prefix_v,
                                                       const Problem& p, unsigned first_row, unsigned count, unsigned dq_stride) {
    SMEM(float, own_q, Exact::ROWS * Exact::PITCH);
    SMEM(float, own_dout, Exact::ROWS * Exact::PITCH);
    SMEM(float, ks, Exact::STEP * Exact::PITCH);
    SMEM(float, vs, Exact::STEP * Exact::PITCH);
    const Place at(p, count, Exact::ROWS);
    const unsigned c = p.heads * p.head_dim, keys = p.prefix + p.tk, warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    const auto queries = rows_of(q, at.image, at.col, p.tq, p.q_stride);
    const auto dout_rows = rows_of(dout, at.image, at.col, p.tq, c);
    const auto key_rows = rows_of(k, at.image, at.col, p.tk, p.kv_stride, prefix_k, p.prefix, c);
    const auto value_rows = rows_of(v, at.image, at.col, p.tk, p.kv_stride, prefix_v, p.prefix, c);
    Exact::load<Exact::ROWS>(own_q, own_dout, queries, dout_rows, first_row + at.row0, p.head_dim);
    const unsigned row = at.row0 + warp;
    const size_t entry = at.vector(p, p.tq) + first_row + row;
    const float bound = row < count ? lse[entry] : CUDART_INF_F;
    float mean = DQ && row < count ? delta[entry] : 0.f, sum[Exact::SUMS] = {};
    for (unsigned key0 = 0; key0 < keys; key0 += Exact::STEP) {
        Exact::load<Exact::STEP>(ks, vs, key_rows, value_rows, key0, p.head_dim);
        __syncthreads();
        const float s = p.scale * Exact::dot(own_q + warp * Exact::PITCH, ks + lane * Exact::PITCH, p.head_dim);
        const float dp = Exact::dot(own_dout + warp * Exact::PITCH, vs + lane * Exact::PITCH, p.head_dim);
        const float prob = key0 + lane < keys ? expf(s - bound) : 0.f;
        if constexpr (DQ) Exact::accumulate(sum, prob * (dp - mean), ks, p.head_dim);
        else mean += warp_sum(prob * dp);
        __syncthreads();
    }
    if constexpr (DQ) Exact::store(rows_of(dq, at.image, at.col, count, dq_stride), row, sum, p.scale, p.head_dim);
    else if (lane == 0 && row < count) delta[entry] = mean;
}
template <>
__device__ __forceinline__ void backward_queries<float, Exact::WIDTH, false, false>(
    float* dq, float* delta, const float* __restrict__ dout, const float* __restrict__ lse, const float* __restrict__ q,
    const float* __restrict__ k, const float* __restrict__ v, const float* __restrict__ prefix_k,
    const float* __restrict__ prefix_v, const Problem& p, unsigned first_row, unsigned count, unsigned dq_stride) {
    exact_backward_queries<false>(dq, delta, dout, lse, q, k, v, prefix_k, prefix_v, p, first_row, count, dq_stride);
}
template <>
__device__ __forceinline__ void backward_queries<float, Exact::WIDTH, true, false>(
    float* dq, float* delta, const float* __restrict__ dout, const float* __restrict__ lse, const float* __restrict__ q,
    const float* __restrict__ k, const float* __restrict__ v, const float* __restrict__ prefix_k,
    const float* __restrict__ prefix_v, const Problem& p, unsigned first_row, unsigned count, unsigned dq_stride) {
    exact_backward_queries<true>(dq, delta, dout, lse, q, k, v, prefix_k, prefix_v, p, first_row, count, dq_stride);
}

template <>
__device__ __forceinline__ void backward_keys<float, Exact::WIDTH, false>(
    float* dk, float* dv, const float* __restrict__ delta, const float* __restrict__ dout, const float* __restrict__ lse,
    const float* __restrict__ q, const float* __restrict__ k, const float* __restrict__ v, const float* __restrict__ prefix_k,
    const float* __restrict__ prefix_v, const Problem& p, unsigned first_row, unsigned count, unsigned dkv_stride) {
    SMEM(float, own_k, Exact::ROWS * Exact::PITCH);
    SMEM(float, own_v, Exact::ROWS * Exact::PITCH);
    SMEM(float, qs, Exact::STEP * Exact::PITCH);
    SMEM(float, douts, Exact::STEP * Exact::PITCH);
    const Place at(p, count, Exact::ROWS);
    const unsigned c = p.heads * p.head_dim, warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    const auto queries = rows_of(q, at.image, at.col, p.tq, p.q_stride);
    const auto dout_rows = rows_of(dout, at.image, at.col, p.tq, c);
    const auto key_rows = rows_of(k, at.image, at.col, p.tk, p.kv_stride, prefix_k, p.prefix, c);
    const auto value_rows = rows_of(v, at.image, at.col, p.tk, p.kv_stride, prefix_v, p.prefix, c);
    Exact::load<Exact::ROWS>(own_k, own_v, key_rows, value_rows, first_row + at.row0, p.head_dim);
    float sum_k[Exact::SUMS] = {}, sum_v[Exact::SUMS] = {};
    for (unsigned query0 = 0; query0 < p.tq; query0 += Exact::STEP) {
        Exact::load<Exact::STEP>(qs, douts, queries, dout_rows, query0, p.head_dim);
        __syncthreads();
        const bool there = query0 + lane < p.tq;
        const size_t entry = at.vector(p, p.tq) + query0 + lane;
        const float s = p.scale * Exact::dot(own_k + warp * Exact::PITCH, qs + lane * Exact::PITCH, p.head_dim);
        const float dp = Exact::dot(own_v + warp * Exact::PITCH, douts + lane * Exact::PITCH, p.head_dim);
        const float prob = there ? expf(s - lse[entry]) : 0.f;
        Exact::accumulate(sum_v, prob, douts, p.head_dim);
        Exact::accumulate(sum_k, there ? prob * (dp - delta[entry]) : 0.f, qs, p.head_dim);
        __syncthreads();
    }
    const unsigned row = at.row0 + warp;
    Exact::store(rows_of(dk, at.image, at.col, count, dkv_stride), row, sum_k, p.scale, p.head_dim);
    Exact::store(rows_of(dv, at.image, at.col, count, dkv_stride), row, sum_v, 1.f, p.head_dim);
}

// Grid: for each image, head and group of rows a block of THREADS threads; a group is 128 rows, in f32 8.
// Shared memory of the 16-bit forms, with W = 32, 64, 128 the width and S = 64, 64, 32 the step:
// 2 W (128 + 4 S) bytes forward, 2 W (256 + 4 S) + 16 S backward; none in f32.
// `vectors`: head_dim, the strides and all addresses are multiples of 16 bytes.
// FORWARD, BACKWARD: blocks per multiprocessor that registers must leave room for.
// Calls pass with whether tiles can be moved by 16 bytes, known to the compiler. In f32 nothing is.
template <class T, class Pass> __device__ __forceinline__ void by_alignment(unsigned vectors, const Pass& pass) {
    if constexpr (sizeof(T) == 2) {
        if (vectors != 0) return pass(std::true_type());
    }
    pass(std::false_type());
}

#define ATTENTION(name, T, WIDTH, THREADS, FORWARD, BACKWARD) \
    extern "C" __global__ void __launch_bounds__(THREADS, FORWARD) \
        attention_forward_##name( \
            T* out, float* __restrict__ lse, const T* __restrict__ q, const T* __restrict__ k, const T* __restrict__ v, \
            const T* __restrict__ prefix_k, const T* __restrict__ prefix_v, unsigned heads, unsigned head_dim, unsigned tq, \
            unsigned tk, unsigned prefix, unsigned q_stride, unsigned kv_stride, float scale, unsigned vectors) { \
        const Problem p = { heads, head_dim, tq, tk, prefix, q_stride, kv_stride, scale }; \
        by_alignment<T>(vectors, [&](auto aligned) { \
            forward<T, WIDTH, decltype(aligned)::value>(out, lse, q, k, v, prefix_k, prefix_v, p); \
        }); \
    } \
    EXPORT(attention_forward_##name) \
    extern "C" __global__ void __launch_bounds__(THREADS, BACKWARD) \
        attention_backward_delta_##name( \
            float* delta, const T* __restrict__ dout, const float* __restrict__ lse, const T* __restrict__ q, \
            const T* __restrict__ k, const T* __restrict__ v, const T* __restrict__ prefix_k, const T* __restrict__ prefix_v, \
            unsigned heads, unsigned head_dim, unsigned tq, unsigned tk, unsigned prefix, unsigned q_stride, \
            unsigned kv_stride, float scale, unsigned vectors) { \
        const Problem p = { heads, head_dim, tq, tk, prefix, q_stride, kv_stride, scale }; \
        by_alignment<T>(vectors, [&](auto aligned) { \
            backward_queries<T, WIDTH, false, decltype(aligned)::value>(nullptr, delta, dout, lse, q, k, v, prefix_k, prefix_v, p, \
                                                                        0, tq, 0); \
        }); \
    } \
    EXPORT(attention_backward_delta_##name) \
    extern "C" __global__ void __launch_bounds__(THREADS, BACKWARD) \
        attention_backward_q_##name( \
            T* dq, float* delta, const T* __restrict__ dout, const float* __restrict__ lse, const T* __restrict__ q, \
            const T* __restrict__ k, const T* __restrict__ v, const T* __restrict__ prefix_k, const T* __restrict__ prefix_v, \
            unsigned heads, unsigned head_dim, unsigned tq, unsigned tk, unsigned prefix, unsigned q_stride, \
            unsigned kv_stride, float scale, unsigned first_row, unsigned count, unsigned dq_stride, unsigned vectors) { \
        const Problem p = { heads, head_dim, tq, tk, prefix, q_stride, kv_stride, scale }; \
        by_alignment<T>(vectors, [&](auto aligned) { \
            backward_queries<T, WIDTH, true, decltype(aligned)::value>(dq, delta, dout, lse, q, k, v, prefix_k, prefix_v, p, \
                                                                       first_row, count, dq_stride); \
        }); \
    } \
    EXPORT(attention_backward_q_##name) \
    extern "C" __global__ void __launch_bounds__(THREADS, BACKWARD) \
        attention_backward_kv_##name( \
            T* dk, T* dv, const float* __restrict__ delta, const T* __restrict__ dout, const float* __restrict__ lse, \
            const T* __restrict__ q, const T* __restrict__ k, const T* __restrict__ v, const T* __restrict__ prefix_k, \
            const T* __restrict__ prefix_v, unsigned heads, unsigned head_dim, unsigned tq, unsigned tk, unsigned prefix, \
            unsigned q_stride, unsigned kv_stride, float scale, unsigned first_row, unsigned count, unsigned dkv_stride, \
            unsigned vectors) { \
        const Problem p = { heads, head_dim, tq, tk, prefix, q_stride, kv_stride, scale }; \
        by_alignment<T>(vectors, [&](auto aligned) { \
            backward_keys<T, WIDTH, decltype(aligned)::value>(dk, dv, delta, dout, lse, q, k, v, prefix_k, prefix_v, p, \
                                                              first_row, count, dkv_stride); \
        }); \
    } \
    EXPORT(attention_backward_kv_##name)

ATTENTION(narrow_bf16, bf16, 32, 128, 2, 3)
ATTENTION(narrow_f16, f16, 32, 128, 2, 3)
ATTENTION(bf16, bf16, 64, 128, 2, 2)
ATTENTION(f16, f16, 64, 128, 2, 2)
ATTENTION(wide_bf16, bf16, 128, 256, 1, 1)
ATTENTION(wide_f16, f16, 128, 256, 1, 1)
ATTENTION(f32, float, Exact::WIDTH, 256, 1, 1)
