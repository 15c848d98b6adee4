//! Every parameter of every kind of configuration: sampled entries of its gradient against central
//! differences of the total loss.

use super::support::{DEV, Kind, images, kinds, labels};
use approx::abs_diff_eq;
use l2p_engine::rng::{Rng, Stream};
use l2p_engine::tensor::DType;
use l2p_engine::testing::gradcheck::derivative;
use rayon::prelude::*;
use std::io::Write as _;

/// Limit of the error, relative to the largest entry of the parameter's gradient (and at least to a
/// thousandth of the largest of all).
const LIMIT: f64 = 1e-7;

const BATCH: usize = 3;

fn check(kind: &Kind) -> (usize, f64) {
    let mut model = kind.model(BATCH);
    let (x, y) = (images(BATCH, DType::F64), labels(BATCH));
    let stats = kind.step(&mut model, &x, &y);
    assert!(stats.loss.is_finite() && stats.grad_norm > 0.0, "{}: {stats:?}", kind.name);
    let choice = model.prompts.choice().expect("a choice");
    // Copied, because every step below overwrites the model's own.
    let all = model.grads.trainable.to_f64();
    let largest_of_all = all.iter().fold(0.0, |m: f64, g| m.max(g.abs()));
    let squares: f64 = all.iter().map(|g| g * g).sum();
    if model.grads.frozen.is_none() {
        assert!((squares.sqrt() / stats.grad_norm - 1.0).abs() < 1e-12, "{}: grad_norm", kind.name);
    }
    let mut worst = 0.0;
    let mut checked = 0;
    for (i, id) in model.params.ids().enumerate() {
        let spec = model.params.spec(id).clone();
        if !spec.trainable {
            continue;
        }
        let gradient = &all[spec.offset..spec.offset + spec.shape.len()];
        let largest = gradient.iter().fold(0.0, |m: f64, g| m.max(g.abs()));
        assert!(largest > 0.0, "{}: {} has no gradient", kind.name, spec.name);
        let mut rng = Rng::new(5, Stream::Test, i as u64);
        let top = gradient.iter().position(|g| g.abs() == largest).expect("the largest");
        let mut entries = vec![top];
        entries.extend((0..3).map(|_| rng.below(gradient.len() as u32) as usize));
        let values = model.params.get(id).to_f64();
        let width = gradient.len() / spec.shape.dims()[0];
        for entry in entries {
            if model.params.frozen_rows(id).iter().any(|rows| rows.contains(&(entry / width))) {
                assert_eq!(gradient[entry], 0.0, "{}: {}[{entry}] is in a frozen row", kind.name, spec.name);
                continue;
            }
            let numeric = derivative(values[entry], |moved| {
                let mut changed = values.clone();
                changed[entry] = moved;
                model.params.set(id, &changed).expect("a parameter");
                let loss = kind.step(&mut model, &x, &y).loss;
                let now = model.prompts.choice().expect("a choice");
                // Weights move with what they are made of, ids must not.
                assert_eq!(
                    now.as_ids(),
                    choice.as_ids(),
                    "{}: a step in {} changed the selection",
                    kind.name,
                    spec.name
                );
                loss
            });
            let scale = largest.max(1e-3 * largest_of_all);
            let error = (gradient[entry] - numeric).abs() / scale;
            assert!(
                error <= LIMIT,
                "{}: {}[{entry}]: analytic {:e}, numeric {numeric:e}, off by {error:.1e}",
                kind.name,
                spec.name,
                gradient[entry]
            );
            worst = error.max(worst);
            checked += 1;
        }
        model.params.set(id, &values).expect("a parameter");
    }
    kind.step(&mut model, &x, &y);
    let again = model.grads.trainable.to_f64();
    assert_eq!(again, all, "{}: the same gradients as at first", kind.name);
    (checked, worst)
}

#[test]
fn steps() {
    // Steps of this size leave most of a second core idle.
    let lines = kinds().into_par_iter().map(|kind| {
        let (checked, worst) = check(&kind);
        format!("gradient step {:<42} {checked:>4} entries, worst {worst:.1e}\n", kind.name)
    });
    let text: String = lines.collect();
    // Not through `eprint!`, which the test harness would keep to itself.
    let _ = std::io::stderr().write_all(format!("\n{text}").as_bytes());
}

