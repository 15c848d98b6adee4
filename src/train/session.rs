//! Everything that training, evaluation and prediction share: configuration, data, tasks, method.

use super::batch::{self, Batch, ResidentData};
use crate::config::Config;
use crate::config::schema::{Method as Name, Precision};
use crate::data::loader::task_batch;
use crate::data::{self, DataSet, Images, Loader, Normalize, Preprocess, Split, Task, scenario, tasks};
use crate::device::{Choice, Device};
use crate::error::{Error, Result};
use crate::import::Backbone;
use crate::learner::backbone;
use crate::methods::{self, Method, Ranks};
use crate::network::TaskView;
use crate::output::signal;
use crate::tensor::DType;
use crate::tensor::plan::Plan;
use std::sync::Arc;

/// A configuration with its data and its network.
pub struct Session {
    pub config: Config,
    pub dev: Device,
    pub data: Arc<DataSet>,
    pub split: Split,
    /// What is trained one after the other; for method `joint` a single task of all classes.
    pub train_tasks: Vec<Task>,
    pub backbone: Backbone,
    pub plan: Plan,
    pub method: Box<dyn Method>,
    pub ranks: Ranks,
    /// The images, where a GPU keeps them.
    pub resident: Option<ResidentData>,
}

impl Session {
    /// Loads data and backbone and builds the method, untrained, on one rank that takes `batch` images a step.
    pub fn new(config: Config, choice: Choice, batch: usize) -> Result<Session> {
        let loaded = Loaded::new(&config, choice, batch)?;
        Session::with(config, loaded, Ranks::alone(batch))
    }

    /// The same with data and backbone at hand, on one of several ranks.
    pub fn with(mut config: Config, loaded: Loaded, ranks: Ranks) -> Result<Session> {
        let Loaded { dev, data, backbone, resident } = loaded;
        config.precision = precision(config.precision, &dev)?;
        let mut split = scenario::split(&data, &config.continual, config.seed, ranks.batch)?;
        split.limit_tests(config.train.num_eval_steps * ranks.batch);
        config.check_with_layers(backbone.dims.layers)?;
        let mut plan = Plan::on(&dev);
        let images = images_on_a_rank(&config, ranks.batch, ranks.comm.size());
        let model = backbone::model(&config, &backbone, data.class_names.len(), &mut plan, images)?;
        let method = methods::build(&config, model, &mut plan, &ranks);
        plan.check()?;
        let preprocess = Preprocess::new(&config.data, backbone::normalize(&backbone))?;
        let resident = match resident {
            None => ResidentData::new(&mut plan, &data, &preprocess, config.seed)?,
            resident => resident,
        };
        let train_tasks = match config.method {
            Name::Joint => vec![tasks::joint(&split)],
            _ => split.tasks.clone(),
        };
        Ok(Session { config, dev, data, split, train_tasks, backbone, plan, method, ranks, resident })
    }

    pub fn normalize(&self) -> Normalize {
        backbone::normalize(&self.backbone)
    }

    /// The batches of one task.
    pub fn loader(&self, task: &Task) -> Result<Loader> {
        let config = &self.config;
        let preprocess = Preprocess::new(&config.data, self.normalize())?;
        let batch = task_batch(task.train.len(), self.ranks.batch, config.data.partial_batch);
        let epochs = config.train.num_epochs;
        // Class means need each image once.
        let epochs = if config.method == Name::Ncm { 1 } else { epochs };
        let loader =
            Loader::new(self.data.clone(), &self.split, task, preprocess, config.seed, batch, epochs)?;
        let (cl, data) = (&config.continual, &self.data);
        let kept = cl.replayed_upto(task.index);
        let kept = kept.and_then(|upto| scenario::kept(data, &self.split, cl, config.seed, upto));
        let replayed = replayed(config, self.ranks.batch);
        let loader = kept.iter().fold(loader, |loader, kept| loader.with_replay(kept, replayed));
        let rows = self.ranks.rows(loader.whole_batch());
        Ok(loader.only(rows))
    }

    /// The batches of the images kept of the tasks up to this one, which follow its own; `None` without any.
    pub fn review_loader(&self, task: &Task) -> Result<Option<Loader>> {
        let (config, data) = (&self.config, &self.data);
        if config.continual.num_review_epochs == 0 {
            return Ok(None);
        }
        let Some(kept) = scenario::kept(data, &self.split, &config.continual, config.seed, task.index) else {
            return Ok(None);
        };
        let preprocess = Preprocess::new(&config.data, self.normalize())?;
        let batch = task_batch(kept.train.len(), self.ranks.batch, config.data.partial_batch);
        let epochs = config.continual.num_review_epochs;
        let loader = Loader::new(data.clone(), &self.split, &kept, preprocess, config.seed, batch, epochs)?;
        let rows = self.ranks.rows(loader.whole_batch());
        Ok(Some(loader.only(rows)))
    }

    /// Whether the network is tested once task `t` is learned.
    pub fn tests_after(&self, t: usize) -> bool {
        let every = self.config.continual.eval_every_tasks.max(1);
        (t + 1).is_multiple_of(every) || t + 1 == self.train_tasks.len()
    }

    pub fn classes(&self) -> usize {
        self.data.class_names.len()
    }

    /// The class mask of a task as training uses it.
    pub fn task_view(&self, task: &Task) -> TaskView {
        let masked = self.config.continual.train_mask;
        let mask = (0..self.classes()).map(|k| !masked || task.classes.contains(&(k as u32))).collect();
        TaskView { index: task.index, mask, share: self.share(self.ranks.batch) }
    }

