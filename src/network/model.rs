//! The prompted network: query pass, selection, prompted pass, head, loss, and all of it backwards.

mod backward;
mod forward;
mod onnx;

pub use onnx::AnswerGraph;

use super::cosine_head::CosineHead;
use super::layout::TokenLayout;
use super::pixels::{PixelInputs, Pixels};
use super::regularizer::Regularizer;
use super::report::{StepReport, StepStats};
use super::setup::Setup;
use super::workspace::{Needs, Workspace};
use crate::config::schema::{ClipScope, HeadInit, TokenOrder};
use crate::device::{Device, range};
use crate::error::{Error, Result};
use crate::nn::adapter::{Adapter, Dropout};
use crate::nn::block::{Block, BlockGrads, BlockShape, Need, SavedBlock, Tools};
use crate::nn::layers::Linear;
use crate::nn::params::{Declare, Grads, Params};
use crate::nn::vit::{EmbedBackward, Vit};
use crate::ops::attention::{Prefix, PrefixMut};
use crate::ops::axpy::{axpy, cast, scale_in_place};
use crate::ops::cross_entropy;
use crate::ops::linear::{Epilogue, PackedForm};
use crate::ops::match_prompts::Select;
use crate::ops::matmul::Write;
use crate::ops::pool_tokens::{self, Pooling};
use crate::ops::row_norm::{self, Normalization};
use crate::ops::{gather, layer_norm, sum, tokens};
use crate::prompts::{Heads, Place, PromptChoice, PromptMethod, Query, TokenRows};
use crate::rng::{Rng, Stream};
use crate::tensor::input::Input;
use crate::tensor::plan::Plan;
use crate::tensor::{DType, Tensor, View};
use std::ops::Range;

/// The logit of a class that a head has never met: below those of the classes it knows, and finite, as losses must be.
const UNKNOWN: f64 = -100.0;

/// Of a head that starts from normal numbers. Source: timm, `vision_transformer.py`, `init_weights_vit_timm`.
const HEAD_DEVIATION: f64 = 0.02;

/// What a step needs to know of its task.
#[derive(Debug, Clone)]
pub struct TaskView {
    pub index: usize,
    /// Classes whose logits take part in the loss, (K), or (B, K) where each image has its own.
    pub mask: Vec<bool>,
    /// What part of a step's images is here: 1, or less on one of several ranks.
    pub rank_fraction: f64,
}

impl TaskView {
    /// The same for some of the images of a step: `classes` is K.
    pub fn part(&self, rows: Range<usize>, classes: usize) -> TaskView {
        let own = self.mask.len() > classes;
        let mask = if own { &self.mask[rows.start * classes..rows.end * classes] } else { &self.mask };
        TaskView { mask: mask.to_vec(), ..*self }
    }
}

/// What a gradient is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Objective {
    /// The whole loss.
    Loss,
    /// The cross-entropy alone, without regularizer and l2 penalty.
    CrossEntropy,
    /// The same, for the head alone.
    CrossEntropyOfHead,
}

/// Parameters, gradients and memory of one network.
#[derive(Debug)]
pub struct Model {
    pub setup: Setup,
    pub layout: TokenLayout,
    pub vit: Vit,
    pub prompts: PromptMethod,
    pub head: Linear,
    /// The head of networks with adapters.
    cosine_head: Option<CosineHead>,
    /// Units of adapters that the next steps drop.
    pub dropout: Option<Dropout>,
    /// The term in the loss that does not come from prompts.
    pub regularizer: Regularizer,
    pub params: Params,
    /// The pre-trained backbone as it was, for the query pass of a backbone that learns.
    pub query_params: Option<Params>,
    pub grads: Grads,
    pub report: StepReport,
    entry: PixelInputs,
    labels: Input,
    soft_labels: Input,
    /// The mask that the workspace holds.
    mask: Vec<bool>,
    /// The weight of the l2 penalty in this task.
    decay: f64,
    limit_last: bool,
    can_share: bool,
    ws: Workspace,
}

