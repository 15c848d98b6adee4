//! Attention on slices: one task per (image, head), the products through `matmul::cpu`.

use super::args::{AttentionDims, GradientTarget, Gradients, PackedRows, Prefix, Qkv, Wanted};
use crate::error::Result;
use crate::ops::float::{Float, Shared, simd, with_scratch};
use crate::ops::matmul::bf16::Arithmetic;
#[cfg(target_arch = "x86_64")]
use crate::ops::matmul::bf16::amx;
use crate::ops::matmul::cpu::{Strided, product};
use crate::ops::matmul::tile::cpu::prefetch;
use crate::ops::sum::cpu::{lanes, max_lanes, sum_lanes};
use crate::tensor::memory::LINE;
use crate::tensor::{DType, ViewMut};
use gemm_common::Parallelism;
use rayon::prelude::*;
use std::ops::Range;

/// One of q, k, v: values, rows per image, distance of rows, first column.
#[derive(Clone, Copy)]
struct HeadRows<'a, T> {
    data: &'a [T],
    tokens: usize,
    stride: usize,
    offset: usize,
}

impl<'a, T: Float> HeadRows<'a, T> {
    fn new(rows: PackedRows<'a>, arg: &'static str) -> Result<Self> {
        let PackedRows { data, tokens, stride, offset } = rows;
        Ok(HeadRows { data: data.get::<T>(super::args::OP, arg)?, tokens, stride, offset })
    }

    /// Where a row of one head of one image begins.
    #[inline(always)]
    fn start(&self, b: usize, h: usize, d: usize, row: usize) -> usize {
        (b * self.tokens + row) * self.stride + self.offset + h * d
    }

    /// Rows from `row` on, of one head of one image.
    fn head(&self, b: usize, h: usize, d: usize, row: usize) -> Strided<*const T> {
        let start = self.start(b, h, d, row);
        Strided { at: self.data[start..].as_ptr(), row_stride: self.stride, col_stride: 1 }
    }
}

pub struct Inputs<'a, T> {
    q: HeadRows<'a, T>,
    k: HeadRows<'a, T>,
    v: HeadRows<'a, T>,
    /// Keys and values in front; (B, n, C) each.
    prefix: Option<(HeadRows<'a, T>, HeadRows<'a, T>)>,
    e: AttentionDims,
    /// Products are computed in tiles of bf16.
    in_tiles: bool,
}

impl<'a, T: Float> Inputs<'a, T> {
    pub fn new(qkv: &Qkv<'a>, prefix: Option<&Prefix<'a>>, e: AttentionDims) -> Result<Self> {
        let c = e.heads * e.head_dim;
        let dense =
            |data, arg| HeadRows::new(PackedRows { data, tokens: e.prefix, stride: c, offset: 0 }, arg);
        let prefix = match prefix {
            Some(p) if e.prefix > 0 => Some((dense(p.k, "prefix.k")?, dense(p.v, "prefix.v")?)),
            _ => None,
        };
        Ok(Inputs {
            q: HeadRows::new(qkv.q, "q")?,
            k: HeadRows::new(qkv.k, "k")?,
            v: HeadRows::new(qkv.v, "v")?,
            prefix,
            e,
            in_tiles: e.in_bf16 && T::DTYPE == DType::F32 && Arithmetic::of_process()? == Arithmetic::Amx,
        })
    }

    /// dst (m, n) = scale lhs (m, k) rhs (k, n), or dst += with `add`, on the calling thread.
    ///
    /// # Safety
    /// That of `matmul::cpu::product`.
    unsafe fn product(
        &self,
        extents: (usize, usize, usize),
        dst: Strided<*mut T>,
        lhs: Strided<*const T>,
        rhs: Strided<*const T>,
        scale: T,
        add: bool,
    ) {
        #[cfg(target_arch = "x86_64")]
        if self.in_tiles {
            let [lhs, rhs] = [lhs, rhs].map(|side| side.map(<*const T>::cast));
            let (dst, scale) = (dst.map(<*mut T>::cast), scale.to_f64() as f32);
            // SAFETY: the caller's promise; `in_tiles` says that T is f32 and that this machine has AMX.
            return unsafe { amx::strided::cpu::product(extents, dst, lhs, rhs, scale, add) };
        }
        // SAFETY: the caller's promise.
        unsafe { product(extents, dst, lhs, rhs, scale, add, Parallelism::None) }
    }

