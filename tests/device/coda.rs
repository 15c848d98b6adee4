//! CODA-Prompt on a device: steps of the published cases beside the CPU in f64, and runs over two tasks, whose old
//! components must not move.

use super::common::golden_methods::{self, cases, coda_config, count, is_coda, npz, number};
use super::common::official;
use super::common::relative_error;
use super::{device, thorough};
use l2p_engine::config::schema::{Config, OptimizerName, Precision};
use l2p_engine::device::Device;
use l2p_engine::methods::{Gradient, Method, Ranks};
use l2p_engine::network::TaskView;
use l2p_engine::ops::match_prompts::Select;
use l2p_engine::tensor::plan::Plan;
use l2p_engine::tensor::{DType, Tensor};
use l2p_engine::testing::close::same_bits;
use serde_json::Value;
use std::io::Write as _;
use std::ops::Range;

/// As for the steps of L2P (`model.rs`).
fn limit(precision: Precision) -> f64 {
    match precision {
        Precision::F32 => 2e-5,
        Precision::Bf16 => 6e-2,
        _ => 8e-3,
    }
}

fn read(t: &Tensor) -> Vec<f64> {
    t.view().read_f64().expect("a download")
}

/// The images and labels of batch `at`, of a case or of the first task of a trajectory.
fn batch(name: &str, at: Option<usize>, dtype: DType) -> (Tensor, Tensor) {
    let data = npz(name);
    let (x, y) = match at {
        None => (data.get("in/image_u8").clone(), data.get("in/label").clone()),
        Some(at) => {
            let (x, y) = (data.get("in/task0/image_u8"), data.get("in/task0/label"));
            (x.at(at % x.shape[0]), y.at(at % y.shape[0]))
        }
    };
    let pixels: Vec<f64> = x.data.iter().map(|v| v / 256.0).collect();
    (Tensor::from_f64(&pixels, x.shape.as_slice(), dtype), Tensor::from_vec(y.u32s(), y.shape.as_slice()))
}

fn task(index: usize, classes: &[u32], all: usize) -> TaskView {
    TaskView { index, mask: (0..all as u32).map(|k| classes.contains(&k)).collect(), rank_fraction: 1.0 }
}

/// Everything that a step of a case computes, by name.
fn step(
    dev: &Device,
    name: &str,
    about: &Value,
    all: &Value,
    precision: Precision,
) -> Vec<(String, Vec<f64>)> {
    let of = &about["config"];
    let config = Config { precision, ..coda_config(of) };
    let file = format!("case_{name}.npz");
    let data = npz(&file);
    let wide = if precision == Precision::F64 { DType::F64 } else { DType::F32 };
    let (x, y) = batch(&file, None, wide);
    let mut model = golden_methods::model(dev, &config, all, about, x.dims()[0]);
    official::load(&mut model, &data, "param/", false);
    let task = task(count(about, "cur_task_id"), &data.get("in/class_mask").u32s(), count(of, "num_classes"));
    let stats = model.step(dev, x.view(), y.view(), &task).expect("a step");
    let mut found = vec![
        ("loss".to_string(), vec![stats.loss]),
        ("penalty".into(), vec![stats.pull]),
        ("norm".into(), vec![stats.grad_norm]),
        ("query".into(), read(model.last_query())),
        ("logits".into(), read(model.logits())),
    ];
    for &l in &config.coda.layers {
        let weights = model.prompts.coda().and_then(|coda| coda.weights(l)).expect("weights");
        found.push((format!("weights of layer {l}"), weights.read_f64().expect("a download")));
    }
    let scale = model.setup.loss_scale();
    for id in model.params.ids().filter(|&id| model.params.spec(id).trainable) {
        let gradient =
            model.grads.get(&model.params, id).expect("a gradient").read_f64().expect("a download");
        let gradient = gradient.iter().map(|g| g / scale).collect();
        found.push((format!("gradient of {}", model.params.spec(id).name), gradient));
    }
    let query = model.last_query().clone();
    let choice = model.choose(dev, query.view(), Select::PerImage).expect("a choice");
    let logits = model.logits_with(dev, x.view(), &choice).expect("logits");
    found.push(("evaluation".into(), read(logits)));
    found
}

