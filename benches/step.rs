//! Times whole training steps: `cargo bench --bench step -- --model b16 --batch 16 --json`; on a GPU with
//! `--device cuda --precision bf16`. `--eval` also times evaluation, `--profile` lists the ops of a step by their seconds.
//!
//! Weights and images are random: the time does not depend on them. On the CPU images are ready; a GPU keeps
//! 32 x 32 images as a data set has them, and resizing, cropping and flipping them is part of the time.
//! `--ranks N` (threads of the CPU) or `--device cuda:0,1,…` time one rank, then all, each on a batch of its own, and the
//! sum of gradients by itself.
//!
//! `--kernels hopper` takes the Hopper kernels of a GPU of compute capability 9.0 without checking them.
//!
//! `benches/peer/step.py` does the same work in PyTorch, from images that are ready. Both take `--gelu tanh|erf`, and without
//! it the erf form, which is timm's.

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Parser, ValueEnum};
use l2p_engine::comm::{self, Launch};
use l2p_engine::config::schema::{
    Augment, Classifier, CodaPrompt, Config, Data, Kernels, Method as Name, Precision,
};
use l2p_engine::data::{Normalize, Preprocess, image_set};
use l2p_engine::device::range::{RangeTime, record, recorded};
use l2p_engine::device::{Device, StreamKind};
use l2p_engine::methods::{Gradient, Method, Ranks};
use l2p_engine::network::{Model, Pixels, Setup, TaskView};
use l2p_engine::nn::vit::Dims;
use l2p_engine::ops::gelu::GeluForm;
use l2p_engine::ops::match_prompts::Select;
use l2p_engine::ops::matmul::bf16::Arithmetic;
use l2p_engine::ops::preprocess::Resident;
use l2p_engine::rng::{Rng, Stream};
use l2p_engine::tensor::plan::Plan;
use l2p_engine::tensor::{DType, Tensor};
use l2p_engine::{Error, Result};
use serde_json::{Value, json};
use std::time::Instant;

/// Steps that a GPU is given before the host waits for it.
const BLOCK: usize = 10;
const CLASSES: usize = 100;
const LEARNING_RATE: f64 = 0.015;

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Size {
    Micro,
    Ti16,
    S16,
    B16,
}

#[derive(Debug, Clone, Copy, PartialEq, ValueEnum)]
enum Switch {
    On,
    Off,
}

#[derive(Debug, Clone, Copy, PartialEq, ValueEnum)]
enum Width {
    F32,
    Bf16,
    F16,
}

/// Forms of GELU.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Gelu {
    Tanh,
    Erf,
}

#[derive(Debug, Parser)]
struct Args {
    #[arg(long, value_enum, default_value = "b16")]
    model: Size,
    /// Pixels on a side, other than 224.
    #[arg(long)]
    image_size: Option<usize>,
    #[arg(long, default_value_t = 16)]
    batch: usize,
    /// Timed steps after the first ones [default: 5; on a GPU 100, in blocks of 10]
    #[arg(long)]
    steps: Option<usize>,
    /// `cpu`, `cuda`, `cuda:N`, `cuda:0,1,…` or `cuda:all`.
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Threads that share the CPU as ranks.
    #[arg(long, default_value_t = 1)]
    ranks: usize,
    #[arg(long, value_enum, default_value = "f32")]
    precision: Width,
    /// Form of GELU: checkpoints of PyTorch and timm have `erf`, those of JAX `tanh`.
    #[arg(long, value_enum, default_value = "erf")]
    gelu: Gelu,
    /// The kernels of a GPU.
    #[arg(long, default_value = "portable", value_parser = PossibleValuesParser::new(Kernels::WORDS).try_map(|word| Kernels::named(&word).ok_or("no such kernels")))]
    kernels: Kernels,
    /// Whether a GPU gets the step as one launch.
    #[arg(long, value_enum, default_value = "on")]
    graph: Switch,
    /// Times the query pass, and the prompted pass with queries that are known, as evaluation runs them.
    #[arg(long)]
    eval: bool,
    /// Lists what each op of a step takes, after the steps that are timed.
    #[arg(long)]
    profile: bool,
    #[arg(long, default_value_t = 10)]
    pool: usize,
    #[arg(long, default_value_t = 10)]
    length: usize,
    #[arg(long, default_value_t = 4)]
    top_k: usize,
    /// 0: all cores.
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Run the plain path, without the exact savings.
    #[arg(long)]
    plain: bool,
    /// Leave out an exact saving, a word of `train.shortcuts`; also several times.
    #[arg(long, value_name = "WORD", conflicts_with = "plain")]
    without: Vec<String>,
    /// DualPrompt's prefixes instead of prompt tokens.
    #[arg(long)]
    dualprompt: bool,
    /// CODA-Prompt's components, as its code has them for CIFAR-100, instead of a pool.
    #[arg(long, conflicts_with = "dualprompt")]
    coda: bool,
    /// With a penalty on them.
    #[arg(long, default_value_t = 0.0, requires = "coda")]
    ortho_mu: f64,
    #[arg(long)]
    json: bool,
    /// Passed by `cargo bench`; ignored.
    #[arg(long, hide = true)]
    bench: bool,
}

