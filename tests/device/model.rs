//! The whole network on a device: a training step of every official case, forwards and backwards, beside the
//! CPU in f64.

use super::common::npz::Npz;
use super::common::{json, official, relative_error};
use super::{device, thorough};
use l2p_engine::config::micro_batch::MicroBatch;
use l2p_engine::config::schema::{ClipScope, Precision, Selection};
use l2p_engine::device::Device;
use l2p_engine::methods::{Gradient, Method, Ranks};
use l2p_engine::network::{Model, TaskView};
use l2p_engine::ops::match_prompts::Select;
use l2p_engine::output::TensorData;
use l2p_engine::prompts::PromptChoice;
use l2p_engine::tensor::plan::Plan;
use l2p_engine::tensor::{DType, Tensor};
use l2p_engine::testing::close::same_bits;
use serde_json::Value;
use std::io::Write as _;

/// Of the largest value of each quantity. In f32 the sums have another order; in 16 bits every activation is
/// rounded, and a step passes some forty of them (`docs/results.md` has what a real backbone makes of it).
fn limit(precision: Precision) -> f64 {
    match precision {
        Precision::F32 => 2e-5,
        Precision::Bf16 => 6e-2,
        _ => 8e-3,
    }
}

/// Everything that a step computes, by name.
fn step(
    dev: &Device,
    case: &Value,
    npz: &Npz,
    precision: Precision,
    scope: ClipScope,
) -> Vec<(String, Vec<f64>)> {
    let all = json("cases.json");
    let mut config = official::config(&case["config"]);
    (config.precision, config.optim.clip_scope) = (precision, scope);
    let devices = official::devices(npz.get("in/image_u8"), 4);
    let image = official::one_batch(npz.get("in/image_u8").clone(), 4);
    let label = official::one_batch(npz.get("in/label").clone(), 1);
    config.prompt_pool.vote_group = label.shape[0] / devices;
    let pixels: Vec<f64> = image.data.iter().map(|v| v / 256.0).collect();
    let wide = if precision == Precision::F64 { DType::F64 } else { DType::F32 };
    let x = Tensor::from_f64(&pixels, image.shape.as_slice(), wide);
    let y = Tensor::from_vec(label.u32s(), label.shape.as_slice());
    let classes = npz.get("in/class_mask").u32s();
    let task = TaskView {
        index: case["cur_task_id"].as_u64().expect("a task") as usize,
        mask: official::class_mask(official::num_classes(&all), &classes, &case["config"]),
        rank_fraction: 1.0,
    };
    let batch = x.dims()[0];
    let mut model = official::model(dev, &config, &all, case, batch);
    official::load(&mut model, npz, "param/", false);
    let stats = model.step(dev, x.view(), y.view(), &task).expect("a step");
    let mut found = vec![("loss".into(), vec![stats.loss]), ("norm".into(), vec![stats.grad_norm])];
    let values = |t: &Tensor| t.view().read_f64().expect("a download");
    found.extend(arrays(&model).into_iter().map(|(name, t)| (name.to_string(), values(t))));
    let scale = model.setup.loss_scale();
    let unscaled = |t: &Tensor| values(t).iter().map(|g| g / scale).collect();
    found.push(("gradients".into(), unscaled(&model.grads.trainable)));
    if let Some(frozen) = &model.grads.frozen {
        found.push(("frozen gradients".into(), unscaled(frozen)));
    }
    // The evaluation pass: another selection, other kernels where shortcuts end.
    let query = model.last_query().clone();
    let choice = model.choose(dev, query.view(), Select::PerImage).expect("a choice");
    let logits = model.logits_with(dev, x.view(), &choice).expect("logits");
    found.push(("evaluation".into(), values(logits)));
    found
}

fn arrays(model: &Model) -> Vec<(&'static str, &Tensor)> {
    let pool = model.prompts.pool().expect("a pool");
    vec![
        ("ids", &pool.ids),
        ("similarity", &pool.similarity),
        ("query", model.last_query()),
        ("logits", model.logits()),
        ("pre-logits", model.pre_logits()),
    ]
}

