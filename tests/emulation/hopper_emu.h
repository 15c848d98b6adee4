// What hopper.cuh wraps, in C++: mbarriers, tensor memory access, warpgroup products. hopper_emu.cpp says when what is
// under way takes place.
#pragma once
#include "cuda_emu.h"

// As cuTensorMapEncodeTiled of the emulated driver writes it.
struct alignas(128) CUtensorMap { uint64_t opaque[16]; };

namespace emu {
uint32_t shared_address(const void* p, Site site);

void mbarrier_init(uint64_t* barrier, unsigned count, Site site);
void mbarriers_become_visible();
void mbarrier_arrive(uint64_t* barrier, unsigned bytes, Site site);
void mbarrier_wait(uint64_t* barrier, unsigned parity, Site site);
void mbarrier_arrive_at(uint64_t* barrier, unsigned rank, Site site);
unsigned cluster_rank();
void cluster_sync(Site site);
void named_barrier(unsigned id, unsigned threads, Site site);
void max_registers(unsigned registers, bool more, Site site);

void tensor_prefetch(const CUtensorMap* map, Site site);
void tensor_load(void* to, const CUtensorMap* map, uint64_t* barrier, unsigned rank, const int* at, uint32_t blocks, Site site);
void tensor_store(const CUtensorMap* map, const void* from, unsigned rank, const int* at, Site site);
void bulk_commit();
void bulk_wait(unsigned most, bool only_read, Site site);
void ordinary_stores_become_visible();

// D (64, n) = A (64, 16) B (16, n), added to D with `accumulate`, as one lane gives it.
struct Product {
    float* d;
    const uint32_t* a; // null: from shared memory
    uint64_t desc_a, desc_b;
    bool accumulate;
    // The same for all lanes by the text of the program.
    unsigned n;
    bool is_bf16, a_outer, b_outer;
};
void wgmma_issue(const Product& product, Site site);
void wgmma_fence(Site site);
void wgmma_commit(Site site);
void wgmma_wait(unsigned most, Site site);
} // namespace emu

inline uint32_t smem_address(const void* p, EMU_HERE) { return emu::shared_address(p, { file, line }); }

inline void mbarrier_init(uint64_t* barrier, unsigned count, EMU_HERE) { emu::mbarrier_init(barrier, count, { file, line }); }
inline void fence_mbarrier_init() { emu::mbarriers_become_visible(); }
inline void mbarrier_arrive(uint64_t* barrier, EMU_HERE) { emu::mbarrier_arrive(barrier, 0, { file, line }); }
inline void mbarrier_arrive_expect_tx(uint64_t* barrier, unsigned bytes, EMU_HERE) { emu::mbarrier_arrive(barrier, bytes, { file, line }); }
inline void mbarrier_wait(uint64_t* barrier, unsigned parity, EMU_HERE) { emu::mbarrier_wait(barrier, parity, { file, line }); }
inline void mbarrier_arrive_at(uint64_t* barrier, unsigned rank, EMU_HERE) { emu::mbarrier_arrive_at(barrier, rank, { file, line }); }
inline unsigned cluster_rank() { return emu::cluster_rank(); }
inline void cluster_sync(EMU_HERE) { emu::cluster_sync({ file, line }); }
inline void named_barrier_sync(unsigned id, unsigned threads, EMU_HERE) { emu::named_barrier(id, threads, { file, line }); }
template <unsigned N> inline void set_max_registers_inc(EMU_HERE) { emu::max_registers(N, true, { file, line }); }
template <unsigned N> inline void set_max_registers_dec(EMU_HERE) { emu::max_registers(N, false, { file, line }); }

inline void prefetch_tensor_map(const CUtensorMap* map, EMU_HERE) { emu::tensor_prefetch(map, { file, line }); }
inline void tma_load_2d(void* to, const CUtensorMap* map, uint64_t* barrier, int x, int y, EMU_HERE) {
    const int at[2] = { x, y };
    emu::tensor_load(to, map, barrier, 2, at, 0, { file, line });
}
inline void tma_load_2d_multicast(void* to, const CUtensorMap* map, uint64_t* barrier, int x, int y, uint16_t blocks, EMU_HERE) {
    const int at[2] = { x, y };
    if (blocks == 0) emu::fail("a tensor load to no block (%s:%d)", file, line);
    emu::tensor_load(to, map, barrier, 2, at, blocks, { file, line });
}
inline void tma_load_3d(void* to, const CUtensorMap* map, uint64_t* barrier, int x, int y, int z, EMU_HERE) {
    const int at[3] = { x, y, z };
    emu::tensor_load(to, map, barrier, 3, at, 0, { file, line });
}
inline void tma_store_2d(const CUtensorMap* map, const void* from, int x, int y, EMU_HERE) {
    const int at[2] = { x, y };
    emu::tensor_store(map, from, 2, at, { file, line });
}
inline void bulk_commit() { emu::bulk_commit(); }
template <int N> inline void bulk_wait(EMU_HERE) { emu::bulk_wait(N, false, { file, line }); }
template <int N> inline void bulk_wait_read(EMU_HERE) { emu::bulk_wait(N, true, { file, line }); }
inline void fence_proxy_async() { emu::ordinary_stores_become_visible(); }

inline void wgmma_fence(EMU_HERE) { emu::wgmma_fence({ file, line }); }
inline void wgmma_commit(EMU_HERE) { emu::wgmma_commit({ file, line }); }
template <int N> inline void wgmma_wait(EMU_HERE) { emu::wgmma_wait(N, { file, line }); }
template <class T, unsigned N, Inner A, Inner B>
inline void wgmma(float (&d)[N / 2], uint64_t desc_a, uint64_t desc_b, bool accumulate, EMU_HERE) {
    static_assert(N == 64 || N == 128 || N == 192 || N == 208 || N == 224 || N == 240 || N == 256, "as in hopper.cuh");
    emu::wgmma_issue({ d, nullptr, desc_a, desc_b, accumulate, N, std::is_same_v<T, bf16>, A == Inner::Outer, B == Inner::Outer }, { file, line });
}
template <class T, unsigned N, Inner B>
inline void wgmma(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t desc_b, bool accumulate, EMU_HERE) {
    static_assert(N == 64 || N == 128 || N == 192 || N == 256, "as in hopper.cuh");
    emu::wgmma_issue({ d, a, 0, desc_b, accumulate, N, std::is_same_v<T, bf16>, false, B == Inner::Outer }, { file, line });
}
