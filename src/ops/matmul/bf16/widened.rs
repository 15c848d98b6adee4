//! Panels of bf16 that become f32 in registers: the low half of a pair by a shift, the high half by a mask.

use super::{PANEL, Sums, TILE};
use crate::ops::matmul::tile::{FEW, MANY};
use pulp::{Simd, WithSimd};

/// A tile of sums, of rows of x that are f32 already.
pub struct Tile<'a> {
    pub sums: &'a mut Sums,
    /// TILE rows of `stride` values of bf16's precision.
    pub x: &'a [f32],
    pub stride: usize,
    /// (pairs, PANEL): two bf16 each.
    pub panel: &'a [u32],
}

impl WithSimd for Tile<'_> {
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

impl Tile<'_> {
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
                // Loops that count: see `multiply_once`.
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
