//! Everything that learns by gradient: L2P, DualPrompt, CODA-Prompt, S-Prompts, full fine-tuning, a linear head, EWC,
//! LwF. What differs is which parameters the configuration freezes, and which prompts and which regularizer the model
//! has.

use super::beside_steps::BesideSteps;
use super::named::{self, Fit};
use super::{Method, Moment, Pass, Ranks, Shown, Tensors};
use crate::config::schema::Config;
use crate::device::range::{self, range};
use crate::device::{Device, Gpu, Graph};
use crate::error::Result;
use crate::network::report::{Pending, StepReport};
use crate::network::{AnswerGraph, Model, Pixels, StepStats, TaskView};
use crate::onnx::{Graph as OnnxGraph, Value};
use crate::ops::axpy::axpy;
use crate::ops::match_prompts::Select;
use crate::optim::Optimizer;
use crate::output::say;
use crate::prompts::PromptChoice;
use crate::tensor::plan::Plan;
use crate::tensor::{Shape, Tensor, View, all_reduce};
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

/// How often each prompt was used, in checkpoints of today and of version 1.
const PROMPT_USES: &str = "state/prompt_uses";
const OLD_PROMPT_USES: &str = "uses of prompts";

#[derive(Debug)]
pub struct Gradient {
    model: Model,
    optimizer: Optimizer,
    reinit_optimizer: bool,
    gpu: Option<Arc<Gpu>>,
    /// The step as one launch, for a kind of step; without a graph it has run once. Declared before `ranks`, whose
    /// sums it holds, and so dropped before them.
    captured: Option<(CapturedStep, Option<Graph>)>,
    ranks: Ranks,
    /// On several GPUs: the learning rate of the last step, whose gradients are not yet summed over the ranks nor applied.
    /// That is done beside the query pass of the next step, which reads nothing that learns.
    unfinished: Option<f64>,
    /// (M): how often all ranks have used each prompt in this task, when they last told each other.
    agreed_uses: Vec<u32>,
    /// The report of a step that was finished within the next one.
    finished: Option<StepReport>,
    pending: Pending,
    /// Task and learning rate of each step that has not been reported, oldest first.
    queued: VecDeque<(usize, f64)>,
    use_graph: bool,
    beside: BesideSteps,
    /// Where steps are divided: the sum over the parts so far.
    sum: Option<PartSum>,
}

/// Gradients and numbers of the parts of a step, each times its share of the images.
#[derive(Debug)]
struct PartSum {
    trainable: Tensor,
    frozen: Option<Tensor>,
    report: StepReport,
}

impl PartSum {
    fn new(plan: &mut Plan, model: &Model) -> PartSum {
        plan.group("gradients");
        let mut like = |of: &Tensor| plan.tensor("sum over the parts of a step", of.shape(), of.dtype());
        let (trainable, frozen) = (like(&model.grads.trainable), model.grads.frozen.as_ref().map(&mut like));
        PartSum { trainable, frozen, report: StepReport::new(plan) }
    }

    fn clear(&mut self) {
        self.trainable.fill(0.0);
        if let Some(frozen) = &mut self.frozen {
            frozen.fill(0.0);
        }
        self.report.tensor_mut().fill(0.0);
    }

    fn add(&mut self, dev: &Device, model: &Model) -> Result<()> {
        axpy(dev, self.trainable.view_mut(), model.grads.trainable.view(), 1.0)?;
        if let (Some(sum), Some(part)) = (&mut self.frozen, &model.grads.frozen) {
            axpy(dev, sum.view_mut(), part.view(), 1.0)?;
        }
        axpy(dev, self.report.tensor_mut().view_mut(), model.report.view(), 1.0)
    }

    /// Puts the sum where the step's gradient belongs.
    fn finish(&self, model: &mut Model) -> Result<()> {
        model.grads.trainable.view_mut().copy_from(self.trainable.view())?;
        if let (Some(sum), Some(all)) = (&self.frozen, &mut model.grads.frozen) {
            all.view_mut().copy_from(sum.view())?;
        }
        model.report.tensor_mut().view_mut().copy_from(self.report.view())
    }
}