fn dims(args: &Args) -> Dims {
    let (image_size, patch_size, embed_dim, heads, layers) = match args.model {
        Size::Micro => (28, 7, 64, 4, 6),
        Size::Ti16 => (224, 16, 192, 3, 12),
        Size::S16 => (224, 16, 384, 6, 12),
        Size::B16 => (224, 16, 768, 12, 12),
    };
    let image_size = args.image_size.unwrap_or(image_size);
    let (mlp_dim, eps) = (4 * embed_dim, 1e-6);
    let gelu = match args.gelu {
        Gelu::Tanh => GeluForm::Tanh,
        Gelu::Erf => GeluForm::Erf,
    };
    Dims { image_size, patch_size, embed_dim, heads, mlp_dim, layers, registers: 0, eps, gelu }
}

/// Peak resident memory in bytes, as Linux counts it.
fn peak_memory() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|l| l.starts_with("VmHWM:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<usize>().ok()? * 1024)
}

/// The images of every step.
enum Images {
    Ready(Tensor),
    Resident { set: Box<Resident>, indices: Vec<u32> },
}

impl Images {
    fn new(dims: Dims, batch: usize, plan: &mut Plan, rng: &mut Rng) -> Result<Images> {
        const IMAGES: usize = 1000;
        let side = dims.image_size;
        if plan.device().gpu().is_none() {
            let pixels = (0..batch * side * side * 3).map(|_| rng.uniform()).collect();
            return Ok(Images::Ready(Tensor::from_vec(pixels, [batch, side, side, 3])));
        }
        let (height, width, channels) = (32, 32, 3);
        let bytes = (0..IMAGES * height * width * channels).map(|_| rng.next_u32() as u8).collect();
        let pixels = image_set::PixelArray { height, width, channels, bytes };
        let with = Data {
            input_size: side,
            resize_size: side + side / 7,
            augment: Augment::CropFlip,
            ..Data::default()
        };
        let with = Preprocess::new(&with, Normalize::IMAGENET)?;
        let set = Box::new(Resident::new(plan, "training images", &pixels, &with, 1)?);
        Ok(Images::Resident { set, indices: (0..batch).map(|_| rng.below(IMAGES as u32)).collect() })
    }

    /// For training, or as test images.
    fn pixels(&self, training: bool) -> Pixels<'_> {
        match self {
            Images::Ready(images) => Pixels::Ready(images.view()),
            Images::Resident { set, indices } => {
                Pixels::Resident { set, indices, first: training.then_some(0) }
            }
        }
    }
}

