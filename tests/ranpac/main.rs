//! `method = "ranpac"`: the published code's numbers, the same sums for any order and any batches, one factorisation for
//! all lambdas beside a direct solution, whole runs, resumed runs, predictions.
//!
//! The fixtures are described in `tests/fixtures/golden_methods/README.md`. `L2P_GOLDEN_METHODS_DIR` points these tests
//! at another folder of the same format.

mod algebra;
#[path = "../common/mod.rs"]
mod common;
mod runs;

use common::lanes::deep;
use common::npz::{Array, Npz};
use common::relative_error;
use l2p_engine::device::{self, Device};
use l2p_engine::methods::ClassMeans;
use l2p_engine::methods::ranpac::{Projection, Ridge};
use l2p_engine::rng::{Rng, Stream};
use l2p_engine::tensor::plan::Plan;
use l2p_engine::tensor::{DType, Tensor};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Numbers of the published code in f64 agree to this, relative to the largest value of the quantity.
const F64: f64 = 1e-9;
/// Losses of smaller lambdas are ill-conditioned (the README of the fixtures).
const LEAST_LAMBDA: f64 = 1e-3;

fn folder() -> PathBuf {
    match std::env::var_os("L2P_GOLDEN_METHODS_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/golden_methods"),
    }
}

/// Those of RanPAC.
fn cases() -> Value {
    let path = folder().join("cases.json");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str::<Value>(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))["ranpac"]
        .clone()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().expect("a list").iter().map(|v| v.as_f64().expect("a number")).collect()
}

fn tensor(array: &Array) -> Tensor {
    Tensor::from_f64(&array.data, array.shape.as_slice(), DType::F64)
}

/// The first columns of the rows of (n, K).
fn first_columns(values: &[f64], all: usize, columns: usize) -> Vec<f64> {
    values.chunks_exact(all).flat_map(|row| row[..columns].to_vec()).collect()
}

struct Golden {
    npz: Npz,
    about: Value,
    lambdas: Vec<f64>,
    per_task: Vec<usize>,
}

impl Golden {
    fn read() -> Golden {
        let about = cases();
        let per_task = numbers(&about["classes_per_task"]).iter().map(|&n| n as usize).collect();
        let npz = Npz::read(&folder().join(about["file"].as_str().expect("a file")));
        Golden { npz, lambdas: numbers(&about["candidate_lambdas"]), per_task, about }
    }

    fn classes(&self) -> usize {
        self.per_task.iter().sum()
    }

    fn task(&self, t: usize, set: &str) -> (&Array, Vec<u32>) {
        let label = self.npz.get(&format!("in/{set}{t}/label"));
        (self.npz.get(&format!("in/{set}{t}/features")), label.u32s())
    }

    fn projection(&self, features: &Value) -> Projection {
        let Some(m) = features.as_u64() else {
            return Projection::none(self.about["feature_width"].as_u64().expect("a width") as usize);
        };
        let fits =
            |name: &&String| name.starts_with("in/W_rand") && self.npz.get(name).shape[1] == m as usize;
        let name = self.npz.arrays.keys().find(fits).expect("a random matrix of this width");
        Projection::given(tensor(self.npz.get(name)))
    }

    fn ridge(&self, features: &Value) -> Ridge {
        Ridge::on_host(self.projection(features), self.lambdas.clone(), self.classes(), DType::F64)
    }
}

fn lower(gram: &[f64], m: usize) -> Vec<f64> {
    gram.chunks_exact(m).enumerate().flat_map(|(i, row)| row[..=i].to_vec()).collect()
}