/// What decides the launches of a step: targets, masks, how images select, whether the step before ends in it, the
/// bits of this rank's share of the step, which parts of the parameters learn, how many components there are so far, and
/// whether a regularizer acts.
type CapturedStep = (Shape, usize, Select, bool, u64, Vec<Range<usize>>, usize, bool);

impl Gradient {
    pub fn new(config: &Config, model: Model, plan: &mut Plan, ranks: &Ranks) -> Gradient {
        let (params, layers, decay) = (&model.params, model.setup.dims.layers, model.setup.layer_decay);
        let mut optimizer = match (model.setup.training, decay) {
            (false, _) => Optimizer::none(plan, params, &config.optim),
            (true, 1.0) => Optimizer::new(plan, params, &config.optim),
            (true, decay) => Optimizer::with_layer_decay(plan, params, &config.optim, layers, decay),
        };
        optimizer.unscale = 1.0 / model.setup.loss_scale();
        let pending = Pending::new(plan);
        let uses = model.prompts.uses().map_or(0, |used| used.len() / 2);
        let use_graph = config.train.graph && !model.prompts.chooses_on_host();
        let later = plan.is_on_gpu() && !ranks.is_alone();
        let finished = later.then(|| StepReport::new(plan));
        let divided = model.setup.training && model.setup.part_images < usize::MAX;
        let sum = divided.then(|| PartSum::new(plan, &model));
        Gradient {
            model,
            optimizer,
            reinit_optimizer: config.optim.reinit_optimizer,
            gpu: plan.device().gpu().cloned(),
            ranks: ranks.clone(),
            unfinished: None,
            agreed_uses: vec![0; uses],
            finished,
            pending,
            queued: VecDeque::new(),
            use_graph,
            captured: None,
            beside: BesideSteps::new(config, ranks),
            sum,
        }
    }

    /// Forward, backward and update of a prepared step; on several GPUs the end of the step before and this one
    /// without its end.
    fn queue(&mut self, dev: &Device, labels: View, task: &TaskView) -> Result<()> {
        let batch = labels.dims()[0];
        if self.unfinished.is_some() {
            self.start_sum()?;
        }
        self.model.queue_query(dev, batch)?;
        if self.unfinished.is_some() {
            self.finish(dev)?;
        }
        self.model.normalise_head(dev)?;
        self.model.queue_gradient(dev, labels, task)?;
        if !self.ranks.is_alone() {
            return self.ranks.scale_by_rank_fraction(dev, &mut self.model, task.rank_fraction);
        }
        self.update(dev)
    }

    fn update(&mut self, dev: &Device) -> Result<()> {
        let _phase = range(c"update");
        self.model.queue_norm(dev)?;
        let model = &mut self.model;
        self.optimizer.update(dev, &mut model.params, &model.grads, model.report.squares())
    }

    /// Adds to the uses of prompts in this task, which each rank counts for itself, those of the other ranks.
    fn agree_on_uses(&mut self) -> Result<()> {
        let Some(used) = self.model.prompts.uses_mut().filter(|_| !self.ranks.is_alone()) else {
            return Ok(());
        };
        let mut counts = used.view().read::<u32>()?;
        let now = &mut counts[self.agreed_uses.len()..];
        let fresh: Vec<u32> = now.iter().zip(&self.agreed_uses).map(|(now, agreed)| now - agreed).collect();
        let all = self.ranks.gather("uses of prompts", &fresh)?;
        now.copy_from_slice(&self.agreed_uses);
        for fresh in all.chunks_exact(now.len()) {
            now.iter_mut().zip(fresh).for_each(|(sum, fresh)| *sum += fresh);
        }
        self.agreed_uses = now.to_vec();
        used.view_mut().write(&counts)
    }

    /// Queues the sum over all ranks of the last step's gradients and numbers, beside what follows.
    fn start_sum(&mut self) -> Result<()> {
        let Some(clique) = self.ranks.clique() else { return Ok(()) };
        let (grads, report) = (&mut self.model.grads, &mut self.model.report);
        let mut buffers = vec![grads.trainable.view_mut(), report.tensor_mut().view_mut()];
        buffers.extend(grads.frozen.as_mut().map(|frozen| frozen.view_mut()));
        all_reduce::start(clique, &mut buffers)
    }