fn config(args: &Args) -> Config {
    let mut config = Config::default();
    if args.plain {
        config.train.shortcuts.clear();
    }
    config.train.shortcuts.retain(|word| !args.without.contains(word));
    config.train.graph = args.graph == Switch::On;
    config.train.kernels = args.kernels;
    config.precision = match args.precision {
        Width::F32 => Precision::F32,
        Width::Bf16 => Precision::Bf16,
        Width::F16 => Precision::F16,
    };
    config.prompt_pool.pool_size = args.pool;
    config.prompt_pool.length = args.length;
    config.prompt_pool.top_k = args.top_k;
    if args.dualprompt {
        config.model.vit_classifier = Classifier::Token;
        config.prompt_pool.top_k = 1;
        config.prompt_pool.length = 20;
        config.prompt_pool.e_prompt_layer_idx = vec![2, 3, 4];
        config.prompt_pool.use_prefix_tune_for_e_prompt = true;
        config.g_prompt.g_prompt_length = 5;
    }
    if args.coda {
        config.method = Name::CodaPrompt;
        config.model.vit_classifier = Classifier::Token;
        config.prompt_pool.pool_size = 0;
        config.continual.num_tasks = 10;
        config.coda = CodaPrompt { ortho_mu: args.ortho_mu, ..CodaPrompt::default() };
    }
    config
}

fn random(model: &mut Model, rng: &mut Rng) -> Result<()> {
    for id in model.params.ids() {
        let (name, n) = (model.params.spec(id).name.clone(), model.params.spec(id).shape.len());
        let one = if name.ends_with("scale") { 1.0 } else { 0.0 };
        let values: Vec<f32> = (0..n).map(|_| one + 0.04 * (rng.uniform() - 0.5)).collect();
        model.params.set_f32(id, &values)?;
    }
    Ok(())
}

/// Waits until a GPU has done what it was given.
fn wait(dev: &Device) -> Result<()> {
    dev.gpu().map_or(Ok(()), |gpu| gpu.synchronize(StreamKind::Compute))
}

/// What was measured: seconds of each repetition, sorted.
struct Seconds(Vec<f64>);

impl Seconds {
    fn of(n: usize, mut run: impl FnMut() -> Result<f64>) -> Result<Seconds> {
        let mut all = (0..n).map(|_| run()).collect::<Result<Vec<f64>>>()?;
        all.sort_by(f64::total_cmp);
        Ok(Seconds(all))
    }

    fn median(&self) -> f64 {
        self.0[self.0.len() / 2]
    }

    fn json(&self) -> Value {
        json!({ "min": self.0[0], "median": self.median(), "all": self.0 })
    }
}

/// Images per second of the query pass, and of selection and prompted pass with known queries.
fn evaluation(method: &mut Gradient, dev: &Device, images: &Images, n: usize) -> Result<[Seconds; 2]> {
    let queries = method.query(dev, images.pixels(false))?;
    let query = Seconds::of(n, || {
        let start = Instant::now();
        method.query(dev, images.pixels(false))?;
        wait(dev)?;
        Ok(start.elapsed().as_secs_f64())
    })?;
    let prompted = Seconds::of(n, || {
        let start = Instant::now();
        let ids = method.select(dev, queries.view(), Select::PerImage)?;
        // To the host, where accuracies are counted.
        method.logits(dev, images.pixels(false), queries.view(), &ids)?.view().read_f64()?;
        Ok(start.elapsed().as_secs_f64())
    })?;
    Ok([query, prompted])
}

fn main() -> std::process::ExitCode {
    match run(&Args::parse()) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("{e}");
            std::process::ExitCode::FAILURE
        }
    }
}

/// What the ranks of a run have measured, seen from one of them.
struct Measured {
    loss: f64,
    seconds: Seconds,
    eval: Option<[Seconds; 2]>,
    /// What the ops of one step took.
    ops: Vec<RangeTime>,
    planned: usize,
    in_use: Option<usize>,
    /// Of the sum of all trainable gradients over ranks, by itself.
    sum: Option<Seconds>,
    trainable: usize,
}

