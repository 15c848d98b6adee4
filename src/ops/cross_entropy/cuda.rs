//! Launches of `kernels/cross_entropy.cu`.

use crate::device::{ElementType, Gpu, Grid, Kernel, args, kernel};
use crate::error::Result;
use crate::tensor::{DType, View, ViewMut};

const FORWARD_BACKWARD: Kernel = kernel!("cross_entropy", "cross_entropy_forward_backward", [
    said: *f32, dlogits: *f32, logits: *f32, labels: *u32, mask: *u32, b: u32, k: u32, mask_step: u32, smoothing: f32,
]);
const FORWARD_BACKWARD_SOFT: Kernel = kernel!("cross_entropy", "cross_entropy_forward_backward_soft", [
    said: *f32, dlogits: *f32, logits: *f32, weights: *f32, mask: *u32, b: u32, k: u32, mask_step: u32, smoothing: f32,
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
    // From the mask of an image to that of the next.
    let mask_step = if mask.dims().len() == 2 { k } else { 0 };
    let (smoothing, grid) = (label_smoothing as f32, Grid::new(b.div_ceil(WARPS), THREADS));
    let (kernel, args) = if labels.dtype() == DType::F32 {
        let args = args![said, dlogits, logits, weights = labels, mask, b, k, mask_step, smoothing];
        (&FORWARD_BACKWARD_SOFT, args)
    } else {
        (&FORWARD_BACKWARD, args![said, dlogits, logits, labels, mask, b, k, mask_step, smoothing])
    };
    // SAFETY: mod.rs has checked all shapes; the scratch memory holds two numbers per image.
    unsafe { gpu.launch(kernel, ElementType::F32, grid, &args)? };
    // SAFETY: as above.
    unsafe { gpu.launch(&OUTCOME, ElementType::F32, Grid::new(1, THREADS), &args![outcome, said, b]) }
}
