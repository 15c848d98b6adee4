//! What is refused: values out of range, and keys that do not fit each other. Data, scenarios and
//! augmentation are in `check_data.rs`.

use super::complaints::{Complaints, MAX_SIZE};
use super::published::Published;
use super::schema::{Classifier, ClipScope, Config, Method, OptimizerName, Scenario, Selection, StartFrom};
use crate::error::Result;

/// Steps between checkpoints may be large to mean "never".
const MAX_STEPS: usize = 1_000_000_000;

impl Config {
    /// Whether prompt tokens stand in the sequence.
    fn has_prompt_tokens(&self) -> bool {
        let pool = &self.prompt_pool;
        pool.pool_size > 0 && !pool.use_prefix_tune_for_e_prompt && !pool.e_prompt_layer_idx.is_empty()
    }

    /// Refuses values that cannot work, alone or together.
    ///
    /// # Errors
    /// [`Error::Config`] with one sentence per complaint: the keys, what was wanted, what was found.
    pub fn check(&self) -> Result<()> {
        let mut complaints = Complaints::default();
        self.check_numbers(&mut complaints);
        self.check_data(&mut complaints);
        if self.prompt_pool.pool_size > 0 {
            self.check_pool(&mut complaints);
        }
        self.check_g_prompt(&mut complaints);
        self.check_components(&mut complaints);
        self.check_domains(&mut complaints);
        self.check_adapters(&mut complaints);
        self.check_boundaries(&mut complaints);
        self.check_method(&mut complaints);
        self.published.iter().filter_map(|text| Published::parse(text).err()).for_each(|e| complaints.add(e));
        complaints.into_result()
    }

    /// The checks that need the number of blocks of the loaded backbone.
    ///
    /// # Errors
    /// [`Error::Config`] if `model.blocks` or a layer index lies outside.
    pub fn check_with_layers(&self, layers: usize) -> Result<()> {
        let mut complaints = Complaints::default();
        let blocks = self.model.blocks;
        complaints.unless(blocks <= layers, || {
            format!("model.blocks must be at most the {layers} blocks of the checkpoint, found {blocks}")
        });
        let used = if blocks == 0 { layers } else { blocks.min(layers) };
        let mut within = |key: &str, idx: &[usize]| {
            for &layer in idx.iter().filter(|l| **l >= used) {
                complaints.add(format!(
                    "{key} must be below {used}, the number of blocks in use (counted from 0), found {layer}"
                ));
            }
        };
        if self.prompt_pool.pool_size > 0 {
            within("prompt_pool.e_prompt_layer_idx", &self.prompt_pool.e_prompt_layer_idx);
        }
        if self.g_prompt.g_prompt_length > 0 {
            within("g_prompt.g_prompt_layer_idx", &self.g_prompt.g_prompt_layer_idx);
        }
        if self.method == Method::CodaPrompt {
            within("coda.layers", &self.coda.layers);
        }
        complaints.into_result()
    }

    /// The checks of `l2p-engine pretrain`, beside [`Config::check`].
    ///
    /// # Errors
    /// [`Error::Config`] if the sizes of `[pretrain]` do not fit each other or the image.
    pub fn check_pretrain(&self) -> Result<()> {
        let mut complaints = Complaints::default();
        let p = &self.pretrain;
        for (key, value) in [
            ("pretrain.patch_size", p.patch_size),
            ("pretrain.embed_dim", p.embed_dim),
            ("pretrain.layers", p.layers),
            ("pretrain.heads", p.heads),
            ("pretrain.mlp_dim", p.mlp_dim),
        ] {
            complaints.unless(value > 0, || format!("{key} must be at least 1, found 0"));
        }
        complaints.unless(!self.data.is_mixed(), || {
            "data.mixup_alpha and data.cutmix_alpha must be 0 in pre-training, which has labels of its own".into()
        });
        let random = p.start_from == StartFrom::Random;
        complaints.unless(!random || p.learning_blocks == 0, || {
            format!(
                "pretrain.learning_blocks = {} leaves blocks as they begin, which takes trained ones: give \
                 --init-checkpoint, or 0",
                p.learning_blocks
            )
        });
        complaints.unless(p.heads == 0 || p.embed_dim.is_multiple_of(p.heads), || {
            format!("pretrain.heads = {} must divide pretrain.embed_dim = {}", p.heads, p.embed_dim)
        });
        complaints.unless(
            !random || p.patch_size == 0 || self.data.input_size.is_multiple_of(p.patch_size),
            || {
                format!(
                    "pretrain.patch_size = {} must divide data.input_size = {}",
                    p.patch_size, self.data.input_size
                )
            },
        );
        complaints.into_result()
    }

