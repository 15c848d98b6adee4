//! The prompt pool of L2P: queries against keys, selection, the pull term and its gradients.
//! Source: Wang et al. 2022, arXiv:2112.08654; google-research/l2p `models/prompt.py`.

use super::choice::PromptChoice;
use super::onnx::{ChosenGraph, PromptGraph};
use super::settings::Room;
use super::stack::{Entering, Place, Stack};
use crate::config::schema::{PromptPool, Selection};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::nn::onnx::Weights;
use crate::nn::params::{Declare, Grads, ParamId, Params};
use crate::onnx::{Element, Graph, Value};
use crate::ops::axpy::axpy;
use crate::ops::match_prompts::{self, Select};
use crate::ops::matmul::{self, Layout, Write};
use crate::ops::pool_tokens;
use crate::ops::row_norm::{self, Normalization};
use crate::rng::{Rng, Stream};
use crate::tensor::plan::Plan;
use crate::tensor::{DType, Shape, Tensor, View, ViewMut};

/// `prompt_pool/prompt` [E, M, L_p, C], or [E, 2, M, L_p, H, D] as prefixes, of which each image uses N prompts;
/// `prompt_pool/key` [M, C], if keys are learned. What selection writes is read by the pull term's backward pass.
#[derive(Debug)]
pub struct Pool {
    pub(super) config: PromptPool,
    pub(super) stack: Stack,
    pub(super) key: Option<ParamId>,
    /// By which a selection at random draws.
    seed: u64,
    /// (B, C), rows of unit length.
    pub query_unit: Tensor,
    /// (M, C), learned or means of the prompts.
    keys: Tensor,
    /// (M, C), rows of unit length.
    keys_unit: Tensor,
    /// (B, M)
    pub similarity: Tensor,
    /// (B, N)
    pub ids: Tensor,
    /// The selection before vote and mask, (B, N).
    pub own_ids: Tensor,
    /// (2, M): how often each prompt was used, by the tasks before this one and by this one; empty unless the
    /// selection looks at it.
    pub(super) used: Tensor,
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

/// The gradient of the pull term, times `weight`, is asked for.
#[derive(Debug)]
pub struct PullBackward<'a> {
    /// The factor of the pull term in the loss.
    pub weight: f64,
    /// (B, C): the queries of the selection.
    pub query: View<'a>,
    /// (B, C): where the gradient of the queries goes, if it is wanted.
    pub dquery: Option<&'a mut Tensor>,
}

impl Pool {
    pub(super) fn new(
        declare: &mut Declare,
        plan: &mut Plan,
        config: &PromptPool,
        seed: u64,
        room: Room,
    ) -> Pool {
        let Room { dims, batch: b, training, dtype, .. } = room;
        let (c, heads) = (dims.embed_dim, dims.heads);
        let (e, m, length) = (config.e_prompt_layer_idx.len(), config.pool_size, config.length);
        let (n, learned, prefix) = (config.top_k, config.prompt_key, config.use_prefix_tune_for_e_prompt);
        let shape = match prefix {
            true => Shape::new(&[e, 2, m, length, heads, c / heads]),
            false => Shape::new(&[e, m, length, c]),
        };
        let stack = Stack {
            id: declare.add("prompt_pool/prompt", shape),
            place: if prefix { Place::Prefix } else { Place::Tokens },
            layers: config.e_prompt_layer_idx.iter().enumerate().map(|(slice, &l)| (l, slice)).collect(),
            sides: if prefix { 2 } else { 1 },
            rows: m * length,
            channels: c,
            chosen: n,
            length,
        };
        let keyed = config.selection == Selection::Key;
        let key = (learned && keyed).then(|| declare.add("prompt_pool/key", [m, c]));
        let counted = if config.diversified_selection { m } else { 0 };
        let (back, of_means) = (if training { b } else { 0 }, if learned || !keyed { 0 } else { m });
        Pool {
            config: config.clone(),
            stack,
            key,
            seed,
            query_unit: plan.tensor("unit query", [b, c], dtype),
            keys: plan.tensor("keys", [m, c], dtype),
            keys_unit: plan.tensor("unit keys", [m, c], dtype),
            similarity: plan.tensor("similarity", [b, m], dtype),
            ids: plan.tensor("prompt ids", [b, n], DType::U32),
            own_ids: plan.tensor("own prompt ids", [b, n], DType::U32),
            used: plan.tensor("uses of prompts", [2, counted], DType::U32),
            temp: Temp {
                mean: plan.tensor("mean prompts", [of_means, c], dtype),
                scores: plan.tensor("scores", [b, counted], dtype),
                dsimilarity: plan.tensor("dsimilarity", [back, m], dtype),
                dkeys_unit: plan.tensor("dunit keys", [if training { m } else { 0 }, c], dtype),
                drows: plan.tensor("dprompt rows", [of_means, length, c], dtype),
                dquery_unit: plan.tensor("dunit query", [back, c], dtype),
            },
        }
    }

