//! The pre-norm transformer block: x + attention(LN(x)), then + MLP(LN(·)).
//! Source: Dosovitskiy et al. 2021, arXiv:2010.11929, equations 2 and 3.

use super::adapter::{Adapter, AdapterActs, AdapterDims, AdapterTemp};
use super::layers::{LayerNorm, Linear};
use super::params::{Declare, Grads, ParamId, Params};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::ops::attention::{self, GradientTarget, Gradients, Heads, Prefix, PrefixMut, Qkv, Wanted};
use crate::ops::linear::Epilogue;
use crate::ops::matmul::Write;
use crate::ops::{gelu, tokens};
use crate::tensor::plan::Plan;
use crate::tensor::{DType, Tensor, View};
use std::ops::Range;

/// Shape of one call: B images of T tokens, of which the rows `read` are asked of the block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockShape {
    pub batch: usize,
    pub tokens: usize,
    pub read: Range<usize>,
}

impl BlockShape {
    pub fn all(batch: usize, tokens: usize) -> BlockShape {
        BlockShape { batch, tokens, read: 0..tokens }
    }

    pub fn is_all(&self) -> bool {
        self.read == (0..self.tokens)
    }

    fn rows(&self) -> usize {
        self.batch * self.tokens
    }

    fn read_rows(&self) -> usize {
        self.batch * self.read.len()
    }
}

/// What `forward` writes and `backward` reads. R is the number of rows read.
#[derive(Debug)]
pub struct BlockActs {
    pub extents: BlockShape,
    /// (B·T, 2): mean and rstd.
    pub ln1_stats: Tensor,
    /// (B, T, 3C); with fewer rows read than there are: (B, T, 2C), k and v.
    pub qkv: Tensor,
    /// (B, R, C) when it is not part of `qkv`.
    pub q: Tensor,
    /// (B, H, R): log of the softmax denominators.
    pub lse: Tensor,
    /// (B·R, C), attention output before the projection; kept only when the projection learns.
    pub attn: Option<Tensor>,
    /// (B·R, C), the residual stream after attention.
    pub mid: Tensor,
    /// (B·R, 2)
    pub ln2_stats: Tensor,
    /// (B·R, M), before GELU, of [`Types::hidden`]; kept only for a backward pass.
    pub fc1: Option<Tensor>,
    /// Of the adapter, if blocks have one.
    pub adapter: Option<AdapterActs>,
}

/// Scratch that all blocks share; `backward` needs all of it, `forward` the first half.
#[derive(Debug)]
pub struct BlockTemp {
    /// (B·T, C)
    pub a: Tensor,
    /// (B·T, C)
    pub b: Tensor,
    /// (B·T, M), of [`Types::hidden`].
    pub wide: Tensor,
    /// (B, T, 3C)
    pub dqkv: Tensor,
    /// (B, R, C)
    pub dq: Tensor,
    /// (B·T, M), when the MLP learns.
    pub gelu: Option<Tensor>,
    /// For adapters.
    pub adapter: Option<AdapterTemp>,
}

/// What every pass through a block works with.
pub struct Tools<'a> {
    pub dev: &'a Device,
    pub p: &'a Params,
    pub temp: &'a mut BlockTemp,
}

/// What a backward pass reads of the forward pass: its input x (B, T, C), its activations and its prefix.
pub struct SavedBlock<'a> {
    pub x: &'a Tensor,
    pub acts: &'a BlockActs,
    pub prefix: Option<Prefix<'a>>,
}

/// Gradients that a backward pass writes.
pub struct BlockGrads<'a> {
    /// Of parameters: added to, where they are wanted.
    pub params: &'a mut Grads,
    /// On entry dL/dy (B, R, C); on return what was needed of dL/dx.
    pub d: &'a mut Tensor,
    /// Of the prefix: overwritten.
    pub prefix: Option<PrefixMut<'a>>,
}

/// What a block's tensors are stored as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Types {
    pub stream: DType,
    /// Of the hidden layer of the MLP, which products alone read.
    pub hidden: DType,
}

