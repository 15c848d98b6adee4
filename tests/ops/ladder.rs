//! The rungs that the table drives.

use super::on_threads;
use l2p_engine::ops::matmul::Write;
use l2p_engine::tensor::{DType, Tensor};
use l2p_engine::testing::batches;
use l2p_engine::testing::cases::{self, Case, Data, On, Role};
use l2p_engine::testing::close::{self, Budget};
use l2p_engine::testing::gradcheck;
use std::io::Write as _;

const SEED: u64 = 20_260;

/// Limit of a gradient in f64, relative to its largest entry.
const GRADIENT: f64 = 1e-7;
/// How much worse than plain code in f32 an op may be.
const TIMES: f64 = 4.0;

fn values(tensors: &[Tensor]) -> Vec<Vec<f64>> {
    tensors.iter().map(Tensor::to_f64).collect()
}

fn everything(case: &Case, data: &Data) -> Vec<Vec<f64>> {
    case.everything(&On::CPU, data).expect("forward and backward")
}

/// Every gradient of a case against central differences: (argument, worst relative error).
pub fn gradient_errors(case: &Case) -> Vec<(&'static str, f64)> {
    let data = case.data(SEED, DType::F64);
    let outputs = case.run_forward(&On::CPU, &data, None).expect("forward");
    let grads = case.run_backward(&On::CPU, &data, &outputs, None).expect("backward");
    let inputs = values(&data.inputs);
    let upstream = values(&data.upstream).concat();
    let forward = |x: &[Vec<f64>]| {
        let tensors: Vec<Tensor> = (x.iter().zip(&data.inputs))
            .map(|(values, like)| Tensor::from_f64(values, like.shape(), like.dtype()))
            .collect();
        let data = Data { inputs: tensors, ..data.clone() };
        let outputs = case.run_forward(&On::CPU, &data, None).expect("forward");
        let results = outputs.iter().zip(&case.outputs).filter(|(_, o)| o.role == Role::Result);
        results.flat_map(|(t, _)| t.to_f64()).collect::<Vec<f64>>()
    };
    let check = |(grad, tensor): (&cases::Grad, &Tensor)| {
        let numeric = gradcheck::numeric(&inputs, grad.input, &upstream, forward);
        (case.inputs[grad.input].name, gradcheck::worst(&tensor.to_f64(), &numeric))
    };
    case.grads.iter().zip(&grads).map(check).collect()
}

#[test]
fn gradients() {
    let mut table: Vec<(&str, &str, f64, usize)> = Vec::new();
    let mut failures = Vec::new();
    for case in cases::small() {
        for (argument, error) in gradient_errors(&case) {
            match table.iter_mut().find(|row| (row.0, row.1) == (case.op, argument)) {
                Some(row) => (row.2, row.3) = (row.2.max(error), row.3 + 1),
                None => table.push((case.op, argument, error, 1)),
            }
            if error.is_nan() || error > GRADIENT {
                failures.push(format!("{} {}: d{argument} is off by {error:.1e}", case.op, case.label));
            }
        }
    }
    let line = |(op, argument, error, shapes): &(&str, &str, f64, usize)| {
        format!("gradient {op:<14} {argument:<12} worst relative error {error:.1e}  ({shapes} cases)\n")
    };
    let text: String = table.iter().map(line).collect();
    // Not through `eprint!`, which the test harness would keep to itself.
    let _ = std::io::stderr().write_all(format!("\n{text}").as_bytes());
    assert!(failures.is_empty(), "limit {GRADIENT:e}:\n  {}", failures.join("\n  "));
}

#[test]
fn every_op_has_a_case() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/ops");
    let (small, large) = (cases::small(), cases::vit_b());
    for entry in std::fs::read_dir(folder).expect("src/ops") {
        let entry = entry.expect("an entry");
        if !entry.file_type().expect("a type").is_dir() {
            continue;
        }
        let name = entry.file_name().into_string().expect("a name");
        for (which, cases) in [("tests", &small), ("benchmarks", &large)] {
            assert!(cases.iter().any(|c| c.op == name), "{name} has no case for {which}");
        }
    }
}

/// In f64 an op and the naive loops of `testing::plain` differ by the order of sums only.
#[test]
fn f64_agrees_with_plain_code() {
    let mut compared = 0;
    for case in cases::small().into_iter().chain(cases::wide()) {
        let Some(plain) = &case.plain else { continue };
        let data = case.data(SEED, DType::F64);
        let (outputs, grads) = (plain.f64)(&values(&data.inputs), &values(&data.upstream));
        let wanted: Vec<Vec<f64>> = outputs.into_iter().chain(grads).collect();
        let got = everything(&case, &data);
        // What plain code does not compute is left out at the end.
        for ((name, got), wanted) in case.names().iter().zip(&got).zip(&wanted) {
            let error = close::relative_error(got, wanted);
            // Differences to a mean of 1000 lose three digits of sixteen.
            let limit = if case.label.contains("mean 1000") { 1e-10 } else { 1e-12 };
            assert!(error <= limit, "{} {} {name}: {error:.1e}", case.op, case.label);
            compared += 1;
        }
    }
    assert!(compared > 80, "{compared} arrays compared");
}