    pub(super) fn entering(&self) -> Entering<'_> {
        Entering { stack: &self.stack, ids: self.ids.view() }
    }

    /// Whether images choose by keys.
    pub(super) fn has_keys(&self) -> bool {
        self.config.selection == Selection::Key
    }

    /// How the images of a training step choose their prompts.
    pub(super) fn how_to_learn(&self, task: usize, batch: usize) -> Select {
        let config = &self.config;
        if !self.has_keys() {
            return Select::PerImage;
        }
        if config.use_prompt_mask && (task + 1) * config.top_k <= config.pool_size {
            return Select::Fixed { start: task * config.top_k };
        }
        let group = if config.vote_group == 0 { batch } else { config.vote_group };
        if config.batchwise_prompt { Select::Vote { group } } else { Select::PerImage }
    }

    /// Similarities and ids for queries (B, C).
    pub(super) fn choose(&mut self, dev: &Device, p: &Params, query: View, how: Select) -> Result<()> {
        let (b, m, c) = (query.dims()[0], self.config.pool_size, self.stack.channels);
        let n = self.config.top_k;
        for (tensor, width) in
            [(&mut self.query_unit, c), (&mut self.similarity, m), (&mut self.ids, n), (&mut self.own_ids, n)]
        {
            tensor.reshape([b, width]);
        }
        if !self.has_keys() {
            return self.choose_without_keys(query);
        }
        /* 1 */
        self.fill_keys(dev, p)?;
        /* 2 */
        row_norm::forward(dev, self.query_unit.view_mut(), query, Normalization::Rsqrt)?;
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

    /// Ids for queries (B, C) that are compared with nothing: drawn, or the first.
    fn choose_without_keys(&mut self, query: View) -> Result<()> {
        let (m, n) = (self.config.pool_size as u32, self.config.top_k);
        let (batch, width) = (query.dims()[0], query.dims()[1]);
        let ids: Vec<u32> = match self.config.selection {
            Selection::Random => {
                let queries = query.read_f64()?;
                queries.chunks_exact(width).flat_map(|query| drawn(self.seed, query, m, n)).collect()
            }
            _ => (0..batch).flat_map(|_| 0..n as u32).collect(),
        };
        self.own_ids.view_mut().write(&ids)?;
        self.ids.view_mut().write(&ids)
    }

    /// [`Pool::choose`] for a batch that is learned from: prompts that earlier tasks used often are passed over,
    /// where the configuration says so, and what is used is counted.
    pub(super) fn choose_to_learn(
        &mut self,
        dev: &Device,
        p: &Params,
        query: View,
        how: Select,
    ) -> Result<()> {
        self.choose(dev, p, query, how)?;
        if !self.config.diversified_selection {
            return Ok(());
        }
        let (b, m) = (query.dims()[0], self.config.pool_size);
        let scores = &mut self.temp.scores;
        scores.reshape([b, m]);
        let earlier = self.used.view().part(0, [m]);
        match_prompts::penalise(dev, scores.view_mut(), self.similarity.view(), earlier)?;
        match_prompts::select(dev, self.ids.view_mut(), scores.view(), how)?;
        match_prompts::count_acc(dev, self.used.view_mut().part(m, [m]), self.ids.view())
    }

    /// [`Pool::choose`] for each image, and the prompts that come of it. query: (B, C).
    ///
    /// # Errors
    /// `Error::Config` for prompts that are drawn.
    pub(super) fn onnx(
        &self,
        g: &mut Graph,
        w: Weights,
        query: &Value,
        into: &mut PromptGraph,
    ) -> Result<()> {
        let (m, n, c) = (self.config.pool_size, self.config.top_k, self.stack.channels);
        let ids = match self.config.selection {
            Selection::Random => {
                return Err(Error::config(
                    "prompt_pool.selection: `random` draws prompts by the bits of an image's query, which ONNX cannot; \
                     wanted `key` or `fixed`, or `export --format safetensors`",
                ));
            }
            Selection::Fixed => g.numbers_for_each_image(&(0..n as i64).collect::<Vec<_>>())?,
            Selection::Key => {
                let name = "unit keys, transposed";
                let keys = match self.key {
                    Some(key) => w.part(g, key, name, &[c, m], |keys| unit_columns(&keys, c))?,
                    None => w.part(g, self.stack.id, name, &[c, m], |prompts| {
                        // The mean over slices and positions of each prompt.
                        let (length, slices) = (self.stack.length, self.stack.layers.len());
                        let mut keys = vec![0.0; m * c];
                        for (i, value) in prompts.iter().enumerate() {
                            keys[i / (length * c) % m * c + i % c] += value / (slices * length) as f64;
                        }
                        unit_columns(&keys, c)
                    })?,
                };
                // q / √max(Σq², 1e-12) is q / max(‖q‖, 1e-6).
                let length = g.length(query);
                let length = g.at_least(&length, LEAST.sqrt());
                let unit = g.op("Div", &[query, &length], &[]);
                let similarity = g.mat_mul(&unit, &keys);
                g.top_places(&similarity, n)
            }
        };
        into.chosen =
            Some(ChosenGraph { name: "prompts", value: ids.clone(), element: Element::I64, width: n });
        into.add_stack(g, w, &self.stack, Some(&ids))
    }

    fn fill_keys(&mut self, dev: &Device, p: &Params) -> Result<()> {
        self.keys.fill(0.0);
        if let Some(key) = self.key {
            return axpy(dev, self.keys.view_mut(), p.get(key), 1.0);
        }
        // The mean over slices and positions of each prompt.
        let (slices, m, n) = (self.stack.layers.len(), self.config.pool_size, self.stack.length);
        let c = self.stack.channels;
        let mean = &mut self.temp.mean;
        for slice in 0..slices {
            let rows = p.get(self.stack.id).part(slice * m * n * c, [m, n, c]);
            pool_tokens::forward(dev, mean.view_mut(), rows, 0..n, pool_tokens::Pooling::Mean)?;
            axpy(dev, self.keys.view_mut(), mean.view(), 1.0 / slices as f64)?;
        }
        Ok(())
    }

    /// Overwrites `out` (1): Σ of the selected similarities / B.
    pub(super) fn pull(&self, dev: &Device, out: ViewMut) -> Result<()> {
        match_prompts::pull(dev, out, self.similarity.view(), self.ids.view())
    }

    /// Adds the gradient of the weighted pull term to the keys (or prompts), and overwrites that of the queries.
    pub(super) fn backward_pull(
        &mut self,
        dev: &Device,
        p: &Params,
        grads: &mut Grads,
        of: PullBackward,
    ) -> Result<()> {
        let (b, m, c) = (of.query.dims()[0], self.config.pool_size, self.stack.channels);
        let Temp { mean: dkeys, dsimilarity, dkeys_unit: dunit, drows, dquery_unit, .. } = &mut self.temp;
        dsimilarity.reshape([b, m]);
        match_prompts::backward_pull(dev, dsimilarity.view_mut(), self.ids.view(), of.weight)?;
        let ds = (dsimilarity.view(), Layout::dense(b, m));
        /* 3, keys */
        dunit.fill(0.0);
        let query = (self.query_unit.view(), Layout::dense(b, c));
        matmul::backward_weight_acc(dev, (dunit.view_mut(), Layout::dense(m, c)), ds, query)?;
        let keys = self.keys.view();
        if let Some(key) = self.key {
            /* 2, 1 */
            if let Some(dkey) = grads.get_mut(p, key) {
                row_norm::backward_acc(dev, dkey, dunit.view(), keys, Normalization::Rsqrt)?;
            }
        } else if let Some(mut dprompt) = grads.get_mut(p, self.stack.id) {
            dkeys.fill(0.0);
            /* 2 */
            row_norm::backward_acc(dev, dkeys.view_mut(), dunit.view(), keys, Normalization::Rsqrt)?;
            /* 1 */
            let (slices, n) = (self.stack.layers.len(), self.stack.length);
            for slice in 0..slices {
                let start = slice * m * n * c;
                let rows = p.get(self.stack.id).part(start, [m, n, c]);
                let kind = pool_tokens::Pooling::Mean;
                pool_tokens::backward(dev, drows.view_mut(), dkeys.view(), rows, 0..n, kind)?;
                let target = dprompt.reborrow().part(start, [m * n * c]);
                axpy(dev, target, drows.view(), 1.0 / slices as f64)?;
            }
        }
        let Some(dquery) = of.dquery else { return Ok(()) };
        /* 3, 2, query */
        dquery_unit.reshape([b, c]);
        let keys = (self.keys_unit.view(), Layout::dense(m, c));
        matmul::forward(dev, (dquery_unit.view_mut(), Layout::dense(b, c)), ds, keys, Write::Set)?;
        dquery.reshape([b, c]);
        dquery.fill(0.0);
        let (dy, form) = (dquery_unit.view(), Normalization::Rsqrt);
        row_norm::backward_acc(dev, dquery.view_mut(), dy, of.query, form)
    }

    /// The ids of the last selection, on the host.
    pub(super) fn choice(&self) -> Result<PromptChoice> {
        Ok(PromptChoice::ids(self.ids.view().read::<u32>()?, self.config.top_k, self.config.pool_size))
    }

    /// Ids chosen earlier, N for each of `batch` images, instead of a selection.
    pub(super) fn set_choice(&mut self, batch: usize, choice: &PromptChoice) -> Result<()> {
        let n = self.config.top_k;
        let (wanted, arg) = (format!("{batch} x {n} ids"), "choice");
        let Some((ids, _)) = choice.as_ids() else {
            return Err(Error::Shape { op: "match_prompts", arg, wanted, got: "weights".into() });
        };
        if ids.len() != batch * n {
            return Err(Error::Shape { op: "match_prompts", arg, wanted, got: ids.len().to_string() });
        }
        self.ids.reshape([batch, n]);
        self.ids.view_mut().write(ids)
    }

    pub(super) fn begin_task(&mut self, p: &mut Params, task: usize) -> Result<()> {
        self.shift_uses()?;
        self.transfer(p, task)
    }

    /// What was used belongs to the earlier tasks.
    fn shift_uses(&mut self) -> Result<()> {
        if self.used.is_empty() {
            return Ok(());
        }
        let counts = self.used.view().read::<u32>()?;
        let (earlier, last) = counts.split_at(counts.len() / 2);
        let mut all: Vec<u32> = earlier.iter().zip(last).map(|(a, b)| a.saturating_add(*b)).collect();
        all.resize(counts.len(), 0);
        self.used.view_mut().write(&all)
    }

    /// At the start of task t > 0: prompts [t N, (t+1) N) start as a copy of [(t-1) N, t N), while
    /// they exist; the same for the keys, where the configuration shares them.
    /// Source: google-research/l2p `train_continual.py:551-570`.
    fn transfer(&self, p: &mut Params, task: usize) -> Result<()> {
        let (n, m, c) = (self.config.top_k, self.config.pool_size, self.stack.channels);
        if task == 0 || (task + 1) * n > m {
            return Ok(());
        }
        let shared = [
            (self.config.shared_prompt_pool.then_some(self.stack.id), self.stack.rows * c),
            (self.key.filter(|_| self.config.shared_prompt_key), m * c),
        ];
        for (id, slice) in shared {
            let Some(id) = id else { continue };
            let mut values = p.get(id).read_f64()?;
            // Values per prompt within one slice of the pool axis.
            let each = slice / m;
            for slice in values.chunks_exact_mut(slice) {
                slice.copy_within((task - 1) * n * each..task * n * each, task * n * each);
            }
            p.set(id, &values)?;
        }
        Ok(())
    }
}