/// A new task's head is the mean of those before it, and a step starts from columns of length 1.
#[test]
fn the_head_is_transferred_and_normalised() {
    for (n, task, kernel_only) in [(2, 1, false), (1, 4, true)] {
        let kind = super::support::l2p("head", |c| {
            (c.continual.weights_transfer, c.continual.transfer_kernel_only) = (true, kernel_only);
            (c.continual.num_classes_per_task, c.model.weight_norm) = (n.into(), true);
        });
        let mut model = kind.model(BATCH);
        let of =
            |m: &l2p_engine::network::Model| [m.head.kernel, m.head.bias].map(|id| m.params.get(id).to_f64());
        let before = of(&model);
        model.begin_task(0).expect("a task");
        assert_eq!(of(&model), before, "the first task has none before it");
        model.begin_task(task).expect("a task");
        let after = of(&model);
        for (which, (before, after)) in before.iter().zip(&after).enumerate() {
            for (row, (before, after)) in before.chunks_exact(5).zip(after.chunks_exact(5)).enumerate() {
                for k in 0..5 {
                    let moved = k / n == task && !(kernel_only && which == 1);
                    let mean = (0..task).map(|t| before[t * n + k % n]).sum::<f64>() / task as f64;
                    let wanted = if moved { mean } else { before[k] };
                    assert!(
                        abs_diff_eq!(after[k], wanted, epsilon = 1e-15),
                        "tensor {which}, row {row}, class {k}"
                    );
                }
            }
        }
        model.normalise_head(&DEV).expect("unit columns");
        let [kernel, bias] = of(&model);
        for k in 0..5 {
            let length: f64 = kernel.iter().skip(k).step_by(5).map(|v| v * v).sum();
            assert!(abs_diff_eq!(length, 1.0, epsilon = 1e-9), "class {k}: {length}");
        }
        assert_eq!(bias, after[1]);
    }
}

/// A later task passes over the prompts that an earlier one used; evaluation does not, and what was used is counted.
#[test]
fn diversified_selection_takes_other_prompts() {
    for vote in [false, true] {
        let kind = super::support::l2p("diversified", |c| {
            c.prompt_pool.diversified_selection = true;
            c.prompt_pool.batchwise_prompt = vote;
        });
        let mut model = kind.model(BATCH);
        let (x, y) = (images(BATCH, DType::F64), labels(BATCH));
        kind.step(&mut model, &x, &y);
        let first = ids(&model);
        assert_eq!(first, ids(&kind_without(&kind)), "the first task");
        let count = |ids: &[f64]| -> Vec<f64> {
            (0..6).map(|j| ids.iter().filter(|&&i| i == f64::from(j)).count() as f64).collect()
        };
        let used = count(&first);
        assert_eq!(model.prompts.uses().expect("counts").to_f64(), [vec![0.0; 6], used.clone()].concat());
        // Still the same task: nothing is passed over.
        kind.step(&mut model, &x, &y);
        assert_eq!(ids(&model), first);
        model.begin_task(1).expect("a task");
        let before: Vec<f64> = used.iter().map(|n| 2.0 * n).collect();
        assert_eq!(model.prompts.uses().expect("counts").to_f64(), [before.clone(), vec![0.0; 6]].concat());
        kind.step(&mut model, &x, &y);
        let second = ids(&model);
        let fresh = used.iter().filter(|n| **n == 0.0).count();
        assert!(fresh >= 2 && second.iter().all(|id| used[*id as usize] == 0.0), "{used:?} {second:?}");
        let now = count(&second);
        assert_eq!(model.prompts.uses().expect("counts").to_f64(), [before, now].concat());
        let query = model.last_query().clone();
        let how = model.prompts.how_to_learn(0, BATCH);
        model.choose(&DEV, query.view(), how).expect("a choice");
        assert_eq!(ids(&model), first, "evaluation");
    }
}

/// The ids of the last choice.
fn ids(model: &l2p_engine::network::Model) -> Vec<f64> {
    model.prompts.pool().expect("a pool").ids.to_f64()
}

fn kind_without(kind: &Kind) -> l2p_engine::network::Model {
    let mut plain = kind.clone();
    plain.config.prompt_pool.diversified_selection = false;
    let mut model = plain.model(BATCH);
    plain.step(&mut model, &images(BATCH, DType::F64), &labels(BATCH));
    model
}

/// The masked task uses its own prompts, and beyond the pool it falls back to the vote.
#[test]
fn prompt_mask_chooses_by_task() {
    let mut kind = kinds().into_iter().find(|k| k.name == "prompt mask").expect("a kind");
    let mut model = kind.model(BATCH);
    let (x, y) = (images(BATCH, DType::F64), labels(BATCH));
    kind.step(&mut model, &x, &y);
    assert_eq!(ids(&model), [2., 3., 2., 3., 2., 3.]);
    kind.task = 3;
    kind.step(&mut model, &x, &y);
    let beyond = ids(&model);
    let query = model.last_query().clone();
    let how = l2p_engine::ops::match_prompts::Select::Vote { group: 3 };
    model.choose(&DEV, query.view(), how).expect("a vote");
    assert_eq!(beyond, ids(&model));
}
