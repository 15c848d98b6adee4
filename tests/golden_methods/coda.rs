//! CODA-Prompt: single steps, trajectories over two tasks, new components, learning rates.

use super::common::absolute_error;
use super::common::golden_methods::{self, coda_config, count, is_coda, number};
use super::common::npz::Npz;
use super::common::official;
use super::{DEV, Report, cases, images, labels, npz};
use l2p_engine::config::schema::{Config, Precision, Schedule};
use l2p_engine::network::{Model, TaskView};
use l2p_engine::ops::match_prompts::Select;
use l2p_engine::optim::Optimizer;
use l2p_engine::optim::schedule::LearningRate;
use l2p_engine::prompts::gram_schmidt;
use l2p_engine::tensor::plan::Plan;
use l2p_engine::tensor::{DType, Tensor};
use l2p_engine::train::evaluate::argmax;
use serde_json::Value;

fn config(of: &Value) -> Config {
    Config { precision: Precision::F64, ..coda_config(of) }
}

fn model(config: &Config, all: &Value, about: &Value, batch: usize) -> Model {
    golden_methods::model(&DEV, config, all, about, batch)
}

fn task(index: usize, classes: &[u32], all: usize) -> TaskView {
    TaskView { index, mask: (0..all as u32).map(|k| classes.contains(&k)).collect(), rank_fraction: 1.0 }
}

fn parameter(model: &Model, name: &str) -> Vec<f64> {
    model.params.get(model.params.find(name).unwrap_or_else(|| panic!("no parameter {name}"))).to_f64()
}

/// The first columns of rows of `stride` values.
fn leading(values: &[f64], stride: usize, columns: usize) -> Vec<f64> {
    values.chunks_exact(stride).flat_map(|row| &row[..columns]).copied().collect()
}

fn run_case(name: &str, about: &Value, all: &Value, shortcuts: bool) {
    let data = npz(&format!("case_{name}.npz"));
    let of = &about["config"];
    let mut config = config(of);
    if !shortcuts {
        config.train.shortcuts.clear();
    }
    let (x, y) = (images(data.get("in/image_u8")), labels(data.get("in/label")));
    let (batch, n, classes) = (x.dims()[0], config.coda.components, count(of, "num_classes"));
    let each = n / config.continual.num_tasks;
    assert_eq!(each, count(of, "components_per_task"), "{name}: components of a task");
    let mut model = model(&config, all, about, batch);
    official::load(&mut model, &data, "param/", false);
    let index = count(about, "cur_task_id");
    let f = (index + 1) * each;
    let task = task(index, &data.get("in/class_mask").u32s(), classes);
    let stats = model.step(&DEV, x.view(), y.view(), &task).expect("a step");

    let mut report = Report::default();
    report.array("out/ce_loss", &[stats.ce_loss], &data.get("out/ce_loss").data);
    report.array("out/ortho_loss", &[config.coda.ortho_mu * stats.pull], &data.get("out/ortho_loss").data);
    report.array("out/total_loss", &[stats.loss], &data.get("out/total_loss").data);
    report.array("out/query", &model.last_query().to_f64(), &data.get("out/query").data);
    let c = model.setup.dims.embed_dim;
    for &l in &config.coda.layers {
        let weights = model.prompts.coda().and_then(|coda| coda.weights(l)).expect("weights").to_f64();
        let what = format!("out/weights/{l}");
        report.array(&what, &leading(&weights, n, f), &data.get(&what).data);
        let unused = weights.chunks_exact(n).flat_map(|row| &row[f..]);
        assert!(unused.copied().all(|w| w == 0.0), "{name}: layer {l} uses a component of no task so far");
        let mut prefix = [(); 2].map(|()| Tensor::zeros([batch, config.coda.length / 2, c], DType::F64));
        model.prompts.write_prefix(&DEV, &model.params, l, &mut prefix).expect("a prefix");
        for (half, what) in prefix.iter().zip(["key", "value"]) {
            let what = format!("out/prefix_{what}/{l}");
            report.array(&what, &half.to_f64(), &data.get(&what).data);
        }
    }
    report.array("out/features", &model.pre_logits().to_f64(), &data.get("out/features").data);
    report.array("out/logits", &model.logits().to_f64(), &data.get("out/logits").data);
    gradients(&mut report, &model, &data, index * each..f, &task.mask);

    let query = model.query(&DEV, x.view()).expect("a query").clone();
    let choice = model.choose(&DEV, query.view(), Select::PerImage).expect("a choice");
    let logits = model.logits_with(&DEV, x.view(), &choice).expect("logits").to_f64();
    let wanted = data.get("eval/logits");
    report.array("eval/logits", &leading(&logits, classes, wanted.shape[1]), &wanted.data);
    if data.has("out/ortho_loss_per_layer") {
        let wanted = &data.get("out/ortho_loss_per_layer").data;
        let got: Vec<f64> =
            config.coda.layers.iter().map(|&l| penalty_of(l, &config, all, about, &data)).collect();
        report.array("out/ortho_loss_per_layer", &got, wanted);
    }
    report.finish(&format!("{name}{}", if shortcuts { "" } else { ", no shortcuts" }));
}

