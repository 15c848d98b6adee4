//! A network with more classes and prompts takes over what a smaller one has learned, by name.

use super::support::{self, DEV, images, labels};
use l2p_engine::methods::{Gradient, Method, Ranks, Tensors};
use l2p_engine::network::{Model, Setup, TaskView};
use l2p_engine::output::TensorData;
use l2p_engine::tensor::DType;
use l2p_engine::tensor::plan::Plan;

const BATCH: usize = 3;

fn method(classes: usize, prompts: usize, seed: u64) -> Gradient {
    let mut kind = support::l2p("grown", |c| c.prompt_pool.diversified_selection = true);
    kind.config.prompt_pool.pool_size = prompts;
    let setup = Setup::new(&kind.config, kind.dims, classes, BATCH).expect("a setup");
    let mut plan = Plan::new();
    let mut model = Model::new(setup, &mut plan);
    model.init_prompts(seed).expect("prompts");
    Gradient::new(&kind.config, model, &mut plan, &Ranks::alone(BATCH))
}

fn step(method: &mut Gradient, classes: usize) {
    let task = TaskView { index: 0, mask: vec![true; classes], rank_fraction: 1.0 };
    let (x, y) = (images(BATCH, DType::F64), labels(BATCH));
    method.step(&DEV, x.view().into(), y.view(), &task, 0.01).expect("a step");
}

fn values<'a>(all: &'a Tensors, name: &str) -> (&'a [usize], Vec<f64>) {
    let (_, shape, data) = all.iter().find(|(n, ..)| n == name).unwrap_or_else(|| panic!("no {name}"));
    let values = match data {
        TensorData::F64(values) => values.clone(),
        TensorData::F32(values) => values.iter().map(|v| f64::from(*v)).collect(),
        TensorData::U32(values) => values.iter().map(|v| f64::from(*v)).collect(),
    };
    (shape, values)
}

#[test]
fn head_and_pool_grow_by_name() {
    let mut small = method(5, 6, 1);
    small
        .begin_task(&TaskView { index: 0, mask: vec![true; 5], rank_fraction: 1.0 }, &[0, 1, 2, 3, 4])
        .expect("a task");
    (0..3).for_each(|_| step(&mut small, 5));
    let saved = small.state().expect("a state");
    let names: Vec<&str> = saved.iter().map(|(name, ..)| name.as_str()).collect();
    for name in ["params/head/kernel", "m/head/kernel", "v/prompt_pool/prompt", "state/prompt_uses"] {
        assert!(names.contains(&name), "{names:?}");
    }
    let mut large = method(7, 8, 2);
    let fresh = large.state().expect("a state");
    // A resume is no growth.
    let said = large.restore(&saved, 3).expect_err("another shape").to_string();
    assert!(said.contains("shape") && said.contains("wants"), "{said}");
    large.restore_grown(&saved, 3).expect("a growth");
    assert_eq!(large.optimizer_step(), 3);
    let grown = large.state().expect("a state");
    for (name, old, new) in [
        ("head/kernel", vec![12, 5], vec![12, 7]),
        ("head/bias", vec![5], vec![7]),
        ("prompt_pool/key", vec![6, 12], vec![8, 12]),
        ("prompt_pool/prompt", vec![1, 6, 2, 12], vec![1, 8, 2, 12]),
    ] {
        for prefix in ["params", "m", "v"] {
            let name = format!("{prefix}/{name}");
            let ((shape, small), (grown_shape, large)) = (values(&saved, &name), values(&grown, &name));
            assert_eq!((shape, grown_shape), (&old[..], &new[..]), "{name}");
            let untouched = if prefix == "params" { values(&fresh, &name).1 } else { vec![0.0; large.len()] };
            let mut taken = 0;
            for (i, (got, fresh)) in large.iter().zip(&untouched).enumerate() {
                let (mut rest, mut at, mut stride, mut within) = (i, 0, 1, true);
                for (old, new) in old.iter().zip(&new).rev() {
                    within &= rest % new < *old;
                    at += rest % new * stride;
                    (rest, stride) = (rest / new, stride * old);
                }
                let wanted = if within { small[at] } else { *fresh };
                taken += usize::from(within);
                assert_eq!(got.to_bits(), wanted.to_bits(), "{name}[{i}]");
            }
            assert_eq!(taken, small.len(), "{name}");
        }
    }
    let (_, uses) = values(&saved, "state/prompt_uses");
    let wanted = [&uses[..6], &[0.0; 2], &uses[6..], &[0.0; 2]].concat();
    assert_eq!(values(&grown, "state/prompt_uses"), (&[2, 8][..], wanted));
    step(&mut large, 7);
    // Nothing shrinks.
    let said = method(4, 6, 1).restore_grown(&saved, 3).expect_err("fewer classes").to_string();
    assert!(said.contains("params/head") && said.contains("at most"), "{said}");
}