    fn scale(&self) -> T {
        T::of(self.e.scale())
    }

    /// Brings row `row` of q, k and v of the head after this one near, which the next task will ask for.
    #[inline(always)]
    fn prefetch_next(&self, task: usize, row: usize) {
        let (d, b, h) = (self.e.head_dim, (task + 1) / self.e.heads, (task + 1) % self.e.heads);
        for side in [&self.q, &self.k, &self.v] {
            let row = side.data.as_ptr().wrapping_add(side.start(b, h, d, row));
            for column in (0..d).step_by(LINE / size_of::<T>()) {
                prefetch(row.wrapping_add(column));
            }
        }
    }

    /// Number of keys, the prefix included.
    fn keys(&self) -> usize {
        self.e.prefix + self.k.tokens
    }

    /// Distance of two rows of scores: whole vectors, so that no loop over a row has a rest.
    fn stride(&self) -> usize {
        self.keys().next_multiple_of(16)
    }

    fn tasks(&self) -> usize {
        self.e.batch * self.e.heads
    }

    /// out (Tq, keys) = scale · q (Tq, D) [prefix; rows]ᵀ for rows = k, or with q := dout for rows = v.
    /// The elements between the rows of `out` are made 0.
    fn scores(&self, out: &mut [T], q: Strided<*const T>, b: usize, h: usize, of_values: bool, scale: T) {
        let (d, n, stride) = (self.e.head_dim, self.e.prefix, self.stride());
        out.chunks_exact_mut(stride).for_each(|row| row[self.keys()..].fill(T::ZERO));
        let side = if of_values { &self.v } else { &self.k };
        if let Some((pk, pv)) = &self.prefix {
            let rows = transposed(if of_values { pv } else { pk }.head(b, h, d, 0));
            // SAFETY: all rows lie within their slices (checked in mod.rs); `out` is this task's own.
            unsafe { self.product((self.q.tokens, n, d), whole(out, stride), q, rows, scale, false) };
        }
        let rows = transposed(side.head(b, h, d, 0));
        let right = whole(&mut out[n..], stride);
        // SAFETY: as above.
        unsafe { self.product((self.q.tokens, side.tokens, d), right, q, rows, scale, false) };
    }
}

fn whole<T>(s: &mut [T], stride: usize) -> Strided<*mut T> {
    Strided { at: s.as_mut_ptr(), row_stride: stride, col_stride: 1 }
}

fn read<T>(s: &[T], stride: usize) -> Strided<*const T> {
    Strided { at: s.as_ptr(), row_stride: stride, col_stride: 1 }
}

fn transposed<P>(m: Strided<P>) -> Strided<P> {
    Strided { row_stride: m.col_stride, col_stride: m.row_stride, ..m }
}

pub fn forward<T: Float>(out: &mut [T], lse: &mut [T], inputs: &Inputs<T>) {
    let e = inputs.e;
    let (d, tq, stride) = (e.head_dim, inputs.q.tokens, inputs.stride());
    let c = e.heads * d;
    let out = Shared(out.as_mut_ptr());
    lse.par_chunks_mut(tq).enumerate().for_each(|(task, lse)| {
        let (b, h) = (task / e.heads, task % e.heads);
        with_scratch(tq * stride, |p: &mut [T]| {
            inputs.scores(p, inputs.q.head(b, h, d, 0), b, h, false, inputs.scale());
            simd(
                #[inline(always)]
                || softmax_rows(p, lse, inputs, stride, task),
            );
            // SAFETY: this task alone writes the columns of head h of image b; rows lie within `out`.
            let dst = Strided { at: unsafe { out.at(b * tq * c + h * d) }, row_stride: c, col_stride: 1 };
            let mut add = false;
            if let Some((_, pv)) = &inputs.prefix {
                // SAFETY: as above; the prefix has e.prefix rows per image.
                unsafe {
                    inputs.product(
                        (tq, d, e.prefix),
                        dst,
                        read(p, stride),
                        pv.head(b, h, d, 0),
                        T::ONE,
                        false,
                    )
                };
                add = true;
            }
            let (rest, v) = (read(&p[e.prefix..], stride), inputs.v.head(b, h, d, 0));
            // SAFETY: as above.
            unsafe { inputs.product((tq, d, inputs.v.tokens), dst, rest, v, T::ONE, add) };
        });
    });
}