impl Model {
    /// A model with all parameters zero. Every tensor comes from `plan`.
    pub fn new(setup: Setup, plan: &mut Plan) -> Model {
        let setup = setup.on(plan.is_on_gpu());
        let mut declare = Declare::new(&setup.freeze_part);
        let mut vit = Vit::declare(&mut declare, setup.dims);
        vit.blocks.iter_mut().for_each(|block| block.strassen = setup.shortcuts.strassen);
        let prompts = PromptMethod::new(&mut declare, plan, &setup.prompts, setup.room());
        let layout = TokenLayout::new(&setup.dims, setup.classifier, &prompts);
        let (c, classes) = (setup.dims.embed_dim, setup.classes);
        let head = match prompts.several_heads() {
            None => Linear::declare(&mut declare, "head", c, classes),
            Some(heads) => Linear::declare_several(&mut declare, "head", c, classes, heads),
        };
        let adapters = setup.adapter.map(|dims| {
            for (l, block) in vit.blocks.iter_mut().enumerate() {
                block.adapter = Some(Adapter::declare(&mut declare, l, c, dims));
            }
            // The head of cosines is there in its place.
            declare.freeze(head.kernel);
            declare.freeze(head.bias);
            CosineHead::declare(&mut declare, classes, c)
        });
        let mut params = declare.finish(plan, setup.dtype);
        if let Some(form) = setup.packed_form(plan) {
            params.keep_packed(plan, vit.blocks.iter().flat_map(Block::kernels), form, setup.training);
        }
        let regularizer = Regularizer::new(plan, &setup.regularizer, &params, setup.sizes());
        let query_params = Self::query_params(&setup, &prompts, &vit, &params, plan);
        let all = setup.clip_scope == ClipScope::All;
        let grads = if setup.training { Grads::new(plan, &params, all) } else { Grads::none(plan, &params) };
        let embed_learns = vit.embed_wanted(&params, &grads);
        let blocks_learn = vit.blocks.iter().any(|b| block_wanted(b, &params, &grads));
        let last = setup.dims.layers - 1;
        let limit_last = setup.shortcuts.limit_last_block && layout.read.len() < layout.layers[last].tokens;
        let can_share = setup.shortcuts.share_query_pass
            && prompts.query_to_learn() == Query::Cls
            && query_params.is_none()
            && !embed_learns
            && !blocks_learn
            && layout.entry.is_some_and(|entry| entry < last);
        let (table_rows, heads) = (prompts.table_rows(), prompts.several_heads().unwrap_or(0));
        let needs = Needs { limit_last, table_rows, heads, blocks_learn, embed_learns };
        let ws = Workspace::new(plan, &setup, &layout, needs);
        let batches = (setup.max_batch, if setup.training { setup.max_batch } else { 0 });
        let wide = setup.dtype.accum_dtype();
        let cosine_head = adapters.map(|ids| CosineHead::new(plan, ids, batches, (classes, c), wide));
        let (report, mask, decay) = (StepReport::new(plan), Vec::new(), setup.weight_decay);
        plan.group("inputs");
        let entry = PixelInputs::new(plan, &setup);
        let labels = Input::new(plan, "labels", [setup.max_batch], DType::U32);
        let mixed = if setup.mixed { setup.max_batch } else { 0 };
        let soft_labels = Input::new(plan, "soft labels", [mixed, setup.classes], DType::F32);
        Model {
            setup,
            layout,
            vit,
            prompts,
            head,
            cosine_head,
            dropout: None,
            regularizer,
            params,
            query_params,
            grads,
            report,
            entry,
            labels,
            soft_labels,
            mask,
            decay,
            limit_last,
            can_share,
            ws,
        }
    }

