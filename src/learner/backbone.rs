//! From the configuration's checkpoint to a model with its parameters in place.

use crate::config::Config;
use crate::config::schema::{GeluChoice, InputNorm, PositionRule};
use crate::data::Normalize;
use crate::device::{Choice, Device};
use crate::error::{Error, Result};
use crate::import::{self, Backbone, Gelu, PositionResize};
use crate::methods::{Method, Ranks};
use crate::network::{Model, Setup};
use crate::nn::vit::Dims;
use crate::ops::gelu::GeluForm;
use crate::tensor::plan::Plan;
use std::path::Path;

/// The small backbone that comes with the program; `docs/results.md` says how it was made.
const MICRO: &[u8] = include_bytes!("../../assets/micro.safetensors");

/// Reads the checkpoint that `model.init_checkpoint` names.
///
/// # Errors
/// Those of [`import::load`]; `Error::Config` for an unknown bundled name or no checkpoint at all.
pub fn load(config: &Config) -> Result<Backbone> {
    let model = &config.model;
    let norm = match model.input_norm {
        InputNorm::Auto => None,
        InputNorm::Unit => Some(Normalize::UNIT),
        InputNorm::Half => Some(Normalize::HALF),
        InputNorm::ImageNet => Some(Normalize::IMAGENET),
        InputNorm::Cifar10 => Some(Normalize::CIFAR10),
        InputNorm::Cifar100 => Some(Normalize::CIFAR100),
    };
    let options = import::LoadOptions {
        heads: model.heads,
        blocks: model.blocks,
        image_size: config.data.input_size,
        gelu: match model.gelu {
            GeluChoice::Auto => None,
            GeluChoice::Tanh => Some(Gelu::Tanh),
            GeluChoice::Erf => Some(Gelu::Erf),
        },
        layer_norm_eps: (model.layer_norm_eps > 0.0).then_some(model.layer_norm_eps),
        norm: norm.map(|n| (n.mean, n.std)),
        position_resize: match model.position_resize {
            PositionRule::Auto => None,
            PositionRule::BilinearAligned => Some(PositionResize::BilinearAligned),
            PositionRule::Bicubic => Some(PositionResize::Bicubic),
            PositionRule::BicubicAntialias => Some(PositionResize::BicubicAntialias),
            PositionRule::Dinov2 => Some(PositionResize::Dinov2),
        },
    };
    match model.init_checkpoint.as_str() {
        "" => Err(Error::config(
            "model.init_checkpoint: a pre-trained backbone is needed; give --init-checkpoint FILE \
             (.npz, .safetensors, .pth or a folder) or `bundled:micro`",
        )),
        "bundled:micro" => import::load_bytes("bundled:micro", MICRO, &options),
        name if name.starts_with("bundled:") => Err(Error::config(format!(
            "model.init_checkpoint: the only bundled backbone is `bundled:micro`, found `{name}`"
        ))),
        path => import::load(Path::new(path), &options),
    }
}

/// The position table of [`crate::nn::vit::Vit`]: row of the class token, register tokens, rows of the patches.
fn position_table(backbone: &Backbone) -> Vec<f32> {
    let rows = |name: &str| backbone.tensors.get(name).map_or(&[][..], |tensor| tensor.data.as_slice());
    let positions = rows("pos_embedding");
    let (class, patches) = positions.split_at(backbone.dims.embed_dim.min(positions.len()));
    [class, rows("registers"), patches].concat()
}

/// What the weights expect of pixels.
pub fn normalize(backbone: &Backbone) -> Normalize {
    Normalize { mean: backbone.mean, std: backbone.std }
}

/// The engine's view of a backbone's extents.
pub fn dims(backbone: &Backbone) -> Dims {
    let d = backbone.dims;
    Dims {
        image_size: d.image_size,
        patch_size: d.patch_size,
        embed_dim: d.embed_dim,
        heads: d.heads,
        mlp_dim: d.mlp_dim,
        layers: d.layers,
        registers: d.registers,
        eps: backbone.layer_norm_eps,
        gelu: match backbone.gelu {
            Gelu::Tanh => GeluForm::Tanh,
            Gelu::Erf => GeluForm::Erf,
        },
    }
}

/// Where a run of this network with steps of `images` images is computed; see [`Choice::fitting`].
///
/// # Errors
/// `Error::Failed` if the GPU that was asked for has too little free memory.
pub fn fitting_device(
    config: &Config,
    dims: Dims,
    classes: usize,
    choice: Choice,
    images: usize,
) -> Result<Device> {
    let mut config = config.clone();
    config.precision = crate::train::session::precision(config.precision, &choice.device)?;
    let mut plan = Plan::dry(&choice.device);
    planned(&config, dims, classes, &mut plan, images)?;
    let (device, note) = choice.fitting(plan.total_bytes())?;
    if let Some(note) = note {
        crate::output::say(&note);
    }
    Ok(device)
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
    images: usize,
) -> Result<Box<dyn Method>> {
    let model = Model::new(Setup::new(config, dims, classes, max_batch(config, images))?, plan);
    Ok(crate::methods::build(config, model, plan, &Ranks::alone(images)))
}

fn max_batch(config: &Config, images: usize) -> usize {
    // Test images vote in groups of their own size.
    let (train, vote) = (&config.train, config.prompt_pool.vote_group);
    images.max(train.per_device_batch_size).max(train.eval_batch_size).max(vote)
}

/// A model of `config` on `backbone`, prompts initialised from `config.seed`, for steps of up to `images` images.
///
/// # Errors
/// `Error::Config` if configuration and backbone do not fit.
pub fn model(
    config: &Config,
    backbone: &Backbone,
    classes: usize,
    plan: &mut Plan,
    images: usize,
) -> Result<Model> {
    let setup = Setup::new(config, dims(backbone), classes, max_batch(config, images))?;
    let mut model = Model::new(setup, plan);
    plan.check()?;
    let table = position_table(backbone);
    for (name, tensor) in &backbone.tensors {
        let data = match name.as_str() {
            // Rows of the position table.
            "registers" => continue,
            "pos_embedding" => &table,
            _ => &tensor.data,
        };
        for params in [Some(&mut model.params), model.query_params.as_mut()].into_iter().flatten() {
            let id = params.find(name).ok_or_else(|| {
                Error::failed(format!("the backbone's tensor `{name}` has no place in the model"))
            })?;
            params.set_f32(id, data)?;
        }
    }
    model.init_prompts(config.seed)?;
    Ok(model)
}
