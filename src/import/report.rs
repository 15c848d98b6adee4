//! What does not fit, as tables and sentences.

use super::archive::Archive;
use crate::error::Error;

const ROWS_MAX: usize = 20;

/// One tensor that does not fit.
pub(super) struct Problem {
    /// `missing`, `extra`, `shape` or `type`.
    pub what: &'static str,
    pub tensor: String,
    pub wanted: String,
    pub found: String,
}

/// An error with a table of the problems, at most 20 of them.
pub(super) fn mismatch(archive: &Archive, format: &str, problems: &[Problem]) -> Error {
    let count = |what: &str| problems.iter().filter(|p| p.what == what).count();
    let shown = &problems[..problems.len().min(ROWS_MAX)];
    let width = |cell: fn(&Problem) -> &str, title: &str| {
        shown.iter().map(|p| cell(p).chars().count()).max().unwrap_or(0).max(title.len())
    };
    let (w0, w1) = (width(|p| p.what, "problem"), width(|p| &p.tensor, "tensor"));
    let w2 = width(|p| &p.wanted, "wanted");
    let mut text = format!(
        "looks like a {format}, but its tensors do not fit one: {} missing, {} extra, {} of another shape or type\n",
        count("missing"),
        count("extra"),
        count("shape") + count("type")
    );
    text += &format!("  {:w0$}  {:w1$}  {:w2$}  found", "problem", "tensor", "wanted");
    for p in shown {
        text += &format!("\n  {:w0$}  {:w1$}  {:w2$}  {}", p.what, p.tensor, p.wanted, p.found);
    }
    if problems.len() > shown.len() {
        text += &format!("\n  ... and {} more", problems.len() - shown.len());
    }
    archive.error(text)
}

/// The element type that every problem is about, if it is one and the same.
pub(super) fn one_foreign_type(problems: &[Problem]) -> Option<&str> {
    let first = problems.first().filter(|problem| problem.what == "type")?;
    problems.iter().all(|p| p.what == "type" && p.found == first.found).then_some(first.found.as_str())
}

/// An error for a file whose names no format has.
pub(super) fn unknown(archive: &Archive) -> Error {
    let names: Vec<&str> = archive.infos.keys().take(ROWS_MAX).map(String::as_str).collect();
    let more = archive.infos.len() - names.len();
    let mut text = format!(
        "has {} tensors with the names of no ViT format known here (JAX ViT, timm, DINOv2, Hugging Face ViT and \
         DINOv2, l2p-engine)",
        archive.infos.len()
    );
    for name in names {
        text += &format!("\n  {name}");
    }
    if more > 0 {
        text += &format!("\n  ... and {more} more");
    }
    archive.error(text)
}
