//! What the frozen features give without any prompt, and what other runs give: the numbers that a prompt method has
//! to beat. Each baseline is a row of [`TABLE`].

use super::baseline_runs::{fixed_prompts_of, random_prompts_of, run, single_prompt_of};
use super::evaluate::argmax;
use super::scores;
use super::session::Session;
use super::share;
use crate::config::{Config, schema};
use crate::data::Subset;
use crate::data::tasks::{Task, joint};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::learner::Position;
use crate::methods::ClassMeans;
use crate::methods::ranpac::{Projection, Ridge};
use crate::ops::cross_entropy;
use crate::ops::linear::{Epilogue, LinearWeights, backward_params_acc, forward};
use crate::ops::optimizer::{Adam, adam};
use crate::output::answers::{Answers, Tally};
use crate::output::results::{Baselines, Score};
use crate::output::signal;
use crate::rng::{Rng, Stream};
use crate::tensor::{DType, Tensor};

/// One baseline: how it is asked for, where its score goes, when it means something, how it is computed.
pub struct Baseline {
    wanted: fn(&schema::Baselines) -> bool,
    slot: fn(&mut Baselines) -> &mut Option<Score>,
    applies: fn(&Session) -> bool,
    compute: Compute,
}

/// What a baseline is computed from. All in the order of the tasks: no task sees a later one.
enum Compute {
    /// The frozen features as they are.
    Features(fn(&Session, &Features) -> Result<Score>),
    /// The frozen features, made zero mean and unit variance as those of the first task are.
    Standardised(fn(&Session, &Features) -> Result<Score>),
    /// A run of its own, of the configuration that is made of this run's; its key, and what differs in words.
    Run { key: &'static str, of: fn(&Config) -> Option<Config>, what: &'static str },
}

/// All baselines. A new one is a row here, its key in `[baselines]` and its field in the results.
pub const TABLE: &[Baseline] = &[
    Baseline { wanted: |b| b.ncm, slot: |b| &mut b.ncm, applies: |_| true, compute: Compute::Features(ncm) },
    Baseline {
        wanted: |b| b.linear_probe,
        slot: |b| &mut b.linear_probe,
        applies: |_| true,
        compute: Compute::Standardised(|session, features| probe(session, features, true)),
    },
    Baseline {
        wanted: |b| b.naive_head,
        slot: |b| &mut b.naive_head,
        // Where tasks share their test set, what is known in the end is one number.
        applies: |session| !session.split.shared_test,
        compute: Compute::Standardised(|session, features| probe(session, features, false)),
    },
    Baseline {
        wanted: |b| b.ranpac,
        slot: |b| &mut b.ranpac,
        applies: |_| true,
        compute: Compute::Features(ranpac),
    },
    Baseline {
        wanted: |b| b.single_prompt,
        slot: |b| &mut b.single_prompt,
        applies: |session| single_prompt_of(&session.learner.config).is_some(),
        compute: Compute::Run {
            key: "baselines.single_prompt",
            of: single_prompt_of,
            what: "a single prompt",
        },
    },
    Baseline {
        wanted: |b| b.random_prompts,
        slot: |b| &mut b.random_prompts,
        applies: |session| random_prompts_of(&session.learner.config).is_some(),
        compute: Compute::Run {
            key: "baselines.random_prompts",
            of: random_prompts_of,
            what: "random prompts",
        },
    },
    Baseline {
        wanted: |b| b.fixed_prompts,
        slot: |b| &mut b.fixed_prompts,
        applies: |session| fixed_prompts_of(&session.learner.config).is_some(),
        compute: Compute::Run { key: "baselines.fixed_prompts", of: fixed_prompts_of, what: "fixed prompts" },
    },
];

/// Passes over the data, images per step and learning rate of the linear baselines: enough to converge
/// on standardised features.
const EPOCHS: usize = 30;
const BATCH: usize = 128;
const RATE: f64 = 0.003;

/// Frozen features and labels of all tasks.
struct Features {
    tasks: Vec<TaskFeatures>,
    /// The task after which all that is known is these features and those before them.
    after: Vec<usize>,
    classes: usize,
    width: usize,
}

/// Features and labels of one task, train and test.
struct TaskFeatures {
    /// Order in which a method takes the training images.
    order: Vec<usize>,
    train: (Vec<f64>, Vec<u32>),
    test: (Vec<f64>, Vec<u32>),
}

/// Whether a baseline that is asked for is computed from the frozen features.
pub fn wants_features(wanted: &schema::Baselines) -> bool {
    TABLE.iter().any(|row| (row.wanted)(wanted) && !matches!(row.compute, Compute::Run { .. }))
}

