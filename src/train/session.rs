//! A learner with its data: what training and evaluation share.

use super::batch::{self, Batch, BatchChange, ResidentData, Training};
use crate::config::Config;
use crate::config::schema::{Method, Scenario};
use crate::data::loader::task_batch;
use crate::data::{self, DataSet, Loader, Reader, Split, Subset, Task, scenario, tasks};
use crate::device::{Choice, Device};
use crate::error::Result;
use crate::import::Backbone;
use crate::learner::origin::{self, Origin};
use crate::learner::{
    InitialWeights, Learner, Position, Purpose, SavedRun, backbone, fitting_device, test_images,
};
use crate::methods::{Pass, Ranks, Shown};
use crate::network::TaskView;
use crate::output::signal;
use crate::tensor::DType;
use std::path::Path;
use std::sync::Arc;

/// A learner, its data, and the data's tasks.
pub struct Session {
    pub learner: Learner,
    pub data: Arc<DataSet>,
    pub split: Split,
    /// The data in any order, without augmentation.
    pub reader: Reader,
    /// What is trained one after the other.
    pub train_tasks: Vec<Task>,
    pub ranks: Ranks,
    /// The images, where a GPU keeps them.
    pub resident: Option<ResidentData>,
    /// What happens to training batches before they are used.
    pub change: Option<BatchChange>,
}

impl Session {
    /// The run `saved` with its data, for tests: nothing is planned for training.
    ///
    /// # Errors
    /// Those of [`Loaded::new`], [`Learner::new`] and [`SavedRun::restore`].
    pub fn of_run(saved: &SavedRun, config: Config, choice: Choice) -> Result<Session> {
        SavedRun::expect_folder(&saved.workdir)?;
        let purpose = Purpose::Inference { images: test_images(&config) };
        let Loaded { dev, data, backbone, resident } = Loaded::new(&config, choice, purpose)?;
        let batch = saved.at.images(&config);
        let split = split(&config, &data, batch)?;
        let names = split.class_names.clone();
        origin::expect_classes(&saved.at.class_names, &names, &saved.workdir)?;
        let mut learner = Learner::new(config, backbone, dev, names, purpose, InitialWeights::Checkpoint)?;
        saved.restore(&mut learner)?;
        let session = Session::with(learner, data, split, Ranks::alone(batch), resident)?;
        session.expect_origin(&saved.at, &saved.workdir)?;
        Ok(session)
    }

    /// A session for training with data at hand, untrained, on one of several ranks.
    ///
    /// # Errors
    /// Those of [`split`] and [`Learner::new`].
    pub fn for_training(
        config: Config,
        loaded: Loaded,
        ranks: Ranks,
        weights: InitialWeights,
    ) -> Result<Session> {
        let Loaded { dev, data, backbone, resident } = loaded;
        let split = split(&config, &data, ranks.batch)?;
        let images = images_on_a_rank(&config, ranks.batch, ranks.comm.size());
        let (purpose, names) = (Purpose::Training { ranks: &ranks, images }, split.class_names.clone());
        let learner = Learner::new(config, backbone, dev, names, purpose, weights)?;
        Session::with(learner, data, split, ranks, resident)
    }

    /// A learner with its data.
    ///
    /// # Errors
    /// `Error::Failed` if the device has failed.
    pub fn with(
        mut learner: Learner,
        data: Arc<DataSet>,
        split: Split,
        ranks: Ranks,
        resident: Option<ResidentData>,
    ) -> Result<Session> {
        let resident = match resident {
            None => ResidentData::new(&mut learner.plan, &data, &learner.preprocess, learner.config.seed)?,
            resident => resident,
        };
        Ok(Session { resident, ..Session::on_host(learner, data, split, ranks) })
    }

    /// A learner with its data, of which the host prepares each batch.
    pub fn on_host(learner: Learner, data: Arc<DataSet>, split: Split, ranks: Ranks) -> Session {
        let train_tasks = train_tasks(&learner.config, &split);
        let reader = Reader::new(data.clone(), &split, learner.preprocess.clone());
        Session { learner, data, split, reader, train_tasks, ranks, resident: None, change: None }
    }

    /// What this session is made of.
    pub fn origin(&self) -> Origin {
        let mut all = origin::of_backbone(&self.learner.backbone);
        all.extend(origin::of_data(&self.data, &self.split));
        all
    }