/// What a forward pass keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// No backward pass follows.
    Nothing,
    /// For gradients of the input.
    ForInput,
    /// For gradients of the block's own parameters, too.
    ForParameters,
}

/// Which part of dL/dx `backward` is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Need {
    /// Every row: `d` becomes dL/dx (B·T, C).
    All,
    /// These token rows, up to the packed projection: `d` becomes dL/dmid (B·T, C) and `temp.dqkv`
    /// their dL/dqkv (B, n, 3C). The caller goes on, once per row of the prompt pool.
    Rows(Range<usize>),
    /// Nothing below this block learns: only the prefix receives a gradient.
    Nothing,
}

/// Widths of a block.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BlockDims {
    pub embed_dim: usize,
    pub heads: usize,
    pub mlp_dim: usize,
    pub eps: f64,
    pub gelu: gelu::GeluForm,
}

#[derive(Debug, Clone)]
pub struct Block {
    pub ln1: LayerNorm,
    pub qkv: Linear,
    pub proj: Linear,
    pub ln2: LayerNorm,
    pub fc1: Linear,
    pub fc2: Linear,
    /// Beside the MLP.
    pub adapter: Option<Adapter>,
    pub dims: BlockDims,
    /// Whether products may take the rows of an image together: the shortcut `strassen`.
    pub strassen: bool,
}

impl BlockActs {
    /// Room for B images of T tokens of which at most R are read.
    pub fn new(
        plan: &mut Plan,
        name: &str,
        dims: BlockDims,
        (b, t, r): (usize, usize, usize),
        keep: Keep,
        Types { stream: dtype, hidden }: Types,
    ) -> BlockActs {
        let (c, apart) = (dims.embed_dim, r < t);
        BlockActs {
            extents: BlockShape::all(b, t),
            ln1_stats: plan.tensor(format!("{name} ln1 statistics"), [b * t, 2], dtype.accum_dtype()),
            qkv: plan.tensor(format!("{name} qkv"), [b, t, if apart { 2 } else { 3 } * c], dtype),
            q: plan.tensor(format!("{name} q"), [if apart { b } else { 0 }, r, c], dtype),
            lse: plan.tensor(format!("{name} lse"), [b, dims.heads, r], dtype.accum_dtype()),
            attn: (keep == Keep::ForParameters)
                .then(|| plan.tensor(format!("{name} attention"), [b * r, c], dtype)),
            mid: plan.tensor(format!("{name} mid"), [b * r, c], dtype),
            ln2_stats: plan.tensor(format!("{name} ln2 statistics"), [b * r, 2], dtype.accum_dtype()),
            fc1: (keep != Keep::Nothing)
                .then(|| plan.tensor(format!("{name} fc1"), [b * r, dims.mlp_dim], hidden)),
            adapter: None,
        }
    }

    /// The same with room for an adapter.
    pub fn with_adapter(mut self, plan: &mut Plan, dims: Option<AdapterDims>) -> BlockActs {
        let (rows, dtype) = (self.mid.dims()[0], self.mid.dtype());
        self.adapter = dims.map(|dims| AdapterActs::new(plan, rows, dims, dtype));
        self
    }

    /// Room to hold q apart, one row per image: for the last block of a query pass.
    pub fn with_room_for_q(mut self, plan: &mut Plan) -> BlockActs {
        let c = self.mid.dims()[1];
        self.q = plan.tensor("query q", [self.extents.batch, 1, c], self.mid.dtype());
        self
    }

    /// Gives every tensor the shape these extents need, within the memory there is.
    pub fn shape(&mut self, e: &BlockShape, dims: &BlockDims) {
        let (c, r) = (dims.embed_dim, e.read.len());
        self.extents = e.clone();
        self.ln1_stats.reshape([e.rows(), 2]);
        if e.is_all() {
            self.qkv.reshape([e.batch, e.tokens, 3 * c]);
        } else {
            self.qkv.reshape([e.batch, e.tokens, 2 * c]);
            self.q.reshape([e.batch, r, c]);
        }
        self.lse.reshape([e.batch, dims.heads, r]);
        if let Some(attn) = &mut self.attn {
            attn.reshape([e.read_rows(), c]);
        }
        self.mid.reshape([e.read_rows(), c]);
        self.ln2_stats.reshape([e.read_rows(), 2]);
        if let Some(fc1) = &mut self.fc1 {
            fc1.reshape([e.read_rows(), dims.mlp_dim]);
        }
        if let Some(adapter) = &mut self.adapter {
            adapter.shape(e.read_rows());
        }
    }
}

