//! Everything that learns by gradient: L2P, DualPrompt, full fine-tuning, a linear head. What differs
//! is which parameters the configuration freezes and which prompts the model has.

use super::{Method, Tensors, put_back, saved, take};
use crate::config::schema::Config;
use crate::device::{Device, Gpu, Graph, range};
use crate::error::Result;
use crate::l2p::report::Pending;
use crate::l2p::{Model, Pixels, StepStats, TaskView};
use crate::ops::match_prompts::Select;
use crate::optim::Optimizer;
use crate::tensor::plan::Plan;
use crate::tensor::{Shape, Tensor, View};
use std::collections::VecDeque;
use std::sync::Arc;

#[derive(Debug)]
pub struct Gradient {
    model: Model,
    optimizer: Optimizer,
    reinit_optimizer: bool,
    gpu: Option<Arc<Gpu>>,
    pending: Pending,
    /// Task and learning rate of each step that has not been reported, oldest first.
    queued: VecDeque<(usize, f64)>,
    use_graph: bool,
    /// The step as one launch, for a batch, its masks and a way to select; without a graph it has run once.
    captured: Option<((Shape, usize, Select), Option<Graph>)>,
}

impl Gradient {
    pub fn new(config: &Config, model: Model, plan: &mut Plan) -> Gradient {
        let mut optimizer = Optimizer::new(plan, &model.params, &config.optim);
        optimizer.unscale = 1.0 / model.setup.loss_scale();
        let pending = Pending::new(plan);
        Gradient {
            model,
            optimizer,
            reinit_optimizer: config.optim.reinit_optimizer,
            gpu: plan.device().gpu().cloned(),
            pending,
            queued: VecDeque::new(),
            use_graph: config.train.graph,
            captured: None,
        }
    }

    /// Forward, backward and update of a prepared step.
    fn queue(&mut self, dev: &Device, labels: View, task: &TaskView) -> Result<()> {
        self.model.normalise_head(dev)?;
        self.model.queue_step(dev, labels, task)?;
        let _phase = range(c"update");
        let model = &mut self.model;
        self.optimizer.update(dev, &mut model.params, &model.grads, model.report.squares())
    }

    /// The same as one launch: the first time as it is, which allocates and loads what is missing, then
    /// captured, then repeated.
    fn repeat(&mut self, gpu: &Arc<Gpu>, dev: &Device, labels: View, task: &TaskView) -> Result<()> {
        let batch = labels.dims()[0];
        let key = (labels.shape(), task.mask.len(), self.model.train_select(task.index, batch));
        let captured = self.captured.take().filter(|(k, _)| *k == key);
        let graph = match captured {
            None => {
                self.queue(dev, labels, task)?;
                None
            }
            Some((_, None)) => Some(Graph::capture(gpu, || self.queue(dev, labels, task))?),
            Some((_, graph)) => graph,
        };
        if let Some(graph) = &graph {
            graph.launch()?;
        }
        self.captured = Some((key, graph));
        Ok(())
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

    /// Refuses a step whose loss is not a number.
    fn check(stats: &StepStats, task: usize, lr: f64) -> Result<()> {
        if stats.loss.is_finite() && stats.grad_norm.is_finite() {
            return Ok(());
        }
        Err(crate::error::Error::failed(format!(
            "the loss of task {task} is {} with gradient norm {}; a smaller optim.learning_rate (now {lr}) or \
             other data may help; the last checkpoint is intact",
            stats.loss, stats.grad_norm
        )))
    }
}

impl Method for Gradient {
    fn model(&self) -> &Model {
        &self.model
    }

    fn begin_task(&mut self, task: &TaskView) -> Result<()> {
        if self.reinit_optimizer {
            self.optimizer.reset();
        }
        self.model.begin_task(task.index)
    }

    fn step(
        &mut self,
        dev: &Device,
        images: Pixels,
        labels: View,
        task: &TaskView,
        lr: f64,
    ) -> Result<Vec<StepStats>> {
        let Some(gpu) = dev.gpu() else {
            self.model.normalise_head(dev)?;
            let stats = self.model.step(dev, images, labels, task)?;
            Gradient::check(&stats, task.index, lr)?;
            let model = &mut self.model;
            self.optimizer.step(dev, &mut model.params, &model.grads, model.report.squares(), lr)?;
            return Ok(vec![stats]);
        };
        self.model.prepare_step(dev, images, labels, task)?;
        self.optimizer.advance(dev, lr)?;
        if self.use_graph {
            self.repeat(gpu, dev, labels, task)?;
        } else {
            self.queue(dev, labels, task)?;
        }
        self.queued.push_back((task.index, lr));
        let came = self.pending.push(gpu, &self.model.report)?;
        self.reported(&came)
    }

    fn settle(&mut self) -> Result<Vec<StepStats>> {
        let Some(gpu) = &self.gpu else { return Ok(Vec::new()) };
        let came = self.pending.settle(gpu)?;
        self.reported(&came)
    }

    fn features(&mut self, dev: &Device, images: Pixels) -> Result<Tensor> {
        self.model.features(dev, images)
    }

    fn query(&mut self, dev: &Device, images: Pixels) -> Result<Tensor> {
        Ok(self.model.query(dev, images)?.clone())
    }

    fn select(&mut self, dev: &Device, features: View, how: Select) -> Result<Vec<u32>> {
        if self.model.setup.pool.is_none() {
            return Ok(Vec::new());
        }
        let ids = self.model.select(dev, features, how)?;
        ids.view().read::<u32>()
    }

    fn logits(&mut self, dev: &Device, images: Pixels, _features: View, ids: &[u32]) -> Result<Tensor> {
        Ok(self.model.logits_with(dev, images, ids)?.clone())
    }

    fn state(&self) -> Result<Tensors> {
        let (p, m, v) = (&self.model.params.trainable, &self.optimizer.m, &self.optimizer.v);
        let mut all = vec![saved("trainable", p)?, saved("first moment", m)?, saved("second moment", v)?];
        let used = &self.model.matching().used;
        if !used.is_empty() {
            all.push(saved("uses of prompts", used)?);
        }
        Ok(all)
    }

    fn optimizer_step(&self) -> u64 {
        self.optimizer.step
    }

    fn restore(&mut self, tensors: &Tensors, optimizer_step: u64) -> Result<()> {
        self.optimizer.step = optimizer_step;
        for (name, tensor) in [
            ("trainable", self.model.params.trainable_mut()),
            ("first moment", &mut self.optimizer.m),
            ("second moment", &mut self.optimizer.v),
        ] {
            let len = tensor.len();
            put_back(tensor, take(tensors, name, len)?, name)?;
        }
        let used = self.model.prompts_used();
        if !used.is_empty() {
            let (name, len) = ("uses of prompts", used.len());
            put_back(used, take(tensors, name, len)?, name)?;
        }
        Ok(())
    }
}