/// What plain code gives in f32, and the exact values where there is none.
fn plain_f32(case: &Case, data: &Data, exact: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let mut all = exact.to_vec();
    if let Some(plain) = &case.plain {
        let narrow = |t: &[Tensor]| -> Vec<Vec<f32>> {
            values(t).iter().map(|v| v.iter().map(|&x| x as f32).collect()).collect()
        };
        let (outputs, grads) = (plain.f32)(&narrow(&data.inputs), &narrow(&data.upstream));
        for (all, plain) in all.iter_mut().zip(outputs.iter().chain(&grads)) {
            *all = plain.iter().map(|&x| f64::from(x)).collect();
        }
    }
    all
}

/// In f32 an op is at most a few times as wrong as plain code in f32, and one ulp of the scale.
/// Where nothing is summed there is no plain version, and one ulp it is.
#[test]
fn f32_is_as_exact_as_plain_code() {
    let mut worst = (0.0, String::new());
    for case in cases::small().into_iter().chain(cases::wide()) {
        let (data, wide) = (case.data(SEED, DType::F32), case.data(SEED, DType::F64));
        let (got, exact) = (everything(&case, &data), everything(&case, &wide));
        let plain = plain_f32(&case, &data, &exact);
        for (i, name) in case.names().iter().enumerate() {
            let budget = Budget::f32(&got[i], &plain[i], &exact[i], TIMES);
            let text = format!("{} {} {name}", case.op, case.label);
            assert!(budget.holds(), "{text}: off by {:.2e}, allowed {:.2e}", budget.error, budget.allowed);
            if budget.error / budget.allowed > worst.0 {
                worst = (budget.error / budget.allowed, text);
            }
        }
    }
    println!("f32: at most {:.2} of the allowed error ({})", worst.0, worst.1);
}

/// What is added to starts from anything; what is overwritten starts as NaN in every run.
#[test]
fn results_are_added_to_what_was_there() {
    let mut seen = 0;
    for case in cases::small() {
        let data = case.data(SEED, DType::F64);
        let zero_based = everything(&case, &data);
        let base = |i: usize, shape| super::random(900 + i as u64, shape, DType::F64);
        let whole = |t: Tensor| {
            let values: Vec<f64> = t.to_f64().iter().map(|v| (v * 100.0).abs().floor()).collect();
            Tensor::from_f64(&values, t.shape(), DType::U32)
        };
        let start = |(i, o): (usize, &cases::Out)| {
            if o.role == Role::Ids { whole(base(i, o.shape)) } else { base(i, o.shape) }
        };
        let outputs: Vec<Tensor> = case.outputs.iter().enumerate().map(start).collect();
        let grads: Vec<Tensor> =
            (case.grads.iter().enumerate()).map(|(i, g)| base(50 + i, case.inputs[g.input].shape)).collect();
        let kept = case.run_forward(&On::CPU, &data, None).expect("forward");
        let got = case.run_forward(&On::CPU, &data, Some(&outputs)).expect("forward");
        let dgot = case.run_backward(&On::CPU, &data, &kept, Some(&grads)).expect("backward");
        let writes = case.outputs.iter().map(|o| o.write).chain(case.grads.iter().map(|g| g.write));
        let starts = outputs.iter().chain(&grads);
        for ((((write, start), got), zero), name) in
            writes.zip(starts).zip(got.iter().chain(&dgot)).zip(&zero_based).zip(case.names())
        {
            if write == Write::Add && case.op != "gather" {
                let sum: Vec<f64> = start.to_f64().iter().zip(zero).map(|(a, b)| a + b).collect();
                let error = close::relative_error(&got.to_f64(), &sum);
                assert!(error < 1e-13, "{} {} {name}: {error:.1e}", case.op, case.label);
                seen += 1;
            }
        }
    }
    assert!(seen > 30, "{seen} arrays");
}

#[test]
fn twice_and_on_any_number_of_threads_bitwise() {
    for dtype in [DType::F32, DType::F64] {
        for case in cases::small().iter().chain(&cases::medium()).chain(&cases::wide()) {
            let data = case.data(SEED, dtype);
            let first = everything(case, &data);
            for threads in [1, 2, 3] {
                let again = on_threads(threads, || everything(case, &data));
                for ((a, b), name) in first.iter().zip(&again).zip(case.names()) {
                    let text = format!("{} {} {name} in {dtype:?}", case.op, case.label);
                    assert!(close::same_bits(a, b), "{text} differs on {threads} threads");
                }
            }
        }
    }
}

/// An image's (or row's) results have the same bits whatever else is in the batch.
#[test]
fn results_do_not_depend_on_the_batch() {
    let mut compared = 0;
    for dtype in [DType::F32, DType::F64] {
        for case in cases::small().iter().chain(&cases::medium()).chain(&cases::wide()) {
            compared += batches::compare(&On::CPU, case, &case.data(SEED, dtype));
        }
    }
    assert!(compared > 500, "{compared} arrays compared");
}