    /// Bounds of single numbers.
    fn check_numbers(&self, c: &mut Complaints) {
        let (data, model, pool, g) = (&self.data, &self.model, &self.prompt_pool, &self.g_prompt);
        let (optim, train, pre) = (&self.optim, &self.train, &self.pretrain);
        c.unless(i64::try_from(self.seed).is_ok(), || {
            format!("seed must be a whole number from 0 to {}, found {}", i64::MAX, self.seed)
        });
        let at_least_one = [
            ("ranpac.adapter_epochs", self.ranpac.adapter_epochs),
            ("data.input_size", data.input_size),
            ("data.resize_size", data.resize_size),
            ("continual.num_tasks", self.continual.num_tasks),
            ("continual.eval_every_tasks", self.continual.eval_every_tasks),
            ("train.per_device_batch_size", train.per_device_batch_size),
            ("train.num_epochs", train.num_epochs),
            ("train.micro_batch", train.micro_batch.of(1)),
            ("train.eval_batch_size", train.eval_batch_size),
        ];
        let any = [
            ("data.train_per_class", data.train_per_class),
            ("data.test_per_class", data.test_per_class),
            ("continual.shots", self.continual.shots),
            ("continual.base_shots", self.continual.base_shots),
            ("continual.replay_per_class", self.continual.replay_per_class),
            ("continual.replay_batch_size", self.continual.replay_batch_size),
            ("train.num_eval_steps", train.num_eval_steps),
            ("train.eval_per_epochs", train.eval_per_epochs),
            ("continual.num_review_epochs", self.continual.num_review_epochs),
            ("data.rand_augment_layers", data.rand_augment_layers),
            ("data.rand_augment_levels", data.rand_augment_levels),
            ("model.heads", model.heads),
            ("model.blocks", model.blocks),
            ("prompt_pool.pool_size", pool.pool_size),
            ("prompt_pool.length", pool.length),
            ("prompt_pool.top_k", pool.top_k),
            ("prompt_pool.vote_group", pool.vote_group),
            ("g_prompt.g_prompt_length", g.g_prompt_length),
            ("ranpac.random_features", self.ranpac.random_features),
            ("ranpac.adapter_width", self.ranpac.adapter_width),
            ("coda.components", self.coda.components),
            ("coda.length", self.coda.length),
            ("s_prompts.length", self.s_prompts.length),
            ("s_prompts.centres", self.s_prompts.centres),
            ("lwf.warmup_epochs", self.lwf.warmup_epochs),
            ("optim.lr_batch", optim.lr_batch),
            ("pretrain.patch_size", pre.patch_size),
            ("pretrain.embed_dim", pre.embed_dim),
            ("pretrain.layers", pre.layers),
            ("pretrain.heads", pre.heads),
            ("pretrain.mlp_dim", pre.mlp_dim),
        ];
        for (key, value) in at_least_one {
            c.unless(value > 0, || format!("{key} must be at least 1, found 0"));
        }
        for (key, value) in at_least_one.into_iter().chain(any) {
            c.unless(value <= MAX_SIZE, || format!("{key} must be at most {MAX_SIZE}, found {value}"));
        }
        c.unless(train.checkpoint_every_steps <= MAX_STEPS, || {
            format!(
                "train.checkpoint_every_steps must be at most {MAX_STEPS}, found {}",
                train.checkpoint_every_steps
            )
        });

        let positive = "a finite number above 0";
        c.float("model.temperature", model.temperature, positive, |v| v > 0.0);
        c.float("lwf.temperature", self.lwf.temperature, positive, |v| v > 0.0);
        c.float("ranpac.adapter_scale", self.ranpac.adapter_scale, positive, |v| v > 0.0);
        c.float("ewc.gamma", self.ewc.gamma, "0 to 1", |v| (0.0..=1.0).contains(&v));
        c.float("optim.learning_rate", optim.learning_rate, positive, |v| v > 0.0);
        let from_zero = "a finite number, 0 or more";
        for (key, value) in [
            ("data.rand_augment_deviation", data.rand_augment_deviation),
            ("data.mixup_alpha", data.mixup_alpha),
            ("data.cutmix_alpha", data.cutmix_alpha),
            ("prompt_pool.pull_constraint_coeff", pool.pull_constraint_coeff),
            ("coda.ortho_mu", self.coda.ortho_mu),
            ("ewc.lambda", self.ewc.lambda),
            ("lwf.alpha", self.lwf.alpha),
            ("optim.warmup_epochs", optim.warmup_epochs),
            ("optim.min_learning_rate", optim.min_learning_rate),
            ("optim.weight_decay", optim.weight_decay),
            ("optim.grad_clip_max_norm", optim.grad_clip_max_norm),
        ] {
            c.float(key, value, from_zero, |v| v >= 0.0);
        }
        c.float("pretrain.layer_decay", pre.layer_decay, "above 0 and at most 1", |v| v > 0.0 && v <= 1.0);
        let lambdas = &self.ranpac.lambdas;
        c.unless(!lambdas.is_empty() && lambdas.iter().all(|l| *l > 0.0 && l.is_finite()), || {
            format!("ranpac.lambdas must be at least one finite number above 0, found {lambdas:?}")
        });
        let below_one = "0 or more and below 1";
        for (key, value) in [
            ("model.layer_norm_eps", model.layer_norm_eps),
            ("optim.sgd_momentum", optim.sgd_momentum),
            ("ranpac.adapter_dropout", self.ranpac.adapter_dropout),
            ("pretrain.label_smoothing", pre.label_smoothing),
        ] {
            c.float(key, value, below_one, |v| (0.0..1.0).contains(&v));
        }
        c.unless(optim.min_learning_rate.is_nan() || optim.min_learning_rate <= optim.learning_rate, || {
            format!(
                "optim.min_learning_rate = {} must not be above optim.learning_rate = {}",
                optim.min_learning_rate, optim.learning_rate
            )
        });
        c.unless(optim.warmup_epochs.is_nan() || optim.warmup_epochs <= train.num_epochs as f64, || {
            format!(
                "optim.warmup_epochs = {} must not be more than train.num_epochs = {}",
                optim.warmup_epochs, train.num_epochs
            )
        });
    }

