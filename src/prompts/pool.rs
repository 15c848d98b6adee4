//! Queries against keys: similarity, selection, the pull term and its gradients.
//! Source: google-research/l2p `models/prompt.py`.

use super::prompts::Prompts;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::network::setup::Setup;
use crate::nn::params::{Grads, Params};
use crate::ops::axpy::axpy;
use crate::ops::match_prompts::{self, Select};
use crate::ops::matmul::{self, Layout, Write};
use crate::ops::pool_tokens;
use crate::ops::row_norm::{self, Normalization};
use crate::tensor::plan::Plan;
use crate::tensor::{DType, Tensor, View, ViewMut};

/// What selection writes and the pull term's backward reads. M prompts, N of them selected.
#[derive(Debug)]
pub struct Matching {
    /// (B, C), as the network made it.
    pub query: Tensor,
    /// (B, C), rows of unit length.
    pub query_unit: Tensor,
    /// (M, C), learned or means of the prompts.
    pub keys: Tensor,
    /// (M, C), rows of unit length.
    pub keys_unit: Tensor,
    /// (B, M)
    pub similarity: Tensor,
    /// (B, N)
    pub ids: Tensor,
    /// The selection before vote and mask, (B, N).
    pub own_ids: Tensor,
    /// (2, M): how often each prompt was used, by the tasks before this one and by this one; empty unless the
    /// selection looks at it.
    pub used: Tensor,
    /// (B, 1) zeros: every image uses the one general prompt.
    only: Tensor,
    temp: Temp,
}

/// Scratch of keys that are means of prompts, and of the gradients. S slices of the pool, L rows a prompt.
#[derive(Debug)]
struct Temp {
    /// (M, C): one slice's means, later their gradients.
    mean: Tensor,
    /// (B, M): similarity, less what earlier tasks used.
    scores: Tensor,
    /// (B, M)
    dsimilarity: Tensor,
    /// (M, C)
    dkeys_unit: Tensor,
    /// (M, L, C)
    drows: Tensor,
    /// (B, C)
    dquery_unit: Tensor,
}

impl Matching {
    pub fn new(plan: &mut Plan, setup: &Setup, dtype: DType) -> Matching {
        let (b, c) = (setup.max_batch, setup.dims.embed_dim);
        let pool = setup.pool.as_ref();
        let (m, n, length) = pool.map_or((0, 0, 0), |p| (p.pool_size, p.top_k, p.length));
        let learned = pool.is_none_or(|p| p.prompt_key);
        let counted = if pool.is_some_and(|p| p.diversified_selection) { m } else { 0 };
        let back = if setup.training { b } else { 0 };
        Matching {
            query: plan.tensor("query", [b, c], dtype),
            query_unit: plan.tensor("unit query", [b, c], dtype),
            keys: plan.tensor("keys", [m, c], dtype),
            keys_unit: plan.tensor("unit keys", [m, c], dtype),
            similarity: plan.tensor("similarity", [b, m], dtype),
            ids: plan.tensor("prompt ids", [b, n], DType::U32),
            own_ids: plan.tensor("own prompt ids", [b, n], DType::U32),
            used: plan.tensor("uses of prompts", [2, counted], DType::U32),
            only: plan.tensor("general prompt ids", [b, 1], DType::U32),
            temp: Temp {
                mean: plan.tensor("mean prompts", [if learned { 0 } else { m }, c], dtype),
                scores: plan.tensor("scores", [b, counted], dtype),
                dsimilarity: plan.tensor("dsimilarity", [back, m], dtype),
                dkeys_unit: plan.tensor("dunit keys", [if setup.training { m } else { 0 }, c], dtype),
                drows: plan.tensor("dprompt rows", [if learned { 0 } else { m }, length, c], dtype),
                dquery_unit: plan.tensor("dunit query", [back, c], dtype),
            },
        }
    }

