// Kernels with one bug each, which the emulation must find. All take y[n] and n, and run as 2 blocks of 96
// threads with 256 bytes of dynamic shared memory.
#include "include/common.cuh"
#include "include/hopper.cuh"
#include "include/ptx.cuh"

#define BROKEN(name) \
    extern "C" __global__ void broken_##name(float* y, unsigned n); \
    EXPORT(broken_##name) \
    extern "C" __global__ void broken_##name(float* y, unsigned n)

BROKEN(write_far_behind) { y[n + 1000 + threadIdx.x] = 1.f; }
BROKEN(write_just_behind) { y[threadIdx.x == 0 ? n : 0] = 1.f; }
BROKEN(write_just_before) { if (n > 0) y[threadIdx.x == 0 ? -1 : 0] = 1.f; }
BROKEN(read_far_behind) { y[threadIdx.x] = y[n + 1000 + threadIdx.x]; }
BROKEN(read_just_behind) { y[threadIdx.x] = y[threadIdx.x == 0 ? n : 0]; }
BROKEN(read_just_before) { if (n > 0) y[threadIdx.x] = y[threadIdx.x == 0 ? -1 : 0]; }
BROKEN(vector_behind) {
    const Vec<float> v = load_vec(y + n);
    y[threadIdx.x] = v.at[0];
}
BROKEN(copy_from_outside) {
    DYN_SMEM(s);
    if (threadIdx.x == 0) cp_async16(s, y + n, true);
    cp_async_commit();
    cp_async_wait<0>();
}
BROKEN(null) { if (n > 0) static_cast<float*>(nullptr)[threadIdx.x] = y[0]; }

BROKEN(barrier_in_a_branch) {
    if (threadIdx.x < 40) {
        __syncthreads();
    } else {
        __syncthreads();
    }
    y[0] = float(n);
}
BROKEN(shuffle_in_a_branch) {
    float v = float(threadIdx.x % n);
    if (threadIdx.x % 32 < 16) v += __shfl_xor_sync(ALL_LANES, v, 1);
    y[threadIdx.x] = v;
}
BROKEN(vote_against_barrier) {
    if (threadIdx.x < 16) {
        y[0] = float(__any_sync(ALL_LANES, n > 0));
    } else {
        __syncthreads();
    }
}
BROKEN(shuffle_from_outside) {
    if (threadIdx.x % 32 < 16) y[threadIdx.x] = __shfl_sync(0x0000ffffu, float(n), 20);
}

BROKEN(static_overrun) {
    SMEM(float, s, 64);
    float* const p = s; // so that the compiler does not know the length
    p[threadIdx.x] = float(n);
    __syncthreads();
    y[threadIdx.x] = s[threadIdx.x % 64];
}
BROKEN(dynamic_overrun) {
    DYN_SMEM(s);
    reinterpret_cast<float*>(s)[threadIdx.x] = float(n);
    __syncthreads();
    y[threadIdx.x] = float(s[threadIdx.x]);
}
BROKEN(stack_overflow) {
    volatile char big[200000];
    big[n] = 1;
    y[0] = big[n];
}
BROKEN(local_index) {
    float local[4] = { 0.f, 1.f, 2.f, 3.f };
    y[threadIdx.x] = local[threadIdx.x % (n > 0 ? 5 : 4)];
}
BROKEN(misaligned_vector) {
    const Vec<float> v = load_vec(y + (n > 0 ? 1 : 0));
    y[threadIdx.x] = v.at[0];
}
BROKEN(misaligned_copy) {
    DYN_SMEM(s);
    if (threadIdx.x == 0) cp_async16(s + 8, y + 4 * (n % 2), true);
    cp_async_commit();
    cp_async_wait<0>();
}
BROKEN(ends_while_copying) {
    DYN_SMEM(s);
    if (threadIdx.x == 0) cp_async16(s, y + 4 * (n % 2), true);
    cp_async_commit();
}

// These end without an error; y[threadIdx.x] must be n, and is not, some under some schedules only.
BROKEN(silent_uninitialized) {
    SMEM(float, s, 96);
    if (threadIdx.x > 0) s[threadIdx.x] = 0.f;
    __syncthreads();
    y[threadIdx.x] = float(n) + s[0] * 0.f;
}
BROKEN(silent_copy_not_waited_for) {
    DYN_SMEM(s);
    if (threadIdx.x == 0) y[0] = float(n);
    __syncthreads();
    if (threadIdx.x == 0) cp_async16(s, y, true);
    cp_async_commit();
    y[threadIdx.x] = reinterpret_cast<const float*>(s)[0];
    cp_async_wait<0>();
}
BROKEN(silent_missing_barrier) {
    SMEM(float, s, 96);
    s[threadIdx.x] = float(n);
    y[threadIdx.x] = s[95 - threadIdx.x];
}
BROKEN(silent_missing_second_barrier) {
    SMEM(float, s, 1);
    for (unsigned i = 0; i <= n + 1; i++) {
        if (threadIdx.x == 0) s[0] = float(i);
        __syncthreads();
        if (i == n) y[threadIdx.x] = s[0];
        // A barrier is missing: thread 0 overwrites what others have not read.
    }
}
BROKEN(silent_missing_mbarrier_wait) {
    DYN_SMEM(raw);
    SMEM(float, s, 96);
    uint64_t* const barrier = reinterpret_cast<uint64_t*>(raw);
    if (threadIdx.x == 0) mbarrier_init(barrier, 96);
    __syncthreads();
    s[threadIdx.x] = float(n) * 1.f;
    mbarrier_arrive(barrier);
    // A wait is missing.
    y[threadIdx.x] = s[95 - threadIdx.x] * 1.f;
}
