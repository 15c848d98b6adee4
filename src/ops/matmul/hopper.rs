//! Which products run on `kernels/matmul_hopper.cu`, and how. The launches are in `cuda.rs`.
//!
//! A product does where the GPU's Hopper kernels are on ([`Gpu::use_hopper`]), its numbers have 16 bits, and both operands
//! can be read through tensor maps: their addresses are multiples of 16 bytes and their rows multiples of 8 elements apart.
//! How many rows there are has no part in that: a row's bits do not depend on it. Rows have a part in the width of the tiles,
//! which give the same bits; where a kernel is refused ([`Gpu::refuse`]) the portable one takes its place, and so it must be
//! for all its widths ([`widths_of`]).

use super::args::Layout;
use crate::device::{Argument, Cell, ElementType, Gpu, Grid, Kernel, MappedMatrix, TensorMap, kernel};
use crate::error::Result;
use crate::tensor::View;

const FORWARD: Kernel = kernel!("matmul_hopper", "matmul_hopper_forward", [
    y: *T, pre: *T, x: map, w: map, bias: *f32, residual: *T, m: u32, k: u32, n: u32, ldy: u32,
    ld_residual: u32, gelu: u32, vectors: u32,
]);
const BACKWARD_INPUT: Kernel = kernel!("matmul_hopper", "matmul_hopper_backward_input", [
    dx: *T, dy: map, w: map, residual: *T, pre: *T, m: u32, k: u32, n: u32, lddx: u32, ld_residual: u32,
    gelu: u32, vectors: u32,
]);

/// Rows of a tile, and depth of a stage.
const TILE_ROWS: usize = 128;
const DEPTH: usize = 64;
/// Columns of a tile of each kernel, the widest first.
pub const TILE_COLS: [usize; 3] = [256, 192, 128];
const FORWARDS: [Kernel; 3] = [
    Kernel { name: "matmul_hopper_forward_n256", ..FORWARD },
    Kernel { name: "matmul_hopper_forward_n192", ..FORWARD },
    Kernel { name: "matmul_hopper_forward_n128", ..FORWARD },
];
const BACKWARDS: [Kernel; 3] = [
    Kernel { name: "matmul_hopper_backward_input_n256", ..BACKWARD_INPUT },
    Kernel { name: "matmul_hopper_backward_input_n192", ..BACKWARD_INPUT },
    Kernel { name: "matmul_hopper_backward_input_n128", ..BACKWARD_INPUT },
];

/// A launch of one of the kernels: its operands are `a` and `b`.
pub struct Product {
    pub kernel: &'static Kernel,
    pub grid: Grid,
    pub a: TensorMap,
    pub b: TensorMap,
}

/// The kernels of tiles of so many columns, by name.
pub fn of_width(cols: usize, form: ElementType) -> Vec<String> {
    let at = TILE_COLS.iter().position(|c| *c == cols);
    at.map_or(Vec::new(), |i| [&FORWARDS[i], &BACKWARDS[i]].map(|kernel| kernel.symbol(form)).into())
}

/// The kernels that do the work of this one in tiles of any width, itself among them; none for a portable kernel.
pub fn widths_of(symbol: &str) -> Vec<String> {
    for form in [ElementType::Bf16, ElementType::F16] {
        for kernels in [&FORWARDS, &BACKWARDS] {
            let all = kernels.each_ref().map(|kernel| kernel.symbol(form));
            if all.iter().any(|name| name == symbol) {
                return all.into();
            }
        }
    }
    Vec::new()
}

/// Shared memory of a block, as `HopperProduct::SMEM_BYTES` of the kernel has it.
pub fn smem_bytes(tile_cols: usize) -> usize {
    let (stage, sums) = ((TILE_ROWS + tile_cols) * DEPTH * 2, 2 * 64 * 64 * 4);
    let stages = (227 * 1024 - sums - 1024) / stage;
    stages * stage + sums + 2 * stages * 8
}

