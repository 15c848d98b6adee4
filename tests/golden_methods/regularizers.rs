//! EWC and LwF: whole trajectories of the published code through the method as a run drives it.

use super::common::npz::{Array, Npz};
use super::common::{absolute_error, official};
use super::{DEV, Report, cases, count, images, labels, model_of, npz, number};
use l2p_engine::config::schema::{Classifier, Config, Method as Name, OptimizerName, Precision};
use l2p_engine::methods::{self, Method, Moment, Pass, Ranks, Shown};
use l2p_engine::network::{StepStats, TaskView};
use l2p_engine::output::checkpoint::TensorData;
use l2p_engine::prompts::PromptChoice;
use l2p_engine::tensor::Tensor;
use l2p_engine::tensor::plan::Plan;
use serde_json::Value;

/// A method of the published settings, and its data.
struct Run {
    method: Box<dyn Method>,
    data: Npz,
    sizes: Vec<usize>,
    batch: usize,
    epochs: usize,
    rate: f64,
    report: Report,
}

impl Run {
    fn new(key: &str, name: Name, settings: impl FnOnce(&mut Config, &Value)) -> Run {
        let all = cases();
        let about = &all[key];
        let (of, data) = (&about["config"], npz(about["file"].as_str().expect("a file")));
        let mut config = Config { precision: Precision::F64, method: name, ..Config::default() };
        config.prompt_pool.pool_size = 0;
        config.model.vit_classifier = Classifier::Token;
        config.model.freeze_part.clear();
        assert_eq!(of["optimizer"], "sgd");
        (config.optim.optim, config.optim.sgd_momentum) = (OptimizerName::Sgd, number(of, "momentum"));
        (config.optim.learning_rate, config.optim.lr_batch) = (number(of, "learning_rate"), 0);
        (config.optim.grad_clip_max_norm, config.optim.weight_decay) = (0.0, 0.0);
        (config.train.num_epochs, config.continual.train_mask) = (count(of, "epochs"), false);
        settings(&mut config, of);
        let sizes: Vec<usize> = serde_json::from_value(of["classes_per_task"].clone()).expect("sizes");
        config.continual.num_tasks = sizes.len();
        let largest = (0..sizes.len()).map(|t| data.get(&format!("in/task{t}/label")).data.len()).max();
        let room = largest.expect("a task");
        let mut model = model_of(&config, &all, about, count(of, "num_classes"), room);
        official::load(&mut model, &data, "param0/", false);
        let batch = count(of, "batch_size");
        let method = methods::build(&config, model, &mut Plan::new(), &Ranks::alone(batch));
        let (epochs, rate) = (config.train.num_epochs, config.optim.learning_rate);
        Run { method, data, sizes, batch, epochs, rate, report: Report::default() }
    }

    fn classes(&self, t: usize) -> Vec<u32> {
        let first: usize = self.sizes[..t].iter().sum();
        (first..first + self.sizes[t]).map(|k| k as u32).collect()
    }

    fn view(&self, t: usize, mask: impl Fn(u32) -> bool) -> TaskView {
        let all = self.method.model().setup.classes as u32;
        TaskView { index: t, mask: (0..all).map(mask).collect(), rank_fraction: 1.0 }
    }

    /// Images, labels and positions of each batch of a task in stored order, the last one with what is left.
    fn batches(&self, t: usize) -> Vec<(Tensor, Tensor, Vec<u32>)> {
        let (x, y) =
            (self.data.get(&format!("in/task{t}/image_u8")), self.data.get(&format!("in/task{t}/label")));
        let n = y.data.len();
        let part = |array: &Array, from: usize, to: usize| {
            let mut shape = array.shape.clone();
            let each: usize = shape[1..].iter().product();
            shape[0] = to - from;
            Array { shape, data: array.data[from * each..to * each].to_vec(), dtype: array.dtype.clone() }
        };
        (0..n)
            .step_by(self.batch)
            .map(|from| {
                let to = (from + self.batch).min(n);
                let positions = (from..to).map(|i| 1000 * t as u32 + i as u32).collect();
                (images(&part(x, from, to)), labels(&part(y, from, to)), positions)
            })
            .collect()
    }

    /// What is stored below `prefix`, with where it lies in the engine.
    fn stored(&self, prefix: &str) -> Vec<(String, official::Place, Vec<f64>)> {
        let c = self.method.model().setup.dims.embed_dim;
        let arrays = self.data.arrays.iter().filter_map(|(name, array)| {
            let path = name.strip_prefix(prefix)?;
            Some((name.clone(), official::place(path, c, array.data.len()), array.data.clone()))
        });
        let found: Vec<_> = arrays.collect();
        assert!(!found.is_empty(), "{prefix}: nothing is stored");
        found
    }

