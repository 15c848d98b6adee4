//! Launches of `kernels/component_weights.cu`.

use crate::device::{ElementType, Gpu, Grid, Kernel, args, kernel};
use crate::error::Result;
use crate::tensor::{View, ViewMut};

const FORWARD: Kernel = kernel!("component_weights", "component_weights_forward", [
    weights: *f32, query: *f32, attention: *f32, key: *f32, b: u32, m: u32, c: u32,
]);
const FACTORS: Kernel = kernel!("component_weights", "component_weights_factors", [
    factors: *f32, dweights: *f32, query: *f32, attention: *f32, key: *f32, b: u32, m: u32, c: u32,
]);
const BACKWARD: Kernel = kernel!("component_weights", "component_weights_backward", [
    dattention: *f32, dkey: *f32, factors: *f32, query: *f32, attention: *f32, key: *f32, b: u32, c: u32,
]);

const THREADS: u32 = 256;
/// Components of a block, one warp each, and images of a warp.
const COMPONENTS: usize = 8;
const IMAGES: usize = 4;

fn by_pairs(b: usize, m: usize) -> Grid {
    Grid::new(b.div_ceil(IMAGES), THREADS).by(m.div_ceil(COMPONENTS), 1)
}

pub fn forward(gpu: &Gpu, weights: ViewMut, query: View, attention: View, key: View) -> Result<()> {
    let (b, m, c) = (query.dims()[0], attention.dims()[0], query.dims()[1]);
    let args = args![weights, query, attention, key, b, m, c];
    // SAFETY: mod.rs has checked that weights is (b, m), query (b, c), attention and key (m, c).
    unsafe { gpu.launch(&FORWARD, ElementType::F32, by_pairs(b, m), &args) }
}

pub fn backward_acc(
    gpu: &Gpu,
    [dattention, dkey]: [ViewMut; 2],
    dweights: View,
    query: View,
    attention: View,
    key: View,
) -> Result<()> {
    let (b, m, c) = (query.dims()[0], attention.dims()[0], query.dims()[1]);
    let factors = gpu.scratch(2 * m * b)?;
    let args = args![factors, dweights, query, attention, key, b, m, c];
    // SAFETY: as in `forward`, and dweights is (b, m); the scratch memory holds two numbers for each of its elements.
    unsafe { gpu.launch(&FACTORS, ElementType::F32, by_pairs(b, m), &args)? };
    let args = args![dattention, dkey, factors, query, attention, key, b, c];
    // SAFETY: as above, and both gradients are (m, c); the grid has a block for each of their rows.
    unsafe { gpu.launch(&BACKWARD, ElementType::F32, Grid::new(m, THREADS), &args) }
}