/// Losses of `steps` steps of an official trajectory, its batches again and again, and the parameters after.
fn trajectory(
    dev: &Device,
    name: &str,
    steps: usize,
    precision: Precision,
    graph: bool,
) -> (Vec<f64>, Vec<f64>) {
    let (losses, parameters) = freezing_trajectory(dev, name, (steps, steps), precision, graph);
    (losses, parameters.into_iter().next_back().expect("the last"))
}

/// The rows of the head that [`freezing_trajectory`] freezes, as a checkpoint has them.
const FROZEN: [u32; 2] = [2, 5];

/// The same with some rows of the head frozen after `steps.1` steps; the parameters are those of that moment, if it
/// comes, and those after all steps.
fn freezing_trajectory(
    dev: &Device,
    name: &str,
    (steps, frozen_from): (usize, usize),
    precision: Precision,
    graph: bool,
) -> (Vec<f64>, Vec<Vec<f64>>) {
    let about = json("trajectories.json")[name].clone();
    let all = json("cases.json");
    let npz = Npz::golden(&format!("{name}.npz"));
    let mut config = official::config(&about["config"]);
    config.optim.clip_scope = ClipScope::Trainable;
    (config.precision, config.train.graph) = (precision, graph);
    let batch = npz.get("in/label").shape[1];
    config.prompt_pool.vote_group = batch;
    let mut model = official::model(dev, &config, &all, &about, batch);
    official::load(&mut model, &npz, "param0/", false);
    let dtype = model.dtype();
    let mut method = Gradient::new(&config, model, &mut Plan::on(dev), &Ranks::alone(batch));
    let lr = about["learning_rate_used"].as_f64().expect("a learning rate");
    let classes = npz.get("in/class_mask").u32s();
    let mask = official::class_mask(official::num_classes(&all), &classes, &about["config"]);
    let task = TaskView { index: 0, mask, rank_fraction: 1.0 };
    let (images, labels) = (npz.get("in/image_u8"), npz.get("in/label"));
    let (mut stats, mut parameters) = (Vec::new(), Vec::new());
    let read = |method: &Gradient| method.model().params.trainable.view().read_f64().expect("a download");
    for s in 0..steps {
        if s == frozen_from {
            stats.extend(method.settle(dev).expect("the rest"));
            parameters.push(read(&method));
            let mut state = method.state().expect("a state");
            state.push(("frozen/head/kernel".into(), vec![1, 2], TensorData::U32(FROZEN.to_vec())));
            let step = method.optimizer_step();
            method.restore(&state, step).expect("the same, with frozen rows");
        }
        let (x, y) = (images.at(s % images.shape[0]), labels.at(s % labels.shape[0]));
        let pixels: Vec<f64> = x.data.iter().map(|v| v / 256.0).collect();
        let x = Tensor::from_f64(&pixels, x.shape.as_slice(), dtype);
        let y = Tensor::from_vec(y.u32s(), y.shape.as_slice());
        stats.extend(method.step(dev, x.view().into(), y.view(), &task, lr).expect("a step"));
    }
    stats.extend(method.settle(dev).expect("the rest"));
    parameters.push(read(&method));
    (stats.iter().map(|s| s.loss).collect(), parameters)
}

