//! The official implementation's numbers, reproduced: forward values, every gradient, trajectories,
//! whole runs, schedules, votes, loader, positions, metrics, preprocessing.
//!
//! The fixtures are described in `tests/fixtures/golden/README.md`. `L2P_GOLDEN_DIR` points these tests at
//! another folder of the same format.

#[path = "../common/mod.rs"]
mod common;
mod loader;
mod metrics;
mod preprocess;
#[allow(dead_code)]
#[path = "../import/support.rs"]
mod support;

use common::npz::Npz;
use common::official::{self, extract, place};
use common::{absolute_error, golden_dir, json, own_golden, relative_error};
use l2p_engine::config::schema::{ClipScope, Config, OptimizerName};
use l2p_engine::device::Device;
use l2p_engine::network::{Model, TaskView};
use l2p_engine::ops::cross_entropy;
use l2p_engine::ops::match_prompts::Select;
use l2p_engine::optim::Optimizer;
use l2p_engine::optim::schedule::{self, LearningRate};
use l2p_engine::tensor::plan::Plan;
use l2p_engine::tensor::{DType, Tensor};
use l2p_engine::train::evaluate::argmax;
use serde_json::Value;

/// Fixtures in f64 agree to this, relative to the largest value of the quantity.
const F64: f64 = 1e-9;
/// Fixtures that were rounded to f32: half an ulp of the largest value, and a little.
const F32: f64 = 1e-7;

const DEV: Device = Device::Cpu;

fn limit(dtype: &str) -> f64 {
    if dtype.ends_with("f4") { F32 } else { F64 }
}

fn images(array: &common::npz::Array) -> Tensor {
    let values: Vec<f64> = array.data.iter().map(|v| v / 256.0).collect();
    Tensor::from_f64(&values, array.shape.as_slice(), DType::F64)
}

fn labels(array: &common::npz::Array) -> Tensor {
    Tensor::from_vec(array.u32s(), array.shape.as_slice())
}

/// Collects the worst error of a case and fails with everything that is beyond its limit.
#[derive(Default)]
struct Report {
    worst: f64,
    failures: Vec<String>,
    checks: usize,
}

impl Report {
    fn check(&mut self, what: &str, error: f64, limit: f64) {
        self.checks += 1;
        self.worst = if error <= self.worst { self.worst } else { error };
        if error.is_nan() || error > limit {
            self.failures.push(format!("{what}: {error:.2e} > {limit:.0e}"));
        }
    }

    fn array(&mut self, what: &str, got: &[f64], npz: &Npz) {
        let wanted = npz.get(what);
        self.check(what, relative_error(got, &wanted.data), limit(&wanted.dtype));
    }

    fn finish(self, name: &str) {
        println!("golden {name:<34} {:>4} checks, worst {:.1e}", self.checks, self.worst);
        assert!(self.failures.is_empty(), "{name}:\n  {}", self.failures.join("\n  "));
    }
}

