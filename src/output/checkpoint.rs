//! Checkpoints: `step_000123.safetensors` and its description `step_000123.json`.
//!
//! The data is written first, then the description that holds its checksum, then older ones are
//! deleted; so at every moment there is a whole checkpoint on the disk, and a damaged one is noticed.

use super::atomic;
use super::manifest::{FORMAT, Manifest, hex};
use crate::config::{CHANGEABLE, Config};
use crate::error::{Error, Result};
use safetensors::{Dtype, SafeTensors};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};

/// Checkpoints kept on the disk.
pub const KEPT: usize = 2;

/// The elements of a saved tensor.
#[derive(Debug, Clone, PartialEq)]
pub enum TensorData {
    F32(Vec<f32>),
    F64(Vec<f64>),
    U32(Vec<u32>),
}

impl TensorData {
    pub fn len(&self) -> usize {
        match self {
            TensorData::F32(v) => v.len(),
            TensorData::F64(v) => v.len(),
            TensorData::U32(v) => v.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// As safetensors call it.
    pub fn dtype(&self) -> &'static str {
        match self {
            TensorData::F32(_) => "F32",
            TensorData::F64(_) => "F64",
            TensorData::U32(_) => "U32",
        }
    }

    /// The elements as they lie in the file, little-endian.
    #[cfg(target_endian = "little")]
    pub fn bytes(&self) -> &[u8] {
        match self {
            TensorData::F32(v) => bytemuck::cast_slice(v),
            TensorData::F64(v) => bytemuck::cast_slice(v),
            TensorData::U32(v) => bytemuck::cast_slice(v),
        }
    }

    fn from_bytes(dtype: Dtype, bytes: &[u8]) -> Option<TensorData> {
        let (fours, _) = bytes.as_chunks::<4>();
        let (eights, _) = bytes.as_chunks::<8>();
        match dtype {
            Dtype::F32 => {
                Some(TensorData::F32(fours.iter().map(|b| f32::from_bits(u32::from_le_bytes(*b))).collect()))
            }
            Dtype::F64 => {
                Some(TensorData::F64(eights.iter().map(|b| f64::from_bits(u64::from_le_bytes(*b))).collect()))
            }
            Dtype::U32 => Some(TensorData::U32(fours.iter().map(|b| u32::from_le_bytes(*b)).collect())),
            _ => None,
        }
    }
}

/// Tensors by name, for checkpoints: name, shape, elements.
pub type Tensors = Vec<(String, Vec<usize>, TensorData)>;

/// Everything that a run needs to go on.
#[derive(Debug, Clone, PartialEq)]
pub struct State {
    /// Steps done since the start of the run, over all tasks.
    pub step: u64,
    /// Positions, counters, results so far.
    pub meta: Value,
    /// Name, shape and elements of each tensor, in the order in which they were saved.
    pub tensors: Tensors,
}

impl State {
    /// All of it in one piece, for another rank of the same run.
    ///
    /// # Errors
    /// Those of [`Store::save`] that are not of files.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let header = header_of(self)?;
        let names: Vec<&String> = self.tensors.iter().map(|(name, ..)| name).collect();
        let about = json!({ "step": self.step, "meta": self.meta, "tensors": names }).to_string();
        let mut bytes = (about.len() as u64).to_le_bytes().to_vec();
        bytes.extend(about.as_bytes());
        bytes.extend((header.len() as u64).to_le_bytes());
        bytes.extend(header.as_bytes());
        self.tensors.iter().for_each(|(_, _, data)| bytes.extend(data.bytes()));
        Ok(bytes)
    }

    /// # Errors
    /// [`Error::Failed`] for bytes that [`State::to_bytes`] has not made.
    pub fn from_bytes(bytes: &[u8]) -> Result<State> {
        let bad = || Error::failed("the state that rank 0 has sent is not understood");
        let (length, rest) = bytes.split_first_chunk::<8>().ok_or_else(bad)?;
        let length = usize::try_from(u64::from_le_bytes(*length)).map_err(|_| bad())?;
        let (about, data) = rest.split_at_checked(length).ok_or_else(bad)?;
        let about: Value = serde_json::from_slice(about).map_err(|_| bad())?;
        let names: Vec<String> = serde_json::from_value(about["tensors"].clone()).map_err(|_| bad())?;
        let step = about["step"].as_u64().ok_or_else(bad)?;
        Ok(State { step, meta: about["meta"].clone(), tensors: parse(data, &names).map_err(|_| bad())? })
    }
}