/// What is wrong in a form of a case beside the CPU in f64, and how many quantities were compared.
fn beside_the_cpu(
    dev: &Device,
    name: &str,
    about: &Value,
    all: &Value,
    precision: Precision,
) -> (Vec<String>, usize) {
    let wanted = step(&Device::Cpu, name, about, all, Precision::F64);
    let got = step(dev, name, about, all, precision);
    assert_eq!(got.len(), wanted.len(), "{name}");
    // A gradient is as good as the largest one of its kind: those of low layers are small beside others.
    let largest = |of: &str| {
        let all = wanted.iter().filter(|(what, _)| what.starts_with(of)).flat_map(|(_, values)| values);
        all.fold(0f64, |m, v| m.max(v.abs()))
    };
    let gradients = largest("gradient");
    let (mut wrong, mut worst) = (Vec::new(), 0f64);
    for ((what, got), (_, wanted)) in got.iter().zip(&wanted) {
        let error = match what.starts_with("gradient") {
            true => super::common::absolute_error(got, wanted) / gradients,
            false => relative_error(got, wanted),
        };
        worst = worst.max(error);
        if error.is_nan() || error > limit(precision) {
            wrong.push(format!("{name} {precision} {what}: off by {error:.1e}"));
        }
    }
    let text = format!("step of {name} {precision}: {} quantities, worst {worst:.1e}\n", got.len());
    let _ = std::io::stderr().write_all(text.as_bytes());
    (wrong, got.len())
}

fn all_cases(dev: &Device, wanted: impl Fn(&Value) -> bool, precisions: &[Precision]) {
    let all = cases();
    let of_coda = all["cases"].as_object().expect("cases").iter();
    let of_coda = of_coda.filter(|(_, about)| is_coda(about) && wanted(about));
    let (mut wrong, mut checks) = (Vec::new(), 0);
    for (name, about) in of_coda {
        for &precision in precisions {
            let (said, compared) = beside_the_cpu(dev, name, about, &all, precision);
            wrong.extend(said);
            checks += compared;
        }
    }
    assert!(checks > 0, "no case of CODA-Prompt");
    assert!(wrong.is_empty(), "{} of {checks}:\n{}", wrong.len(), wrong.join("\n"));
}

/// The first case of a task whose old components are frozen, with a penalty.
#[test]
fn a_step_of_components_is_that_of_the_cpu() {
    let Some(gpu) = device() else { return };
    let seen = std::cell::Cell::new(false);
    let wanted = |about: &Value| {
        let fits = count(about, "cur_task_id") > 0 && number(&about["config"], "ortho_mu") > 0.0;
        fits && !seen.replace(true)
    };
    all_cases(&Device::Cuda(gpu), wanted, &[Precision::F32]);
}

/// What a step may be off by in 16 bits on a GPU holds for the CPU's bf16, too.
#[test]
fn components_in_bf16_on_the_cpu() {
    all_cases(&Device::Cpu, |_| true, &[Precision::Bf16]);
}

#[test]
fn deep_steps_of_the_published_cases_of_components() {
    if !thorough("a step of every case of CODA-Prompt on the device") {
        return;
    }
    let Some(gpu) = device() else { return };
    all_cases(&Device::Cuda(gpu), |_| true, &[Precision::F32, Precision::Bf16, Precision::F16]);
}

/// What a run over two tasks leaves: the losses of all steps, all that learns after each task, and where it lies.
struct Run {
    losses: Vec<f64>,
    learned: [Vec<f64>; 2],
    /// Elements of `learned` that belong to components of the first task.
    old: Vec<Range<usize>>,
}

/// Steps of a task.
const STEPS: usize = 4;

/// How a run over two tasks goes. Of one that is resumed, the second task is left after half of its steps, and its state
/// goes on in another network.
#[derive(Clone, Copy)]
struct How {
    precision: Precision,
    optimizer: OptimizerName,
    graph: bool,
    resumed: bool,
    freeze: &'static [&'static str],
}