/// Losses of the first 50 steps, with Adam and with SGD, as one graph and launch by launch.
#[test]
fn deep_fifty_steps_stay_by_the_cpu() {
    if !thorough("official trajectories on the device") {
        return;
    }
    let Some(gpu) = device() else { return };
    let dev = Device::Cuda(gpu);
    let mut failures = Vec::new();
    for (name, precision, steps, limit) in [
        ("traj_l2p_adam", Precision::F32, 50, 2e-6),
        ("traj_l2p_adam", Precision::Bf16, 50, 2e-2),
        ("traj_l2p_adam", Precision::F16, 12, 2e-3),
        ("traj_dualprompt_adam", Precision::F32, 12, 2e-6),
        ("traj_dualprompt_adam", Precision::Bf16, 12, 2e-2),
        ("traj_core50_sgd", Precision::F32, 12, 2e-6),
        ("traj_core50_sgd", Precision::F16, 12, 6e-3),
    ] {
        let (wanted, parameters) = trajectory(&Device::Cpu, name, steps, Precision::F64, true);
        let (got, learned) = trajectory(&dev, name, steps, precision, true);
        assert_eq!(got.len(), steps, "{name} {precision}: a report per step");
        let scale = wanted.iter().fold(0f64, |m, l| m.max(l.abs()));
        let worst = got.iter().zip(&wanted).map(|(a, b)| (a - b).abs() / scale).fold(0f64, f64::max);
        let moved = relative_error(&learned, &parameters);
        let text = format!(
            "{name} {precision}, {steps} steps: losses off by {worst:.1e}, parameters by {moved:.1e}"
        );
        let _ = std::io::stderr().write_all(format!("trajectory {text}\n").as_bytes());
        if !(worst <= limit && moved <= limit) {
            failures.push(text);
        }
    }
    let [plain, graph] =
        [false, true].map(|graph| trajectory(&dev, "traj_l2p_adam", 6, Precision::Bf16, graph));
    assert!(same_bits(&plain.0, &graph.0) && same_bits(&plain.1, &graph.1), "the graph gives other bits");
    assert!(failures.is_empty(), "{failures:#?}");
}

/// Steps in parts of one vote each, alone on a device, beside whole steps.
#[test]
fn deep_divided_steps_stay_by_the_cpu() {
    if !thorough("divided steps on the device") {
        return;
    }
    let Some(gpu) = device() else { return };
    let about = json("trajectories.json")["traj_l2p_adam"].clone();
    let (all, npz) = (json("cases.json"), Npz::golden("traj_l2p_adam.npz"));
    let batch = npz.get("in/label").shape[1];
    let learn = |dev: &Device, precision, part: usize| {
        let mut config = official::config(&about["config"]);
        config.optim.clip_scope = ClipScope::Trainable;
        (config.precision, config.prompt_pool.vote_group) = (precision, batch / 2);
        config.train.micro_batch = MicroBatch::Images(part);
        let mut model = official::model(dev, &config, &all, &about, part);
        official::load(&mut model, &npz, "param0/", false);
        let dtype = model.dtype();
        let mut method = Gradient::new(&config, model, &mut Plan::on(dev), &Ranks::alone(batch));
        let classes = npz.get("in/class_mask").u32s();
        let mask = official::class_mask(official::num_classes(&all), &classes, &about["config"]);
        let task = TaskView { index: 0, mask, rank_fraction: 1.0 };
        let mut stats = Vec::new();
        for s in 0..3 {
            let (x, y) = (npz.get("in/image_u8").at(s), npz.get("in/label").at(s));
            let pixels: Vec<f64> = x.data.iter().map(|v| v / 256.0).collect();
            let x = Tensor::from_f64(&pixels, x.shape.as_slice(), dtype);
            let y = Tensor::from_vec(y.u32s(), y.shape.as_slice());
            stats.extend(method.step(dev, x.view().into(), y.view(), &task, 0.01).expect("a step"));
        }
        stats.extend(method.settle(dev).expect("the rest"));
        let learned = method.model().params.trainable.view().read_f64().expect("a download");
        (stats.iter().map(|s| s.loss).collect::<Vec<f64>>(), learned)
    };
    let wanted = learn(&Device::Cpu, Precision::F64, batch);
    let got = learn(&Device::Cuda(gpu), Precision::F32, batch / 2);
    assert_eq!(got.0.len(), 3);
    let off = relative_error(&got.0, &wanted.0).max(relative_error(&got.1, &wanted.1));
    assert!(off <= 2e-6, "off by {off:.1e}");
}