    /// # Errors
    /// `Error::Failed` if the run in `workdir`, which stands at `at`, was made of something else, naming all of it.
    pub fn expect_origin(&self, at: &Position, workdir: &Path) -> Result<()> {
        origin::expect_classes(&at.class_names, &self.split.class_names, workdir)?;
        origin::expect(&at.origin, &self.origin(), workdir)
    }

    /// The batches of one task.
    pub fn loader(&self, task: &Task) -> Result<Loader> {
        let config = &self.learner.config;
        let preprocess = self.learner.preprocess.clone();
        let once = config.method.takes_each_image_once();
        let batch = task_batch(task.train.len(), self.ranks.batch, config.data.partial_batch || once);
        let epochs = if once { 1 } else { config.train.num_epochs };
        let loader =
            Loader::new(self.data.clone(), &self.split, task, preprocess, config.seed, batch, epochs)?;
        let loader = if once { loader.each_once() } else { loader };
        let (cl, data) = (&config.continual, &self.data);
        let replay = cl.replayed_upto(task.index);
        let replay = replay.and_then(|upto| scenario::replay_set(data, &self.split, cl, config.seed, upto));
        let replayed = replayed(config, self.ranks.batch);
        let loader = replay.iter().fold(loader, |loader, replay| loader.with_replay(replay, replayed));
        let rows = self.ranks.rows(loader.whole_batch());
        Ok(loader.only(rows))
    }

    /// The batches of a pass over a task's images beside its steps, and how many make an epoch. Their random numbers are those of no step.
    pub fn pass(&self, task: &Task, pass: Pass) -> Result<(Training, usize)> {
        let (config, data, mut task) = (&self.learner.config, self.data.clone(), task.clone());
        let (batch, tasks) = (task_batch(task.train.len(), self.ranks.batch, true), self.split.tasks.len());
        let (epochs, which) = match pass {
            Pass::WarmUp { epochs } | Pass::Adapt { epochs } => (epochs, 3),
            Pass::Augmented | Pass::Plain => (1, 2),
        };
        // Tasks and the reviews after them have the numbers before.
        task.index += which * tasks;
        let preprocess = match pass {
            Pass::Adapt { .. } => self.learner.preprocess_with(config.ranpac.adapter_augment)?,
            _ => self.learner.preprocess.clone(),
        };
        let loader = Loader::new(data, &self.split, &task, preprocess, config.seed, batch, epochs)?;
        let once = matches!(pass, Pass::Augmented | Pass::Plain);
        let loader = if once { loader.each_once() } else { loader };
        let epoch = loader.steps_per_epoch();
        let rows = self.ranks.rows(loader.whole_batch());
        let loader = loader.only(rows);
        if pass == Pass::Plain {
            return Ok((Training::plain(loader, self.reader.clone(), self.dtype()), epoch));
        }
        let steps = 0..loader.steps();
        let (resident, change) = (self.resident.as_ref(), self.change.clone());
        Ok((Training::start(loader, resident, self.dtype(), change, steps)?, epoch))
    }

    /// The same as [`Session::task_view`] for the batches of a pass.
    pub fn pass_view(&self, task: &Task, pass: Pass) -> TaskView {
        let mut view = self.task_view(task);
        let batch = task_batch(task.train.len(), self.ranks.batch, true);
        view.rank_fraction = self.rank_fraction(batch);
        if let Pass::WarmUp { .. } | Pass::Adapt { .. } = pass
            && !self.has_added_head(task)
        {
            view.mask = (0..self.classes()).map(|k| task.classes.contains(&(k as u32))).collect();
        }
        view
    }

    /// Shows a batch of a pass to the method; `view`: that of [`Session::pass_view`].
    pub fn observe(&mut self, pass: Pass, batch: &Batch, view: &TaskView) -> Result<()> {
        let (learner, targets) = (&mut self.learner, batch.targets());
        let positions = batch.positions.as_slice();
        let shown = Shown { images: batch.pixels(), labels: targets.view(), positions };
        learner.method.observe(&learner.dev, pass, shown, view)
    }

