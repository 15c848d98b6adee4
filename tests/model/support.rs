//! Tiny models of every kind, with random weights that keep nothing at zero or one.

use l2p_engine::config::schema::*;
use l2p_engine::device::Device;
use l2p_engine::network::{Model, Setup, StepStats, TaskView};
use l2p_engine::nn::adapter::Dropout;
use l2p_engine::nn::vit::Dims;
use l2p_engine::ops::gelu::GeluForm;
use l2p_engine::optim::Optimizer;
use l2p_engine::rng::{Rng, Stream};
use l2p_engine::tensor::plan::Plan;
use l2p_engine::tensor::{DType, Tensor};

pub const DEV: Device = Device::Cpu;
pub const CLASSES: usize = 5;

/// A configuration and what it runs on.
#[derive(Clone)]
pub struct Kind {
    pub name: &'static str,
    pub config: Config,
    pub dims: Dims,
    pub label_smoothing: f64,
    pub task: usize,
}

pub fn dims(layers: usize) -> Dims {
    let (gelu, eps) = (GeluForm::Tanh, 1e-6);
    Dims {
        image_size: 8,
        patch_size: 4,
        embed_dim: 12,
        heads: 3,
        mlp_dim: 20,
        layers,
        registers: 0,
        eps,
        gelu,
    }
}

/// L2P with a vote over three images, one pool of prompt tokens in layer 0.
pub fn l2p(name: &'static str, change: impl FnOnce(&mut Config)) -> Kind {
    let mut config = Config { precision: Precision::F64, ..Config::default() };
    config.prompt_pool.pool_size = 6;
    config.prompt_pool.length = 2;
    config.prompt_pool.top_k = 2;
    config.prompt_pool.vote_group = 3;
    config.prompt_pool.pull_constraint_coeff = 0.7;
    change(&mut config);
    Kind { name, config, dims: dims(3), label_smoothing: 0.0, task: 0 }
}

fn dualprompt(c: &mut Config) {
    c.model.vit_classifier = Classifier::Token;
    c.prompt_pool.top_k = 1;
    c.prompt_pool.batchwise_prompt = false;
    c.prompt_pool.use_prefix_tune_for_e_prompt = true;
    c.prompt_pool.e_prompt_layer_idx = vec![1, 2];
    c.g_prompt.g_prompt_length = 3;
    c.g_prompt.g_prompt_layer_idx = vec![0, 1];
}

/// Three of seven components in each of two tasks; the seventh is never used.
fn coda(c: &mut Config) {
    c.method = Method::CodaPrompt;
    c.model.vit_classifier = Classifier::Token;
    c.prompt_pool.pool_size = 0;
    c.continual.num_tasks = 2;
    // The penalty of components of random length is in the hundreds: its part in the loss is to be around 1.
    c.coda = CodaPrompt { components: 7, length: 4, layers: vec![0, 2], ortho_mu: 0.002 };
}

/// Prompts and heads of three domains.
fn s_prompts(c: &mut Config) {
    c.method = Method::SPrompts;
    c.model.vit_classifier = Classifier::Token;
    c.prompt_pool.pool_size = 0;
    c.continual.num_tasks = 3;
    c.s_prompts = SPrompts { length: 2, centres: 2, later_weight_decay: -1.0 };
}

fn fine_tune(c: &mut Config) {
    c.prompt_pool.pool_size = 0;
    c.model.vit_classifier = Classifier::Token;
    c.model.freeze_part = vec![];
}

fn ewc(c: &mut Config) {
    fine_tune(c);
    (c.method, c.ewc.lambda) = (Method::Ewc, 0.3);
}

/// Adapters beside the MLPs of a frozen network, and a head of cosines.
fn adapters(c: &mut Config) {
    c.method = Method::Ranpac;
    c.prompt_pool.pool_size = 0;
    c.model.vit_classifier = Classifier::Token;
    (c.ranpac.adapter_width, c.ranpac.adapter_scale, c.ranpac.adapter_dropout) = (3, 0.7, 0.0);
}