fn run_case(name: &str, case: &Value, all: &Value) {
    let npz = Npz::golden(&format!("case_{name}.npz"));
    let mut config = official::config(&case["config"]);
    let (image, label) = (npz.get("in/image_u8"), npz.get("in/label"));
    let x = images(&official::one_batch(image.clone(), 4));
    let y = labels(&official::one_batch(label.clone(), 1));
    let batch = x.dims()[0];
    // The vote is per device.
    config.prompt_pool.vote_group = batch / official::devices(image, 4);
    let classes = npz.get("in/class_mask").u32s();
    let task = TaskView {
        index: case["cur_task_id"].as_u64().expect("a task") as usize,
        mask: official::class_mask(official::num_classes(all), &classes, &case["config"]),
        rank_fraction: 1.0,
    };

    let mut report = Report::default();
    let mut model = official::model(&DEV, &config, all, case, batch);
    official::load(&mut model, &npz, "param/", false);
    let stats = model.step(&DEV, x.view(), y.view(), &task).expect("a step");

    let each = |values: &str| {
        let a = npz.get(values);
        a.data.iter().sum::<f64>() / a.data.len() as f64
    };
    let scalar = |report: &mut Report, what: &str, got: f64| {
        report.check(what, relative_error(&[got], &[each(what)]), F64);
    };
    scalar(&mut report, "out/ce_loss", stats.ce_loss);
    scalar(&mut report, "out/total_loss", stats.loss);
    scalar(&mut report, "out/reduce_sim", stats.pull);
    scalar(&mut report, "out/grad_norm_all", stats.grad_norm);
    scalar(&mut report, "out/train_accuracy", stats.correct as f64 / batch as f64);
    let pool = model.prompts.pool().expect("a pool");
    report.array("out/sim", &pool.similarity.to_f64(), &npz);
    report.array("out/topk_idx", &pool.own_ids.to_f64(), &npz);
    report.array("out/prompt_idx", &pool.ids.to_f64(), &npz);
    report.array("out/x_embed_norm", &pool.query_unit.to_f64(), &npz);
    if npz.has("out/query") {
        report.array("out/query", &model.last_query().to_f64(), &npz);
    }
    report.array("out/logits", &model.logits().to_f64(), &npz);
    report.array("out/pre_logits", &model.pre_logits().to_f64(), &npz);
    compare_gradients(&mut report, &model, &npz);

    // The evaluation forward pass: neither prompt mask nor class mask, the vote included.
    let query = model.last_query().clone();
    let how = match config.prompt_pool.batchwise_prompt {
        true => Select::Vote { group: config.prompt_pool.vote_group },
        false => Select::PerImage,
    };
    let choice = model.choose(&DEV, query.view(), how).expect("a choice");
    let logits = model.logits_with(&DEV, x.view(), &choice).expect("logits").clone();
    let ids: Vec<f64> = choice.as_ids().expect("ids").0.iter().map(|&i| f64::from(i)).collect();
    report.array("eval/prompt_idx", &ids, &npz);
    report.array("eval/logits", &logits.to_f64(), &npz);
    report.array("eval/pre_logits", &model.pre_logits().to_f64(), &npz);
    let loss = cross_entropy::mean_loss(logits.view(), y.view()).expect("a loss");
    scalar(&mut report, "eval/ce_loss", loss);

    // The same with the fast path: clip norm over what learns, exact shortcuts on.
    config.optim.clip_scope = ClipScope::Trainable;
    let mut fast = official::model(&DEV, &config, all, case, batch);
    official::load(&mut fast, &npz, "param/", false);
    let stats = fast.step(&DEV, x.view(), y.view(), &task).expect("a step");
    scalar(&mut report, "out/grad_norm_trainable", stats.grad_norm);
    scalar(&mut report, "out/total_loss", stats.loss);
    compare_gradients(&mut report, &fast, &npz);
    report.finish(&format!("case {name}"));
}

/// Compares every gradient the model computed with the stored one. Gradients are judged against the
/// largest entry of the case, as the fixture's own deviations are.
fn compare_gradients(report: &mut Report, model: &Model, npz: &Npz) {
    let c = model.setup.dims.embed_dim;
    let largest = npz.arrays.iter().filter(|(n, _)| n.starts_with("grad/") || n.starts_with("gradsample/"));
    let largest = largest.flat_map(|(_, a)| &a.data).fold(0f64, |m, v| m.max(v.abs()));
    let mut seen = 0;
    for (name, wanted) in &npz.arrays {
        let Some((kind, path)) = name.split_once('/') else { continue };
        if !matches!(kind, "grad" | "gradnorm" | "gradsample") {
            continue;
        }
        // Sampled arrays do not tell their length: it is that of the parameter's own part.
        let probe = place(path, c, 1);
        let id = model.params.find(&probe.name).unwrap_or_else(|| panic!("no parameter for {path}"));
        let Some(grad) = model.grads.get(&model.params, id) else { continue };
        let grad = grad.to_f64();
        let got = extract(&place(path, c, grad.len()), &grad);
        seen += 1;
        match kind {
            "grad" => {
                let error = absolute_error(&got, &wanted.data) / largest;
                report.check(name, error, limit(&wanted.dtype));
            }
            "gradnorm" => {
                let norm = got.iter().map(|g| g * g).sum::<f64>().sqrt();
                report.check(name, (norm - wanted.data[0]).abs() / largest, F64);
            }
            _ => {
                let n = wanted.data.len();
                let sample: Vec<f64> = (0..n).map(|i| got[i * got.len() / n]).collect();
                report.check(name, absolute_error(&sample, &wanted.data) / largest, F64);
            }
        }
    }
    assert!(seen > 0, "no gradient was compared");
}

#[test]
fn cases() {
    let all = json("cases.json");
    let cases = all["cases"].as_object().expect("cases");
    assert!(!cases.is_empty());
    for (name, case) in cases {
        run_case(name, case, &all);
    }
    println!("golden: {} cases", cases.len());
}

