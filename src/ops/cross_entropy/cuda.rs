//! Launches of `kernels/cross_entropy.cu`.

use crate::device::{Form, Gpu, Grid, Kernel, args, kernel};
use crate::error::Result;
use crate::tensor::{View, ViewMut};

const FORWARD_BACKWARD: Kernel = kernel!("cross_entropy", "cross_entropy_forward_backward", [
    said: *f32, dlogits: *f32, logits: *f32, labels: *u32, mask: *u32, b: u32, k: u32, smoothing: f32,
]);
const OUTCOME: Kernel =
    kernel!("cross_entropy", "cross_entropy_outcome", [outcome: *f32, said: *f32, b: u32]);

const THREADS: u32 = 256;
/// Images of a block: one per warp.
const WARPS: usize = 8;

pub fn forward_backward(
    gpu: &Gpu,
    outcome: ViewMut,
    dlogits: Option<ViewMut>,
    logits: View,
    labels: View,
    mask: View,
    label_smoothing: f64,
) -> Result<()> {
    let (b, k) = (logits.dims()[0], logits.dims()[1]);
    let said = gpu.scratch(2 * b)?;
    let args = args![said, dlogits, logits, labels, mask, b, k, smoothing = label_smoothing as f32];
    let grid = Grid::new(b.div_ceil(WARPS), THREADS);
    // SAFETY: mod.rs has checked all shapes; the scratch memory holds two numbers per image.
    unsafe { gpu.launch(&FORWARD_BACKWARD, Form::F32, grid, &args)? };
    // SAFETY: as above.
    unsafe { gpu.launch(&OUTCOME, Form::F32, Grid::new(1, THREADS), &args![outcome, said, b]) }
}
