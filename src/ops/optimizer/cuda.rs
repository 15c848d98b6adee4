//! Launches of `kernels/optimizer.cu`.

use super::args::{Adam, Sgd};
use crate::device::{ElementType, Gpu, Grid, Kernel, args, kernel, vectors};
use crate::error::Result;
use crate::tensor::{View, ViewMut};

const ADAM: Kernel = kernel!("optimizer", "optimizer_adam", [
    p: *f32, m: *f32, v: *f32, g: *f32, squares: *f32, step_scalars: *f32, n: u64, beta1: f32, rest1: f32, beta2: f32,
    rest2: f32, eps: f32, decay: f32, max_norm: f32, vectors: u32,
]);
const SGD: Kernel = kernel!("optimizer", "optimizer_sgd", [
    p: *f32, u: *f32, g: *f32, squares: *f32, step_scalars: *f32, n: u64, momentum: f32, nesterov: u32, max_norm: f32,
    vectors: u32,
]);

const THREADS: usize = 256;

/// One chunk of four numbers per thread.
fn grid(n: usize) -> Grid {
    Grid::new(n.div_ceil(4 * THREADS), THREADS as u32)
}

pub fn adam(
    gpu: &Gpu,
    p: ViewMut,
    [m, v]: [ViewMut; 2],
    g: View,
    squares: View,
    step_scalars: View,
    with: Adam,
) -> Result<()> {
    let n = p.len();
    let Adam { beta1, beta2, eps, decay, max_norm } = with;
    let (rest1, rest2) = ((1.0 - beta1) as f32, (1.0 - beta2) as f32);
    let (beta1, beta2, eps) = (beta1 as f32, beta2 as f32, eps as f32);
    let (decay, max_norm) = (decay as f32, max_norm as f32);
    let vectors = vectors(ElementType::F32, n, &[&p, &m, &v, &g]);
    let args = args![
        p,
        m,
        v,
        g,
        squares,
        step_scalars,
        n = n as u64,
        beta1,
        rest1,
        beta2,
        rest2,
        eps,
        decay,
        max_norm,
        vectors
    ];
    // SAFETY: mod.rs has checked that all four have n elements, squares one and step_scalars four.
    unsafe { gpu.launch(&ADAM, ElementType::F32, grid(n), &args) }
}

pub fn sgd(
    gpu: &Gpu,
    p: ViewMut,
    u: ViewMut,
    g: View,
    squares: View,
    step_scalars: View,
    with: Sgd,
) -> Result<()> {
    let n = p.len();
    let (momentum, max_norm) = (with.momentum as f32, with.max_norm as f32);
    let vectors = vectors(ElementType::F32, n, &[&p, &u, &g]);
    let nesterov = u32::from(with.nesterov);
    let args = args![p, u, g, squares, step_scalars, n = n as u64, momentum, nesterov, max_norm, vectors];
    // SAFETY: mod.rs has checked that all three have n elements, squares one and step_scalars four.
    unsafe { gpu.launch(&SGD, ElementType::F32, grid(n), &args) }
}
