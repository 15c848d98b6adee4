//! The plan of a run before it starts: tasks, steps, memory, work and time. Needs neither images (the labels of
//! published data sets are known), nor weights, nor the GPU that it plans for.

pub mod text;
mod work;

use super::{baselines, session};
use crate::config::Config;
use crate::config::schema::{Method, Precision};
use crate::data::{self, DataSet, Split, Task, loader, published, scenario};
use crate::device::published_gpus::PublishedGpu;
use crate::device::{self, Choice, Device};
use crate::error::{Error, Result};
use crate::learner::{self, Purpose, backbone};
use crate::methods::Ranks;
use crate::nn::vit::Dims;
use crate::ops::gelu::GeluForm;
use crate::ops::linear::{self, Epilogue, LinearWeights, Packed, PackedForm};
use crate::tensor::plan::Plan;
use crate::tensor::{DType, Tensor};
use std::path::Path;
use std::time::Instant;
pub use work::Amount;
use work::{Counted, steps};

/// So many measurements of the matrix product, which take so long each, in seconds.
const MEASUREMENTS: usize = 5;
const MEASURE: f64 = 0.1;
/// A run takes at most so many times what its products take: the bundled backbone takes 1.5 times as long.
const BESIDE_PRODUCTS: f64 = 2.0;
/// Shares of a GPU's published rate that products reach, most and least: `docs/results.md` predicts 380 TFLOP/s of 989
/// for the large ones. Nothing has been measured on a GPU.
const GPU_SHARES: [f64; 2] = [0.4, 0.1];
/// Shares of its published bandwidth that a run reaches: what copies reach, and half of it.
const BANDWIDTH_SHARES: [f64; 2] = [0.9, 0.45];

/// Where a run is planned.
#[derive(Debug, Clone)]
pub enum PlannedDevice {
    /// On a device of this machine.
    Here(Choice),
    /// On a GPU that need not be there.
    Elsewhere(PublishedGpu),
}

/// How long something takes at the highest and at the lowest rate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TimeRange {
    /// Operations per second.
    pub rates: [f64; 2],
    /// Seconds at these rates, without and with baselines.
    pub run: [f64; 2],
    pub with_baselines: [f64; 2],
}

/// A run that has not begun.
pub struct Forecast {
    pub config: Config,
    pub data: DataSet,
    pub split: Split,
    /// What is trained one after the other, with its steps.
    pub tasks: Vec<(Task, usize)>,
    /// Where the backbone comes from.
    pub source: String,
    pub plan: Plan,
    /// Values that learn, and values that do not.
    pub params: (usize, usize),
    /// Floating-point operations.
    pub work: Amount,
    /// `None` for a GPU whose rate is not known.
    pub duration: Option<TimeRange>,
    /// Where it is planned, if that is no device of this machine.
    pub elsewhere: Option<PublishedGpu>,
    /// Bytes that the plan has more than one with evaluation batches of the size of training batches.
    pub eval_batch_bytes: usize,
    pub baselines: BaselineBytes,
    /// Differences between this plan and the run, a sentence each.
    pub notes: Vec<String>,
    pub ranks: usize,
}

/// What baselines take beside the memory of the run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BaselineBytes {
    /// The largest of the baselines that are runs of their own, on the device, and its key: it is trained while the
    /// network of the run is still there.
    pub run: Option<(&'static str, usize)>,
    /// Frozen features of all images, in the host's memory.
    pub features: usize,
}