    /// A copy of the backbone that never learns, if the model's own does.
    fn query_params(
        setup: &Setup,
        prompts: &PromptMethod,
        vit: &Vit,
        params: &Params,
        plan: &mut Plan,
    ) -> Option<Params> {
        let cls = prompts.query() == Query::Cls || setup.keep_original;
        let learns = params.ids().any(|id| {
            let spec = params.spec(id);
            spec.trainable && crate::nn::params::is_backbone(&spec.name)
        });
        (cls && learns).then(|| {
            // Every path contains the empty word: all frozen. The order is that of the model, so the
            // same ids point at the same parameters.
            let mut declare = Declare::new(&[String::new()]);
            Vit::declare(&mut declare, vit.dims);
            let mut params = declare.finish(plan, setup.dtype);
            if setup.bf16_products {
                let kernels = vit.blocks.iter().flat_map(Block::kernels);
                params.keep_packed(plan, kernels, PackedForm::Bf16, false);
            }
            params
        })
    }

    /// Which rows of which layer are what.
    pub fn layout(&self) -> &TokenLayout {
        &self.layout
    }

    /// The type of images, queries and logits.
    pub fn dtype(&self) -> DType {
        self.setup.dtype.accum_dtype()
    }

    /// Copies of parameters in 16 bits, where they are read, up to date.
    fn refresh(&mut self, dev: &Device) -> Result<()> {
        self.params.refresh(dev)?;
        self.query_params.as_mut().map_or(Ok(()), |p| p.refresh(dev))
    }

    /// What happens to head and prompts when task `index` starts.
    pub fn begin_task(&mut self, index: usize) -> Result<()> {
        self.transfer_head(index)?;
        self.prompts.begin_task(&mut self.params, index)
    }

    /// From now on the head's columns of `classes` (ascending) keep their bits; all others learn.
    ///
    /// # Errors
    /// `Error::Failed` for classes that the head has not.
    pub fn keep_classes(&mut self, classes: &[u32]) -> Result<()> {
        let mut ranges: Vec<Range<usize>> = Vec::new();
        for class in classes.iter().map(|&class| class as usize) {
            match ranges.last_mut().filter(|last| last.end == class) {
                Some(last) => last.end = class + 1,
                None => ranges.push(class..class + 1),
            }
        }
        // Where domains have heads of their own, whole ones are frozen.
        if self.prompts.several_heads().is_some() {
            return Ok(());
        }
        for id in [self.head.kernel, self.head.bias] {
            if self.params.spec(id).trainable {
                self.params.freeze_columns(id, &ranges)?;
            }
        }
        Ok(())
    }

    /// In the first `heads` of several heads the classes from `first` on, which these have never met, lose against all
    /// others: kernel zero, bias [`UNKNOWN`].
    ///
    /// # Errors
    /// `Error::Failed` if the device fails.
    pub fn hide_classes(&mut self, heads: usize, first: usize) -> Result<()> {
        let classes = self.setup.classes;
        for (id, value) in [(self.head.kernel, 0.0), (self.head.bias, UNKNOWN)] {
            let mut values = self.params.get(id).read_f64()?;
            let each = values.len() / self.prompts.several_heads().unwrap_or(1);
            let rows = values.chunks_exact_mut(classes).take(heads * each / classes);
            rows.for_each(|row| row[first..].fill(value));
            self.params.set(id, &values)?;
        }
        Ok(())
    }

    /// Class i of a new task starts as the mean of the classes i of the tasks before; of a task that was added later, at
    /// zero.
    /// Source: google-research/l2p @ dd8836e, `libml/utils.py`, `transfer_weights`.
    fn transfer_head(&mut self, task: usize) -> Result<()> {
        let first = task > 0 && task < self.setup.tasks;
        let Some((n, kernel_only)) = self.setup.transfer_head.filter(|_| first) else { return Ok(()) };
        let (kernel, bias) = (self.head.kernel, (!kernel_only).then_some(self.head.bias));
        for id in std::iter::once(kernel).chain(bias) {
            let mut values = self.params.get(id).read_f64()?;
            for row in values.chunks_exact_mut(self.setup.classes) {
                for i in 0..n {
                    row[task * n + i] = (0..task).map(|t| row[t * n + i]).sum::<f64>() / task as f64;
                }
            }
            self.params.set(id, &values)?;
        }
        Ok(())
    }

