//! Vectors in memory and the innermost products.

use super::{FEW, Lanes, MANY, STRIDE, TILES, TileShape};
use crate::tensor::memory::LINE;
use pulp::{Arch, Simd, WithSimd};
use std::marker::PhantomData;

struct ShapeOf<T>(PhantomData<T>);

impl TileShape {
    /// On this machine.
    pub fn of<T: Lanes>() -> TileShape {
        Arch::new().dispatch(ShapeOf::<T>(PhantomData))
    }
}

impl<T: Lanes> WithSimd for ShapeOf<T> {
    type Output = TileShape;
    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> TileShape {
        let many = size_of::<T::V<S>>() == 64;
        TileShape { tile: if many { MANY } else { FEW }, width: 2 * lanes::<T, S>() }
    }
}

/// # Safety
/// A vector's worth of elements can be read at `at`.
#[inline(always)]
pub unsafe fn load<T: Lanes, S: Simd>(at: *const T) -> T::V<S> {
    // SAFETY: the caller's promise.
    unsafe { at.cast::<T::V<S>>().read_unaligned() }
}

/// # Safety
/// A vector's worth of elements can be written at `at`.
#[inline(always)]
pub unsafe fn store<T: Lanes, S: Simd>(at: *mut T, value: T::V<S>) {
    // SAFETY: the caller's promise.
    unsafe { at.cast::<T::V<S>>().write_unaligned(value) }
}

/// Elements of a vector.
#[inline(always)]
pub fn lanes<T: Lanes, S: Simd>() -> usize {
    size_of::<T::V<S>>() / size_of::<T>()
}

/// Brings the line at `at` near. A hint: any address may be given.
#[inline(always)]
pub fn prefetch<T>(at: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch reads nothing that the program could see.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T1>(at.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// Adds one column of TILE values, `row` apart, times one row of VECTORS vectors to `sums`. To be called in
/// the loop that owns `sums`: they stay in registers only where no other function is handed them.
///
/// Loops over registers go by index: `zip` asks both sides for their length through a function that the standard library does
/// not mark for inlining, and where the compiler leaves it a call the whole product takes fifteen times as long.
///
/// # Safety
/// The values and the vectors can be read.
#[inline(always)]
pub unsafe fn multiply_once<T: Lanes, S: Simd, const TILE: usize, const VECTORS: usize>(
    simd: S,
    sums: &mut [[T::V<S>; VECTORS]; TILE],
    left: *const T,
    row: usize,
    right: *const T,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut columns = [T::splat(simd, T::ZERO); VECTORS];
        for v in 0..VECTORS {
            columns[v] = load::<T, S>(right.add(v * lanes::<T, S>()));
        }
        for i in 0..TILE {
            let x = T::splat(simd, *left.add(i * row));
            for v in 0..VECTORS {
                sums[i][v] = T::mul_add(simd, x, columns[v], sums[i][v]);
            }
        }
    }
}

/// Adds TILE rows times two vectors of columns to `sums`; brings what lies at `next` near.
///
/// # Safety
/// `left` has TILE rows of `depth`, STRIDE apart; `right` has `depth` rows of two vectors.
#[inline(always)]
pub unsafe fn multiply<T: Lanes, S: Simd, const TILE: usize>(
    simd: S,
    mut sums: [[T::V<S>; 2]; TILE],
    mut left: *const T,
    mut right: *const T,
    mut next: *const T,
    depth: usize,
) -> [[T::V<S>; 2]; TILE] {
    const UNROLL: usize = 8;
    let width = 2 * lanes::<T, S>();
    // SAFETY: the caller's promise: the pointers advance `depth` times.
    unsafe {
        for _ in 0..depth / UNROLL {
            for _ in 0..UNROLL * width * size_of::<T>() / TILES / LINE {
                prefetch(next);
                next = next.wrapping_add(LINE / size_of::<T>());
            }
            for l in 0..UNROLL {
                multiply_once(simd, &mut sums, left.add(l), STRIDE, right.add(l * width));
            }
            left = left.add(UNROLL);
            right = right.add(UNROLL * width);
        }
        for l in 0..depth % UNROLL {
            multiply_once(simd, &mut sums, left.add(l), STRIDE, right.add(l * width));
        }
    }
    sums
}
