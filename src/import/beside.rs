//! What JSON files beside a checkpoint say about it.
//!
//! `<stem>.json` (activation, layer_norm_eps, heads, input.mean, input.std), and for PyTorch formats
//! `config.json` and `preprocessor_config.json` as transformers and timm write them. A file that names
//! another kind of model is not read, and the source sentence says so.

use super::backbone::{Gelu, VitDims};
use crate::error::{Error, Result};
use serde_json::Value;
use std::path::Path;

pub(super) const UNIT_NORM: ([f32; 3], [f32; 3]) = ([0.0; 3], [1.0; 3]);

/// The JSON files that may lie beside a file and say more about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DescribedBy {
    /// The file says everything itself.
    Itself,
    /// `<stem>.json`.
    Stem,
    /// Also those of PyTorch programs.
    StemAndConfig,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Description {
    pub heads: Option<usize>,
    pub gelu: Option<Gelu>,
    pub layer_norm_eps: Option<f64>,
    pub norm: Option<([f32; 3], [f32; 3])>,
    /// One remark per file: that it was read, or why not.
    pub notes: Vec<String>,
}

/// A description is short; a longer file is data and not read.
const LEN_MAX: u64 = 1 << 20;
/// `model_type` of transformers for models whose tensors this program reads.
const MODEL_TYPES: [&str; 6] = ["vit", "dinov2", "dinov2_with_registers", "deit", "vit_mae", "vit_msn"];
/// How timm's names of such models begin.
const ARCHITECTURES: [&str; 5] = ["vit", "deit", "flexivit", "dino", "test_vit"];

impl Description {
    /// Reads the files that exist beside `path`. `dims` are those of the checkpoint.
    ///
    /// # Errors
    /// `Error::File` if a file of this model is damaged, says other sizes, or names an activation that is no
    /// GELU.
    pub(super) fn beside(path: &Path, by: DescribedBy, dims: &VitDims) -> Result<Description> {
        let mut description = Description::default();
        if by == DescribedBy::StemAndConfig {
            description.read(&path.with_file_name("preprocessor_config.json"), dims)?;
            description.read(&path.with_file_name("config.json"), dims)?;
        }
        if by != DescribedBy::Itself {
            description.read(&path.with_extension("json"), dims)?;
        }
        Ok(description)
    }

    /// Later files win.
    fn read(&mut self, path: &Path, dims: &VitDims) -> Result<()> {
        let bad = |what: String| Error::file(path, what);
        match std::fs::metadata(path) {
            Ok(about) if about.is_file() && about.len() <= LEN_MAX => {}
            _ => return Ok(()),
        }
        let text = std::fs::read_to_string(path).map_err(|e| bad(format!("cannot be read: {e}")))?;
        let text = text.trim_start_matches('\u{feff}');
        let json: Value = serde_json::from_str(text).map_err(|e| bad(format!("is not JSON: {e}")))?;
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if let Some(other) = other_model(&json) {
            self.notes.push(format!("{file} is of another model ({other}) and not read"));
            return Ok(());
        }
        check_sizes(&json, dims).map_err(bad)?;
        let number = |keys: &[&str]| keys.iter().find_map(|key| json.get(key)?.as_f64());
        if let Some(heads) = number(&["num_attention_heads", "heads"]) {
            self.heads = Some(heads as usize);
        }
        self.layer_norm_eps = number(&["layer_norm_eps"]).or(self.layer_norm_eps);
        if let Some(word) = ["hidden_act", "activation"].iter().find_map(|key| json.get(key)?.as_str()) {
            self.gelu = Some(match word {
                "gelu" | "gelu_erf" | "gelu_python" => Gelu::Erf,
                "gelu_tanh" | "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => Gelu::Tanh,
                other => return Err(bad(format!("names the activation `{other}`; only GELU is supported"))),
            });
        }
        for (parent, mean, std) in [
            (Some(&json), "image_mean", "image_std"),
            (Some(&json), "mean", "std"),
            (json.get("pretrained_cfg"), "mean", "std"),
            (json.get("input"), "mean", "std"),
        ] {
            let (mean, std) = (three(parent, mean).map_err(bad)?, three(parent, std).map_err(bad)?);
            if let (Some(mean), Some(std)) = (mean, std) {
                self.norm = Some((mean, std));
            }
        }
        if json.get("do_normalize") == Some(&Value::Bool(false)) {
            self.norm = Some(UNIT_NORM);
        }
        self.notes.push(format!("with {file}"));
        Ok(())
    }
}

/// Three numbers, or one for all channels.
fn three(parent: Option<&Value>, key: &str) -> std::result::Result<Option<[f32; 3]>, String> {
    let Some(value) = parent.and_then(|p| p.get(key)) else { return Ok(None) };
    if let Some(all) = value.as_f64() {
        return Ok(Some([all as f32; 3]));
    }
    let list: Option<Vec<f32>> =
        value.as_array().and_then(|list| list.iter().map(|v| Some(v.as_f64()? as f32)).collect());
    match list.and_then(|list| list.try_into().ok()) {
        Some(three) => Ok(Some(three)),
        None => Err(format!("`{key}` should be three numbers or one, is {value}")),
    }
}

/// What the file says it describes, if that is no model of this program's.
fn other_model(json: &Value) -> Option<String> {
    let text = |key: &str| json.get(key).and_then(Value::as_str);
    let model_type = text("model_type").filter(|word| !MODEL_TYPES.contains(word));
    let is_ours = |word: &str| ARCHITECTURES.iter().any(|start| word.starts_with(start));
    let architecture = text("architecture").filter(|word| !is_ours(word));
    model_type.or(architecture).map(str::to_string)
}

/// Sizes that the file says must be those of the checkpoint. A size of the image may be a pair.
fn check_sizes(json: &Value, dims: &VitDims) -> std::result::Result<(), String> {
    for (key, found) in [
        ("hidden_size", dims.embed_dim),
        ("hidden", dims.embed_dim),
        ("patch_size", dims.patch_size),
        ("patch", dims.patch_size),
        ("image_size", dims.image_size),
        ("num_hidden_layers", dims.layers),
        ("layers", dims.layers),
        ("intermediate_size", dims.mlp_dim),
        ("heads", dims.heads),
    ] {
        let said = match json.get(key) {
            Some(Value::Array(list)) => list.iter().filter_map(Value::as_u64).collect(),
            Some(value) => value.as_u64().into_iter().collect(),
            None => Vec::new(),
        };
        if let Some(said) = said.into_iter().find(|&said| found != 0 && said != found as u64) {
            return Err(format!(
                "says {key} {said}, but the checkpoint beside it has {found}; is it that of another model?"
            ));
        }
    }
    Ok(())
}