    /// Before a training step: the head's columns become unit vectors, where the configuration says so.
    /// Source: google-research/l2p @ dd8836e, `libml/utils.py`, `weight_norm`.
    pub fn normalise_head(&mut self, dev: &Device) -> Result<()> {
        if !self.setup.weight_norm {
            return Ok(());
        }
        row_norm::columns_in_place(dev, self.params.get_mut(self.head.kernel))
    }

    /// Query features of `images`, as the keys were trained to meet them, or of the adapted network: (B, C), valid until
    /// the next call.
    pub fn query<'a>(&mut self, dev: &Device, images: impl Into<Pixels<'a>>) -> Result<&Tensor> {
        let images = images.into();
        self.load(dev, images)?;
        match self.patch_query() {
            Some(_) => self.embed(dev, images.batch())?,
            None => self.query_pass(dev, images.batch(), false, true)?,
        }
        Ok(&self.ws.query)
    }

    /// Class-token features of the backbone as it was pre-trained, without prompts and adapters, whatever makes
    /// the queries: (B, C).
    pub fn features<'a>(&mut self, dev: &Device, images: impl Into<Pixels<'a>>) -> Result<Tensor> {
        let images = images.into();
        self.load(dev, images)?;
        self.query_pass(dev, images.batch(), false, false)?;
        Ok(self.ws.query.clone())
    }

    /// Fills adapters, prompts, keys, general prompts and the head as the configuration's initialisers say, unless the
    /// prompt method draws the head itself.
    pub fn init_prompts(&mut self, seed: u64) -> Result<()> {
        for (l, block) in self.vit.blocks.iter().enumerate() {
            block.adapter.as_ref().map_or(Ok(()), |adapter| adapter.init(&mut self.params, l, seed))?;
        }
        self.cosine_head.as_ref().map_or(Ok(()), |head| head.init(&mut self.params, seed))?;
        if self.setup.head_init == HeadInit::Normal {
            // A stream of its own, beside those of prompts and of heads that their methods draw.
            let mut rng = Rng::new(seed, Stream::Init, 8);
            self.params.draw(self.head.kernel, || HEAD_DEVIATION * rng.normal())?;
        }
        self.prompts.init(&mut self.params, &self.head, seed)
    }

    /// The query features that the last call of `query` or `step` computed.
    pub fn last_query(&self) -> &Tensor {
        &self.ws.query
    }

    /// What the head read last: (B, C), before `norm_pre_logits`.
    pub fn pre_logits(&self) -> &Tensor {
        &self.ws.pooled
    }

    pub fn logits(&self) -> &Tensor {
        &self.ws.logits
    }

    /// Chooses prompts for queries (B, C) computed earlier, as `how` says.
    pub fn choose(&mut self, dev: &Device, query: View, how: Select) -> Result<PromptChoice> {
        // A query that was computed earlier is in host memory.
        self.ws.query.reshape(query.shape());
        self.ws.query.view_mut().copy_from(query)?;
        self.prompts.choose(dev, &self.params, self.ws.query.view(), how)?;
        self.prompts.choice()
    }

    /// Logits (B, K) of `images` with the prompts of `choice`, whatever was chosen before.
    pub fn logits_with<'a>(
        &mut self,
        dev: &Device,
        images: impl Into<Pixels<'a>>,
        choice: &PromptChoice,
    ) -> Result<&Tensor> {
        let images = images.into();
        self.prompts.set_choice(images.batch(), choice)?;
        self.load(dev, images)?;
        self.embed(dev, images.batch())?;
        self.forward(dev, images.batch(), false)?;
        Ok(&self.ws.logits)
    }

    /// Loads the inputs of a step from the host: the only part of a step that may wait for the host.
    pub fn prepare_step(
        &mut self,
        dev: &Device,
        images: Pixels,
        labels: View,
        task: &TaskView,
    ) -> Result<()> {
        let _phase = range(c"data");
        self.prompts.enter_task(&mut self.params, &self.head, task.index)?;
        self.decay = self.prompts.weight_decay(task.index).unwrap_or(self.setup.weight_decay);
        self.load(dev, images)?;
        self.targets_mut(labels).load(dev, labels)?;
        self.regularizer.load(dev)?;
        self.set_mask(&task.mask)
    }

    /// The part of a prepared step that reads nothing that learns: the query pass. On a GPU it only queues the work,
    /// as do the two parts that follow.
    pub fn queue_query(&mut self, dev: &Device, batch: usize) -> Result<()> {
        let _phase = range(c"query pass");
        match self.prompts.query_to_learn() {
            Query::Cls => self.query_pass(dev, batch, self.can_share, false),
            Query::Nothing | Query::Patches(_) => Ok(()),
        }
    }

    /// Forward and backward of a training batch after its query pass: fills `grads` and the report but for the
    /// norm, changes no parameter. labels: (B) u32 or soft labels (B, K) f32.
    pub fn queue_gradient(&mut self, dev: &Device, labels: View, task: &TaskView) -> Result<()> {
        self.queue_gradient_of(dev, labels, task, Objective::Loss)
    }

    /// [`Model::queue_gradient`] of a part of the loss, or of a part of the network.
    pub fn queue_gradient_of(
        &mut self,
        dev: &Device,
        labels: View,
        task: &TaskView,
        objective: Objective,
    ) -> Result<()> {
        let batch = labels.dims()[0];
        let share = self.can_share;
        let phase = range(c"selection");
        if !share {
            self.embed(dev, batch)?;
        }
        let how = self.prompts.how_to_learn(task.index, batch);
        self.prompts.choose_to_learn(dev, &self.params, self.ws.query.view(), how)?;
        drop(phase);
        let phase = range(c"prompted pass and loss");
        self.forward(dev, batch, share)?;
        let ws = &mut self.ws;
        ws.dlogits.reshape([batch, self.setup.classes]);
        let (dlogits, smoothing) = (Some(ws.dlogits.view_mut()), self.setup.label_smoothing);
        let (logits, mask) = (ws.logits.view(), ws.mask.view());
        let targets = if labels.dtype() == DType::F32 { &self.soft_labels } else { &self.labels };
        let (outcome, labels) = (self.report.outcome(), targets.view(dev, labels));
        cross_entropy::forward_backward(dev, outcome, dlogits, logits, labels, mask, smoothing)?;
        self.prompts.loss_term(dev, &self.params, self.report.pull_mut())?;
        if objective == Objective::Loss {
            let (logits, dlogits) = (self.ws.logits.view(), self.ws.dlogits.view_mut());
            self.regularizer.on_logits(dev, self.report.pull_mut(), dlogits, logits)?;
        }
        drop(phase);
        let _phase = range(c"backward pass");
        self.grads.zero();
        if objective == Objective::CrossEntropyOfHead {
            self.head_backward(dev, batch, self.setup.dims.embed_dim)?;
            self.grads.clear_frozen_rows(&self.params);
            return Ok(());
        }
        self.backward(dev, batch, share)?;
        if objective == Objective::Loss {
            let (out, scale) = (self.report.pull_mut(), self.setup.loss_scale());
            self.regularizer.on_parameters(dev, out, &self.params, &mut self.grads, scale)?;
            self.weight_decay(dev)?;
        }
        self.grads.clear_frozen_rows(&self.params);
        Ok(())
    }

    /// The square of the norm of the gradients in the clip scope, into the report.
    pub fn queue_norm(&mut self, dev: &Device) -> Result<()> {
        self.report.squares_mut().fill(0.0);
        sum::squares_acc(dev, self.report.squares_mut(), self.grads.trainable.view())?;
        match &self.grads.frozen {
            Some(frozen) => sum::squares_acc(dev, self.report.squares_mut(), frozen.view()),
            None => Ok(()),
        }
    }

    /// What the last step reports, once it is computed.
    pub fn step_stats(&self) -> Result<StepStats> {
        Ok(self.stats_of(&self.report.view().read_f64()?))
    }

    /// What a report's numbers mean.
    pub fn stats_of(&self, report: &[f64]) -> StepStats {
        // Methods with a regularizer have no prompts, and so no other term.
        let weight = self.regularizer.weight().unwrap_or_else(|| self.prompts.loss_weight());
        StepStats::of(report, weight, self.decay, self.setup.loss_scale())
    }

    /// All parts of a step, from [`Model::prepare_step`] to [`Model::step_stats`].
    /// images: (B, S, S, 3) or resident ones, labels: (B) u32.
    pub fn step<'a>(
        &mut self,
        dev: &Device,
        images: impl Into<Pixels<'a>>,
        labels: View,
        task: &TaskView,
    ) -> Result<StepStats> {
        self.prepare_step(dev, images.into(), labels, task)?;
        self.queue_query(dev, labels.dims()[0])?;
        self.queue_gradient(dev, labels, task)?;
        self.queue_norm(dev)?;
        self.step_stats()
    }

    /// Brings images and parameters where the network reads them.
    fn load(&mut self, dev: &Device, images: Pixels) -> Result<()> {
        self.refresh(dev)?;
        self.entry.load(dev, &mut self.ws.embedded, &self.setup, images)
    }

    /// Where class ids or soft labels go.
    fn targets_mut(&mut self, labels: View) -> &mut Input {
        if labels.dtype() == DType::F32 { &mut self.soft_labels } else { &mut self.labels }
    }

    /// Copies the mask where the loss reads it, if it is another than before.
    fn set_mask(&mut self, mask: &[bool]) -> Result<()> {
        if self.mask == mask {
            return Ok(());
        }
        let numbers: Vec<u32> = mask.iter().map(|&m| u32::from(m)).collect();
        let classes = self.setup.classes;
        if mask.len() == classes {
            self.ws.mask.reshape([classes]);
        } else if mask.len().is_multiple_of(classes) && mask.len() <= self.ws.mask.capacity() {
            self.ws.mask.reshape([mask.len() / classes, classes]);
        } else {
            let wanted = format!("{classes} classes, or as many for each image where they may differ");
            return Err(Error::Shape { op: "step", arg: "mask", wanted, got: mask.len().to_string() });
        }
        self.ws.mask.view_mut().write(&numbers)?;
        self.mask = mask.to_vec();
        Ok(())
    }

    /// Whether an image's query changes while the model learns.
    pub fn query_learns(&self) -> bool {
        self.patch_query().is_some() && self.params.spec(self.vit.embedding.kernel).trainable
    }

    /// Σ p² over parameters with more than one axis, and the gradient of 0.5 · decay times that.
    fn weight_decay(&mut self, dev: &Device) -> Result<()> {
        let decay = self.decay;
        if decay == 0.0 {
            return Ok(());
        }
        self.report.decayed_mut().fill(0.0);
        for id in self.params.ids().filter(|&id| self.params.spec(id).decays) {
            let value = self.params.get(id);
            sum::squares_acc(dev, self.report.decayed_mut(), value)?;
            if let Some(grad) = self.grads.get_mut(&self.params, id) {
                axpy(dev, grad, value, decay * self.setup.loss_scale())?;
            }
        }
        Ok(())
    }

    /// How the patches are pooled to a query, where they make it.
    fn patch_query(&self) -> Option<Pooling> {
        match self.prompts.query() {
            Query::Patches(kind) => Some(kind),
            Query::Nothing | Query::Cls => None,
        }
    }
}

fn adapter_wanted(b: &Block, p: &Params, grads: &Grads) -> bool {
    b.adapter.as_ref().is_some_and(|adapter| adapter.wanted(p, grads))
}

fn block_wanted(b: &crate::nn::block::Block, p: &Params, grads: &Grads) -> bool {
    [&b.qkv, &b.proj, &b.fc1, &b.fc2].iter().any(|l| l.wanted(p, grads))
        || [&b.ln1, &b.ln2].iter().any(|n| grads.wants(p, n.scale) || grads.wants(p, n.bias))
}
