//! What a method implies, and what does not fit together.

use super::published::Published;
use super::schema::{Classifier, Config, DatasetName, Interpolation, Method, Scenario, Transforms};
use crate::error::{Error, Result};

/// Sizes beyond this are a slip of the pen, not a model.
const MAX_SIZE: usize = 65_536;
/// Steps between checkpoints may be large to mean "never".
const MAX_STEPS: usize = 1_000_000_000;

impl Config {
    /// Sets the keys whose value follows from `method`, and returns a sentence for each one changed
    /// and for each thing worth knowing. Doing it twice changes nothing more.
    pub fn resolve(&mut self) -> Vec<String> {
        let mut notes = Vec::new();
        let method = self.method;
        let because = format!("method = \"{method}\"");
        match method {
            Method::FineTune | Method::Linear | Method::Ncm => {
                imply(&mut notes, &because, "prompt_pool.pool_size", &mut self.prompt_pool.pool_size, 0);
                imply(
                    &mut notes,
                    &because,
                    "g_prompt.g_prompt_length",
                    &mut self.g_prompt.g_prompt_length,
                    0,
                );
                self.imply_token(&mut notes, &because);
            }
            Method::DualPrompt => {
                let prefix = &mut self.prompt_pool.use_prefix_tune_for_e_prompt;
                imply(&mut notes, &because, "prompt_pool.use_prefix_tune_for_e_prompt", prefix, true);
                self.imply_token(&mut notes, &because);
            }
            Method::L2p | Method::Joint => {}
        }
        if method == Method::FineTune {
            imply(&mut notes, &because, "model.freeze_part", &mut self.model.freeze_part, Vec::new());
        }
        let group = self.prompt_pool.vote_group;
        let batch = self.train.per_device_batch_size + self.continual.replay_batch_size;
        if self.prompt_pool.pool_size > 0
            && self.prompt_pool.batchwise_prompt
            && group > 0
            && !batch.is_multiple_of(group)
        {
            notes.push(format!(
                "prompt_pool.vote_group = {group} does not divide the {batch} images of a batch: the last vote of every \
                 batch is among {} images",
                batch % group
            ));
        }
        // Last: the earlier word implied no values.
        notes.extend(self.understand_joint());
        notes
    }

    /// Earlier versions wrote `method = "joint"` for a run that learns all tasks at once. It becomes `scenario = "joint"`
    /// with the method that has the configured prompts, which trains the same network: `l2p` for a pool in front of the
    /// tokens, `dualprompt` for prefixes or a general prompt, `linear` or, where nothing is frozen, `finetune` without
    /// prompts. Tasks without classes of their own become one task of all classes (0).
    pub fn understand_joint(&mut self) -> Option<String> {
        if self.method != Method::Joint {
            return None;
        }
        let (pool, general) = (&self.prompt_pool, self.g_prompt.g_prompt_length);
        self.method = match (pool.pool_size > 0, pool.use_prefix_tune_for_e_prompt, general > 0) {
            (true, false, _) => Method::L2p,
            (true, true, _) | (false, _, true) => Method::DualPrompt,
            _ if self.model.freeze_part.is_empty() => Method::FineTune,
            _ => Method::Linear,
        };
        let cl = &mut self.continual;
        if !matches!(cl.scenario, Scenario::Class | Scenario::Joint) {
            (cl.num_tasks, cl.num_classes_per_task, cl.eval_every_tasks) = (1, 0, 1);
        }
        cl.scenario = Scenario::Joint;
        Some(format!(
            "method = \"joint\" is continual.scenario = \"joint\" with method = \"{}\" now",
            self.method
        ))
    }

