//! What a run is made of that its configuration does not tell: which images have which labels, in which tasks, and how
//! the backbone was understood where the configuration leaves that to its file or to what lies beside it.
//!
//! It is kept in every checkpoint and compared when the run is resumed or read, so that a renamed class folder, an
//! edited class order or a description that is missing beside the backbone is found before it gives other answers.

use crate::data::{DataSet, ImageSet, Split};
use crate::error::{Error, Result};
use crate::import::{Backbone, Gelu};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::Path;

/// Names and values, the latter for people: numbers, words, digests.
pub type Origin = BTreeMap<String, String>;

/// Hexadecimal digits of a digest in messages and checkpoints.
const DIGITS: usize = 32;

/// How a backbone was understood: form of GELU, epsilon of LayerNorm, attention heads, input normalisation, and the rule
/// by which its positions were resized if they were.
pub fn of_backbone(backbone: &Backbone) -> Origin {
    let gelu = match backbone.gelu {
        Gelu::Tanh => "tanh",
        Gelu::Erf => "erf",
    };
    let resized = backbone.position_resize.map_or("not resized", |rule| rule.describe());
    let values = [
        ("GELU", gelu.to_string()),
        ("LayerNorm epsilon", format!("{:e}", backbone.layer_norm_eps)),
        ("attention heads", backbone.dims.heads.to_string()),
        ("input mean", format!("{:?}", backbone.mean)),
        ("input deviation", format!("{:?}", backbone.std)),
        ("positions", resized.to_string()),
    ];
    values.map(|(name, value)| (name.to_string(), value)).into()
}

/// Digests of what a run learns from: the classes in their order, the labels and domains of all images, and the classes
/// and images of each task.
pub fn of_data(data: &DataSet, split: &Split) -> Origin {
    let classes = digest(|out| {
        split.class_names.iter().for_each(|name| text(out, name));
        numbers(out, &split.class_order);
    });
    let images = |set: &ImageSet| {
        let digest = digest(|out| {
            numbers(out, &set.labels);
            numbers(out, &set.domains);
        });
        format!("{} images, {digest}", set.len())
    };
    let tasks = digest(|out| {
        for task in &split.tasks {
            numbers(out, &task.classes);
            numbers(out, &task.train);
            numbers(out, &task.test);
        }
    });
    let values = [
        ("classes in their order", format!("{} classes, {classes}", split.class_names.len())),
        ("labels of the training images", images(&data.train)),
        ("labels of the test images", images(&data.test)),
        ("tasks", format!("{} tasks, {tasks}", split.tasks.len())),
    ];
    values.map(|(name, value)| (name.to_string(), value)).into()
}

/// Refuses to go on with a run in `workdir`, which recorded the origin `there`, where something that both know of is
/// another now. Earlier versions recorded nothing.
///
/// # Errors
/// `Error::Failed` that names everything that differs, as it was and as it is.
pub fn expect(there: &Origin, now: &Origin, workdir: &Path) -> Result<()> {
    let differ = |(name, there): (&String, &String)| {
        let here = now.get(name).filter(|here| *here != there)?;
        Some(format!("\n  {name}: the run has {there}, found {here}"))
    };
    refuse(there.iter().filter_map(differ).collect(), workdir)
}

/// [`expect`] for the names of the classes in their order, which every version has kept.
///
/// # Errors
/// `Error::Failed` that names the first class that differs.
pub fn expect_classes(there: &[String], now: &[String], workdir: &Path) -> Result<()> {
    if there.is_empty() || there == now {
        return Ok(());
    }
    let word =
        |names: &[String], i: usize| names.get(i).map_or("none".to_string(), |name| format!("`{name}`"));
    let first = (0..there.len().max(now.len())).find(|&i| there.get(i) != now.get(i)).unwrap_or_default();
    let line = format!("\n  class {first}: the run has {}, found {}", word(there, first), word(now, first));
    refuse(line, workdir)
}

fn refuse(lines: String, workdir: &Path) -> Result<()> {
    if lines.is_empty() {
        return Ok(());
    }
    Err(Error::failed(format!(
        "{}: the run was started with other images, another backbone or another description of it than are there \
         now:{lines}\ngive back what it was started with, with \
         the files that lay beside it, or start a new run",
        workdir.display()
    )))
}

fn digest(fill: impl FnOnce(&mut Sha256)) -> String {
    let mut out = Sha256::new();
    fill(&mut out);
    let mut digits: String = out.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    digits.truncate(DIGITS);
    digits
}

/// Adds a text with its length, so that none can be taken for two.
fn text(out: &mut Sha256, text: &str) {
    out.update((text.len() as u64).to_le_bytes());
    out.update(text);
}

fn numbers(out: &mut Sha256, values: &[u32]) {
    out.update((values.len() as u64).to_le_bytes());
    values.iter().for_each(|value| out.update(value.to_le_bytes()));
}
