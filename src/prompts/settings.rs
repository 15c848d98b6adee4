//! What prompt methods read of a configuration, and the memory that they may ask for.

use crate::config::schema::{self, CodaPrompt, Config, GPrompt, Method, PromptPool};
use crate::error::{Error, Result};
use crate::nn::vit::Dims;
use crate::tensor::DType;

/// The sections of a configuration that prompt methods read.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// `[prompt_pool]`; `None`: no pool.
    pub pool: Option<PromptPool>,
    /// `[g_prompt]`; `None`: no general prompt.
    pub general: Option<GPrompt>,
    /// `[coda]`; `None`: another method.
    pub components: Option<Components>,
    /// By which a selection at random draws.
    pub seed: u64,
    /// `[s_prompts]`; `None`: another method.
    pub domains: Option<Domains>,
}

/// The components of CODA-Prompt, the tasks that they are divided among, and the seed of their draws.
#[derive(Debug, Clone)]
pub struct Components {
    pub config: CodaPrompt,
    pub tasks: usize,
    pub seed: u64,
}

/// The domains of S-Prompts, as many as there are tasks, and the seed of their centres.
#[derive(Debug, Clone)]
pub struct Domains {
    pub config: schema::SPrompts,
    pub tasks: usize,
    pub seed: u64,
}

impl Components {
    /// A task that was added has as many components of its own as those before it.
    fn of(config: &Config) -> Components {
        let (tasks, added) = (config.tasks(), config.data.added_sizes.len());
        let each = config.coda.components / (tasks - added).max(1);
        let components = config.coda.components + added * each;
        Components { config: CodaPrompt { components, ..config.coda.clone() }, tasks, seed: config.seed }
    }

    /// Components of a task; what is left of the division is never used.
    pub fn each(&self) -> usize {
        self.config.components / self.tasks.max(1)
    }
}

/// The network that prompts enter, and its largest batch.
#[derive(Debug, Clone, Copy)]
pub struct Room {
    pub dims: Dims,
    /// Images of the largest batch.
    pub batch: usize,
    /// Whether gradients will be asked for.
    pub training: bool,
    /// Type of queries, keys and similarities.
    pub dtype: DType,
    /// Type of the tokens and prefixes.
    pub activations: DType,
}

impl Settings {
    pub fn of(config: &Config) -> Settings {
        Settings {
            pool: (config.prompt_pool.pool_size > 0).then(|| config.prompt_pool.clone()),
            general: (config.g_prompt.g_prompt_length > 0).then(|| config.g_prompt.clone()),
            components: (config.method == Method::CodaPrompt).then(|| Components::of(config)),
            seed: config.seed,
            domains: (config.method == Method::SPrompts).then(|| Domains {
                config: config.s_prompts.clone(),
                tasks: config.tasks(),
                seed: config.seed,
            }),
        }
    }

    /// # Errors
    /// `Error::Config` naming the key, what a backbone of `layers` layers allows and what was found.
    pub fn check(&self, layers: usize) -> Result<()> {
        if let Some(pool) = &self.pool {
            check_layers("prompt_pool.e_prompt_layer_idx", &pool.e_prompt_layer_idx, layers)?;
            if pool.top_k == 0 || pool.top_k > pool.pool_size {
                return Err(Error::config(format!(
                    "prompt_pool.top_k: wanted between 1 and prompt_pool.pool_size = {}, found {}",
                    pool.pool_size, pool.top_k
                )));
            }
            if !pool.prompt_key && pool.use_prefix_tune_for_e_prompt {
                return Err(Error::config(
                    "prompt_pool.prompt_key: wanted true with use_prefix_tune_for_e_prompt, because the mean of \
                     key and value prefixes is no query-sized vector; found false",
                ));
            }
        }
        if let Some(general) = &self.general {
            check_layers("g_prompt.g_prompt_layer_idx", &general.g_prompt_layer_idx, layers)?;
        }
        if let Some(components) = &self.components {
            check_layers("coda.layers", &components.config.layers, layers)?;
        }
        Ok(())
    }
}

fn check_layers(key: &str, wanted: &[usize], layers: usize) -> Result<()> {
    match wanted.iter().find(|&&l| l >= layers) {
        Some(l) => Err(Error::config(format!(
            "{key}: the backbone has {layers} layers (0 to {}), found layer {l}",
            layers - 1
        ))),
        None => Ok(()),
    }
}