    /// The batches of the replay set of the tasks up to this one, which follow its own; `None` without any.
    pub fn review_loader(&self, task: &Task) -> Result<Option<Loader>> {
        let (config, data) = (&self.learner.config, &self.data);
        if config.continual.num_review_epochs == 0 {
            return Ok(None);
        }
        let Some(replay) =
            scenario::replay_set(data, &self.split, &config.continual, config.seed, task.index)
        else {
            return Ok(None);
        };
        let preprocess = self.learner.preprocess.clone();
        let batch = task_batch(replay.train.len(), self.ranks.batch, config.data.partial_batch);
        let epochs = config.continual.num_review_epochs;
        let loader = Loader::new(data.clone(), &self.split, &replay, preprocess, config.seed, batch, epochs)?;
        let rows = self.ranks.rows(loader.whole_batch());
        Ok(Some(loader.only(rows)))
    }

    /// Whether the network is tested once task `t` is learned.
    pub fn tests_after(&self, t: usize) -> bool {
        let every = self.learner.config.continual.eval_every_tasks.max(1);
        (t + 1).is_multiple_of(every) || t + 1 == self.train_tasks.len()
    }

    /// The task after which each row of the accuracy matrix is taken. Learned all at once, row t tells of the first
    /// t + 1 tasks.
    pub fn tested_tasks(&self) -> Vec<usize> {
        match self.learner.config.continual.scenario {
            Scenario::Joint => (0..self.split.tasks.len()).collect(),
            _ => (0..self.train_tasks.len()).filter(|&t| self.tests_after(t)).collect(),
        }
    }

    pub fn classes(&self) -> usize {
        self.learner.class_names.len()
    }

    /// The class mask of a task as training uses it. LwF without a mask is over the classes met so far, as in the published
    /// code.
    pub fn task_view(&self, task: &Task) -> TaskView {
        let Learner { config, classes_seen, .. } = &self.learner;
        let classes = match (config.continual.train_mask, config.method) {
            _ if self.has_added_head(task) => Some(self.classes_of_added(task)),
            (true, _) => Some(&task.classes),
            (false, Method::Lwf) => Some(classes_seen),
            (false, _) => None,
        };
        let mask = (0..self.classes() as u32).map(|k| classes.is_none_or(|some| some.contains(&k))).collect();
        TaskView { index: task.index, mask, rank_fraction: self.rank_fraction(self.ranks.batch) }
    }

    /// Whether columns of the head were added for this task. S-Prompts has a whole head for it instead, which learns as
    /// those of other tasks do.
    fn has_added_head(&self, task: &Task) -> bool {
        let config = &self.learner.config;
        config.is_added(task.index) && config.method != Method::SPrompts
    }

    /// The classes in the loss of a task that was added: its own. A loss over a single class is zero and teaches nothing;
    /// then it is over all classes met so far.
    fn classes_of_added<'a>(&'a self, task: &'a Task) -> &'a Vec<u32> {
        if task.classes.len() > 1 { &task.classes } else { &self.learner.classes_seen }
    }

    /// The classes whose columns of the head keep their bits in this task: where it was added, all but its own.
    pub fn kept_classes(&self, task: &Task) -> Vec<u32> {
        let others = (0..self.classes() as u32).filter(|class| !task.classes.contains(class));
        others.filter(|_| self.has_added_head(task)).collect()
    }

    /// The same for batches of `loader`, some of whose rows are replayed: they have a mask of their own, as the
    /// official code has it (google-research/l2p @ dd8836e, `train_continual.py`, lines 272-283).
    pub fn batch_view(&self, task: &Task, loader: &Loader) -> TaskView {
        let (mut view, cl, own) = (self.task_view(task), &self.learner.config.continual, loader.own_rows());
        view.rank_fraction = self.rank_fraction(loader.whole_batch());
        if own < loader.whole_batch() && cl.replay_no_mask {
            let replayed = view.mask.iter().map(|m| !m || !cl.replay_reverse_mask).collect::<Vec<bool>>();
            let rows = loader.rows().map(|row| if row < own { &view.mask } else { &replayed });
            view.mask = rows.flatten().copied().collect();
        }
        view
    }

    /// What part of a step of `images` images is this rank's.
    pub fn rank_fraction(&self, images: usize) -> f64 {
        self.ranks.rows(images).len() as f64 / images as f64
    }

    pub fn dtype(&self) -> DType {
        self.learner.method.model().dtype()
    }

