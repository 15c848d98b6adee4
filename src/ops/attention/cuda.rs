//! Launches of `kernels/attention.cu`, `kernels/attention_hopper.cu` and `kernels/attention_hopper_backward.cu`.

use super::args::{AttentionDims, GradientTarget, Gradients, OP, Prefix, PrefixMut, Qkv, Wanted};
use super::hopper;
use crate::device::{Arg, Argument, Cell, ElementType, Gpu, Grid, Kernel, ScratchBuffer, args, kernel};
use crate::error::{Error, Result};
use crate::tensor::{View, ViewMut};

const FORWARD: Kernel = kernel!("attention", "attention_forward", [
    out: *T, lse: *f32, q: *T, k: *T, v: *T, prefix_k: *T, prefix_v: *T, heads: u32, head_dim: u32, tq: u32,
    tk: u32, prefix: u32, q_stride: u32, kv_stride: u32, scale: f32, vectors: u32,
]);
const BACKWARD_DELTA: Kernel = kernel!("attention", "attention_backward_delta", [
    delta: *f32, dout: *T, lse: *f32, q: *T, k: *T, v: *T, prefix_k: *T, prefix_v: *T, heads: u32,
    head_dim: u32, tq: u32, tk: u32, prefix: u32, q_stride: u32, kv_stride: u32, scale: f32, vectors: u32,
]);
const BACKWARD_Q: Kernel = kernel!("attention", "attention_backward_q", [
    dq: *T, delta: *f32, dout: *T, lse: *f32, q: *T, k: *T, v: *T, prefix_k: *T, prefix_v: *T, heads: u32,
    head_dim: u32, tq: u32, tk: u32, prefix: u32, q_stride: u32, kv_stride: u32, scale: f32,
    first_row: u32, count: u32, dq_stride: u32, vectors: u32,
]);
const BACKWARD_KV: Kernel = kernel!("attention", "attention_backward_kv", [
    dk: *T, dv: *T, delta: *f32, dout: *T, lse: *f32, q: *T, k: *T, v: *T, prefix_k: *T, prefix_v: *T,
    heads: u32, head_dim: u32, tq: u32, tk: u32, prefix: u32, q_stride: u32, kv_stride: u32, scale: f32,
    first_row: u32, count: u32, dkv_stride: u32, vectors: u32,
]);

/// The widest head that the kernels hold.
const WIDEST: usize = 128;

/// A pass and the three widths that it was compiled for.
struct Pass {
    narrow: Kernel,
    usual: Kernel,
    wide: Kernel,
    /// Tiles of 128 rows that a block keeps: q, or what stands for it.
    kept: usize,
    /// Bytes per row of the tiles that pass by.
    per_row: usize,
}

const FORWARD_PASS: Pass = Pass {
    narrow: Kernel { name: "attention_forward_narrow", ..FORWARD },
    usual: FORWARD,
    wide: Kernel { name: "attention_forward_wide", ..FORWARD },
    kept: 1,
    per_row: 0,
};
const DELTA_PASS: Pass = Pass {
    narrow: Kernel { name: "attention_backward_delta_narrow", ..BACKWARD_DELTA },
    usual: BACKWARD_DELTA,
    wide: Kernel { name: "attention_backward_delta_wide", ..BACKWARD_DELTA },
    kept: 2,
    per_row: 16,
};
const Q_PASS: Pass = Pass {
    narrow: Kernel { name: "attention_backward_q_narrow", ..BACKWARD_Q },
    usual: BACKWARD_Q,
    wide: Kernel { name: "attention_backward_q_wide", ..BACKWARD_Q },
    kept: 2,
    per_row: 16,
};
const KV_PASS: Pass = Pass {
    narrow: Kernel { name: "attention_backward_kv_narrow", ..BACKWARD_KV },
    usual: BACKWARD_KV,
    wide: Kernel { name: "attention_backward_kv_wide", ..BACKWARD_KV },
    kept: 2,
    per_row: 16,
};

