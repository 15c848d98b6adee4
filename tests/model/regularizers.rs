//! What EWC and LwF learn beside the steps, beside numbers that are computed in another way.

use super::support::{DEV, Kind, images, kinds, labels};
use l2p_engine::config::schema::Fisher;
use l2p_engine::methods::{Gradient, Method, Moment, Pass, Ranks, Shown};
use l2p_engine::output::checkpoint::TensorData;
use l2p_engine::tensor::plan::Plan;
use l2p_engine::tensor::{DType, Tensor};
use l2p_engine::testing::gradcheck::derivative;

const IMAGES: usize = 3;

fn kind(name: &str) -> Kind {
    kinds().into_iter().find(|kind| kind.name == name).expect("a kind")
}

fn saved(method: &Gradient, name: &str) -> Vec<f64> {
    let state = method.state().expect("a state");
    match state.into_iter().find(|(n, ..)| n == name) {
        Some((_, _, TensorData::F64(values))) => values,
        _ => panic!("no {name} in f64"),
    }
}

fn one(x: &Tensor, i: usize) -> Tensor {
    let each = 8 * 8 * 3;
    Tensor::from_f64(&x.to_f64()[i * each..(i + 1) * each], [1, 8, 8, 3], DType::F64)
}

/// F = gamma F + Σ weight (∂ log p / ∂w)² / divisor, with derivatives by differences of the loss of each image.
#[test]
fn importance_is_that_of_differences() {
    let (x, y) = (images(IMAGES, DType::F64), labels(IMAGES));
    let classes = y.view().read::<u32>().expect("labels");
    // Three images in two batches of two: the short one counts as a whole one where the published code has it.
    for (fisher, divisor) in [(Fisher::Weighted, 4.0), (Fisher::Empirical, 3.0)] {
        let mut kind = kind("ewc");
        (kind.config.ewc.fisher, kind.config.ewc.gamma) = (fisher, 0.6);
        let mut method = Gradient::new(&kind.config, kind.model(IMAGES), &mut Plan::new(), &Ranks::alone(2));
        let names = ["head/kernel", "block_1/fc1/bias", "norm/scale"];
        let before = names.map(|name| saved(&method, &format!("importance/{name}")));
        let task = kind.task();
        let mut at = 0;
        for n in [2, 1] {
            let pixels: Vec<f64> = (at..at + n).flat_map(|i| one(&x, i).to_f64()).collect();
            let pixels = Tensor::from_f64(&pixels, [n, 8, 8, 3], DType::F64);
            let own = Tensor::from_vec(classes[at..at + n].to_vec(), [n]);
            let shown = Shown { images: pixels.view().into(), labels: own.view(), positions: &[0, 1][..n] };
            method.observe(&DEV, Pass::Augmented, shown, &task).expect("a look");
            at += n;
        }
        method.end_task(&DEV).expect("an end");
        let mut model = kind.model(IMAGES);
        for (name, before) in names.iter().zip(&before) {
            let (after, anchor) =
                (saved(&method, &format!("importance/{name}")), saved(&method, &format!("anchor/{name}")));
            let id = model.params.find(name).expect(name);
            let values = model.params.get(id).to_f64();
            assert_eq!(anchor, values, "{name}: the anchor is where the task ended");
            let largest = after.iter().fold(0f64, |m, v| m.max(*v));
            for entry in [0, values.len() / 2, values.len() - 1] {
                let mut wanted = 0.6 * before[entry];
                for i in 0..IMAGES {
                    let (x, y) = (one(&x, i), Tensor::from_vec(vec![classes[i]], [1]));
                    let slope = derivative(values[entry], |moved| {
                        let mut changed = values.clone();
                        changed[entry] = moved;
                        model.params.set(id, &changed).expect("a parameter");
                        kind.step(&mut model, &x, &y).ce_loss
                    });
                    model.params.set(id, &values).expect("a parameter");
                    let loss = kind.step(&mut model, &x, &y).ce_loss;
                    let weight = if fisher == Fisher::Weighted { (-loss).exp() } else { 1.0 };
                    wanted += weight * slope * slope / divisor;
                }
                let error = (after[entry] - wanted).abs() / largest;
                assert!(error < 1e-8, "{fisher}, {name}[{entry}]: {} and {wanted}", after[entry]);
            }
        }
    }
}

/// A warm-up moves the head by the rate times its gradient and nothing else; then the teacher is the network as it is, in
/// whatever order its images come; a step asks for images that it has seen.
#[test]
fn the_teacher_is_the_network_after_the_warm_up() {
    let mut kind = kind("lwf");
    (kind.config.lwf.warmup_epochs, kind.config.optim.lr_batch) = (1, 0);
    let mut method = Gradient::new(&kind.config, kind.model(IMAGES), &mut Plan::new(), &Ranks::alone(IMAGES));
    // Classes 2 and 4 have become old ones.
    method.begin_task(&kind.task(), &[2, 4]).expect("a task");
    assert_eq!(method.passes(1, Moment::BeforeSteps).expect("passes"), [Pass::Plain], "no class is new");
    let mut lone = Gradient::new(&kind.config, kind.model(IMAGES), &mut Plan::new(), &Ranks::alone(IMAGES));
    lone.end_task(&DEV).expect("an end");
    let before = lone.state().expect("a state");
    let passes = lone.passes(1, Moment::BeforeSteps).expect("passes");
    assert_eq!(passes, [Pass::WarmUp { epochs: 1 }, Pass::Plain]);
    let (x, y) = (images(IMAGES, DType::F64), labels(IMAGES));
    // The gradient without the teacher's term.
    let plain = {
        let mut linear = kind.clone();
        linear.config.lwf.alpha = 0.0;
        let mut model = linear.model(IMAGES);
        linear.step(&mut model, &x, &y);
        model
    };
    let shown = Shown { images: x.view().into(), labels: y.view(), positions: &[5, 3, 8] };
    lone.observe(&DEV, passes[0], shown, &kind.task()).expect("a step of the head");
    let after = lone.state().expect("a state");
    let rate = kind.config.optim.learning_rate;
    for ((name, _, before), (_, _, after)) in before.iter().zip(&after) {
        let (TensorData::F64(before), TensorData::F64(after)) = (before, after) else { continue };
        let Some(parameter) = name.strip_prefix("params/").filter(|name| name.starts_with("head/")) else {
            assert_eq!(before, after, "{name} stays");
            continue;
        };
        let id = plain.params.find(parameter).expect(parameter);
        let gradient = plain.grads.get(&plain.params, id).expect("a gradient").to_f64();
        for ((before, after), gradient) in before.iter().zip(after).zip(gradient) {
            assert!((after - (before - rate * gradient)).abs() < 1e-15, "{parameter}");
        }
    }
    lone.observe(&DEV, passes[1], shown, &kind.task()).expect("answers");
    let logits = {
        let mut model = kind.model(IMAGES);
        model.params = lone.model().params.clone();
        let none = l2p_engine::prompts::PromptChoice::nothing();
        model.logits_with(&DEV, x.view(), &none).expect("logits").to_f64()
    };
    let taught = saved(&lone, "state/answers of the teacher");
    assert_eq!(taught, logits);
    lone.next_images(&[8, 5]).expect("known images");
    let said = lone.next_images(&[5, 4]).expect_err("an unknown image").to_string();
    assert!(said.contains("training image 4"), "{said}");
}
