//! Rows of parameters that do not learn: no gradient, no decay, the same bits; the rows beside them learn as ever.

#![allow(clippy::single_range_in_vec_init)]

use super::support::{DEV, Kind, images, l2p, labels};
use l2p_engine::config::schema::OptimizerName;
use l2p_engine::network::Model;
use l2p_engine::optim::Optimizer;
use l2p_engine::tensor::DType;
use l2p_engine::tensor::plan::Plan;
use l2p_engine::testing::close::same_bits;
use l2p_engine::testing::gradcheck::derivative;
use std::ops::Range;

const BATCH: usize = 3;
const LIMIT: f64 = 1e-7;

/// The parameters with frozen rows: keys 1, 2 and 5 of six, and four of twelve rows of the head.
const FROZEN: [(&str, &[Range<usize>]); 2] = [("prompt_pool/key", &[1..3, 5..6]), ("head/kernel", &[0..4])];

fn kind(optim: OptimizerName) -> Kind {
    l2p("frozen rows", |c| {
        c.prompt_pool.batchwise_prompt = false;
        // The term in the loss, or AdamW's decay in the update.
        c.optim.weight_decay = 0.03;
        c.optim.optim = optim;
    })
}

fn freeze(model: &mut Model, rows: bool) {
    for (name, frozen) in FROZEN {
        let id = model.params.find(name).expect("a parameter");
        model.params.freeze_rows(id, if rows { frozen } else { &[] }).expect("rows");
    }
}

/// For each value that learns, whether it is in a frozen row.
fn frozen_values(model: &Model) -> Vec<bool> {
    let mut all = vec![false; model.params.trainable.len()];
    for (name, rows) in FROZEN {
        let spec = model.params.spec(model.params.find(name).expect("a parameter"));
        let width = spec.shape.len() / spec.shape.dims()[0];
        for row in rows.iter().cloned().flatten() {
            all[spec.offset + row * width..][..width].fill(true);
        }
    }
    all
}

#[test]
fn frozen_rows_have_no_gradient_and_the_others_have_theirs() {
    let kind = kind(OptimizerName::Adam);
    let (x, y) = (images(BATCH, DType::F64), labels(BATCH));
    let mut whole = kind.model(BATCH);
    kind.step(&mut whole, &x, &y);
    let mut model = kind.model(BATCH);
    freeze(&mut model, true);
    let stats = kind.step(&mut model, &x, &y);
    let (gradient, frozen) = (model.grads.trainable.to_f64(), frozen_values(&model));
    let wanted: Vec<f64> =
        whole.grads.trainable.to_f64().iter().zip(&frozen).map(|(g, f)| if *f { 0.0 } else { *g }).collect();
    assert!(same_bits(&gradient, &wanted));
    let norm = gradient.iter().map(|g| g * g).sum::<f64>().sqrt();
    assert!((stats.grad_norm / norm - 1.0).abs() < 1e-12, "frozen rows take no part in the norm");
    for (name, _) in FROZEN {
        let id = model.params.find(name).expect("a parameter");
        let spec = model.params.spec(id).clone();
        let own = &gradient[spec.offset..][..spec.shape.len()];
        let largest = own.iter().fold(0.0, |m: f64, g| m.max(g.abs()));
        let values = model.params.get(id).to_f64();
        let free = (0..own.len()).filter(|i| !frozen[spec.offset + i]).step_by(7);
        let mut checked = 0;
        for entry in free {
            let numeric = derivative(values[entry], |moved| {
                let mut changed = values.clone();
                changed[entry] = moved;
                model.params.set(id, &changed).expect("a parameter");
                kind.step(&mut model, &x, &y).loss
            });
            let error = (own[entry] - numeric).abs() / largest;
            assert!(error <= LIMIT, "{name}[{entry}]: {:e} and {numeric:e}", own[entry]);
            checked += 1;
        }
        assert!(largest > 0.0 && checked > 3, "{name}");
        model.params.set(id, &values).expect("a parameter");
    }
}

/// With momentum and moments from before, and with decay in the loss and in the update.
#[test]
fn frozen_rows_keep_their_bits() {
    for optim in [OptimizerName::Adam, OptimizerName::AdamW, OptimizerName::Sgd] {
        let kind = kind(optim);
        let (x, y) = (images(BATCH, DType::F64), labels(BATCH));
        let mut model = kind.model(BATCH);
        let mut optimizer = Optimizer::new(&mut Plan::new(), &model.params, &kind.config.optim);
        let mut steps = |model: &mut Model| {
            for _ in 0..3 {
                kind.step(model, &x, &y);
                let squares = model.report.squares();
                optimizer.step(&DEV, &mut model.params, &model.grads, squares, 0.01).expect("an update");
            }
            [&model.params.trainable, &optimizer.m, &optimizer.v].map(|t| t.to_f64())
        };
        let before = steps(&mut model);
        freeze(&mut model, true);
        let after = steps(&mut model);
        let frozen = frozen_values(&model);
        assert!(frozen.iter().any(|f| *f) && !frozen.iter().all(|f| *f));
        for (which, (before, after)) in before.iter().zip(&after).enumerate() {
            for (i, (before, after)) in before.iter().zip(after).enumerate() {
                let same = before.to_bits() == after.to_bits();
                assert!(same || !frozen[i], "{optim}: value {i} of tensor {which} is frozen");
            }
        }
        freeze(&mut model, false);
        let thawed = steps(&mut model);
        for (name, _) in FROZEN {
            let spec = model.params.spec(model.params.find(name).expect("a parameter"));
            for i in spec.offset..spec.offset + spec.shape.len() {
                assert_ne!(before[0][i] != after[0][i], frozen[i], "{optim}: value {i}, of {name}");
                assert_ne!(after[0][i], thawed[0][i], "{optim}: value {i}, of {name}, learns again");
            }
        }
    }
}

#[test]
fn rows_that_cannot_be_frozen_are_refused() {
    let mut model = kind(OptimizerName::Adam).model(BATCH);
    let key = model.params.find("prompt_pool/key").expect("keys");
    let frozen = model.params.find("block_0/fc1/kernel").expect("a kernel");
    for (id, rows) in [(key, vec![0..7]), (key, vec![2..4, 3..5]), (key, vec![3..3]), (frozen, vec![0..1])] {
        let said = model.params.freeze_rows(id, &rows).expect_err("a refusal").to_string();
        assert!(said.starts_with("frozen rows of "), "{said}");
    }
    model.params.freeze_rows(key, &[0..1, 1..2]).expect("rows that touch");
    assert_eq!(model.params.frozen_rows(key), [0..1, 1..2]);
    let spec = model.params.spec(key).clone();
    let learning = model.params.learning();
    assert!(learning.iter().all(|r| r.end <= spec.offset || r.start >= spec.offset + 2 * 12), "{learning:?}");
}
