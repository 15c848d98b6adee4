//! Steps that are divided (`train.micro_batch`) beside whole ones.

use super::support::{CLASSES, DEV, Kind, images, kinds, l2p, labels};
use l2p_engine::config::micro_batch::MicroBatch;
use l2p_engine::config::schema::Method as Name;
use l2p_engine::methods::{Gradient, Method, Ranks};
use l2p_engine::network::{StepStats, TaskView};
use l2p_engine::tensor::plan::Plan;
use l2p_engine::tensor::{DType, Tensor, View};
use l2p_engine::testing::close::relative_error;

const BATCH: usize = 8;
const STEPS: usize = 3;
/// Images that vote together in every kind.
const GROUP: usize = 3;

struct Learned {
    stats: Vec<StepStats>,
    parameters: Vec<f64>,
    uses: Vec<f64>,
}

/// Some steps in parts of `part` images; the network has room for no more.
fn learn(kind: &Kind, part: usize, labels: View, task: &TaskView) -> Learned {
    let mut kind = kind.clone();
    if part < BATCH {
        kind.config.train.micro_batch = MicroBatch::Images(part);
    }
    kind.config.prompt_pool.vote_group = GROUP;
    let model = kind.model(part);
    let mut method = Gradient::new(&kind.config, model, &mut Plan::new(), &Ranks::alone(BATCH));
    let x = images(BATCH, DType::F64);
    let step =
        |method: &mut Gradient| method.step(&DEV, x.view().into(), labels, task, 0.01).expect("a step");
    let stats = (0..STEPS).flat_map(|_| step(&mut method)).collect();
    let model = method.model();
    let uses = model.prompts.uses().map_or(Vec::new(), |uses| uses.view().to_f64());
    Learned { stats, parameters: model.params.trainable.to_f64(), uses }
}

fn compare(kind: &Kind, part: usize, got: &Learned, whole: &Learned) {
    let what = format!("{}, parts of {part}", kind.name);
    for (got, whole) in got.stats.iter().zip(&whole.stats) {
        let values = |s: &StepStats| [s.loss, s.ce_loss, s.pull, s.grad_norm];
        let error = relative_error(&values(got), &values(whole));
        assert!(error <= 1e-12, "{what}: {got:?} for {whole:?}, off by {error:.1e}");
        assert_eq!(got.correct, whole.correct, "{what}");
    }
    let error = relative_error(&got.parameters, &whole.parameters);
    assert!(error <= 1e-12, "{what}: parameters off by {error:.1e}");
    assert_eq!(got.uses, whole.uses, "{what}: uses of prompts");
}

/// Kinds whose steps may be divided, learned by plain SGD: Adam makes whole steps of gradients that are rounding alone.
fn divisible() -> impl Iterator<Item = Kind> {
    let kinds = kinds().into_iter().filter(|kind| !matches!(kind.config.method, Name::Ewc | Name::Lwf));
    kinds.map(|mut kind| {
        kind.config.optim.optim = l2p_engine::config::schema::OptimizerName::Sgd;
        kind
    })
}

#[test]
fn divided_steps_are_whole_steps() {
    let y = labels(BATCH);
    for kind in divisible() {
        let whole = learn(&kind, BATCH, y.view(), &kind.task());
        assert!(whole.stats.iter().all(|s| s.loss.is_finite()), "{}", kind.name);
        let votes = kind.config.prompt_pool.batchwise_prompt && kind.config.prompt_pool.pool_size > 0;
        for part in [2 * GROUP, GROUP, 5, 1].into_iter().filter(|part| !votes || part % GROUP == 0) {
            compare(&kind, part, &learn(&kind, part, y.view(), &kind.task()), &whole);
        }
    }
}

/// Images that have masks of their own, and soft labels.
#[test]
fn parts_have_their_own_masks_and_labels() {
    let replay = l2p("replayed images", |c| {
        c.optim.optim = l2p_engine::config::schema::OptimizerName::Sgd;
        c.continual.replay_batch_size = 2;
        c.data.mixup_alpha = 0.5;
    });
    let mask: Vec<bool> = (0..BATCH * CLASSES).map(|i| i < 5 * CLASSES || i % CLASSES != 3).collect();
    let task = TaskView { mask, ..replay.task() };
    let shares: Vec<f64> = (0..BATCH * CLASSES)
        .map(|i| if i % CLASSES == 3 { 0.0 } else { f64::from((i * 7 % 4) as u32) / 10.0 })
        .collect();
    let soft = Tensor::from_f64(&shares, [BATCH, CLASSES], DType::F32);
    let hard = labels(BATCH);
    for y in [hard.view(), soft.view()] {
        let whole = learn(&replay, BATCH, y, &task);
        for part in [2 * GROUP, GROUP] {
            compare(&replay, part, &learn(&replay, part, y, &task), &whole);
        }
        let alike = TaskView { mask: task.mask[..CLASSES].to_vec(), ..task.clone() };
        let other = learn(&replay, BATCH, y, &alike);
        assert_ne!(
            other.stats[0].loss.to_bits(),
            whole.stats[0].loss.to_bits(),
            "masks of rows have no effect"
        );
    }
}
