//! Preprocessing on slices, by way of `data::Preprocess`.

use super::args::{ImageTransform, OP};
use crate::data::ImageView;
use crate::error::{Error, Result};
use crate::ops::float::Float;
use crate::ops::patches;
use crate::rng::{Rng, Stream};
use rayon::prelude::*;

/// `pixels` and their extents (images, height, width, channels).
pub fn forward<T: Float>(
    rows: &mut [T],
    (pixels, dims): (&[u8], [usize; 4]),
    indices: &[u32],
    first: Option<&[u32]>,
    plan: ImageTransform,
) -> Result<()> {
    let [images, height, width, channels] = dims;
    if let Some(pick) = indices.iter().find(|&&pick| pick as usize >= images) {
        let wanted = format!("below {images}");
        return Err(Error::Shape { op: OP, arg: "indices", wanted, got: pick.to_string() });
    }
    let (with, each) = (plan.preprocess, height * width * channels);
    let first = first.map(|f| u64::from(f[1]) << 32 | u64::from(f[0]));
    let places = rows.par_chunks_mut(with.output_len()).zip(indices).enumerate();
    places.for_each(|(i, (rows, &pick))| {
        let pixels = &pixels[pick as usize * each..][..each];
        let view = ImageView { pixels, height, width, channels };
        let mut image = vec![0.0; with.output_len()];
        match first {
            Some(first) => {
                with.train(view, &mut Rng::new(plan.seed, Stream::Augment, first + i as u64), &mut image);
            }
            None => with.eval(view, &mut image),
        }
        let image: Vec<T> = image.into_iter().map(|x| T::of(f64::from(x))).collect();
        patches::cpu::forward(rows, &image, with.input_size(), plan.patch_size, 3);
    });
    Ok(())
}
