//! The description beside a checkpoint: JSON that carries the checksum of the data and of itself.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::Path;

/// Version 2 has a tensor for each parameter and the configuration key by key; version 1 had flat tensors.
pub const FORMAT: &str = "l2p-engine checkpoint 2";
const FORMAT_1: &str = "l2p-engine checkpoint 1";
const SEAL: &str = ",\n  \"manifest_sha256\": \"";
/// A description is a few kilobytes, with the order of a large data set a few megabytes.
const MAX_BYTES: u64 = 256 << 20;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Manifest {
    pub format: String,
    pub step: u64,
    /// File name of the data, beside the description.
    pub data: String,
    pub bytes: u64,
    pub sha256: String,
    pub engine_version: String,
    /// The keys of the configuration that a run must keep, with their values as TOML; of version 1: none.
    #[serde(default)]
    pub config: BTreeMap<String, String>,
    /// Names of the tensors, in order.
    pub tensors: Vec<String>,
    pub meta: Value,
}

impl Manifest {
    /// The JSON text, with the SHA-256 of everything before it as the last member.
    pub fn to_text(&self) -> Result<String> {
        let mut text = serde_json::to_string_pretty(self).map_err(|e| {
            Error::failed(format!("the checkpoint description cannot be written as JSON: {e}"))
        })?;
        text.truncate(text.len() - "\n}".len());
        let seal = hex(&Sha256::digest(text.as_bytes()));
        Ok(format!("{text}{SEAL}{seal}\"\n}}\n"))
    }

    /// # Errors
    /// [`Error::File`] if the file cannot be read, was changed, or is of another version.
    pub fn read(path: &Path) -> Result<Manifest> {
        let bad = |what: &str| Error::file(path, format!("the checkpoint description {what}"));
        let length = std::fs::metadata(path).map_err(|e| bad(&super::atomic::explain(&e, "read")))?.len();
        if length > MAX_BYTES {
            return Err(bad(&format!("has {length} bytes, more than any has")));
        }
        let bytes = std::fs::read(path).map_err(|e| bad(&super::atomic::explain(&e, "read")))?;
        let text = String::from_utf8(bytes).map_err(|_| bad("is not text"))?;
        let (body, seal) =
            text.rsplit_once(SEAL).ok_or_else(|| bad("is cut off: its checksum is missing"))?;
        if seal != format!("{}\"\n}}\n", hex(&Sha256::digest(body.as_bytes()))) {
            return Err(bad("was changed: its checksum does not match"));
        }
        let manifest: Manifest =
            serde_json::from_str(&text).map_err(|e| bad(&format!("is not understood: {e}")))?;
        if ![FORMAT, FORMAT_1].contains(&manifest.format.as_str()) {
            return Err(bad(&format!("must say format \"{FORMAT}\", found \"{}\"", manifest.format)));
        }
        Ok(manifest)
    }
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