#[test]
fn golden_ridge_regression_on_random_features() {
    let golden = Golden::read();
    let all = golden.classes();
    for (name, about) in golden.about["variants"].as_object().expect("variants") {
        // The entry of the class means has no head that is solved for.
        let Some(wanted_lambdas) = about.get("lambda_per_task").map(numbers) else { continue };
        let mut ridge = golden.ridge(&about["random_features"]);
        let m = ridge.projection().features();
        let (mut seen, mut worst, mut checks) = (0, 0f64, 0);
        let mut check = |what: &str, got: &[f64], wanted: &[f64]| {
            let error = relative_error(got, wanted);
            assert!(error < F64, "{name}, {what}: {error:e}");
            (worst, checks) = (worst.max(error), checks + 1);
        };
        let mut tests = (Vec::new(), Vec::new());
        for t in 0..golden.per_task.len() {
            let out = |what: &str| format!("{name}/out/task{t}/{what}");
            let (features, labels) = golden.task(t, "task");
            let choice = ridge.add_task(tensor(features).view(), &labels).expect("a task");
            assert_eq!(choice.lambda, wanted_lambdas[t], "{name}, task {t}");
            assert_eq!(choice.used, choice.lambda, "{name}, task {t}");
            let losses = &golden.npz.get(&out("validation_loss")).data;
            for ((lambda, got), wanted) in golden.lambdas.iter().zip(&choice.losses).zip(losses) {
                if *lambda >= LEAST_LAMBDA {
                    check(&format!("task {t}, loss with {lambda}"), &[*got], &[*wanted]);
                }
            }
            seen += golden.per_task[t];
            let sums = ridge.sums.as_ref().expect("sums");
            check("class sums", &sums.class_sums.to_f64(), &golden.npz.get(&out("class_sums")).data);
            if golden.npz.has(&out("gram")) {
                let wanted = lower(&golden.npz.get(&out("gram")).data, m);
                check("gram", &lower(&sums.gram.to_f64(), m), &wanted);
            }
            let head = first_columns(&ridge.head.to_f64(), all, seen);
            let wanted = &golden.npz.get(&out("head")).data;
            // There (classes, M).
            let turned: Vec<f64> = (0..seen * m).map(|i| head[i % m * seen + i / m]).collect();
            check("head", &turned, wanted);
            let (features, labels) = golden.task(t, "test");
            tests.0.extend_from_slice(&features.data);
            tests.1.extend(labels);
            let width = features.shape[1];
            let images = Tensor::from_f64(&tests.0, [tests.1.len(), width], DType::F64);
            let logits = ridge.logits(images.view()).expect("logits").to_f64();
            // Classes that are not learned yet are below all others.
            for row in logits.chunks_exact(all) {
                let least = row[..seen].iter().copied().fold(f64::INFINITY, f64::min);
                assert!(row[seen..].iter().all(|z| *z < least), "{name}: {row:?}");
            }
            let logits = first_columns(&logits, all, seen);
            check("logits", &logits, &golden.npz.get(&out("test_logits")).data);
            let best = |row: &[f64]| (0..seen).fold(0, |b, k| if row[k] > row[b] { k } else { b }) as u32;
            let right = logits.chunks_exact(seen).zip(&tests.1).filter(|(z, y)| best(z) == **y).count();
            let accuracy = 100.0 * right as f64 / tests.1.len() as f64;
            let wanted = numbers(&about["accuracy_percent"])[t];
            assert!((accuracy - wanted).abs() < 0.005 + 1e-9, "{name}, task {t}: {accuracy} and {wanted}");
        }
        println!("golden ranpac, {name}: {checks} checks, worst relative error {worst:.1e}");
    }
}

#[test]
fn golden_class_means() {
    let golden = Golden::read();
    let (all, mut seen, mut worst) = (golden.classes(), 0, 0f64);
    let mut means = ClassMeans::new(all, golden.about["feature_width"].as_u64().expect("a width") as usize);
    let mut tests: Vec<f64> = Vec::new();
    for t in 0..golden.per_task.len() {
        let (features, labels) = golden.task(t, "task");
        let width = features.shape[1];
        features.data.chunks_exact(width).zip(labels).for_each(|(f, label)| means.add(label, f));
        seen += golden.per_task[t];
        tests.extend_from_slice(&golden.task(t, "test").0.data);
        let scores: Vec<f64> =
            tests.chunks_exact(width).flat_map(|f| means.scores(f)[..seen].to_vec()).collect();
        let wanted = golden.npz.get(&format!("simplecil/out/task{t}/test_logits"));
        worst = worst.max(relative_error(&scores, &wanted.data));
        assert!(worst < F64, "task {t}: {worst:e}");
    }
    println!("golden class means: worst relative error {worst:.1e}");
}

