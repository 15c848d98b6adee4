//! Launches of `kernels/distill.cu`.

use crate::device::{ElementType, Gpu, Grid, Kernel, args, kernel};
use crate::error::Result;
use crate::tensor::{View, ViewMut};

const IMAGES: Kernel = kernel!("distill", "distill_images", [
    said: *f32, dlogits: *f32, logits: *f32, teacher: *f32, mask: *u32, b: u32, k: u32, temperature: f32, weight: f32,
]);
const MEAN: Kernel = kernel!("distill", "distill_mean", [distance: *f32, said: *f32, b: u32]);

const THREADS: u32 = 256;
/// Images of a block: one per warp.
const WARPS: usize = 8;

pub fn forward_backward_acc(
    gpu: &Gpu,
    out: ViewMut,
    dlogits: ViewMut,
    logits: View,
    teacher: View,
    mask: View,
    (temperature, weight): (f64, f64),
) -> Result<()> {
    let (b, k) = (logits.dims()[0], logits.dims()[1]);
    let said = gpu.scratch(b)?;
    let (temperature, weight) = (temperature as f32, weight as f32);
    let args = args![said, dlogits, logits, teacher, mask, b, k, temperature, weight];
    // SAFETY: mod.rs has checked all shapes; the scratch memory holds a number per image.
    unsafe { gpu.launch(&IMAGES, ElementType::F32, Grid::new(b.div_ceil(WARPS), THREADS), &args)? };
    // SAFETY: as above; `out` has one element.
    unsafe { gpu.launch(&MEAN, ElementType::F32, Grid::new(1, THREADS), &args![distance = out, said, b]) }
}
