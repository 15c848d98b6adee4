//! Whole training steps of a small network: with and without a graph the same bits, and beside the CPU in f64.

use super::found::{Failure, Found, PassFound, Stage};
use super::works::{STEP, step_row};
use crate::config::Config;
use crate::config::schema::{Kernels, Precision};
use crate::device::{Device, ElementType, Gpu, StreamKind};
use crate::error::Result;
use crate::methods::{Gradient, Method, Ranks};
use crate::network::{Model, Setup, TaskView};
use crate::nn::vit::Dims;
use crate::ops::gelu::GeluForm;
use crate::rng::{Rng, Stream};
use crate::tensor::Tensor;
use crate::tensor::plan::Plan;
use crate::testing::close;
use std::sync::Arc;

const SEED: u64 = 11;
const IMAGES: usize = 4;
const CLASSES: usize = 6;
const STEPS: usize = 3;

/// Of the losses: in f32 the sums have another order, in 16 bits every activation is rounded.
fn limit(form: ElementType) -> f64 {
    match form {
        ElementType::F32 => 1e-4,
        ElementType::Bf16 => 6e-2,
        ElementType::F16 => 8e-3,
    }
}

/// Learns a few steps both ways; see [`super::op::Bench::check`].
pub(super) fn check(
    gpu: &Arc<Gpu>,
    form: ElementType,
    kernels: Kernels,
    launched: &mut dyn FnMut(&[String]),
) -> (Found, bool) {
    let name = step_row(form, kernels);
    gpu.take_launched();
    launched(std::slice::from_ref(&name));
    let failure = match compared(gpu, form, kernels) {
        Ok(found) => found,
        Err(why) => Some((Stage::Fault, why.to_string())),
    };
    let alive = gpu.synchronize(StreamKind::Compute).is_ok();
    // Once plainly, once more, and as a graph.
    let (pass, took) = (STEP.to_string(), gpu.take_launched());
    let idle = kernels == Kernels::Hopper && !took.iter().any(|name| name.starts_with("matmul_hopper"));
    let failure = failure.or_else(|| {
        let text = || format!("{STEPS} training steps: wanted products by Hopper kernels, found none");
        idle.then(|| (Stage::Values, text()))
    });
    let failure = failure.map(|(stage, text)| Failure { stage, kernels: vec![name], text });
    let passes = vec![PassFound { pass, kernels: took, us: 0.0, repeats: STEPS, graph: failure.is_none() }];
    (Found { passes, failure }, alive)
}

fn compared(gpu: &Arc<Gpu>, form: ElementType, kernels: Kernels) -> Result<Option<(Stage, String)>> {
    let precision = match form {
        ElementType::F32 => Precision::F32,
        ElementType::Bf16 => Precision::Bf16,
        ElementType::F16 => Precision::F16,
    };
    let there = Device::Cuda(gpu.clone());
    let wanted = learned(&Device::Cpu, Precision::F64, false)?;
    gpu.use_hopper(kernels == Kernels::Hopper)?;
    let plain = learned(&there, precision, false)?;
    let error = close::relative_error(&plain.losses, &wanted.losses);
    if error.is_nan() || error > limit(form) {
        return Ok(Some((
            Stage::Values,
            format!(
                "losses of {STEPS} training steps: wanted {:?} within {:.0e}, found {:?}",
                wanted.losses,
                limit(form),
                plain.losses
            ),
        )));
    }
    let again = learned(&there, precision, false)?;
    if !plain.same_bits(&again) {
        return Ok(Some((Stage::Repetition, format!("{STEPS} training steps learn other bits each time"))));
    }
    let replayed = learned(&there, precision, true)?;
    if !plain.same_bits(&replayed) {
        return Ok(Some((Stage::Graph, format!("{STEPS} training steps learn other bits as a graph"))));
    }
    Ok(None)
}

struct Learned {
    losses: Vec<f64>,
    parameters: Vec<f64>,
}

impl Learned {
    fn same_bits(&self, other: &Learned) -> bool {
        close::same_bits(&self.losses, &other.losses) && close::same_bits(&self.parameters, &other.parameters)
    }
}

/// A few steps of L2P on two blocks of width 16. All prompts of the pool are taken, so that a rounding does not choose
/// another one.
fn learned(dev: &Device, precision: Precision, graph: bool) -> Result<Learned> {
    let mut config = Config { precision, ..Config::default() };
    config.train.graph = graph;
    let pool = &mut config.prompt_pool;
    (pool.pool_size, pool.top_k, pool.length, pool.vote_group) = (2, 2, 2, IMAGES);
    let dims = Dims {
        image_size: 8,
        patch_size: 4,
        embed_dim: 16,
        heads: 2,
        mlp_dim: 24,
        layers: 2,
        registers: 0,
        eps: 1e-6,
        gelu: GeluForm::Erf,
    };
    let mut plan = Plan::on(dev);
    let mut model = Model::new(Setup::new(&config, dims, CLASSES, IMAGES)?, &mut plan);
    let normal = |stream: u64, n: usize, spread: f64| -> Vec<f64> {
        let mut rng = Rng::new(SEED, Stream::Test, stream);
        (0..n).map(|_| f64::from((spread * rng.normal()) as f32)).collect()
    };
    for (i, id) in model.params.ids().enumerate() {
        let spec = model.params.spec(id);
        let (n, around) = (spec.shape.len(), f64::from(u8::from(spec.name.ends_with("scale"))));
        let values: Vec<f64> = normal(i as u64, n, 0.3).iter().map(|v| v + around).collect();
        model.params.set(id, &values)?;
    }
    let dtype = model.dtype();
    let mut method = Gradient::new(&config, model, &mut plan, &Ranks::alone(IMAGES));
    plan.check()?;
    let task = TaskView { index: 0, mask: vec![true; CLASSES], rank_fraction: 1.0 };
    let mut stats = Vec::new();
    for step in 0..STEPS {
        let pixels = normal(1000 + step as u64, IMAGES * 8 * 8 * 3, 1.0);
        let images = Tensor::from_f64(&pixels, [IMAGES, 8, 8, 3], dtype);
        let labels = (0..IMAGES).map(|i| ((i + step) % CLASSES) as u32).collect();
        let labels: Tensor = Tensor::from_vec::<u32>(labels, [IMAGES]);
        stats.extend(method.step(dev, images.view().into(), labels.view(), &task, 0.01)?);
    }
    stats.extend(method.settle(dev)?);
    let parameters = method.model().params.trainable.view().read_f64()?;
    Ok(Learned { losses: stats.iter().map(|s| s.loss).collect(), parameters })
}
