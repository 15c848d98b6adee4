//! Launches of `kernels/matmul.cu` and `kernels/matmul_hopper.cu`.

use super::args::{Layout, Write};
use super::hopper;
use crate::device::{Argument, Cell, ElementType, Gpu, Grid, Kernel, ScratchBuffer, args, kernel};
use crate::error::Result;
use crate::ops::gelu;
use crate::tensor::{DType, View, ViewMut};

const FORWARD: Kernel = kernel!("matmul", "matmul_forward", [
    y: *T, pre: *T, x: *T, w: *T, bias: *f32, residual: *T, m: u32, k: u32, n: u32, ldy: u32, ldx: u32,
    ldw: u32, ld_residual: u32, gelu: u32, vectors: u32,
]);
const BACKWARD_INPUT: Kernel = kernel!("matmul", "matmul_backward_input", [
    dx: *T, dy: *T, w: *T, residual: *T, pre: *T, m: u32, k: u32, n: u32, lddx: u32, lddy: u32, ldw: u32,
    ld_residual: u32, gelu: u32, vectors: u32,
]);
const BACKWARD_WEIGHT: Kernel = kernel!("matmul", "matmul_backward_weight", [
    out: *f32, x: *T, dy: *T, residual: *f32, m: u32, k: u32, n: u32, ld_out: u32, ldx: u32, lddy: u32,
    depth: u32, slice_len: u64, vectors: u32,
]);
const FORWARD_SLICES: Kernel = kernel!("matmul", "matmul_forward_slices", [
    parts: *f32, a: *f32, b: *f32, rows: u32, cols: u32, sum: u32, lda: u32, ldb: u32, depth: u32, slice_len: u64,
    vectors: u32,
]);
const BACKWARD_INPUT_SLICES: Kernel = kernel!("matmul", "matmul_backward_input_slices", [
    parts: *f32, a: *f32, b: *f32, rows: u32, cols: u32, sum: u32, lda: u32, ldb: u32, depth: u32, slice_len: u64,
    vectors: u32,
]);
const FORWARD_FEW_ROWS: Kernel = Kernel { name: "matmul_forward_few_rows", ..FORWARD };
const BACKWARD_INPUT_FEW_ROWS: Kernel = Kernel { name: "matmul_backward_input_few_rows", ..BACKWARD_INPUT };
const BACKWARD_WEIGHT_FEW_ROWS: Kernel =
    Kernel { name: "matmul_backward_weight_few_rows", ..BACKWARD_WEIGHT };
const ADD_SLICES: Kernel = kernel!("matmul", "matmul_add_slices", [
    out: *f32, parts: *f32, bias: *f32, rows: u32, cols: u32, ld: u32, slices: u32, add: u32,
]);

/// Fewer blocks than this leave a large GPU idle. A constant, so that bits depend on shapes only.
const ENOUGH_BLOCKS: usize = 128;
/// Rows that a slice of a weight gradient has at least, and the multiple that it is of.
const LEAST_DEPTH: usize = 512;
const DEPTH_STEP: usize = 32;
/// An f32 product of so few columns and so long sums (the head, the choice of prompts) is cut into slices of the sum, of this depth: its
/// tiles alone would leave a large GPU idle, and each would wait for one piece of its sum after another. Rows have no
/// part in it, so that a row's bits do not depend on how many there are.
const FEW_COLUMNS: usize = 128;
const LONG_SUM: usize = 512;
const SUM_SLICE: usize = 128;

/// What is done with a product before it is stored; see the kernel's header.
#[derive(Default)]
pub struct GpuEpilogue<'a> {
    pub bias: Option<View<'a>>,
    pub residual: Option<View<'a>>,
    /// Lies like y.
    pub pre: Option<ViewMut<'a>>,
    pub gelu: Option<gelu::GeluForm>,
}

/// The tiles of an output of a form, and how many blocks of which kind they take.
struct Tiles {
    few_rows: bool,
    count: usize,
    threads: u32,
    smem_bytes: usize,
}

