//! Images and labels in memory, as the files hold them: unsigned bytes, height by width by channels.

use crate::error::{Error, Result};

/// One part (training or test) of a data set.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ImageSet {
    /// In pixels.
    pub height: usize,
    /// In pixels.
    pub width: usize,
    /// 1 (grey) or 3 (red, green, blue).
    pub channels: usize,
    /// (n, height, width, channels).
    pub pixels: Vec<u8>,
    /// (n): positions in [`DataSet::class_names`].
    pub labels: Vec<u32>,
}

/// A borrowed image, (height, width, channels).
#[derive(Debug, Clone, Copy)]
pub struct ImageView<'a> {
    pub pixels: &'a [u8],
    pub height: usize,
    pub width: usize,
    pub channels: usize,
}

/// A data set as loaded, before it is split into tasks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataSet {
    pub name: String,
    pub train: ImageSet,
    pub test: ImageSet,
    /// By label.
    pub class_names: Vec<String>,
}

impl ImageSet {
    /// Number of images.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    fn image_len(&self) -> usize {
        self.height * self.width * self.channels
    }

    /// Pixels of image `i`, (height, width, channels). Panics when `i` is not below `len()`.
    pub fn image(&self, i: usize) -> &[u8] {
        &self.pixels[i * self.image_len()..(i + 1) * self.image_len()]
    }

    pub fn view(&self, i: usize) -> ImageView<'_> {
        ImageView { pixels: self.image(i), height: self.height, width: self.width, channels: self.channels }
    }

    /// Checks sizes and labels; `what` names the set in the message.
    ///
    /// # Errors
    /// `Error::Failed` when there is no image, a size is zero, channels are not 1 or 3, the pixels do
    /// not fill the labelled images, or a label is not below `classes`.
    pub fn check(&self, what: &str, classes: usize) -> Result<()> {
        let fail = |text: String| Err(Error::failed(format!("{what}: {text}")));
        if self.is_empty() || self.height == 0 || self.width == 0 {
            return fail(format!("{} images of {}x{} pixels", self.len(), self.height, self.width));
        }
        if self.channels != 1 && self.channels != 3 {
            return fail(format!("images must have 1 or 3 channels, found {}", self.channels));
        }
        let wanted = [self.height, self.width, self.channels]
            .into_iter()
            .try_fold(self.len(), |n, factor| n.checked_mul(factor));
        if wanted != Some(self.pixels.len()) {
            return fail(format!(
                "{} labels of {}x{}x{} images need as many pixel values, found {}",
                self.len(),
                self.height,
                self.width,
                self.channels,
                self.pixels.len()
            ));
        }
        match self.labels.iter().position(|&label| label as usize >= classes) {
            Some(i) => fail(format!("label {} of image {i} is not below {classes}", self.labels[i])),
            None => Ok(()),
        }
    }

    /// Keeps the first `per_class` images of each class in stored order (0: all).
    pub fn keep_per_class(&mut self, per_class: usize) {
        if per_class == 0 {
            return;
        }
        let size = self.image_len();
        let classes = self.labels.iter().max().map_or(0, |&label| label as usize + 1);
        let mut kept_of = vec![0; classes];
        let mut kept = 0;
        for i in 0..self.len() {
            let label = self.labels[i];
            if kept_of[label as usize] == per_class {
                continue;
            }
            kept_of[label as usize] += 1;
            self.pixels.copy_within(i * size..(i + 1) * size, kept * size);
            self.labels[kept] = label;
            kept += 1;
        }
        self.labels.truncate(kept);
        self.pixels.truncate(kept * size);
        self.labels.shrink_to_fit();
        self.pixels.shrink_to_fit();
    }
}

impl DataSet {
    /// Checks both parts; see [`ImageSet::check`].
    pub fn check(&self) -> Result<()> {
        self.train.check(&format!("{}, training images", self.name), self.class_names.len())?;
        self.test.check(&format!("{}, test images", self.name), self.class_names.len())
    }
}