fn lwf(c: &mut Config) {
    fine_tune(c);
    (c.method, c.lwf.alpha, c.lwf.temperature) = (Method::Lwf, 0.7, 1.5);
}

/// The head alone learns.
fn head_alone(c: &mut Config) {
    c.model.freeze_part = ["encoder", "embedding", "cls"].map(String::from).to_vec();
}

fn with_layers(layers: usize, kind: Kind) -> Kind {
    Kind { dims: dims(layers), ..kind }
}

/// Every kind of configuration there is a formula for.
pub fn kinds() -> Vec<Kind> {
    let per_image = |c: &mut Config| c.prompt_pool.batchwise_prompt = false;
    let query = |key, freeze: &'static [&'static str]| {
        move |c: &mut Config| {
            c.prompt_pool.batchwise_prompt = false;
            c.prompt_pool.embedding_key = key;
            c.model.freeze_part = freeze.iter().map(|s| s.to_string()).collect();
        }
    };
    let deep = |at: &'static [usize]| {
        move |c: &mut Config| {
            c.prompt_pool.batchwise_prompt = false;
            c.prompt_pool.e_prompt_layer_idx = at.to_vec();
        }
    };
    let mut erf = l2p("fine-tuning, erf, smoothing", fine_tune);
    (erf.dims.gelu, erf.label_smoothing) = (GeluForm::Erf, 0.1);
    let mut second_task = l2p("components of a second task", coda);
    second_task.task = 1;
    let mut second_domain = l2p("prompt and head of a second domain, weight decay", |c| {
        s_prompts(c);
        (c.optim.weight_decay, c.s_prompts.later_weight_decay) = (0.5, 0.04);
    });
    second_domain.task = 1;
    let mut smooth = l2p("smoothing, per image", per_image);
    smooth.label_smoothing = 0.2;
    let mut masked = l2p("prompt mask", |c| c.prompt_pool.use_prompt_mask = true);
    masked.task = 1;
    let mut registers = l2p("register tokens, everything learns", |c| {
        c.model.freeze_part = vec![];
        c.prompt_pool.batchwise_prompt = false;
    });
    registers.dims.registers = 2;
    let mut register_patches = l2p("register tokens, query mean", query(EmbeddingKey::Mean, &[]));
    register_patches.dims.registers = 3;
    let mut frozen_registers = l2p("register tokens, vote", |_| {});
    frozen_registers.dims.registers = 4;
    vec![
        l2p("vote", |_| {}),
        l2p("per image", per_image),
        masked,
        l2p("diversified", |c| c.prompt_pool.diversified_selection = true),
        l2p("random prompts", |c| {
            c.prompt_pool.selection = Selection::Random;
            c.prompt_pool.pull_constraint_coeff = 0.0;
        }),
        l2p("dualprompt, fixed prompts", |c| {
            dualprompt(c);
            c.prompt_pool.selection = Selection::Fixed;
            c.prompt_pool.pull_constraint_coeff = 0.0;
        }),
        l2p("dualprompt", dualprompt),
        l2p("dualprompt, one tensor for key and value", |c| {
            dualprompt(c);
            c.g_prompt.same_key_value = true;
        }),
        l2p("components", coda),
        second_task,
        l2p("components, everything learns", |c| {
            coda(c);
            c.model.freeze_part = vec![];
            c.coda.layers = vec![1];
            c.coda.ortho_mu = 0.0;
        }),
        l2p("components, clip by all gradients", |c| {
            coda(c);
            c.coda.layers = vec![1, 2];
            c.optim.clip_scope = ClipScope::All;
        }),
        l2p("prompt and head of a domain", s_prompts),
        second_domain,
        l2p("prompt and head of a domain, everything learns", |c| {
            s_prompts(c);
            c.model.freeze_part = vec![];
        }),
        l2p("fine-tuning", fine_tune),
        erf,
        l2p("fine-tuning, gap", |c| {
            fine_tune(c);
            c.model.vit_classifier = Classifier::Gap;
        }),
        l2p("ewc", ewc),
        l2p("ewc of a head, weight decay", |c| {
            ewc(c);
            head_alone(c);
            c.optim.weight_decay = 0.04;
        }),
        l2p("lwf", lwf),
        l2p("adapters, weight decay", |c| {
            adapters(c);
            c.optim.weight_decay = 0.05;
        }),
        l2p("adapters, dropout", |c| {
            adapters(c);
            c.ranpac.adapter_dropout = 0.3;
        }),
        l2p("lwf of a head", |c| {
            lwf(c);
            head_alone(c);
        }),
        l2p("everything learns", |c| {
            c.model.freeze_part = vec![];
            c.prompt_pool.batchwise_prompt = false;
        }),
        l2p("query mean", query(EmbeddingKey::Mean, &[])),
        l2p("query max", query(EmbeddingKey::Max, &["encoder"])),
        l2p("query mean_max", query(EmbeddingKey::MeanMax, &["encoder", "cls"])),
        l2p("query mean, frozen", query(EmbeddingKey::Mean, &["encoder", "embedding", "cls"])),
        l2p("keys are means of prompts", |c| {
            c.prompt_pool.prompt_key = false;
            c.prompt_pool.e_prompt_layer_idx = vec![0, 2];
        }),
        l2p("prompts in layers 0 and 1", deep(&[0, 1])),
        l2p("prompts in the last layer", deep(&[2])),
        l2p("prompts in layer 1", deep(&[1])),
        l2p("general prompt tokens", |c| {
            c.g_prompt.g_prompt_length = 3;
            c.g_prompt.g_prompt_layer_idx = vec![0, 1];
            c.g_prompt.use_prefix_tune_for_g_prompt = false;
            c.prompt_pool.e_prompt_layer_idx = vec![0, 1];
        }),
        l2p("cls_first", |c| c.model.token_order = TokenOrder::ClsFirst),
        l2p("cls_first, positions learn", |c| {
            c.model.token_order = TokenOrder::ClsFirst;
            c.model.freeze_part = vec![];
        }),
        l2p("weight decay", |c| {
            c.optim.weight_decay = 0.03;
            c.model.freeze_part = vec!["embedding".into()];
        }),
        l2p("norm_pre_logits and temperature", |c| {
            c.model.norm_pre_logits = true;
            c.model.temperature = 0.3;
        }),
        smooth,
        registers,
        register_patches,
        frozen_registers,
        l2p("token and prompts", |c| c.model.vit_classifier = Classifier::TokenPrompt),
        l2p("gap, clip by all gradients", |c| {
            c.model.vit_classifier = Classifier::Gap;
            c.optim.clip_scope = ClipScope::All;
        }),
        with_layers(1, l2p("one layer", per_image)),
        with_layers(1, l2p("one layer, fine-tuning", fine_tune)),
        with_layers(2, l2p("two layers, vote", |_| {})),
    ]
}