/// Plans the run of `config` on a device and on `ranks` - 1 others like it.
///
/// # Errors
/// Those of [`super::Session::new`], except for images and weights that are not there; `Error::Failed` for a published GPU
/// that has too little memory.
pub fn forecast(mut config: Config, place: PlannedDevice, ranks: usize) -> Result<Forecast> {
    let mut notes = Vec::new();
    let data = match data::load(&config.data, config.seed) {
        Ok(data) => data,
        Err(e) => {
            let Some(data) = published::labels(&config.data) else { return Err(e) };
            notes.push(format!(
                "the images were not read ({e}); their numbers are those of the published set"
            ));
            if !std::mem::take(&mut config.continual.session_lists).is_empty() {
                notes.push(
                    "continual.session_lists names images, which are not here: the plan has all images of each class"
                        .into(),
                );
            }
            data
        }
    };
    let checkpoint = config.model.init_checkpoint.clone();
    let missing =
        !checkpoint.is_empty() && !checkpoint.starts_with("bundled:") && !Path::new(&checkpoint).exists();
    let (dims, source) = if missing {
        notes.push(format!("{checkpoint} is not there; the sizes are those of ViT-B/16"));
        (vit_b16(&config), "ViT-B/16, not read".into())
    } else {
        let read = backbone::describe(&config)?;
        (backbone::dims(&read), read.source)
    };
    config.check_with_layers(dims.layers)?;
    let classes = data.class_names.len();
    let each = config.train.per_device_batch_size;
    let images = each + config.continual.replay_batch_size;
    let alone = Ranks::alone(images);
    let purpose = Purpose::Training { ranks: &alone, images };
    let (mut plan, free, elsewhere) = match place {
        PlannedDevice::Here(choice) => {
            let dev = learner::fitting_device(&config, dims, classes, choice, purpose)?;
            (Plan::dry(&dev), dev.free_bytes(), None)
        }
        PlannedDevice::Elsewhere(gpu) => (Plan::dry_on_gpu(), Some(gpu.usable()), Some(gpu)),
    };
    config.precision = learner::precision_on(config.precision, plan.is_on_gpu())?;
    let empty = || if elsewhere.is_some() { Plan::dry_on_gpu() } else { Plan::dry(plan.device()) };
    let mut small = empty();
    learner::divide(&mut config, dims, classes, purpose, empty, free)?;
    let batch = each * ranks;
    let split = session::split(&config, &data, batch)?;
    let learned = session::train_tasks(&config, &split);
    let epochs = if config.method.takes_each_image_once() { 1 } else { config.train.num_epochs };
    let with_steps = |task: Task| {
        if task.train.is_empty() {
            return Ok((0, task));
        }
        let cl = &config.continual;
        let review = scenario::replay_set(&data, &split, cl, config.seed, task.index)
            .filter(|_| cl.num_review_epochs > 0)
            .map(|replay| steps(replay.train.len(), cl.num_review_epochs, batch, &config));
        let own = steps(task.train.len(), epochs, batch, &config)?;
        Ok((own + review.transpose()?.unwrap_or(0), task))
    };
    let tasks: Result<Vec<(Task, usize)>> =
        learned.into_iter().map(|task| with_steps(task).map(|(steps, task)| (task, steps))).collect();
    let tasks = tasks?;
    notes.extend(unused_images(&tasks, epochs, batch, &config));
    if plan.is_on_gpu() && (config.method == Method::Ranpac || config.baselines.ranpac) {
        notes.push(
            "the CPU computes the ridge regression; the time below counts its work as the GPU's".into(),
        );
    }
    if plan.is_on_gpu() && config.method == Method::Ranpac && config.ranpac.adapter_width > 0 {
        notes.push(
            "a GPU refuses this run so far: adapters (ranpac.adapter_width > 0) have no kernels yet".into(),
        );
    }
    let method = learner::planned(&config, dims, classes, &mut plan, purpose)?;
    plan.check()?;
    let mut same_batch = config.clone();
    same_batch.train.eval_batch_size = each.min(config.train.eval_batch_size);
    learner::planned(&same_batch, dims, classes, &mut small, purpose)?;
    let eval_batch_bytes = plan.total_bytes() - small.total_bytes();
    let of_baselines = baseline_bytes(&config, dims, classes, purpose, (&plan, elsewhere), &split)?;
    if let Some(gpu) = elsewhere {
        fits(&gpu, plan.total_bytes(), eval_batch_bytes, of_baselines.run)?;
    }
    let model = method.model();
    let counted = Counted { config: &config, model, split: &split, tasks: &tasks, batch };
    let work = counted.operations();
    let params = (model.params.trainable.len(), model.params.frozen.len());
    let duration = match (elsewhere, plan.is_on_gpu()) {
        (Some(gpu), _) => gpu.rates.map(|published| {
            let each = |share: f64, published: f64| share * published * 1e12 * ranks as f64;
            let rates = GPU_SHARES.map(|share| each(share, published.tflops));
            let bandwidths = BANDWIDTH_SHARES.map(|share| each(share, published.terabytes));
            TimeRange::of(work, rates, Some((counted.bytes(), bandwidths)))
        }),
        (None, true) => None,
        (None, false) => Some(TimeRange::of(work, rates(&config, dims)?, None)),
    };
    Ok(Forecast {
        config,
        data,
        split,
        tasks,
        source,
        plan,
        params,
        work,
        duration,
        elsewhere,
        eval_batch_bytes,
        baselines: of_baselines,
        notes,
        ranks,
    })
}

impl TimeRange {
    /// The time of `work` operations at `rates`, and of moving bytes, if that takes longer.
    fn of(work: Amount, rates: [f64; 2], moved: Option<(Amount, [f64; 2])>) -> TimeRange {
        let seconds = |of: fn(&Amount) -> f64| {
            [0, 1].map(|i| {
                let moving = moved.map_or(0.0, |(bytes, bandwidths)| of(&bytes) / bandwidths[i]);
                (of(&work) / rates[i]).max(moving)
            })
        };
        TimeRange { rates, run: seconds(|a| a.total), with_baselines: seconds(|a| a.total + a.baselines) }
    }
}