fn layout<'a>(e: &BlockShape, qkv: &'a Tensor, q: &'a Tensor) -> Qkv<'a> {
    if e.is_all() { Qkv::packed(qkv.view()) } else { Qkv::apart(q.view(), qkv.view()) }
}

impl BlockTemp {
    /// Room for B images of T tokens. `backward`: also for gradients; `learn`: the block learns.
    pub fn new(
        plan: &mut Plan,
        dims: BlockDims,
        (b, t): (usize, usize),
        backward: bool,
        learn: bool,
        Types { stream: dtype, hidden }: Types,
    ) -> BlockTemp {
        let (c, m, back) = (dims.embed_dim, dims.mlp_dim, if backward { b } else { 0 });
        BlockTemp {
            a: plan.tensor("scratch a", [b * t, c], dtype),
            b: plan.tensor("scratch b", [b * t, c], dtype),
            wide: plan.tensor("scratch wide", [b * t, m], hidden),
            dqkv: plan.tensor("scratch dqkv", [back, t, 3 * c], dtype),
            dq: plan.tensor("scratch dq", [back, t, c], dtype),
            gelu: learn.then(|| plan.tensor("scratch gelu", [b * t, m], dtype)),
            adapter: None,
        }
    }

    /// The same with room for the backward pass of adapters.
    pub fn with_adapter(mut self, plan: &mut Plan, dims: Option<AdapterDims>) -> BlockTemp {
        let (rows, c, dtype) = (self.a.dims()[0], self.a.dims()[1], self.a.dtype());
        self.adapter = dims.map(|dims| AdapterTemp::new(plan, rows, c, dims, dtype));
        self
    }
}

impl Block {
    pub fn declare(declare: &mut Declare, layer: usize, dims: BlockDims) -> Block {
        let (c, m, name) = (dims.embed_dim, dims.mlp_dim, format!("block_{layer}"));
        Block {
            ln1: LayerNorm::declare(declare, &format!("{name}/ln1"), c, dims.eps),
            qkv: Linear::declare(declare, &format!("{name}/qkv"), c, 3 * c),
            proj: Linear::declare(declare, &format!("{name}/proj"), c, c),
            ln2: LayerNorm::declare(declare, &format!("{name}/ln2"), c, dims.eps),
            fc1: Linear::declare(declare, &format!("{name}/fc1"), c, m),
            fc2: Linear::declare(declare, &format!("{name}/fc2"), m, c),
            adapter: None,
            dims,
            strassen: true,
        }
    }

    /// The matrices of its four products.
    pub fn kernels(&self) -> [ParamId; 4] {
        [&self.qkv, &self.proj, &self.fc1, &self.fc2].map(|linear| linear.kernel)
    }

