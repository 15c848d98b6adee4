//! S-Prompts on a device, from the first step to answers for images of two domains, beside the CPU in f64. It has no
//! kernel of its own: prompts and heads of images are gathered.

use super::common::relative_error;
use super::{device, tiny};
use l2p_engine::config::schema::{Classifier, Config, Method as Name, OptimizerName, Precision};
use l2p_engine::device::Device;
use l2p_engine::methods::{Gradient, Method, Moment, Pass, Ranks, Shown};
use l2p_engine::network::TaskView;
use l2p_engine::ops::match_prompts::Select;
use l2p_engine::prompts::PromptChoice;
use l2p_engine::tensor::plan::Plan;
use l2p_engine::tensor::{DType, Tensor};

const DOMAINS: usize = 2;
const SEED: u64 = 29;
const CLASSES: usize = 3;
const BATCH: usize = 4;
/// One as it is, one that is captured, one that is repeated.
const STEPS: usize = 3;

fn normal(stream: u64, n: usize, spread: f64) -> Vec<f64> {
    tiny::normal(SEED, stream, n, spread)
}

fn images(domain: usize, dtype: DType) -> Tensor {
    let values: Vec<f64> = normal(100 + domain as u64, BATCH * 8 * 8 * 3, 1.0);
    Tensor::from_f64(&values, [BATCH, 8, 8, 3], dtype)
}

/// Losses, what was learned, centres, and the logits of all images, each with its own domain.
fn run(dev: &Device, precision: Precision) -> (Vec<(&'static str, Vec<f64>)>, PromptChoice) {
    let mut config = Config { precision, method: Name::SPrompts, ..Config::default() };
    config.prompt_pool.pool_size = 0;
    config.model.vit_classifier = Classifier::Token;
    config.continual.num_tasks = DOMAINS;
    // As many centres as images: each image is one of them.
    (config.s_prompts.length, config.s_prompts.centres) = (3, BATCH);
    (config.optim.weight_decay, config.s_prompts.later_weight_decay) = (0.01, 0.03);
    (config.optim.optim, config.optim.nesterov, config.optim.lr_batch) = (OptimizerName::Sgd, false, 0);
    let mut plan = Plan::on(dev);
    let model = tiny::model(&config, (CLASSES, DOMAINS * BATCH), &mut plan, SEED);
    let dtype = model.dtype();
    let mut method = Gradient::new(&config, model, &mut plan, &Ranks::alone(BATCH));
    let mut losses = Vec::new();
    for index in 0..DOMAINS {
        let task = TaskView { index, mask: vec![true; CLASSES], rank_fraction: 1.0 };
        method.begin_task(&task, &[0, 1, 2]).expect("a task");
        let x = images(index, dtype);
        let y = Tensor::from_vec(vec![0u32, 2, 1, 2], [BATCH]);
        let mut stats = Vec::new();
        for _ in 0..STEPS {
            stats.extend(method.step(dev, x.view().into(), y.view(), &task, 0.05).expect("a step"));
        }
        stats.extend(method.settle(dev).expect("the rest"));
        losses.extend(stats.iter().map(|s| s.loss));
        for pass in method.passes(index, Moment::AfterSteps).expect("passes") {
            assert_eq!(pass, Pass::Augmented);
            let shown = Shown { images: x.view().into(), labels: y.view(), positions: &[0, 1, 2, 3] };
            method.observe(dev, pass, shown, &task).expect("a look");
        }
        method.end_task(dev).expect("centres");
    }
    assert_eq!(losses.len(), DOMAINS * STEPS);
    // An image of each domain in turn.
    let each = 8 * 8 * 3;
    let all: Vec<Vec<f64>> = (0..DOMAINS).map(|domain| images(domain, dtype).to_f64()).collect();
    let mixed = (0..DOMAINS * BATCH).flat_map(|i| all[i % DOMAINS][i / DOMAINS * each..][..each].to_vec());
    let x = Tensor::from_f64(&mixed.collect::<Vec<f64>>(), [DOMAINS * BATCH, 8, 8, 3], dtype);
    let read = |t: &Tensor| t.view().read_f64().expect("a download");
    let query = method.query(dev, x.view().into()).expect("queries");
    let choice = method.select(dev, query.view(), Select::PerImage).expect("a choice");
    let logits = method.logits(dev, x.view().into(), query.view(), &choice).expect("logits");
    let centres = method.model().prompts.state().iter().flat_map(|(_, tensor)| read(tensor)).collect();
    let learned = read(&method.model().params.trainable);
    let found =
        vec![("losses", losses), ("parameters", learned), ("centres", centres), ("logits", read(&logits))];
    (found, choice)
}

#[test]
fn s_prompts_learns_and_answers_as_on_the_cpu() {
    let Some(gpu) = device() else { return };
    let (wanted, domains) = run(&Device::Cpu, Precision::F64);
    let turns: Vec<u32> = (0..(DOMAINS * BATCH) as u32).map(|i| i % DOMAINS as u32).collect();
    assert_eq!(domains, PromptChoice::ids(turns, 1, DOMAINS), "each image has its own domain");
    let (found, chosen) = run(&Device::Cuda(gpu), Precision::F32);
    assert_eq!(chosen, domains);
    for ((what, found), (_, wanted)) in found.iter().zip(&wanted) {
        let error = relative_error(found, wanted);
        println!("s_prompts on the device, {what}: {error:.1e}");
        assert!(error < 2e-5, "{what}: {error:e}");
    }
}
