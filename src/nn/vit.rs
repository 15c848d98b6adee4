//! The Vision Transformer: patch embedding, class token, positions, blocks, final norm.
//! Source: Dosovitskiy et al. 2021, arXiv:2010.11929.

use super::block::{Block, BlockDims};
use super::layers::{LayerNorm, Linear};
use super::params::{Declare, Grads, ParamId, Params};
use crate::device::Device;
use crate::error::Result;
use crate::ops::linear::Epilogue;
use crate::ops::matmul::Write;
use crate::ops::{gelu, tokens};
use crate::tensor::plan::Plan;
use crate::tensor::{DType, Tensor, View, ViewMut};

/// Widths of a Vision Transformer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dims {
    pub image_size: usize,
    pub patch_size: usize,
    pub embed_dim: usize,
    pub heads: usize,
    pub mlp_dim: usize,
    pub layers: usize,
    /// Register tokens between class token and patches (Darcet et al. 2024, arXiv:2309.16588).
    pub registers: usize,
    pub eps: f64,
    pub gelu: gelu::GeluForm,
}

/// Colour channels of every input.
pub const CHANNELS: usize = 3;

impl Dims {
    /// Patches per side.
    pub fn grid(&self) -> usize {
        self.image_size / self.patch_size
    }

    pub fn patches(&self) -> usize {
        self.grid() * self.grid()
    }

    /// Class token, register tokens and patches.
    pub fn tokens(&self) -> usize {
        1 + self.registers + self.patches()
    }

    /// Values per patch.
    pub fn patch_len(&self) -> usize {
        self.patch_size * self.patch_size * CHANNELS
    }

    pub fn block(&self) -> BlockDims {
        BlockDims {
            embed_dim: self.embed_dim,
            heads: self.heads,
            mlp_dim: self.mlp_dim,
            eps: self.eps,
            gelu: self.gelu,
        }
    }
}

/// The parameters of a backbone.
#[derive(Debug, Clone)]
pub struct Vit {
    pub dims: Dims,
    pub embedding: Linear,
    pub cls: ParamId,
    /// One row per token: what is added to the class token and to the patches. Register tokens have no
    /// position; their rows are the tokens themselves.
    pub positions: ParamId,
    pub blocks: Vec<Block>,
    pub norm: LayerNorm,
}

/// Pixels as patch rows, and the embedded patches before class token and positions.
#[derive(Debug)]
pub struct Embedded {
    /// (B·N, P·P·3)
    pub rows: Tensor,
    /// (B, N, C)
    pub patches: Tensor,
    /// (B, R+N, C): zeros and the patches, where there are R register tokens.
    pub behind_registers: Option<Tensor>,
}

impl Embedded {
    /// The rows of so many images, to be written.
    pub fn rows_of(&mut self, images: usize, dims: &Dims) -> ViewMut<'_> {
        self.rows.reshape([images * dims.patches(), dims.patch_len()]);
        self.rows.view_mut()
    }

    pub fn new(plan: &mut Plan, dims: &Dims, batch: usize, dtype: DType) -> Embedded {
        let n = dims.patches();
        Embedded {
            rows: plan.tensor("patch rows", [batch * n, dims.patch_len()], dtype),
            patches: plan.tensor("embedded patches", [batch, n, dims.embed_dim], dtype),
            behind_registers: (dims.registers > 0).then(|| {
                plan.tensor("patches behind registers", [batch, dims.registers + n, dims.embed_dim], dtype)
            }),
        }
    }
}

/// What `backward_embed` starts from: gradients of the output of `embed`, and what it read.
pub struct EmbedBackward<'a> {
    /// (B, 1+R+N, C)
    pub dx: View<'a>,
    /// A further gradient of the embedded patches, (B, N, C).
    pub extra: Option<View<'a>>,
    pub embedded: &'a Embedded,
    /// Scratch of (B, N, C).
    pub dpatches: &'a mut Tensor,
}

impl Vit {
    pub fn declare(declare: &mut Declare, dims: Dims) -> Vit {
        let (c, t, p) = (dims.embed_dim, dims.tokens(), dims.patch_size);
        let kernel = declare.add("embedding/kernel", [p, p, CHANNELS, c]);
        let embedding = Linear::of(kernel, declare.add("embedding/bias", [c]));
        Vit {
            dims,
            embedding,
            cls: declare.add("cls", [1, 1, c]),
            positions: declare.add("pos_embedding", [1, t, c]),
            blocks: (0..dims.layers).map(|l| Block::declare(declare, l, dims.block())).collect(),
            norm: LayerNorm::declare(declare, "norm", c, dims.eps),
        }
    }

    /// x = [cls; 0; patches] + positions, from the patch rows of `embedded`, with zeros for the R register
    /// tokens. x: (B, 1+R+N, C).
    pub fn embed(&self, dev: &Device, p: &Params, x: &mut Tensor, embedded: &mut Embedded) -> Result<()> {
        let (n, r, c) = (self.dims.patches(), self.dims.registers, self.dims.embed_dim);
        let b = embedded.rows.dims()[0] / n;
        embedded.patches.reshape([b * n, c]);
        /* 2 */
        let out = embedded.patches.view_mut();
        self.embedding.forward(dev, p, out, embedded.rows.view(), Epilogue::Plain)?;
        embedded.patches.reshape([b, n, c]);
        x.reshape([b, 1 + r + n, c]);
        let mut patches = embedded.patches.view();
        if let Some(wide) = &mut embedded.behind_registers {
            /* 3 */
            wide.reshape([b, r + n, c]);
            wide.fill(0.0);
            tokens::copy(dev, wide.view_mut(), r, patches, 0..n, Write::Set)?;
            patches = wide.view();
        }
        /* 4 */
        tokens::embed(dev, x.view_mut(), patches, p.get(self.cls), p.get(self.positions))
    }

    /// Whether anything in front of the blocks has a gradient to compute.
    pub fn embed_wanted(&self, p: &Params, grads: &Grads) -> bool {
        self.embedding.wanted(p, grads) || grads.wants(p, self.cls) || grads.wants(p, self.positions)
    }

    /// Adds the parameter gradients of `embed`.
    pub fn backward_embed(
        &self,
        dev: &Device,
        p: &Params,
        grads: &mut Grads,
        of: EmbedBackward,
    ) -> Result<()> {
        let EmbedBackward { dx, extra, embedded, dpatches } = of;
        let (b, t, c) = (dx.dims()[0], dx.dims()[1], dx.dims()[2]);
        let n = self.dims.patches();
        /* 4 */
        if let Some(dcls) = grads.get_mut(p, self.cls) {
            tokens::sum_images_acc(dev, dcls, dx, 0..1)?;
        }
        if let Some(dpositions) = grads.get_mut(p, self.positions) {
            tokens::sum_images_acc(dev, dpositions, dx, 0..t)?;
        }
        if !self.embedding.wanted(p, grads) {
            return Ok(());
        }
        /* 3 */
        dpatches.reshape([b, n, c]);
        tokens::copy(dev, dpatches.view_mut(), 0, dx, t - n..t, Write::Set)?;
        if let Some(extra) = extra {
            crate::ops::axpy::axpy(dev, dpatches.view_mut(), extra, 1.0)?;
        }
        /* 2 */
        let dy = dpatches.view().reshaped([b * n, c]);
        self.embedding.backward_params_acc(dev, p, grads, embedded.rows.view(), dy, None)
        /* 1 */ // the rows are data
    }
}