    /// Rows of `batch` images as the input of a product.
    fn images<'a>(&self, rows: View<'a>, batch: usize) -> View<'a> {
        let width = rows.dims().last().copied().unwrap_or(1);
        let all = rows.len() / width.max(1);
        if self.strassen {
            rows.reshaped([batch, all / batch.max(1), width])
        } else {
            rows.reshaped([all, width])
        }
    }

    // y = block(x), the rows `read` of it: lines 1 to 11 are `project`, then `attend`.

    /// Lines 1 and 2: everything up to q, k and v, into `acts`.
    /// x: (B, T, C).
    pub fn project(&self, tools: Tools, acts: &mut BlockActs, x: &Tensor, e: &BlockShape) -> Result<()> {
        let (Tools { dev, p, temp: t }, c) = (tools, self.dims.embed_dim);
        acts.shape(e, &self.dims);
        t.a.reshape([e.rows(), c]);
        let rows = x.view().reshaped([e.rows(), c]);
        /* 1 */
        self.ln1.forward(dev, p, t.a.view_mut(), acts.ln1_stats.view_mut(), rows)?;
        /* 2 */
        let normed = self.images(t.a.view(), e.batch);
        if e.is_all() {
            let qkv = acts.qkv.view_mut().reshaped([e.rows(), 3 * c]);
            return self.qkv.forward(dev, p, qkv, normed, Epilogue::Plain);
        }
        let kv = acts.qkv.view_mut().reshaped([e.rows(), 2 * c]);
        self.qkv.forward_columns(dev, p, kv, normed, c..3 * c)?;
        // Of the normalised rows, only those that are read ask a question.
        t.a.reshape([e.batch, e.tokens, c]);
        t.b.reshape([e.batch, e.read.len(), c]);
        tokens::copy(dev, t.b.view_mut(), 0, t.a.view(), e.read.clone(), Write::Set)?;
        let q = acts.q.view_mut().reshaped([e.read_rows(), c]);
        self.qkv.forward_columns(dev, p, q, self.images(t.b.view(), e.batch), 0..c)
    }

    fn heads(&self, p: &Params) -> Heads {
        Heads { count: self.dims.heads, in_bf16: p.multiplies_in_bf16() }
    }

    /// Lines 3 to 11, from the q, k and v in `acts`. x: (B, T, C), y: (B, R, C).
    pub fn attend(
        &self,
        tools: Tools,
        y: &mut Tensor,
        acts: &mut BlockActs,
        x: &Tensor,
        prefix: Option<&Prefix>,
    ) -> Result<()> {
        let Tools { dev, p, temp: t } = tools;
        let (c, e) = (self.dims.embed_dim, acts.extents.clone());
        let (b, r, rows) = (e.batch, e.read.len(), e.read_rows());
        y.reshape([b, r, c]);
        t.a.reshape([b, r, c]);
        t.b.reshape([rows, c]);
        t.wide.reshape([rows, self.dims.mlp_dim]);
        /* 3 */
        let qkv = layout(&e, &acts.qkv, &acts.q);
        attention::forward(dev, t.a.view_mut(), acts.lse.view_mut(), &qkv, prefix, self.heads(p))?;
        if let Some(attn) = &mut acts.attn {
            let attn = attn.view_mut().reshaped([b, r, c]);
            tokens::copy(dev, attn, 0, t.a.view(), 0..r, Write::Set)?;
        }
        /* 4, 5 */
        let out = self.images(t.a.view(), b);
        let residual = if e.is_all() {
            x.view().reshaped([rows, c])
        } else {
            let mut part = t.b.view_mut().reshaped([b, r, c]);
            tokens::copy(dev, part.reborrow(), 0, x.view().reshaped([b, e.tokens, c]), e.read, Write::Set)?;
            t.b.view()
        };
        self.proj.forward(dev, p, acts.mid.view_mut(), out, Epilogue::Residual(residual))?;
        /* 6 */
        let normed = t.a.view_mut().reshaped([rows, c]);
        self.ln2.forward(dev, p, normed, acts.ln2_stats.view_mut(), acts.mid.view())?;
        /* 7, 8 */
        let keep = Epilogue::Gelu { pre: acts.fc1.as_mut().map(Tensor::view_mut), form: self.dims.gelu };
        self.fc1.forward(dev, p, t.wide.view_mut(), self.images(t.a.view(), b), keep)?;
        /* 9, 10 */
        let mut y = y.view_mut().reshaped([rows, c]);
        let residual = Epilogue::Residual(acts.mid.view());
        self.fc2.forward(dev, p, y.reborrow(), self.images(t.wide.view(), b), residual)?;
        /* 11 */
        match (&self.adapter, &mut acts.adapter) {
            (Some(adapter), Some(own)) if own.on => {
                adapter.forward_acc(dev, p, y, own, acts.mid.view(), &mut t.b)
            }
            _ => Ok(()),
        }
    }

    /// From dL/dy (B, R, C) to what `need` says of dL/dx, both in `out.d`, and to the other gradients.
    pub fn backward(&self, mut tools: Tools, saved: &SavedBlock, out: BlockGrads, need: Need) -> Result<()> {
        let BlockGrads { params: grads, d, prefix: dprefix } = out;
        self.backward_attend(&mut tools, saved, grads, d, dprefix, &need)?;
        if need == Need::All { self.backward_project(tools, saved, grads, d) } else { Ok(()) }
    }

    /// Lines 11 to 3: from dL/dy in `d` to dL/dmid in `d` and the gradients of q, k and v in the scratch.
    fn backward_attend(
        &self,
        tools: &mut Tools,
        saved: &SavedBlock,
        grads: &mut Grads,
        d: &mut Tensor,
        dprefix: Option<PrefixMut>,
        need: &Need,
    ) -> Result<()> {
        let (Tools { dev, p, temp: t }, acts) = (tools, saved.acts);
        let (c, e) = (self.dims.embed_dim, &acts.extents);
        let (b, r, rows) = (e.batch, e.read.len(), e.read_rows());
        d.reshape([rows, c]);
        t.a.reshape([rows, c]);
        t.b.reshape([rows, c]);
        t.wide.reshape([rows, self.dims.mlp_dim]);
        let fc1 =
            acts.fc1.as_ref().ok_or_else(|| Error::failed("block: nothing was kept for a backward pass"))?;
        /*11 */
        let adapted = match (&self.adapter, &acts.adapter, &mut t.adapter) {
            (Some(adapter), Some(own), Some(temp)) if own.on => {
                adapter.backward_params(dev, p, grads, temp, own, (acts.mid.view(), d.view()))?;
                Some((adapter, temp))
            }
            _ => None,
        };
        /*10 */
        // d already is dL/dmid through the skip connection
        /* 9 */
        if let (true, Some(gelu_out)) = (self.fc2.wanted(p, grads), &mut t.gelu) {
            gelu_out.reshape([rows, self.dims.mlp_dim]);
            gelu::forward(dev, gelu_out.view_mut(), fc1.view(), self.dims.gelu)?;
            self.fc2.backward_params_acc(dev, p, grads, gelu_out.view(), d.view(), None)?;
        }
        /* 8 */
        let (wide, form) = (t.wide.view_mut(), self.dims.gelu);
        self.fc2.backward_input_gelu(dev, p, wide, self.images(d.view(), b), fc1.view(), form)?;
        /* 7 */
        if self.fc1.wanted(p, grads) {
            self.ln2.recompute(dev, p, t.a.view_mut(), acts.mid.view(), acts.ln2_stats.view())?;
            self.fc1.backward_params_acc(dev, p, grads, t.a.view(), t.wide.view(), None)?;
        }
        self.fc1.backward_input(dev, p, t.a.view_mut(), self.images(t.wide.view(), b), None, Write::Set)?;
        /* 6 */
        let (dy, stats) = (t.a.view(), acts.ln2_stats.view());
        self.ln2.backward_acc(dev, p, grads, Some(d.view_mut()), dy, (acts.mid.view(), stats))?;
        if let Some((adapter, temp)) = adapted {
            adapter.backward_input_acc(dev, p, d.view_mut(), temp)?;
        }
        /* 5 */
        // d already is dL/dx through the skip connection
        /* 4 */
        if let Some(attn) = &acts.attn {
            self.proj.backward_params_acc(dev, p, grads, attn.view(), d.view(), None)?;
        }
        self.proj.backward_input(dev, p, t.a.view_mut(), self.images(d.view(), b), None, Write::Set)?;
        /* 3 */
        let dout = t.a.view().reshaped([b, r, c]);
        let (q_rows, kv_rows) = match need {
            Need::All => (0..r, 0..e.tokens),
            Need::Rows(rows) => (rows.clone(), rows.clone()),
            Need::Nothing => (0..0, 0..0),
        };
        let gradients = match (need, e.is_all()) {
            (Need::Nothing, _) => None,
            (_, true) => {
                t.dqkv.reshape([b, kv_rows.len(), 3 * c]);
                Some(Gradients { into: GradientTarget::Packed(t.dqkv.view_mut()), q_rows, kv_rows })
            }
            (_, false) => {
                t.dq.reshape([b, q_rows.len(), c]);
                t.dqkv.reshape([b, kv_rows.len(), 2 * c]);
                let into = GradientTarget::Apart { q: t.dq.view_mut(), kv: t.dqkv.view_mut() };
                Some(Gradients { into, q_rows, kv_rows })
            }
        };
        let qkv = layout(e, &acts.qkv, &acts.q);
        let (lse, heads) = (acts.lse.view(), self.heads(p));
        let wanted = Wanted { gradients, prefix: dprefix };
        attention::backward_input(dev, wanted, dout, lse, &qkv, saved.prefix.as_ref(), heads)
    }

    /// Lines 2 and 1: from dL/dmid (B, R, C) in `d` and the gradients of q, k, v in `t` to dL/dx
    /// (B·T, C) in `d`.
    fn backward_project(
        &self,
        tools: Tools,
        saved: &SavedBlock,
        grads: &mut Grads,
        d: &mut Tensor,
    ) -> Result<()> {
        let (Tools { dev, p, temp: t }, SavedBlock { x, acts, .. }) = (tools, saved);
        let (c, e) = (self.dims.embed_dim, &acts.extents);
        let (b, r, rows) = (e.batch, e.read.len(), e.rows());
        let (x, stats) = (x.view().reshaped([rows, c]), acts.ln1_stats.view());
        t.a.reshape([rows, c]);
        if e.is_all() {
            let dqkv = t.dqkv.view().reshaped([rows, 3 * c]);
            /* 2 */
            if self.qkv.wanted(p, grads) {
                self.ln1.recompute(dev, p, t.a.view_mut(), x, stats)?;
                self.qkv.backward_params_acc(dev, p, grads, t.a.view(), dqkv, None)?;
            }
            self.qkv.backward_input(dev, p, t.a.view_mut(), self.images(dqkv, b), None, Write::Set)?;
        } else {
            let dkv = t.dqkv.view().reshaped([rows, 2 * c]);
            let dq = t.dq.view().reshaped([b * r, c]);
            /* 2 */
            if self.qkv.wanted(p, grads) {
                self.ln1.recompute(dev, p, t.a.view_mut(), x, stats)?;
                self.qkv.backward_params_acc(dev, p, grads, t.a.view(), dkv, Some(c..3 * c))?;
                t.b.reshape([b, r, c]);
                let normed = t.a.view().reshaped([b, e.tokens, c]);
                tokens::copy(dev, t.b.view_mut(), 0, normed, e.read.clone(), Write::Set)?;
                let asking = t.b.view().reshaped([b * r, c]);
                self.qkv.backward_params_acc(dev, p, grads, asking, dq, Some(0..c))?;
            }
            t.b.reshape([b * r, c]);
            self.qkv.backward_input(dev, p, t.b.view_mut(), self.images(dq, b), Some(0..c), Write::Set)?;
            self.qkv.backward_input(
                dev,
                p,
                t.a.view_mut(),
                self.images(dkv, b),
                Some(c..3 * c),
                Write::Set,
            )?;
            let asked = t.b.view().reshaped([b, r, c]);
            let all = t.a.view_mut().reshaped([b, e.tokens, c]);
            tokens::copy(dev, all, e.read.start, asked, 0..r, Write::Add)?;
            // The rows that were not read have no residual gradient yet.
            t.b.reshape([b, r, c]);
            tokens::copy(dev, t.b.view_mut(), 0, d.view().reshaped([b, r, c]), 0..r, Write::Set)?;
            d.reshape([b, e.tokens, c]);
            d.fill(0.0);
            tokens::copy(dev, d.view_mut(), e.read.start, t.b.view(), 0..r, Write::Set)?;
        }
        d.reshape([rows, c]);
        /* 1 */
        self.ln1.backward_acc(dev, p, grads, Some(d.view_mut()), t.a.view(), (x, stats))
    }
}