    fn check_pool(&self, c: &mut Complaints) {
        let pool = &self.prompt_pool;
        c.unless(pool.length > 0, || "prompt_pool.length must be at least 1, found 0".into());
        c.unless(pool.top_k > 0, || "prompt_pool.top_k must be at least 1, found 0".into());
        c.unless(pool.top_k <= pool.pool_size, || {
            format!(
                "prompt_pool.top_k = {} must not be above prompt_pool.pool_size = {}",
                pool.top_k, pool.pool_size
            )
        });
        c.unless(!pool.diversified_selection || !pool.use_prompt_mask, || {
            "prompt_pool.diversified_selection = true chooses prompts by how often they were used, \
             prompt_pool.use_prompt_mask = true by the task: wanted at most one of them"
                .into()
        });
        if pool.selection != Selection::Key {
            let because = format!(
                "prompt_pool.selection = \"{}\" chooses prompts without keys and needs",
                pool.selection
            );
            c.unless(pool.pull_constraint_coeff == 0.0, || {
                format!(
                    "{because} prompt_pool.pull_constraint_coeff = 0, found {}",
                    pool.pull_constraint_coeff
                )
            });
            for (key, value) in [
                ("prompt_pool.use_prompt_mask", pool.use_prompt_mask),
                ("prompt_pool.diversified_selection", pool.diversified_selection),
                ("prompt_pool.shared_prompt_pool", pool.shared_prompt_pool),
                ("prompt_pool.shared_prompt_key", pool.shared_prompt_key),
            ] {
                c.unless(!value, || format!("{because} {key} = false, found true"));
            }
        }
        c.ascending("prompt_pool.e_prompt_layer_idx", &pool.e_prompt_layer_idx);
        c.unless(!pool.e_prompt_layer_idx.is_empty(), || {
            "prompt_pool.e_prompt_layer_idx must name at least one layer while prompt_pool.pool_size is above 0, found []".into()
        });
        let tokens = pool.e_prompt_layer_idx.len().saturating_mul(pool.top_k).saturating_mul(pool.length);
        c.unless(tokens <= MAX_SIZE, || {
            format!("prompt_pool.length times prompt_pool.top_k, over all layers, must be at most {MAX_SIZE} tokens, found {tokens}")
        });
        c.unless(pool.prompt_key || !pool.shared_prompt_key, || {
            "prompt_pool.shared_prompt_key = true copies learned keys and so needs prompt_pool.prompt_key = true, found false".into()
        });
    }

