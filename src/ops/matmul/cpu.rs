//! Matrix products through the `gemm` crate.

use super::{Layout, Write};
use crate::ops::float::Float;
use gemm::Parallelism;

/// A product of fewer multiplications than this runs on the calling thread.
const PARALLEL_FROM: usize = 256 * 1024;

/// A matrix as the product routine wants it.
#[derive(Clone, Copy)]
pub struct Strided<P> {
    pub at: P,
    pub row_stride: usize,
    pub col_stride: usize,
}

/// dst (m, n) = lhs (m, k) rhs (k, n), or dst += with `add`, times `scale`, on the calling thread or
/// on all of them.
///
/// # Safety
/// All three matrices lie within their allocations for the given extents, and nothing else accesses
/// `dst` meanwhile.
#[allow(clippy::too_many_arguments)]
pub unsafe fn product<T: Float>(
    (m, n, k): (usize, usize, usize),
    dst: Strided<*mut T>,
    lhs: Strided<*const T>,
    rhs: Strided<*const T>,
    scale: T,
    add: bool,
    parallelism: Parallelism,
) {
    if m == 0 || n == 0 {
        return;
    }
    if m == 1 && n > 1 {
        // The library sums a single row in another order. Two equal rows keep the bits of a row
        // independent of the batch.
        let mut two = vec![T::ZERO; 2 * n];
        let dst_two = Strided { at: two.as_mut_ptr(), row_stride: n, col_stride: 1 };
        let lhs_two = Strided { row_stride: 0, ..lhs };
        // SAFETY: a row stride of zero reads the one row twice; `two` has room for both results.
        unsafe { product((2, n, k), dst_two, lhs_two, rhs, scale, false, parallelism) };
        for (j, &value) in two[..n].iter().enumerate() {
            // SAFETY: (0, j) lies within `dst`.
            unsafe {
                let at = dst.at.add(j * dst.col_stride);
                *at = if add { *at + value } else { value };
            }
        }
        return;
    }
    let parallelism = if m * n * k < PARALLEL_FROM { Parallelism::None } else { parallelism };
    // SAFETY: the caller's promise. The library's `alpha` multiplies the destination.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            dst.at,
            dst.col_stride as isize,
            dst.row_stride as isize,
            add,
            lhs.at,
            lhs.col_stride as isize,
            lhs.row_stride as isize,
            rhs.at,
            rhs.col_stride as isize,
            rhs.row_stride as isize,
            if add { T::ONE } else { T::ZERO },
            scale,
            false,
            false,
            false,
            parallelism,
        );
    }
}

fn plain<T>(s: &[T], at: Layout) -> Strided<*const T> {
    Strided { at: s[at.offset.min(s.len())..].as_ptr(), row_stride: at.stride, col_stride: 1 }
}

fn transposed<T>(s: &[T], at: Layout) -> Strided<*const T> {
    let plain = plain(s, at);
    Strided { row_stride: plain.col_stride, col_stride: plain.row_stride, ..plain }
}

fn target<T>(s: &mut [T], at: Layout) -> Strided<*mut T> {
    let offset = at.offset.min(s.len());
    Strided { at: s[offset..].as_mut_ptr(), row_stride: at.stride, col_stride: 1 }
}

pub fn forward<T: Float>(y: (&mut [T], Layout), x: (&[T], Layout), w: (&[T], Layout), write: Write) {
    let extents = (x.1.rows, w.1.cols, x.1.cols);
    let (dst, lhs, rhs) = (target(y.0, y.1), plain(x.0, x.1), plain(w.0, w.1));
    // SAFETY: `mod.rs` has checked the three layouts; `y` is borrowed mutably.
    unsafe { product(extents, dst, lhs, rhs, T::ONE, write == Write::Add, Parallelism::Rayon(0)) }
}

pub fn backward_input<T: Float>(dx: (&mut [T], Layout), dy: (&[T], Layout), w: (&[T], Layout), write: Write) {
    let extents = (dy.1.rows, w.1.rows, dy.1.cols);
    let (dst, lhs, rhs) = (target(dx.0, dx.1), plain(dy.0, dy.1), transposed(w.0, w.1));
    // SAFETY: as in `forward`.
    unsafe { product(extents, dst, lhs, rhs, T::ONE, write == Write::Add, Parallelism::Rayon(0)) }
}

pub fn backward_weight_acc<T: Float>(dw: (&mut [T], Layout), x: (&[T], Layout), dy: (&[T], Layout)) {
    let extents = (x.1.cols, dy.1.cols, x.1.rows);
    let (dst, lhs, rhs) = (target(dw.0, dw.1), transposed(x.0, x.1), plain(dy.0, dy.1));
    // SAFETY: as in `forward`.
    unsafe { product(extents, dst, lhs, rhs, T::ONE, true, Parallelism::Rayon(0)) }
}