/// The checkpoints of one run.
#[derive(Debug, Clone)]
pub struct Store {
    dir: PathBuf,
    /// Of the run.
    config: Config,
    /// The run goes on and may change [`CHANGEABLE`].
    goes_on: bool,
}

impl Store {
    /// The checkpoints in `dir` of a run of `config`; `dir` is made if it does not exist. Leftovers of a save that
    /// was killed are removed.
    ///
    /// # Errors
    /// [`Error::File`] if `dir` cannot be made.
    pub fn open(dir: &Path, config: &Config) -> Result<Store> {
        std::fs::create_dir_all(dir).map_err(|e| Error::file(dir, atomic::explain(&e, "made")))?;
        atomic::sweep(dir);
        Ok(Store { goes_on: true, ..Store::of(dir, config) })
    }

    fn of(dir: &Path, config: &Config) -> Store {
        Store { dir: dir.to_path_buf(), config: config.clone(), goes_on: false }
    }

    /// The newest whole checkpoint in `dir` as [`Store::load_latest`] finds it, for a reader beside a run
    /// that may still be writing: nothing is made or removed.
    ///
    /// # Errors
    /// Those of [`Store::load_latest`].
    pub fn read_latest(dir: &Path, config: &Config, warnings: &mut Vec<String>) -> Result<Option<State>> {
        Store::of(dir, config).load_latest(warnings)
    }

