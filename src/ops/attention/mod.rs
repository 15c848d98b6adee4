//! Multi-head attention: out = softmax(q kᵀ / √D) v per head, with optional prefix rows in front of
//! k and v. Source: Vaswani et al. 2017, arXiv:1706.03762; prefixes: Li & Liang 2021,
//! arXiv:2101.00190, as DualPrompt (arXiv:2204.04799) uses them.
//!
//! Shapes: B batch, H heads, D head width, C = H·D; queries and keys may have different numbers of
//! rows, so that a last layer can ask for the rows it reads only. `lse` (B, H, Tq) keeps the
//! logarithm of each softmax denominator; the backward pass computes the probabilities again.

mod args;
mod cpu;
mod cuda;
pub mod hopper;

pub use args::{GradientTarget, Gradients, Heads, PackedRows, Prefix, PrefixMut, Qkv, Wanted};

use crate::device::{Device, range};
use crate::error::{Error, Result};
use crate::tensor::{View, ViewMut, expect_shape};
use args::{AttentionDims, OP};

fn bad(arg: &'static str, wanted: String, got: String) -> Error {
    Error::Shape { op: OP, arg, wanted, got }
}

fn extents(
    qkv: &Qkv,
    prefix: Option<&Prefix>,
    batch: usize,
    channels: usize,
    Heads { count: heads, in_bf16 }: Heads,
) -> Result<AttentionDims> {
    if heads == 0 || !channels.is_multiple_of(heads) {
        return Err(bad("heads", format!("a divisor of {channels}"), heads.to_string()));
    }
    for (arg, rows) in [("q", &qkv.q), ("k", &qkv.k), ("v", &qkv.v)] {
        if rows.data.len() != batch * rows.tokens * rows.stride || rows.offset + channels > rows.stride {
            return Err(bad(arg, format!("{batch} images of {channels} channels"), format!("{rows:?}")));
        }
    }
    let mut n = 0;
    if let Some(prefix) = prefix {
        n = prefix.k.dims()[1];
        expect_shape(OP, "prefix.k", prefix.k.shape(), [batch, n, channels])?;
        expect_shape(OP, "prefix.v", prefix.v.shape(), [batch, n, channels])?;
    }
    Ok(AttentionDims { batch, heads, head_dim: channels / heads, prefix: n, in_bf16 })
}

/// Overwrites `out` (B, Tq, C) and `lse` (B, H, Tq).
pub fn forward(
    dev: &Device,
    out: ViewMut,
    lse: ViewMut,
    qkv: &Qkv,
    prefix: Option<&Prefix>,
    heads: impl Into<Heads>,
) -> Result<()> {
    let (batch, tq, c) = (out.dims()[0], out.dims()[1], out.dims()[2]);
    let e = extents(qkv, prefix, batch, c, heads.into())?;
    expect_shape(OP, "out", out.shape(), [batch, qkv.q.tokens, c])?;
    expect_shape(OP, "lse", lse.shape(), [batch, e.heads, tq])?;
    let _op = range(c"attention");
    match dev {
        Device::Cpu => float!("attention", "out", out.dtype(), T => {
            let (out, lse) = (out.get::<T>(OP, "out")?, lse.get::<T>(OP, "lse")?);
            cpu::forward(out, lse, &cpu::Inputs::new(qkv, prefix, e)?);
            Ok(())
        }),
        Device::Cuda(gpu) => cuda::forward(gpu, out, lse, qkv, prefix, e),
    }
}

/// Overwrites what is wanted: the gradients of q, k and v, of the prefix, or both. dout: (B, Tq, C).
///
/// With P = softmax(S), dP = dout vᵀ: dS = P ∘ (dP - Σ P dP), dq = dS k / √D, dk = dSᵀ q / √D,
/// dv = Pᵀ dout.
pub fn backward_input(
    dev: &Device,
    wanted: Wanted,
    dout: View,
    lse: View,
    qkv: &Qkv,
    prefix: Option<&Prefix>,
    heads: impl Into<Heads>,
) -> Result<()> {
    let (batch, tq, c) = (dout.dims()[0], dout.dims()[1], dout.dims()[2]);
    let e = extents(qkv, prefix, batch, c, heads.into())?;
    expect_shape(OP, "dout", dout.shape(), [batch, qkv.q.tokens, c])?;
    expect_shape(OP, "lse", lse.shape(), [batch, e.heads, tq])?;
    if let Some(g) = &wanted.gradients {
        for (arg, rows, of) in [("q_rows", &g.q_rows, tq), ("kv_rows", &g.kv_rows, qkv.k.tokens)] {
            if rows.start > rows.end || rows.end > of {
                return Err(bad(arg, format!("within {of} rows"), format!("{rows:?}")));
            }
        }
        let (nq, n) = (g.q_rows.len(), g.kv_rows.len());
        match &g.into {
            GradientTarget::Packed(dqkv) if nq != n => {
                return Err(bad(
                    "into",
                    format!("{nq} query rows apart"),
                    format!("packed {:?}", dqkv.shape()),
                ));
            }
            GradientTarget::Packed(dqkv) => expect_shape(OP, "dqkv", dqkv.shape(), [batch, n, 3 * c])?,
            GradientTarget::Apart { q, kv } => {
                expect_shape(OP, "dq", q.shape(), [batch, nq, c])?;
                expect_shape(OP, "dkv", kv.shape(), [batch, n, 2 * c])?;
            }
        }
    }
    if let Some(d) = &wanted.prefix {
        expect_shape(OP, "dprefix.k", d.k.shape(), [batch, e.prefix, c])?;
        expect_shape(OP, "dprefix.v", d.v.shape(), [batch, e.prefix, c])?;
    }
    let _op = range(c"attention, backward");
    match dev {
        Device::Cpu => float!("attention", "dout", dout.dtype(), T => {
            let inputs = cpu::Inputs::<T>::new(qkv, prefix, e)?;
            let (dout, lse) = (dout.get::<T>(OP, "dout")?, lse.get::<T>(OP, "lse")?);
            cpu::backward_input(wanted, dout, lse, &inputs)
        }),
        Device::Cuda(gpu) => cuda::backward_input(gpu, wanted, dout, lse, qkv, prefix, e),
    }
}
