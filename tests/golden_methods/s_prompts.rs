//! S-Prompts: the training of every domain, k-means of its queries, the choice of a domain and the answers.

use super::common::npz::{Array, Npz};
use super::common::{absolute_error, official};
use super::{DEV, Report, cases, count, images, labels, model_of, npz, number};
use l2p_engine::config::schema::{Classifier, Config, Method, OptimizerName, Precision, Schedule};
use l2p_engine::network::{Model, TaskView};
use l2p_engine::ops::match_prompts::Select;
use l2p_engine::optim::Optimizer;
use l2p_engine::optim::schedule::LearningRate;
use l2p_engine::prompts::{PromptChoice, k_means};
use l2p_engine::rng::{Rng, Stream};
use l2p_engine::tensor::plan::Plan;
use l2p_engine::train::evaluate::argmax;
use serde_json::Value;

fn config(of: &Value) -> Config {
    let mut config = Config { precision: Precision::F64, method: Method::SPrompts, ..Config::default() };
    config.prompt_pool.pool_size = 0;
    config.model.vit_classifier = Classifier::Token;
    config.continual.num_tasks = count(of, "num_domains");
    config.s_prompts.length = count(of, "prompt_length");
    config.s_prompts.centres = count(of, "centres_per_domain");
    config.s_prompts.later_weight_decay = number(of, "weight_decay_later");
    assert_eq!((&of["optimizer"], &of["schedule"]), (&"sgd".into(), &"cosine_annealing".into()));
    let optim = &mut config.optim;
    (optim.optim, optim.learning_rate_schedule) = (OptimizerName::Sgd, Schedule::CosineEpoch);
    (optim.sgd_momentum, optim.nesterov) = (number(of, "momentum"), of["nesterov"] == true);
    (optim.learning_rate, optim.lr_batch) = (number(of, "learning_rate"), 0);
    (optim.weight_decay, optim.grad_clip_max_norm) = (number(of, "weight_decay_first_domain"), 0.0);
    config.train.num_epochs = count(of, "epochs");
    config
}

/// The parameters of a domain: their names in the fixtures and in the engine.
const LEARNED: [(&str, &str); 3] =
    [("prompt", "s_prompts/prompt"), ("head/kernel", "head/kernel"), ("head/bias", "head/bias")];

/// The part of a parameter, or of its gradient, that is domain `t` of `domains`.
fn part(all: &[f64], t: usize, domains: usize) -> &[f64] {
    let each = all.len() / domains;
    &all[t * each..(t + 1) * each]
}

fn parameter(model: &Model, name: &str) -> Vec<f64> {
    model.params.get(model.params.find(name).expect("a parameter")).to_f64()
}

fn load(model: &mut Model, data: &Npz, domains: usize) {
    for (stored, name) in LEARNED {
        let each = (0..domains).flat_map(|t| data.get(&format!("param0/domain{t}/{stored}")).data.clone());
        let (id, values) = (model.params.find(name).expect("a parameter"), each.collect::<Vec<f64>>());
        model.params.set(id, &values).expect("values of the right length");
    }
}

fn unit_rows(values: &[f64], width: usize) -> Vec<f64> {
    let row = |row: &[f64]| {
        let length = row.iter().map(|v| v * v).sum::<f64>().sqrt();
        row.iter().map(|v| v / length).collect::<Vec<f64>>()
    };
    values.chunks_exact(width).flat_map(row).collect()
}

