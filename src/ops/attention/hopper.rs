//! Which passes run on `kernels/attention_hopper.cu` and `kernels/attention_hopper_backward.cu`, and how. The launches are in
//! `cuda.rs`.
//!
//! A pass does where the GPU's Hopper kernels are on ([`Gpu::use_hopper`]), its numbers have 16 bits, heads have 64 channels, there are
//! at most 256 queries and no prefix, and what it reads has tensor maps: addresses are multiples of 16 bytes and rows
//! multiples of 8 elements apart. Where queries are the rows of a pass there are at most 256 keys as well. How many images
//! there are has no part in that: the bits of an image do not depend on it. The portable kernel takes the place of one
//! that is refused ([`Gpu::refuse`]).

use super::args::{AttentionDims, PackedRows, Qkv};
use crate::device::{Argument, Cell, ElementType, Gpu, Grid, Kernel, MappedMatrix, TensorMap, kernel};
use crate::error::Result;
use crate::tensor::View;

const FORWARD: Kernel = kernel!("attention_hopper", "attention_hopper_forward", [
    out: *T, lse: *f32, q: map, k: map, v: map, heads: u32, tq: u32, tk: u32, units: u32, scale: f32, vectors: u32,
]);
const BACKWARD_Q: Kernel = kernel!("attention_hopper_backward", "attention_hopper_backward_q", [
    dq: *T, delta: *f32, lse: *f32, q: map, k: map, v: map, dout: map, heads: u32, tq: u32, tk: u32, units: u32,
    scale: f32, first_row: u32, count: u32, dq_stride: u32, vectors: u32,
]);
const BACKWARD_KV: Kernel = kernel!("attention_hopper_backward", "attention_hopper_backward_kv", [
    dk: *T, dv: *T, delta: *f32, lse: *f32, q: map, k: map, v: map, dout: map, heads: u32, tq: u32, units: u32,
    scale: f32, first_row: u32, count: u32, dkv_stride: u32, vectors: u32,
]);

/// Channels of a head, rows of a tile, and the most queries.
const WIDTH: usize = 64;
const TILE_ROWS: usize = 64;
const MOST_QUERIES: usize = 256;
/// Kernels and the most keys, or queries, of each. One is for more of them than the one before it holds.
type Kernels = [(usize, Kernel)];
const FORWARDS: &Kernels = &[
    (64, Kernel { name: "attention_hopper_forward_n64", ..FORWARD }),
    (128, Kernel { name: "attention_hopper_forward_n128", ..FORWARD }),
    (192, Kernel { name: "attention_hopper_forward_n192", ..FORWARD }),
    (208, Kernel { name: "attention_hopper_forward_n208", ..FORWARD }),
    (224, Kernel { name: "attention_hopper_forward_n224", ..FORWARD }),
    (240, Kernel { name: "attention_hopper_forward_n240", ..FORWARD }),
    (256, Kernel { name: "attention_hopper_forward_n256", ..FORWARD }),
];
const BACKWARDS_Q: &Kernels = &[
    (128, Kernel { name: "attention_hopper_backward_q_n128", ..BACKWARD_Q }),
    (208, Kernel { name: "attention_hopper_backward_q_n208", ..BACKWARD_Q }),
    (224, Kernel { name: "attention_hopper_backward_q_n224", ..BACKWARD_Q }),
    (240, Kernel { name: "attention_hopper_backward_q_n240", ..BACKWARD_Q }),
    (256, Kernel { name: "attention_hopper_backward_q_n256", ..BACKWARD_Q }),
];
const BACKWARDS_KV: &Kernels = &[
    (64, Kernel { name: "attention_hopper_backward_kv_n64", ..BACKWARD_KV }),
    (256, Kernel { name: "attention_hopper_backward_kv_n256", ..BACKWARD_KV }),
];

/// The side of the scores that a block has in shared memory as a whole. Of the other side it has tiles.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Whole {
    Keys,
    Queries,
}

/// A launch of one of the kernels.
pub struct Pass {
    pub kernel: &'static Kernel,
    pub grid: Grid,
    /// Heads of images.
    pub units: usize,
    pub q: TensorMap,
    pub k: TensorMap,
    pub v: TensorMap,
}

/// The same of a backward pass.
pub struct BackwardPass {
    pub pass: Pass,
    pub dout: TensorMap,
}

/// Shared memory of a block of the forward pass, as `HopperAttention::SMEM_BYTES` of the kernel has it.
fn forward_bytes(most_keys: usize) -> usize {
    let row = WIDTH * 2;
    2 * (MOST_QUERIES + 2 * most_keys) * row + 4 * 8
}

/// Of a backward pass: `Operands` of the kernels, and two numbers for each of the rows at hand where those are queries.
fn backward_bytes(whole: Whole, most: usize) -> usize {
    let row = WIDTH * 2;
    let numbers = if whole == Whole::Queries { 2 * most * 2 * 4 } else { 0 };
    2 * 2 * most * row + 4 * 2 * TILE_ROWS * row + numbers + 12 * 8
}

fn mapped(rows: &PackedRows, e: AttentionDims) -> Option<MappedMatrix> {
    let Cell::Pointer(address) = rows.first_row().argument().1 else { return None };
    let cols = e.heads * e.head_dim;
    let matrix =
        MappedMatrix { address, rows: rows.tokens, cols, stride: rows.stride, images: Some(e.batch) };
    matrix.has_map().then_some(matrix)
}

