//! Checkpoints of programs that train prompts, whole: the backbone, and what was learned beside it.
//!
//! Sources: JH-LEE-KR/l2p-pytorch @ f7bc994 (`engine.py`, `prompt.py`, `vision_transformer.py`);
//! JH-LEE-KR/dualprompt-pytorch (the same files); GT-RIPL/CODA-Prompt @ 6417d4f (`models/zoo.py`, `learners/default.py`);
//! sun-hailong/LAMDA-PILOT (`utils/inc_net.py`, `models/base.py`).

use super::archive::FileBytes;
use super::backbone::HostTensor;
use super::{Mapped, all};
use crate::error::{Error, Result};
use std::collections::BTreeMap;
use std::path::Path;

/// The program that a checkpoint is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Port {
    L2pPytorch,
    DualPromptPytorch,
    CodaPrompt,
    Pilot,
}

/// What the program trains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    L2p,
    DualPrompt,
    CodaPrompt,
}

/// Which class column j of the head is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Columns {
    /// The class with label j in the data set.
    ByLabel,
    /// The j-th class that is learned.
    InOrder,
}

/// A tensor with the name that the program gives it.
#[derive(Debug, Clone)]
pub struct Learned {
    pub name: String,
    pub tensor: HostTensor,
}

/// A checkpoint, taken apart.
#[derive(Debug)]
pub struct Ported {
    pub kind: Kind,
    pub columns: Columns,
    /// Under the names of timm, positions of prompts taken away.
    pub backbone: BTreeMap<String, HostTensor>,
    /// By the name in the engine: prompts and keys; `head/kernel` is (K, C) here, as PyTorch has it.
    pub learned: BTreeMap<String, Learned>,
    /// (G, 2, L, H, D): the general prompts, one for each layer that has one.
    pub general: Option<Learned>,
}

type Tensors = BTreeMap<String, HostTensor>;

/// Reads a checkpoint of `port`. A pickle is read by the reader of this crate, which executes nothing.
///
/// # Errors
/// `Error::File` if the file cannot be read or is not of this program.
pub fn read(path: &Path, port: Port) -> Result<Ported> {
    let mapped = Mapped::open(path)?;
    taken_apart(&mapped.path, all(&mapped.path, &mapped.files())?, port)
}

/// [`read`] for bytes; `name` stands for the path in messages.
///
/// # Errors
/// As [`read`].
pub fn read_bytes(name: &str, bytes: &[u8], port: Port) -> Result<Ported> {
    let path = Path::new(name);
    taken_apart(path, all(path, &[FileBytes { path, bytes }])?, port)
}