    /// The same for batches of `loader`, some of whose rows are replayed: they have a mask of their own, as the
    /// official code has it (google-research/l2p @ dd8836e, `train_continual.py`, lines 272-283).
    pub fn batch_view(&self, task: &Task, loader: &Loader) -> TaskView {
        let (mut view, cl, own) = (self.task_view(task), &self.config.continual, loader.own_rows());
        view.share = self.share(loader.whole_batch());
        if own < loader.whole_batch() && cl.replay_no_mask {
            let replayed = view.mask.iter().map(|m| !m || !cl.replay_reverse_mask).collect::<Vec<bool>>();
            let rows = loader.rows().map(|row| if row < own { &view.mask } else { &replayed });
            view.mask = rows.flatten().copied().collect();
        }
        view
    }

    /// What part of a step of `images` images is this rank's.
    pub fn share(&self, images: usize) -> f64 {
        self.ranks.rows(images).len() as f64 / images as f64
    }

    pub fn dtype(&self) -> DType {
        self.method.model().dtype()
    }

    /// Images without augmentation, and their class ids.
    pub fn eval_batch(&self, loader: &Loader, which: Images, indices: &[u32]) -> Result<Batch> {
        batch::eval(loader, self.resident.as_ref(), self.dtype(), which, indices)
    }

    /// Queries (n, C) of the test images `indices`, in f64 rows.
    pub fn queries(&mut self, indices: &[u32]) -> Result<Vec<f64>> {
        let loader = self.loader(&self.train_tasks[0])?;
        let mut queries = Vec::new();
        for chunk in indices.chunks(self.config.train.eval_batch_size) {
            self.ranks.comm.check()?;
            let batch = self.eval_batch(&loader, Images::Test, chunk)?;
            queries.extend(self.method.query(&self.dev, batch.pixels())?.view().read_f64()?);
        }
        Ok(queries)
    }

    /// Frozen features (n, C) of the images `indices`, in f64 rows, and their class ids. All ranks compute a part.
    pub fn all_features(&mut self, which: Images, indices: &[u32]) -> Result<(Vec<f64>, Vec<u32>)> {
        let loader = self.loader(&self.train_tasks[0])?;
        let (mut features, mut labels) = (Vec::new(), Vec::new());
        for chunk in indices[self.ranks.share_of(indices.len(), 1)].chunks(self.config.train.eval_batch_size)
        {
            self.ranks.comm.check()?;
            let batch = self.eval_batch(&loader, which, chunk)?;
            features.extend(self.method.features(&self.dev, batch.pixels())?.view().read_f64()?);
            labels.extend(batch.labels);
        }
        Ok((self.ranks.gather("features", &features)?, self.ranks.gather("labels", &labels)?))
    }

    /// Whether somebody asked any rank to stop; all ranks get the same answer.
    pub fn stop_requested(&self) -> Result<bool> {
        self.ranks.comm.any("requests to stop", signal::stop_requested())
    }

    /// # Errors
    /// `Error::Interrupted` if somebody asked any rank to stop, for parts that begin anew after it.
    pub fn stop_baseline(&self) -> Result<()> {
        if self.stop_requested()? {
            signal::request_stop();
        }
        signal::stop_baseline()
    }
}

/// Kept images in a step of `batch` others, of which `continual.replay_batch_size` come on each device.
fn replayed(config: &Config, batch: usize) -> usize {
    config.continual.replay_batch_size * batch / config.train.per_device_batch_size
}

/// Images of a step on one of `ranks` ranks, if all take `batch` and kept ones.
pub fn images_on_a_rank(config: &Config, batch: usize, ranks: usize) -> usize {
    (batch + replayed(config, batch)).div_ceil(ranks)
}

/// What a run needs before there is a network: made once for all ranks of a process.
#[derive(Clone)]
pub struct Loaded {
    pub dev: Device,
    pub data: Arc<DataSet>,
    pub backbone: Backbone,
    /// The images, where a GPU keeps them already.
    pub resident: Option<ResidentData>,
}

impl Loaded {
    /// Loads data and backbone, and sees whether the device will do for steps of `images` images.
    pub fn new(config: &Config, choice: Choice, images: usize) -> Result<Loaded> {
        let data = Arc::new(data::load(&config.data, config.seed)?);
        let backbone = backbone::load(config)?;
        let mut loaded = Loaded { dev: Device::Cpu, data, backbone, resident: None };
        loaded.dev = loaded.fitting(config, choice, images)?;
        Ok(loaded)
    }

    /// Where a rank computes that has this choice.
    pub fn fitting(&self, config: &Config, choice: Choice, images: usize) -> Result<Device> {
        let (dims, classes) = (backbone::dims(&self.backbone), self.data.class_names.len());
        backbone::fitting_device(config, dims, classes, choice, images)
    }
}

/// What `precision` means on a device.
///
/// # Errors
/// `Error::Config` for one that the device has not.
pub fn precision(wanted: Precision, dev: &Device) -> Result<Precision> {
    match (wanted, dev.gpu().is_some()) {
        (Precision::Auto, true) => Ok(Precision::Bf16),
        (Precision::Auto, false) => Ok(Precision::F32),
        (Precision::F64, true) => {
            Err(Error::config("precision: a GPU computes in `f32`, `bf16` or `f16`; found `f64`"))
        }
        (Precision::Bf16 | Precision::F16, false) => {
            Err(Error::config(format!("precision: the CPU computes in `f32` or `f64`; found `{wanted}`")))
        }
        (same, _) => Ok(same),
    }
}

/// The precision in which a finished run is read: its own, or f32 on a CPU where that is 16 bits.
pub fn reading_precision(of_run: Precision, dev: &Device) -> Precision {
    precision(of_run, dev).unwrap_or(if dev.gpu().is_some() { Precision::Bf16 } else { Precision::F32 })
}