impl Tiles {
    /// All kinds of tiles give the same bits.
    fn of(form: ElementType, rows: usize, cols: usize) -> Tiles {
        let count = |side: usize| rows.div_ceil(side) * cols.div_ceil(side);
        match form {
            ElementType::F32 => {
                Tiles { few_rows: false, count: count(64), threads: 256, smem_bytes: 16 << 10 }
            }
            _ if count(128) < ENOUGH_BLOCKS => {
                Tiles { few_rows: true, count: count(64), threads: 128, smem_bytes: 24 << 10 }
            }
            _ => Tiles { few_rows: false, count: count(128), threads: 128, smem_bytes: 48 << 10 },
        }
    }

    fn grid(&self, slices: usize) -> Grid {
        Grid::new(self.count * slices, self.threads).smem(self.smem_bytes)
    }
}

/// `Gelu` in `kernels/include/gelu.cuh`.
fn gelu_word(form: Option<gelu::GeluForm>) -> u32 {
    form.map_or(0, gelu::cuda::code)
}

/// From the first element of a matrix to its last.
fn at(view: View<'_>, layout: Layout) -> View<'_> {
    view.part(layout.offset, [layout.end().saturating_sub(layout.offset)])
}

fn at_mut(view: ViewMut<'_>, layout: Layout) -> ViewMut<'_> {
    view.part(layout.offset, [layout.end().saturating_sub(layout.offset)])
}

/// Whether groups of `group` columns are whole and aligned in all rows.
fn in_groups(matrix: &impl Argument, dtype: DType, layout: Layout, group: usize) -> bool {
    let Cell::Pointer(address) = matrix.argument().1 else { return false };
    let aligned = address.is_multiple_of((group * dtype.size_bytes()) as u64);
    aligned && layout.cols.is_multiple_of(group) && (layout.rows == 1 || layout.stride.is_multiple_of(group))
}

/// The kernel's `vectors` for operands of 16 bytes and an ending of four elements at a time.
fn vectors(operands: [(View, Layout); 2], ending: &[(View, Layout)]) -> u32 {
    let load = operands.iter().all(|(v, at)| in_groups(v, v.dtype(), *at, 8));
    let store = ending.iter().all(|(v, at)| in_groups(v, v.dtype(), *at, 4));
    u32::from(load) | u32::from(store) << 1
}

pub fn forward(
    gpu: &Gpu,
    (y, y_at): (ViewMut, Layout),
    (x, x_at): (View, Layout),
    (w, w_at): (View, Layout),
    write: Write,
    ending: GpuEpilogue,
) -> Result<()> {
    let form = y.dtype().form("matmul", "y")?;
    let GpuEpilogue { bias, residual, pre, gelu } = ending;
    let (y, x, w) = (at_mut(y, y_at), at(x, x_at), at(w, w_at));
    if in_slices(form, y_at.cols, x_at.cols) && residual.is_none() && pre.is_none() && gelu.is_none() {
        return product_in_slices(gpu, &FORWARD_SLICES, (y, y_at), (x, x_at), (w, w_at), bias, write);
    }
    let pre = pre.map(|pre| at_mut(pre, y_at));
    let residual = match write {
        Write::Add => Some((y.as_view(), y_at)),
        Write::Set => residual.map(|r| (r, Layout::dense(y_at.rows, y_at.cols))),
    };
    let mut ends = vec![(y.as_view(), y_at)];
    ends.extend(residual);
    ends.extend(pre.as_ref().map(|pre| (pre.as_view(), y_at)));
    let vectors = vectors([(x, x_at), (w, w_at)], &ends);
    if let Some(product) = hopper::forward(gpu, form, &(x, x_at), &(w, w_at))? {
        let args = args![
            y,
            pre,
            x = product.a,
            w = product.b,
            bias,
            residual = residual.map(|r| r.0),
            m = y_at.rows,
            k = x_at.cols,
            n = y_at.cols,
            ldy = y_at.stride,
            ld_residual = residual.map_or(0, |r| r.1.stride),
            gelu = gelu_word(gelu),
            vectors = vectors >> 1,
        ];
        // SAFETY: mod.rs and linear have checked that all matrices lie within their tensors; the maps are of x and w.
        return unsafe { gpu.launch(product.kernel, form, product.grid, &args) };
    }
    let tiles = Tiles::of(form, y_at.rows, y_at.cols);
    let kernel = if tiles.few_rows { &FORWARD_FEW_ROWS } else { &FORWARD };
    let args = args![
        y,
        pre,
        x,
        w,
        bias,
        residual = residual.map(|r| r.0),
        m = y_at.rows,
        k = x_at.cols,
        n = y_at.cols,
        ldy = y_at.stride,
        ldx = x_at.stride,
        ldw = w_at.stride,
        ld_residual = residual.map_or(0, |r| r.1.stride),
        gelu = gelu_word(gelu),
        vectors,
    ];
    // SAFETY: mod.rs and linear have checked that all matrices lie within their tensors.
    unsafe { gpu.launch(kernel, form, tiles.grid(1), &args) }
}

/// With `pre` (lies like dx) dx = (dy wᵀ) ∘ gelu'(pre).
pub fn backward_input(
    gpu: &Gpu,
    (dx, dx_at): (ViewMut, Layout),
    (dy, dy_at): (View, Layout),
    (w, w_at): (View, Layout),
    write: Write,
    pre: Option<(View, gelu::GeluForm)>,
) -> Result<()> {
    let form = dx.dtype().form("matmul", "dx")?;
    let (dx, dy, w) = (at_mut(dx, dx_at), at(dy, dy_at), at(w, w_at));
    if in_slices(form, dx_at.cols, dy_at.cols) && pre.is_none() {
        let kernel = &BACKWARD_INPUT_SLICES;
        return product_in_slices(gpu, kernel, (dx, dx_at), (dy, dy_at), (w, w_at), None, write);
    }
    let (pre, gelu) = pre.map(|(pre, form)| (at(pre, dx_at), form)).unzip();
    let mut ends = vec![(dx.as_view(), dx_at)];
    ends.extend(pre.map(|pre| (pre, dx_at)));
    let vectors = vectors([(dy, dy_at), (w, w_at)], &ends);
    if let Some(product) = hopper::backward_input(gpu, form, &(dy, dy_at), &(w, w_at))? {
        let args = args![
            dx,
            dy = product.a,
            w = product.b,
            residual = (write == Write::Add).then(|| dx.as_view()),
            pre,
            m = dx_at.rows,
            k = dx_at.cols,
            n = dy_at.cols,
            lddx = dx_at.stride,
            ld_residual = dx_at.stride,
            gelu = gelu_word(gelu),
            vectors = vectors >> 1,
        ];
        // SAFETY: mod.rs and linear have checked that all matrices lie within their tensors; the maps are of dy and w.
        return unsafe { gpu.launch(product.kernel, form, product.grid, &args) };
    }
    let tiles = Tiles::of(form, dx_at.rows, dx_at.cols);
    let kernel = if tiles.few_rows { &BACKWARD_INPUT_FEW_ROWS } else { &BACKWARD_INPUT };
    let args = args![
        dx,
        dy,
        w,
        residual = (write == Write::Add).then(|| dx.as_view()),
        pre,
        m = dx_at.rows,
        k = dx_at.cols,
        n = dy_at.cols,
        lddx = dx_at.stride,
        lddy = dy_at.stride,
        ldw = w_at.stride,
        ld_residual = dx_at.stride,
        gelu = gelu_word(gelu),
        vectors,
    ];
    // SAFETY: mod.rs and linear have checked that all matrices lie within their tensors.
    unsafe { gpu.launch(kernel, form, tiles.grid(1), &args) }
}

/// Whether [`product_in_slices`] computes a product of so many columns, each the sum of so many products.
fn in_slices(form: ElementType, cols: usize, sum: usize) -> bool {
    form == ElementType::F32 && cols <= FEW_COLUMNS && sum >= LONG_SUM
}

/// out = a b + bias or out += a b + bias, in f32, with b as `kernel` reads it. The views begin at the first elements of the matrices.
fn product_in_slices(
    gpu: &Gpu,
    kernel: &Kernel,
    (out, at): (ViewMut, Layout),
    (a, a_at): (View, Layout),
    (b, b_at): (View, Layout),
    bias: Option<View>,
    write: Write,
) -> Result<()> {
    let (rows, cols, sum) = (at.rows, at.cols, a_at.cols);
    let slices = sum.div_ceil(SUM_SLICE);
    let parts = gpu.scratch(slices * rows * cols)?;
    let (lda, ldb, depth, slice_len) = (a_at.stride, b_at.stride, SUM_SLICE, (rows * cols) as u64);
    // Scratch memory is aligned for everything.
    let vectors = u32::from(cols.is_multiple_of(4)) << 1;
    let args = args![parts, a, b, rows, cols, sum, lda, ldb, depth, slice_len, vectors];
    let grid = Tiles::of(ElementType::F32, rows, cols).grid(slices);
    // SAFETY: mod.rs and linear have checked that both matrices lie within their tensors; the scratch memory holds `slices`
    // matrices (rows, cols).
    unsafe { gpu.launch(kernel, ElementType::F32, grid, &args)? };
    add_slices(gpu, (out, at), parts, slices, bias, write)
}

/// out = the sum of matrices of its extents, one after the other in memory, and of a bias; or added to it.
fn add_slices(
    gpu: &Gpu,
    (out, at): (ViewMut, Layout),
    parts: ScratchBuffer,
    slices: usize,
    bias: Option<View>,
    write: Write,
) -> Result<()> {
    let (rows, cols, add) = (at.rows, at.cols, u32::from(write == Write::Add));
    let args = args![out, parts, bias, rows, cols, ld = at.stride, slices, add];
    // SAFETY: the callers have filled `slices` such matrices and checked the bias, and `out` holds one with rows `ld` apart.
    unsafe { gpu.launch(&ADD_SLICES, ElementType::F32, Grid::new((rows * cols).div_ceil(256), 256), &args) }
}

/// dw is f32 whatever the form of x and dy.
pub fn backward_weight_acc(
    gpu: &Gpu,
    (dw, dw_at): (ViewMut, Layout),
    (x, x_at): (View, Layout),
    (dy, dy_at): (View, Layout),
) -> Result<()> {
    let form = x.dtype().form("matmul", "x")?;
    let (m, k, n) = (x_at.rows, dw_at.rows, dw_at.cols);
    let tiles = Tiles::of(form, k, n);
    let kernel = if tiles.few_rows { &BACKWARD_WEIGHT_FEW_ROWS } else { &BACKWARD_WEIGHT };
    let wanted = (2 * ENOUGH_BLOCKS / tiles.count.max(1)).clamp(1, m.div_ceil(LEAST_DEPTH).max(1));
    let depth = m.div_ceil(wanted).next_multiple_of(DEPTH_STEP).max(DEPTH_STEP);
    let slices = m.div_ceil(depth);
    let (dw, x, dy) = (at_mut(dw, dw_at), at(x, x_at), at(dy, dy_at));
    let operands = [(x, x_at), (dy, dy_at)];
    let slice_len = (k * n) as u64;
    if slices <= 1 {
        let vectors = vectors(operands, &[(dw.as_view(), dw_at)]);
        let residual = dw.as_view();
        let (ld_out, ldx, lddy) = (dw_at.stride, x_at.stride, dy_at.stride);
        let args = args![out = dw, x, dy, residual, m, k, n, ld_out, ldx, lddy, depth, slice_len, vectors];
        // SAFETY: mod.rs has checked that all matrices lie within their tensors.
        return unsafe { gpu.launch(kernel, form, tiles.grid(slices), &args) };
    }
    let parts = gpu.scratch(slices * k * n)?;
    // Scratch memory is aligned for everything.
    let vectors = vectors(operands, &[]) & (u32::from(n.is_multiple_of(4)) << 1 | 1);
    let residual: Option<View> = None;
    let (ldx, lddy) = (x_at.stride, dy_at.stride);
    let args = args![out = parts, x, dy, residual, m, k, n, ld_out = n, ldx, lddy, depth, slice_len, vectors];
    // SAFETY: as above; the scratch memory holds `slices` matrices (K, N).
    unsafe { gpu.launch(kernel, form, tiles.grid(slices), &args)? };
    add_slices(gpu, (dw, dw_at), parts, slices, None, Write::Add)
}