/// Learns domain `t` as the published code did.
fn learn(report: &mut Report, model: &mut Model, data: &Npz, config: &Config, t: usize) {
    let domains = config.continual.num_tasks;
    let mut optimizer = Optimizer::new(&mut Plan::new(), &model.params, &config.optim);
    let (x, y) = (data.get(&format!("in/domain{t}/image_u8")), data.get(&format!("in/domain{t}/label")));
    let (per_epoch, batch) = (y.shape[0], y.shape[1]);
    let rate = LearningRate::new(&config.optim, batch, per_epoch, config.train.num_epochs);
    let task = TaskView { index: t, mask: vec![true; model.setup.classes], rank_fraction: 1.0 };
    let before: Vec<Vec<f64>> = LEARNED.iter().map(|(_, name)| parameter(model, name)).collect();
    let decay = if t == 0 { config.optim.weight_decay } else { config.s_prompts.later_weight_decay };
    let (losses, rates) =
        (data.get(&format!("out/domain{t}/loss")), data.get(&format!("out/domain{t}/learning_rate")));
    assert_eq!(losses.data.len(), per_epoch * config.train.num_epochs, "steps of domain {t}");
    for (s, (loss, wanted)) in losses.data.iter().zip(&rates.data).enumerate() {
        let (x, y) = (images(&x.at(s % per_epoch)), labels(&y.at(s % per_epoch)));
        let stats = model.step(&DEV, x.view(), y.view(), &task).expect("a step");
        let lr = rate.at(s + 1);
        report.array(&format!("loss of step {s}"), &[stats.ce_loss], &[*loss]);
        report.array(&format!("learning rate of step {s}"), &[lr], &[*wanted]);
        if s == 0 {
            let stored = |(name, _): &(&str, &str)| data.get(&format!("grad/domain{t}/{name}")).data.clone();
            let stored: Vec<Vec<f64>> = LEARNED.iter().map(stored).collect();
            let largest = stored.iter().flatten().fold(0f64, |m, v| m.max(v.abs()));
            for (((name, own), before), wanted) in LEARNED.iter().zip(&before).zip(&stored) {
                let id = model.params.find(own).expect("a parameter");
                let all = model.grads.get(&model.params, id).expect("a gradient").to_f64();
                // Theirs is without the decay, which their optimizer adds.
                let got: Vec<f64> = part(&all, t, domains)
                    .iter()
                    .zip(part(before, t, domains))
                    .map(|(g, w)| g - decay * w)
                    .collect();
                report.check(&format!("grad/domain{t}/{name}"), absolute_error(&got, wanted) / largest);
                let others = (0..domains).filter(|&other| other != t);
                assert!(others.flat_map(|other| part(&all, other, domains)).all(|g| *g == 0.0), "{own}");
            }
        }
        let squares = model.report.squares();
        optimizer.step(&DEV, &mut model.params, &model.grads, squares, lr).expect("an update");
    }
    for ((name, own), before) in LEARNED.iter().zip(&before) {
        let now = parameter(model, own);
        let wanted = &data.get(&format!("out/domain{t}/{name}")).data;
        report.array(&format!("out/domain{t}/{name}"), part(&now, t, domains), wanted);
        for other in (0..domains).filter(|&other| other != t) {
            let [now, before] = [&now, before].map(|all| part(all, other, domains));
            assert_eq!(now, before, "{own} of domain {other} keeps its bits while domain {t} learns");
        }
    }
}

/// Queries of the images of a domain, and Lloyd's iteration from the stored start.
fn cluster(report: &mut Report, model: &mut Model, data: &Npz, t: usize) {
    let x = data.get(&format!("in/domain{t}/image_u8"));
    let mut queries = Vec::new();
    for batch in 0..x.shape[0] {
        queries.extend(model.query(&DEV, images(&x.at(batch)).view()).expect("queries").to_f64());
    }
    let stored = data.get(&format!("out/domain{t}/query"));
    let (rows, width) = (&stored.data, stored.shape[1]);
    report.array(&format!("out/domain{t}/query"), &unit_rows(&queries, width), rows);
    let kept = |name: &str| data.get(&format!("kmeans/domain{t}/{name}"));
    let found = k_means::lloyd(rows, width, kept("init").data.clone());
    report.array(&format!("centres of domain {t}"), &found.centres, &kept("centres_from_init").data);
    report.array(&format!("inertia of domain {t}"), &[found.inertia], &kept("inertia_from_init").data);
    assert_eq!(found.labels, kept("labels_from_init").u32s(), "clusters of domain {t}");
    // What the method makes of the same queries is a fixed point of the iteration, and better than its start.
    model.prompts.collect(&queries);
    model.prompts.end_task().expect("centres");
    let k = kept("init").shape[0];
    let state = model.prompts.state();
    let (_, centres) = state.iter().find(|(name, _)| *name == "centres").expect("centres");
    let own = part(&centres.to_f64(), t, model.prompts.domains().expect("domains").domains()).to_vec();
    let again = k_means::lloyd(rows, width, own.clone());
    report.array(&format!("own centres of domain {t}"), &again.centres, &own);
    let mut rng = Rng::new(model_seed(), Stream::Centres, t as u64);
    let start = k_means::plus_plus(rows, width, k, &mut rng);
    let at_start: f64 = rows
        .chunks_exact(width)
        .map(|row| {
            let squares = |c: &[f64]| c.iter().zip(row).map(|(c, q)| (c - q) * (c - q)).sum::<f64>();
            start.chunks_exact(width).map(squares).fold(f64::INFINITY, f64::min)
        })
        .sum();
    assert!(again.inertia < at_start, "domain {t}: {} from {at_start}", again.inertia);
}

