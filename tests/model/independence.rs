//! Evaluation of an image does not depend on the images beside it, to the bit.

use super::support::{DEV, images, kinds, labels};
use l2p_engine::config::schema::Precision;
use l2p_engine::network::Model;
use l2p_engine::ops::match_prompts::Select;
use l2p_engine::prompts::{PromptChoice, Query};
use l2p_engine::tensor::{DType, Tensor};
use l2p_engine::testing::close::same_bits;

const BATCH: usize = 7;

/// Images `from..from + n` of a batch.
fn some(images: &Tensor, from: usize, n: usize) -> Tensor {
    let each = 8 * 8 * 3;
    let values = &images.to_f64()[from * each..(from + n) * each];
    Tensor::from_f64(values, [n, 8, 8, 3], images.dtype())
}

/// Queries, ids or weights, and logits of an evaluation with per-image selection, row by row of one image.
fn evaluate(model: &mut Model, x: &Tensor) -> [Vec<f64>; 3] {
    let (mut query, mut choice) = (Vec::new(), PromptChoice::nothing());
    if model.prompts.query() != Query::Nothing {
        let q = model.query(&DEV, x.view()).expect("a query").clone();
        choice = model.choose(&DEV, q.view(), Select::PerImage).expect("a choice");
        query = q.to_f64();
    }
    let logits = model.logits_with(&DEV, x.view(), &choice).expect("logits").to_f64();
    let choice = match choice {
        PromptChoice::Ids { rows, .. } => rows.values.iter().map(|&id| f64::from(id)).collect(),
        PromptChoice::Weights(rows) => rows.values,
    };
    [query, choice, logits]
}

#[test]
fn logits_of_a_batch_are_those_of_single_images() {
    for precision in [Precision::F32, Precision::Bf16, Precision::F64] {
        for mut kind in kinds() {
            kind.config.precision = precision;
            let dtype = if precision == Precision::F64 { DType::F64 } else { DType::F32 };
            let x = images(BATCH, dtype);
            let mut model = kind.model(BATCH);
            let whole = evaluate(&mut model, &x);
            assert!(whole[2].iter().all(|z| z.is_finite()));
            for (from, n) in (0..BATCH).map(|i| (i, 1)).chain([(0, 2), (2, 3), (1, 6), (0, BATCH)]) {
                let part = evaluate(&mut model, &some(&x, from, n));
                for ((part, whole), what) in part.iter().zip(&whole).zip(["query", "choice", "logits"]) {
                    let each = whole.len() / BATCH;
                    let wanted = &whole[from * each..(from + n) * each];
                    let text = format!("{} in {precision:?}", kind.name);
                    assert!(same_bits(part, wanted), "{text}: {what} of {n} images from {from}");
                }
            }
            // And a training step of the full batch still fits after smaller evaluations.
            evaluate(&mut model, &some(&x, 0, 1));
            let stats = kind.step(&mut model, &x, &labels(BATCH));
            assert!(stats.loss.is_finite());
        }
    }
}

/// A model that only evaluates gives the logits of one that trains.
#[test]
fn evaluation_needs_no_training_memory() {
    for kind in kinds() {
        let x = images(BATCH, DType::F64);
        let mut training = kind.model(BATCH);
        let wanted = evaluate(&mut training, &x);
        let mut setup = training.setup.clone();
        setup.training = false;
        let mut model = Model::new(setup, &mut l2p_engine::tensor::plan::Plan::new());
        model.params = training.params.clone();
        model.query_params = training.query_params.clone();
        assert_eq!(evaluate(&mut model, &x), wanted, "{}", kind.name);
    }
}
