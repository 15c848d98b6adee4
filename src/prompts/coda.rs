//! CODA-Prompt: the prompt of an image is a weighted sum of components, and each task adds components.
//! Source: Smith et al. 2023, arXiv:2211.13218; GT-RIPL/CODA-Prompt @ 6417d4f, `models/zoo.py`, `CodaPrompt`.
//!
//! Names: N components of L_p rows, of which rows s..f belong to the current task; weights w (B, N).

use super::choice::{PromptChoice, Rows};
use super::gram_schmidt::gram_schmidt;
use super::onnx::{ChosenGraph, PromptGraph};
use super::settings::{Components, Room};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::nn::layers::Linear;
use crate::nn::onnx::Weights;
use crate::nn::params::{Declare, Grads, ParamId, Params};
use crate::onnx::{Element, Graph, Value};
use crate::ops::axpy::{axpy, cast, scale_in_place};
use crate::ops::component_weights;
use crate::ops::matmul::{self, Layout, Write};
use crate::ops::sum;
use crate::rng::{Rng, Stream};
use crate::tensor::plan::Plan;
use crate::tensor::{Shape, Tensor, View, ViewMut};
use std::ops::Range;

/// What a layer has: `coda/L/key` and `coda/L/attention` [N, C], `coda/L/prompt` [N, L_p, C], whose first half of the
/// rows are keys and whose second half are values in front of the attention. Components beyond f are zero and so have
/// weight 0; those before s do not learn.
#[derive(Debug)]
pub struct Coda {
    settings: Components,
    layers: Vec<Layer>,
    /// s..f; empty until a task is entered.
    active: Range<usize>,
    channels: usize,
    temp: Temp,
}

#[derive(Debug)]
struct Layer {
    index: usize,
    key: ParamId,
    attention: ParamId,
    prompt: ParamId,
    /// (B, N)
    weights: Tensor,
}

/// What the passes need beside the weights.
#[derive(Debug)]
struct Temp {
    /// (B, L_p / 2 · C): a prefix or its gradient, where activations have 16 bits and components f32.
    prefix: Tensor,
    /// (B, C): the queries of the last choice that is learned from.
    query: Tensor,
    /// (B, N)
    dweights: Tensor,
    /// (N, C): gradients of attention and key of one layer.
    drows: [Tensor; 2],
    /// (3 E, f, f) for E layers: M Mᵀ - I of each parameter M.
    gram: Tensor,
    /// The same with -I of each.
    minus_identity: Tensor,
}

impl Layer {
    fn params(&self) -> [ParamId; 3] {
        [self.key, self.attention, self.prompt]
    }
}

impl Coda {
    pub(super) fn new(declare: &mut Declare, plan: &mut Plan, settings: &Components, room: Room) -> Coda {
        let Room { dims, batch: b, training, dtype, activations } = room;
        let (c, n, config) = (dims.embed_dim, settings.config.components, &settings.config);
        let mut layer = |index: usize| Layer {
            index,
            key: declare.add(format!("coda/{index}/key"), [n, c]),
            attention: declare.add(format!("coda/{index}/attention"), [n, c]),
            prompt: declare.add(format!("coda/{index}/prompt"), Shape::new(&[n, config.length, c])),
            weights: plan.tensor(format!("component weights of layer {index}"), [b, n], dtype),
        };
        let layers: Vec<Layer> = config.layers.iter().map(|&l| layer(l)).collect();
        let back = |size: usize| if training { size } else { 0 };
        let matrices = if training && config.ortho_mu > 0.0 { 3 * layers.len() } else { 0 };
        let narrow = if activations == dtype { 0 } else { b };
        let temp = Temp {
            prefix: plan.tensor("prefix, wide", [narrow, config.length / 2 * c], dtype),
            query: plan.tensor("query of a step", [back(b), c], dtype),
            dweights: plan.tensor("dweights of components", [back(b), n], dtype),
            drows: ["dattention", "dkey"].map(|name| plan.tensor(name, [back(n), c], dtype)),
            gram: plan.tensor("Gram matrices of components", [matrices, n, n], dtype),
            minus_identity: plan.tensor("identities", [matrices, n, n], dtype),
        };
        Coda { settings: settings.clone(), layers, active: 0..0, channels: c, temp }
    }

