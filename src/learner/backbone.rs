//! The backbone of a configuration: what its checkpoint is, and its weights on their way into a model.

use crate::config::Config;
use crate::config::schema::{GeluChoice, InputNorm, PositionRule};
use crate::data::Normalize;
use crate::error::{Error, Result};
use crate::import::{self, Backbone, Gelu, HostTensor, PositionResize};
use crate::network::Model;
use crate::nn::params::{Params, is_backbone};
use crate::nn::vit::Dims;
use crate::ops::gelu::GeluForm;
use crate::rng::{Rng, Stream};
use std::path::Path;

/// The small backbone that comes with the program; `docs/results.md` says how it was made.
const MICRO: &[u8] = include_bytes!("../../assets/micro.safetensors");

/// Deviation of drawn weights (Dosovitskiy et al. 2021 use the same for the positions).
const INIT: f64 = 0.02;

/// A checkpoint that a configuration names.
enum Named<'a> {
    Bundled(&'a str),
    File(&'a Path),
}

fn named(config: &Config) -> Result<Named<'_>> {
    match config.model.init_checkpoint.as_str() {
        "" => Err(Error::config(
            "model.init_checkpoint: a pre-trained backbone is needed; give --init-checkpoint FILE \
             (.npz or .safetensors) or `bundled:micro`",
        )),
        name @ "bundled:micro" => Ok(Named::Bundled(name)),
        name if name.starts_with("bundled:") => Err(Error::config(format!(
            "model.init_checkpoint: the only bundled backbone is `bundled:micro`, found `{name}`"
        ))),
        path => Ok(Named::File(Path::new(path))),
    }
}

fn options(config: &Config) -> import::LoadOptions {
    let model = &config.model;
    let norm = match model.input_norm {
        InputNorm::Auto => None,
        InputNorm::Unit => Some(Normalize::UNIT),
        InputNorm::Half => Some(Normalize::HALF),
        InputNorm::ImageNet => Some(Normalize::IMAGENET),
        InputNorm::Cifar10 => Some(Normalize::CIFAR10),
        InputNorm::Cifar100 => Some(Normalize::CIFAR100),
    };
    import::LoadOptions {
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
    }
}

/// What the checkpoint is that `model.init_checkpoint` names, from its header: no tensors, no checksum.
///
/// # Errors
/// Those of [`import::describe`]; `Error::Config` for an unknown bundled name or no checkpoint at all.
pub fn describe(config: &Config) -> Result<Backbone> {
    let options = options(config);
    match named(config)? {
        Named::Bundled(name) => import::describe_bytes(name, MICRO, &options),
        Named::File(path) => import::describe(path, &options),
    }
}

/// A sentence for each key that says something else than the checkpoint, which `auto` would follow.
///
/// # Errors
/// Those of [`describe`].
pub fn contradictions(config: &Config) -> Result<Vec<String>> {
    let (set, mut auto) = (describe(config)?, config.clone());
    (auto.model.gelu, auto.model.input_norm) = (GeluChoice::Auto, InputNorm::Auto);
    let own = describe(&auto)?;
    let mut found = Vec::new();
    let mut say = |key: &str, given: String, own: String| {
        found.push(format!(
            "model.{key} = \"{given}\", but {} was made with {own}; model.{key} = \"auto\" follows the checkpoint",
            config.model.init_checkpoint
        ));
    };
    if set.gelu != own.gelu {
        say("gelu", config.model.gelu.to_string(), format!("{:?}", own.gelu).to_lowercase());
    }
    if (set.mean, set.std) != (own.mean, own.std) {
        let values = format!("mean {:?} and deviation {:?}", own.mean, own.std);
        say("input_norm", config.model.input_norm.to_string(), values);
    }
    Ok(found)
}

/// Reads the checkpoint that `model.init_checkpoint` names into `model`, one tensor at a time, and returns its
/// SHA-256.
///
/// # Errors
/// Those of [`import::read`].
pub fn read(config: &Config, model: &mut Model) -> Result<String> {
    let options = options(config);
    let mut place = |name: &str, tensor: HostTensor| place(model, name, &tensor);
    let read = match named(config)? {
        Named::Bundled(name) => import::read_bytes(name, MICRO, &options, &mut place),
        Named::File(path) => import::read(path, &options, &mut place),
    };
    Ok(read?.sha256)
}

