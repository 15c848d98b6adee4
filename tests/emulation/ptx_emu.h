// What ptx.cuh wraps, in C++. Layouts as the PTX ISA describes them (ldmatrix, mma.m16n8k16).
#pragma once
#include "cuda_emu.h"

// The copy lands only when its thread waits for it; until then its place holds NaN.
inline void cp_async16(void* shared, const void* global, bool valid, EMU_HERE) {
    if (reinterpret_cast<uintptr_t>(shared) % 16 != 0) emu::fail("cp_async16 to a shared address that is no multiple of 16 bytes (%s:%d)", file, line);
    if (reinterpret_cast<uintptr_t>(global) % 16 != 0) emu::fail("cp_async16 from a global address that is no multiple of 16 bytes (%s:%d)", file, line);
    if (!emu::is_shared(shared, 16)) emu::fail("cp_async16 to an address outside of shared memory (%s:%d)", file, line);
    if (valid && !emu::is_global(global, 16)) emu::fail("cp_async16 from an address outside of all allocations (%s:%d)", file, line);
    // Word by word: ThreadSanitizer does not see what the compiler makes a memset.
    for (int i = 0; i < 4; i++) static_cast<volatile uint32_t*>(shared)[i] = ~0u;
    emu::begin_copy({ shared, global, valid });
}
inline void cp_async_commit() { emu::commit_copies(); }
template <int N> inline void cp_async_wait() {
    for (emu::Copy c; emu::next_copy(size_t(N), &c);) {
        for (int i = 0; i < 4; i++) {
            const uint32_t word = c.valid ? static_cast<const volatile uint32_t*>(c.from)[i] : 0;
            static_cast<volatile uint32_t*>(c.to)[i] = word;
        }
    }
    emu::preempt();
}

namespace emu {
struct Rows { uint16_t row[8]; uint32_t* out; };
template <bool TRANS> static EMU_UNSEEN void exchange(const Rows& mine, Site site) {
    if (!warp_arrive(TRANS ? Op::LdMatrixTrans : Op::LdMatrix, ~0u, &mine, site)) return;
    for (unsigned l = 0; l < 32; l++) {
        const unsigned r = TRANS ? l % 4 * 2 : l / 4, c = TRANS ? l / 4 : l % 4 * 2;
        for (unsigned i = 0; i < 4; i++) {
            const uint32_t lo = posted<Rows>(i * 8 + r).row[c];
            const uint32_t hi = TRANS ? posted<Rows>(i * 8 + r + 1).row[c] : posted<Rows>(i * 8 + r).row[c + 1];
            posted<Rows>(l).out[i] = lo | hi << 16;
        }
    }
    warp_release(~0u);
}
template <bool TRANS> inline void ldmatrix(uint32_t* r, const void* row, Site site) {
    if (reinterpret_cast<uintptr_t>(row) % 16 != 0) fail("ldmatrix from an address that is no multiple of 16 bytes (%s:%d)", site.file, site.line);
    if (!is_shared(row, 16)) fail("ldmatrix from an address outside of shared memory (%s:%d)", site.file, site.line);
    Rows mine; // each lane reads the row it names, and is seen to
    for (int i = 0; i < 8; i++) mine.row[i] = static_cast<const uint16_t*>(row)[i];
    mine.out = r;
    exchange<TRANS>(mine, site);
}

struct Mma { float* d; uint32_t a[4], b[2]; };
// D += A B for all lanes of the warp.
template <class T> void mma(const Mma* const lane[32]);
template <class T> static EMU_UNSEEN void mma_collective(const Mma& mine, Site site) {
    if (!warp_arrive(Op::Mma, ~0u, &mine, site)) return;
    const Mma* all[32];
    for (unsigned l = 0; l < 32; l++) all[l] = &posted<Mma>(l);
    mma<T>(all);
    warp_release(~0u);
}
} // namespace emu

inline void ldmatrix_x4(uint32_t (&r)[4], const void* row, EMU_HERE) { emu::ldmatrix<false>(r, row, { file, line }); }
inline void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row, EMU_HERE) { emu::ldmatrix<true>(r, row, { file, line }); }
template <class T> inline void mma_16816(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, EMU_HERE) {
    emu::mma_collective<T>({ d, { a[0], a[1], a[2], a[3] }, { b0, b1 } }, { file, line });
}
inline float exp2_approx(float x) { return exp2f(x); }
inline float tanh_approx(float x) { return tanhf(x); }