/// Two tasks of a trajectory's images.
fn two_tasks(dev: &Device, how: How) -> Run {
    let all = cases();
    let mut of_coda = all["trajectories"]
        .as_object()
        .expect("trajectories")
        .iter()
        .filter(|(_, about)| is_coda(about) && number(&about["config"], "ortho_mu") > 0.0);
    let (name, about) = of_coda.next().expect("a trajectory of CODA-Prompt with a penalty");
    let (of, file) = (&about["config"], format!("{name}.npz"));
    let sizes: Vec<u32> = serde_json::from_value(of["classes_per_task"].clone()).expect("classes of tasks");
    let classes: Vec<u32> = (0..sizes[0]).collect();
    let mut config = Config { precision: how.precision, ..coda_config(of) };
    (config.train.graph, config.optim.optim) = (how.graph, how.optimizer);
    config.model.freeze_part.extend(how.freeze.iter().map(|s| s.to_string()));
    let lr = if how.optimizer == OptimizerName::Sgd { 0.03 } else { 0.002 };
    let dtype = if how.precision == Precision::F64 { DType::F64 } else { DType::F32 };
    let images = batch(&file, Some(0), dtype).0.dims()[0];
    let new = || {
        let mut model = golden_methods::model(dev, &config, &all, about, images);
        model.init_prompts(7).expect("values to begin with");
        Gradient::new(&config, model, &mut Plan::on(dev), &Ranks::alone(images))
    };
    let mut method = new();
    let (mut losses, mut learned) = (Vec::new(), [Vec::new(), Vec::new()]);
    for (t, learned) in learned.iter_mut().enumerate() {
        let task = task(t, &classes, count(of, "num_classes"));
        method.begin_task(&task, &classes).expect("a task");
        for s in 0..STEPS {
            if how.resumed && t == 1 && s == STEPS / 2 {
                losses.extend(method.settle(dev).expect("the rest").iter().map(|s| s.loss));
                let (state, step) = (method.state().expect("a state"), method.optimizer_step());
                method = new();
                method.restore(&state, step).expect("the same");
            }
            let (x, y) = batch(&file, Some(s), dtype);
            let stats = method.step(dev, x.view().into(), y.view(), &task, lr).expect("a step");
            losses.extend(stats.iter().map(|s| s.loss));
        }
        losses.extend(method.settle(dev).expect("the rest").iter().map(|s| s.loss));
        *learned = read(&method.model().params.trainable);
    }
    let (params, each) = (&method.model().params, count(of, "components_per_task"));
    let old = params.specs.iter().filter(|spec| spec.trainable && spec.name.starts_with("coda/"));
    let old = old.map(|spec| spec.offset..spec.offset + each * spec.shape.len() / config.coda.components);
    Run { losses, learned, old: old.collect() }
}

fn same(a: &Run, b: &Run) -> bool {
    same_bits(&a.losses, &b.losses) && (0..2).all(|t| same_bits(&a.learned[t], &b.learned[t]))
}

fn learned_as(got: &Run, wanted: &Run) -> f64 {
    (0..2).map(|t| relative_error(&got.learned[t], &wanted.learned[t])).fold(0.0, f64::max)
}

/// Components are drawn, learn and freeze as on the CPU; as one graph, launch by launch and resumed: the same bits.
#[test]
fn deep_components_learn_over_two_tasks() {
    if !thorough("two tasks of CODA-Prompt on the device") {
        return;
    }
    let Some(gpu) = device() else { return };
    let dev = Device::Cuda(gpu);
    let adam = How {
        precision: Precision::F32,
        optimizer: OptimizerName::Adam,
        graph: true,
        resumed: false,
        freeze: &[],
    };
    let exact = How { precision: Precision::F64, ..adam };
    let sgd = |how: How| How { optimizer: OptimizerName::Sgd, ..how };
    // Adam makes whole steps of gradients that are rounding noise, as those of new components' penalty are: parameters
    // are compared with SGD.
    let cpu = two_tasks(&Device::Cpu, sgd(exact));
    let mut failures = Vec::new();
    for (precision, limit) in [(Precision::F32, 2e-6), (Precision::Bf16, 2e-2)] {
        let got = two_tasks(&dev, sgd(How { precision, ..adam }));
        let (losses, learned) = (relative_error(&got.losses, &cpu.losses), learned_as(&got, &cpu));
        let text = format!("{precision}: losses off by {losses:.1e}, parameters by {learned:.1e}");
        let _ = std::io::stderr().write_all(format!("two tasks of components {text}\n").as_bytes());
        if !(losses <= limit && learned <= limit) {
            failures.push(text);
        }
    }
    // Of components that do not learn the penalty still counts those so far: a graph is for one task.
    let frozen = How { freeze: &["coda"], ..sgd(adam) };
    let (cpu_frozen, got) =
        (two_tasks(&Device::Cpu, How { precision: Precision::F64, ..frozen }), two_tasks(&dev, frozen));
    let off = relative_error(&got.losses, &cpu_frozen.losses);
    if !(off <= 2e-6) {
        failures.push(format!("frozen components: losses off by {off:.1e}"));
    }
    let cpu = two_tasks(&Device::Cpu, exact);
    let graph = two_tasks(&dev, adam);
    let off = relative_error(&graph.losses, &cpu.losses);
    if !(off <= 1e-5) {
        failures.push(format!("Adam: losses off by {off:.1e}"));
    }
    assert!(failures.is_empty(), "{failures:#?}");
    assert_eq!(graph.losses.len(), 2 * STEPS, "a report per step");
    for run in [&cpu, &graph] {
        assert!(!run.old.is_empty());
        for rows in &run.old {
            let [before, after] = [0, 1].map(|t| &run.learned[t][rows.clone()]);
            assert!(before.iter().any(|v| *v != 0.0) && same_bits(before, after), "old components moved");
        }
    }
    let plain = two_tasks(&dev, How { graph: false, ..adam });
    assert!(same(&plain, &graph), "the graph gives other bits");
    let resumed = two_tasks(&dev, How { resumed: true, ..adam });
    assert!(same(&resumed, &graph), "resumed within a task: other bits");
}