/// Features around a mean of their class.
fn drawn(images: usize, width: usize, classes: &[u32], seed: u64, dtype: DType) -> (Tensor, Vec<u32>) {
    let labels: Vec<u32> = (0..images).map(|i| classes[i % classes.len()]).collect();
    let values: Vec<f64> = labels
        .iter()
        .enumerate()
        .flat_map(|(i, &label)| {
            let mut mean = Rng::new(seed, Stream::Test, u64::from(label));
            let mut noise = Rng::new(seed, Stream::Test, 1 << 32 | (label as u64) << 20 | i as u64);
            (0..width).map(move |_| mean.normal() + 0.5 * noise.normal()).collect::<Vec<f64>>()
        })
        .collect();
    (Tensor::from_f64(&values, [images, width], dtype), labels)
}

fn small_ridge(random_features: usize, dtype: DType) -> Ridge {
    let projection = Projection::drawn(3, Tensor::zeros([9, random_features], dtype));
    Ridge::on_host(projection, (-8..=8).map(|e| 10f64.powi(e)).collect(), 6, dtype)
}

/// Sums of more images than one block has, learned in two orders, with fewer and with more features than images.
#[test]
fn the_order_of_tasks_changes_sums_by_rounding_only() {
    for m in [40, 700] {
        let tasks: Vec<(Tensor, Vec<u32>)> = [[0, 1], [2, 3], [4, 5]]
            .iter()
            .enumerate()
            .map(|(t, classes)| drawn([2100, 90, 300][t], 9, classes, 5, DType::F64))
            .collect();
        let [mut forwards, mut backwards] = [0, 1].map(|_| small_ridge(m, DType::F64));
        tasks.iter().for_each(|(f, y)| drop(forwards.add_task(f.view(), y).expect("a task")));
        tasks.iter().rev().for_each(|(f, y)| drop(backwards.add_task(f.view(), y).expect("a task")));
        let sums = |ridge: &Ridge| {
            let sums = ridge.sums.as_ref().expect("sums");
            (lower(&sums.gram.to_f64(), m), sums.class_sums.to_f64())
        };
        let (a, b) = (sums(&forwards), sums(&backwards));
        assert!(relative_error(&a.0, &b.0) < 1e-13 && relative_error(&a.1, &b.1) < 1e-13);
        assert_eq!(forwards.counts, backwards.counts);
    }
}

/// f32, as runs have it, beside f64.
#[test]
fn single_precision_chooses_the_same_lambda_and_answers_alike() {
    for m in [40, 700] {
        let learned = |dtype: DType| {
            let mut ridge = small_ridge(m, dtype);
            let mut chosen = Vec::new();
            for (t, classes) in [[0, 1, 2], [3, 4, 5]].iter().enumerate() {
                let (f, y) = drawn(300, 9, classes, 7 + t as u64, dtype);
                chosen.push(ridge.add_task(f.view(), &y).expect("a task").lambda);
            }
            let (f, _) = drawn(60, 9, &[0, 1, 2, 3, 4, 5], 7, dtype);
            (chosen, ridge.logits(f.view()).expect("logits").to_f64())
        };
        let (exact, rounded) = (learned(DType::F64), learned(DType::F32));
        assert_eq!(exact.0, rounded.0, "{m} features");
        let error = relative_error(&rounded.1, &exact.1);
        println!("ranpac, {m} features: f32 beside f64 {error:.1e}, lambdas {:?}", exact.0);
        assert!(error < 1e-3, "{m} features: {error:e}");
    }
}

