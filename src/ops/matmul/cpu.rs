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
    if m == 1 || n == 1 {
        // SAFETY: the caller's promise.
        return unsafe { doubled((m, n, k), dst, lhs, rhs, scale, add, parallelism) };
    }
    if m * n <= DOT_PRODUCTS && lhs.col_stride == 1 && rhs.row_stride == 1 {
        let stride = n + 1;
        let mut copy = vec![T::ZERO; k * stride];
        for (l, row) in copy.chunks_exact_mut(stride).enumerate() {
            for (j, value) in row[..n].iter_mut().enumerate() {
                // SAFETY: (l, j) lies within `rhs`.
                *value = unsafe { *rhs.at.add(l * rhs.row_stride + j * rhs.col_stride) };
            }
        }
        let rhs = Strided { at: copy.as_ptr(), row_stride: stride, col_stride: 1 };
        // SAFETY: as above; the copy has k rows of more than n values.
        return unsafe { tall((m, n, k), dst, lhs, rhs, scale, add, parallelism) };
    }
    // SAFETY: the caller's promise.
    unsafe { tall((m, n, k), dst, lhs, rhs, scale, add, parallelism) }
}

// The library chooses the order of a sum by the extents of the whole product: vectors and small
// products of contiguous columns have kernels of their own, and long sums are cut in another place
// when both m and n are at most 64. What follows takes those choices away from it, so that an
// element's bits depend on k and on its own row and column only.

/// Up to here the library sums products whose operands are both contiguous along k in other lanes.
const DOT_PRODUCTS: usize = 16 * 16;

/// The longest sum that the library does in one piece for all extents.
const DEPTH: usize = 512;

/// A product with one row or one column, as a product with two equal ones.
///
/// # Safety
/// As for [`product`].
#[allow(clippy::too_many_arguments)]
unsafe fn doubled<T: Float>(
    (m, n, k): (usize, usize, usize),
    dst: Strided<*mut T>,
    lhs: Strided<*const T>,
    rhs: Strided<*const T>,
    scale: T,
    add: bool,
    parallelism: Parallelism,
) {
    let (rows, cols) = (m.max(2), n.max(2));
    let mut wide = vec![T::ZERO; rows * cols];
    // SAFETY: (i, j) below lies within `dst`.
    let at = |i: usize, j: usize| unsafe { dst.at.add(i * dst.row_stride + j * dst.col_stride) };
    if add {
        for (i, row) in wide.chunks_exact_mut(cols).enumerate() {
            for (j, value) in row.iter_mut().enumerate() {
                // SAFETY: as above; nothing else writes `dst`.
                *value = unsafe { *at(i.min(m - 1), j.min(n - 1)) };
            }
        }
    }
    let to = Strided { at: wide.as_mut_ptr(), row_stride: cols, col_stride: 1 };
    // A stride of zero reads the one row or column twice.
    let lhs = Strided { row_stride: if m == 1 { 0 } else { lhs.row_stride }, ..lhs };
    let rhs = Strided { col_stride: if n == 1 { 0 } else { rhs.col_stride }, ..rhs };
    // SAFETY: the caller's promise; `wide` has room for all results.
    unsafe { product((rows, cols, k), to, lhs, rhs, scale, add, parallelism) };
    for (i, row) in wide.chunks_exact(cols).take(m).enumerate() {
        for (j, &value) in row[..n].iter().enumerate() {
            // SAFETY: as above.
            unsafe { *at(i, j) = value };
        }
    }
}

/// Up to this many rows and columns the library cuts long sums in another place than beyond.
const SMALL: usize = 64;

/// The product as it is, or with rows of zeros below where there would be few enough of them for
/// another order of summation.
///
/// # Safety
/// As for [`product`].
#[allow(clippy::too_many_arguments)]
unsafe fn tall<T: Float>(
    (m, n, k): (usize, usize, usize),
    dst: Strided<*mut T>,
    lhs: Strided<*const T>,
    rhs: Strided<*const T>,
    scale: T,
    add: bool,
    parallelism: Parallelism,
) {
    if k <= DEPTH || m > SMALL || n > SMALL {
        // SAFETY: the caller's promise.
        return unsafe { whole((m, n, k), dst, lhs, rhs, scale, add, parallelism) };
    }
    let rows = SMALL + 1;
    let (mut from, mut to) = (vec![T::ZERO; rows * k], vec![T::ZERO; rows * n]);
    for i in 0..m {
        // SAFETY: (i, l) lies within `lhs`, (i, j) within `dst`.
        unsafe {
            for l in 0..k {
                from[i * k + l] = *lhs.at.add(i * lhs.row_stride + l * lhs.col_stride);
            }
            if add {
                for j in 0..n {
                    to[i * n + j] = *dst.at.add(i * dst.row_stride + j * dst.col_stride);
                }
            }
        }
    }
    let lhs = Strided { at: from.as_ptr(), row_stride: k, col_stride: 1 };
    let out = Strided { at: to.as_mut_ptr(), row_stride: n, col_stride: 1 };
    // SAFETY: both copies have `rows` rows.
    unsafe { whole((rows, n, k), out, lhs, rhs, scale, add, parallelism) };
    for i in 0..m {
        for j in 0..n {
            // SAFETY: as above.
            unsafe { *dst.at.add(i * dst.row_stride + j * dst.col_stride) = to[i * n + j] };
        }
    }
}

/// The product in slices of equal depth, one added to the other: for sums over the batch, whose
/// length is no constant of the model.
///
/// # Safety
/// As for [`product`].
#[allow(clippy::too_many_arguments)]
unsafe fn in_slices<T: Float>(
    (m, n, k): (usize, usize, usize),
    dst: Strided<*mut T>,
    lhs: Strided<*const T>,
    rhs: Strided<*const T>,
    scale: T,
    add: bool,
    parallelism: Parallelism,
) {
    let depth = k.div_ceil(k.div_ceil(DEPTH).max(1)).max(1);
    for start in (0..k.max(1)).step_by(depth) {
        let add = add || start > 0;
        // SAFETY: the caller's promise; start is at most k. The library's `alpha` multiplies the
        // destination.
        unsafe {
            let lhs = Strided { at: lhs.at.add(start * lhs.col_stride), ..lhs };
            let rhs = Strided { at: rhs.at.add(start * rhs.row_stride), ..rhs };
            whole((m, n, depth.min(k - start)), dst, lhs, rhs, scale, add, parallelism);
        }
    }
}

/// One call of the library.
///
/// # Safety
/// As for [`product`].
#[allow(clippy::too_many_arguments)]
unsafe fn whole<T: Float>(
    (m, n, k): (usize, usize, usize),
    dst: Strided<*mut T>,
    lhs: Strided<*const T>,
    rhs: Strided<*const T>,
    scale: T,
    add: bool,
    parallelism: Parallelism,
) {
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
    unsafe { in_slices(extents, dst, lhs, rhs, T::ONE, true, Parallelism::Rayon(0)) }
}