    /// Waits on the device for the sum and does what is left of the last step.
    fn finish(&mut self, dev: &Device) -> Result<()> {
        if let Some(clique) = self.ranks.clique() {
            clique.finish()?;
        }
        self.update(dev)?;
        match &mut self.finished {
            Some(finished) => finished.tensor_mut().view_mut().copy_from(self.model.report.view()),
            None => Ok(()),
        }
    }

    /// [`Gradient::queue`] as one launch: the first time as it is, which allocates and loads what is missing, then
    /// captured, then repeated. A first step of several GPUs, which ends no other, is never captured.
    fn repeat(&mut self, gpu: &Arc<Gpu>, dev: &Device, labels: View, task: &TaskView) -> Result<()> {
        let batch = labels.dims()[0];
        let ends = self.unfinished.is_some();
        if !ends && !self.ranks.is_alone() {
            return self.queue(dev, labels, task);
        }
        let how = self.model.prompts.how_to_learn(task.index, batch);
        let key = (
            labels.shape(),
            task.mask.len(),
            how,
            ends,
            task.rank_fraction.to_bits(),
            self.model.params.learning(),
            self.model.prompts.components_in_use(),
            self.model.regularizer.acts()?,
        );
        let captured = self.captured.take().filter(|(k, _)| *k == key);
        let graph = match captured {
            None => {
                self.queue(dev, labels, task)?;
                None
            }
            Some((_, None)) => match Graph::capture(gpu, || self.queue(dev, labels, task)) {
                Ok(graph) => Some(graph),
                Err(why) => {
                    say(&format!("note: {why}; training goes on without a graph, which costs some speed"));
                    self.use_graph = false;
                    return self.queue(dev, labels, task);
                }
            },
            Some((_, graph)) => graph,
        };
        if let Some(graph) = &graph {
            graph.launch()?;
        }
        self.captured = Some((key, graph));
        Ok(())
    }

    /// Forward and backward of a step from its images on: in parts of at most `Setup::part_images` images, whose
    /// gradients are added in their order. A part chooses prompts as it would within the whole step; sums over images are
    /// those of the whole step but for rounding.
    fn gradient_in_parts(
        &mut self,
        dev: &Device,
        images: Pixels,
        labels: View,
        task: &TaskView,
    ) -> Result<()> {
        let (batch, part) = (labels.dims()[0], self.model.setup.part_images);
        let parts = (0..batch).step_by(part.min(batch.max(1))).map(|start| start..(start + part).min(batch));
        if let Some(sum) = &mut self.sum {
            sum.clear();
        }
        for rows in parts {
            let (images, labels) = (images.part(rows.clone()), labels.rows(rows.clone()));
            let (task, model) = (task.part(rows.clone(), self.model.setup.classes), &mut self.model);
            model.prepare_step(dev, images, labels, &task)?;
            if rows.start == 0 {
                model.normalise_head(dev)?;
            }
            model.queue_query(dev, rows.len())?;
            model.queue_gradient(dev, labels, &task)?;
            if let Some(sum) = &mut self.sum {
                self.ranks.scale_by_rank_fraction(dev, model, rows.len() as f64 / batch as f64)?;
                sum.add(dev, model)?;
            }
        }
        match &self.sum {
            Some(sum) => sum.finish(&mut self.model),
            None => Ok(()),
        }
    }

    /// A divided step on a GPU, launch by launch: nothing of the step before runs beside it.
    fn queue_parts(&mut self, dev: &Device, images: Pixels, labels: View, task: &TaskView) -> Result<()> {
        if self.unfinished.is_some() {
            self.start_sum()?;
            self.finish(dev)?;
        }
        self.gradient_in_parts(dev, images, labels, task)?;
        if !self.ranks.is_alone() {
            return self.ranks.scale_by_rank_fraction(dev, &mut self.model, task.rank_fraction);
        }
        self.update(dev)
    }

