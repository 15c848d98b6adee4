//! EWC and LwF on a device, whole runs of two tasks with their passes beside the steps, next to the CPU in f64.

use super::common::relative_error;
use super::{device, tiny};
use l2p_engine::config::schema::{Classifier, Config, Method as Name, OptimizerName, Precision};
use l2p_engine::device::Device;
use l2p_engine::methods::{Gradient, Method, Moment, Pass, Ranks, Shown};
use l2p_engine::network::TaskView;
use l2p_engine::output::checkpoint::TensorData;
use l2p_engine::tensor::Tensor;
use l2p_engine::tensor::plan::Plan;

const TASKS: usize = 2;
const SEED: u64 = 31;
const CLASSES: usize = 4;
const BATCH: usize = 4;
/// One as it is, one that is captured, one that is repeated.
const STEPS: usize = 3;
const POSITIONS: [u32; BATCH] = [7, 3, 0, 9];

fn normal(stream: u64, n: usize, spread: f64) -> Vec<f64> {
    tiny::normal(SEED, stream, n, spread)
}

fn configure(name: Name, precision: Precision) -> Config {
    let mut config = Config { precision, method: name, ..Config::default() };
    config.prompt_pool.pool_size = 0;
    config.model.vit_classifier = Classifier::Token;
    config.model.freeze_part = Vec::new();
    config.continual.num_tasks = TASKS;
    (config.ewc.lambda, config.ewc.gamma) = (0.5, 0.9);
    (config.lwf.alpha, config.lwf.temperature, config.lwf.warmup_epochs) = (0.7, 1.5, 1);
    (config.optim.optim, config.optim.lr_batch) = (OptimizerName::Sgd, 0);
    (config.optim.learning_rate, config.optim.weight_decay) = (0.05, 0.01);
    config
}

/// Losses, what was learned, and for EWC the importance of parameters, for LwF what the teacher said.
fn run(dev: &Device, name: Name, precision: Precision) -> Vec<(String, Vec<f64>)> {
    let config = configure(name, precision);
    let mut plan = Plan::on(dev);
    let model = tiny::model(&config, (CLASSES, BATCH), &mut plan, SEED);
    let dtype = model.dtype();
    let mut method = Gradient::new(&config, model, &mut plan, &Ranks::alone(BATCH));
    let (mut losses, mut found, mut passes) = (Vec::new(), Vec::new(), Vec::new());
    for index in 0..TASKS {
        let own = [2 * index as u32, 2 * index as u32 + 1];
        let mask = |all: bool| (0..CLASSES as u32).map(|k| all || own.contains(&k)).collect();
        let task = TaskView { index, mask: mask(true), rank_fraction: 1.0 };
        method.begin_task(&task, &own).expect("a task");
        let x = normal(100 + index as u64, BATCH * 8 * 8 * 3, 1.0);
        let x = Tensor::from_f64(&x, [BATCH, 8, 8, 3], dtype);
        let y = Tensor::from_vec(vec![own[0], own[1], own[1], own[0]], [BATCH]);
        let mut look = |method: &mut Gradient, moment| {
            for pass in method.passes(index, moment).expect("passes") {
                let shown = Shown { images: x.view().into(), labels: y.view(), positions: &POSITIONS };
                let all = !matches!(pass, Pass::WarmUp { .. });
                let view = TaskView { index, mask: mask(all), rank_fraction: 1.0 };
                method.observe(dev, pass, shown, &view).expect("a look");
                passes.push(pass);
            }
        };
        look(&mut method, Moment::BeforeSteps);
        let mut stats = Vec::new();
        for _ in 0..STEPS {
            method.next_images(&POSITIONS).expect("known images");
            stats.extend(method.step(dev, x.view().into(), y.view(), &task, 0.05).expect("a step"));
        }
        stats.extend(method.settle(dev).expect("the rest"));
        losses.extend(stats.iter().map(|s| s.loss));
        assert!(index == 0 || stats.last().is_some_and(|s| s.pull > 0.0), "the term is in the loss");
        look(&mut method, Moment::AfterSteps);
        for (name, _, values) in method.state().expect("a state") {
            let last = index + 1 == TASKS;
            if last && name == "state/answers of the teacher" {
                let TensorData::F64(values) = values else { panic!("answers in f64") };
                found.push((name, values));
            }
        }
        method.end_task(dev).expect("an end");
    }
    let wanted = match name {
        Name::Ewc => vec![Pass::Augmented; TASKS],
        _ => vec![Pass::WarmUp { epochs: 1 }, Pass::Plain],
    };
    assert_eq!((losses.len(), passes), (TASKS * STEPS, wanted));
    let read = |t: &Tensor| t.view().read_f64().expect("a download");
    for (name, tensor) in method.model().regularizer.of_parameters() {
        found.push((name.into(), read(tensor)));
    }
    assert!(!found.is_empty(), "what a regularizer keeps");
    found.push(("losses".into(), losses));
    found.push(("parameters".into(), read(&method.model().params.trainable)));
    found
}

#[test]
fn regularizers_learn_as_on_the_cpu() {
    let Some(gpu) = device() else { return };
    for name in [Name::Ewc, Name::Lwf] {
        let wanted = run(&Device::Cpu, name, Precision::F64);
        // In 16 bits gradients are multiplied by a factor, which importance and warm-up must not keep.
        for (precision, limit) in [(Precision::F32, 2e-5), (Precision::F16, 2e-2)] {
            let found = run(&Device::Cuda(gpu.clone()), name, precision);
            for ((what, found), (_, wanted)) in found.iter().zip(&wanted) {
                let error = relative_error(found, wanted);
                println!("{name} on the device in {precision:?}, {what}: {error:.1e}");
                assert!(error < limit, "{name} in {precision:?}, {what}: {error:e}");
            }
        }
    }
}