impl Pass {
    /// The kernel for this head width, and the grid for so many rows of each head of each image.
    fn choose(&self, form: ElementType, e: AttentionDims, rows: usize) -> (&Kernel, Grid) {
        let units = e.batch * e.heads;
        if form == ElementType::F32 {
            return (&self.usual, Grid::new(units * rows.div_ceil(8), 256));
        }
        let (kernel, width, step, threads) = match e.head_dim {
            ..=32 => (&self.narrow, 32, 64, 128),
            33..=64 => (&self.usual, 64, 64, 128),
            _ => (&self.wide, 128, 32, 256),
        };
        let smem = 2 * width * (128 * self.kept + 4 * step) + self.per_row * step;
        (kernel, Grid::new(units * rows.div_ceil(128), threads).smem(smem))
    }
}

/// What all kernels read, as they take it.
struct DeviceInputs {
    form: ElementType,
    extents: AttentionDims,
    tq: usize,
    rows: [Arg; 5],
    numbers: [Arg; 8],
    vectors: bool,
}

/// Whether rows of heads can be moved by 16 bytes.
fn aligned(tensor: &impl Argument, form: ElementType, stride: usize) -> bool {
    let group = if form == ElementType::F32 { 4 } else { 8 };
    match tensor.argument().1 {
        Cell::Pointer(address) => address.is_multiple_of(16) && stride.is_multiple_of(group),
        _ => false,
    }
}

impl DeviceInputs {
    fn new(qkv: &Qkv, prefix: Option<&Prefix>, e: AttentionDims) -> Result<DeviceInputs> {
        if e.head_dim > WIDEST {
            let wanted = format!("heads of at most {WIDEST} channels on a GPU");
            return Err(Error::Shape { op: OP, arg: "heads", wanted, got: e.head_dim.to_string() });
        }
        if qkv.k.stride != qkv.v.stride || qkv.k.tokens != qkv.v.tokens {
            let got = format!("{:?}", qkv.v);
            return Err(Error::Shape { op: OP, arg: "v", wanted: "rows as those of k".into(), got });
        }
        let form = qkv.q.data.dtype().form(OP, "q")?;
        let (q, k, v) = (qkv.q.first_row(), qkv.k.first_row(), qkv.v.first_row());
        let prefix = prefix.filter(|_| e.prefix > 0);
        let (prefix_k, prefix_v) = prefix.map(|p| (p.k, p.v)).unzip();
        let (heads, head_dim, tq, tk) = (e.heads, e.head_dim, qkv.q.tokens, qkv.k.tokens);
        let (q_stride, kv_stride) = (qkv.q.stride, qkv.k.stride);
        let c = heads * head_dim;
        let vectors = aligned(&q, form, q_stride)
            && [k, v].iter().all(|t| aligned(t, form, kv_stride))
            && [prefix_k, prefix_v].iter().flatten().all(|t| aligned(t, form, c))
            && head_dim.is_multiple_of(8);
        let scale = e.scale() as f32;
        Ok(DeviceInputs {
            form,
            extents: e,
            tq,
            rows: args![q, k, v, prefix_k, prefix_v],
            numbers: args![heads, head_dim, tq, tk, prefix = e.prefix, q_stride, kv_stride, scale],
            vectors,
        })
    }

    /// # Safety
    /// The tensors among `first` have the extents that the pass writes, and `rows` are there.
    unsafe fn launch(&self, gpu: &Gpu, pass: &Pass, first: &[Arg], rows: usize, last: &[Arg]) -> Result<()> {
        let (kernel, grid) = pass.choose(self.form, self.extents, rows);
        let args = [first, &self.rows, &self.numbers, last].concat();
        // SAFETY: mod.rs has checked that all inputs lie within their tensors; the rest is promised.
        unsafe { gpu.launch(kernel, self.form, grid, &args) }
    }
}

