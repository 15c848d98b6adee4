//! The arguments of `attention`.

use crate::tensor::{View, ViewMut};
use std::ops::Range;

pub(super) const OP: &str = "attention";

/// Rows of C values inside wider rows: row t of image b is at `(b * tokens + t) * stride + offset`.
#[derive(Debug, Clone, Copy)]
pub struct PackedRows<'a> {
    pub data: View<'a>,
    pub tokens: usize,
    pub stride: usize,
    pub offset: usize,
}

impl<'a> PackedRows<'a> {
    /// The tensor from the first of these rows on.
    pub(super) fn first_row(&self) -> View<'a> {
        let left = self.data.len().saturating_sub(self.offset);
        self.data.part(self.offset.min(self.data.len()), [left])
    }
}

/// Where q, k and v lie: packed (B, T, 3C), or q apart as (B, Tq, C) and kv as (B, T, 2C).
#[derive(Debug, Clone, Copy)]
pub struct Qkv<'a> {
    pub q: PackedRows<'a>,
    pub k: PackedRows<'a>,
    pub v: PackedRows<'a>,
}

impl<'a> Qkv<'a> {
    /// qkv: (B, T, 3C).
    pub fn packed(qkv: View<'a>) -> Qkv<'a> {
        let (t, c) = (qkv.dims()[1], qkv.dims()[2] / 3);
        let rows = |i| PackedRows { data: qkv, tokens: t, stride: 3 * c, offset: i * c };
        Qkv { q: rows(0), k: rows(1), v: rows(2) }
    }

    /// q: (B, Tq, C), kv: (B, T, 2C).
    pub fn apart(q: View<'a>, kv: View<'a>) -> Qkv<'a> {
        let (t, c) = (kv.dims()[1], q.dims()[2]);
        let rows = |i| PackedRows { data: kv, tokens: t, stride: 2 * c, offset: i * c };
        Qkv { q: PackedRows { data: q, tokens: q.dims()[1], stride: c, offset: 0 }, k: rows(0), v: rows(1) }
    }
}

/// Keys and values in front of the projected ones. k, v: (B, n, C).
#[derive(Debug, Clone, Copy)]
pub struct Prefix<'a> {
    pub k: View<'a>,
    pub v: View<'a>,
}

/// Gradients of a [`Prefix`]. k, v: (B, n, C).
#[derive(Debug)]
pub struct PrefixMut<'a> {
    pub k: ViewMut<'a>,
    pub v: ViewMut<'a>,
}

/// Where the gradients of q, k and v go, in the layouts of [`Qkv`].
#[derive(Debug)]
pub enum GradientTarget<'a> {
    /// (B, n, 3C)
    Packed(ViewMut<'a>),
    /// q: (B, nq, C), kv: (B, n, 2C).
    Apart { q: ViewMut<'a>, kv: ViewMut<'a> },
}

/// Gradients to write; the rows that are not asked for are not computed.
#[derive(Debug)]
pub struct Gradients<'a> {
    pub into: GradientTarget<'a>,
    /// The rows of q, and of k and v, whose gradient is wanted, written in that order.
    pub q_rows: Range<usize>,
    pub kv_rows: Range<usize>,
}

/// What the backward pass writes.
#[derive(Debug)]
pub struct Wanted<'a> {
    pub gradients: Option<Gradients<'a>>,
    pub prefix: Option<PrefixMut<'a>>,
}

/// How many heads there are, and what their products are computed in.
#[derive(Debug, Clone, Copy)]
pub struct Heads {
    pub count: usize,
    /// Operands rounded to bf16, sums f32, where this CPU multiplies tiles of bf16 (AMX); elsewhere, and by default, products
    /// are of the type of the tensors.
    pub in_bf16: bool,
}

impl From<usize> for Heads {
    fn from(count: usize) -> Heads {
        Heads { count, in_bf16: false }
    }
}

/// B, H, D, and the extent of the prefix.
#[derive(Debug, Clone, Copy)]
pub(super) struct AttentionDims {
    pub batch: usize,
    pub heads: usize,
    pub head_dim: usize,
    pub prefix: usize,
    /// As in [`Heads`].
    pub in_bf16: bool,
}

impl AttentionDims {
    /// 1/√D, what products of queries and keys are multiplied with.
    pub fn scale(&self) -> f64 {
        1.0 / (self.head_dim as f64).sqrt()
    }
}