    fn components(&self) -> usize {
        self.settings.config.components
    }

    fn layer(&self, l: usize) -> Option<&Layer> {
        self.layers.iter().find(|layer| layer.index == l)
    }

    /// Rows of keys, and of values, that enter layer `l`.
    pub(super) fn prefix_rows(&self, l: usize) -> usize {
        self.layer(l).map_or(0, |_| self.settings.config.length / 2)
    }

    /// Whether what enters layer `l` learns.
    pub(super) fn learns(&self, p: &Params, grads: &Grads, l: usize) -> bool {
        self.layer(l).is_some_and(|layer| layer.params().into_iter().any(|id| grads.wants(p, id)))
    }

    /// The half of each component's rows that are keys (0) or values (1): (N, L_p / 2 · C) of (N, L_p · C).
    fn half(&self, side: usize) -> Layout {
        let stride = self.settings.config.length * self.channels;
        let cols = stride / 2;
        Layout { rows: self.components(), cols, offset: side * cols, stride }
    }

    /// Weights for queries (B, C).
    pub(super) fn choose(&mut self, dev: &Device, p: &Params, query: View) -> Result<()> {
        let (b, n) = (query.dims()[0], self.components());
        for layer in &mut self.layers {
            layer.weights.reshape([b, n]);
            let (attention, key) = (p.get(layer.attention), p.get(layer.key));
            component_weights::forward(dev, layer.weights.view_mut(), query, attention, key)?;
        }
        Ok(())
    }

    /// [`Coda::choose`] for a batch that is learned from: its queries are kept for the backward pass.
    pub(super) fn choose_to_learn(&mut self, dev: &Device, p: &Params, query: View) -> Result<()> {
        self.temp.query.reshape(query.shape());
        self.temp.query.view_mut().copy_from(query)?;
        self.choose(dev, p, query)
    }

    /// The weights of the last choice, layer by layer for each image.
    pub(super) fn choice(&self) -> Result<PromptChoice> {
        let n = self.components();
        let each: Vec<Vec<f64>> =
            self.layers.iter().map(|layer| layer.weights.view().read_f64()).collect::<Result<_>>()?;
        let images = self.layers.first().map_or(0, |layer| layer.weights.dims()[0]);
        let values = (0..images).flat_map(|b| each.iter().flat_map(move |w| &w[b * n..][..n])).copied();
        Ok(PromptChoice::Weights(Rows { values: values.collect(), width: self.layers.len() * n }))
    }

    pub(super) fn empty_choice(&self) -> PromptChoice {
        PromptChoice::Weights(Rows { values: Vec::new(), width: self.layers.len() * self.components() })
    }

    /// Weights computed earlier for `batch` images, instead of a choice.
    pub(super) fn set_choice(&mut self, batch: usize, choice: &PromptChoice) -> Result<()> {
        let (n, width) = (self.components(), self.layers.len() * self.components());
        let wanted = format!("{batch} x {width} weights");
        let refused = |got: String| Error::Shape { op: "component_weights", arg: "choice", wanted, got };
        let PromptChoice::Weights(rows) = choice else { return Err(refused("ids".into())) };
        if rows.width != width || rows.values.len() != batch * width {
            return Err(refused(format!("{} values, {} for each image", rows.values.len(), rows.width)));
        }
        for (at, layer) in self.layers.iter_mut().enumerate() {
            let of_layer = rows.values.chunks_exact(width).flat_map(|image| &image[at * n..][..n]);
            let values: Vec<f64> = of_layer.copied().collect();
            layer.weights.reshape([batch, n]);
            let values = Tensor::from_f64(&values, [batch, n], layer.weights.dtype());
            layer.weights.view_mut().copy_from(values.view())?;
        }
        Ok(())
    }

