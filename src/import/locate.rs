//! From the path that the user gives to the files of a checkpoint: one file, the parts of an index, or
//! what a folder holds.

use crate::error::{Error, Result};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Of a folder as transformers writes it, best first.
const IN_FOLDERS: [&str; 5] = [
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "open_clip_model.safetensors",
];
const ENDINGS: [&str; 5] = ["safetensors", "npz", "pth", "pt", "bin"];
const INDEX_ENDING: &str = ".index.json";
/// An index of a hundred thousand names.
const INDEX_LEN_MAX: u64 = 32 << 20;
const PARTS_MAX: usize = 1000;

/// The files of one checkpoint.
#[derive(Debug)]
pub(super) struct CheckpointFiles {
    /// The file, or the index of the parts.
    pub path: PathBuf,
    /// In the order of their names; one unless there is an index.
    pub parts: Vec<PathBuf>,
    /// The file whose neighbours may describe the model.
    pub beside: PathBuf,
}

/// # Errors
/// `Error::File` if a folder holds no checkpoint or several, an index is damaged, a part is missing, or one
/// part of a set is given.
pub(super) fn checkpoint(path: &Path) -> Result<CheckpointFiles> {
    let path = if path.is_dir() { in_folder(path)? } else { path.to_path_buf() };
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if let Some(model) = name.strip_suffix(INDEX_ENDING) {
        let parts = indexed(&path)?;
        return Ok(CheckpointFiles { beside: path.with_file_name(model), path, parts });
    }
    if let Some((stem, number, of, ending)) = part_of_a_set(&name) {
        let others = if of == 2 {
            format!("the other is `{stem}-{:05}-of-{of:05}.{ending}`", 3 - number.clamp(1, 2))
        } else {
            format!("there are {} more", of.saturating_sub(1))
        };
        return Err(Error::file(
            &path,
            format!(
                "is part {number} of a checkpoint in {of} parts ({others}); give the folder or \
                 `{stem}.{ending}{INDEX_ENDING}`, which names all parts"
            ),
        ));
    }
    Ok(CheckpointFiles { parts: vec![path.clone()], beside: path.clone(), path })
}

/// Stem, number, count and ending of a name like `model-00001-of-00002.safetensors`.
fn part_of_a_set(name: &str) -> Option<(&str, usize, usize, &str)> {
    let (rest, ending) = name.rsplit_once('.')?;
    let (rest, of) = rest.rsplit_once("-of-")?;
    let (stem, number) = rest.rsplit_once('-')?;
    Some((stem, number.parse().ok()?, of.parse().ok()?, ending))
}

fn in_folder(folder: &Path) -> Result<PathBuf> {
    if let Some(found) = IN_FOLDERS.iter().map(|name| folder.join(name)).find(|path| path.is_file()) {
        return Ok(found);
    }
    let bad = |what: String| Error::file(folder, what);
    let entries = std::fs::read_dir(folder).map_err(|e| bad(format!("cannot be read: {e}")))?;
    let mut names = BTreeSet::new();
    for entry in entries {
        let entry = entry.map_err(|e| bad(format!("cannot be read: {e}")))?;
        names.insert(entry.file_name());
    }
    let is_checkpoint = |path: &PathBuf| {
        let ending = path.extension().map(|e| e.to_string_lossy().to_ascii_lowercase());
        ending.is_some_and(|ending| ENDINGS.contains(&ending.as_str())) && path.is_file()
    };
    let found: Vec<PathBuf> = names.iter().map(|name| folder.join(name)).filter(is_checkpoint).collect();
    let listed = |paths: &[PathBuf]| {
        let names: Vec<String> = paths
            .iter()
            .take(8)
            .map(|path| path.file_name().unwrap_or_default().to_string_lossy().into_owned())
            .collect();
        names.join(", ")
    };
    match found.as_slice() {
        [only] => Ok(only.clone()),
        [] => Err(bad(format!(
            "is a folder without a checkpoint; wanted one of {} or one file ending in .{} in it",
            IN_FOLDERS.join(", "),
            ENDINGS.join(", .")
        ))),
        several => Err(bad(format!(
            "is a folder with {} checkpoints ({}); give one",
            several.len(),
            listed(several)
        ))),
    }
}

/// The parts that an index names, beside it.
fn indexed(path: &Path) -> Result<Vec<PathBuf>> {
    let bad = |what: String| Error::file(path, what);
    let about = std::fs::metadata(path).map_err(|e| bad(format!("cannot be opened: {e}")))?;
    if about.len() > INDEX_LEN_MAX {
        return Err(bad(format!("has {} bytes, an index has at most {INDEX_LEN_MAX}", about.len())));
    }
    let text = std::fs::read_to_string(path).map_err(|e| bad(format!("cannot be read: {e}")))?;
    let text = text.trim_start_matches('\u{feff}');
    let json: Value = serde_json::from_str(text).map_err(|e| bad(format!("is not JSON: {e}")))?;
    let map = json.get("weight_map").and_then(Value::as_object).filter(|map| !map.is_empty());
    let map =
        map.ok_or_else(|| bad("has no `weight_map`; wanted the index of a checkpoint in parts".into()))?;
    let names: Option<BTreeSet<&str>> = map.values().map(Value::as_str).collect();
    let names = names.ok_or_else(|| bad("has a `weight_map` whose values are no file names".into()))?;
    if names.len() > PARTS_MAX {
        return Err(bad(format!("names {} parts, at most {PARTS_MAX} are read", names.len())));
    }
    let mut parts = Vec::new();
    for name in names {
        if name.contains(['/', '\\']) || name.starts_with('.') {
            return Err(bad(format!("names the part `{name}`; parts lie beside their index")));
        }
        let part = path.with_file_name(name);
        if !part.is_file() {
            return Err(bad(format!("names the part `{name}`, which is not beside it")));
        }
        parts.push(part);
    }
    Ok(parts)
}