    fn check_g_prompt(&self, c: &mut Complaints) {
        let (g, pool) = (&self.g_prompt, &self.prompt_pool);
        if g.g_prompt_length == 0 {
            return;
        }
        c.ascending("g_prompt.g_prompt_layer_idx", &g.g_prompt_layer_idx);
        c.unless(!g.g_prompt_layer_idx.is_empty(), || {
            "g_prompt.g_prompt_layer_idx must name at least one layer while g_prompt.g_prompt_length is above 0, found []".into()
        });
        if g.use_prefix_tune_for_g_prompt {
            return;
        }
        // The official code prepends such a prompt only where pool tokens are prepended too.
        let with_tokens = |l: &usize| self.has_prompt_tokens() && pool.e_prompt_layer_idx.contains(l);
        for layer in g.g_prompt_layer_idx.iter().filter(|l| !with_tokens(l)) {
            c.add(format!(
                "g_prompt.use_prefix_tune_for_g_prompt = false puts general prompt tokens only into layers that also \
                 receive pool prompt tokens: layer {layer} of g_prompt.g_prompt_layer_idx does not"
            ));
        }
    }

    fn check_components(&self, c: &mut Complaints) {
        if self.method != Method::CodaPrompt {
            return;
        }
        let coda = &self.coda;
        let joint = self.continual.scenario == Scenario::Joint;
        let tasks = if joint { 1 } else { self.continual.num_tasks };
        c.unless(coda.components >= tasks.max(1), || {
            format!(
                "coda.components = {} must be at least the number of tasks, {tasks}: each learns components of its own",
                coda.components
            )
        });
        c.unless(coda.length > 0 && coda.length.is_multiple_of(2), || {
            format!(
                "coda.length must be even and at least 2, half for keys and half for values, found {}",
                coda.length
            )
        });
        c.ascending("coda.layers", &coda.layers);
        c.unless(!coda.layers.is_empty(), || "coda.layers must name at least one layer, found []".into());
    }

    fn check_domains(&self, c: &mut Complaints) {
        let decay = self.s_prompts.later_weight_decay;
        c.float("s_prompts.later_weight_decay", decay, "a finite number", |_| true);
        if self.method != Method::SPrompts {
            return;
        }
        let (cl, scenario) = (&self.continual, self.continual.scenario);
        for (key, value) in
            [("s_prompts.length", self.s_prompts.length), ("s_prompts.centres", self.s_prompts.centres)]
        {
            c.unless(value > 0, || format!("{key} must be at least 1, found 0"));
        }
        let all_classes = matches!(scenario, Scenario::Domain | Scenario::Joint);
        c.unless(all_classes || !cl.train_mask, || {
            format!(
                "method = \"s_prompts\" has a head of all classes for each task; where a task has some of them \
                 (continual.scenario = \"{scenario}\"), it needs continual.train_mask = false, found true"
            )
        });
        let (transfer, norm) = (cl.weights_transfer, self.model.weight_norm);
        c.unless(!transfer && !norm, || {
            format!(
                "method = \"s_prompts\" has a head for each task and needs continual.weights_transfer = false and \
                 model.weight_norm = false, found {transfer} and {norm}"
            )
        });
        c.unless(decay < 0.0 || self.optim.optim != OptimizerName::AdamW, || {
            format!(
                "s_prompts.later_weight_decay = {decay} is not for optim.optim = \"adamw\": wanted it below 0"
            )
        });
    }

    /// What methods exclude that do something between tasks.
    fn check_boundaries(&self, c: &mut Complaints) {
        let (method, cl) = (self.method, &self.continual);
        if !method.looks_at_tasks() {
            return;
        }
        c.unless(!matches!(cl.scenario, Scenario::GaussianOnce | Scenario::Stream), || {
            format!(
                "method = \"{method}\" needs to know where a task ends; continual.scenario = \"{}\" has no boundaries",
                cl.scenario
            )
        });
        c.unless(method != Method::Lwf || cl.replay_per_class == 0, || {
            format!(
                "method = \"lwf\" has answers of its teacher for the images of the task alone and needs \
                 continual.replay_per_class = 0, found {}",
                cl.replay_per_class
            )
        });
    }

