//! What a batch of images has chosen. Methods, evaluation and caches pass it on without looking into it.

use crate::error::{Error, Result};
use serde::{Serialize, Serializer};
use std::ops::Range;

/// `width` values for each image, image by image.
#[derive(Debug, Clone, PartialEq)]
pub struct Rows<T> {
    pub values: Vec<T>,
    pub width: usize,
}

/// The prompts of a batch of images.
#[derive(Debug, Clone, PartialEq)]
pub enum PromptChoice {
    /// Numbers of the prompts that each image uses, most similar first, out of `among` that there are.
    /// Of width 0 where nothing is chosen.
    Ids { rows: Rows<u32>, among: usize },
    /// The weight of every component for each image.
    Weights(Rows<f64>),
}

impl<T: Copy + PartialEq> Rows<T> {
    fn part(&self, images: Range<usize>) -> Rows<T> {
        let values = self.values[images.start * self.width..images.end * self.width].to_vec();
        Rows { values, width: self.width }
    }

    fn of(&self, images: &[usize]) -> Rows<T> {
        let values = images.iter().flat_map(|&i| &self.values[i * self.width..][..self.width]);
        Rows { values: values.copied().collect(), width: self.width }
    }

    fn differing(&self, other: &Rows<T>) -> Vec<usize> {
        let width = self.width.max(1);
        let pairs = self.values.chunks_exact(width).zip(other.values.chunks_exact(width));
        pairs.enumerate().filter(|(_, (a, b))| a != b).map(|(i, _)| i).collect()
    }

    fn append(&mut self, more: Rows<T>) {
        if self.values.is_empty() {
            self.width = more.width;
        }
        self.values.extend(more.values);
    }
}

impl PromptChoice {
    /// Of a network in which nothing is chosen.
    pub fn nothing() -> PromptChoice {
        PromptChoice::ids(Vec::new(), 0, 0)
    }

    /// `width` ids for each image, all below `among`.
    pub fn ids(values: Vec<u32>, width: usize, among: usize) -> PromptChoice {
        PromptChoice::Ids { rows: Rows { values, width }, among }
    }

    /// The choice of the images `images` out of those that this is the choice of.
    pub fn part(&self, images: Range<usize>) -> PromptChoice {
        match self {
            PromptChoice::Ids { rows, among } => PromptChoice::Ids { rows: rows.part(images), among: *among },
            PromptChoice::Weights(rows) => PromptChoice::Weights(rows.part(images)),
        }
    }

    /// The same for images in any order.
    pub fn of(&self, images: &[usize]) -> PromptChoice {
        match self {
            PromptChoice::Ids { rows, among } => PromptChoice::Ids { rows: rows.of(images), among: *among },
            PromptChoice::Weights(rows) => PromptChoice::Weights(rows.of(images)),
        }
    }

    /// The images whose choice is another in `other`, which is of the same images.
    pub fn differing(&self, other: &PromptChoice) -> Vec<usize> {
        match (self, other) {
            (PromptChoice::Ids { rows, .. }, PromptChoice::Ids { rows: other, .. }) => rows.differing(other),
            (PromptChoice::Weights(rows), PromptChoice::Weights(other)) => rows.differing(other),
            (PromptChoice::Ids { rows, .. }, PromptChoice::Weights(_)) => (0..rows.images()).collect(),
            (PromptChoice::Weights(rows), PromptChoice::Ids { .. }) => (0..rows.images()).collect(),
        }
    }

    /// Adds the choice of more images of the same network.
    ///
    /// # Errors
    /// `Error::Failed` if it is of another kind.
    pub fn append(&mut self, more: PromptChoice) -> Result<()> {
        match (self, more) {
            (PromptChoice::Ids { rows, among }, PromptChoice::Ids { rows: more, among: of }) => {
                rows.append(more);
                *among = of.max(*among);
            }
            (PromptChoice::Weights(rows), PromptChoice::Weights(more)) => rows.append(more),
            (empty @ PromptChoice::Ids { .. }, more) if empty.is_nothing() => *empty = more,
            _ => return Err(Error::failed("a batch chose ids and another one weights: wanted one kind")),
        }
        Ok(())
    }

    fn is_nothing(&self) -> bool {
        matches!(self, PromptChoice::Ids { rows, .. } if rows.values.is_empty())
    }

    /// How often each prompt is among the ids; empty where a choice has no ids.
    pub fn usage(&self) -> Vec<u64> {
        let PromptChoice::Ids { rows, among } = self else { return Vec::new() };
        let mut counts = vec![0; *among];
        rows.values.iter().for_each(|&id| counts[id as usize] += 1);
        counts
    }

    /// The ids and how many each image has, where the choice is of ids.
    pub fn as_ids(&self) -> Option<(&[u32], usize)> {
        match self {
            PromptChoice::Ids { rows, .. } => Some((&rows.values, rows.width)),
            PromptChoice::Weights(_) => None,
        }
    }
}

impl<T> Rows<T> {
    fn images(&self) -> usize {
        self.values.len() / self.width.max(1)
    }
}

/// A plain list of ids or weights, image by image.
impl Serialize for PromptChoice {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        match self {
            PromptChoice::Ids { rows, .. } => rows.values.serialize(serializer),
            PromptChoice::Weights(rows) => rows.values.serialize(serializer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weights(values: &[f64]) -> PromptChoice {
        PromptChoice::Weights(Rows { values: values.to_vec(), width: 2 })
    }

    #[test]
    fn ids_and_weights_are_passed_on_alike() {
        let ids = PromptChoice::ids(vec![0, 1, 2, 0, 1, 2], 2, 3);
        let mixed = weights(&[0.5, -1.0, 2.0, 0.0, 0.25, 0.75]);
        assert_eq!(ids.part(1..3), PromptChoice::ids(vec![2, 0, 1, 2], 2, 3));
        assert_eq!(mixed.part(1..2), weights(&[2.0, 0.0]));
        assert_eq!(ids.of(&[2, 0]), PromptChoice::ids(vec![1, 2, 0, 1], 2, 3));
        assert_eq!(mixed.of(&[2, 0]), weights(&[0.25, 0.75, 0.5, -1.0]));
        assert_eq!(ids.differing(&PromptChoice::ids(vec![0, 1, 0, 2, 1, 2], 2, 3)), [1]);
        assert_eq!(mixed.differing(&weights(&[0.5, -1.0, 2.0, 0.0, 0.25, 0.5])), [2]);
        assert_eq!(mixed.differing(&ids), [0, 1, 2]);
        for whole in [&ids, &mixed] {
            let mut parts = PromptChoice::nothing();
            parts.append(whole.part(0..1)).expect("one kind");
            parts.append(whole.part(1..3)).expect("one kind");
            assert_eq!(&parts, whole);
        }
        assert!(ids.clone().append(mixed.clone()).is_err());
        assert_eq!((ids.usage(), mixed.usage()), (vec![2, 2, 2], vec![]));
        let nothing = PromptChoice::nothing();
        assert_eq!(nothing.part(0..5), nothing);
        assert!(nothing.of(&[3, 1]).differing(&nothing).is_empty());
        assert_eq!(serde_json::to_string(&ids).expect("a list"), "[0,1,2,0,1,2]");
        assert_eq!(serde_json::to_string(&nothing).expect("a list"), "[]");
    }
}