impl Kind {
    pub fn model(&self, batch: usize) -> Model {
        let mut setup = Setup::new(&self.config, self.dims, CLASSES, batch).expect("a valid setup");
        setup.label_smoothing = self.label_smoothing;
        let mut model = Model::new(setup, &mut Plan::new());
        for (i, id) in model.params.ids().enumerate() {
            let mut rng = Rng::new(3, Stream::Test, i as u64);
            let (name, n) = (model.params.spec(id).name.clone(), model.params.spec(id).shape.len());
            let (mean, spread) = match name.as_str() {
                name if name.ends_with("scale") => (1.0, 0.3),
                name if name.contains("prompt") || name == "prefix" => (0.0, 1.0),
                // Sums over wider rows are as large as those over twelve.
                _ => (0.0, 0.4 * (12.0 / self.dims.embed_dim as f64).sqrt()),
            };
            let values: Vec<f64> = (0..n).map(|_| f64::from((mean + spread * rng.normal()) as f32)).collect();
            model.params.set(id, &values).expect("values");
            // The backbone as it was pre-trained differs from what has been learned since.
            if let Some(original) = &mut model.query_params
                && id_within(original, &name)
            {
                let moved: Vec<f64> =
                    values.iter().map(|v| f64::from((v + 0.1 * rng.normal()) as f32)).collect();
                original.set(id, &moved).expect("values");
            }
        }
        regularize(&mut model);
        model
    }