/// The configurations of the baselines that are runs of their own, as far as `config` asks for them and they mean
/// something, with their keys.
pub fn runs_of(config: &Config) -> Vec<(&'static str, Config)> {
    let own = |row: &Baseline| match row.compute {
        Compute::Run { key, of, .. } if (row.wanted)(&config.baselines) => Some((key, of(config)?)),
        _ => None,
    };
    TABLE.iter().filter_map(own).collect()
}

/// Bytes of an image's features and label, and of the copy from which the linear heads learn.
pub fn feature_bytes(width: usize) -> usize {
    2 * (width * size_of::<f64>() + size_of::<u32>())
}

/// The baselines that the configuration asks for, that mean something in this run and that `at` has not: none where
/// images of tasks are gone.
pub fn missing(session: &Session, at: &Position) -> Vec<&'static Baseline> {
    if session.split.tasks.iter().any(|task| task.train.is_empty()) {
        return Vec::new();
    }
    let mut have = at.baselines.clone().unwrap_or_default();
    let wanted = &session.learner.config.baselines;
    TABLE
        .iter()
        .filter(|row| (row.wanted)(wanted) && (row.applies)(session) && (row.slot)(&mut have).is_none())
        .collect()
}

/// Computes `rows` into `into`: features on all ranks, what is learned on them on rank 0.
pub fn compute(session: &mut Session, rows: &[&Baseline], into: &mut Baselines, quiet: bool) -> Result<()> {
    if rows.iter().any(|row| !matches!(row.compute, Compute::Run { .. })) {
        if !quiet {
            crate::output::say("baselines on the frozen features")
        }
        let features = features(session)?;
        let comm = session.ranks.comm.clone();
        let mut mine = None;
        if comm.is_first() {
            let mut scores = into.clone();
            // The others wait for the scores, which may take longer than a rank may be silent.
            match comm.alive(|| on_features(session, rows, features, &mut scores)) {
                Ok(()) => mine = Some(scores),
                // A request to stop is no failure: all ranks hear of it and end.
                Err(Error::Interrupted(_)) => {}
                Err(e) => return Err(e),
            }
        }
        let Some(scores) = share::json(&comm, "baselines", mine)? else {
            signal::request_stop();
            return signal::stop_baseline();
        };
        *into = scores;
    }
    for row in rows {
        if let Compute::Run { of, what, .. } = row.compute {
            *(row.slot)(into) = Some(run(session, of, what, quiet)?);
        }
    }
    Ok(())
}

fn on_features(
    session: &Session,
    rows: &[&Baseline],
    mut features: Features,
    into: &mut Baselines,
) -> Result<()> {
    for row in rows {
        if let Compute::Features(of) = row.compute {
            *(row.slot)(into) = Some(of(session, &features)?);
        }
    }
    features.standardise();
    for row in rows {
        if let Compute::Standardised(of) = row.compute {
            *(row.slot)(into) = Some(of(session, &features)?);
        }
    }
    Ok(())
}

fn features(session: &mut Session) -> Result<Features> {
    let mut all = Vec::new();
    // Tasks that share their test set also share classes: what is known at the end is one number.
    let (tasks, after) = match session.split.shared_test {
        true => (vec![joint(&session.split)], session.tested_tasks().pop().into_iter().collect()),
        false => (session.split.tasks.clone(), (0..session.split.tasks.len()).collect()),
    };
    for task in tasks {
        session.stop_baseline()?;
        let train = session.all_features(Subset::Train, &task.train)?;
        let test = session.all_features(Subset::Test, &task.test)?;
        let order = learning_order(session.learner.config.seed, &task);
        all.push(TaskFeatures { order, train, test });
    }
    let (classes, width) = (session.classes(), session.learner.backbone.dims.embed_dim);
    Ok(Features { tasks: all, after, classes, width })
}

impl Features {
    /// Makes the features zero mean and unit variance, as those of the first task are.
    fn standardise(&mut self) {
        let standard = Standardization::of(&self.tasks[0].train.0, self.width);
        for task in &mut self.tasks {
            standard.apply(&mut task.train.0);
            standard.apply(&mut task.test.0);
        }
    }
}

/// The accuracy matrix of a baseline on the frozen features, as it grows.
struct Rows<'a> {
    session: &'a Session,
    features: &'a Features,
    matrix: Vec<Vec<f64>>,
    tally: Tally,
    task_of: Vec<usize>,
}