fn measure(args: &Args, dev: &Device, ranks: &Ranks) -> Result<Measured> {
    let (dims, config) = (dims(args), config(args));
    let free = || dev.gpu().map(|gpu| gpu.free_bytes()).transpose();
    let before = free()?;
    let mut plan = Plan::on(dev);
    let setup = Setup::new(&config, dims, CLASSES, args.batch)?;
    let mut model = Model::new(setup, &mut plan);
    plan.check()?;
    let mut rng = Rng::new(1, Stream::Test, 0);
    random(&mut model, &mut rng)?;
    let trainable = model.params.trainable.len();
    let mut method = Gradient::new(&config, model, &mut plan, ranks);
    plan.check()?;
    let images = Images::new(dims, args.batch, &mut plan, &mut rng)?;
    let labels: Vec<u32> = (0..args.batch).map(|i| i as u32 % 10).collect();
    let labels = Tensor::from_vec(labels, [args.batch]).to(dev)?;
    let task = TaskView {
        // Of ten: the penalty of the last is on all components.
        index: if args.coda { 9 } else { 0 },
        mask: (0..CLASSES).map(|k| k < 10).collect(),
        rank_fraction: 1.0 / ranks.comm.size() as f64,
    };
    let block = if dev.gpu().is_some() { BLOCK } else { 1 };
    let steps = args.steps.unwrap_or(if dev.gpu().is_some() { 100 } else { 5 });
    let mut loss = f64::NAN;
    let mut steps_of = |method: &mut Gradient, n: usize| -> Result<f64> {
        let start = Instant::now();
        for _ in 0..n {
            let stats = method.step(dev, images.pixels(true), labels.view(), &task, LEARNING_RATE)?;
            loss = stats.last().map_or(loss, |s| s.loss);
        }
        loss = method.settle(dev)?.last().map_or(loss, |s| s.loss);
        Ok(start.elapsed().as_secs_f64())
    };
    // The first steps load kernels and are captured, then comes the first replay.
    steps_of(&mut method, if dev.gpu().is_some() { 4 } else { 1 })?;
    let seconds = Seconds::of(steps.div_ceil(block), || Ok(steps_of(&mut method, block)? / block as f64))?;
    let mut ops = Vec::new();
    if args.profile {
        record(dev);
        steps_of(&mut method, 1)?;
        ops = recorded();
        ops.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    }
    let eval =
        if args.eval { Some(evaluation(&mut method, dev, &images, steps.clamp(3, 30))?) } else { None };
    let in_use = match (before, free()?) {
        (Some(before), Some(after)) => Some(before.saturating_sub(after)),
        _ => peak_memory(),
    };
    let mut gradient = Tensor::zeros([trainable], DType::F32).to(dev)?;
    let sum = match ranks.is_alone() {
        true => None,
        false => Some(Seconds::of(50, || ranks.time_sum(dev, &mut gradient))?),
    };
    Ok(Measured { loss, seconds, eval, ops, planned: plan.total_bytes(), in_use, sum, trainable })
}