/// The weighted penalty of a model that has components at layer `l` alone.
fn penalty_of(l: usize, config: &Config, all: &Value, about: &Value, data: &Npz) -> f64 {
    let mut config = config.clone();
    config.coda.layers = vec![l];
    let mut own = data.clone();
    own.arrays
        .retain(|name, _| !name.starts_with("param/coda/") || name.starts_with(&format!("param/coda/{l}/")));
    let (x, y) = (images(data.get("in/image_u8")), labels(data.get("in/label")));
    let mut model = model(&config, all, about, x.dims()[0]);
    official::load(&mut model, &own, "param/", false);
    let classes = count(&about["config"], "num_classes");
    let task = task(count(about, "cur_task_id"), &data.get("in/class_mask").u32s(), classes);
    config.coda.ortho_mu * model.step(&DEV, x.view(), y.view(), &task).expect("a step").pull
}

/// Every gradient against the largest entry of the case, and exact zeros where nothing learns.
fn gradients(report: &mut Report, model: &Model, data: &Npz, active: std::ops::Range<usize>, mask: &[bool]) {
    let stored = data.arrays.iter().filter_map(|(name, array)| Some((name.strip_prefix("grad/")?, array)));
    let largest = stored.clone().flat_map(|(_, array)| &array.data).fold(0f64, |m, v| m.max(v.abs()));
    let mut seen = 0;
    for (name, wanted) in stored {
        let id = model.params.find(name).unwrap_or_else(|| panic!("no parameter {name}"));
        let got = model.grads.get(&model.params, id).expect("a gradient").to_f64();
        report.check(&format!("grad/{name}"), absolute_error(&got, &wanted.data) / largest);
        let learns = |i: usize| match name.strip_prefix("coda/") {
            Some(_) => active.contains(&(i / (got.len() / wanted.shape[0]))),
            None => mask[i % mask.len()],
        };
        let idle = got.iter().enumerate().filter(|(i, _)| !learns(*i));
        assert!(idle.clone().all(|(_, g)| *g == 0.0), "{name}: a gradient where nothing learns");
        seen += 1;
    }
    let learn = model.params.specs.iter().filter(|spec| spec.trainable).count();
    assert_eq!(seen, learn, "gradients of all that learns");
}

#[test]
fn coda_cases() {
    let all = cases();
    let cases = all["cases"].as_object().expect("cases").iter().filter(|(_, about)| is_coda(about));
    let mut seen = 0;
    for (name, about) in cases {
        run_case(name, about, &all, true);
        run_case(name, about, &all, false);
        seen += 1;
    }
    assert!(seen > 0, "no case of CODA-Prompt");
}

