//! The arguments of `match_prompts`.

pub(super) const OP: &str = "match_prompts";

/// How the N prompts of an image are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Select {
    /// The N most similar keys, most similar first; ties to the lower id.
    PerImage,
    /// The images of each group of `group` vote with their N most similar keys; all use the N ids
    /// with the most votes, most votes first, ties to the lower id.
    Vote { group: usize },
    /// Every image uses ids `start..start + N`.
    Fixed { start: usize },
}