/// What a pass reads.
#[derive(Clone, Copy)]
pub(super) struct Inputs<'a> {
    pub gpu: &'a Gpu,
    pub form: ElementType,
    pub qkv: &'a Qkv<'a>,
    pub e: AttentionDims,
}

impl Inputs<'_> {
    /// The first of `kernels` that holds the rows of the whole side, and how many rows it holds; nothing where the portable kernel
    /// is to be used.
    fn choose(&self, kernels: &'static Kernels, whole: Whole) -> Option<&'static (usize, Kernel)> {
        let Inputs { gpu, form, qkv, e } = *self;
        let few = e.prefix == 0 && qkv.q.tokens <= MOST_QUERIES;
        if !gpu.uses_hopper() || form == ElementType::F32 || e.head_dim != WIDTH || !few {
            return None;
        }
        let rows = if whole == Whole::Keys { qkv.k.tokens } else { qkv.q.tokens };
        kernels.iter().find(|(most, _)| rows <= *most).filter(|(_, kernel)| !gpu.refuses(kernel, form))
    }

    /// The launch of a kernel with these maps of q, k and v. Boxes have the rows of the whole side or of a tile.
    fn pass(
        &self,
        (most, kernel): &'static (usize, Kernel),
        whole: Whole,
        bytes: usize,
    ) -> Result<Option<Pass>> {
        let Inputs { gpu, form, qkv, e } = *self;
        let [q, k, v] = [&qkv.q, &qkv.k, &qkv.v].map(|rows| mapped(rows, e));
        let (Some(q), Some(k), Some(v)) = (q, k, v) else { return Ok(None) };
        let units = e.batch * e.heads;
        let [of_q, of_kv] = box_rows(whole, *most);
        Ok(Some(Pass {
            kernel,
            grid: Grid::new(units.min(gpu.multiprocessors()), 384).smem(bytes),
            units,
            q: gpu.tensor_map(form, q, of_q)?,
            k: gpu.tensor_map(form, k, of_kv)?,
            v: gpu.tensor_map(form, v, of_kv)?,
        }))
    }

    pub fn forward(&self) -> Result<Option<Pass>> {
        let Some(chosen) = self.choose(FORWARDS, Whole::Keys) else { return Ok(None) };
        self.pass(chosen, Whole::Keys, forward_bytes(chosen.0))
    }

    fn backward(&self, dout: View, kernels: &'static Kernels, whole: Whole) -> Result<Option<BackwardPass>> {
        let Inputs { gpu, form, qkv, e } = *self;
        let Some(chosen) = self.choose(kernels, whole) else { return Ok(None) };
        let rows = PackedRows { data: dout, tokens: qkv.q.tokens, stride: e.heads * e.head_dim, offset: 0 };
        let pass = self.pass(chosen, whole, backward_bytes(whole, chosen.0))?;
        let (Some(pass), Some(dout)) = (pass, mapped(&rows, e)) else { return Ok(None) };
        let [of_dout, _] = box_rows(whole, chosen.0);
        Ok(Some(BackwardPass { pass, dout: gpu.tensor_map(form, dout, of_dout)? }))
    }

    /// delta of all queries and dq of some.
    pub fn backward_queries(&self, dout: View) -> Result<Option<BackwardPass>> {
        self.backward(dout, BACKWARDS_Q, Whole::Keys)
    }

    /// dk and dv of some keys.
    pub fn backward_keys(&self, dout: View) -> Result<Option<BackwardPass>> {
        self.backward(dout, BACKWARDS_KV, Whole::Queries)
    }
}

/// Rows of the boxes of q and of k and v.
fn box_rows(whole: Whole, most: usize) -> [u32; 2] {
    let (most, tile) = (most as u32, TILE_ROWS as u32);
    if whole == Whole::Keys { [tile, most] } else { [most, tile] }
}

/// All kernels of this form, by name.
pub fn symbols(form: ElementType) -> Vec<String> {
    let all = FORWARDS.iter().chain(BACKWARDS_Q).chain(BACKWARDS_KV);
    all.map(|(_, kernel)| kernel.symbol(form)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_fits_on_a_multiprocessor() {
        assert_eq!(forward_bytes(64), 98_336);
        assert_eq!(forward_bytes(240), 188_448);
        assert_eq!(forward_bytes(256), 196_640);
        assert_eq!(backward_bytes(Whole::Keys, 128), 131_168);
        assert_eq!(backward_bytes(Whole::Keys, 256), 196_704);
        assert_eq!(backward_bytes(Whole::Queries, 64), 99_424);
        assert_eq!(backward_bytes(Whole::Queries, 256), 200_800);
        let most = |kernels: &Kernels| kernels.iter().map(|(most, _)| *most).max().expect("a kernel");
        let bytes = [
            forward_bytes(most(FORWARDS)),
            backward_bytes(Whole::Keys, most(BACKWARDS_Q)),
            backward_bytes(Whole::Queries, most(BACKWARDS_KV)),
        ];
        assert!(bytes.iter().all(|bytes| *bytes <= 227 * 1024), "{bytes:?}");
    }
}