impl<'a> Rows<'a> {
    fn new(session: &'a Session, features: &'a Features) -> Rows<'a> {
        let task_of = scores::task_of(&session.split);
        Rows { session, features, matrix: Vec::new(), tally: Tally::default(), task_of }
    }

    /// Adds a row: `classify` gives the classes of some features (n, C), here of the test images of each task so far.
    fn test(&mut self, classify: impl Fn(&[f64]) -> Result<Vec<usize>>) -> Result<()> {
        let row = self.matrix.len();
        let answers = |task: &TaskFeatures| {
            let (x, y) = &task.test;
            let mut answers = Answers::new(self.features.classes);
            y.iter().zip(classify(x)?).for_each(|(&label, class)| answers.add(label, class as u32));
            Ok(answers)
        };
        let tests: Vec<Answers> = self.features.tasks[..=row].iter().map(answers).collect::<Result<_>>()?;
        self.tally.add_row(row, &tests, &self.task_of);
        self.matrix.push(tests.iter().map(Answers::accuracy).collect());
        Ok(())
    }

    fn score(self) -> Result<Score> {
        let sets = self.session.test_sets(Subset::Test, &self.tally);
        Ok(Score::from_matrix(self.matrix)?.after_tasks(&self.features.after).with_tests(&sets))
    }
}

/// Nearest class mean by cosine.
fn ncm(session: &Session, features: &Features) -> Result<Score> {
    let c = features.width;
    let mut means = ClassMeans::new(features.classes, c);
    let mut rows = Rows::new(session, features);
    for task in &features.tasks {
        signal::stop_baseline()?;
        let (x, y) = &task.train;
        x.chunks_exact(c).zip(y).for_each(|(x, &y)| means.add(y, x));
        rows.test(|x| Ok(x.chunks_exact(c).map(|x| argmax(&means.scores(x))).collect()))?;
    }
    rows.score()
}

/// The first pass of [`crate::data::Loader`] over the training images of a task, as places in their list.
fn learning_order(seed: u64, task: &Task) -> Vec<usize> {
    let mut order: Vec<usize> = (0..task.train.len()).collect();
    if !task.ordered {
        Rng::new(seed, Stream::Shuffle, (task.index as u64) << 32).shuffle(&mut order);
    }
    order
}

/// Ridge regression on random features, as `method = "ranpac"` learns it.
fn ranpac(session: &Session, features: &Features) -> Result<Score> {
    let (config, c, classes) = (&session.learner.config, features.width, features.classes);
    let dtype = if session.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
    let projection = match config.ranpac.random_features {
        0 => Projection::none(c),
        m => Projection::drawn(config.seed, Tensor::zeros([c, m], dtype)),
    };
    let mut ridge = Ridge::on_host(projection, config.ranpac.lambdas.clone(), classes, dtype);
    let mut rows = Rows::new(session, features);
    for task in &features.tasks {
        signal::stop_baseline()?;
        let (x, y) = &task.train;
        let values: Vec<f64> = task.order.iter().flat_map(|&i| &x[i * c..][..c]).copied().collect();
        let labels: Vec<u32> = task.order.iter().map(|&i| y[i]).collect();
        ridge.add_task(Tensor::from_f64(&values, [labels.len(), c], dtype).view(), &labels)?;
        rows.test(|x| {
            let logits = ridge.logits(Tensor::from_f64(x, [x.len() / c, c], dtype).view())?.to_f64();
            Ok(logits.chunks_exact(classes.max(1)).map(argmax).collect())
        })?;
    }
    rows.score()
}

/// Mean and deviation per feature, of the first task only: later tasks are not known yet.
struct Standardization {
    mean: Vec<f64>,
    rstd: Vec<f64>,
}

impl Standardization {
    fn of(x: &[f64], c: usize) -> Standardization {
        let n = (x.len() / c).max(1) as f64;
        let mut mean = vec![0.0; c];
        let mut square = vec![0.0; c];
        for row in x.chunks_exact(c) {
            for j in 0..c {
                mean[j] += row[j] / n;
            }
        }
        for row in x.chunks_exact(c) {
            for j in 0..c {
                square[j] += (row[j] - mean[j]).powi(2) / n;
            }
        }
        Standardization { mean, rstd: square.iter().map(|v| 1.0 / (v + 1e-6).sqrt()).collect() }
    }

    fn apply(&self, x: &mut [f64]) {
        for row in x.chunks_exact_mut(self.mean.len()) {
            for (j, v) in row.iter_mut().enumerate() {
                *v = (*v - self.mean[j]) * self.rstd[j];
            }
        }
    }
}

