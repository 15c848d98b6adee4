//! CODA-Prompt between tasks: new components are orthonormal, old ones keep their bits, the rest stays zero.

use super::support::{Kind, kinds};
use l2p_engine::network::Model;
use l2p_engine::nn::params::ParamId;
use l2p_engine::prompts::gram_schmidt;
use l2p_engine::testing::close::same_bits;

const BATCH: usize = 3;
/// Of seven components two tasks have three each.
const EACH: usize = 3;

fn kind() -> Kind {
    kinds().into_iter().find(|kind| kind.name == "components").expect("a kind")
}

/// A model whose components are those of a new run.
fn fresh(kind: &Kind, seed: u64) -> Model {
    let mut kind = kind.clone();
    kind.config.seed = seed;
    let mut model = kind.model(BATCH);
    model.init_prompts(seed).expect("initial values");
    model
}

fn components(model: &Model) -> Vec<ParamId> {
    model.params.ids().filter(|&id| model.params.spec(id).name.starts_with("coda/")).collect()
}

/// Rows of a parameter with components.
fn rows(model: &Model, id: ParamId) -> Vec<Vec<f64>> {
    let all = model.params.get(id).to_f64();
    let width = all.len() / model.params.spec(id).shape.dims()[0];
    all.chunks_exact(width).map(<[f64]>::to_vec).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[test]
fn each_task_adds_orthonormal_components_and_leaves_the_old_ones_alone() {
    let mut kind = kind();
    let mut model = fresh(&kind, 5);
    assert!(components(&model).iter().all(|&id| rows(&model, id).iter().flatten().all(|v| *v == 0.0)));
    for task in 0..2 {
        kind.task = task;
        let before: Vec<_> = components(&model).iter().map(|&id| rows(&model, id)).collect();
        model.begin_task(task).expect("a task");
        for (&id, before) in components(&model).iter().zip(&before) {
            let (name, now) = (&model.params.spec(id).name, rows(&model, id));
            let (start, end) = (task * EACH, (task + 1) * EACH);
            assert!(before[..start].iter().zip(&now).all(|(a, b)| same_bits(a, b)), "{name}: old components");
            assert!(now[end..].iter().flatten().all(|v| *v == 0.0), "{name}: components of later tasks");
            for k in start..end {
                let squares = dot(&now[k], &now[k]);
                assert!((squares - 1.0).abs() < 1e-14, "{name}: squared length {squares}");
            }
            if task == 0 {
                let worst = (0..end).flat_map(|k| (0..k).map(move |j| (k, j)));
                let worst = worst.map(|(k, j)| dot(&now[k], &now[j]).abs()).fold(0.0, f64::max);
                assert!(worst < 1e-13, "{name}: {worst:e}");
            }
        }
        kind.learn(&mut model, BATCH, 3);
        for (&id, before) in components(&model).iter().zip(&before) {
            let now = rows(&model, id);
            for (k, row) in now.iter().enumerate() {
                let learns = (task * EACH..(task + 1) * EACH).contains(&k);
                assert!(learns || same_bits(row, &before[k]), "component {k} in task {task}");
            }
        }
    }
}

#[test]
fn components_are_those_of_the_seed_and_of_the_task() {
    let drawn = |seed: u64| {
        let mut model = fresh(&kind(), seed);
        model.begin_task(0).expect("a task");
        model.params.trainable.to_f64()
    };
    assert!(same_bits(&drawn(1), &drawn(1)));
    assert!(!same_bits(&drawn(1), &drawn(2)));
    let mut model = fresh(&kind(), 1);
    model.begin_task(0).expect("a task");
    let ids = components(&model);
    let all: Vec<Vec<f64>> = ids.iter().flat_map(|&id| rows(&model, id)[..EACH].to_vec()).collect();
    for (i, a) in all.iter().enumerate() {
        assert!(
            all[..i].iter().all(|b| a.len() != b.len() || !same_bits(a, b)),
            "two components from one stream"
        );
    }
}

/// A run that goes on within a task has the parameters and no more.
#[test]
fn a_step_of_a_restored_model_is_that_of_the_one_that_began_the_task() {
    let mut kind = kind();
    let mut model = fresh(&kind, 5);
    for task in 0..2 {
        kind.task = task;
        model.begin_task(task).expect("a task");
        kind.learn(&mut model, BATCH, 2);
    }
    let mut other = kind.model(BATCH);
    other.params.trainable = model.params.trainable.clone();
    other.params.frozen = model.params.frozen.clone();
    kind.learn(&mut model, BATCH, 2);
    kind.learn(&mut other, BATCH, 2);
    assert!(same_bits(&model.params.trainable.to_f64(), &other.params.trainable.to_f64()));
}

#[test]
fn the_head_starts_as_the_published_one() {
    let model = fresh(&kind(), 5);
    let bound = 1.0 / (model.setup.dims.embed_dim as f64).sqrt();
    for id in [model.head.kernel, model.head.bias] {
        let values = model.params.get(id).to_f64();
        assert!(values.iter().all(|v| v.abs() <= bound) && values.iter().any(|v| v.abs() > 0.5 * bound));
    }
}

#[test]
fn what_has_no_room_is_refused() {
    let mut model = fresh(&kind(), 5);
    let said = model.begin_task(2).expect_err("a third task").to_string();
    assert!(said.contains("continual.num_tasks") && said.contains("task 3 begins"), "{said}");
    let mut many = kind();
    many.config.coda.components = 26;
    let said = many.model(BATCH).init_prompts(1).expect_err("too many components").to_string();
    assert!(said.contains("coda.components") && said.contains("at most 12, found 26"), "{said}");
    let said = gram_schmidt(&[1.0, 0.0, 0.0, 2.0], &[3.0, 4.0], 2).expect_err("nothing left").to_string();
    assert!(said.contains("beside 2 rows of 2 values"), "{said}");
}

/// By hand: (1, 2) without its part along (2, 0) is (0, 2); an old row of zeros is passed over.
#[test]
fn new_rows_by_hand() {
    assert_eq!(gram_schmidt(&[2.0, 0.0], &[1.0, 2.0], 2).expect("a row"), [0.0, 1.0]);
    assert_eq!(gram_schmidt(&[0.0, 0.0, 2.0, 0.0], &[1.0, 2.0], 2).expect("a row"), [0.0, 1.0]);
    // The second projects its own draw onto the first: (0, 3, 4) without (0, 3, 0).
    let new = gram_schmidt(&[1.0, 0.0, 0.0], &[5.0, 2.0, 0.0, 7.0, 3.0, 4.0], 3).expect("two rows");
    assert_eq!(new, [0.0, 1.0, 0.0, 0.0, 0.0, 1.0]);
}