    /// What the newest readable description in `dir` says of the run; `None` if there is none. The data beside
    /// it is not looked at.
    pub fn latest_meta(dir: &Path) -> Option<Value> {
        let steps = steps_in(dir).ok()?;
        let mut read =
            steps.keys().rev().map(|step| Manifest::read(&dir.join(format!("step_{step:06}.json"))));
        read.find_map(|manifest| manifest.ok()).map(|manifest| manifest.meta)
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Writes `state` and deletes all but the last two checkpoints up to it, and any beyond it (they
    /// belong to a course that was given up). Returns the path of the data file.
    ///
    /// # Errors
    /// [`Error::File`] if writing fails; earlier checkpoints are then untouched.
    /// [`Error::Failed`] if two tensors have one name or a shape does not fit its elements.
    pub fn save(&self, state: &State) -> Result<PathBuf> {
        let header = header_of(state)?;
        let name = format!("step_{:06}.safetensors", state.step);
        let path = self.dir.join(&name);
        let mut digest = Sha256::new();
        let mut bytes = 0u64;
        let data = atomic::prepare(&path, |out| {
            let mut put = |part: &[u8]| -> io::Result<()> {
                digest.update(part);
                bytes += part.len() as u64;
                out.write_all(part)
            };
            put(&(header.len() as u64).to_le_bytes())?;
            put(header.as_bytes())?;
            state.tensors.iter().try_for_each(|(_, _, data)| put(data.bytes()))
        })?;
        let manifest = Manifest {
            format: FORMAT.into(),
            step: state.step,
            data: name,
            bytes,
            sha256: hex(&digest.finalize()),
            engine_version: env!("CARGO_PKG_VERSION").into(),
            config: self.config.identity_pairs(),
            tensors: state.tensors.iter().map(|(name, _, _)| name.clone()).collect(),
            meta: state.meta.clone(),
        };
        let text = manifest.to_text()?;
        // Both files are on the disk before either replaces one of an earlier save at this step.
        let description =
            atomic::prepare(&path.with_extension("json"), |out| out.write_all(text.as_bytes()))?;
        data.commit()?;
        description.commit()?;
        self.prune(state.step);
        Ok(path)
    }

    /// The newest whole checkpoint. Each one that is damaged is skipped with a sentence in
    /// `warnings`; `None` if none was ever completed.
    ///
    /// # Errors
    /// [`Error::File`] if there are checkpoints and none of them is whole, or the folder cannot be read;
    /// [`Error::Config`] naming each key if the newest whole one is of another configuration. A key that its version
    /// did not know counts as one with the default value.
    pub fn load_latest(&self, warnings: &mut Vec<String>) -> Result<Option<State>> {
        let mut descriptions = 0;
        for (step, kinds) in steps_in(&self.dir)?.into_iter().rev() {
            let path = self.dir.join(format!("step_{step:06}.json"));
            if !kinds.description {
                warnings.push(format!(
                    "{}: skipped: its description {} is missing, so it was not saved to the end",
                    path.with_extension("safetensors").display(),
                    path.display()
                ));
                continue;
            }
            descriptions += 1;
            match self.load(step, &path) {
                Ok((manifest, tensors)) => {
                    self.expect_config(&path, &manifest)?;
                    return Ok(Some(State { step, meta: manifest.meta, tensors }));
                }
                Err(e) => warnings.push(format!("checkpoint of step {step} skipped: {e}")),
            }
        }
        if descriptions == 0 {
            return Ok(None);
        }
        Err(Error::file(
            &self.dir,
            format!(
                "none of the {descriptions} checkpoints can be used: {}; start again with another `--workdir`",
                warnings.join("; ")
            ),
        ))
    }

    fn load(&self, step: u64, path: &Path) -> Result<(Manifest, Tensors)> {
        let manifest = Manifest::read(path)?;
        let data = path.with_extension("safetensors");
        let same_name = data.file_name().is_some_and(|n| n.to_str() == Some(manifest.data.as_str()));
        if manifest.step != step || !same_name {
            return Err(Error::file(
                path,
                format!(
                    "describes step {} in `{}`, which is another checkpoint",
                    manifest.step, manifest.data
                ),
            ));
        }
        let length =
            std::fs::metadata(&data).map_err(|e| Error::file(&data, atomic::explain(&e, "read")))?.len();
        if length != manifest.bytes {
            return Err(Error::file(&data, format!("must have {} bytes, found {length}", manifest.bytes)));
        }
        let bytes = std::fs::read(&data).map_err(|e| Error::file(&data, atomic::explain(&e, "read")))?;
        if hex(&Sha256::digest(&bytes)) != manifest.sha256 {
            return Err(Error::file(&data, "was changed: its checksum does not match the description"));
        }
        let tensors = parse(&bytes, &manifest.tensors).map_err(|what| Error::file(&data, what))?;
        Ok((manifest, tensors))
    }

    /// Refuses a checkpoint of another configuration. Version 1 recorded none; the `config.toml` beside it did.
    fn expect_config(&self, path: &Path, manifest: &Manifest) -> Result<()> {
        if manifest.config.is_empty() {
            return Ok(());
        }
        let mut differences = self.config.differences_to(&manifest.config);
        differences.retain(|(key, ..)| !self.goes_on || key != CHANGEABLE);
        let lines = differences.iter().map(|(key, there, here)| match here {
            Some(here) => format!("\n  {key}: the checkpoint has {there}, asked for {here}"),
            None => format!("\n  {key}: the checkpoint has {there}, this version has no such key"),
        });
        if differences.is_empty() {
            return Ok(());
        }
        Err(Error::config(format!(
            "{} is of another configuration:{}\nask for the same values, or choose another `--workdir`",
            path.display(),
            lines.collect::<String>()
        )))
    }

    /// Deletes all but the last two up to `newest`, descriptions first. What cannot be deleted stays.
    fn prune(&self, newest: u64) {
        let Ok(steps) = steps_in(&self.dir) else { return };
        let whole = |kinds: &Kinds| kinds.description && kinds.data;
        let kept: Vec<u64> = steps
            .iter()
            .rev()
            .filter(|(s, k)| **s <= newest && whole(k))
            .map(|(s, _)| *s)
            .take(KEPT)
            .collect();
        for (step, _) in steps.iter().filter(|(s, _)| !kept.contains(s)) {
            let path = self.dir.join(format!("step_{step:06}.json"));
            let _ = std::fs::remove_file(&path);
            let _ = std::fs::remove_file(path.with_extension("safetensors"));
        }
    }
}

#[derive(Debug, Default, Clone, Copy)]
struct Kinds {
    description: bool,
    data: bool,
}

/// Which of the two files each step has, in ascending order.
fn steps_in(dir: &Path) -> Result<BTreeMap<u64, Kinds>> {
    let mut found = BTreeMap::<u64, Kinds>::new();
    let entries = std::fs::read_dir(dir).map_err(|e| Error::file(dir, atomic::explain(&e, "read")))?;
    for entry in entries {
        let entry = entry.map_err(|e| Error::file(dir, atomic::explain(&e, "read")))?;
        let name = entry.file_name();
        let Some((stem, ending)) = name.to_str().and_then(|n| n.rsplit_once('.')) else { continue };
        let Some(step) = stem.strip_prefix("step_").and_then(|s| s.parse::<u64>().ok()) else { continue };
        if stem != format!("step_{step:06}") {
            continue;
        }
        match ending {
            "json" => found.entry(step).or_default().description = true,
            "safetensors" => found.entry(step).or_default().data = true,
            _ => {}
        }
    }
    Ok(found)
}

/// The safetensors header: name to type, shape and byte range; padded so that the data is aligned.
fn header_of(state: &State) -> Result<String> {
    let mut names = HashSet::new();
    let mut header = Map::new();
    let mut at = 0usize;
    for (name, shape, data) in &state.tensors {
        if name == "__metadata__" || !names.insert(name) {
            return Err(Error::failed(format!("a checkpoint cannot hold two tensors named `{name}`")));
        }
        if shape.iter().product::<usize>() != data.len() {
            return Err(Error::failed(format!("`{name}` has shape {shape:?} and {} elements", data.len())));
        }
        let end = at + data.bytes().len();
        header
            .insert(name.clone(), json!({"dtype": data.dtype(), "shape": shape, "data_offsets": [at, end]}));
        at = end;
    }
    let mut text = Value::Object(header).to_string();
    text.extend(std::iter::repeat_n(' ', text.len().next_multiple_of(8) - text.len()));
    Ok(text)
}

/// The tensors of a safetensors file whose names are `prefix` with one of `names` behind it, under these names and in
/// their order.
///
/// # Errors
/// [`Error::File`] if the file cannot be read, is damaged, or has not all of them.
pub fn read_some(path: &Path, prefix: &str, names: &[String]) -> Result<Tensors> {
    let bytes = std::fs::read(path).map_err(|e| Error::file(path, atomic::explain(&e, "read")))?;
    let file = SafeTensors::deserialize(&bytes)
        .map_err(|e| Error::file(path, format!("is not a safetensors file: {e}")))?;
    let one = |name: &String| tensor(&file, &format!("{prefix}{name}"), name);
    names.iter().map(one).collect::<std::result::Result<_, _>>().map_err(|what| Error::file(path, what))
}

/// The tensor `stored`, under the name `name`.
fn tensor(
    file: &SafeTensors,
    stored: &str,
    name: &str,
) -> std::result::Result<(String, Vec<usize>, TensorData), String> {
    let view = file.tensor(stored).map_err(|e| format!("tensor `{stored}`: {e}"))?;
    let data = TensorData::from_bytes(view.dtype(), view.data())
        .ok_or_else(|| format!("tensor `{stored}` must be F32, F64 or U32, found {:?}", view.dtype()))?;
    Ok((name.to_string(), view.shape().to_vec(), data))
}

fn parse(bytes: &[u8], names: &[String]) -> std::result::Result<Tensors, String> {
    let file = SafeTensors::deserialize(bytes).map_err(|e| format!("is not a safetensors file: {e}"))?;
    if file.len() != names.len() {
        return Err(format!("holds {} tensors, its description lists {}", file.len(), names.len()));
    }
    names.iter().map(|name| tensor(&file, name, name)).collect()
}
