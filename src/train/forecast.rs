//! The plan of a run before it starts: tasks, steps, memory, work and time. Needs neither images (the labels of
//! published data sets are known), nor weights, nor the GPU that it plans for.

use super::session;
use crate::config::Config;
use crate::config::schema::{Method as Name, Precision, Scenario};
use crate::data::{self, DataSet, Split, Task, loader, published, scenario};
use crate::device::published_gpus::PublishedGpu;
use crate::device::{Choice, Device};
use crate::error::{Error, Result};
use crate::learner::{self, Purpose, backbone};
use crate::methods::{Ranks, ranpac};
use crate::network::Model;
use crate::nn::vit::Dims;
use crate::ops::gelu::GeluForm;
use crate::ops::matmul::{self, Layout, Write};
use crate::prompts::Query;
use crate::tensor::plan::Plan;
use crate::tensor::{DType, Tensor};
use std::path::Path;
use std::time::Instant;

/// So many measurements of the matrix product, which take so long each, in seconds.
const MEASUREMENTS: usize = 5;
const MEASURE: f64 = 0.1;
/// A run takes at most so many times what its products take: the bundled backbone takes 1.5 times as long.
const BESIDE_PRODUCTS: f64 = 2.0;
/// Shares of a GPU's published rate that products reach, most and least: `docs/results.md` predicts 380 TFLOP/s of 989
/// for the large ones. Nothing has been measured on a GPU.
const GPU_SHARES: [f64; 2] = [0.4, 0.1];

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
    pub work: FlopCount,
    /// `None` for a GPU whose rate is not known.
    pub duration: Option<TimeRange>,
    /// Where it is planned, if that is no device of this machine.
    pub elsewhere: Option<PublishedGpu>,
    /// Bytes that the plan has more than one with evaluation batches of the size of training batches.
    pub eval_batch_bytes: usize,
    /// Differences between this plan and the run, a sentence each.
    pub notes: Vec<String>,
    pub ranks: usize,
}

/// Floating-point operations of matrix products, a product and a sum being two.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FlopCount {
    /// Per training image: query, prompted network, its backward pass.
    pub train_image: f64,
    /// Per test image and test, and once per test image for its query.
    pub test_image: f64,
    pub query: f64,
    /// Of the whole run, without baselines.
    pub total: f64,
    /// Of the baselines: the features of all images once, and the run once more for the single prompt.
    pub baselines: f64,
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
    let (mut plan, elsewhere) = match place {
        PlannedDevice::Here(choice) => {
            let dev = learner::fitting_device(&config, dims, classes, choice, purpose)?;
            (Plan::dry(&dev), None)
        }
        PlannedDevice::Elsewhere(gpu) => (Plan::dry_on_gpu(), Some(gpu)),
    };
    config.precision = learner::precision_on(config.precision, plan.is_on_gpu())?;
    let batch = each * ranks;
    let split = session::split(&config, &data, batch)?;
    let learned = session::train_tasks(&config, &split);
    let epochs = if config.method.takes_each_image_once() { 1 } else { config.train.num_epochs };
    let with_steps = |task: Task| {
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
    let mut small = if elsewhere.is_some() { Plan::dry_on_gpu() } else { Plan::dry(plan.device()) };
    if plan.is_on_gpu() && (config.method == Name::Ranpac || config.baselines.ranpac) {
        notes.push(
            "the CPU computes the ridge regression; the time below counts its work as the GPU's".into(),
        );
    }
    let method = learner::planned(&config, dims, classes, &mut plan, purpose)?;
    plan.check()?;
    let mut same_batch = config.clone();
    same_batch.train.eval_batch_size = each.min(config.train.eval_batch_size);
    learner::planned(&same_batch, dims, classes, &mut small, purpose)?;
    let eval_batch_bytes = plan.total_bytes() - small.total_bytes();
    if let Some(gpu) = elsewhere {
        fits(&gpu, plan.total_bytes(), eval_batch_bytes)?;
    }
    let model = method.model();
    let work = work(&config, model, &split, &tasks, batch);
    let params = (model.params.trainable.len(), model.params.frozen.len());
    let rates = match (elsewhere, plan.is_on_gpu()) {
        (Some(gpu), _) => {
            gpu.tflops.map(|tflops| GPU_SHARES.map(|share| share * tflops * 1e12 * ranks as f64))
        }
        (None, true) => None,
        (None, false) => Some(rates(&config, dims)?),
    };
    let duration = rates.map(|rates| {
        let seconds = |work: f64| rates.map(|rate| work / rate);
        let with_baselines = seconds(work.total + work.baselines);
        TimeRange { rates, run: seconds(work.total), with_baselines }
    });
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
        notes,
        ranks,
    })
}