    /// Overwrites key and value prefix (B, L_p / 2, C) of layer `l`: w P, the halves of P side by side. The product has
    /// the type of the components, the prefix that of activations.
    pub(super) fn write_prefix(
        &mut self,
        dev: &Device,
        p: &Params,
        l: usize,
        prefix: &mut [Tensor; 2],
    ) -> Result<()> {
        let halves = [self.half(0), self.half(1)];
        let Coda { layers, temp: Temp { prefix: wide, .. }, .. } = self;
        let Some(layer) = layers.iter().find(|layer| layer.index == l) else { return Ok(()) };
        let b = layer.weights.dims()[0];
        for (half, out) in halves.into_iter().zip(prefix) {
            let at = Layout::dense(b, half.cols);
            let weights = (layer.weights.view(), Layout::dense(b, half.rows));
            let components = (p.get(layer.prompt), half);
            if out.dtype() == layer.weights.dtype() {
                matmul::forward(dev, (out.view_mut(), at), weights, components, Write::Set)?;
                continue;
            }
            wide.reshape([b, half.cols]);
            matmul::forward(dev, (wide.view_mut(), at), weights, components, Write::Set)?;
            cast(dev, out.view_mut(), wide.view())?;
        }
        Ok(())
    }

    /// Adds what the gradient of the prefixes of layer `l` says of its prompts and, through the weights, of its keys
    /// and attention vectors.
    pub(super) fn backward_prefix(
        &mut self,
        dev: &Device,
        p: &Params,
        grads: &mut Grads,
        l: usize,
        dprefix: &[Tensor; 2],
    ) -> Result<()> {
        let halves = [self.half(0), self.half(1)];
        let Coda { layers, temp: Temp { prefix: wide, query, dweights, drows, .. }, .. } = self;
        let Some(layer) = layers.iter().find(|layer| layer.index == l) else { return Ok(()) };
        let (b, n) = (layer.weights.dims()[0], halves[0].rows);
        let weights = (layer.weights.view(), Layout::dense(b, n));
        dweights.reshape([b, n]);
        for (side, (half, d)) in halves.into_iter().zip(dprefix).enumerate() {
            let d = if d.dtype() == layer.weights.dtype() {
                d.view()
            } else {
                wide.reshape([b, half.cols]);
                cast(dev, wide.view_mut(), d.view())?;
                wide.view()
            };
            let d = (d, Layout::dense(b, half.cols));
            if let Some(dprompt) = grads.get_mut(p, layer.prompt) {
                matmul::backward_weight_acc(dev, (dprompt, half), weights, d)?;
            }
            let write = if side == 0 { Write::Set } else { Write::Add };
            let out = (dweights.view_mut(), Layout::dense(b, n));
            matmul::backward_input(dev, out, d, (p.get(layer.prompt), half), write)?;
        }
        let [dattention, dkey] = drows;
        dattention.fill(0.0);
        dkey.fill(0.0);
        let (attention, key) = (p.get(layer.attention), p.get(layer.key));
        let out = (dattention.view_mut(), dkey.view_mut());
        component_weights::backward_acc(dev, out.0, out.1, dweights.view(), query.view(), attention, key)?;
        for (id, d) in [(layer.attention, dattention), (layer.key, dkey)] {
            if let Some(grad) = grads.get_mut(p, id) {
                axpy(dev, grad, d.view(), 1.0)?;
            }
        }
        Ok(())
    }

    /// Weights for queries (B, C), and the prefixes that come of them. With Â = A ∘ u(K), the cosine of q ∘ A and K is
    /// q Âᵀ / max(√(q² (A²)ᵀ), 1e-12).
    ///
    /// # Errors
    /// `Error::Failed` if the device fails.
    pub(super) fn onnx(
        &self,
        g: &mut Graph,
        w: Weights,
        query: &Value,
        into: &mut PromptGraph,
    ) -> Result<()> {
        let (n, c, length) = (self.components(), self.channels, self.settings.config.length);
        let squares = g.mul(query, query);
        let mut all = Vec::new();
        for layer in &self.layers {
            let attention = w.p.get(layer.attention).read_f64()?;
            let towards = w.part(g, layer.key, "of unit length, times attention", &[c, n], |keys| {
                let unit =
                    keys.chunks_exact(c).zip(attention.chunks_exact(c)).flat_map(|(key, attention)| {
                        let size = key.iter().map(|v| v * v).sum::<f64>().sqrt().max(1e-12);
                        key.iter().zip(attention).map(move |(key, a)| key / size * a)
                    });
                transposed(&unit.collect::<Vec<f64>>(), c)
            })?;
            let of_squares = w.part(g, layer.attention, "squared", &[c, n], |a| {
                transposed(&a.iter().map(|v| v * v).collect::<Vec<f64>>(), c)
            })?;
            let product = g.mat_mul(query, &towards);
            let sizes = g.mat_mul(&squares, &of_squares);
            let sizes = g.op("Sqrt", &[&sizes], &[]);
            let sizes = g.at_least(&sizes, 1e-12);
            let weights = g.op("Div", &[&product, &sizes], &[]);
            let half = length / 2 * c;
            let mut sides = Vec::new();
            for (side, what) in ["of keys", "of values"].into_iter().enumerate() {
                let prompts = w.part(g, layer.prompt, what, &[n, half], |all| {
                    all.chunks_exact(2 * half).flat_map(|row| row[side * half..][..half].to_vec()).collect()
                })?;
                let rows = g.mat_mul(&weights, &prompts);
                sides.push(g.reshape(&rows, &[0, (length / 2) as i64, c as i64]));
            }
            if let Ok(sides) = <[Value; 2]>::try_from(sides) {
                into.add_prefix(layer.index, sides);
            }
            all.push(weights);
        }
        let width = self.layers.len() * n;
        let value = g.concat(&all, 1);
        into.chosen = Some(ChosenGraph { name: "component_weights", value, element: Element::F32, width });
        Ok(())
    }

