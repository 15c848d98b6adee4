//! A network assembled for a purpose: from configuration and backbone to a method that answers and learns.

use super::backbone;
use super::origin;
use super::parts;
use super::position::Position;
use super::precision::{precision, reading_precision};
use super::purpose::{Purpose, model, planned};
use crate::config::Config;
use crate::config::schema::{Augment, Method as Name};
use crate::data::{Normalize, Preprocess};
use crate::device::{Choice, Device};
use crate::error::{Error, Result};
use crate::import::Backbone;
use crate::methods::{self, Method};
use crate::nn::vit::Dims;
use crate::tensor::plan::Plan;
use std::path::Path;

/// Where the weights of a backbone come from.
#[derive(Clone, Copy)]
pub enum InitialWeights<'a> {
    /// The checkpoint that the configuration names.
    Checkpoint,
    /// The pre-trained weights that another learner holds.
    Same(&'a Learner),
    /// Drawn by the seed of the configuration.
    Random,
}

/// A network with all that it takes to answer.
pub struct Learner {
    /// With the precision of the device.
    pub config: Config,
    pub dev: Device,
    /// What the backbone is; its tensors are those of the method's model.
    pub backbone: Backbone,
    pub plan: Plan,
    pub method: Box<dyn Method>,
    pub preprocess: Preprocess,
    /// By engine class id.
    pub class_names: Vec<String>,
    /// Engine class ids that learning has met, ascending.
    pub classes_seen: Vec<u32>,
}

impl Learner {
    /// How images are prepared, but for the augmentation.
    ///
    /// # Errors
    /// Those of [`Preprocess::new`].
    pub fn preprocess_with(&self, augment: Augment) -> Result<Preprocess> {
        let norm = Normalize { mean: self.backbone.mean, std: self.backbone.std };
        Preprocess::new(&crate::config::schema::Data { augment, ..self.config.data.clone() }, norm)
    }

    /// A learner of `config` on `dev` around `backbone`, of which only the description is read. Prompts are
    /// initialised from `config.seed`.
    ///
    /// # Errors
    /// `Error::Config` if configuration, device and backbone do not fit; those of [`backbone::read`].
    pub fn new(
        mut config: Config,
        mut backbone: Backbone,
        dev: Device,
        class_names: Vec<String>,
        purpose: Purpose,
        weights: InitialWeights,
    ) -> Result<Learner> {
        config.precision = match purpose {
            Purpose::Inference { .. } => reading_precision(config.precision, &dev),
            _ => precision(config.precision, &dev)?,
        };
        expect_kernels(&config, &dev)?;
        config.check_with_layers(backbone.dims.layers)?;
        let dims = backbone::dims(&backbone);
        parts::divide(&mut config, dims, class_names.len(), purpose, || Plan::dry(&dev), dev.free_bytes())?;
        let mut plan = Plan::on(&dev);
        let mut model = model(&config, dims, class_names.len(), &mut plan, purpose)?;
        plan.check()?;
        match weights {
            InitialWeights::Checkpoint => backbone.sha256 = backbone::read(&config, &mut model)?,
            InitialWeights::Same(other) => {
                backbone::copy(other.method.model(), &mut model)?;
                backbone.sha256.clone_from(&other.backbone.sha256);
            }
            InitialWeights::Random => backbone::draw(&mut model, config.seed)?,
        }
        model.init_prompts(config.seed)?;
        let method = methods::build(&config, model, &mut plan, &purpose.ranks());
        plan.check()?;
        let norm = Normalize { mean: backbone.mean, std: backbone.std };
        let preprocess = Preprocess::new(&config.data, norm)?;
        let classes_seen = Vec::new();
        Ok(Learner { config, dev, backbone, plan, method, preprocess, class_names, classes_seen })
    }

    /// # Errors
    /// `Error::Failed` if the run in `workdir`, which stands at `at`, was made on another backbone than this one, or
    /// the backbone was understood in another way.
    pub fn expect_backbone(&self, at: &Position, workdir: &Path) -> Result<()> {
        backbone::expect(&self.config, &self.backbone.sha256, &at.checkpoint_sha256, workdir)?;
        origin::expect(&at.origin, &origin::of_backbone(&self.backbone), workdir)
    }

    /// Adds to the classes that learning has met.
    pub fn meet(&mut self, classes: &[u32]) {
        self.classes_seen.extend(classes);
        self.classes_seen.sort_unstable();
        self.classes_seen.dedup();
    }
}

/// Refuses a GPU for what has no kernels.
fn expect_kernels(config: &Config, dev: &Device) -> Result<()> {
    if config.method == Name::Ranpac && config.ranpac.adapter_width > 0 && dev.gpu().is_some() {
        return Err(Error::config(
            "ranpac.adapter_width > 0 has no kernels yet and computes on the CPU alone; use --device cpu, or 0 for RanPAC \
             without adapters",
        ));
    }
    Ok(())
}

/// Images at once in tests of a run of `config`: a batch, or a whole vote.
pub fn test_images(config: &Config) -> usize {
    let (train, group) = (&config.train, config.prompt_pool.vote_group);
    train.eval_batch_size.max(if group == 0 { train.per_device_batch_size } else { group })
}

/// Where this network is computed; see [`Choice::fitting`]. What has no kernels takes the CPU where `auto` chose a GPU.
///
/// # Errors
/// `Error::Failed` if the GPU that was asked for has too little free memory for this purpose; `Error::Config` if there are
/// no kernels for it.
pub fn fitting_device(
    config: &Config,
    dims: Dims,
    classes: usize,
    choice: Choice,
    purpose: Purpose,
) -> Result<Device> {
    if let Err(why) = expect_kernels(config, &choice.device) {
        if !choice.auto {
            return Err(why);
        }
        crate::output::say(&format!("the GPU is not used: {why}"));
        return Ok(Device::Cpu);
    }
    let mut config = config.clone();
    config.precision = match purpose {
        Purpose::Inference { .. } => reading_precision(config.precision, &choice.device),
        _ => precision(config.precision, &choice.device)?,
    };
    let (dev, free) = (&choice.device, choice.device.free_bytes());
    parts::divide(&mut config, dims, classes, purpose, || Plan::dry(dev), free)?;
    let mut plan = Plan::dry(&choice.device);
    planned(&config, dims, classes, &mut plan, purpose)?;
    plan.check()?;
    let (device, note) = choice.fitting(plan.total_bytes())?;
    if let Some(note) = note {
        crate::output::say(&note);
    }
    Ok(device)
}
