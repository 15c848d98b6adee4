//! Times whole training steps: `cargo bench --bench step -- --model b16 --batch 16 --json`.
//!
//! Weights and images are random: the time does not depend on them. `benches/peer/step.py` does the
//! same work in PyTorch.

use clap::{Parser, ValueEnum};
use l2p_engine::config::schema::{Classifier, Config};
use l2p_engine::device::Device;
use l2p_engine::l2p::{Model, Setup, TaskView};
use l2p_engine::nn::vit::Dims;
use l2p_engine::ops::gelu::Form;
use l2p_engine::optim::Optimizer;
use l2p_engine::rng::{Rng, Stream};
use l2p_engine::tensor::plan::Plan;
use l2p_engine::tensor::{DType, Tensor};
use std::time::Instant;

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Size {
    Micro,
    Ti16,
    S16,
    B16,
}

#[derive(Debug, Parser)]
struct Args {
    #[arg(long, value_enum, default_value = "b16")]
    model: Size,
    #[arg(long, default_value_t = 16)]
    batch: usize,
    /// Timed steps; one more runs first.
    #[arg(long, default_value_t = 5)]
    steps: usize,
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
    /// DualPrompt's prefixes instead of prompt tokens.
    #[arg(long)]
    dualprompt: bool,
    #[arg(long)]
    json: bool,
    /// Passed by `cargo bench`; ignored.
    #[arg(long, hide = true)]
    bench: bool,
}

fn dims(size: Size) -> Dims {
    let (image_size, patch_size, embed_dim, heads, layers) = match size {
        Size::Micro => (28, 7, 64, 4, 6),
        Size::Ti16 => (224, 16, 192, 3, 12),
        Size::S16 => (224, 16, 384, 6, 12),
        Size::B16 => (224, 16, 768, 12, 12),
    };
    let mlp_dim = 4 * embed_dim;
    Dims { image_size, patch_size, embed_dim, heads, mlp_dim, layers, eps: 1e-6, gelu: Form::Tanh }
}

/// Peak resident memory in bytes, as Linux counts it.
fn peak_memory() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|l| l.starts_with("VmHWM:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<usize>().ok()? * 1024)
}

fn main() -> l2p_engine::Result<()> {
    let args = Args::parse();
    if args.threads > 0 {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(args.threads).build_global();
        pool.expect("the first thread pool of this process");
    }
    let dims = dims(args.model);
    let mut config = Config::default();
    if args.plain {
        config.train.shortcuts.clear();
    }
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
    let mut plan = Plan::new();
    let setup = Setup::new(&config, dims, 100, args.batch)?;
    let mut model = Model::new(setup, &mut plan);
    let mut rng = Rng::new(1, Stream::Test, 0);
    for id in model.params.ids() {
        let (name, n) = (model.params.spec(id).name.clone(), model.params.spec(id).shape.len());
        let one = if name.ends_with("scale") { 1.0 } else { 0.0 };
        let values: Vec<f32> = (0..n).map(|_| one + 0.04 * (rng.uniform() - 0.5)).collect();
        model.params.set_f32(id, &values)?;
    }
    let mut optimizer = Optimizer::new(&mut plan, &model.params, &config.optim);
    let side = dims.image_size;
    let pixels: Vec<f32> = (0..args.batch * side * side * 3).map(|_| rng.uniform()).collect();
    let images = Tensor::from_vec(pixels, [args.batch, side, side, 3]);
    let labels: Vec<u32> = (0..args.batch).map(|i| i as u32 % 10).collect();
    let labels = Tensor::from_vec(labels, [args.batch]);
    let task = TaskView { index: 0, mask: (0..100).map(|k| k < 10).collect() };
    let mut seconds = Vec::new();
    let mut loss = 0.0;
    for step in 0..=args.steps {
        let start = Instant::now();
        let stats = model.step(&Device::Cpu, images.view(), labels.view(), &task)?;
        optimizer.step(&Device::Cpu, &mut model.params, &model.grads, model.report.squares(), 0.015)?;
        loss = stats.loss;
        if step > 0 {
            seconds.push(start.elapsed().as_secs_f64());
        }
    }
    assert_eq!(model.dtype(), DType::F32);
    seconds.sort_by(f64::total_cmp);
    let median = seconds[seconds.len() / 2];
    let rate = args.batch as f64 / median;
    let memory = peak_memory();
    if args.json {
        let report = serde_json::json!({
            "engine": "l2p-engine", "version": env!("CARGO_PKG_VERSION"),
            "model": format!("{:?}", args.model), "batch": args.batch, "pool": args.pool,
            "length": args.length, "top_k": args.top_k, "shortcuts": !args.plain,
            "threads": rayon::current_num_threads(), "loss": loss,
            "seconds_per_step": { "min": seconds[0], "median": median, "all": seconds },
            "images_per_second": rate, "planned_bytes": plan.total_bytes(), "peak_bytes": memory,
        });
        println!("{report}");
    } else {
        let mib = |bytes: usize| bytes as f64 / (1024.0 * 1024.0);
        println!("l2p step {:?} batch {} threads {}", args.model, args.batch, rayon::current_num_threads());
        println!("  {median:.3} s/step (best {:.3}), {rate:.2} images/s", seconds[0]);
        println!(
            "  memory: planned {:.0} MiB, peak {:.0} MiB",
            mib(plan.total_bytes()),
            memory.map_or(0.0, mib)
        );
    }
    Ok(())
}