/// Refuses a run of `bytes` that the GPU cannot hold.
fn fits(gpu: &PublishedGpu, bytes: usize, eval_batch_bytes: usize) -> Result<()> {
    let gb = |bytes: usize| bytes as f64 / 1e9;
    if bytes <= gpu.usable() {
        return Ok(());
    }
    Err(Error::failed(format!(
        "this run needs {:.2} GB of GPU memory, {} has {:.2} GB to give; {:.2} GB are for evaluation batches that are \
         larger than training batches (train.eval_batch_size), train.per_device_batch_size decides about the rest",
        gb(bytes),
        gpu.name,
        gb(gpu.usable()),
        gb(eval_batch_bytes)
    )))
}

/// Steps of a task with `images` images.
fn steps(images: usize, epochs: usize, batch: usize, config: &Config) -> Result<usize> {
    if config.method.takes_each_image_once() {
        // Each image once.
        return Ok(images.div_ceil(batch));
    }
    loader::steps_per_task(images, epochs, loader::task_batch(images, batch, config.data.partial_batch))
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

/// Counts the products. With T tokens, P prefixed rows, width C and MLP width H, a block is
/// 2 T (4 C^2 + 2 C H) for its layers and 4 T (T + P) C for the attention; backward without weight gradients is
/// the same once for the layers and twice for the attention, and the layers once more where they learn.
fn work(config: &Config, model: &Model, split: &Split, tasks: &[(Task, usize)], batch: usize) -> FlopCount {
    let d = model.setup.dims;
    let c = d.embed_dim as f64;
    let layers = |tokens: usize| 2.0 * tokens as f64 * (4.0 * c * c + 2.0 * c * d.mlp_dim as f64);
    let attention = |tokens: usize, prefix: usize| 4.0 * (tokens * (tokens + prefix)) as f64 * c;
    let embed = 2.0 * (d.patches() * d.patch_len()) as f64 * c;
    let plain = embed + d.layers as f64 * (layers(d.tokens()) + attention(d.tokens(), 0));
    let blocks = &model.layout().layers;
    let (mut dense, mut mixed) = (0.0, 0.0);
    for block in blocks {
        dense += layers(block.tokens);
        mixed += attention(block.tokens, block.prefix_rows);
    }
    let forward = embed + dense + mixed;
    let whole = config.model.freeze_part.is_empty();
    let learns_below = whole || model.layout().entry.is_some();
    let backward = match (config.method, learns_below) {
        (Name::Ncm | Name::Ranpac, _) | (_, false) => 0.0,
        _ => dense + 2.0 * mixed + if whole { dense + embed } else { 0.0 },
    };
    let by_query = model.prompts.query() == Query::Cls;
    let query = if by_query { plain } else { 0.0 };
    let train_image = query + forward + backward;
    // A method that takes each image once answers from features, which are computed once for each test image.
    let once = config.method.takes_each_image_once();
    let (forward, query) = if once { (0.0, plain) } else { (forward, query) };
    let cl = &config.continual;
    let every = cl.eval_every_tasks.max(1);
    let test = |i: usize| split.tasks[i].test.len();
    let tested: usize = (0..tasks.len())
        .filter(|t| (t + 1).is_multiple_of(every) || t + 1 == tasks.len())
        .map(|t| {
            let joint = cl.scenario == Scenario::Joint;
            let last = if joint { split.tasks.len() - 1 } else { t };
            (0..split.tests_after(last)).map(test).sum::<usize>()
        })
        .sum();
    let queried: usize = (0..split.tests_after(split.tasks.len() - 1)).map(test).sum();
    let steps: usize = tasks.iter().map(|(_, steps)| steps).sum();
    let with_replay = tasks.iter().filter(|(task, _)| cl.replayed_upto(task.index).is_some());
    let own = with_replay.map(|(task, steps)| {
        self::steps(task.train.len(), config.train.num_epochs, batch, config).unwrap_or(*steps)
    });
    let each = cl.replay_batch_size * batch / config.train.per_device_batch_size;
    let replayed = own.sum::<usize>() * each;
    let ridge = ridge(config, model, tasks);
    let own_ridge = if config.method == Name::Ranpac { ridge } else { 0.0 };
    let images = tasks.iter().map(|(task, _)| task.train.len()).sum::<usize>() + queried;
    let trained = if once { (images - queried) as f64 } else { (steps * batch + replayed) as f64 };
    let total = trained * train_image + tested as f64 * forward + queried as f64 * query + own_ridge;
    let wanted = &config.baselines;
    let features = wanted.ncm || wanted.linear_probe || wanted.naive_head || wanted.ranpac;
    let baselines = if features { images as f64 * plain } else { 0.0 }
        + if wanted.single_prompt { total } else { 0.0 }
        + if wanted.ranpac { ridge } else { 0.0 };
    FlopCount { train_image, test_image: forward, query, total, baselines }
}

/// The products of a ridge regression (`src/methods/ranpac`) on the tasks. Of n images of width L with M random features
/// f are fitted: features 4 n L M, G n M², its factor M³ / 3, and to choose lambda with d the smaller of f and M the band
/// of a matrix 2 d³. Where that matrix is not G, it takes f² M, and the answers for the r images that are left 2 r f M.
fn ridge(config: &Config, model: &Model, tasks: &[(Task, usize)]) -> f64 {
    let width = model.setup.dims.embed_dim;
    let m = ranpac::features(config, width) as f64;
    let of = |(task, _): &(Task, usize)| {
        let (n, fitted) = (task.train.len() as f64, (task.train.len() * 4 / 5) as f64);
        let d = fitted.min(m);
        let matrix = if fitted <= m { fitted * m * (fitted + 2.0 * (n - fitted)) } else { 0.0 };
        let choice = matrix + 2.0 * d.powi(3);
        4.0 * n * width as f64 * m + n * m * m + m.powi(3) / 3.0 + choice
    };
    tasks.iter().map(of).sum()
}

/// Floating-point operations per second of this CPU in the largest matrix product of the network: the best of a few
/// measurements, and the least of them as far as a run reaches it.
fn rates(config: &Config, d: Dims) -> Result<[f64; 2]> {
    let dtype = if config.precision == Precision::F64 { DType::F64 } else { DType::F32 };
    let (rows, c, h) = (4 * d.tokens(), d.embed_dim, d.mlp_dim);
    let values = |n: usize| Tensor::from_f64(&vec![0.5; n], [n], dtype);
    let (x, w, mut y) = (values(rows * c), values(c * h), values(rows * h));
    let mut measured = [0.0; MEASUREMENTS];
    for rate in &mut measured {
        let (mut done, started) = (0.0, Instant::now());
        while started.elapsed().as_secs_f64() < MEASURE {
            let (x, w) = ((x.view(), Layout::dense(rows, c)), (w.view(), Layout::dense(c, h)));
            matmul::forward(&Device::Cpu, (y.view_mut(), Layout::dense(rows, h)), x, w, Write::Set)?;
            done += 2.0 * (rows * c * h) as f64;
        }
        *rate = done / started.elapsed().as_secs_f64();
    }
    let best = measured.iter().copied().fold(0.0, f64::max);
    Ok([best, measured.into_iter().fold(best, f64::min) / BESIDE_PRODUCTS])
}