    /// Steps of the optimizer at rate 0.01, each on the same `batch` images.
    pub fn learn(&self, model: &mut Model, batch: usize, steps: usize) {
        let (x, y) = (images(batch, DType::F64), labels(batch));
        let mut optimizer = Optimizer::new(&mut Plan::new(), &model.params, &self.config.optim);
        for _ in 0..steps {
            self.step(model, &x, &y);
            let squares = model.report.squares();
            optimizer.step(&DEV, &mut model.params, &model.grads, squares, 0.01).expect("an update");
        }
    }

    pub fn task(&self) -> TaskView {
        TaskView { index: self.task, mask: (0..CLASSES).map(|k| k != 3).collect(), rank_fraction: 1.0 }
    }

    pub fn step(&self, model: &mut Model, images: &Tensor, labels: &Tensor) -> StepStats {
        if self.config.ranpac.adapter_dropout > 0.0 && model.setup.adapter.is_some() {
            let positions = (0..labels.len() as u32).collect();
            model.dropout = Some(Dropout { seed: 5, step: 2, positions });
        }
        if let Some(lwf) = model.regularizer.lwf() {
            let positions: Vec<u32> = (0..labels.len() as u32).collect();
            lwf.next_images(&positions).expect("known images");
        }
        model.step(&DEV, images.view(), labels.view(), &self.task()).expect("a step")
    }
}

/// As after a task: parameters have an importance and an anchor away from where they are; a teacher has answered for
/// classes 0, 1 and 3, of which the last is masked in the loss.
fn regularize(model: &mut Model) {
    let normal = |stream: u64, n: usize| {
        let mut rng = Rng::new(17, Stream::Test, stream);
        (0..n).map(|_| f64::from(rng.normal() as f32)).collect::<Vec<f64>>()
    };
    let n = model.params.trainable.len();
    let dtype = model.params.dtype();
    for (i, (word, tensor)) in model.regularizer.of_parameters_mut().into_iter().enumerate() {
        let values =
            normal(i as u64, n).into_iter().map(|v| if word == "importance" { v * v } else { 0.4 * v });
        let values = Tensor::from_f64(&values.collect::<Vec<f64>>(), [n], dtype);
        tensor.view_mut().copy_from(values.view()).expect("as long as what learns");
    }
    for (name, tensor) in model.regularizer.state_mut() {
        if name == "tasks" {
            tensor.view_mut().write(&[1u32]).expect("a count");
        }
    }
    if let Some(lwf) = model.regularizer.lwf() {
        lwf.begin_task(&[0, 1, 3]).expect("a task");
        lwf.begin_task(&[2, 4]).expect("a task");
        let positions: Vec<u32> = (0..16).collect();
        lwf.teach(&positions, &normal(9, 16 * CLASSES)).expect("answers");
    }
}

fn id_within(params: &l2p_engine::nn::params::Params, name: &str) -> bool {
    params.find(name).is_some()
}

pub fn images(n: usize, dtype: DType) -> Tensor {
    let mut rng = Rng::new(11, Stream::Test, 0);
    let values: Vec<f64> = (0..n * 8 * 8 * 3).map(|_| f64::from(rng.uniform())).collect();
    Tensor::from_f64(&values, [n, 8, 8, 3], dtype)
}

pub fn labels(n: usize) -> Tensor {
    Tensor::from_vec((0..n).map(|i| [0u32, 4, 1, 2][i % 4]).collect(), [n])
}