    /// Compares what is stored below `prefix` with `values` of the engine's parameters, over the largest value of all.
    fn compare(&mut self, prefix: &str, values: impl Fn(&str) -> Vec<f64>) -> usize {
        let stored = self.stored(prefix);
        let largest = stored.iter().flat_map(|(.., wanted)| wanted).fold(0f64, |m, v| m.max(v.abs()));
        for (name, place, wanted) in &stored {
            let got = official::extract(place, &values(&place.name));
            self.report.check(name, absolute_error(&got, wanted) / largest);
        }
        stored.len()
    }

    fn parameters(&mut self, prefix: &str) -> usize {
        let params = self.method.model().params.clone();
        self.compare(prefix, |name| params.get(params.find(name).expect(name)).to_f64())
    }

    fn gradients(&mut self, prefix: &str) -> usize {
        let model = self.method.model();
        let (params, flat) = (model.params.clone(), model.grads.trainable.to_f64());
        let of = |name: &str| {
            let spec = params.spec(params.find(name).expect(name)).clone();
            flat[spec.offset..spec.offset + spec.shape.len()].to_vec()
        };
        self.compare(prefix, of)
    }

    /// A tensor of the method's state.
    fn saved(&self, name: &str) -> Vec<f64> {
        let state = self.method.state().expect("a state");
        let found = state.into_iter().find(|(n, ..)| n == name).unwrap_or_else(|| panic!("no {name}"));
        match found.2 {
            TensorData::F64(values) => values,
            _ => panic!("{name} is not in f64"),
        }
    }

    fn value(&mut self, what: &str, s: usize, got: f64) {
        let wanted = self.data.get(what).data[s];
        self.report.array(&format!("{what} of step {s}"), &[got], &[wanted]);
    }

    /// The steps of a task; `see` is told of each before the next.
    fn learn(
        &mut self,
        t: usize,
        view: &TaskView,
        mut before: impl FnMut(&mut Run, usize),
        mut see: impl FnMut(&mut Run, usize, StepStats),
    ) {
        let batches = self.batches(t);
        let stored = self.data.get(&format!("out/task{t}/loss")).data.len();
        assert_eq!(stored, self.epochs * batches.len(), "steps of task {t}");
        for s in 0..stored {
            let (x, y, positions) = &batches[s % batches.len()];
            before(self, s);
            self.method.next_images(positions).expect("known images");
            let stats = self.method.step(&DEV, x.view().into(), y.view(), view, self.rate).expect("a step");
            assert_eq!(stats.len(), 1);
            see(self, s, stats[0]);
        }
    }

    /// Shows the batches of a task as a pass asks for them.
    fn show(&mut self, t: usize, pass: Pass, view: &TaskView) {
        let epochs = if let Pass::WarmUp { epochs } = pass { epochs } else { 1 };
        for _ in 0..epochs {
            for (x, y, positions) in self.batches(t) {
                let shown = Shown { images: x.view().into(), labels: y.view(), positions: &positions };
                self.method.observe(&DEV, pass, shown, view).expect("a look");
            }
        }
    }

    /// Nothing may change if a task is ended a second time.
    fn end(&mut self, t: usize) {
        self.method.end_task(&DEV).expect("an end");
        let before = self.method.state().expect("a state");
        assert!(self.method.passes(t, Moment::AfterSteps).expect("passes").is_empty());
        self.method.end_task(&DEV).expect("an end");
        assert_eq!(self.method.state().expect("a state"), before, "the second end of task {t}");
    }
}

