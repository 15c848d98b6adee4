//! Fully connected layers on slices: a product and its ending, in one pass where the product is large.

use crate::ops::float::{Float, Shared, for_rows, simd};
use crate::ops::gelu::{self, GeluForm};
use crate::ops::matmul::bf16::cpu as products;
use crate::ops::matmul::cpu::{self as matmul, Right, Strided, plain, transposed};
use crate::ops::matmul::strassen::ProductDims;
use crate::ops::matmul::tile::Lanes;
use crate::ops::matmul::{Layout, Start, Write, direct, strassen};
use half::bf16;

/// W, and the same packed for the product at hand.
#[derive(Clone, Copy)]
pub struct CpuKernel<'a, T> {
    pub w: &'a [T],
    pub at: Layout,
    pub packed: Option<&'a [T]>,
}

/// The right factor (k, n) of a product: W or its transpose.
struct Factor<'a, T> {
    matrix: Strided<*const T>,
    /// For [`strassen`] or, where the extents do not suit it, for [`direct`].
    packed: Option<&'a [T]>,
    k: usize,
    n: usize,
}

impl<'a, T: Lanes> CpuKernel<'a, T> {
    fn forward(&self) -> Factor<'a, T> {
        Factor { matrix: plain(self.w, self.at), packed: self.packed, k: self.at.rows, n: self.at.cols }
    }

    fn backward(&self) -> Factor<'a, T> {
        Factor { matrix: transposed(self.w, self.at), packed: self.packed, k: self.at.cols, n: self.at.rows }
    }
}

impl<T: Lanes> Factor<'_, T> {
    /// Whether [`Factor::product`] takes it for images of `rows` rows. It does not depend on the number of images.
    fn is_ours(&self, rows: usize) -> bool {
        strassen::suits(rows, self.k, self.n) || direct::suits(self.k, self.n)
    }

    /// y = start + x · this; `ending(first, rows)` is called for groups of rows once they are complete, on several threads.
    ///
    /// # Safety
    /// The matrix lies within its allocation, and [`Factor::is_ours`].
    unsafe fn product(
        &self,
        y: &mut [T],
        (x, rows): (&[T], usize),
        start: Start<T>,
        ending: impl Fn(usize, &mut [T]) + Sync,
    ) {
        let &Factor { matrix, packed, k, n } = self;
        let seven = strassen::suits(rows, k, n);
        let packed = packed.filter(|_| seven == packed_for_strassen(k, n));
        let w = packed.map_or(Right::Matrix(matrix), Right::Packed);
        // SAFETY: the caller's promise.
        unsafe {
            if seven {
                strassen::cpu::product(y, x, w, ProductDims { rows, k, n }, start, ending);
            } else {
                direct::cpu::product(y, x, w, (k, n), start, ending);
            }
        }
    }
}