pub fn forward(
    gpu: &Gpu,
    out: ViewMut,
    lse: ViewMut,
    qkv: &Qkv,
    prefix: Option<&Prefix>,
    e: AttentionDims,
) -> Result<()> {
    let inputs = DeviceInputs::new(qkv, prefix, e)?;
    let vectors = u32::from(inputs.vectors && aligned(&out, inputs.form, e.heads * e.head_dim));
    if let Some(pass) = (hopper::Inputs { gpu, form: inputs.form, qkv, e }).forward()? {
        let args = args![
            out,
            lse,
            q = pass.q,
            k = pass.k,
            v = pass.v,
            heads = e.heads,
            tq = inputs.tq,
            tk = qkv.k.tokens,
            units = pass.units,
            scale = e.scale() as f32,
            vectors,
        ];
        // SAFETY: mod.rs has checked out (B, Tq, C) and lse (B, H, Tq), and that q, k and v, which the maps are of, lie
        // within their tensors.
        return unsafe { gpu.launch(pass.kernel, inputs.form, pass.grid, &args) };
    }
    // SAFETY: mod.rs has checked out (B, Tq, C) and lse (B, H, Tq).
    unsafe { inputs.launch(gpu, &FORWARD_PASS, &args![out, lse], inputs.tq, &args![vectors]) }
}

/// What the parts of the backward pass share.
struct Backward<'a> {
    gpu: &'a Gpu,
    inputs: DeviceInputs,
    on_hopper: hopper::Inputs<'a>,
    delta: ScratchBuffer,
    dout: View<'a>,
    lse: View<'a>,
}

/// Rows of a gradient that are asked for.
struct RowRange {
    first_row: usize,
    count: usize,
    /// Elements between them in the gradient.
    stride: usize,
}

impl Backward<'_> {
    fn vectors(&self, tensors: &[&ViewMut], stride: usize) -> u32 {
        let form = self.inputs.form;
        u32::from(self.inputs.vectors && tensors.iter().all(|t| aligned(*t, form, stride)))
    }

    /// delta of all queries.
    fn only_delta(&self) -> Result<()> {
        let Backward { gpu, inputs, delta, dout, lse, .. } = self;
        let first = args![delta = *delta, dout = *dout, lse = *lse];
        let vectors = u32::from(inputs.vectors);
        // SAFETY: delta has a number for each query of each head; mod.rs has checked dout and lse.
        unsafe { inputs.launch(gpu, &DELTA_PASS, &first, inputs.tq, &args![vectors]) }
    }

    /// delta of all queries, and dq of those that are asked for.
    ///
    /// # Safety
    /// dq has these rows per image.
    unsafe fn queries(&self, dq: ViewMut, rows: RowRange) -> Result<()> {
        let Backward { gpu, inputs, on_hopper, delta, dout, lse } = self;
        let RowRange { first_row, count, stride } = rows;
        let vectors = self.vectors(&[&dq], stride);
        let last = args![first_row, count, dq_stride = stride, vectors];
        if let Some(hopper::BackwardPass { pass, dout }) = on_hopper.backward_queries(*dout)? {
            let first = args![dq, delta = *delta, lse = *lse, q = pass.q, k = pass.k, v = pass.v, dout];
            let numbers = args![
                heads = inputs.extents.heads,
                tq = inputs.tq,
                tk = on_hopper.qkv.k.tokens,
                units = pass.units,
                scale = inputs.extents.scale() as f32,
            ];
            let args = [&first[..], &numbers, &last].concat();
            // SAFETY: delta has a number for each query of each head; mod.rs has checked lse and what the maps are of; the
            // rest is promised.
            return unsafe { gpu.launch(pass.kernel, inputs.form, pass.grid, &args) };
        }
        self.only_delta()?;
        let first = args![dq, delta = *delta, dout = *dout, lse = *lse];
        // SAFETY: the caller's promise.
        unsafe { inputs.launch(gpu, &Q_PASS, &first, count, &last) }
    }

    /// `to`: dk and dv. Keys are counted with the prefix. delta is there.
    ///
    /// # Safety
    /// Both have these rows per image.
    unsafe fn keys(&self, to: &[Arg], vectors: u32, rows: RowRange) -> Result<()> {
        let Backward { gpu, inputs, on_hopper, delta, dout, lse } = self;
        let RowRange { first_row, count, stride } = rows;
        let last = args![first_row, count, dkv_stride = stride, vectors];
        if let Some(hopper::BackwardPass { pass, dout }) = on_hopper.backward_keys(*dout)? {
            let first = args![delta = *delta, lse = *lse, q = pass.q, k = pass.k, v = pass.v, dout];
            let numbers = args![
                heads = inputs.extents.heads,
                tq = inputs.tq,
                units = pass.units,
                scale = inputs.extents.scale() as f32,
            ];
            let args = [to, &first, &numbers, &last].concat();
            // SAFETY: mod.rs has checked lse and what the maps are of; the rest is promised.
            return unsafe { gpu.launch(pass.kernel, inputs.form, pass.grid, &args) };
        }
        let first = [to, &args![delta = *delta, dout = *dout, lse = *lse]].concat();
        // SAFETY: the caller's promise.
        unsafe { inputs.launch(gpu, &KV_PASS, &first, count, &last) }
    }
}