    /// (B, 1) zeros.
    pub fn only(&self, batch: usize) -> View<'_> {
        self.only.view().part(0, [batch, 1])
    }

    /// [`Matching::select`] for a batch that is learned from: prompts that earlier tasks used often are passed over,
    /// where the configuration says so, and what is used is counted.
    pub fn select_and_count(
        &mut self,
        dev: &Device,
        p: &Params,
        prompts: &Prompts,
        setup: &Setup,
        how: Select,
    ) -> Result<()> {
        self.select(dev, p, prompts, setup, how)?;
        let Some(pool) = setup.pool.as_ref().filter(|p| p.diversified_selection) else { return Ok(()) };
        let (b, m) = (self.query.dims()[0], pool.pool_size);
        let scores = &mut self.temp.scores;
        scores.reshape([b, m]);
        let earlier = self.used.view().part(0, [m]);
        match_prompts::penalise(dev, scores.view_mut(), self.similarity.view(), earlier)?;
        match_prompts::select(dev, self.ids.view_mut(), scores.view(), how)?;
        match_prompts::count_acc(dev, self.used.view_mut().part(m, [m]), self.ids.view())
    }

    /// A new task: what was used belongs to the earlier ones.
    pub fn begin_task(&mut self) -> Result<()> {
        if self.used.is_empty() {
            return Ok(());
        }
        let counts = self.used.view().read::<u32>()?;
        let (earlier, last) = counts.split_at(counts.len() / 2);
        let mut all: Vec<u32> = earlier.iter().zip(last).map(|(a, b)| a.saturating_add(*b)).collect();
        all.resize(counts.len(), 0);
        self.used.view_mut().write(&all)
    }

    /// Fills everything after `query` for its current batch.
    pub fn select(
        &mut self,
        dev: &Device,
        p: &Params,
        prompts: &Prompts,
        setup: &Setup,
        how: Select,
    ) -> Result<()> {
        let Some(pool) = &setup.pool else { return Ok(()) };
        let (b, m, c) = (self.query.dims()[0], pool.pool_size, setup.dims.embed_dim);
        for (tensor, width) in
            [(&mut self.query_unit, c), (&mut self.similarity, m), (&mut self.ids, pool.top_k)]
        {
            tensor.reshape([b, width]);
        }
        self.own_ids.reshape([b, pool.top_k]);
        /* 1 */
        self.fill_keys(dev, p, prompts, setup)?;
        /* 2 */
        row_norm::forward(dev, self.query_unit.view_mut(), self.query.view(), Normalization::Rsqrt)?;
        row_norm::forward(dev, self.keys_unit.view_mut(), self.keys.view(), Normalization::Rsqrt)?;
        /* 3 */
        let query = (self.query_unit.view(), Layout::dense(b, c));
        let keys = (self.keys_unit.view(), Layout::dense(m, c));
        let similarity = (self.similarity.view_mut(), Layout::dense(b, m));
        matmul::backward_input(dev, similarity, query, keys, Write::Set)?;
        let similarity = self.similarity.view();
        match_prompts::select(dev, self.own_ids.view_mut(), similarity, Select::PerImage)?;
        match_prompts::select(dev, self.ids.view_mut(), similarity, how)
    }

    fn fill_keys(&mut self, dev: &Device, p: &Params, prompts: &Prompts, setup: &Setup) -> Result<()> {
        let Some(pool) = &setup.pool else { return Ok(()) };
        self.keys.fill(0.0);
        if let Some(key) = prompts.key {
            return axpy(dev, self.keys.view_mut(), p.get(key), 1.0);
        }
        // The mean over slices and positions of each prompt.
        let Some(prompt) = prompts.prompt else { return Ok(()) };
        let (slices, m, n) = (pool.e_prompt_layer_idx.len(), pool.pool_size, pool.length);
        let c = setup.dims.embed_dim;
        let mean = &mut self.temp.mean;
        for slice in 0..slices {
            let rows = p.get(prompt).part(slice * m * n * c, [m, n, c]);
            pool_tokens::forward(dev, mean.view_mut(), rows, 0..n, pool_tokens::Pooling::Mean)?;
            axpy(dev, self.keys.view_mut(), mean.view(), 1.0 / slices as f64)?;
        }
        Ok(())
    }

    /// Overwrites `out` (1): Σ of the selected similarities / B.
    pub fn pull(&self, dev: &Device, out: ViewMut) -> Result<()> {
        match_prompts::pull(dev, out, self.similarity.view(), self.ids.view())
    }

    /// Adds the gradient of `weight` · pull to the keys (or prompts); overwrites `dquery` (B, C) with
    /// that of the query if it is asked for.
    #[allow(clippy::too_many_arguments)]
    pub fn backward_pull(
        &mut self,
        dev: &Device,
        p: &Params,
        grads: &mut Grads,
        prompts: &Prompts,
        setup: &Setup,
        weight: f64,
        dquery: Option<&mut Tensor>,
    ) -> Result<()> {
        let Some(pool) = &setup.pool else { return Ok(()) };
        let (b, m, c) = (self.query.dims()[0], pool.pool_size, setup.dims.embed_dim);
        let Temp { mean: dkeys, dsimilarity, dkeys_unit: dunit, drows, dquery_unit, .. } = &mut self.temp;
        dsimilarity.reshape([b, m]);
        match_prompts::backward_pull(dev, dsimilarity.view_mut(), self.ids.view(), weight)?;
        let ds = (dsimilarity.view(), Layout::dense(b, m));
        /* 3, keys */
        dunit.fill(0.0);
        let query = (self.query_unit.view(), Layout::dense(b, c));
        matmul::backward_weight_acc(dev, (dunit.view_mut(), Layout::dense(m, c)), ds, query)?;
        if let Some(key) = prompts.key {
            /* 2, 1 */
            if let Some(dkey) = grads.get_mut(p, key) {
                row_norm::backward_acc(dev, dkey, dunit.view(), self.keys.view(), Normalization::Rsqrt)?;
            }
        } else if let Some(prompt) = prompts.prompt
            && let Some(mut dprompt) = grads.get_mut(p, prompt)
        {
            dkeys.fill(0.0);
            /* 2 */
            row_norm::backward_acc(
                dev,
                dkeys.view_mut(),
                dunit.view(),
                self.keys.view(),
                Normalization::Rsqrt,
            )?;
            /* 1 */
            let (slices, n) = (pool.e_prompt_layer_idx.len(), pool.length);
            for slice in 0..slices {
                let start = slice * m * n * c;
                let rows = p.get(prompt).part(start, [m, n, c]);
                let kind = pool_tokens::Pooling::Mean;
                pool_tokens::backward(dev, drows.view_mut(), dkeys.view(), rows, 0..n, kind)?;
                let target = dprompt.reborrow().part(start, [m * n * c]);
                axpy(dev, target, drows.view(), 1.0 / slices as f64)?;
            }
        }
        let Some(dquery) = dquery else { return Ok(()) };
        /* 3, 2, query */
        dquery_unit.reshape([b, c]);
        let keys = (self.keys_unit.view(), Layout::dense(m, c));
        matmul::forward(dev, (dquery_unit.view_mut(), Layout::dense(b, c)), ds, keys, Write::Set)?;
        dquery.reshape([b, c]);
        dquery.fill(0.0);
        row_norm::backward_acc(
            dev,
            dquery.view_mut(),
            dquery_unit.view(),
            self.query.view(),
            Normalization::Rsqrt,
        )
    }

    /// Prompts chosen earlier, N per image, instead of a selection.
    pub fn set_ids(&mut self, batch: usize, ids: &[u32]) -> Result<()> {
        let n = self.ids.dims()[1];
        if ids.len() != batch * n {
            let (wanted, got) = (format!("{batch} x {n} ids"), ids.len().to_string());
            return Err(Error::Shape { op: "match_prompts", arg: "ids", wanted, got });
        }
        self.ids.reshape([batch, n]);
        self.ids.view_mut().write(ids)
    }

    /// Query features computed earlier, instead of a query pass.
    pub fn set_query(&mut self, query: View) -> Result<()> {
        self.query.reshape(query.shape());
        self.query.view_mut().copy_from(query)
    }
}
