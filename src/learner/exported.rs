//! A run in one file that answers: safetensors with the backbone under the engine's names, what the run has learned under
//! `run/`, and in the header the manifest `run`, a JSON object. `docs/export.md` describes it.
//!
//! The file is a backbone file of this engine with more in it, so the part that reads backbones reads it as it is.

use super::backbone;
use super::position::Position;
use crate::config::Config;
use crate::config::schema::{GeluChoice, InputNorm, Method, PositionRule};
use crate::error::{Error, Result};
use crate::import::{self, MoreTensor};
use crate::output::checkpoint::{self, State, Tensors};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

const FORMAT: &str = "l2p-engine run 1";
/// The entry of the header that holds the manifest.
const ENTRY: &str = "run";

/// Whether a saved tensor is needed to answer. The others are needed to learn on.
fn answers(method: Method, name: &str) -> bool {
    let beside = ["m/", "v/", "importance/", "anchor/", "frozen/"];
    let taught = ["state/positions of taught images", "state/answers of the teacher"];
    let sums = method == Method::Ranpac && ["gram", "class sums"].contains(&name);
    !(sums || taught.contains(&name) || beside.iter().any(|prefix| name.starts_with(prefix)))
}

/// What a run has learned, and with which configuration.
#[derive(Debug, Clone)]
pub struct Learned {
    pub config: Config,
    pub at: Position,
    pub tensors: Tensors,
}

/// Writes all that the run in `workdir` needs to answer as the file `path`, whole or not at all. Equal runs give equal
/// bytes.
///
/// # Errors
/// Those of [`backbone::load`] and [`import::write_native_with`], [`backbone::expect`].
pub fn write(run: &Learned, workdir: &Path, path: &Path) -> Result<()> {
    let Learned { config, at, tensors } = run;
    let whole = backbone::load(config)?;
    backbone::expect(config, &whole.sha256, &at.checkpoint_sha256, workdir)?;
    let needed: Vec<_> = tensors.iter().filter(|(name, ..)| answers(config.method, name)).collect();
    let names: Vec<&str> = needed.iter().map(|(name, ..)| name.as_str()).collect();
    let position = json!({
        "task": at.task, "task_step": at.task_step, "step": at.step, "optimizer_step": at.optimizer_step,
        "class_names": at.class_names, "classes_seen": at.classes_seen, "batch": at.images(config),
        "checkpoint_sha256": at.checkpoint_sha256,
    });
    let manifest = json!({
        "format": FORMAT,
        "engine_version": env!("CARGO_PKG_VERSION"),
        "config": of_file(config).to_toml(),
        "position": position,
        "tensors": names,
    });
    let more: Vec<MoreTensor> = needed
        .iter()
        .map(|(name, shape, data)| MoreTensor {
            name: format!("{}{name}", import::RUN),
            dtype: data.dtype(),
            shape,
            bytes: data.bytes(),
        })
        .collect();
    let entries = BTreeMap::from([(ENTRY.to_string(), manifest.to_string())]);
    import::write_native_with(path, &whole, &entries, &more)
}

/// The configuration for the backbone as it is in the file: with the extents, positions and constants that the run has.
fn of_file(config: &Config) -> Config {
    let mut own = config.clone();
    let model = &mut own.model;
    (model.heads, model.blocks, model.layer_norm_eps) = (0, 0, 0.0);
    (model.gelu, model.input_norm) = (GeluChoice::Auto, InputNorm::Auto);
    model.position_resize = PositionRule::Auto;
    own
}

/// Reads a file that [`write`] has written.
///
/// # Errors
/// `Error::File` if it is none, damaged, or of another version.
pub fn read(path: &Path) -> Result<Learned> {
    let entries = import::metadata(path)?;
    let Some(text) = entries.get(ENTRY) else {
        return Err(Error::file(
            path,
            "is a file, but no exported run; wanted the work directory of a run, or a file that `export` wrote",
        ));
    };
    let bad = |what: &str| Error::file(path, format!("the manifest of the exported run {what}"));
    let manifest: Value = serde_json::from_str(text).map_err(|e| bad(&format!("is not understood: {e}")))?;
    if manifest["format"] != FORMAT {
        return Err(bad(&format!("must say format \"{FORMAT}\", found {}", manifest["format"])));
    }
    let toml = manifest["config"].as_str().ok_or_else(|| bad("has no `config`"))?;
    let mut config = Config::from_toml(toml, &path.display().to_string())?;
    config.check()?;
    let names: Vec<String> = serde_json::from_value(manifest["tensors"].clone())
        .map_err(|e| bad(&format!("has no list `tensors`: {e}")))?;
    let mut meta = serde_json::to_value(Position::default()).map_err(|e| bad(&e.to_string()))?;
    let known = manifest["position"].as_object().ok_or_else(|| bad("has no `position`"))?;
    known.iter().for_each(|(key, value)| meta[key] = value.clone());
    // The weights are those of this file from now on.
    meta["checkpoint_sha256"] = import::checksum(path)?.into();
    let tensors = checkpoint::read_some(path, import::RUN, &names)?;
    let step = meta["step"].as_u64().unwrap_or(0);
    let state = State { step, meta, tensors };
    let at = Position::of(&state, &config)?;
    config.model.init_checkpoint = path.to_string_lossy().into_owned();
    Ok(Learned { config, at, tensors: state.tensors })
}