/// The components of task `t` from the stored draws, and as they were rounded for the trajectory.
fn add_components(report: &mut Report, model: &mut Model, data: &Npz, t: usize, config: &Config) {
    let (n, each) = (config.coda.components, config.coda.components / config.continual.num_tasks);
    for &l in &config.coda.layers {
        for which in ["key", "attention", "prompt"] {
            let name = format!("coda/{l}/{which}");
            let id = model.params.find(&name).expect("components");
            let mut values = model.params.get(id).to_f64();
            let width = values.len() / n;
            let old = if t == 0 {
                Vec::new()
            } else {
                data.get(&format!("out/task{}/end/{name}", t - 1)).data.clone()
            };
            assert_eq!(old.len(), t * each * width, "{name}: components before task {t}");
            let gs = format!("gs/task{t}/{l}/{which}");
            let new =
                gram_schmidt(&old, &data.get(&format!("{gs}/draw")).data, width).expect("new components");
            report.array(&gs, &new, &data.get(&format!("{gs}/result")).data);
            let rounded = &data.get(&format!("new/task{t}/{name}")).data;
            values[t * each * width..][..rounded.len()].copy_from_slice(rounded);
            model.params.set(id, &values).expect("components");
        }
    }
}

/// What is stored below `prefix` beside the parameters: components are stored up to those of the task.
fn compare_parameters(report: &mut Report, model: &Model, data: &Npz, prefix: &str) {
    let stored = data.arrays.iter().filter_map(|(full, array)| Some((full.strip_prefix(prefix)?, array)));
    let mut seen = 0;
    for (name, wanted) in stored {
        let got = parameter(model, name);
        let (used, unused) = got.split_at(wanted.data.len());
        report.array(&format!("{prefix}{name}"), used, &wanted.data);
        assert!(unused.iter().all(|v| *v == 0.0), "{prefix}{name}: components beyond those of the task");
        seen += 1;
    }
    assert!(seen > 0, "{prefix}: nothing is stored");
}