/// Frozen rows keep their bits, also where the step was captured before, and the rest learns as on the CPU.
#[test]
fn deep_frozen_rows_stay_as_they_are() {
    if !thorough("frozen rows over whole steps on the device") {
        return;
    }
    let Some(gpu) = device() else { return };
    let dev = Device::Cuda(gpu);
    for (name, width) in [("traj_l2p_adam", 64), ("traj_core50_sgd", 32)] {
        let run = |dev: &Device, precision| freezing_trajectory(dev, name, (8, 4), precision, true);
        let (cpu, gpu) = (run(&Device::Cpu, Precision::F64), run(&dev, Precision::F32));
        let off = relative_error(&gpu.0, &cpu.0).max(relative_error(&gpu.1[1], &cpu.1[1]));
        assert!(off <= 2e-6, "{name}: off by {off:.1e}");
        // The head is the last parameter but for its bias, of 10 classes.
        for parameters in [&cpu.1, &gpu.1] {
            let (before, after) = (&parameters[0], &parameters[1]);
            let kernel = before.len() - 10 * (width + 1)..before.len() - 10;
            let moved: Vec<bool> = before[kernel.clone()]
                .chunks_exact(10)
                .zip(after[kernel].chunks_exact(10))
                .map(|(a, b)| !same_bits(a, b))
                .collect();
            let frozen = |row: usize| (FROZEN[0] as usize..FROZEN[1] as usize).contains(&row);
            assert!(moved.iter().enumerate().all(|(row, moved)| *moved != frozen(row)), "{name}: {moved:?}");
        }
    }
}

/// Parameters after three steps with prompts that no key chooses, and what was chosen last.
fn without_keys(
    dev: &Device,
    selection: Selection,
    precision: Precision,
    graph: bool,
) -> (Vec<f64>, PromptChoice) {
    let name = "traj_l2p_adam";
    let about = json("trajectories.json")[name].clone();
    let all = json("cases.json");
    let npz = Npz::golden(&format!("{name}.npz"));
    let mut config = official::config(&about["config"]);
    (config.precision, config.train.graph) = (precision, graph);
    (config.prompt_pool.selection, config.prompt_pool.pull_constraint_coeff) = (selection, 0.0);
    let batch = npz.get("in/label").shape[1];
    let mut model = official::model(dev, &config, &all, &about, batch);
    model.init_prompts(7).expect("prompts");
    let dtype = model.dtype();
    let mut method = Gradient::new(&config, model, &mut Plan::on(dev), &Ranks::alone(batch));
    let classes = npz.get("in/class_mask").u32s();
    let mask = official::class_mask(official::num_classes(&all), &classes, &about["config"]);
    let task = TaskView { index: 0, mask, rank_fraction: 1.0 };
    let (images, labels) = (npz.get("in/image_u8"), npz.get("in/label"));
    for s in 0..3 {
        let (x, y) = (images.at(s % images.shape[0]), labels.at(s % labels.shape[0]));
        let pixels: Vec<f64> = x.data.iter().map(|v| v / 256.0).collect();
        let x = Tensor::from_f64(&pixels, x.shape.as_slice(), dtype);
        let y = Tensor::from_vec(y.u32s(), y.shape.as_slice());
        method.step(dev, x.view().into(), y.view(), &task, 0.01).expect("a step");
    }
    method.settle(dev).expect("the last steps");
    let learned = method.model().params.trainable.view().read_f64().expect("a download");
    (learned, method.model().prompts.choice().expect("a choice"))
}

/// The host chooses, so that there is no graph: steps are those of the CPU, and repeat to the bit.
#[test]
fn deep_prompts_that_no_key_chooses() {
    if !thorough("steps with random and fixed prompts on the device") {
        return;
    }
    let Some(gpu) = device() else { return };
    let dev = Device::Cuda(gpu);
    let (wanted, first) = without_keys(&Device::Cpu, Selection::Fixed, Precision::F64, true);
    let (got, chosen) = without_keys(&dev, Selection::Fixed, Precision::F32, true);
    let off = relative_error(&got, &wanted);
    assert!(off <= 2e-6 && chosen == first, "fixed prompts: off by {off:.1e}");
    let [a, b] = [true, false].map(|graph| without_keys(&dev, Selection::Random, Precision::F32, graph));
    assert!(same_bits(&a.0, &b.0) && a.1 == b.1, "random prompts do not repeat");
    let (ids, width) = a.1.as_ids().expect("ids");
    assert!(ids.chunks_exact(width).any(|other| *other != ids[..width]), "all images draw alike: {ids:?}");
}