struct Run {
    npz: Npz,
    about: Value,
    classes: usize,
    config: Config,
    model: Model,
    optimizer: Optimizer,
}

impl Run {
    fn new(name: &str, scope: ClipScope) -> Run {
        let about = json("trajectories.json")[name].clone();
        let all = json("cases.json");
        let npz = Npz::golden(&format!("{name}.npz"));
        let mut config = official::config(&about["config"]);
        config.optim.clip_scope = scope;
        let of_steps = if npz.has("in/label") { "in/label" } else { "in/task0/label" };
        config.prompt_pool.vote_group = npz.get(of_steps).shape[1];
        let labels =
            npz.arrays.iter().filter(|(name, _)| name.starts_with("in/") && name.ends_with("/label"));
        let largest = labels.map(|(_, array)| array.shape[1]).max().expect("labels");
        let mut model = official::model(&DEV, &config, &all, &about, largest);
        official::load(&mut model, &npz, "param0/", false);
        let optimizer = Optimizer::new(&mut Plan::new(), &model.params, &config.optim);
        Run { npz, about, classes: official::num_classes(&all), config, model, optimizer }
    }

    fn task(&self, index: usize, classes: &[u32]) -> TaskView {
        let mask = official::class_mask(self.classes, classes, &self.about["config"]);
        TaskView { index, mask, rank_fraction: 1.0 }
    }

    fn step(&mut self, x: &Tensor, y: &Tensor, task: &TaskView, lr: f64) -> l2p_engine::network::StepStats {
        let stats = self.model.step(&DEV, x.view(), y.view(), task).expect("a step");
        let (params, grads) = (&mut self.model.params, &self.model.grads);
        self.optimizer.step(&DEV, params, grads, self.model.report.squares(), lr).expect("an update");
        stats
    }

    fn parameter(&self, path: &str) -> Vec<f64> {
        let c = self.model.setup.dims.embed_dim;
        let id = self.model.params.find(&place(path, c, 1).name).expect("a parameter");
        let values = self.model.params.get(id).to_f64();
        extract(&place(path, c, values.len()), &values)
    }
}

fn trajectory(name: &str, scope: ClipScope) {
    let mut run = Run::new(name, scope);
    let (prefix, norm) = match scope {
        ClipScope::All => ("out", "grad_norm_all"),
        ClipScope::Trainable => ("clip_trainable", "grad_norm_trainable"),
    };
    let lr = run.about["learning_rate_used"].as_f64().expect("a learning rate");
    let [steps, batch] = run.npz.get("in/label").shape[..] else {
        panic!("{name}: labels are [steps, batch]")
    };
    assert_eq!(schedule::base(&run.config.optim, batch), lr, "learning rate from the batch");
    let task = run.task(0, &run.npz.get("in/class_mask").u32s());
    let mut report = Report::default();
    for s in 0..steps {
        let x = images(&run.npz.get("in/image_u8").at(s));
        let y = labels(&run.npz.get("in/label").at(s));
        let stats = run.step(&x, &y, &task, lr);
        let scalar = |report: &mut Report, what: &str, got: f64| {
            let wanted = run.npz.get(&format!("{prefix}/{what}")).data[s];
            report.check(&format!("{what} of step {s}"), relative_error(&[got], &[wanted]), F64);
        };
        scalar(&mut report, "loss", stats.loss);
        scalar(&mut report, norm, stats.grad_norm);
        if scope == ClipScope::All {
            scalar(&mut report, "train_accuracy", stats.correct as f64 / batch as f64);
            scalar(&mut report, "optimizer_step_after", run.optimizer.step as f64);
        }
        for (full, array) in &run.npz.arrays {
            let Some(path) = full.strip_prefix(&format!("{prefix}/")) else { continue };
            if array.shape.len() >= 2 {
                let error = relative_error(&run.parameter(path), &array.at(s).data);
                report.check(&format!("{path} after step {s}"), error, F64);
            }
        }
    }
    for (full, array) in &run.npz.arrays {
        if let Some(path) = full.strip_prefix(&format!("step{steps}/")) {
            report.check(full, relative_error(&run.parameter(path), &array.data), F32);
        }
    }
    report.finish(&format!("{name} clip {scope}"));
}

#[test]
fn trajectories_l2p_adam() {
    trajectory("traj_l2p_adam", ClipScope::All);
    trajectory("traj_l2p_adam", ClipScope::Trainable);
}

#[test]
fn trajectories_dualprompt_adam() {
    trajectory("traj_dualprompt_adam", ClipScope::All);
    trajectory("traj_dualprompt_adam", ClipScope::Trainable);
}

