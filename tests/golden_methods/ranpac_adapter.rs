//! Phase 1 of RanPAC: the published code's steps, and the features and sums that follow.

use super::common::{absolute_error, official};
use super::{DEV, Report, cases, count, images, labels, model_of, npz, number};
use l2p_engine::config::schema::{Classifier, Config, Method as Name, OptimizerName, Precision, Schedule};
use l2p_engine::methods::ranpac::{Projection, Ridge};
use l2p_engine::methods::{self, Method, Moment, Pass, Ranks, Shown};
use l2p_engine::network::TaskView;
use l2p_engine::optim::schedule::LearningRate;
use l2p_engine::tensor::plan::Plan;
use l2p_engine::tensor::{DType, Tensor};

/// Where a stored array of what learns lies in the engine.
fn own(stored: &str) -> String {
    match stored {
        "head" => "adapter/head/kernel".into(),
        "sigma" => "adapter/head/sigma".into(),
        other => other.into(),
    }
}

fn parameter(method: &dyn Method, name: &str) -> Vec<f64> {
    let params = &method.model().params;
    params.get(params.find(name).unwrap_or_else(|| panic!("no parameter {name}"))).to_f64()
}

#[test]
fn phase_1() {
    let all = cases();
    let about = &all["ranpac_adapter"];
    let (of, data) = (&about["config"], npz(about["file"].as_str().expect("a file")));
    let mut config = Config { precision: Precision::F64, method: Name::Ranpac, ..Config::default() };
    config.prompt_pool.pool_size = 0;
    config.model.vit_classifier = Classifier::Token;
    config.model.freeze_part = ["encoder", "embedding", "cls"].map(String::from).to_vec();
    config.ranpac.random_features = count(of, "random_features");
    (config.ranpac.adapter_width, config.ranpac.adapter_scale) =
        (count(of, "bottleneck"), number(of, "scale"));
    (config.ranpac.adapter_dropout, config.ranpac.adapter_epochs) = (0.0, count(of, "epochs"));
    assert_eq!((&of["optimizer"], &of["schedule"]), (&"sgd".into(), &"cosine_annealing".into()));
    (config.optim.optim, config.optim.nesterov) = (OptimizerName::Sgd, false);
    (config.optim.sgd_momentum, config.optim.weight_decay) =
        (number(of, "momentum"), number(of, "weight_decay"));
    (config.optim.learning_rate, config.optim.lr_batch) = (number(of, "learning_rate"), 0);
    config.optim.learning_rate_schedule = Schedule::CosineEpoch;
    (config.optim.grad_clip_max_norm, config.optim.warmup_epochs) = (0.0, 0.0);
    let (classes, batch) = (count(of, "num_classes"), count(of, "batch_size"));
    let (x, y) = (data.get("in/image_u8"), data.get("in/label"));
    let n = y.data.len();

    let mut model = model_of(&config, &all, about, classes, n);
    let c = model.setup.dims.embed_dim;
    model.init_prompts(config.seed).expect("initial values");
    let learns = |path: &str| path.starts_with("adapter/") || path == "head";
    for (path, array) in &data.arrays {
        let Some(path) = path.strip_prefix("param0/") else { continue };
        let place = match learns(path) {
            true => official::Place {
                name: own(path),
                stride: array.data.len(),
                column: 0,
                width: array.data.len(),
            },
            false => official::place(path, c, array.data.len()),
        };
        let id = model.params.find(&place.name).unwrap_or_else(|| panic!("no parameter for {path}"));
        let mut values = model.params.get(id).to_f64();
        for (row, source) in values.chunks_exact_mut(place.stride).zip(array.data.chunks_exact(place.width)) {
            row[place.column..][..place.width].copy_from_slice(source);
        }
        model.params.set(id, &values).expect("values");
    }
    let mut method = methods::build(&config, model, &mut Plan::new(), &Ranks::alone(batch));
    let mut report = Report::default();
    let all_images = images(x);
    let features = method.query(&DEV, all_images.view().into()).expect("features").to_f64();
    report.array("features before", &features, &data.get("out/features_before").data);

    let task = TaskView { index: 0, mask: vec![true; classes], rank_fraction: 1.0 };
    method.begin_task(&task, &[0, 1, 2]).expect("a task");
    let passes = method.passes(0, Moment::BeforeSteps).expect("passes");
    assert_eq!(passes, [Pass::Adapt { epochs: config.ranpac.adapter_epochs }]);
    assert!(method.passes(1, Moment::BeforeSteps).expect("passes").is_empty(), "the first task alone");
    let per_epoch = n.div_ceil(batch);
    let rate = LearningRate::new(&config.optim, batch, per_epoch, config.ranpac.adapter_epochs);
    let (losses, rates) = (&data.get("out/loss").data, &data.get("out/learning_rate").data);
    assert_eq!(losses.len(), per_epoch * config.ranpac.adapter_epochs);
    let grads = data.arrays.iter().filter_map(|(name, array)| Some((name.strip_prefix("grad/")?, array)));
    let grads: Vec<_> = grads.collect();
    let before: Vec<Vec<f64>> =
        grads.iter().map(|(name, _)| parameter(method.as_ref(), &own(name))).collect();
    method.begin_pass(passes[0], per_epoch);
    let each = x.data.len() / n;
    for (s, (loss, wanted)) in losses.iter().zip(rates).enumerate() {
        let from = s % per_epoch * batch;
        let to = (from + batch).min(n);
        let part = |array: &super::Array, each: usize| {
            let mut shape = array.shape.clone();
            shape[0] = to - from;
            super::Array {
                shape,
                data: array.data[from * each..to * each].to_vec(),
                dtype: array.dtype.clone(),
            }
        };
        let (x, y) = (images(&part(x, each)), labels(&part(y, 1)));
        let positions: Vec<u32> = (from as u32..to as u32).collect();
        let shown = Shown { images: x.view().into(), labels: y.view(), positions: &positions };
        method.observe(&DEV, passes[0], shown, &task).expect("a step");
        let stats = method.model().step_stats().expect("numbers");
        report.array(&format!("loss of step {s}"), &[stats.ce_loss], &[*loss]);
        report.array(&format!("learning rate of step {s}"), &[rate.at(s + 1)], &[*wanted]);
        if s > 0 {
            continue;
        }
        let largest = grads.iter().flat_map(|(_, array)| &array.data).fold(0f64, |m, v| m.max(v.abs()));
        for ((name, array), before) in grads.iter().zip(&before) {
            let model = method.model();
            let id = model.params.find(&own(name)).expect("a parameter");
            let got = model.grads.get(&model.params, id).expect("a gradient").to_f64();
            // Theirs is without the decay, which their optimizer adds.
            let pairs = got.iter().zip(before);
            let got: Vec<f64> = pairs.map(|(g, w)| g - config.optim.weight_decay * w).collect();
            report.check(&format!("grad/{name}"), absolute_error(&got, &array.data) / largest);
        }
    }
    for (name, array) in &data.arrays {
        let Some(stored) = name.strip_prefix("out/") else { continue };
        if learns(stored) || stored == "sigma" {
            report.array(name, &parameter(method.as_ref(), &own(stored)), &array.data);
        }
    }
    let features = method.query(&DEV, all_images.view().into()).expect("features");
    report.array("features", &features.to_f64(), &data.get("out/features").data);
    // The network as it was pre-trained is still there, for baselines.
    let plain = method.features(&DEV, all_images.view().into()).expect("features").to_f64();
    assert_ne!(plain, features.to_f64());

    let w = data.get("in/W_rand");
    let w = Tensor::from_f64(&w.data, w.shape.as_slice(), DType::F64);
    let m = w.dims()[1];
    let mut ridge = Ridge::on_host(Projection::given(w), config.ranpac.lambdas.clone(), classes, DType::F64);
    ridge.add_task(features.view(), &y.u32s()).expect("a solution");
    let sums = ridge.sums.expect("sums").gram.to_f64();
    let lower =
        |gram: &[f64]| -> Vec<f64> { (0..m).flat_map(|i| gram[i * m..=i * m + i].to_vec()).collect() };
    report.array("gram", &lower(&sums), &lower(&data.get("out/gram").data));
    report.finish("ranpac_adapter");
}