/// The checkpoint that `model.init_checkpoint` names, with all its tensors.
///
/// # Errors
/// Those of [`import::load`].
pub fn load(config: &Config) -> Result<Backbone> {
    let options = options(config);
    match named(config)? {
        Named::Bundled(name) => import::load_bytes(name, MICRO, &options),
        Named::File(path) => import::load(path, &options),
    }
}

/// # Errors
/// `Error::Failed` if the backbone that `config` names, with checksum `found`, is not that of the run in `workdir`, which
/// had `wanted`.
pub fn expect(config: &Config, found: &str, wanted: &str, workdir: &Path) -> Result<()> {
    if found == wanted {
        return Ok(());
    }
    Err(Error::failed(format!(
        "{}: the run was made on a backbone with sha256 {wanted}, {} has {found}; wanted the same file",
        workdir.display(),
        config.model.init_checkpoint,
    )))
}

/// The parameters that hold the backbone: those of the model, and where it learns, the copy that does not.
fn holders(model: &mut Model) -> impl Iterator<Item = &mut Params> {
    [Some(&mut model.params), model.query_params.as_mut()].into_iter().flatten()
}

fn no_place(name: &str) -> Error {
    Error::failed(format!("the backbone's tensor `{name}` has no place in the model"))
}

/// Puts a tensor of a backbone into a model, under its name there.
///
/// # Errors
/// `Error::Failed` if it has no place, or the device fails.
pub fn place(model: &mut Model, name: &str, tensor: &HostTensor) -> Result<()> {
    let (registers, c) = (model.setup.dims.registers, model.setup.dims.embed_dim);
    for params in holders(model) {
        // Register tokens are rows of the position table behind that of the class token; see `Vit::positions`.
        let in_table = if name == "registers" { "pos_embedding" } else { name };
        let id = params.find(in_table).ok_or_else(|| no_place(name))?;
        if registers == 0 || in_table != "pos_embedding" {
            params.set_f32(id, &tensor.data)?;
            continue;
        }
        let mut table: Vec<f32> = params.get(id).read_f64()?.into_iter().map(|v| v as f32).collect();
        if name == "registers" {
            table[c..][..registers * c].copy_from_slice(&tensor.data);
        } else {
            let (class, patches) = tensor.data.split_at(c);
            table[..c].copy_from_slice(class);
            table[(1 + registers) * c..].copy_from_slice(patches);
        }
        params.set_f32(id, &table)?;
    }
    Ok(())
}

/// Copies the pre-trained weights of one model to another of the same backbone.
///
/// # Errors
/// `Error::Failed` if a tensor has no place, or the device fails.
pub fn copy(from: &Model, to: &mut Model) -> Result<()> {
    let source = from.query_params.as_ref().unwrap_or(&from.params);
    for (name, tensor) in tensors(source)? {
        for params in holders(to) {
            let id = params.find(&name).ok_or_else(|| no_place(&name))?;
            params.set_f32(id, &tensor.data)?;
        }
    }
    Ok(())
}

/// The backbone's tensors among parameters, by name.
///
/// # Errors
/// `Error::Failed` if the device fails.
pub fn tensors(params: &Params) -> Result<Vec<(String, HostTensor)>> {
    let names = params.ids().filter(|&id| is_backbone(&params.spec(id).name));
    names
        .map(|id| {
            let data = params.get(id).read_f64()?.into_iter().map(|v| v as f32).collect();
            let spec = params.spec(id);
            Ok((spec.name.clone(), HostTensor { shape: spec.shape.dims().to_vec(), data }))
        })
        .collect()
}

/// Kernels, class token and positions normal with deviation 0.02, scales one, the rest zero.
pub fn draw(model: &mut Model, seed: u64) -> Result<()> {
    for (i, id) in model.params.ids().enumerate() {
        let name = model.params.spec(id).name.clone();
        let mut rng = Rng::new(seed, Stream::Init, 1 << 32 | i as u64);
        let word = name.rsplit('/').next().unwrap_or_default();
        model.params.draw(id, || match word {
            "scale" => 1.0,
            "bias" => 0.0,
            _ => INIT * rng.normal(),
        })?;
    }
    Ok(())
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
