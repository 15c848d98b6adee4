//! The keys whose value follows from the method, and the part of a configuration that makes a run what it is.

use super::schema::{Augment, Baselines, Classifier, Config, Method, Scenario, TaskSizes};

/// The keys and tables that [`Config::identity`] leaves out.
const FREE: [&str; 10] = [
    "published",
    "data.dir",
    "data.added",
    "data.cache_dir",
    "data.cache_gb",
    "model.init_checkpoint",
    "train.eval_batch_size",
    "train.micro_batch",
    "train.checkpoint_every_steps",
    "baselines",
];

/// The key that a run may change when it goes on, which is recorded: a part of its identity all the same.
pub const CHANGEABLE: &str = "optim.learning_rate";

/// Whether a run may change the key at `path` when it is resumed.
pub(super) fn is_free(path: &str) -> bool {
    FREE.iter()
        .any(|free| path.strip_prefix(free).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')))
}

impl Config {
    /// Sets the keys whose value follows from `method`, and returns a sentence for each one changed
    /// and for each likely mistake. A second call changes nothing.
    pub fn resolve(&mut self) -> Vec<String> {
        let mut notes = Vec::new();
        let method = self.method;
        let because = format!("method = \"{method}\"");
        match method {
            Method::CodaPrompt
            | Method::SPrompts
            | Method::FineTune
            | Method::Linear
            | Method::Ewc
            | Method::Lwf
            | Method::Ncm
            | Method::Ranpac => {
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
        if method == Method::Ranpac {
            self.imply_test_transform(&mut notes, &because);
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
            (cl.num_tasks, cl.num_classes_per_task, cl.eval_every_tasks) = (1, TaskSizes::Same(0), 1);
        }
        cl.scenario = Scenario::Joint;
        Some(format!(
            "method = \"joint\" is continual.scenario = \"joint\" with method = \"{}\" now",
            self.method
        ))
    }

    /// Training images are prepared like test images.
    fn imply_test_transform(&mut self, notes: &mut Vec<String>, because: &str) {
        let data = &mut self.data;
        imply(notes, because, "data.augment", &mut data.augment, Augment::None);
        imply(notes, because, "data.jpeg_reencode", &mut data.jpeg_reencode, false);
        imply(notes, because, "data.rand_augment_layers", &mut data.rand_augment_layers, 0);
        imply(notes, because, "data.color_jitter", &mut data.color_jitter, 0.0);
        imply(notes, because, "data.erase_probability", &mut data.erase_probability, 0.0);
    }

    /// Without prompt tokens in the sequence the class token is what there is to classify.
    fn imply_token(&mut self, notes: &mut Vec<String>, because: &str) {
        let classifier = &mut self.model.vit_classifier;
        if matches!(classifier, Classifier::Prompt | Classifier::TokenPrompt) {
            imply(notes, because, "model.vit_classifier", classifier, Classifier::Token);
        }
    }

    /// This configuration without what a run may change when it is resumed: where data and backbone
    /// lie (their content is checked), evaluation batches, checkpoints, baselines, other people's numbers.
    pub fn identity(&self) -> Config {
        let mut same = self.clone();
        let default = Config::default();
        same.data.dir = default.data.dir;
        same.data.added = default.data.added;
        same.data.cache_dir = default.data.cache_dir;
        same.data.cache_gb = default.data.cache_gb;
        same.model.init_checkpoint = default.model.init_checkpoint;
        same.train.eval_batch_size = default.train.eval_batch_size;
        same.train.micro_batch = default.train.micro_batch;
        same.train.checkpoint_every_steps = default.train.checkpoint_every_steps;
        same.baselines = default.baselines;
        same.published = default.published;
        same
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

impl Baselines {
    /// None of them.
    pub fn none() -> Baselines {
        Baselines {
            ncm: false,
            linear_probe: false,
            naive_head: false,
            ranpac: false,
            single_prompt: false,
            random_prompts: false,
            fixed_prompts: false,
        }
    }

    /// Whether any baseline is asked for.
    pub fn any(&self) -> bool {
        let runs = self.single_prompt || self.random_prompts || self.fixed_prompts;
        self.ncm || self.linear_probe || self.naive_head || self.ranpac || runs
    }
}
