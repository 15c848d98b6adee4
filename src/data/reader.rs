//! The images of a data set as the network takes them: preprocessed, with engine class ids, in any order.

use std::sync::Arc;

use rayon::prelude::*;

use super::image_set::{DataSet, ImageSet, ImageView};
use super::parts::Subset;
use super::preprocess::Preprocess;
use super::tasks::Split;
use crate::error::{Error, Result};

/// Reads images of a data set. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Reader {
    data: Arc<DataSet>,
    preprocess: Preprocess,
    label_to_class: Vec<u32>,
}

impl Reader {
    pub fn new(data: Arc<DataSet>, split: &Split, preprocess: Preprocess) -> Reader {
        Reader { data, preprocess, label_to_class: split.label_to_class.clone() }
    }

    pub fn preprocess(&self) -> &Preprocess {
        &self.preprocess
    }

    /// Classes of the data set.
    pub fn classes(&self) -> usize {
        self.label_to_class.len()
    }

    /// Engine class ids of images.
    ///
    /// # Errors
    /// `Error::Shape` for an index past the last image.
    pub fn labels(&self, images: Subset, indices: &[u32]) -> Result<Vec<u32>> {
        let mut labels = vec![0; indices.len()];
        self.fill_labels(self.set(images), indices, &mut labels)?;
        Ok(labels)
    }

    fn set(&self, images: Subset) -> &ImageSet {
        match images {
            Subset::Train => &self.data.train,
            Subset::Test => &self.data.test,
            Subset::Validation => &self.data.val,
        }
    }

    fn fill_labels(&self, set: &ImageSet, indices: &[u32], labels: &mut [u32]) -> Result<()> {
        if let Some(&i) = indices.iter().find(|&&i| i as usize >= set.len()) {
            let (wanted, got) = (format!("below {}", set.len()), i.to_string());
            return Err(Error::Shape { op: "loader", arg: "indices", wanted, got });
        }
        for (label, &i) in labels.iter_mut().zip(indices) {
            *label = self.label_to_class[set.labels[i as usize] as usize];
        }
        Ok(())
    }

    /// The images `indices` without augmentation and their engine class ids. Overwrites both.
    ///
    /// # Shapes
    /// out: (n, S, S, 3) for n indices; labels: (n).
    ///
    /// # Errors
    /// `Error::Shape`, naming the argument, also for an index past the last image; `Error::File` for an image file
    /// that cannot be decoded.
    pub fn fill_eval(
        &self,
        images: Subset,
        indices: &[u32],
        out: &mut [f32],
        labels: &mut [u32],
    ) -> Result<()> {
        self.fill(images, indices, out, labels, |_, view, out| self.preprocess.eval(view, out))
    }

    /// The images `indices`, each prepared by `one` of its place among them, its pixels and its part of `out`.
    pub(super) fn fill(
        &self,
        images: Subset,
        indices: &[u32],
        out: &mut [f32],
        labels: &mut [u32],
        one: impl Fn(usize, ImageView, &mut [f32]) + Sync,
    ) -> Result<()> {
        let shape = |arg, wanted: usize, got: usize| {
            let (wanted, got) = (format!("{wanted} values"), got.to_string());
            Err(Error::Shape { op: "loader", arg, wanted, got })
        };
        let size = self.preprocess.output_len();
        if out.len() != indices.len() * size {
            return shape("out", indices.len() * size, out.len());
        }
        if labels.len() != indices.len() {
            return shape("labels", indices.len(), labels.len());
        }
        let set = self.set(images);
        self.fill_labels(set, indices, labels)?;
        out.par_chunks_exact_mut(size).zip(indices).enumerate().try_for_each(|(at, (out, &i))| {
            one(at, set.image(i as usize)?.view(), out);
            Ok(())
        })
    }
}