#[test]
fn ewc() {
    let mut lambda = 0.0;
    let mut run = Run::new("ewc", Name::Ewc, |config, of| {
        assert_eq!(of["class_mask_in_loss"], false);
        (config.ewc.lambda, config.ewc.gamma) = (number(of, "e_lambda"), number(of, "gamma"));
        lambda = config.ewc.lambda;
    });
    for t in 0..run.sizes.len() {
        let view = run.view(t, |_| true);
        run.method.begin_task(&view, &run.classes(t)).expect("a task");
        assert!(run.method.passes(t, Moment::BeforeSteps).expect("passes").is_empty());
        let before = |run: &mut Run, s: usize| {
            let prefix = format!("out/task{t}/penalty_grad_step{}/", s + 1);
            if run.data.arrays.keys().any(|name| name.starts_with(&prefix)) {
                let [f, a, w] = ["importance", "anchor", "params"].map(|word| {
                    let of = |name: &str| run.saved(&format!("{word}/{name}"));
                    run.stored(&prefix).iter().map(|(_, place, _)| of(&place.name)).collect::<Vec<_>>()
                });
                let names: Vec<String> =
                    run.stored(&prefix).into_iter().map(|(_, place, _)| place.name).collect();
                let gradient = |name: &str| {
                    let i = names.iter().position(|n| n == name).expect(name);
                    let away = w[i].iter().zip(&a[i]).map(|(w, a)| w - a);
                    away.zip(&f[i]).map(|(d, f)| 2.0 * lambda * f * d).collect()
                };
                assert!(run.compare(&prefix, gradient) > 0);
            }
        };
        run.learn(t, &view, before, |run, s, stats| {
            run.value(&format!("out/task{t}/loss"), s, stats.ce_loss);
            let penalty = lambda * stats.pull;
            run.value(&format!("out/task{t}/penalty"), s, penalty);
            run.report.array("the whole loss", &[stats.loss], &[stats.ce_loss + penalty]);
            let prefix = format!("out/task{t}/grad_step{}/", s + 1);
            if run.data.arrays.keys().any(|name| name.starts_with(&prefix)) {
                run.gradients(&prefix);
            }
        });
        assert_eq!(run.method.passes(t, Moment::AfterSteps).expect("passes"), [Pass::Augmented]);
        run.show(t, Pass::Augmented, &view);
        run.end(t);
        let learned = run.parameters(&format!("out/task{t}/end/"));
        let state = run.method.state().expect("a state");
        let importance = |name: &str| {
            let name = format!("importance/{name}");
            match state.iter().find(|(n, ..)| *n == name) {
                Some((_, _, TensorData::F64(values))) => values.clone(),
                _ => panic!("no {name}"),
            }
        };
        assert_eq!(run.compare(&format!("out/task{t}/fisher/"), importance), learned, "arrays of task {t}");
        let x = images(run.data.get("in/task0/image_u8"));
        let none = PromptChoice::nothing();
        let logits = run.method.logits(&DEV, x.view().into(), x.view(), &none).expect("logits").to_f64();
        let what = format!("out/task{t}/logits");
        let wanted = run.data.get(&what).data.clone();
        run.report.array(&what, &logits, &wanted);
    }
    run.report.finish("ewc");
}

#[test]
fn lwf() {
    let mut run = Run::new("lwf", Name::Lwf, |config, of| {
        (config.lwf.alpha, config.lwf.temperature) = (number(of, "alpha"), number(of, "temperature"));
        config.lwf.warmup_epochs = count(of, "warmup_epochs");
    });
    for t in 0..run.sizes.len() {
        let classes = run.classes(t);
        let seen = *classes.last().expect("classes");
        let view = run.view(t, |k| k <= seen);
        run.method.begin_task(&view, &classes).expect("a task");
        let passes = run.method.passes(t, Moment::BeforeSteps).expect("passes");
        assert_eq!(passes.is_empty(), t == 0);
        for pass in passes {
            match pass {
                Pass::WarmUp { .. } => {
                    let frozen = run.saved("params/block_0/qkv/kernel");
                    let own = run.view(t, |k| classes.contains(&k));
                    run.show(t, pass, &own);
                    run.parameters(&format!("out/task{t}/after_warmup/"));
                    assert_eq!(run.saved("params/block_0/qkv/kernel"), frozen, "the head alone learns");
                }
                Pass::Plain => {
                    run.show(t, pass, &view);
                    let what = format!("out/task{t}/teacher_logits");
                    let got = run.saved("state/answers of the teacher");
                    let wanted = run.data.get(&what).data.clone();
                    run.report.array(&what, &got, &wanted);
                }
                Pass::Augmented | Pass::Adapt { .. } => panic!("LwF wants no {pass:?}"),
            }
        }
        run.learn(
            t,
            &view,
            |_, _| (),
            |run, s, stats| {
                run.value(&format!("out/task{t}/ce_loss"), s, stats.ce_loss);
                run.value(&format!("out/task{t}/loss"), s, stats.loss);
                let prefix = format!("out/task{t}/grad_step{}/", s + 1);
                if run.data.arrays.keys().any(|name| name.starts_with(&prefix)) {
                    run.gradients(&prefix);
                }
            },
        );
        run.end(t);
        run.parameters(&format!("out/task{t}/end/"));
    }
    run.report.finish("lwf");
}