/// Rows that softmax takes together, pass by pass, so that the chains of additions of one do not hold up the
/// others.
const ABREAST: usize = 8;

#[inline(always)]
fn softmax_rows<T: Float>(p: &mut [T], lse: &mut [T], inputs: &Inputs<T>, stride: usize, task: usize) {
    let keys = inputs.keys();
    for (block, (p, lse)) in p.chunks_mut(ABREAST * stride).zip(lse.chunks_mut(ABREAST)).enumerate() {
        let (mut max, mut sum) = ([T::ZERO; ABREAST], [T::ZERO; ABREAST]);
        for (max, p) in max.iter_mut().zip(p.chunks_exact(stride)) {
            *max = max_lanes(&p[..keys]);
        }
        for (row, (&max, p)) in max.iter().zip(p.chunks_exact_mut(stride)).enumerate() {
            inputs.prefetch_next(task, block * ABREAST + row);
            p.iter_mut().for_each(|x| *x = (*x - max).exp());
        }
        for (sum, p) in sum.iter_mut().zip(p.chunks_exact(stride)) {
            *sum = sum_lanes(&p[..keys]);
        }
        for ((&sum, &max), (p, lse)) in sum.iter().zip(&max).zip(p.chunks_exact_mut(stride).zip(lse)) {
            let inverse = T::ONE / sum;
            p.iter_mut().for_each(|x| *x *= inverse);
            *lse = max + sum.ln();
        }
    }
}

/// Where the tasks write one of dq, dk, dv.
#[derive(Clone, Copy)]
struct Target<T> {
    data: Shared<T>,
    tokens: usize,
    stride: usize,
    offset: usize,
}

impl<T: Float> Target<T> {
    fn new(data: ViewMut, arg: &'static str, tokens: usize, stride: usize) -> Result<Self> {
        Ok(Target {
            data: Shared(data.get::<T>(super::args::OP, arg)?.as_mut_ptr()),
            tokens,
            stride,
            offset: 0,
        })
    }

    fn at_column(self, offset: usize) -> Self {
        Target { offset, ..self }
    }

    /// # Safety
    /// The task owns head `h` of image `b`.
    unsafe fn head(&self, b: usize, h: usize, d: usize) -> Strided<*mut T> {
        let start = b * self.tokens * self.stride + self.offset + h * d;
        // SAFETY: the caller's promise; mod.rs has checked the extents.
        Strided { at: unsafe { self.data.at(start) }, row_stride: self.stride, col_stride: 1 }
    }
}

struct Targets<T> {
    q: Target<T>,
    k: Target<T>,
    v: Target<T>,
    q_rows: Range<usize>,
    kv_rows: Range<usize>,
}

