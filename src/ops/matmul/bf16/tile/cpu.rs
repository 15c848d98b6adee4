//! The two ways to multiply with vectors: panels of bf16 that become f32 in registers, the low half of a pair by a shift and the
//! high half by a mask, and `vdpbf16ps`.

use super::{PANEL, Sums, TILE};
use crate::ops::matmul::tile::{FEW, MANY};
use pulp::{Simd, WithSimd};

/// A tile of sums, of rows of x that are f32 already.
pub struct Widened<'a> {
    pub sums: &'a mut Sums,
    /// TILE rows of `stride` values of bf16's precision.
    pub x: &'a [f32],
    pub stride: usize,
    /// (pairs, PANEL): two bf16 each.
    pub panel: &'a [u32],
}

impl WithSimd for Widened<'_> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let pairs = self.panel.len() / PANEL;
        assert!(self.x.len() >= (TILE - 1) * self.stride + 2 * pairs);
        // SAFETY: the panel has its pairs, and each row of x twice as many values.
        unsafe {
            if S::F32_LANES == PANEL / 2 {
                self.part::<S, MANY>(simd, 0, 0, pairs);
            } else {
                for row in (0..TILE).step_by(FEW) {
                    for column in (0..PANEL).step_by(2 * S::F32_LANES) {
                        self.part::<S, FEW>(simd, row, column, pairs);
                    }
                }
            }
        }
    }
}

impl Widened<'_> {
    /// ROWS rows and two vectors of columns.
    ///
    /// # Safety
    /// They lie within x and the panel.
    #[inline(always)]
    unsafe fn part<S: Simd, const ROWS: usize>(&mut self, simd: S, row: usize, column: usize, pairs: usize) {
        let (lanes, stride) = (S::F32_LANES, self.stride);
        let (high_half, shift) = (simd.splat_u32s(0xffff_0000), simd.splat_u32s(16));
        let mut sums = [[simd.splat_f32s(0.0); 2]; ROWS];
        let target = self.sums.as_mut_ptr().cast::<f32>();
        // SAFETY: the caller's promise.
        unsafe {
            for (i, sums) in sums.iter_mut().enumerate() {
                for (v, sum) in sums.iter_mut().enumerate() {
                    *sum =
                        target.add((row + i) * PANEL + column + v * lanes).cast::<S::f32s>().read_unaligned();
                }
            }
            let (mut x, mut w) = (self.x.as_ptr().add(row * stride), self.panel.as_ptr().add(column));
            for _ in 0..pairs {
                let mut high = [simd.splat_f32s(0.0); 2];
                let mut low = high;
                for v in 0..2 {
                    let both = w.add(v * lanes).cast::<S::u32s>().read_unaligned();
                    high[v] = simd.transmute_f32s_u32s(simd.and_u32s(both, high_half));
                    low[v] = simd.transmute_f32s_u32s(simd.wrapping_dyn_shl_u32s(both, shift));
                }
                // Index loops, not `zip`: see `multiply_once`.
                for i in 0..ROWS {
                    let second = simd.splat_f32s(*x.add(i * stride + 1));
                    for v in 0..2 {
                        sums[i][v] = simd.mul_add_f32s(second, high[v], sums[i][v]);
                    }
                    let first = simd.splat_f32s(*x.add(i * stride));
                    for v in 0..2 {
                        sums[i][v] = simd.mul_add_f32s(first, low[v], sums[i][v]);
                    }
                }
                x = x.add(2);
                w = w.add(PANEL);
            }
        }
        for i in 0..ROWS {
            for v in 0..2 {
                // SAFETY: as above.
                unsafe {
                    let to = target.add((row + i) * PANEL + column + v * lanes);
                    to.cast::<S::f32s>().write_unaligned(sums[i][v]);
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
pub use avx512::{has_avx512_bf16, is_amd, tile};

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use super::{PANEL, Sums, TILE};
    use std::arch::x86_64::{
        __cpuid, __m512bh, _mm512_dpbf16_ps, _mm512_loadu_ps, _mm512_loadu_si512, _mm512_set1_epi32,
        _mm512_setzero_ps, _mm512_storeu_ps,
    };
    use std::mem::transmute;

    pub fn has_avx512_bf16() -> bool {
        is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bf16")
    }

    pub fn is_amd() -> bool {
        let leaf = __cpuid(0);
        [leaf.ebx, leaf.edx, leaf.ecx].map(u32::to_le_bytes).concat() == b"AuthenticAMD"
    }

    /// Adds TILE rows of x, `stride` pairs apart, times a panel (pairs, PANEL) to `sums`.
    ///
    /// # Safety
    /// The machine has AVX512-BF16.
    #[target_feature(enable = "avx512f,avx512bf16")]
    pub unsafe fn tile(sums: &mut Sums, x: &[u32], stride: usize, panel: &[u32]) {
        let pairs = panel.len() / PANEL;
        assert!(x.len() >= (TILE - 1) * stride + pairs);
        let mut inside = [[_mm512_setzero_ps(); 2]; TILE];
        // SAFETY: vectors of a row of sums, pairs of the panel and of the rows of x, as asserted; vectors of f32 and of
        // bf16 have the same 64 bytes.
        unsafe {
            for i in 0..TILE {
                let from = sums[i].as_ptr();
                inside[i] = [_mm512_loadu_ps(from), _mm512_loadu_ps(from.add(PANEL / 2))];
            }
            let (mut at, mut w) = (x.as_ptr(), panel.as_ptr());
            for _ in 0..pairs {
                let first: __m512bh = transmute(_mm512_loadu_si512(w.cast()));
                let second: __m512bh = transmute(_mm512_loadu_si512(w.add(PANEL / 2).cast()));
                // Without closures, which would be functions for every processor, and be called.
                for i in 0..TILE {
                    let pair: __m512bh = transmute(_mm512_set1_epi32((*at.add(i * stride)).cast_signed()));
                    inside[i][0] = _mm512_dpbf16_ps(inside[i][0], pair, first);
                    inside[i][1] = _mm512_dpbf16_ps(inside[i][1], pair, second);
                }
                at = at.add(1);
                w = w.add(PANEL);
            }
            for i in 0..TILE {
                let to = sums[i].as_mut_ptr();
                _mm512_storeu_ps(to, inside[i][0]);
                _mm512_storeu_ps(to.add(PANEL / 2), inside[i][1]);
            }
        }
    }
}
