//! Where a set that classes were added to ends, and what was added. `added.rs` fills this in and makes tasks of it.

use std::ops::Range;

/// Where a set that was extended ends, and what was added to it.
#[derive(Debug, Clone, Default)]
pub struct Extension {
    pub(super) classes: usize,
    pub(super) domains: usize,
    /// Images for training, test and validation.
    pub(super) images: [usize; 3],
    /// Tasks of the first set without images, where any are gone; its classes are then in the order of learning.
    pub(super) lost: Option<Vec<usize>>,
    pub(super) parts: Vec<Part>,
}

/// What was added at one time.
#[derive(Debug, Clone)]
pub(super) struct Part {
    /// Labels, ascending.
    pub classes: Vec<u32>,
    /// Positions of images for training, test and validation; empty where they are gone.
    pub images: [Range<u32>; 3],
}

impl Extension {
    /// Tasks of the first set without images, where it is not whole.
    pub(super) fn lost_tasks(&self) -> Option<&[usize]> {
        self.lost.as_deref()
    }
}