pub fn backward_input(
    gpu: &Gpu,
    wanted: Wanted,
    dout: View,
    lse: View,
    qkv: &Qkv,
    prefix: Option<&Prefix>,
    e: AttentionDims,
) -> Result<()> {
    let mut inputs = DeviceInputs::new(qkv, prefix, e)?;
    let c = e.heads * e.head_dim;
    inputs.vectors &= aligned(&dout, inputs.form, c);
    let delta = gpu.scratch(e.batch * e.heads * inputs.tq)?;
    let on_hopper = hopper::Inputs { gpu, form: inputs.form, qkv, e };
    let backward = Backward { gpu, inputs, on_hopper, delta, dout, lse };
    if let Some(Gradients { into, q_rows, kv_rows }) = wanted.gradients {
        let (first_key, n) = (e.prefix + kv_rows.start, kv_rows.len());
        let of_q = |stride| RowRange { first_row: q_rows.start, count: q_rows.len(), stride };
        // dk and dv are the last two of the `wide` groups of C columns.
        let (dkv, wide) = match into {
            GradientTarget::Packed(mut dqkv) => {
                // SAFETY: mod.rs has checked dqkv (B, n, 3C) and that n rows of q are asked for.
                unsafe { backward.queries(dqkv.reborrow(), of_q(3 * c))? };
                (dqkv, 3)
            }
            GradientTarget::Apart { q, kv } => {
                // SAFETY: mod.rs has checked dq (B, nq, C).
                unsafe { backward.queries(q, of_q(c))? };
                (kv, 2)
            }
        };
        if n > 0 {
            let vectors = backward.vectors(&[&dkv], c);
            // Two views of one tensor that is borrowed mutably: they only say where it lies.
            let group = |i| dkv.as_view().part(i * c, [dkv.len() - (wide - 1) * c]);
            let to = args![dk = group(wide - 2), dv = group(wide - 1)];
            let rows = RowRange { first_row: first_key, count: n, stride: wide * c };
            // SAFETY: mod.rs has checked dkv (B, n, wide C).
            unsafe { backward.keys(&to, vectors, rows)? };
        }
    } else {
        backward.only_delta()?;
    }
    if let Some(PrefixMut { k: dk, v: dv }) = wanted.prefix {
        let vectors = backward.vectors(&[&dk, &dv], c);
        let rows = RowRange { first_row: 0, count: e.prefix, stride: c };
        // SAFETY: mod.rs has checked both (B, prefix, C).
        unsafe { backward.keys(&args![dk, dv], vectors, rows)? };
    }
    Ok(())
}
