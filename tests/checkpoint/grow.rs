//! A network with more classes and prompts takes over what a smaller one has learned, by name.

use super::support::{self, DEV, images, labels};
use l2p_engine::methods::{Gradient, Method, Pass, Ranks, Shown, Tensors};
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

/// The values of a tensor of shape `large` that lie where one of shape `small` has some.
fn corner(values: &[f64], small: &[usize], large: &[usize]) -> Vec<f64> {
    let within = |i: usize| {
        let mut rest = i;
        small.iter().zip(large).rev().all(|(small, large)| {
            let at = rest % large;
            rest /= large;
            at < *small
        })
    };
    values.iter().enumerate().filter(|(i, _)| within(*i)).map(|(_, v)| *v).collect()
}

/// What was learned beside the steps goes to the beginning of every axis as parameters do: of domains, importance,
/// classes met.
#[test]
fn what_is_learned_beside_the_steps_grows_by_name() {
    for (name, tensors) in [
        (
            "prompt and head of a domain",
            &["state/centres", "params/head/kernel", "params/s_prompts/prompt"][..],
        ),
        ("ewc", &["importance/head/kernel", "anchor/head/bias", "importance/block_1/qkv/kernel"]),
        ("lwf of a head", &["state/classes met", "params/head/kernel"]),
    ] {
        let mut kind = support::kinds().into_iter().find(|kind| kind.name == name).expect("a kind");
        let ranks = Ranks::alone(BATCH);
        let mut small = Gradient::new(&kind.config, kind.model(BATCH), &mut Plan::new(), &ranks);
        let task = TaskView { index: 0, mask: vec![true; 5], rank_fraction: 1.0 };
        small.begin_task(&task, &[0, 2]).expect("a task");
        let (x, y) = (images(BATCH, DType::F64), labels(BATCH));
        let positions: Vec<u32> = (0..BATCH as u32).collect();
        small.next_images(&positions).expect("known images");
        step(&mut small, 5);
        let shown = Shown { images: x.view().into(), labels: y.view(), positions: &positions };
        small.observe(&DEV, Pass::Augmented, shown, &task).expect("a look");
        small.end_task(&DEV).expect("an end");
        let saved = small.state().expect("a state");
        kind.config.continual.num_tasks += 1;
        let setup = Setup::new(&kind.config, kind.dims, 7, BATCH).expect("a setup");
        let mut plan = Plan::new();
        let model = Model::new(setup, &mut plan);
        let mut large = Gradient::new(&kind.config, model, &mut plan, &ranks);
        assert!(large.restore(&saved, 1).is_err(), "{name}: a resume is no growth");
        large.restore_grown(&saved, 1).expect("a growth");
        let grown = large.state().expect("a state");
        for tensor in tensors {
            let ((shape, wanted), (grown_shape, all)) = (values(&saved, tensor), values(&grown, tensor));
            assert!(wanted.iter().any(|v| *v != 0.0), "{name}: {tensor} holds nothing");
            assert_eq!(corner(&all, shape, grown_shape), wanted, "{name}: {tensor}");
            // What is new has no centres, no importance, and was not met.
            let beyond = all.iter().filter(|v| **v != 0.0).count();
            let parameter = tensor.starts_with("params/");
            assert!(parameter || beyond == wanted.iter().filter(|v| **v != 0.0).count(), "{name}: {tensor}");
        }
        large.next_images(&positions).expect("no teacher");
        step(&mut large, 7);
    }
}
