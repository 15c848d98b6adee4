//! Which forward passes run on `kernels/attention_hopper.cu`, and how. The launch is in `cuda.rs`.
//!
//! A pass does where the GPU's Hopper kernels are on ([`Gpu::use_hopper`]), its numbers have 16 bits, heads have 64 channels, there are
//! at most 256 keys and queries and no prefix, and q, k and v can be read through tensor maps: their addresses are
//! multiples of 16 bytes and their rows multiples of 8 elements apart. How many images there are has no part in that: the
//! bits of an image do not depend on it. The portable kernel takes the place of one that is refused ([`Gpu::refuse`]).

use super::args::{AttentionDims, PackedRows, Qkv};
use crate::device::{Argument, Cell, ElementType, Gpu, Grid, Kernel, MappedMatrix, TensorMap, kernel};
use crate::error::Result;

const FORWARD: Kernel = kernel!("attention_hopper", "attention_hopper_forward", [
    out: *T, lse: *f32, q: map, k: map, v: map, heads: u32, tq: u32, tk: u32, units: u32, scale: f32, vectors: u32,
]);

/// Channels of a head, rows of a tile of q, and the most rows of q.
const WIDTH: usize = 64;
const TILE_ROWS: usize = 64;
const MOST_QUERIES: usize = 256;
/// The kernels and the most keys of each. One is for more keys than the one before it holds.
const FORWARDS: [(usize, Kernel); 7] = [
    (64, Kernel { name: "attention_hopper_forward_n64", ..FORWARD }),
    (128, Kernel { name: "attention_hopper_forward_n128", ..FORWARD }),
    (192, Kernel { name: "attention_hopper_forward_n192", ..FORWARD }),
    (208, Kernel { name: "attention_hopper_forward_n208", ..FORWARD }),
    (224, Kernel { name: "attention_hopper_forward_n224", ..FORWARD }),
    (240, Kernel { name: "attention_hopper_forward_n240", ..FORWARD }),
    (256, Kernel { name: "attention_hopper_forward_n256", ..FORWARD }),
];

/// A launch of one of the kernels.
pub struct Forward {
    pub kernel: &'static Kernel,
    pub grid: Grid,
    /// Heads of images.
    pub units: usize,
    pub q: TensorMap,
    pub k: TensorMap,
    pub v: TensorMap,
}

/// Shared memory of a block, as `HopperAttention::SMEM_BYTES` of the kernel has it.
fn smem_bytes(most_keys: usize) -> usize {
    let row = WIDTH * 2;
    2 * (MOST_QUERIES + 2 * most_keys) * row + 4 * 8
}

fn mapped(rows: &PackedRows, e: AttentionDims) -> Option<MappedMatrix> {
    let Cell::Pointer(address) = rows.first_row().argument().1 else { return None };
    let cols = e.heads * e.head_dim;
    let matrix =
        MappedMatrix { address, rows: rows.tokens, cols, stride: rows.stride, images: Some(e.batch) };
    matrix.has_map().then_some(matrix)
}

/// The pass without a prefix, or nothing where the portable kernel is to be used.
pub(super) fn forward(gpu: &Gpu, form: ElementType, qkv: &Qkv, e: AttentionDims) -> Result<Option<Forward>> {
    let few = e.prefix == 0 && qkv.q.tokens <= MOST_QUERIES;
    if !gpu.uses_hopper() || form == ElementType::F32 || e.head_dim != WIDTH || !few {
        return Ok(None);
    }
    let kernel = FORWARDS.iter().find(|(most_keys, _)| qkv.k.tokens <= *most_keys);
    let maps = (mapped(&qkv.q, e), mapped(&qkv.k, e), mapped(&qkv.v, e));
    let (Some((most_keys, kernel)), (Some(q), Some(k), Some(v))) = (kernel, maps) else { return Ok(None) };
    if gpu.refuses(kernel, form) {
        return Ok(None);
    }
    let units = e.batch * e.heads;
    let other = |matrix| gpu.tensor_map(form, matrix, *most_keys as u32);
    Ok(Some(Forward {
        kernel,
        grid: Grid::new(units.min(gpu.multiprocessors()), 384).smem(smem_bytes(*most_keys)),
        units,
        q: gpu.tensor_map(form, q, TILE_ROWS as u32)?,
        k: other(k)?,
        v: other(v)?,
    }))
}

/// All kernels of this form, by name.
pub fn symbols(form: ElementType) -> Vec<String> {
    FORWARDS.iter().map(|(_, kernel)| kernel.symbol(form)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_fits_on_a_multiprocessor() {
        assert_eq!(smem_bytes(64), 98_336);
        assert_eq!(smem_bytes(240), 188_448);
        assert_eq!(smem_bytes(256), 196_640);
        assert!(FORWARDS.iter().all(|(most_keys, _)| smem_bytes(*most_keys) <= 227 * 1024));
    }
}