    /// A step on the CPU, whole.
    fn step_on_cpu(
        &mut self,
        dev: &Device,
        images: Pixels,
        labels: View,
        task: &TaskView,
        lr: f64,
    ) -> Result<Vec<StepStats>> {
        self.gradient_in_parts(dev, images, labels, task)?;
        let model = &mut self.model;
        if !self.ranks.is_alone() {
            self.ranks.scale_by_rank_fraction(dev, model, task.rank_fraction)?;
            self.ranks.sum(model)?;
        }
        let _phase = range(c"update");
        model.queue_norm(dev)?;
        let stats = model.step_stats()?;
        Gradient::check(&stats, task.index, lr)?;
        self.optimizer.step(dev, &mut model.params, &model.grads, model.report.squares(), lr)?;
        Ok(vec![stats])
    }

    /// What the reports of the oldest unreported steps say.
    fn reported(&mut self, reports: &[Vec<f64>]) -> Result<Vec<StepStats>> {
        let steps = reports.iter().zip(self.queued.drain(..reports.len()));
        let stats = steps.map(|(values, (task, lr))| {
            let stats = self.model.stats_of(values);
            Gradient::check(&stats, task, lr).map(|()| stats)
        });
        stats.collect()
    }

    fn put_back(&mut self, tensors: &Tensors, optimizer_step: u64, fit: Fit) -> Result<()> {
        let Model { params, regularizer, .. } = &mut self.model;
        named::into_params(tensors, params, &mut self.optimizer, regularizer.of_parameters_mut(), fit)?;
        self.optimizer.step = optimizer_step;
        if let Some(used) = self.model.prompts.uses_mut() {
            let old = tensors.iter().any(|(name, ..)| name == OLD_PROMPT_USES);
            named::put_back(used.view_mut(), tensors, if old { OLD_PROMPT_USES } else { PROMPT_USES }, fit)?;
            self.agreed_uses = used.view().read::<u32>()?.split_off(used.len() / 2);
        }
        let Model { prompts, regularizer, .. } = &mut self.model;
        for (name, tensor) in prompts.state_mut().into_iter().chain(regularizer.state_mut()) {
            named::put_back(tensor.view_mut(), tensors, &format!("state/{name}"), fit)?;
        }
        self.beside.put_back(&mut self.model, tensors)?;
        Ok(())
    }

    /// Refuses a step whose loss is not a number.
    fn check(stats: &StepStats, task: usize, lr: f64) -> Result<()> {
        if stats.loss.is_finite() && stats.grad_norm.is_finite() {
            return Ok(());
        }
        Err(crate::error::Error::failed(format!(
            "the loss of task {} is {} with gradient norm {}; the learning rate of the step was {lr}; a \
             smaller one or other data may help: `--resume --set optim.learning_rate=RATE` goes on from the last \
             checkpoint, which is intact",
            task + 1,
            stats.loss,
            stats.grad_norm
        )))
    }
}

impl Method for Gradient {
    fn model(&self) -> &Model {
        &self.model
    }

    fn begin_task(&mut self, task: &TaskView, classes: &[u32]) -> Result<()> {
        if self.reinit_optimizer {
            self.optimizer.reset();
        }
        self.agreed_uses.fill(0);
        if let Some(lwf) = self.model.regularizer.lwf() {
            lwf.begin_task(classes)?;
        }
        self.model.begin_task(task.index)
    }

    fn keep_classes(&mut self, classes: &[u32]) -> Result<()> {
        self.model.keep_classes(classes)
    }

    fn next_images(&mut self, positions: &[u32]) -> Result<()> {
        self.model.regularizer.lwf().map_or(Ok(()), |lwf| lwf.next_images(positions))
    }