    /// Adapters beside a frozen backbone, learned on the first task.
    fn check_adapters(&self, c: &mut Complaints) {
        let Method::Ranpac = self.method else { return };
        if self.ranpac.adapter_width == 0 {
            return;
        }
        let freeze = &self.model.freeze_part;
        c.unless(["encoder", "embedding", "cls"].iter().all(|part| freeze.iter().any(|f| f == part)), || {
            format!(
                "ranpac.adapter_width > 0 adapts a frozen backbone and needs model.freeze_part = [\"encoder\", \"embedding\", \
                 \"cls\"], found {freeze:?}"
            )
        });
        c.unless(self.model.vit_classifier == Classifier::Token, || {
            format!(
                "ranpac.adapter_width > 0 learns from the class token and needs model.vit_classifier = \"token\", found \"{}\"",
                self.model.vit_classifier
            )
        });
        c.unless(self.optim.clip_scope == ClipScope::Trainable, || {
            "ranpac.adapter_width > 0 needs optim.clip_scope = \"trainable\"; found \"all\"".into()
        });
        let cl = &self.continual;
        c.unless(!matches!(cl.scenario, Scenario::GaussianOnce | Scenario::Stream), || {
            format!(
                "ranpac.adapter_width > 0 needs to know where the first task ends; continual.scenario = \"{}\" has no boundaries",
                cl.scenario
            )
        });
    }

    fn check_method(&self, c: &mut Complaints) {
        let pool = &self.prompt_pool;
        let method = self.method;
        match method {
            Method::L2p => {
                c.unless(pool.pool_size > 0, || {
                    "method = \"l2p\" needs prompt_pool.pool_size of at least 1, found 0; method = \"linear\" has no prompts".into()
                });
                c.unless(!pool.use_prefix_tune_for_e_prompt, || {
                    "method = \"l2p\" puts prompts in front of the tokens and needs \
                     prompt_pool.use_prefix_tune_for_e_prompt = false, found true; method = \"dualprompt\" uses prefixes".into()
                });
            }
            Method::DualPrompt => {
                c.unless(pool.pool_size > 0 || self.g_prompt.g_prompt_length > 0, || {
                    "method = \"dualprompt\" needs prompt_pool.pool_size or g_prompt.g_prompt_length of at least 1, found 0 and 0".into()
                });
                c.unless(pool.pool_size == 0 || pool.use_prefix_tune_for_e_prompt, || {
                    "method = \"dualprompt\" needs prompt_pool.use_prefix_tune_for_e_prompt = true, found false".into()
                });
            }
            Method::CodaPrompt | Method::SPrompts => {
                let (pool, general) = (pool.pool_size, self.g_prompt.g_prompt_length);
                c.unless(pool == 0 && general == 0, || {
                    format!(
                        "method = \"{method}\" has its own prompts alone and needs \
                         prompt_pool.pool_size = 0 and g_prompt.g_prompt_length = 0, found {pool} and {general}"
                    )
                });
            }
            Method::FineTune | Method::Linear | Method::Ewc | Method::Lwf | Method::Ncm | Method::Ranpac => {
                c.unless(pool.pool_size == 0, || {
                    format!(
                        "method = \"{method}\" has no prompts and needs prompt_pool.pool_size = 0, found {}",
                        pool.pool_size
                    )
                });
                let g = self.g_prompt.g_prompt_length;
                c.unless(g == 0, || {
                    format!("method = \"{method}\" has no prompts and needs g_prompt.g_prompt_length = 0, found {g}")
                });
                c.unless(method != Method::FineTune || self.model.freeze_part.is_empty(), || {
                    format!(
                        "method = \"finetune\" trains the whole network and needs model.freeze_part = [], found {:?}",
                        self.model.freeze_part
                    )
                });
            }
            Method::Joint => {}
        }
        let classifier = self.model.vit_classifier;
        let on_prompts = matches!(classifier, Classifier::Prompt | Classifier::TokenPrompt);
        c.unless(!on_prompts || self.has_prompt_tokens(), || {
            format!(
                "model.vit_classifier = \"{classifier}\" needs prompt tokens (prompt_pool.pool_size above 0, \
                 prompt_pool.use_prefix_tune_for_e_prompt = false), found none; use \"token\" or \"gap\""
            )
        });
    }
}
