//! Launches of `kernels/preprocess.cu`.

use super::args::{ImageTransform, OP};
use crate::config::schema::Augment;
use crate::device::{Gpu, Grid, Kernel, args, kernel};
use crate::error::Result;
use crate::tensor::{View, ViewMut};

const FORWARD: Kernel = kernel!("preprocess", "preprocess_forward", [
    rows: *T, pixels: *u8, indices: *u32, first: *u32, table: *f32, images: u32, height: u32, width: u32,
    channels: u32, resize: u32, size: u32, patch: u32, flips: u32, seed: u64,
]);

const THREADS: u32 = 256;
/// Output lines of a block.
const BAND: usize = 32;

pub fn forward(
    gpu: &Gpu,
    rows: ViewMut,
    pixels: View,
    indices: View,
    first: Option<View>,
    table: View,
    plan: ImageTransform,
) -> Result<()> {
    let form = rows.dtype().form(OP, "rows")?;
    let &[images, height, width, channels] = pixels.dims() else {
        unreachable!("mod.rs has checked the rank")
    };
    let (with, patch) = (plan.preprocess, plan.patch_size);
    let (resize, size) = (with.resize_size(), with.input_size());
    let first = first.filter(|_| with.augment() != Augment::None);
    let flips = u32::from(with.augment() == Augment::CropFlip);
    let grid = Grid::new(indices.len(), THREADS).by(size.div_ceil(BAND), 1);
    let args = args![
        rows,
        pixels,
        indices,
        first,
        table,
        images,
        height,
        width,
        channels,
        resize,
        size,
        patch,
        flips,
        seed = plan.seed,
    ];
    // SAFETY: mod.rs has checked rows (B·N, P·P·3), indices (B), first (2), table (2, 3) and that P divides the
    // size; the kernel passes over indices that are no image, and source positions are clamped to the image.
    unsafe { gpu.launch(&FORWARD, form, grid, &args) }
}
