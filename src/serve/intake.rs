//! From the bytes of an image to what the network reads.

use super::limits::Limits;
use super::refusal::Refusal;
use crate::data::file_kind::{FileKind, HEAD};
use crate::data::image_file::{self, Orientation};
use crate::data::{ImageView, Preprocess};
use crate::error::Error;
use std::path::Path;

/// Prepares images. All versions of a run prepare them in the same way.
pub struct Intake {
    preprocess: Preprocess,
    limits: Limits,
}

impl Intake {
    pub fn new(preprocess: Preprocess, limits: Limits) -> Intake {
        Intake { preprocess, limits }
    }

    /// Values of a prepared image.
    pub fn values(&self) -> usize {
        self.preprocess.output_len()
    }

    /// Puts the prepared image `number` of a request into `out`.
    ///
    /// # Errors
    /// 413 for an image of too many bytes or pixels, which is not decoded; 422 for one that cannot be decoded.
    pub fn prepare(&self, bytes: &[u8], number: usize, out: &mut [f32]) -> Result<(), Refusal> {
        let refuse = |e: Error| match e {
            Error::File { what, .. } => Refusal::unusable(format!("image {number}: {what}")),
            other => Refusal::failed(format!("image {number}: {other}")),
        };
        if bytes.len() > self.limits.file_bytes {
            return Err(self.too_many_bytes(number));
        }
        // Nothing is opened: the decoder only names it in messages, which are not passed on.
        let nowhere = Path::new("image");
        let (height, width) = image_file::dimensions(bytes, nowhere).map_err(refuse)?;
        if (height * width) as u64 > self.limits.pixels {
            return Err(Refusal::too_large(format!(
                "image {number}: at most {} pixels were wanted, found {width}x{height}: make it smaller",
                self.limits.pixels
            )));
        }
        let (rgb, height, width) =
            image_file::decode(bytes, nowhere, Orientation::Applied).map_err(refuse)?;
        self.preprocess.eval(ImageView { height, width, channels: 3, pixels: &rgb }, out);
        Ok(())
    }

    /// All images of a request, one after the other.
    ///
    /// # Errors
    /// As [`Intake::prepare`], for the first image that is refused.
    pub fn prepare_all(&self, images: &[impl AsRef<[u8]>]) -> Result<Vec<f32>, Refusal> {
        let mut pixels = vec![0.0; images.len() * self.values()];
        let places = pixels.chunks_exact_mut(self.values());
        for (i, (image, place)) in images.iter().zip(places).enumerate() {
            self.prepare(image.as_ref(), i + 1, place)?;
        }
        Ok(pixels)
    }

    pub fn too_many_bytes(&self, number: usize) -> Refusal {
        Refusal::too_large(format!("image {number}: at most {} bytes were wanted", self.limits.file_bytes))
    }
}

/// The ending of a file with these bytes, which have been decoded.
pub fn ending(bytes: &[u8]) -> &'static str {
    match FileKind::of(&bytes[..bytes.len().min(HEAD)]) {
        FileKind::Image(format) => format.extensions_str().first().copied().unwrap_or("img"),
        _ => "img",
    }
}