    /// mu, the factor of the penalty in the loss.
    pub(super) fn penalty_weight(&self) -> f64 {
        self.settings.config.ortho_mu
    }

    /// The parameters M as matrices of f rows: their ids and widths.
    fn matrices(&self) -> Vec<(ParamId, usize)> {
        let (c, length) = (self.channels, self.settings.config.length);
        let of = |layer: &Layer| [(layer.key, c), (layer.attention, c), (layer.prompt, length * c)];
        self.layers.iter().flat_map(of).collect()
    }

    /// Overwrites `out` (1), unless mu is 0: Σ over layers and their parameters M of the mean of (M Mᵀ - I)², of
    /// the f components so far, old ones included.
    pub(super) fn penalty(&mut self, dev: &Device, p: &Params, mut out: ViewMut) -> Result<()> {
        if self.penalty_weight() == 0.0 {
            return Ok(());
        }
        let (f, matrices) = (self.active.end, self.matrices());
        let Temp { gram, minus_identity, .. } = &mut self.temp;
        gram.reshape([matrices.len(), f, f]);
        gram.view_mut().copy_from(minus_identity.view())?;
        for (i, (id, width)) in matrices.into_iter().enumerate() {
            let m = (p.get(id), Layout::dense(f, width));
            let product = (gram.view_mut().part(i * f * f, [f, f]), Layout::dense(f, f));
            matmul::backward_input(dev, product, m, m, Write::Add)?;
        }
        out.fill(0.0);
        sum::squares_acc(dev, out.reborrow(), gram.view())?;
        scale_in_place(dev, out, 1.0 / (f * f) as f64)
    }

    /// Adds the gradient of `weight` times [`Coda::penalty`], which was computed last: 4 weight / f² (M Mᵀ - I) M.
    pub(super) fn backward_penalty(
        &mut self,
        dev: &Device,
        p: &Params,
        grads: &mut Grads,
        weight: f64,
    ) -> Result<()> {
        if self.penalty_weight() == 0.0 {
            return Ok(());
        }
        let (f, matrices) = (self.active.end, self.matrices());
        let gram = &mut self.temp.gram;
        scale_in_place(dev, gram.view_mut(), 4.0 * weight / (f * f) as f64)?;
        for (i, (id, width)) in matrices.into_iter().enumerate() {
            let Some(grad) = grads.get_mut(p, id) else { continue };
            let at = Layout::dense(f, width);
            let gram = (gram.view().part(i * f * f, [f, f]), Layout::dense(f, f));
            matmul::forward(dev, (grad, at), gram, (p.get(id), at), Write::Add)?;
        }
        Ok(())
    }

