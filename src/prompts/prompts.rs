//! The prompt parameters, how their rows enter tokens and prefixes, and how gradients return.

use super::layout::{Part, Source};
use super::pool::Matching;
use crate::device::Device;
use crate::error::Result;
use crate::network::setup::Setup;
use crate::nn::params::{Declare, Grads, ParamId, Params};
use crate::ops::gather;
use crate::tensor::{Shape, Tensor, View, ViewMut};

/// Which half of a prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Key,
    Value,
}

/// `prompt_pool/prompt` [E, M, L_p, C], or [E, 2, M, L_p, H, D] as prefixes; `prompt_pool/key`
/// [M, C]; `prefix` [layers, 2, n, H, D], [layers, 1, n, H, D] when key and value share it, or
/// [layers, n, C] as tokens.
#[derive(Debug, Clone)]
pub struct Prompts {
    pub prompt: Option<ParamId>,
    pub key: Option<ParamId>,
    pub general: Option<ParamId>,
    /// Rows of one slice of the pool: M · L_p.
    pub pool_rows: usize,
    /// Rows of one layer of the general prompt.
    pub general_rows: usize,
    channels: usize,
    pool_prefix: bool,
    general_sides: usize,
    /// L_p, prompts per image.
    length: usize,
}

impl Prompts {
    pub fn declare(declare: &mut Declare, setup: &Setup) -> Prompts {
        let (c, heads, layers) = (setup.dims.embed_dim, setup.dims.heads, setup.dims.layers);
        let d = c / heads;
        let mut prompts = Prompts {
            prompt: None,
            key: None,
            general: None,
            pool_rows: 0,
            general_rows: 0,
            channels: c,
            pool_prefix: false,
            general_sides: 1,
            length: 0,
        };
        if let Some(general) = &setup.general {
            let n = general.g_prompt_length;
            let shape = match (general.use_prefix_tune_for_g_prompt, general.same_key_value) {
                (true, false) => Shape::new(&[layers, 2, n, heads, d]),
                (true, true) => Shape::new(&[layers, 1, n, heads, d]),
                (false, _) => Shape::new(&[layers, n, c]),
            };
            let two = general.use_prefix_tune_for_g_prompt && !general.same_key_value;
            prompts.general_sides = if two { 2 } else { 1 };
            prompts.general_rows = n;
            prompts.general = Some(declare.add("prefix", shape));
        }
        if let Some(pool) = &setup.pool {
            let (e, m, n) = (pool.e_prompt_layer_idx.len(), pool.pool_size, pool.length);
            prompts.pool_prefix = pool.use_prefix_tune_for_e_prompt;
            let shape = match prompts.pool_prefix {
                true => Shape::new(&[e, 2, m, n, heads, d]),
                false => Shape::new(&[e, m, n, c]),
            };
            prompts.pool_rows = m * n;
            prompts.length = n;
            prompts.prompt = Some(declare.add("prompt_pool/prompt", shape));
            prompts.key = pool.prompt_key.then(|| declare.add("prompt_pool/key", [m, c]));
        }
        prompts
    }

    /// The parameter behind a part, the first element of its table, and the table's rows.
    fn table(&self, layer: usize, part: &Part, side: Side) -> Option<(ParamId, usize, usize)> {
        let second = usize::from(side == Side::Value);
        let (id, index, rows) = match part.source {
            Source::General => {
                let sides = self.general_sides;
                (self.general?, layer * sides + second.min(sides - 1), self.general_rows)
            }
            Source::Pool(slice) if self.pool_prefix => (self.prompt?, slice * 2 + second, self.pool_rows),
            Source::Pool(slice) => (self.prompt?, slice, self.pool_rows),
        };
        Some((id, index * rows * self.channels, rows))
    }

    /// The rows of a source, (rows, C).
    pub fn rows<'a>(&self, p: &'a Params, layer: usize, part: &Part, side: Side) -> Option<View<'a>> {
        let (id, start, rows) = self.table(layer, part, side)?;
        Some(p.get(id).part(start, [rows, self.channels]))
    }

    /// Their gradient, if it is wanted.
    pub fn rows_grad<'a>(
        &self,
        p: &Params,
        grads: &'a mut Grads,
        layer: usize,
        part: &Part,
        side: Side,
    ) -> Option<ViewMut<'a>> {
        let (id, start, rows) = self.table(layer, part, side)?;
        Some(grads.get_mut(p, id)?.part(start, [rows, self.channels]))
    }

    /// Whether any prompt of these parts has a gradient to compute.
    pub fn wanted(&self, p: &Params, grads: &Grads, parts: &[Part]) -> bool {
        parts.iter().filter_map(|part| self.table(0, part, Side::Key)).any(|(id, ..)| grads.wants(p, id))
    }

    /// Which prompts of a table every image uses, (B, n), and how many rows each of them has.
    pub fn chosen<'a>(&self, part: &Part, matching: &'a Matching, batch: usize) -> (View<'a>, usize) {
        match part.source {
            Source::General => (matching.only(batch), part.rows),
            Source::Pool(_) => (matching.ids.view(), self.length),
        }
    }

    /// Writes the prefix (B, n, C) of one side.
    #[allow(clippy::too_many_arguments)]
    pub fn fill_prefix(
        &self,
        dev: &Device,
        p: &Params,
        out: &mut Tensor,
        layer: usize,
        parts: &[Part],
        side: Side,
        matching: &Matching,
    ) -> Result<()> {
        let batch = out.dims()[0];
        for part in parts {
            if let Some(table) = self.rows(p, layer, part, side) {
                let (ids, length) = self.chosen(part, matching, batch);
                gather::forward(dev, out.view_mut(), part.at, table, ids, length)?;
            }
        }
        Ok(())
    }

    /// Adds the gradient of a prefix side (B, n, C) to the tables.
    #[allow(clippy::too_many_arguments)]
    pub fn backward_prefix(
        &self,
        dev: &Device,
        p: &Params,
        grads: &mut Grads,
        dprefix: &Tensor,
        layer: usize,
        parts: &[Part],
        side: Side,
        matching: &Matching,
    ) -> Result<()> {
        let batch = dprefix.dims()[0];
        for part in parts {
            if let Some(dtable) = self.rows_grad(p, grads, layer, part, side) {
                let (ids, length) = self.chosen(part, matching, batch);
                gather::backward_acc(dev, dtable, dprefix.view(), part.at, ids, length)?;
            }
        }
        Ok(())
    }

    /// At the start of task t > 0: prompts [t N, (t+1) N) start as a copy of [(t-1) N, t N), while
    /// they exist; the same for the keys, where the configuration shares them.
    /// Source: google-research/l2p `train_continual.py:551-570`.
    pub fn transfer(&self, p: &mut Params, setup: &Setup, task: usize) -> Result<()> {
        let Some(pool) = &setup.pool else { return Ok(()) };
        let n = pool.top_k;
        if task == 0 || (task + 1) * n > pool.pool_size {
            return Ok(());
        }
        let shared = [
            (self.prompt.filter(|_| pool.shared_prompt_pool), self.pool_rows * self.channels),
            (self.key.filter(|_| pool.shared_prompt_key), pool.pool_size * self.channels),
        ];
        for (id, slice) in shared {
            let Some(id) = id else { continue };
            let mut values = p.get(id).read_f64()?;
            // Values per prompt within one slice of the pool axis.
            let each = slice / pool.pool_size;
            for slice in values.chunks_exact_mut(slice) {
                slice.copy_within((task - 1) * n * each..task * n * each, task * n * each);
            }
            p.set(id, &values)?;
        }
        Ok(())
    }
}
