//! Throughput of every op at the shapes of ViT-B/16 with 40 prompt tokens and a batch of four, and of
//! whole steps of two networks: `cargo bench --bench ops`. Rows come from `src/testing/cases.rs`.
//!
//! Where products are the work a row counts floating-point operations (`Gelem/s` is GFLOP/s),
//! elsewhere bytes read and written, pass by pass. In-place ops include the copy that keeps their
//! input; it is counted.

use criterion::{Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use l2p_engine::config::schema::Config;
use l2p_engine::device::Device;
use l2p_engine::network::{Model, Setup, TaskView};
use l2p_engine::nn::vit::Dims;
use l2p_engine::ops::gelu::GeluForm;
use l2p_engine::optim::Optimizer;
use l2p_engine::rng::{Rng, Stream};
use l2p_engine::tensor::plan::Plan;
use l2p_engine::tensor::{DType, Tensor};
use l2p_engine::testing::cases::{self, Case, Data, PassCost, Role};
use std::hint::black_box;
use std::time::Duration;

/// Bytes of work are those of f32.
fn throughput(work: PassCost, float: DType) -> Throughput {
    match work.flops {
        0 => Throughput::Bytes((work.bytes * float.size_bytes() / DType::F32.size_bytes()) as u64),
        flops => Throughput::Elements(flops as u64),
    }
}

fn zeros<'a>(of: impl Iterator<Item = (&'a l2p_engine::tensor::Shape, DType)>) -> Vec<Tensor> {
    of.map(|(&shape, dtype)| Tensor::zeros(shape, dtype)).collect()
}

/// Checks run in f64, and both forms of GELU are measured in it.
fn dtypes(case: &Case) -> &'static [DType] {
    let gelu = case.op == "gelu" || case.label.contains("gelu");
    if gelu { &[DType::F32, DType::F64] } else { &[DType::F32] }
}

fn ops(c: &mut Criterion) {
    for case in cases::vit_b() {
        for &dtype in dtypes(&case) {
            op(c, &case, dtype);
        }
    }
}

/// Values as in a network, where a layer's outputs have about the size of its inputs: far out in the tails of the
/// activations gradients would be subnormal numbers, and products of those are what would be measured.
fn inputs_of(case: &Case, float: DType) -> Data {
    let mut data = case.data(1, float);
    if let Some(kernel) = case.inputs.iter().position(|input| input.name == "kernel") {
        let shape = case.inputs[kernel].shape;
        let scale = 1.0 / (shape.dims()[0] as f64).sqrt();
        let values: Vec<f64> = data.inputs[kernel].to_f64().iter().map(|v| v * scale).collect();
        data.inputs[kernel] = Tensor::from_f64(&values, shape, float);
    }
    data
}

fn op(c: &mut Criterion, case: &Case, float: DType) {
    let mut group = c.benchmark_group(case.op);
    group.sample_size(10).sampling_mode(SamplingMode::Flat);
    let label = if float == DType::F32 { case.label.clone() } else { format!("{} {float:?}", case.label) };
    let data = inputs_of(case, float);
    let inputs: Vec<_> = data.inputs.iter().map(Tensor::view).collect();
    let upstream: Vec<_> = data.upstream.iter().map(Tensor::view).collect();
    let dtype = |role| if role == Role::Ids { DType::U32 } else { float };
    let mut outputs = zeros(case.outputs.iter().map(|o| (&o.shape, dtype(o.role))));
    group.throughput(throughput(case.forward_work, float));
    group.bench_function(format!("{label} forward"), |b| {
        b.iter(|| {
            let views = outputs.iter_mut().map(Tensor::view_mut).collect();
            (case.forward)(&Device::Cpu, &inputs, views).expect("forward");
            black_box(&outputs);
        });
    });
    let Some(backward) = &case.backward else { return };
    let outputs: Vec<_> = outputs.iter().map(Tensor::view).collect();
    let mut grads = zeros(case.grads.iter().map(|g| (&case.inputs[g.input].shape, float)));
    group.throughput(throughput(case.backward_work, float));
    group.bench_function(format!("{label} backward"), |b| {
        b.iter(|| {
            let views = grads.iter_mut().map(Tensor::view_mut).collect();
            backward(&Device::Cpu, &inputs, &outputs, &upstream, views).expect("backward");
            black_box(&grads);
        });
    });
}

fn step(c: &mut Criterion) {
    let gelu = GeluForm::Tanh;
    let dims = |image_size, patch_size, embed_dim, heads, layers| {
        let (mlp_dim, eps) = (4 * embed_dim, 1e-6);
        Dims { image_size, patch_size, embed_dim, heads, mlp_dim, layers, registers: 0, eps, gelu }
    };
    let mut group = c.benchmark_group("l2p step");
    group.sample_size(10).sampling_mode(SamplingMode::Flat);
    for (name, dims, batch) in
        [("micro batch 16", dims(28, 7, 64, 4, 6), 16), ("S16 batch 2", dims(224, 16, 384, 6, 12), 2)]
    {
        let (config, mut plan) = (Config::default(), Plan::new());
        let setup = Setup::new(&config, dims, 10, batch).expect("a valid setup");
        let mut model = Model::new(setup, &mut plan);
        let mut rng = Rng::new(1, Stream::Test, 0);
        for id in model.params.ids() {
            let spec = model.params.spec(id);
            let one = if spec.name.ends_with("scale") { 1.0 } else { 0.0 };
            let values: Vec<f32> =
                (0..spec.shape.len()).map(|_| one + 0.04 * (rng.uniform() - 0.5)).collect();
            model.params.set_f32(id, &values).expect("values");
        }
        let mut optimizer = Optimizer::new(&mut plan, &model.params, &config.optim);
        let side = dims.image_size;
        let pixels: Vec<f32> = (0..batch * side * side * 3).map(|_| rng.uniform()).collect();
        let images = Tensor::from_vec(pixels, [batch, side, side, 3]);
        let labels = Tensor::from_vec((0..batch as u32).map(|i| i % 10).collect(), [batch]);
        let task = TaskView { index: 0, mask: vec![true; 10], rank_fraction: 1.0 };
        // Images.
        group.throughput(Throughput::Elements(batch as u64));
        group.bench_function(name, |b| {
            b.iter(|| {
                let dev = Device::Cpu;
                model.step(&dev, images.view(), labels.view(), &task).expect("a step");
                let (params, grads) = (&mut model.params, &model.grads);
                optimizer.step(&dev, params, grads, model.report.squares(), 1e-3).expect("an update");
            });
        });
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .without_plots()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_millis(1200));
    targets = ops, step
}
criterion_main!(benches);
