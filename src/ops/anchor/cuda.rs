//! Launches of `kernels/anchor.cu`.

use crate::device::{ElementType, Gpu, Grid, Kernel, args, kernel, vectors};
use crate::error::Result;
use crate::tensor::{View, ViewMut};

const PENALTY: Kernel = kernel!("anchor", "anchor_penalty", [
    partial: *f32, p: *f32, anchor: *f32, importance: *f32, n: u64, vectors: u32,
]);
const TOTAL: Kernel = kernel!("anchor", "anchor_total", [penalty: *f32, partial: *f32, pieces: u32]);
const BACKWARD: Kernel = kernel!("anchor", "anchor_backward", [
    dp: *f32, p: *f32, anchor: *f32, importance: *f32, n: u64, twice_scale: f32,
]);
const SQUARES: Kernel =
    kernel!("anchor", "anchor_squares", [importance: *f32, g: *f32, loss: *f32, n: u64, factor: f32]);

const THREADS: usize = 256;
/// Elements per partial sum.
const PIECE: usize = 16 * THREADS;

/// One thread per element.
fn grid(n: usize) -> Grid {
    Grid::new(n.div_ceil(THREADS), THREADS as u32)
}

pub fn penalty(gpu: &Gpu, out: ViewMut, p: View, anchor: View, importance: View) -> Result<()> {
    let n = p.len();
    let pieces = n.div_ceil(PIECE);
    let partial = gpu.scratch(pieces)?;
    let vectors = vectors(ElementType::F32, n, &[&p, &anchor, &importance]);
    let args = args![partial, p, anchor, importance, n = n as u64, vectors];
    // SAFETY: the scratch memory holds a number per block; mod.rs has checked that all three have n elements.
    unsafe { gpu.launch(&PENALTY, ElementType::F32, Grid::new(pieces, THREADS as u32), &args)? };
    let (one, args) = (Grid::new(1, THREADS as u32), args![penalty = out, partial, pieces]);
    // SAFETY: as above; `out` has one element.
    unsafe { gpu.launch(&TOTAL, ElementType::F32, one, &args) }
}

pub fn backward_acc(
    gpu: &Gpu,
    dp: ViewMut,
    p: View,
    anchor: View,
    importance: View,
    twice_scale: f64,
) -> Result<()> {
    let n = p.len();
    let args = args![dp, p, anchor, importance, n = n as u64, twice_scale = twice_scale as f32];
    // SAFETY: the kernel touches the first n elements of all four; mod.rs has checked that they have as many.
    unsafe { gpu.launch(&BACKWARD, ElementType::F32, grid(n), &args) }
}

pub fn add_squares(gpu: &Gpu, importance: ViewMut, g: View, loss: Option<View>, factor: f64) -> Result<()> {
    let n = g.len();
    let args = args![importance, g, loss, n = n as u64, factor = factor as f32];
    // SAFETY: the kernel touches the first n elements of both; mod.rs has checked that they have as many, and that a loss
    // has one.
    unsafe { gpu.launch(&SQUARES, ElementType::F32, grid(n), &args) }
}
