//! The keys whose value follows from the method, and the part of a configuration that makes a run what it is.

use super::schema::{Baselines, Classifier, Config, Method};

impl Config {
    /// Sets the keys whose value follows from `method`, and returns a sentence for each one changed
    /// and for each likely mistake. A second call changes nothing.
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
        notes
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
    /// Whether any baseline is asked for.
    pub fn any(&self) -> bool {
        self.ncm || self.linear_probe || self.naive_head || self.single_prompt
    }
}