    /// Images without augmentation, and their class ids.
    pub fn eval_batch(&self, which: Subset, indices: &[u32]) -> Result<Batch> {
        batch::eval(&self.reader, self.resident.as_ref(), self.dtype(), which, indices)
    }

    /// Queries (n, C) of the images `indices`, in f64 rows.
    pub fn queries(&mut self, which: Subset, indices: &[u32]) -> Result<Vec<f64>> {
        let mut queries = Vec::new();
        for chunk in indices.chunks(self.learner.config.train.eval_batch_size) {
            self.ranks.comm.check()?;
            let batch = self.eval_batch(which, chunk)?;
            queries.extend(self.learner.method.query(&self.learner.dev, batch.pixels())?.view().read_f64()?);
        }
        Ok(queries)
    }

    /// Frozen features (n, C) of the images `indices`, in f64 rows, and their class ids. All ranks compute a part.
    pub fn all_features(&mut self, which: Subset, indices: &[u32]) -> Result<(Vec<f64>, Vec<u32>)> {
        let (mut features, mut labels) = (Vec::new(), Vec::new());
        for chunk in
            indices[self.ranks.share_of(indices.len(), 1)].chunks(self.learner.config.train.eval_batch_size)
        {
            self.ranks.comm.check()?;
            let batch = self.eval_batch(which, chunk)?;
            features
                .extend(self.learner.method.features(&self.learner.dev, batch.pixels())?.view().read_f64()?);
            labels.extend(batch.labels);
        }
        Ok((self.ranks.gather("features", &features)?, self.ranks.gather("labels", &labels)?))
    }

    /// Whether any rank was asked to stop; all ranks get the same answer.
    pub fn stop_requested(&self) -> Result<bool> {
        self.ranks.comm.any("requests to stop", signal::stop_requested())
    }

    /// # Errors
    /// `Error::Interrupted` if any rank was asked to stop, for parts that begin anew after it.
    pub fn stop_baseline(&self) -> Result<()> {
        if self.stop_requested()? {
            signal::request_stop();
        }
        signal::stop_baseline()
    }
}

/// Replayed images in a step of `batch` others, of which `continual.replay_batch_size` come on each device.
fn replayed(config: &Config, batch: usize) -> usize {
    config.continual.replay_batch_size * batch / config.train.per_device_batch_size
}

/// Images of a step on one of `ranks` ranks, if all take `batch` and replayed ones.
pub fn images_on_a_rank(config: &Config, batch: usize, ranks: usize) -> usize {
    (batch + replayed(config, batch)).div_ceil(ranks)
}

/// What is trained one after the other: the tasks, or with `scenario = "joint"` all of them at once.
pub fn train_tasks(config: &Config, split: &Split) -> Vec<Task> {
    match config.continual.scenario {
        Scenario::Joint => vec![tasks::joint(split)],
        _ => split.tasks.clone(),
    }
}

/// The tasks of `config` for steps of `batch` images, tests limited as it says.
pub fn split(config: &Config, data: &DataSet, batch: usize) -> Result<Split> {
    let mut split = scenario::split(data, &config.continual, config.seed, batch)?;
    split.limit_tests(data, config.train.num_eval_steps * batch);
    Ok(split)
}

/// What a run needs before there is a network: made once for all ranks of a process.
#[derive(Clone)]
pub struct Loaded {
    pub dev: Device,
    pub data: Arc<DataSet>,
    /// What the backbone is, without its weights.
    pub backbone: Backbone,
    /// The images, where a GPU keeps them already.
    pub resident: Option<ResidentData>,
}

impl Loaded {
    /// Loads the data, looks at the backbone, and sees whether the device will do for this purpose.
    pub fn new(config: &Config, choice: Choice, purpose: Purpose) -> Result<Loaded> {
        let data = Arc::new(data::load(&config.data, config.seed)?);
        let backbone = backbone::describe(config)?;
        let mut loaded = Loaded { dev: Device::Cpu, data, backbone, resident: None };
        loaded.dev = loaded.fitting(config, choice, purpose)?;
        Ok(loaded)
    }

    /// Where a rank computes that has this choice.
    pub fn fitting(&self, config: &Config, choice: Choice, purpose: Purpose) -> Result<Device> {
        let (dims, classes) = (backbone::dims(&self.backbone), self.data.class_names.len());
        fitting_device(config, dims, classes, choice, purpose)
    }
}
