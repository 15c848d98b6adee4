//! What a network is planned for, and the network as a plan counts it.

use crate::config::Config;
use crate::error::Result;
use crate::methods::{self, Method, Ranks};
use crate::network::{Model, Setup};
use crate::nn::vit::Dims;
use crate::tensor::plan::Plan;

/// What the memory of a learner is planned for.
#[derive(Debug, Clone, Copy)]
pub enum Purpose<'a> {
    /// Answers for up to so many images at once: no gradients, no moments, no packed weights, one copy of a backbone.
    Inference { images: usize },
    /// Steps of up to so many images on this rank, and tests in between.
    Training { ranks: &'a Ranks, images: usize },
    /// The same for a new backbone.
    Pretraining { ranks: &'a Ranks, images: usize },
}

impl Purpose<'_> {
    /// Images of a step on this rank, if there are steps.
    pub(super) fn step_images(&self) -> Option<usize> {
        match *self {
            Purpose::Inference { .. } => None,
            Purpose::Training { images, .. } | Purpose::Pretraining { images, .. } => Some(images),
        }
    }

    pub(super) fn ranks(&self) -> Ranks {
        match self {
            Purpose::Inference { images } => Ranks::alone(*images),
            Purpose::Training { ranks, .. } | Purpose::Pretraining { ranks, .. } => (*ranks).clone(),
        }
    }

    /// Most images at once.
    fn room(&self, config: &Config) -> usize {
        match *self {
            Purpose::Inference { images } => images,
            // Test images vote in groups of their own size.
            Purpose::Training { images, .. } | Purpose::Pretraining { images, .. } => {
                let part = config.train.micro_batch.of(images);
                let whole = if part < images { part } else { images.max(config.train.per_device_batch_size) };
                whole.max(config.train.eval_batch_size).max(config.prompt_pool.vote_group)
            }
        }
    }
}

/// The network without weights.
pub(super) fn model(
    config: &Config,
    dims: Dims,
    classes: usize,
    plan: &mut Plan,
    purpose: Purpose,
) -> Result<Model> {
    let mut setup = Setup::new(config, dims, classes, purpose.room(config))?;
    match purpose {
        Purpose::Inference { .. } => (setup.training, setup.keep_original) = (false, false),
        Purpose::Training { .. } => {}
        Purpose::Pretraining { .. } => {
            (setup.keep_original, setup.label_smoothing) = (false, config.pretrain.label_smoothing);
            setup.layer_decay = config.pretrain.layer_decay;
        }
    }
    Ok(Model::new(setup, plan))
}

/// A network without weights, with everything that its method needs counted in a dry plan.
///
/// # Errors
/// `Error::Config` if configuration and extents do not fit.
pub fn planned(
    config: &Config,
    dims: Dims,
    classes: usize,
    plan: &mut Plan,
    purpose: Purpose,
) -> Result<Box<dyn Method>> {
    let model = model(config, dims, classes, plan, purpose)?;
    Ok(methods::build(config, model, plan, &purpose.ranks()))
}