    /// All components zero: those of a task are drawn when it begins. The head is uniform in ±1/√C, kernel and bias,
    /// as PyTorch's linear layers start.
    ///
    /// # Errors
    /// `Error::Config` if there are more components than a key has directions.
    pub(super) fn init(&self, p: &mut Params, head: &Linear, seed: u64) -> Result<()> {
        let (c, used) = (self.channels, self.settings.each() * self.settings.tasks);
        if used > c {
            return Err(Error::config(format!(
                "coda.components: the {used} that all tasks use must be orthogonal in the {c} channels of the \
                 backbone: wanted at most {c}, found {}",
                self.components()
            )));
        }
        for id in self.layers.iter().flat_map(Layer::params) {
            p.get_mut(id).fill(0.0);
        }
        let bound = 1.0 / (c as f64).sqrt();
        for (stream, id) in [head.kernel, head.bias].into_iter().enumerate() {
            // Streams of their own, beside those of prompts, keys and general prompts.
            let mut rng = Rng::new(seed, Stream::Init, 3 + stream as u64);
            p.draw(id, || bound * (2.0 * f64::from(rng.uniform()) - 1.0))?;
        }
        Ok(())
    }

    /// From now on the components of task `task` learn; those before it take part, those behind it are not used.
    ///
    /// # Errors
    /// `Error::Config` for a task that no components are left for.
    pub(super) fn enter_task(&mut self, p: &mut Params, task: usize) -> Result<()> {
        let (each, n, tasks) = (self.settings.each(), self.components(), self.settings.tasks);
        if task >= tasks {
            return Err(Error::config(format!(
                "coda.components: the {n} components are divided among the {tasks} tasks of continual.num_tasks, but \
                 task {} begins; wanted continual.num_tasks to be the number of tasks",
                task + 1
            )));
        }
        let active = task * each..(task + 1) * each;
        if self.active == active {
            return Ok(());
        }
        let frozen = [0..active.start, active.end..n];
        let frozen: Vec<Range<usize>> = frozen.into_iter().filter(|rows| !rows.is_empty()).collect();
        for id in self.layers.iter().flat_map(Layer::params) {
            if p.spec(id).trainable {
                p.freeze_rows(id, &frozen)?;
            }
        }
        if !self.temp.minus_identity.is_empty() {
            let (f, each) = (active.end, &mut self.temp.minus_identity);
            let matrices = 3 * self.layers.len();
            let one = (0..f * f).map(|i| if i / f == i % f { -1.0 } else { 0.0 });
            let values: Vec<f64> = std::iter::repeat_n(one, matrices).flatten().collect();
            each.reshape([matrices, f, f]);
            let values = Tensor::from_f64(&values, [matrices, f, f], each.dtype());
            each.view_mut().copy_from(values.view())?;
        }
        self.active = active;
        Ok(())
    }

    /// Components of the tasks so far, f: launches of a step depend on it.
    pub(super) fn in_use(&self) -> usize {
        self.active.end
    }

    /// Draws the components of task `task` and makes them orthogonal to those before it. A component's numbers have a
    /// random stream of their own. The host does this, on a GPU too, because it happens once in a task: components are
    /// downloaded and uploaded again.
    pub(super) fn begin_task(&mut self, p: &mut Params, task: usize) -> Result<()> {
        self.enter_task(p, task)?;
        let (n, layers) = (self.components(), self.layers.len());
        for (at, layer) in self.layers.iter().enumerate() {
            for (which, id) in layer.params().into_iter().enumerate() {
                let mut values = p.get(id).read_f64()?;
                let width = values.len() / n;
                let (start, end) = (self.active.start * width, self.active.end * width);
                let draws = self.active.clone().flat_map(|row| {
                    let index = ((row * layers + at) * 3 + which) as u64;
                    let mut rng = Rng::new(self.settings.seed, Stream::Components, index);
                    (0..width).map(move |_| rng.normal())
                });
                let new = gram_schmidt(&values[..start], &draws.collect::<Vec<f64>>(), width)?;
                values[start..end].copy_from_slice(&new);
                p.set(id, &values)?;
            }
        }
        Ok(())
    }

    /// The weights (B, N) of the last choice at layer `l`, if it has components.
    pub fn weights(&self, l: usize) -> Option<View<'_>> {
        self.layer(l).map(|layer| layer.weights.view())
    }
}

/// Rows of width `c` as columns.
fn transposed(rows: &[f64], c: usize) -> Vec<f64> {
    (0..c).flat_map(|column| rows.chunks_exact(c).map(move |row| row[column])).collect()
}