/// The kind of tile with which a device of `multiprocessors` is done first, as an index; the widest of equals. A tile takes
/// as long as it has columns.
fn best_tile(multiprocessors: usize, rows: usize, cols: usize) -> usize {
    let time = |&i: &usize| {
        let tiles = rows.div_ceil(TILE_ROWS) * cols.div_ceil(TILE_COLS[i]);
        tiles.div_ceil(multiprocessors.max(1)) * TILE_COLS[i]
    };
    (0..TILE_COLS.len()).min_by_key(time).expect("some tiles")
}

fn mapped(view: &View, at: Layout) -> Option<MappedMatrix> {
    let Cell::Pointer(address) = view.argument().1 else { return None };
    let matrix = MappedMatrix { address, rows: at.rows, cols: at.cols, stride: at.stride, images: None };
    matrix.has_map().then_some(matrix)
}

fn product(
    gpu: &Gpu,
    form: ElementType,
    [a, b]: [&(View, Layout); 2],
    (rows, cols): (usize, usize),
    kernels: &'static [Kernel; 3],
    box_rows_of_b: impl Fn(usize) -> usize,
) -> Result<Option<Product>> {
    if !gpu.uses_hopper() || form == ElementType::F32 || rows == 0 || cols == 0 {
        return Ok(None);
    }
    let (Some(a), Some(b)) = (mapped(&a.0, a.1), mapped(&b.0, b.1)) else { return Ok(None) };
    let forced = gpu.hopper_tile().and_then(|cols| TILE_COLS.iter().position(|c| *c == cols));
    let i = forced.unwrap_or_else(|| best_tile(gpu.multiprocessors(), rows, cols));
    if gpu.refuses(&kernels[i], form) {
        return Ok(None);
    }
    let tiles = rows.div_ceil(TILE_ROWS) * cols.div_ceil(TILE_COLS[i]);
    let map = |matrix, rows| gpu.tensor_map(form, matrix, rows);
    Ok(Some(Product {
        kernel: &kernels[i],
        grid: Grid::new(tiles.min(gpu.multiprocessors()), 384).smem(smem_bytes(TILE_COLS[i])),
        a: map(a, TILE_ROWS as u32)?,
        b: map(b, box_rows_of_b(TILE_COLS[i]) as u32)?,
    }))
}

/// y (M, N) = x (M, K) w (K, N), or nothing where the portable kernel is to be used. The views begin at the
/// first elements.
pub fn forward(
    gpu: &Gpu,
    form: ElementType,
    x: &(View, Layout),
    w: &(View, Layout),
) -> Result<Option<Product>> {
    product(gpu, form, [x, w], (x.1.rows, w.1.cols), &FORWARDS, |_| DEPTH)
}

/// dx (M, K) = dy (M, N) w (K, N)ᵀ, in the same way.
pub fn backward_input(
    gpu: &Gpu,
    form: ElementType,
    dy: &(View, Layout),
    w: &(View, Layout),
) -> Result<Option<Product>> {
    product(gpu, form, [dy, w], (dy.1.rows, w.1.rows), &BACKWARDS, |cols| cols)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_fill_the_device() {
        let cols = |rows, cols| TILE_COLS[best_tile(132, rows, cols)];
        // 198 rows of tiles: 792 of 192 columns are six full rounds, 594 of 256 leave half of the fifth idle.
        assert_eq!(cols(198 * 128, 768), 192);
        assert_eq!(cols(132 * 128, 256), 256);
        assert_eq!(cols(128, 768), 128);
    }

    #[test]
    fn widths_belong_together() {
        let all = widths_of("matmul_hopper_forward_n192_bf16");
        assert_eq!(all, [256, 192, 128].map(|cols| format!("matmul_hopper_forward_n{cols}_bf16")));
        assert!(widths_of("matmul_forward_bf16").is_empty());
        for cols in TILE_COLS {
            let own = of_width(cols, ElementType::F16);
            assert!(own.len() == 2 && own.iter().all(|name| widths_of(name).contains(name)), "{own:?}");
        }
    }

    #[test]
    fn a_block_fits_on_a_multiprocessor() {
        for (cols, bytes) in [(256, 229_440), (192, 196_672), (128, 229_472)] {
            assert_eq!(smem_bytes(cols), bytes);
            assert!(smem_bytes(cols) <= 227 * 1024);
        }
    }
}