pub fn backward_input<T: Float>(wanted: Wanted, dout: &[T], lse: &[T], inputs: &Inputs<T>) -> Result<()> {
    let e = inputs.e;
    let (d, n, tq, stride) = (e.head_dim, e.prefix, inputs.q.tokens, inputs.stride());
    let c = e.heads * d;
    let targets = match wanted.gradients {
        None => None,
        Some(Gradients { into, q_rows, kv_rows }) => {
            let rows = kv_rows.len();
            let (q, k, v) = match into {
                GradientTarget::Packed(dqkv) => {
                    let all = Target::new(dqkv, "dqkv", rows, 3 * c)?;
                    (all, all.at_column(c), all.at_column(2 * c))
                }
                GradientTarget::Apart { q, kv } => {
                    let kv = Target::new(kv, "dkv", rows, 2 * c)?;
                    (Target::new(q, "dq", q_rows.len(), c)?, kv, kv.at_column(c))
                }
            };
            Some(Targets { q, k, v, q_rows, kv_rows })
        }
    };
    let dprefix = match wanted.prefix {
        Some(p) if n > 0 => {
            Some((Target::<T>::new(p.k, "dprefix.k", n, c)?, Target::<T>::new(p.v, "dprefix.v", n, c)?))
        }
        _ => None,
    };
    let dout = HeadRows { data: dout, tokens: tq, stride: c, offset: 0 };
    (0..inputs.tasks()).into_par_iter().for_each(|task| {
        let (b, h) = (task / e.heads, task % e.heads);
        let (q, dout) = (inputs.q.head(b, h, d, 0), dout.head(b, h, d, 0));
        with_scratch(2 * tq * stride, |scratch: &mut [T]| {
            let (p, ds) = scratch.split_at_mut(tq * stride);
            inputs.scores(p, q, b, h, false, inputs.scale());
            inputs.scores(ds, dout, b, h, true, T::ONE);
            simd(
                #[inline(always)]
                || dscore_rows(p, ds, &lse[task * tq..][..tq], inputs, stride, task),
            );
            if let Some(t) = &targets {
                let (first, rows) = (t.q_rows.start, t.q_rows.len());
                let ds_rows = &ds[(first * stride).min(ds.len())..];
                let (kv, m) = (t.kv_rows.start, t.kv_rows.len());
                // SAFETY (all products below): this task owns head h of image b in every target; the
                // sources lie within their slices (checked in mod.rs).
                unsafe {
                    let dq = t.q.head(b, h, d);
                    let mut add = false;
                    if let Some((pk, _)) = &inputs.prefix {
                        let pk = pk.head(b, h, d, 0);
                        inputs.product((rows, d, n), dq, read(ds_rows, stride), pk, T::ONE, false);
                        add = true;
                    }
                    let (rest, k) =
                        (read(&ds_rows[n.min(ds_rows.len())..], stride), inputs.k.head(b, h, d, 0));
                    inputs.product((rows, d, inputs.k.tokens), dq, rest, k, T::ONE, add);
                    if m > 0 {
                        let ds_cols = transposed(read(&ds[n + kv..], stride));
                        inputs.product((m, d, tq), t.k.head(b, h, d), ds_cols, q, T::ONE, false);
                        let p_cols = transposed(read(&p[n + kv..], stride));
                        inputs.product((m, d, tq), t.v.head(b, h, d), p_cols, dout, T::ONE, false);
                    }
                }
            }
            if let Some((dpk, dpv)) = &dprefix {
                // SAFETY: as above.
                unsafe {
                    let (ds, p) = (transposed(read(ds, stride)), transposed(read(p, stride)));
                    inputs.product((n, d, tq), dpk.head(b, h, d), ds, q, T::ONE, false);
                    inputs.product((n, d, tq), dpv.head(b, h, d), p, dout, T::ONE, false);
                }
            }
        });
    });
    Ok(())
}

/// p: scores to probabilities; ds: dP to dS, times the scale of the scores.
#[inline(always)]
fn dscore_rows<T: Float>(
    p: &mut [T],
    ds: &mut [T],
    lse: &[T],
    inputs: &Inputs<T>,
    stride: usize,
    task: usize,
) {
    let (keys, scale, block) = (inputs.keys(), inputs.scale(), ABREAST * stride);
    for (i, ((p, ds), lse)) in
        p.chunks_mut(block).zip(ds.chunks_mut(block)).zip(lse.chunks(ABREAST)).enumerate()
    {
        for (row, (p, &lse)) in p.chunks_exact_mut(stride).zip(lse).enumerate() {
            inputs.prefetch_next(task, i * ABREAST + row);
            p.iter_mut().for_each(|x| *x = (*x - lse).exp());
        }
        let mut mean = [T::ZERO; ABREAST];
        for (mean, (p, ds)) in mean.iter_mut().zip(p.chunks_exact(stride).zip(ds.chunks_exact(stride))) {
            *mean = lanes(
                [&p[..keys], &ds[..keys]],
                #[inline(always)]
                |[p, ds]| p * ds,
            );
        }
        for (&mean, (p, ds)) in mean.iter().zip(p.chunks_exact(stride).zip(ds.chunks_exact_mut(stride))) {
            ds.iter_mut().zip(p).for_each(|(ds, &p)| *ds = p * (*ds - mean) * scale);
        }
    }
}