    fn step(
        &mut self,
        dev: &Device,
        images: Pixels,
        labels: View,
        task: &TaskView,
        lr: f64,
    ) -> Result<Vec<StepStats>> {
        let Some(gpu) = dev.gpu() else { return self.step_on_cpu(dev, images, labels, task, lr) };
        let alone = self.ranks.is_alone();
        let divided = labels.dims()[0] > self.model.setup.part_images;
        if !divided {
            self.model.prepare_step(dev, images, labels, task)?;
        }
        // The update that this step queues is its own, or that of the step before.
        if let Some(lr) = if alone { Some(lr) } else { self.unfinished } {
            self.optimizer.advance(dev, lr)?;
        }
        if divided {
            self.queue_parts(dev, images, labels, task)?;
        } else if self.use_graph && !range::is_recording() {
            self.repeat(gpu, dev, labels, task)?;
        } else {
            self.queue(dev, labels, task)?;
        }
        self.queued.push_back((task.index, lr));
        let before = if alone { Some(lr) } else { self.unfinished.replace(lr) };
        let done = self.finished.as_ref().unwrap_or(&self.model.report);
        let came = match before {
            Some(_) => self.pending.push(gpu, done)?,
            None => Vec::new(),
        };
        self.reported(&came)
    }

    fn settle(&mut self, dev: &Device) -> Result<Vec<StepStats>> {
        self.agree_on_uses()?;
        let Some(gpu) = self.gpu.clone() else { return Ok(Vec::new()) };
        let mut came = Vec::new();
        if let Some(lr) = self.unfinished {
            self.optimizer.advance(dev, lr)?;
            self.start_sum()?;
            self.finish(dev)?;
            self.unfinished = None;
            let done = self.finished.as_ref().unwrap_or(&self.model.report);
            came = self.pending.push(&gpu, done)?;
        }
        came.extend(self.pending.settle(&gpu)?);
        if let Some(clique) = self.ranks.clique() {
            clique.watch().check()?;
        }
        self.reported(&came)
    }

    fn passes(&self, task: usize, moment: Moment) -> Result<Vec<Pass>> {
        self.beside.passes(&self.model, task, moment)
    }

    fn observe(&mut self, dev: &Device, pass: Pass, shown: Shown, task: &TaskView) -> Result<()> {
        self.beside.observe(&mut self.model, dev, pass, shown, task)
    }

    fn end_task(&mut self, dev: &Device) -> Result<()> {
        self.beside.end_task(&mut self.model, dev)
    }

    fn features(&mut self, dev: &Device, images: Pixels) -> Result<Tensor> {
        self.model.features(dev, images)
    }

    fn query(&mut self, dev: &Device, images: Pixels) -> Result<Tensor> {
        Ok(self.model.query(dev, images)?.clone())
    }

    fn select(&mut self, dev: &Device, features: View, how: Select) -> Result<PromptChoice> {
        self.model.choose(dev, features, how)
    }

    fn logits(
        &mut self,
        dev: &Device,
        images: Pixels,
        _features: View,
        choice: &PromptChoice,
    ) -> Result<Tensor> {
        Ok(self.model.logits_with(dev, images, choice)?.clone())
    }

    fn onnx(&self, g: &mut OnnxGraph, images: &Value) -> Result<AnswerGraph> {
        self.model.onnx(g, images)
    }

    fn state(&self) -> Result<Tensors> {
        let beside = self.model.regularizer.of_parameters();
        let mut all = named::of_params(&self.model.params, &self.optimizer, &beside)?;
        if let Some(used) = self.model.prompts.uses() {
            all.push(named::saved(PROMPT_USES.into(), used.view())?);
        }
        let state = self.model.prompts.state().into_iter().chain(self.model.regularizer.state());
        for (name, tensor) in state {
            all.push(named::saved(format!("state/{name}"), tensor.view())?);
        }
        self.beside.state(&self.model, &mut all);
        Ok(all)
    }

    fn optimizer_step(&self) -> u64 {
        self.optimizer.step
    }

    fn restore(&mut self, tensors: &Tensors, optimizer_step: u64) -> Result<()> {
        self.put_back(tensors, optimizer_step, Fit::Exact)
    }

    fn restore_grown(&mut self, tensors: &Tensors, optimizer_step: u64) -> Result<()> {
        self.put_back(tensors, optimizer_step, Fit::Grow)?;
        let bias = tensors.iter().find(|(name, ..)| name == "params/head/bias");
        match bias.map(|(_, shape, _)| shape.as_slice()) {
            Some(&[heads, classes]) => self.model.hide_classes(heads, classes),
            _ => Ok(()),
        }
    }
}