/// The least square of a length, as [`Normalization::Rsqrt`] has it.
const LEAST: f64 = 1e-12;

/// Rows (M, C) with length 1, as columns (C, M).
fn unit_columns(rows: &[f64], c: usize) -> Vec<f64> {
    let unit = |row: &[f64]| {
        let length = row.iter().map(|v| v * v).sum::<f64>().max(LEAST).sqrt();
        row.iter().map(|v| v / length).collect::<Vec<f64>>()
    };
    let rows: Vec<Vec<f64>> = rows.chunks_exact(c).map(unit).collect();
    (0..c).flat_map(|column| rows.iter().map(move |row| row[column])).collect()
}

/// `n` of `m` prompts, drawn by the seed and the bits of the query: an image has the same ones in every batch, on every
/// rank and after a resume, and each of its augmented views has others.
fn drawn(seed: u64, query: &[f64], m: u32, n: usize) -> Vec<u32> {
    // FNV-1a over the values' bits.
    let step = |hash: u64, value: &f64| (hash ^ value.to_bits()).wrapping_mul(0x0000_0100_0000_01b3);
    let hash = query.iter().fold(0xcbf2_9ce4_8422_2325, step);
    let mut ids: Vec<u32> = (0..m).collect();
    Rng::new(seed, Stream::Selection, hash ^ hash >> 32).shuffle(&mut ids);
    ids.truncate(n);
    ids
}

#[cfg(test)]
mod tests {
    use super::drawn;

    #[test]
    fn each_query_draws_different_prompts_and_all_are_drawn_alike() {
        let mut counts = [0usize; 10];
        for image in 0..2000 {
            let query = [0.5, f64::from(image) * 1e-6, -1.0];
            let ids = drawn(7, &query, 10, 4);
            assert_eq!(ids, drawn(7, &query, 10, 4));
            let mut different = ids.clone();
            different.sort_unstable();
            different.dedup();
            assert_eq!(different.len(), 4, "{ids:?}");
            ids.iter().for_each(|&id| counts[id as usize] += 1);
        }
        // 800 each, with a deviation of 22.
        assert!(counts.iter().all(|n| (690..910).contains(n)), "{counts:?}");
        let draws = |seed| (0..20).map(|i| drawn(seed, &[f64::from(i)], 10, 4)).collect::<Vec<_>>();
        assert_ne!(draws(1), draws(2));
    }
}