#[test]
fn trajectories_core50_sgd() {
    assert_eq!(Run::new("traj_core50_sgd", ClipScope::All).config.optim.optim, OptimizerName::Sgd);
    trajectory("traj_core50_sgd", ClipScope::All);
}

/// The official code evaluates a Gaussian schedule after every tenth task, however many there are.
const GAUSSIAN_EVALUATES_EVERY: usize = 10;

/// A whole run: task switches, prompt transfer, training, the accuracy matrix.
fn whole_run(name: &str) {
    let mut run = Run::new(name, ClipScope::All);
    let lr = run.about["learning_rate_used"].as_f64().expect("a learning rate");
    let masks: Vec<Vec<u32>> = serde_json::from_value(run.about["class_masks"].clone()).expect("masks");
    let wanted: Vec<Vec<f64>> = serde_json::from_value(run.about["acc_matrix"].clone()).expect("a matrix");
    let steps: Vec<usize> = serde_json::from_value(run.about["steps_per_task"].clone()).expect("steps");
    let n_train = run.about["n_train_per_task"].as_u64().expect("a count") as usize;
    let gaussian = run.about["config"]["gaussian_schedule"].as_bool().unwrap_or(false);
    let evaluated = |t: usize| !gaussian || (t + 1).is_multiple_of(GAUSSIAN_EVALUATES_EVERY);
    let last = (0..masks.len()).rfind(|&t| evaluated(t)).expect("an evaluation");
    let shared_eval = !run.npz.has("in/eval1/label");
    let mut report = Report::default();
    let mut done = 0;
    for (t, classes) in masks.iter().enumerate() {
        let (batch, epochs) =
            (run.npz.get(&format!("in/task{t}/label")).shape[1], run.config.train.num_epochs);
        assert_eq!(
            l2p_engine::data::loader::steps_per_task(n_train, epochs, batch).expect("steps"),
            steps[t],
            "steps"
        );
        if t > 0 && run.config.optim.reinit_optimizer {
            run.optimizer.reset();
        }
        run.model.begin_task(t).expect("a task");
        check_parameters(&mut report, &run, &format!("out/task{t}/start/"));
        let task = run.task(t, classes);
        for s in 0..steps[t] {
            let x = images(&run.npz.get(&format!("in/task{t}/image_u8")).at(s));
            let y = labels(&run.npz.get(&format!("in/task{t}/label")).at(s));
            let stats = run.step(&x, &y, &task, lr);
            for (what, got) in [
                ("loss", stats.loss),
                ("grad_norm_all", stats.grad_norm),
                ("train_accuracy", stats.correct as f64 / batch as f64),
                ("optimizer_step_after", run.optimizer.step as f64),
            ] {
                let wanted = run.npz.get(&format!("out/{what}")).data[done];
                report.check(&format!("{what} of step {done}"), relative_error(&[got], &[wanted]), 1e-8);
            }
            done += 1;
        }
        check_parameters(&mut report, &run, &format!("out/task{t}/end/"));
        if !evaluated(t) {
            continue;
        }
        let sets = if shared_eval { 1 } else { t + 1 };
        for e in 0..sets {
            let accuracy = evaluate(&mut run, e, (t == last).then_some(&mut report));
            report.check(
                &format!("accuracy of set {e} after task {t}"),
                (accuracy - wanted[e][t]).abs(),
                1e-12,
            );
        }
    }
    report.finish(name);
}

fn check_parameters(report: &mut Report, run: &Run, prefix: &str) {
    for (full, array) in &run.npz.arrays {
        if let Some(path) = full.strip_prefix(prefix) {
            // The parameters went through as many as 30 Adam steps in f64 and were rounded to f32.
            report.check(full, relative_error(&run.parameter(path), &array.data), F32);
        }
    }
}

