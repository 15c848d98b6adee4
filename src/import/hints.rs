//! What JSON files beside a checkpoint say about it.
//!
//! `<stem>.json` (activation, layer_norm_eps, heads, input.mean, input.std), and for PyTorch formats
//! `config.json` and `preprocessor_config.json` as transformers and timm write them.

use super::Gelu;
use super::plan::{Beside, Plan};
use crate::error::{Error, Result};
use serde_json::Value;
use std::path::Path;

#[derive(Debug, Clone, Default)]
pub(super) struct Hints {
    pub heads: Option<usize>,
    pub gelu: Option<Gelu>,
    pub layer_norm_eps: Option<f64>,
    pub norm: Option<([f32; 3], [f32; 3])>,
    /// Names of the files that were read.
    pub files: Vec<String>,
}

/// A description is short; a longer file is data and not read.
const SIDE_LEN_MAX: u64 = 1 << 20;

impl Hints {
    /// Reads the files that exist beside `path`.
    pub(super) fn beside(path: &Path, plan: &Plan) -> Result<Hints> {
        let mut hints = Hints::default();
        if plan.beside == Beside::StemAndConfig {
            hints.read(&path.with_file_name("preprocessor_config.json"), plan)?;
            hints.read(&path.with_file_name("config.json"), plan)?;
        }
        if plan.beside != Beside::Nothing {
            hints.read(&path.with_extension("json"), plan)?;
        }
        Ok(hints)
    }

    /// Later files win.
    fn read(&mut self, path: &Path, plan: &Plan) -> Result<()> {
        let bad = |what: String| Error::file(path, what);
        match std::fs::metadata(path) {
            Ok(about) if about.is_file() && about.len() <= SIDE_LEN_MAX => {}
            _ => return Ok(()),
        }
        let text = std::fs::read_to_string(path).map_err(|e| bad(format!("cannot be read: {e}")))?;
        let json: Value = serde_json::from_str(&text).map_err(|e| bad(format!("is not JSON: {e}")))?;
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let dims = &plan.dims;
        for (key, found) in [
            ("hidden_size", dims.embed_dim),
            ("hidden", dims.embed_dim),
            ("patch_size", dims.patch_size),
            ("patch", dims.patch_size),
            ("image_size", dims.image_size),
            ("num_hidden_layers", dims.layers),
            ("layers", dims.layers),
            ("heads", dims.heads),
        ] {
            let said = json.get(key).and_then(Value::as_u64);
            if let Some(said) = said.filter(|&said| found != 0 && said != found as u64) {
                return Err(bad(format!(
                    "says {key} {said}, but the checkpoint beside it has {found}; is it that of another model?"
                )));
            }
        }
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
        let triple = |parent: Option<&Value>, key: &str| -> Result<Option<[f32; 3]>> {
            let Some(value) = parent.and_then(|p| p.get(key)) else { return Ok(None) };
            let list: Option<Vec<f32>> =
                value.as_array().and_then(|list| list.iter().map(|v| Some(v.as_f64()? as f32)).collect());
            match list.and_then(|list| list.try_into().ok()) {
                Some(three) => Ok(Some(three)),
                None => Err(bad(format!("`{key}` should be three numbers, is {value}"))),
            }
        };
        for (parent, mean, std) in [
            (Some(&json), "image_mean", "image_std"),
            (json.get("pretrained_cfg"), "mean", "std"),
            (json.get("input"), "mean", "std"),
        ] {
            if let (Some(mean), Some(std)) = (triple(parent, mean)?, triple(parent, std)?) {
                self.norm = Some((mean, std));
            }
        }
        if json.get("do_normalize") == Some(&Value::Bool(false)) {
            self.norm = Some(super::plan::UNIT_NORM);
        }
        self.files.push(file);
        Ok(())
    }
}
