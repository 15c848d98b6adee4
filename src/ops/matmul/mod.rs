//! Matrix products on strided matrices: y = x w and the two products of its backward pass.
//!
//! A row of `y` has the same bits however many rows there are, so that a batch of one gives what a
//! batch of a thousand gives (tested in `tests/ops/main.rs`). Layers that are given images may go through [`strassen`].

mod args;
pub mod bf16;
pub(crate) mod cpu;
pub(crate) mod cuda;
pub(crate) mod direct;
pub mod hopper;
pub(crate) mod library;
pub(crate) mod strassen;
pub(crate) mod tile;

pub use args::{Layout, Start, Write};

use crate::device::{Device, range};
use crate::error::{Error, Result};
use crate::tensor::{View, ViewMut};

fn check(
    op: &'static str,
    arg: &'static str,
    len: usize,
    at: Layout,
    rows: usize,
    cols: usize,
) -> Result<()> {
    let wanted = || format!("{rows} x {cols} within {len} elements");
    if at.rows != rows || at.cols != cols || at.end() > len || (at.rows > 1 && at.stride < at.cols) {
        return Err(Error::Shape { op, arg, wanted: wanted(), got: format!("{at:?}") });
    }
    Ok(())
}

/// Checks that the extents are those of y = x w, and within their tensors.
pub(crate) fn check_forward(y: &(View, Layout), x: &(View, Layout), w: &(View, Layout)) -> Result<()> {
    let (m, k, n) = (x.1.rows, x.1.cols, w.1.cols);
    check("matmul", "y", y.0.len(), y.1, m, n)?;
    check("matmul", "x", x.0.len(), x.1, m, k)?;
    check("matmul", "w", w.0.len(), w.1, k, n)
}

/// Checks that the extents are those of dx = dy wᵀ, and within their tensors.
pub(crate) fn check_backward_input(
    dx: &(View, Layout),
    dy: &(View, Layout),
    w: &(View, Layout),
) -> Result<()> {
    let (m, n, k) = (dy.1.rows, dy.1.cols, w.1.rows);
    check("matmul", "dx", dx.0.len(), dx.1, m, k)?;
    check("matmul", "dy", dy.0.len(), dy.1, m, n)?;
    check("matmul", "w", w.0.len(), w.1, k, n)
}

/// y = x w (or y += x w). x: (M, K), w: (K, N), y: (M, N).
pub fn forward(
    dev: &Device,
    y: (ViewMut, Layout),
    x: (View, Layout),
    w: (View, Layout),
    write: Write,
) -> Result<()> {
    check_forward(&(y.0.as_view(), y.1), &x, &w)?;
    let _op = range(c"matmul");
    match dev {
        Device::Cpu => float!("matmul", "y", y.0.dtype(), T => {
            let (x, w) = ((x.0.get::<T>("matmul", "x")?, x.1), (w.0.get::<T>("matmul", "w")?, w.1));
            cpu::forward((y.0.get::<T>("matmul", "y")?, y.1), x, w, write);
            Ok(())
        }),
        Device::Cuda(gpu) => cuda::forward(gpu, y, x, w, write, cuda::GpuEpilogue::default()),
    }
}

/// dx = dy wᵀ (or dx += dy wᵀ). dy: (M, N), w: (K, N), dx: (M, K).
pub fn backward_input(
    dev: &Device,
    dx: (ViewMut, Layout),
    dy: (View, Layout),
    w: (View, Layout),
    write: Write,
) -> Result<()> {
    check_backward_input(&(dx.0.as_view(), dx.1), &dy, &w)?;
    let _op = range(c"matmul, backward");
    match dev {
        Device::Cpu => float!("matmul", "dx", dx.0.dtype(), T => {
            let (dy, w) = ((dy.0.get::<T>("matmul", "dy")?, dy.1), (w.0.get::<T>("matmul", "w")?, w.1));
            cpu::backward_input((dx.0.get::<T>("matmul", "dx")?, dx.1), dy, w, write);
            Ok(())
        }),
        Device::Cuda(gpu) => cuda::backward_input(gpu, dx, dy, w, write, None),
    }
}

/// dw += xᵀ dy. x: (M, K), dy: (M, N), dw: (K, N). Adds, because a weight may be used twice.
pub fn backward_weight_acc(
    dev: &Device,
    dw: (ViewMut, Layout),
    x: (View, Layout),
    dy: (View, Layout),
) -> Result<()> {
    let (m, k, n) = (x.1.rows, x.1.cols, dy.1.cols);
    check("matmul", "dw", dw.0.len(), dw.1, k, n)?;
    check("matmul", "x", x.0.len(), x.1, m, k)?;
    check("matmul", "dy", dy.0.len(), dy.1, m, n)?;
    let _op = range(c"matmul, backward");
    match dev {
        Device::Cpu => float!("matmul", "dw", dw.0.dtype(), T => {
            let (x, dy) = ((x.0.get::<T>("matmul", "x")?, x.1), (dy.0.get::<T>("matmul", "dy")?, dy.1));
            cpu::backward_weight_acc((dw.0.get::<T>("matmul", "dw")?, dw.1), x, dy);
            Ok(())
        }),
        Device::Cuda(gpu) => cuda::backward_weight_acc(gpu, dw, x, dy),
    }
}