fn run(args: &Args) -> Result<()> {
    if args.threads > 0 {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(args.threads).build_global();
        pool.expect("the first thread pool of this process");
    }
    let mut devices: Vec<Device> =
        Device::choose_all(&args.device)?.0.into_iter().map(|c| c.device).collect();
    if args.ranks > 1 {
        devices.resize(args.ranks, devices[0].clone());
    }
    if args.kernels == Kernels::Hopper {
        for dev in &devices {
            let on_cpu =
                || Error::config("--kernels hopper: wanted a GPU of compute capability 9.0, found the CPU");
            dev.gpu().ok_or_else(on_cpu)?.use_hopper(true)?;
        }
    }
    let launch = Launch::from_env(|name| std::env::var(name).ok())?;
    let one = measure(args, &devices[0], &Ranks::alone(args.batch))?;
    let size = launch.processes * devices.len();
    let all = match size {
        1 => None,
        _ => Some(comm::run(&launch, devices.len(), |comm| {
            let dev = &devices[comm.local_rank()];
            measure(args, dev, &Ranks::join(&comm, dev, args.batch * comm.size())?)
        })?),
    };
    if !launch.is_first() {
        return Ok(());
    }
    let dev = &devices[0];
    let config = config(args);
    let Measured { loss, seconds, eval, ops, planned, in_use, .. } = &one;
    let rate = |seconds: &Seconds| args.batch as f64 / seconds.median();
    // Ranks of one CPU share its cores: the best they can do together is what one does.
    let ideal = if dev.gpu().is_some() { size as f64 } else { launch.processes as f64 };
    let scaling = all.as_ref().map(|all| {
        let together = rate(&all.seconds) * size as f64;
        (all, together, together / (rate(seconds) * ideal))
    });
    if args.json {
        let mut report = json!({
            "engine": "l2p-engine", "version": env!("CARGO_PKG_VERSION"), "device": format!("{dev:?}"),
            "precision": format!("{:?}", args.precision).to_lowercase(), "graph": config.train.graph,
            "kernels": dev.gpu().map(|_| config.train.kernels.word()),
            "gelu": format!("{:?}", args.gelu).to_lowercase(),
            "model": format!("{:?}", args.model), "image_size": dims(args).image_size, "batch": args.batch, "pool": args.pool,
            "length": args.length, "top_k": args.top_k, "dualprompt": args.dualprompt, "coda": args.coda,
            "ortho_mu": args.ortho_mu, "shortcuts": config.train.shortcuts,
            "threads": rayon::current_num_threads(), "loss": loss, "seconds_per_step": seconds.json(),
            "images_per_second": rate(seconds), "planned_bytes": planned, "peak_bytes": in_use,
        });
        if args.precision == Width::Bf16 && dev.gpu().is_none() {
            report["arithmetic"] = json!(Arithmetic::of_process()?.word());
        }
        if args.profile {
            let row = |r: &RangeTime| json!({ "phase": r.phase, "op": r.op, "calls": r.calls, "seconds": r.seconds });
            report["ops"] = ops.iter().map(row).collect();
        }
        if let Some([query, prompted]) = eval {
            let both = args.batch as f64 / (query.median() + prompted.median());
            report["evaluation"] = json!({
                "query_images_per_second": rate(query), "query_seconds": query.json(),
                "cached_queries_images_per_second": rate(prompted), "cached_queries_seconds": prompted.json(),
                "images_per_second": both,
            });
        }
        if let Some((all, together, efficiency)) = &scaling {
            report["ranks"] = json!({
                "ranks": size, "seconds_per_step": all.seconds.json(), "images_per_second": together,
                "efficiency": efficiency, "trainable": all.trainable,
                "sum_of_gradients_seconds": all.sum.as_ref().map(Seconds::json),
            });
        }
        println!("{report}");
        return Ok(());
    }
    let mib = |bytes: usize| bytes as f64 / (1024.0 * 1024.0);
    println!(
        "{} step {:?} batch {} on {}{} in {:?}, GELU in its {:?} form",
        if args.coda { "coda_prompt" } else { "l2p" },
        args.model,
        args.batch,
        dev.name(),
        dev.gpu().map_or(String::new(), |_| format!(" with {} kernels", config.train.kernels)),
        args.precision,
        args.gelu
    );
    println!("  {:.5} s/step (best {:.5}), {:.2} images/s", seconds.median(), seconds.0[0], rate(seconds));
    if let Some([query, prompted]) = eval {
        println!(
            "  evaluation: {:.2} images/s with cached queries, {:.2} in the query pass",
            rate(prompted),
            rate(query)
        );
    }
    for RangeTime { phase, op, calls, seconds } in ops {
        println!("  {seconds:8.4} s  {phase}: {op} ({calls})");
    }
    let memory = in_use.map_or(0.0, mib);
    println!("  memory: planned {:.0} MiB, in use {memory:.0} MiB", mib(*planned));
    if let Some((all, together, efficiency)) = &scaling {
        println!(
            "  {size} ranks of {} images: {:.5} s/step, {together:.2} images/s, efficiency {:.1} %",
            args.batch,
            all.seconds.median(),
            100.0 * efficiency
        );
        if let Some(sum) = &all.sum {
            println!(
                "  sum of {} gradients over ranks: {:.1} us (best {:.1})",
                all.trainable,
                1e6 * sum.median(),
                1e6 * sum.0[0]
            );
        }
    }
    Ok(())
}