/// What a step and 50 steps may be off by in 16 bits on a GPU holds for the CPU's bf16, too.
#[test]
fn bf16_on_the_cpu() {
    let all = json("cases.json");
    let (mut failures, mut worst) = (Vec::new(), (0.0, String::new()));
    for (name, case) in all["cases"].as_object().expect("cases") {
        let npz = Npz::golden(&format!("case_{name}.npz"));
        let [wanted, got] = [Precision::F64, Precision::Bf16]
            .map(|precision| step(&Device::Cpu, case, &npz, precision, ClipScope::Trainable));
        for ((what, got), (_, wanted)) in got.iter().zip(&wanted) {
            let error = relative_error(got, wanted);
            let text = format!("{name} {what}: off by {error:.1e}");
            if error > worst.0 {
                worst = (error, text.clone());
            }
            let limit = if what == "ids" { 0.0 } else { 3.1e-2 };
            if error.is_nan() || error > limit {
                failures.push(text);
            }
        }
    }
    for (name, steps) in [("traj_l2p_adam", 50), ("traj_dualprompt_adam", 50)] {
        let [wanted, got] = [Precision::F64, Precision::Bf16]
            .map(|precision| trajectory(&Device::Cpu, name, steps, precision, false).0);
        let scale = wanted.iter().fold(0f64, |m, l| m.max(l.abs()));
        let off = got.iter().zip(&wanted).map(|(a, b)| (a - b).abs() / scale).fold(0f64, f64::max);
        let text = format!("{name}: losses off by {off:.1e}");
        let _ = std::io::stderr().write_all(format!("bf16 on the CPU, {text}\n").as_bytes());
        if off.is_nan() || off > 2e-2 {
            failures.push(text);
        }
    }
    let _ = std::io::stderr().write_all(format!("bf16 on the CPU, worst step: {}\n", worst.1).as_bytes());
    assert!(failures.is_empty(), "{failures:#?}");
    assert!(worst.0 > 1e-5, "nothing was rounded: {worst:?}");
}

#[test]
fn deep_steps_of_the_official_cases() {
    if !thorough("a step of every official case on the device") {
        return;
    }
    let Some(gpu) = device() else { return };
    let dev = Device::Cuda(gpu);
    let all = json("cases.json");
    let cases = all["cases"].as_object().expect("cases");
    let (mut failures, mut checks) = (Vec::new(), 0);
    let mut worst = [(0.0, String::new()), (0.0, String::new()), (0.0, String::new())];
    for (name, case) in cases {
        let npz = Npz::golden(&format!("case_{name}.npz"));
        for scope in [ClipScope::All, ClipScope::Trainable] {
            let wanted = step(&Device::Cpu, case, &npz, Precision::F64, scope);
            for (i, precision) in [Precision::F32, Precision::Bf16, Precision::F16].into_iter().enumerate() {
                // The emulation is slow, and a scope changes which products there are, not their form.
                if precision != Precision::F32 && scope == ClipScope::All {
                    continue;
                }
                let got = step(&dev, case, &npz, precision, scope);
                // 16 bits may select other prompts where two are equally near; then all else is another sum.
                let same_ids = got.iter().zip(&wanted).all(|(g, w)| g.0 != "ids" || g.1 == w.1);
                if !same_ids {
                    failures.push(format!("{name} {precision}: other prompts"));
                    continue;
                }
                for ((what, got), (_, wanted)) in got.iter().zip(&wanted) {
                    let error = relative_error(got, wanted);
                    let text = format!("{name} {precision} {scope} {what}");
                    checks += 1;
                    if error > worst[i].0 {
                        worst[i] = (error, text.clone());
                    }
                    if error.is_nan() || error > limit(precision) {
                        failures.push(format!("{text}: off by {error:.1e}"));
                    }
                }
            }
        }
    }
    let text = format!("\nsteps on the device: {checks} checks, worst {worst:?}\n");
    let _ = std::io::stderr().write_all(text.as_bytes());
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
    assert!(checks > 500, "{checks}");
}