fn trajectory(name: &str, about: &Value, all: &Value) {
    let data = npz(&format!("{name}.npz"));
    let of = &about["config"];
    let config = config(of);
    let sizes: Vec<usize> = serde_json::from_value(of["classes_per_task"].clone()).expect("classes of tasks");
    let wanted: Vec<Vec<f64>> = serde_json::from_value(about["acc_matrix"].clone()).expect("a matrix");
    let (tasks, per_epoch) = (count(about, "tasks_run"), count(about, "batches_per_epoch"));
    let classes = count(of, "num_classes");
    let batches = data.arrays.iter().filter(|(n, _)| n.starts_with("in/task") && n.ends_with("/label"));
    let eval = data.arrays.iter().filter(|(n, _)| n.starts_with("in/eval") && n.ends_with("/label"));
    let largest =
        batches.map(|(_, a)| a.shape[1]).chain(eval.map(|(_, a)| a.shape[0])).max().expect("labels");
    let mut model = model(&config, all, about, largest);
    official::load(&mut model, &data, "param0/", false);
    let mut optimizer = Optimizer::new(&mut Plan::new(), &model.params, &config.optim);
    let mut report = Report::default();
    for t in 0..tasks {
        add_components(&mut report, &mut model, &data, t, &config);
        optimizer.reset();
        let first: usize = sizes[..t].iter().sum();
        let own: Vec<u32> = (first..first + sizes[t]).map(|k| k as u32).collect();
        let task = task(t, &own, classes);
        let (x, y) = (data.get(&format!("in/task{t}/image_u8")), data.get(&format!("in/task{t}/label")));
        let rate = LearningRate::new(&config.optim, y.shape[1], per_epoch, config.train.num_epochs);
        assert_eq!(y.shape[0], per_epoch, "{name}: batches of an epoch");
        let steps = per_epoch * config.train.num_epochs;
        for s in 0..steps {
            let (x, y) = (images(&x.at(s % per_epoch)), labels(&y.at(s % per_epoch)));
            let stats = model.step(&DEV, x.view(), y.view(), &task).expect("a step");
            let lr = rate.at(s + 1);
            let scalars =
                [("loss", stats.loss), ("learning_rate", lr), ("grad_norm_trainable", stats.grad_norm)];
            for (what, got) in scalars {
                let what = format!("out/task{t}/{what}");
                report.array(&format!("{what} of step {s}"), &[got], &data.get(&what).data[s..=s]);
            }
            let squares = model.report.squares();
            optimizer.step(&DEV, &mut model.params, &model.grads, squares, lr).expect("an update");
            if s == 0 {
                compare_parameters(&mut report, &model, &data, &format!("out/task{t}/after_step1/"));
            }
        }
        assert_eq!(data.get(&format!("out/task{t}/loss")).data.len(), steps, "{name}: steps of task {t}");
        compare_parameters(&mut report, &model, &data, &format!("out/task{t}/end/"));
        for j in 0..=t {
            let (x, y) = (data.get(&format!("in/eval{j}/image_u8")), data.get(&format!("in/eval{j}/label")));
            let x = images(x);
            let query = model.query(&DEV, x.view()).expect("a query").clone();
            let choice = model.choose(&DEV, query.view(), Select::PerImage).expect("a choice");
            let logits = model.logits_with(&DEV, x.view(), &choice).expect("logits").to_f64();
            let what = format!("out/eval_after{t}/task{j}/logits");
            let seen = data.get(&what).shape[1];
            assert_eq!(seen, first + sizes[t], "{what}: classes so far");
            let logits = leading(&logits, classes, seen);
            report.array(&what, &logits, &data.get(&what).data);
            let right =
                logits.chunks_exact(seen).zip(y.u32s()).filter(|(z, y)| argmax(z) == *y as usize).count();
            let percent = 100.0 * right as f64 / y.data.len() as f64;
            report.check(&format!("accuracy of task {j} after {t}"), (percent - wanted[j][t]).abs());
        }
    }
    report.finish(name);
}

#[test]
fn coda_trajectories() {
    let all = cases();
    let runs =
        all["trajectories"].as_object().expect("trajectories").iter().filter(|(_, about)| is_coda(about));
    let mut seen = 0;
    for (name, about) in runs {
        trajectory(name, about, &all);
        seen += 1;
    }
    assert!(seen > 0, "no trajectory of CODA-Prompt");
}

#[test]
fn coda_learning_rates() {
    const STEPS: usize = 3;
    let all = cases();
    let mut report = Report::default();
    let mut rate = LearningRate {
        base: 0.0,
        schedule: Schedule::CodaCosine,
        warmup_epochs: 0.0,
        min: 0.0,
        steps_per_epoch: STEPS,
        num_epochs: 0,
    };
    for about in all["schedules"].as_array().expect("schedules") {
        (rate.base, rate.num_epochs) = (number(about, "learning_rate"), count(about, "epochs"));
        let wanted: Vec<f64> =
            serde_json::from_value(about["learning_rate_per_epoch"].clone()).expect("rates");
        assert_eq!(wanted.len(), rate.num_epochs);
        for (epoch, wanted) in wanted.iter().enumerate() {
            for step in 1..=STEPS {
                let what = format!("epoch {epoch} of {}", rate.num_epochs);
                report.check(&what, (rate.at(epoch * STEPS + step) - wanted).abs() / rate.base);
            }
        }
        // Steps of a review have the rate of the last epoch.
        report.check(
            "review",
            (rate.at((wanted.len() + 1) * STEPS) - wanted[wanted.len() - 1]).abs() / rate.base,
        );
    }
    report.finish("coda learning rates");
    rate.num_epochs = 1;
    assert_eq!((rate.at(1), rate.at(STEPS)), (rate.base, rate.base), "one epoch has the full rate");
}
