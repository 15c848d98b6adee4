//! Names that training programs put around those of a model: `module.` (DistributedDataParallel),
//! `_orig_mod.` (torch.compile), `model.` (Lightning), `backbone.`, `student.backbone.` and any other
//! common prefix.

use super::archive::Archive;
use crate::error::Result;
use std::collections::BTreeSet;

/// One tensor that every model of a format has; what stands before its name is the wrapper.
const ANCHORS: [&str; 3] = [
    "patch_embed.proj.weight",
    "embeddings.patch_embeddings.projection.weight",
    "Transformer/encoder_norm/scale",
];
/// Modules that stand between the parts of a name: torch.compile of a block, FSDP, checkpointed activations.
const BETWEEN: [&str; 3] = ["_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"];
/// Of several networks in one file, the one whose authors evaluate it (DINO, MoCo).
const PREFERRED: [&str; 2] = ["teacher.", "base_encoder."];

/// Takes the wrappers off and leaves a note that says which. Tensors outside the model are forgotten.
///
/// # Errors
/// `Error::File` if the file holds several models and none is to be preferred.
pub(super) fn strip(archive: &mut Archive) -> Result<()> {
    let wrapped = |name: &str| name.split('.').any(|part| BETWEEN.contains(&part));
    let found: Vec<&str> =
        BETWEEN.into_iter().filter(|m| archive.infos.keys().any(|n| n.split('.').any(|p| p == *m))).collect();
    if !found.is_empty() {
        archive.rename(|name| {
            if !wrapped(name) {
                return Some(name.to_string());
            }
            let kept: Vec<&str> = name.split('.').filter(|part| !BETWEEN.contains(part)).collect();
            Some(kept.join("."))
        })?;
        archive.notes.push(format!("names without `{}`", found.join("`, `")));
    }
    let prefixes: BTreeSet<&str> = archive
        .infos
        .keys()
        .flat_map(|name| ANCHORS.into_iter().filter_map(|anchor| name.strip_suffix(anchor)))
        .filter(|prefix| prefix.is_empty() || prefix.ends_with(['.', '/']))
        .collect();
    let prefix = match prefixes.iter().copied().collect::<Vec<_>>().as_slice() {
        [] => return Ok(()),
        [only] => *only,
        // The whole file is the model; the check against its recipe names what is too much.
        several if several.contains(&"") => "",
        several => {
            let best = PREFERRED.iter().find_map(|p| several.iter().find(|prefix| prefix.contains(p)));
            match best {
                Some(best) => *best,
                None => {
                    return Err(archive.error(format!(
                        "holds {} vision transformers, under `{}`; save the one to be used alone",
                        several.len(),
                        several.join("`, `")
                    )));
                }
            }
        }
    };
    if prefix.is_empty() {
        return Ok(());
    }
    let prefix = prefix.to_string();
    let outside: Vec<&String> = archive.infos.keys().filter(|name| !name.starts_with(&prefix)).collect();
    let outside = match outside.as_slice() {
        [] => String::new(),
        [first, ..] => format!("; {} tensors outside it are not read, the first `{first}`", outside.len()),
    };
    archive.rename(|name| name.strip_prefix(&prefix).map(str::to_string))?;
    archive.notes.push(format!("names without the prefix `{prefix}`{outside}"));
    Ok(())
}