fn evaluate(run: &mut Run, set: usize, mut report: Option<&mut Report>) -> f64 {
    let (x, y) = (
        run.npz.get(&format!("in/eval{set}/image_u8")).clone(),
        run.npz.get(&format!("in/eval{set}/label")).clone(),
    );
    let how = match run.config.prompt_pool.batchwise_prompt {
        true => Select::Vote { group: y.shape[1] },
        false => Select::PerImage,
    };
    let (mut correct, mut total) = (0, 0);
    for batch in 0..y.shape[0] {
        let (x, y) = (images(&x.at(batch)), labels(&y.at(batch)));
        let query = run.model.query(&DEV, x.view()).expect("a query").clone();
        let choice = run.model.choose(&DEV, query.view(), how).expect("a choice");
        let stored = format!("out/final_eval{set}/prompt_idx");
        if let Some(report) = report.as_deref_mut().filter(|_| run.npz.has(&stored)) {
            let wanted = run.npz.get(&stored).at(batch).u32s();
            report.check(
                &format!("final ids of set {set}"),
                f64::from(u8::from(choice.as_ids().expect("ids").0 != wanted)),
                0.0,
            );
        }
        let logits = run.model.logits_with(&DEV, x.view(), &choice).expect("logits");
        let answers = logits.to_f64();
        let labels = y.as_slice::<u32>().expect("labels");
        correct +=
            answers.chunks_exact(run.classes).zip(labels).filter(|(z, y)| argmax(z) == **y as usize).count();
        total += y.len();
    }
    correct as f64 / total as f64
}

#[test]
fn whole_run_l2p() {
    whole_run("e2e_l2p");
}

#[test]
fn whole_run_dualprompt() {
    whole_run("e2e_dualprompt");
}

#[test]
fn whole_run_5datasets() {
    whole_run("e2e_5datasets");
}

#[test]
fn whole_run_core50() {
    whole_run("e2e_core50");
}

#[test]
fn whole_run_gaussian() {
    whole_run("e2e_gaussian");
}

#[test]
fn learning_rates() {
    let all = json("lr_schedules.json");
    let settings = all.as_array().expect("a list");
    let mut report = Report::default();
    for (i, s) in settings.iter().enumerate() {
        let n = |key: &str| s[key].as_f64().expect("a number");
        let rate = LearningRate {
            base: n("base_learning_rate"),
            schedule: serde_json::from_value(s["schedule"].clone()).expect("a schedule"),
            warmup_epochs: n("warmup_epochs"),
            min: n("min_learning_rate"),
            steps_per_epoch: n("steps_per_epoch") as usize,
            num_epochs: n("num_epochs") as usize,
        };
        for (step, wanted) in s["lr_for_step_1_to_n"].as_array().expect("a list").iter().enumerate() {
            let error = (rate.at(step + 1) - wanted.as_f64().expect("a rate")).abs() / rate.base;
            report.check(&format!("setting {i}, step {}", step + 1), error, 1e-6);
        }
    }
    report.finish("learning-rate schedules");
}

#[test]
fn votes() {
    use l2p_engine::ops::match_prompts::select;
    use l2p_engine::ops::matmul::{Layout, Write, backward_input};
    use l2p_engine::ops::row_norm::{Normalization, forward};
    let npz = Npz::golden("vote.npz");
    let problems = npz.arrays.keys().filter(|n| n.ends_with("/voted")).count();
    assert!(problems > 0);
    let mut report = Report::default();
    for i in 0..problems {
        for dtype in [DType::F64, DType::F32] {
            let [keys, queries] = ["keys", "queries"].map(|what| {
                let a = npz.get(&format!("{i}/{what}"));
                let x = Tensor::from_f64(&a.data, a.shape.as_slice(), dtype);
                let mut unit = Tensor::zeros(a.shape.as_slice(), dtype);
                forward(&DEV, unit.view_mut(), x.view(), Normalization::Rsqrt).expect("unit rows");
                unit
            });
            let (m, b, c) = (keys.dims()[0], queries.dims()[0], keys.dims()[1]);
            let mut s = Tensor::zeros([b, m], dtype);
            let (q, k) = ((queries.view(), Layout::dense(b, c)), (keys.view(), Layout::dense(m, c)));
            backward_input(&DEV, (s.view_mut(), Layout::dense(b, m)), q, k, Write::Set).expect("similarity");
            let own = npz.get(&format!("{i}/top_k_per_sample"));
            let mut ids = Tensor::zeros(own.shape.as_slice(), DType::U32);
            select(&DEV, ids.view_mut(), s.view(), Select::PerImage).expect("ids");
            report.check(&format!("{i} own"), absolute_error(&ids.to_f64(), &own.data), 0.0);
            select(&DEV, ids.view_mut(), s.view(), Select::Vote { group: b }).expect("ids");
            let voted = npz.get(&format!("{i}/voted"));
            for row in ids.to_f64().chunks(own.shape[1]) {
                report.check(&format!("{i} voted"), absolute_error(row, &voted.data), 0.0);
            }
        }
    }
    report.finish("votes");
}