fn taken_apart(path: &Path, mut all: Tensors, port: Port) -> Result<Ported> {
    // Of DistributedDataParallel.
    if all.keys().all(|name| name.starts_with("module.")) {
        all = split(all, "module.").0;
    }
    let has = |name: &str| all.contains_key(name);
    let (prefix, kind, columns) = match port {
        Port::L2pPytorch => ("", Kind::L2p, Columns::ByLabel),
        Port::DualPromptPytorch => ("", Kind::DualPrompt, Columns::ByLabel),
        Port::CodaPrompt => ("feat.", Kind::CodaPrompt, Columns::InOrder),
        Port::Pilot if has("backbone.prompt.prompt") => ("backbone.", Kind::L2p, Columns::InOrder),
        Port::Pilot if has("backbone.e_prompt.prompt") => ("backbone.", Kind::DualPrompt, Columns::InOrder),
        Port::Pilot if has("prompt.e_p_0") => ("backbone.", Kind::CodaPrompt, Columns::InOrder),
        Port::Pilot => {
            return Err(Error::file(
                path,
                "is no checkpoint of L2P, DualPrompt or CODA-Prompt of PILOT: wanted `backbone.prompt.prompt`, \
                 `backbone.e_prompt.prompt` or `prompt.e_p_0` among its tensors; its other methods cannot be adopted",
            ));
        }
    };
    let (count, some) = (all.len(), all.keys().take(3).cloned().collect::<Vec<_>>().join(", "));
    let (mut network, mut beside) = split(all, prefix);
    if !network.contains_key("patch_embed.proj.weight") || !network.contains_key("pos_embed") {
        return Err(Error::file(
            path,
            format!(
                "is no checkpoint of this program: wanted `{prefix}patch_embed.proj.weight` and `{prefix}pos_embed` \
                 among its {count} tensors, found {some}; `l2p-engine inspect` lists them"
            ),
        ));
    }
    let mut ported =
        Ported { kind, columns, backbone: Tensors::new(), learned: BTreeMap::new(), general: None };
    let mut take = |of: &mut Tensors, before: &str, name: &str, as_name: &str| -> Result<()> {
        let (whole, tensor) = (format!("{before}{name}"), of.remove(name));
        let tensor = tensor.ok_or_else(|| {
            Error::file(path, format!("has no tensor `{whole}`, which a checkpoint of this program has"))
        })?;
        ported.learned.insert(as_name.into(), Learned { name: whole, tensor });
        Ok(())
    };
    match kind {
        Kind::L2p => {
            take(&mut network, prefix, "prompt.prompt", "prompt_pool/prompt")?;
            take(&mut network, prefix, "prompt.prompt_key", "prompt_pool/key")?;
        }
        Kind::DualPrompt => {
            take(&mut network, prefix, "e_prompt.prompt", "prompt_pool/prompt")?;
            take(&mut network, prefix, "e_prompt.prompt_key", "prompt_pool/key")?;
        }
        Kind::CodaPrompt => {
            let layers: Vec<String> = beside
                .keys()
                .filter_map(|name| Some(name.strip_prefix("prompt.e_p_")?.to_string()))
                .collect();
            for layer in layers {
                for (theirs, ours) in [("p", "prompt"), ("k", "key"), ("a", "attention")] {
                    let name = format!("prompt.e_{theirs}_{layer}");
                    take(&mut beside, "", &name, &format!("coda/{layer}/{ours}"))?;
                }
            }
        }
    }
    let (heads, before, head) = match (port, kind) {
        (Port::CodaPrompt, _) => (&mut beside, "", "last"),
        (Port::Pilot, Kind::CodaPrompt) => (&mut beside, "", "fc"),
        _ => (&mut network, prefix, "head"),
    };
    take(heads, before, &format!("{head}.weight"), "head/kernel")?;
    take(heads, before, &format!("{head}.bias"), "head/bias")?;
    if let Some(tensor) = network.remove("g_prompt") {
        ported.general = Some(Learned { name: format!("{prefix}g_prompt"), tensor });
    }
    let learned = ["prompt.", "e_prompt.", "head.", "last.", "fc."];
    ported.backbone = network
        .into_iter()
        .filter(|(name, _)| !learned.iter().any(|prefix| name.starts_with(prefix)))
        .collect();
    if kind == Kind::L2p {
        without_prompts(path, &mut ported.backbone)?;
    }
    Ok(ported)
}

/// What is below a prefix, without it, and what is beside it.
fn split(all: Tensors, prefix: &str) -> (Tensors, Tensors) {
    let (mut below, mut beside) = (Tensors::new(), Tensors::new());
    for (name, tensor) in all {
        match name.strip_prefix(prefix) {
            Some(rest) => below.insert(rest.to_string(), tensor),
            None => beside.insert(name, tensor),
        };
    }
    (below, beside)
}

/// Takes the positions of prompts out of the table, [class token, prompts, patches]: the program expands that of the class
/// token to them and freezes all.
fn without_prompts(path: &Path, backbone: &mut Tensors) -> Result<()> {
    let Some(table) = backbone.get_mut("pos_embed") else { return Ok(()) };
    let bad = |what: String| Error::file(path, format!("`pos_embed` {:?} {what}", table.shape));
    let (rows, c) = match *table.shape.as_slice() {
        [1, rows, c] if rows > 1 && c > 0 => (rows, c),
        _ => return Err(bad("is no table (1, rows, width)".into())),
    };
    let row = |i: usize| &table.data[i * c..(i + 1) * c];
    let prompts = (1..rows).take_while(|&i| row(i) == row(0)).count();
    let patches = rows - 1 - prompts;
    let side = patches.isqrt();
    if side == 0 || side * side != patches {
        return Err(bad(format!(
            "has {prompts} rows for prompts, equal to that of the class token, and {patches} others; wanted those of a \
             square of patches. Prompts with positions of their own cannot be adopted"
        )));
    }
    let mut data = row(0).to_vec();
    data.extend(&table.data[(1 + prompts) * c..]);
    *table = HostTensor { shape: vec![1, 1 + patches, c], data };
    Ok(())
}