/// What the baselines of the configuration take where `plan` was made.
fn baseline_bytes(
    config: &Config,
    dims: Dims,
    classes: usize,
    purpose: Purpose,
    (plan, elsewhere): (&Plan, Option<PublishedGpu>),
    split: &Split,
) -> Result<BaselineBytes> {
    let wanted = &config.baselines;
    let mut run: Option<(&str, usize)> = None;
    for (key, config) in baselines::runs_of(config) {
        let mut own = if elsewhere.is_some() { Plan::dry_on_gpu() } else { Plan::dry(plan.device()) };
        learner::planned(&config, dims, classes, &mut own, purpose)?;
        if run.is_none_or(|(_, bytes)| bytes < own.total_bytes()) {
            run = Some((key, own.total_bytes()));
        }
    }
    let mut features = 0;
    if baselines::wants_features(wanted) {
        let images: usize = split.tasks.iter().map(|task| task.train.len() + task.test.len()).sum();
        features = images * baselines::feature_bytes(dims.embed_dim);
    }
    Ok(BaselineBytes { run, features })
}

/// Refuses a run of `bytes`, and the bytes of `beside` beside them, that the GPU cannot hold.
fn fits(
    gpu: &PublishedGpu,
    bytes: usize,
    eval_batch_bytes: usize,
    beside: Option<(&str, usize)>,
) -> Result<()> {
    let gb = |bytes: usize| bytes as f64 / 1e9;
    let all = bytes + beside.map_or(0, |(_, more)| more);
    if all <= gpu.usable() {
        return Ok(());
    }
    let mut why = device::too_little(all, gpu.name, gpu.usable());
    if eval_batch_bytes > 0 {
        why += &format!(
            "; {:.2} GB are for evaluation batches larger than training batches",
            gb(eval_batch_bytes)
        );
    }
    if let Some((key, bytes)) = beside {
        why += &format!("; {:.2} GB are for the baseline {key}", gb(bytes));
    }
    Err(Error::failed(why))
}

/// A sentence about the task that loses the largest part of its images, if that is a tenth or more: those that fill no
/// whole batch.
fn unused_images(tasks: &[(Task, usize)], epochs: usize, batch: usize, config: &Config) -> Option<String> {
    let unused = |task: &Task| {
        let images = task.train.len();
        let each = loader::task_batch(images, batch, config.data.partial_batch);
        let used = steps(images, epochs, batch, config).unwrap_or(0) * each;
        ((images * epochs).saturating_sub(used), images * epochs)
    };
    let (task, (left, all)) = tasks
        .iter()
        .map(|(task, _)| (task, unused(task)))
        .max_by(|(_, a), (_, b)| (a.0 as u128 * b.1 as u128).cmp(&(b.0 as u128 * a.1 as u128)))?;
    (10 * left >= all && left > 0).then(|| {
        format!(
            "task {}: {left} of the {all} images of its {epochs} epochs fill no whole batch of {batch} \
             (train.per_device_batch_size) and are not used",
            task.index + 1
        )
    })
}

/// ViT-B/16 at the input size of the configuration.
fn vit_b16(config: &Config) -> Dims {
    let layers = if config.model.blocks == 0 { 12 } else { config.model.blocks };
    let (image_size, eps) = (config.data.input_size, 1e-6);
    Dims {
        image_size,
        patch_size: 16,
        embed_dim: 768,
        heads: 12,
        mlp_dim: 3072,
        layers,
        registers: 0,
        eps,
        gelu: GeluForm::Tanh,
    }
}

/// Floating-point operations per second of this CPU in the largest matrix product of the network: the best of a few
/// measurements, and the least of them as far as a run reaches it.
fn rates(config: &Config, d: Dims) -> Result<[f64; 2]> {
    let dtype = if config.precision == Precision::F64 { DType::F64 } else { DType::F32 };
    let (rows, c, h) = (4 * d.tokens(), d.embed_dim, d.mlp_dim);
    let values = |shape: [usize; 2]| Tensor::from_f64(&vec![0.5; shape[0] * shape[1]], shape, dtype);
    let (x, kernel, mut y) = (values([rows, c]), values([c, h]), values([rows, h]));
    let bias = Tensor::zeros([h], dtype);
    let lens =
        PackedForm::Bf16.lens(c, h).filter(|_| config.precision == Precision::Bf16).unwrap_or_default();
    let [mut forward, mut backward] = [lens[0], 0].map(|len| Tensor::zeros([len], DType::BF16));
    if !forward.is_empty() {
        let form = PackedForm::Bf16;
        linear::pack(&Device::Cpu, form, forward.view_mut(), backward.view_mut(), kernel.view())?;
    }
    let packed = Packed { form: PackedForm::Bf16, forward: forward.view(), backward: backward.view() };
    let packed = (!forward.is_empty()).then_some(packed);
    let weights = LinearWeights { packed, ..LinearWeights::all(kernel.view(), bias.view()) };
    let mut measured = [0.0; MEASUREMENTS];
    for rate in &mut measured {
        let (mut done, started) = (0.0, Instant::now());
        while started.elapsed().as_secs_f64() < MEASURE {
            linear::forward(&Device::Cpu, y.view_mut(), x.view(), &weights, Epilogue::Plain)?;
            done += 2.0 * (rows * c * h) as f64;
        }
        *rate = done / started.elapsed().as_secs_f64();
    }
    let best = measured.iter().copied().fold(0.0, f64::max);
    Ok([best, measured.into_iter().fold(best, f64::min) / BESIDE_PRODUCTS])
}