#[test]
fn what_cannot_be_learned_is_refused_in_a_sentence() {
    let said = |ridge: &mut Ridge, f: &Tensor, y: &[u32]| {
        ridge.add_task(f.view(), y).expect_err("nothing to learn").to_string()
    };
    let (f, y) = drawn(20, 9, &[0, 1], 1, DType::F64);
    let mut values = f.to_f64();
    values[9 * 4 + 2] = f64::NAN;
    let bad = Tensor::from_f64(&values, [20, 9], DType::F64);
    let mut ridge = small_ridge(30, DType::F64);
    let text = said(&mut ridge, &bad, &y);
    assert!(text.contains("feature 2 of image 4") && text.contains("NaN"), "{text}");
    let text = said(&mut ridge, &f, &[vec![0; 19], vec![6]].concat());
    assert!(text.contains("class 6 is not one of the 6"), "{text}");
    // Equal images have a matrix of rank one, and this lambda is below rounding.
    let equal = Tensor::from_f64(&[[1e6; 9]; 20].concat(), [20, 9], DType::F64);
    let projection = Projection::drawn(3, Tensor::zeros([9, 30], DType::F64));
    let mut ridge = Ridge::on_host(projection, vec![1e-8], 6, DType::F64);
    let text = said(&mut ridge, &equal, &y);
    assert!(text.contains("positive definite") && text.contains("ranpac.lambdas"), "{text}");
}

/// Four tebibytes of sums.
#[test]
fn more_host_memory_than_is_free_is_refused() {
    if device::available_memory().is_none() {
        println!("skipped: free memory is not known on this system");
        return;
    }
    let mut plan = Plan::dry(&Device::Cpu);
    plan.group("ridge regression");
    plan.on_host("gram", [1 << 20, 1 << 20], DType::F32);
    let said = plan.check().expect_err("too little memory").to_string();
    assert!(said.contains("ridge regression, gram") && said.contains("wants 4194304 MiB"), "{said}");
    // A GPU elsewhere has a machine of its own around it.
    let mut plan = Plan::dry_on_gpu();
    plan.on_host("gram", [1 << 20, 1 << 20], DType::F32);
    assert!(plan.check().is_ok() && plan.total_bytes() == 0);
}

/// The numbers of the random matrix: mean 0, variance 1, others for another seed, the same in both types.
#[test]
fn the_random_matrix_is_standard_normal_and_follows_the_seed() {
    let matrix = |seed: u64, dtype: DType| {
        let width = 40;
        let projection = Projection::drawn(seed, Tensor::zeros([width, 500], dtype));
        // The rows of the identity, and its negative, which relu cuts the other way.
        let unit = |sign: f64| -> Vec<f64> {
            (0..width * width).map(|i| if i / width == i % width { sign } else { 0.0 }).collect()
        };
        let [up, down] = [1.0, -1.0].map(|sign| {
            let mut h = Tensor::zeros([width, 500], dtype);
            let f = Tensor::from_f64(&unit(sign), [width, width], dtype);
            projection.columns(f.view(), 0, &mut h).expect("features");
            h.to_f64()
        });
        up.iter().zip(&down).map(|(up, down)| up - down).collect::<Vec<f64>>()
    };
    let w = matrix(1, DType::F64);
    let n = w.len() as f64;
    let mean = w.iter().sum::<f64>() / n;
    let variance = w.iter().map(|w| w * w).sum::<f64>() / n;
    assert!(mean.abs() < 5.0 / n.sqrt(), "{mean}");
    assert!((variance - 1.0).abs() < 5.0 * (2.0 / n).sqrt(), "{variance}");
    assert_eq!(w, matrix(1, DType::F32));
    assert_ne!(w, matrix(2, DType::F64));
}

/// How long a task takes, for `docs/results.md`.
#[test]
fn deep_time_of_a_large_task() {
    if !deep("the time of ridge regression on 5,000 images") {
        return;
    }
    let (n, width, m) = (5000, 768, 2000);
    let classes: Vec<u32> = (0..100).collect();
    let (f, y) = drawn(n, width, &classes, 1, DType::F32);
    let projection = Projection::drawn(1, Tensor::zeros([width, m], DType::F32));
    let mut ridge = Ridge::on_host(projection, (-8..=8).map(|e| 10f64.powi(e)).collect(), 100, DType::F32);
    let start = Instant::now();
    let choice = ridge.add_task(f.view(), &y).expect("a task");
    println!("{n} images, {m} features: {:.1} s, lambda {}", start.elapsed().as_secs_f64(), choice.lambda);
    assert!(choice.losses.iter().any(|loss| loss.is_finite()));
}