    /// Without prompt tokens in the sequence the class token is what there is to classify.
    fn imply_token(&mut self, notes: &mut Vec<String>, because: &str) {
        let classifier = &mut self.model.vit_classifier;
        if matches!(classifier, Classifier::Prompt | Classifier::TokenPrompt) {
            imply(notes, because, "model.vit_classifier", classifier, Classifier::Token);
        }
    }

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
        complaints.unless(p.heads == 0 || p.embed_dim.is_multiple_of(p.heads), || {
            format!("pretrain.heads = {} must divide pretrain.embed_dim = {}", p.heads, p.embed_dim)
        });
        complaints.unless(p.patch_size == 0 || self.data.input_size.is_multiple_of(p.patch_size), || {
            format!(
                "pretrain.patch_size = {} must divide data.input_size = {}",
                p.patch_size, self.data.input_size
            )
        });
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
            ("data.input_size", data.input_size),
            ("data.resize_size", data.resize_size),
            ("continual.num_tasks", self.continual.num_tasks),
            ("continual.eval_every_tasks", self.continual.eval_every_tasks),
            ("train.per_device_batch_size", train.per_device_batch_size),
            ("train.num_epochs", train.num_epochs),
            ("train.eval_batch_size", train.eval_batch_size),
        ];
        let any = [
            ("data.train_per_class", data.train_per_class),
            ("data.test_per_class", data.test_per_class),
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
        c.float("optim.learning_rate", optim.learning_rate, positive, |v| v > 0.0);
        let from_zero = "a finite number, 0 or more";
        for (key, value) in [
            ("data.rand_augment_deviation", data.rand_augment_deviation),
            ("data.mixup_alpha", data.mixup_alpha),
            ("data.cutmix_alpha", data.cutmix_alpha),
            ("prompt_pool.pull_constraint_coeff", pool.pull_constraint_coeff),
            ("optim.warmup_epochs", optim.warmup_epochs),
            ("optim.min_learning_rate", optim.min_learning_rate),
            ("optim.weight_decay", optim.weight_decay),
            ("optim.grad_clip_max_norm", optim.grad_clip_max_norm),
        ] {
            c.float(key, value, from_zero, |v| v >= 0.0);
        }
        let below_one = "0 or more and below 1";
        for (key, value) in [
            ("model.layer_norm_eps", model.layer_norm_eps),
            ("optim.sgd_momentum", optim.sgd_momentum),
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

    fn check_data(&self, c: &mut Complaints) {
        let (data, cl) = (&self.data, &self.continual);
        c.unless(data.input_size <= data.resize_size, || {
            format!(
                "data.input_size = {} must not be above data.resize_size = {}: the input is cut out of the resized image",
                data.input_size, data.resize_size
            )
        });
        self.check_scenario(c);
        c.unless(cl.num_classes_per_task > 0 || cl.scenario == Scenario::Joint, || {
            "continual.num_classes_per_task must be at least 1, found 0".into()
        });
        let by_class = matches!(cl.scenario, Scenario::Class | Scenario::Joint);
        let tasks = if by_class { cl.num_tasks } else { 0 };
        let classes = tasks.saturating_mul(cl.num_classes_per_task);
        let known = match data.dataset {
            DatasetName::Joined => {
                data.joined_names().ok().and_then(|names| names.into_iter().map(classes_of).sum())
            }
            name => classes_of(name),
        };
        if let Some(there_are) = known {
            c.unless(classes <= there_are, || {
                format!(
                    "continual.num_tasks = {} times continual.num_classes_per_task = {} wants {classes} classes, \
                     data.dataset = \"{}\" has {there_are}",
                    cl.num_tasks, cl.num_classes_per_task, data.dataset
                )
            });
        } else {
            c.unless(classes <= MAX_SIZE, || {
                format!("continual.num_tasks times continual.num_classes_per_task must be at most {MAX_SIZE}, found {classes}")
            });
        }
        self.check_augment(c);
        let order = cl.class_order.as_str();
        c.unless(!order.is_empty(), || {
            "continual.class_order must be \"natural\", \"seed:N\" or the path of a file, found \"\"".into()
        });
        if let Some(number) = order.strip_prefix("seed:") {
            c.unless(number.parse::<u64>().is_ok(), || {
                format!("continual.class_order = \"seed:N\" wants a whole number for N, found `{number}`")
            });
        }
        c.unless(!self.model.init_checkpoint.is_empty(), || {
            "model.init_checkpoint must be `bundled:micro` or the path of a .npz or .safetensors file, found \"\"".into()
        });
        c.unless(self.model.freeze_part.iter().all(|part| !part.is_empty()), || {
            "model.freeze_part must not hold an empty text: it would match every parameter; \
             method = \"linear\" trains the head only"
                .into()
        });
    }

    fn check_scenario(&self, c: &mut Complaints) {
        let (cl, scenario) = (&self.continual, self.continual.scenario);
        if self.data.dataset == DatasetName::Joined
            && let Err(what) = self.data.joined_names()
        {
            c.add(what);
        }
        c.float("continual.gaussian_sigma", cl.gaussian_sigma, "a finite number above 0", |v| v > 0.0);
        let by_class = matches!(scenario, Scenario::Class | Scenario::Joint);
        c.unless(cl.eval_every_tasks == 1 || !by_class, || {
            format!(
                "continual.eval_every_tasks = {} leaves rows of the accuracy matrix empty; it needs a scenario in which \
                 tasks share a test set, found scenario = \"{scenario}\"",
                cl.eval_every_tasks
            )
        });
        self.check_replay(c);
        c.unless(!cl.weights_transfer || scenario == Scenario::Class && !matches!(self.method, Method::Joint | Method::Ncm), || {
            format!("continual.weights_transfer = true needs scenario = \"class\" and a method that learns task after task, found \"{scenario}\" and method = \"{}\"", self.method)
        });
        c.unless(!cl.transfer_kernel_only || cl.weights_transfer, || {
            "continual.transfer_kernel_only = true needs continual.weights_transfer = true, found false"
                .into()
        });
        c.unless(!cl.eval_task_inc || by_class, || {
            format!("continual.eval_task_inc = true needs scenario = \"class\", in which tasks have classes of their own, found \"{scenario}\"")
        });
        if !matches!(scenario, Scenario::GaussianOnce | Scenario::Stream) {
            return;
        }
        let because = format!("continual.scenario = \"{scenario}\" is one pass without boundaries and needs");
        c.unless(self.train.num_epochs == 1, || {
            format!("{because} train.num_epochs = 1, found {}", self.train.num_epochs)
        });
        for (key, value) in [
            ("optim.reinit_optimizer", self.optim.reinit_optimizer),
            ("prompt_pool.use_prompt_mask", self.prompt_pool.use_prompt_mask),
            ("prompt_pool.diversified_selection", self.prompt_pool.diversified_selection),
            ("prompt_pool.shared_prompt_pool", self.prompt_pool.shared_prompt_pool),
            ("prompt_pool.shared_prompt_key", self.prompt_pool.shared_prompt_key),
        ] {
            c.unless(!value, || format!("{because} {key} = false, found true"));
        }
    }

    fn check_replay(&self, c: &mut Complaints) {
        let (cl, scenario) = (&self.continual, self.continual.scenario);
        let (kept, review, replayed) = (cl.replay_per_class, cl.num_review_epochs, cl.replay_batch_size);
        c.unless((kept > 0) == (review > 0 || replayed > 0), || {
            format!("continual.replay_per_class = {kept} keeps images for continual.replay_batch_size = {replayed} or continual.num_review_epochs = {review}: wanted it above 0 where one of them is, and 0 otherwise")
        });
        let by_task = !matches!(scenario, Scenario::Joint | Scenario::GaussianOnce | Scenario::Stream);
        c.unless(kept == 0 || by_task && !matches!(self.method, Method::Joint | Method::Ncm), || {
            format!("continual.replay_per_class above 0 needs scenario = \"class\", \"domain\" or \"gaussian\" and a method that learns task after task, found \"{scenario}\" and method = \"{}\"", self.method)
        });
        c.unless(!cl.replay_reverse_mask || cl.replay_no_mask && !cl.replay_include_new_task, || {
            format!("continual.replay_reverse_mask = true masks the task's own classes and needs replay_no_mask = true and replay_include_new_task = false, found {} and {}", cl.replay_no_mask, cl.replay_include_new_task)
        });
        if replayed == 0 || !cl.train_mask || scenario == Scenario::Domain {
            c.unless(!cl.replay_reverse_mask, || {
                "continual.replay_reverse_mask = true needs replay_batch_size above 0, train_mask = true and tasks of some classes".into()
            });
            return;
        }
        c.unless(cl.replay_no_mask, || {
            "continual.replay_no_mask = false with train_mask = true masks the classes of replayed images, and their loss would be infinite; set one of them the other way".into()
        });
        c.unless(!self.data.is_mixed(), || {
            format!("data.mixup_alpha and data.cutmix_alpha mix images that continual.replay_batch_size = {replayed} brings with images under another class mask; set them to 0, or continual.train_mask = false")
        });
    }

    fn check_augment(&self, c: &mut Complaints) {
        let data = &self.data;
        for (key, filter) in [
            ("train_interpolation", data.train_interpolation),
            ("eval_interpolation", data.eval_interpolation),
        ] {
            c.unless(data.transforms == Transforms::Torchvision || filter == Interpolation::Bilinear, || {
                format!(
                    "data.{key} = \"{filter}\" needs data.transforms = \"torchvision\", found \"{}\"",
                    data.transforms
                )
            });
        }
        c.unless(!data.jpeg_reencode || data.transforms == Transforms::TensorFlow, || {
            format!(
                "data.jpeg_reencode = true needs data.transforms = \"tensorflow\", found \"{}\"",
                data.transforms
            )
        });
        c.unless(!data.jpeg_reencode || data.resize_size.is_multiple_of(16), || {
            format!(
                "data.jpeg_reencode = true needs a data.resize_size that is a multiple of 16, found {}",
                data.resize_size
            )
        });
        let probability = "a probability, 0 to 1";
        for (key, value) in [
            ("data.rand_augment_probability", data.rand_augment_probability),
            ("data.erase_probability", data.erase_probability),
            ("data.mix_probability", data.mix_probability),
        ] {
            c.float(key, value, probability, |v| (0.0..=1.0).contains(&v));
        }
        c.float("data.color_jitter", data.color_jitter, "0 to 1.25", |v| (0.0..=1.25).contains(&v));
        let (magnitude, levels) = (data.rand_augment_magnitude, data.rand_augment_levels);
        if data.rand_augment_deviation > 0.0 {
            c.unless(levels > 0, || {
                "data.rand_augment_deviation above 0 needs data.rand_augment_levels of at least 1, found 0"
                    .into()
            });
            c.float(
                "data.rand_augment_magnitude",
                magnitude,
                "0 to data.rand_augment_levels with a deviation",
                |v| (0.0..=levels as f64).contains(&v),
            );
        } else {
            c.float("data.rand_augment_magnitude", magnitude, "at most 1", |v| v <= 1.0);
        }
        c.unless(!data.is_mixed() || self.method != Method::Ncm, || {
            "data.mixup_alpha and data.cutmix_alpha must be 0 with method = \"ncm\", which takes means of classes".into()
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
            Method::FineTune | Method::Linear | Method::Ncm => {
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

/// Classes of a data set; `None`: known once it is loaded.
fn classes_of(dataset: DatasetName) -> Option<usize> {
    use DatasetName::*;
    match dataset {
        MnistSubset | Mnist | FashionMnist | Cifar10 | Svhn | NotMnist => Some(10),
        Core50 => Some(50),
        Cifar100 => Some(100),
        _ => None,
    }
}

fn imply<T: PartialEq + std::fmt::Debug>(
    notes: &mut Vec<String>,
    because: &str,
    key: &str,
    slot: &mut T,
    value: T,
) {
    if *slot != value {
        notes.push(format!("{because} sets {key} to {value:?} (was {:?})", *slot));
        *slot = value;
    }
}

/// What is wrong so far.
#[derive(Default)]
struct Complaints(Vec<String>);

impl Complaints {
    fn add(&mut self, what: String) {
        self.0.push(what);
    }

    fn unless(&mut self, fine: bool, what: impl FnOnce() -> String) {
        if !fine {
            self.0.push(what());
        }
    }

    fn float(&mut self, key: &str, value: f64, wanted: &str, fine: impl Fn(f64) -> bool) {
        self.unless(value.is_finite() && fine(value), || format!("{key} must be {wanted}, found {value}"));
    }

    fn ascending(&mut self, key: &str, idx: &[usize]) {
        self.unless(idx.is_sorted_by(|a, b| a < b), || {
            format!("{key} must name each layer once, in ascending order, found {idx:?}")
        });
        self.unless(idx.iter().all(|l| *l <= MAX_SIZE), || {
            format!("{key} must be at most {MAX_SIZE}, found {idx:?}")
        });
    }

    fn into_result(self) -> Result<()> {
        if self.0.is_empty() { Ok(()) } else { Err(Error::config(self.0.join("\n"))) }
    }
}

impl Config {
    /// This configuration without what a run may change when it is resumed: where data and backbone
    /// lie (their content is checked), evaluation batches, checkpoints, baselines, other people's numbers.
    pub fn identity(&self) -> Config {
        let mut same = self.clone();
        let default = Config::default();
        same.data.dir = default.data.dir;
        same.data.cache_dir = default.data.cache_dir;
        same.data.cache_gb = default.data.cache_gb;
        same.model.init_checkpoint = default.model.init_checkpoint;
        same.train.eval_batch_size = default.train.eval_batch_size;
        same.train.checkpoint_every_steps = default.train.checkpoint_every_steps;
        same.baselines = default.baselines;
        same.published = default.published;
        same
    }
}

impl super::schema::Baselines {
    /// Whether any baseline is asked for.
    pub fn any(&self) -> bool {
        self.ncm || self.linear_probe || self.naive_head || self.single_prompt
    }
}
