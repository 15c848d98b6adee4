//! Launches of `kernels/patches.cu`.

use crate::device::{ElementType, Gpu, Grid, Kernel, args, kernel, vectors};
use crate::error::Result;
use crate::tensor::{View, ViewMut};

const FORWARD: Kernel = kernel!("patches", "patches_forward", [
    rows: *T, images: *f32, side: u32, patch: u32, channels: u32, vectors: u32,
]);

const THREADS: usize = 128;

pub fn forward(gpu: &Gpu, rows: ViewMut, images: View, patch: usize) -> Result<()> {
    let (form, side, channels) = (rows.dtype().form("patches", "rows")?, images.dims()[1], images.dims()[3]);
    let (patches, width) = (rows.dims()[0], rows.dims()[1]);
    // A row of an image is a whole number of lines of patches, so that all of them begin where vectors may.
    let vectors = vectors(form, patch * channels, &[&rows, &images]);
    let chunk = if form == ElementType::F32 { 4 } else { 8 };
    let grid = Grid::new(patches, THREADS as u32).by(width.div_ceil(chunk * THREADS), 1);
    // SAFETY: mod.rs has checked that the rows hold all patches of the images.
    unsafe { gpu.launch(&FORWARD, form, grid, &args![rows, images, side, patch, channels, vectors]) }
}