/// What happens to x W + b before it is stored; see [`super::Epilogue`].
pub enum CpuEpilogue<'a, T> {
    Plain,
    Residual(&'a [T]),
    Gelu { pre: Option<&'a mut [T]>, form: GeluForm },
}

/// y = ending(x W + b). `rows`: how many rows of x and y make up an image.
pub fn forward<T: Lanes>(
    y: &mut [T],
    (x, rows): (&[T], usize),
    kernel: CpuKernel<T>,
    bias: &[T],
    ending: CpuEpilogue<T>,
) {
    let CpuKernel { w, at, .. } = kernel;
    let (right, n) = (kernel.forward(), at.cols);
    if !right.is_ours(rows) {
        let m = y.len() / n.max(1);
        matmul::forward((y, Layout::dense(m, n)), (x, Layout::dense(m, at.rows)), (w, at), Write::Set);
        return match ending {
            CpuEpilogue::Plain => add_bias(y, bias),
            CpuEpilogue::Residual(residual) => add_bias_residual(y, residual, bias),
            CpuEpilogue::Gelu { pre, form } => add_bias_gelu(y, pre, bias, form),
        };
    }
    let x = (x, rows);
    // SAFETY: `mod.rs` has checked the layouts.
    unsafe {
        match ending {
            CpuEpilogue::Plain => right.product(y, x, Start::Bias(bias), |_, _| ()),
            CpuEpilogue::Residual(residual) => {
                right.product(y, x, Start::Residual(bias, residual), |_, _| ())
            }
            CpuEpilogue::Gelu { pre, form } => {
                let pre = pre.map(|pre| Shared(pre.as_mut_ptr()));
                right.product(y, x, Start::Bias(bias), |first, y| {
                    let pre = pre.map(|pre| std::slice::from_raw_parts_mut(pre.at(first * n), y.len()));
                    simd(
                        #[inline(always)]
                        || gelu_in_place(y, pre, form),
                    );
                });
            }
        }
    }
}

/// dx = dy Wᵀ, or dx +=. `rows`: how many rows of dx and dy make up an image.
pub fn backward_input<T: Lanes>(dx: &mut [T], (dy, rows): (&[T], usize), kernel: CpuKernel<T>, write: Write) {
    let CpuKernel { w, at, .. } = kernel;
    let right = kernel.backward();
    if !right.is_ours(rows) {
        let m = dx.len() / at.rows.max(1);
        return matmul::backward_input(
            (dx, Layout::dense(m, at.rows)),
            (dy, Layout::dense(m, at.cols)),
            (w, at),
            write,
        );
    }
    let start = if write == Write::Add { Start::Own } else { Start::Zero };
    // SAFETY: `mod.rs` has checked the layouts.
    unsafe { right.product(dx, (dy, rows), start, |_, _| ()) }
}

/// dx = (dy Wᵀ) ∘ gelu'(pre).
pub fn backward_input_gelu<T: Lanes>(
    dx: &mut [T],
    (dy, rows): (&[T], usize),
    kernel: CpuKernel<T>,
    pre: &[T],
    form: GeluForm,
) {
    let right = kernel.backward();
    if !right.is_ours(rows) {
        backward_input(dx, (dy, rows), kernel, Write::Set);
        return gelu::cpu::backward_in_place(dx, pre, form);
    }
    // SAFETY: `mod.rs` has checked the layouts.
    unsafe {
        right.product(dx, (dy, rows), Start::Zero, |first, dx| {
            let pre = &pre[first * right.n..][..dx.len()];
            simd(
                #[inline(always)]
                || gelu::cpu::times_slope(dx, pre, form),
            );
        });
    }
}

/// Whether both sides of a packed kernel (K, N) are for [`strassen`].
pub fn packed_for_strassen(k: usize, n: usize) -> bool {
    strassen::suits(2, k, n) && strassen::suits(2, n, k)
}

/// W for forward passes and for backward passes, as [`Factor::product`] reads it.
pub fn pack<T: Lanes>(forward: &mut [T], backward: &mut [T], w: &[T], at: Layout) {
    let (k, n) = (at.rows, at.cols);
    // SAFETY: `mod.rs` has checked the layout.
    unsafe {
        if packed_for_strassen(k, n) {
            strassen::cpu::pack(forward, plain(w, at), (k, n));
            strassen::cpu::pack(backward, transposed(w, at), (n, k));
        } else {
            direct::cpu::pack(forward, plain(w, at), (k, n));
            direct::cpu::pack(backward, transposed(w, at), (n, k));
        }
    }
}

/// The same in bf16; `backward` may be empty.
pub fn bf16_pack(forward: &mut [bf16], backward: &mut [bf16], w: &[f32], at: Layout) {
    // SAFETY: `mod.rs` has checked the layout.
    unsafe {
        products::pack(forward, plain(w, at), (at.rows, at.cols));
        if !backward.is_empty() {
            products::pack(backward, transposed(w, at), (at.cols, at.rows));
        }
    }
}

pub fn add_bias<T: Float>(y: &mut [T], bias: &[T]) {
    let n = bias.len();
    for_rows(
        y,
        n,
        #[inline(always)]
        |_, y| {
            for y in y.chunks_exact_mut(n) {
                for j in 0..n {
                    y[j] += bias[j];
                }
            }
        },
    );
}

fn add_bias_residual<T: Float>(y: &mut [T], residual: &[T], bias: &[T]) {
    let n = bias.len();
    for_rows(
        y,
        n,
        #[inline(always)]
        |first, y| {
            for (i, y) in y.chunks_exact_mut(n).enumerate() {
                let residual = &residual[(first + i) * n..][..n];
                for j in 0..n {
                    y[j] += bias[j] + residual[j];
                }
            }
        },
    );
}

/// y = gelu(y + bias); `pre`, where it is kept, receives y + bias.
fn add_bias_gelu<T: Float>(y: &mut [T], pre: Option<&mut [T]>, bias: &[T], form: GeluForm) {
    let n = bias.len();
    let pre = pre.map(|pre| Shared(pre.as_mut_ptr()));
    for_rows(
        y,
        n,
        #[inline(always)]
        |first, y| {
            for (i, y) in y.chunks_exact_mut(n).enumerate() {
                y.iter_mut().zip(bias).for_each(|(y, &b)| *y += b);
                // SAFETY: `y` and `pre` have the same shape, and each task takes its own rows.
                let pre =
                    pre.map(|pre| unsafe { std::slice::from_raw_parts_mut(pre.at((first + i) * n), n) });
                gelu_in_place(y, pre, form);
            }
        },
    );
}

/// y = gelu(y); `pre`, where it is kept, receives y as it was.
#[inline(always)]
fn gelu_in_place<T: Float>(y: &mut [T], pre: Option<&mut [T]>, form: GeluForm) {
    if let Some(pre) = pre {
        pre.copy_from_slice(y);
    }
    gelu::cpu::in_place(y, form);
}