/// A linear head on frozen features. `rehearse`: after each task it learns anew from all data seen so
/// far (the linear probe); otherwise it goes on with the new task's data alone, without any mask
/// (naive sequential fine-tuning of the head).
fn probe(session: &Session, features: &Features, rehearse: bool) -> Result<Score> {
    let Features { tasks, classes, width, .. } = features;
    let (classes, c) = (*classes, *width);
    let mut head = Head::new(classes, c);
    let mut rows = Rows::new(session, features);
    for t in 0..tasks.len() {
        if rehearse {
            head = Head::new(classes, c);
        }
        let from = if rehearse { 0 } else { t };
        let x: Vec<f64> = tasks[from..=t].iter().flat_map(|task| task.train.0.iter().copied()).collect();
        let y: Vec<u32> = tasks[from..=t].iter().flat_map(|task| task.train.1.iter().copied()).collect();
        head.train(session, &x, &y, t)?;
        let (kernel, bias) = (head.kernel.to_f64(), head.bias.to_f64());
        let classify = |x: &[f64]| {
            let mut logits = bias.clone();
            for (x, kernel) in x.iter().zip(kernel.chunks_exact(classes)) {
                logits.iter_mut().zip(kernel).for_each(|(z, w)| *z += x * w);
            }
            argmax(&logits)
        };
        rows.test(|x| Ok(x.chunks_exact(c).map(classify).collect()))?;
    }
    rows.score()
}

struct Head {
    classes: usize,
    width: usize,
    kernel: Tensor,
    bias: Tensor,
}

impl Head {
    fn new(classes: usize, width: usize) -> Head {
        let zeros = |n: usize| Tensor::zeros([n], DType::F32);
        Head { classes, width, kernel: zeros(classes * width), bias: zeros(classes) }
    }

    fn train(&mut self, session: &Session, x: &[f64], y: &[u32], task: usize) -> Result<()> {
        // A small head on cached features: the CPU is as good as any device.
        let (dev, c, k) = (&Device::Cpu, self.width, self.classes);
        let mut moments = [&self.kernel, &self.bias]
            .map(|p| [Tensor::zeros([p.len()], DType::F32), Tensor::zeros([p.len()], DType::F32)]);
        let mut order: Vec<usize> = (0..y.len()).collect();
        let mut step = 0;
        let with = Adam { beta1: 0.9, beta2: 0.999, eps: 1e-8, decay: 0.0, max_norm: 0.0 };
        // Nothing is clipped: any finite norm will do.
        let (mut outcome, squares) = (Tensor::zeros([2], DType::F64), Tensor::zeros([1], DType::F64));
        let mask = Tensor::from_vec(vec![1u32; k], [k]);
        for epoch in 0..EPOCHS {
            session.ranks.comm.check()?;
            signal::stop_baseline()?;
            let stream = (task as u64) << 32 | 1 << 63 | epoch as u64;
            Rng::new(session.learner.config.seed, Stream::Shuffle, stream).shuffle(&mut order);
            for batch in order.chunks(BATCH) {
                step += 1;
                let rows: Vec<f64> = batch.iter().flat_map(|&i| &x[i * c..][..c]).copied().collect();
                let images = Tensor::from_f64(&rows, [batch.len(), c], DType::F32);
                let labels = Tensor::from_vec(batch.iter().map(|&i| y[i]).collect(), [batch.len()]);
                let mut logits = Tensor::zeros([batch.len(), k], DType::F32);
                let weights = LinearWeights::all(self.kernel.view().reshaped([c, k]), self.bias.view());
                forward(dev, logits.view_mut(), images.view(), &weights, Epilogue::Plain)?;
                let mut d = Tensor::zeros([batch.len(), k], DType::F32);
                let (logits, labels) = (logits.view(), labels.view());
                let d_view = Some(d.view_mut());
                cross_entropy::forward_backward(
                    dev,
                    outcome.view_mut(),
                    d_view,
                    logits,
                    labels,
                    mask.view(),
                    0.0,
                )?;
                let mut grads = [Tensor::zeros([c * k], DType::F32), Tensor::zeros([k], DType::F32)];
                let [dkernel, dbias] = &mut grads;
                let into = (Some(dkernel.view_mut()), Some(dbias.view_mut()));
                backward_params_acc(dev, into.0, into.1, images.view(), d.view(), 0..k)?;
                let step_scalars = Tensor::from_f64(&with.step_scalars(RATE, step, 1.0), [4], DType::F64);
                for ((p, [m, v]), g) in
                    [&mut self.kernel, &mut self.bias].into_iter().zip(&mut moments).zip(&grads)
                {
                    let moments = [m.view_mut(), v.view_mut()];
                    adam(dev, p.view_mut(), moments, g.view(), squares.view(), step_scalars.view(), with)?;
                }
            }
        }
        Ok(())
    }
}