/// The seed of a configuration that names none.
fn model_seed() -> u64 {
    Config::default().seed
}

fn put_centres(model: &mut Model, data: &Npz, domains: usize) {
    let centres = (0..domains).flat_map(|t| data.get(&format!("out/domain{t}/centres")).data.clone());
    let centres: Vec<f64> = centres.collect();
    for (name, tensor) in model.prompts.state_mut() {
        match name {
            "centres" => tensor.view_mut().write(&centres).expect("centres of this size"),
            _ => assert_eq!(tensor.view().read::<u32>().expect("a count"), [domains as u32], "{name}"),
        }
    }
}

fn test(report: &mut Report, model: &mut Model, data: &Npz, about: &Value) {
    let (domains, each) = (count(&about["config"], "num_domains"), model.setup.classes);
    let x = images(data.get("in/test/image_u8"));
    let query = model.query(&DEV, x.view()).expect("queries").clone();
    let width = query.dims()[1];
    let queries = query.to_f64();
    report.array("out/test/query", &unit_rows(&queries, width), &data.get("out/test/query").data);
    let method = model.prompts.domains().expect("domains");
    let distances: Vec<f64> =
        queries.chunks_exact(width).flat_map(|query| method.distances(query).expect("distances")).collect();
    report.array("out/test/l1", &distances, &data.get("out/test/l1").data);
    let choice = model.choose(&DEV, query.view(), Select::PerImage).expect("a choice");
    let wanted: Vec<u32> = data.get("out/test/domain").u32s();
    assert_eq!(choice, PromptChoice::ids(wanted.clone(), 1, domains), "domains");
    let logits = model.logits_with(&DEV, x.view(), &choice).expect("logits").to_f64();
    report.array("out/test/logits", &logits, &data.get("out/test/logits").data);
    let answers: Vec<u32> = logits.chunks_exact(each).map(|z| argmax(z) as u32).collect();
    assert_eq!(answers, data.get("out/test/predicted").u32s());
    let right = answers.iter().zip(data.get("in/test/label").u32s()).filter(|(a, b)| *a == b).count();
    let percent = 100.0 * right as f64 / answers.len() as f64;
    report.check("accuracy", (percent - number(about, "accuracy_percent")).abs());
    // Squared distances would choose other domains for some images: the test sees which of the two is taken.
    let euclidean = |query: &[f64]| {
        let of = |t: usize| {
            let centres: &Array = data.get(&format!("out/domain{t}/centres"));
            let squares = |c: &[f64]| c.iter().zip(query).map(|(c, q)| (c - q) * (c - q)).sum::<f64>();
            centres.data.chunks_exact(width).map(squares).fold(f64::INFINITY, f64::min)
        };
        let all: Vec<f64> = (0..domains).map(|t| -of(t)).collect();
        argmax(&all) as u32
    };
    let rows = data.get("out/test/query").data.chunks_exact(width);
    let differ: Vec<usize> =
        rows.zip(&wanted).enumerate().filter(|(_, (q, d))| euclidean(q) != **d).map(|(i, _)| i).collect();
    let listed: Vec<usize> =
        serde_json::from_value(about["test_images_whose_domain_differs_with_l2"].clone()).expect("a list");
    assert_eq!(differ, listed);
}

#[test]
fn s_prompts() {
    let all = cases();
    let about = &all["sprompts"];
    let (of, data) = (&about["config"], npz(about["file"].as_str().expect("a file")));
    assert_eq!(of["method"], "s_prompts");
    for shortcuts in [true, false] {
        let mut config = config(of);
        if !shortcuts {
            config.train.shortcuts.clear();
        }
        let domains = config.continual.num_tasks;
        let steps = data.get("in/domain0/label").shape[1];
        let batch = steps.max(data.get("in/test/label").shape[0]);
        let mut model = model_of(&config, &all, about, count(of, "classes_per_domain"), batch);
        official::load(&mut model, &npz(about["backbone"].as_str().expect("a backbone")), "", false);
        load(&mut model, &data, domains);
        let mut report = Report::default();
        for t in 0..domains {
            model.begin_task(t).expect("a task");
            learn(&mut report, &mut model, &data, &config, t);
            cluster(&mut report, &mut model, &data, t);
        }
        put_centres(&mut model, &data, domains);
        test(&mut report, &mut model, &data, about);
        report.finish(&format!("s_prompts{}", if shortcuts { "" } else { ", no shortcuts" }));
    }
}
