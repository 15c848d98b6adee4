//! Answers for images that belong to no data set: classes with probabilities, in batches.

use super::assemble::Learner;
use crate::data::{ImageView, Preprocess, image_file};
use crate::error::{Error, Result};
use crate::ops::match_prompts::Select;
use crate::prompts::PromptChoice;
use crate::tensor::{DType, Tensor};
use rayon::prelude::*;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// What a learner says of an image.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The prompts that the image chose; empty without a pool.
    pub prompts: PromptChoice,
    /// Engine class ids and softmax probabilities over the classes that learning has met, best first.
    pub classes: Vec<(u32, f64)>,
}

impl Answer {
    /// Classes by name, best first.
    pub fn by_name<'a>(&'a self, names: &'a [String]) -> impl Iterator<Item = (&'a str, f64)> {
        self.classes.iter().map(|&(class, p)| (names[class as usize].as_str(), p))
    }
}

/// Prepared images (n, S, S, 3) as a tensor of the network's precision.
pub fn ready(dtype: DType, side: usize, values: &[f32]) -> Tensor {
    let shape = [values.len() / (side * side * 3), side, side, 3];
    match dtype {
        DType::F64 => Tensor::from_vec(values.iter().map(|&v| f64::from(v)).collect::<Vec<_>>(), shape),
        _ => Tensor::from_vec(values.to_vec(), shape),
    }
}

impl Learner {
    /// Answers for preprocessed images (n, S, S, 3), at most as many as the learner was planned for. Each image chooses
    /// its own prompts, so that an answer depends on nothing but its image.
    ///
    /// # Errors
    /// `Error::Failed` if the device fails.
    pub fn answer(&mut self, pixels: &[f32]) -> Result<Vec<Answer>> {
        let (dev, method) = (&self.dev, &mut self.method);
        let images = ready(method.model().dtype(), self.preprocess.input_size(), pixels);
        let features = method.query(dev, images.view().into())?;
        let choice = method.select(dev, features.view(), Select::PerImage)?;
        let logits = method.logits(dev, images.view().into(), features.view(), &choice)?;
        let width = logits.dims()[1];
        let logits = logits.view().read_f64()?;
        let rows = logits.chunks_exact(width).enumerate();
        let answers =
            rows.map(|(i, logits)| Answer { prompts: choice.part(i..i + 1), classes: self.rank(logits) });
        Ok(answers.collect())
    }

    /// Softmax over the classes that learning has met, best first; equal ones in the order of their ids.
    fn rank(&self, logits: &[f64]) -> Vec<(u32, f64)> {
        let seen = self.classes_seen.iter().copied().filter(|&class| (class as usize) < logits.len());
        let mut ranked: Vec<(u32, f64)> = seen.map(|class| (class, logits[class as usize])).collect();
        let max = ranked.iter().fold(f64::NEG_INFINITY, |max, (_, z)| max.max(*z));
        let total: f64 = ranked.iter().map(|(_, z)| (z - max).exp()).sum();
        ranked.iter_mut().for_each(|(_, z)| *z = (*z - max).exp() / total);
        ranked.sort_by(|a, b| b.1.total_cmp(&a.1));
        ranked
    }

    /// Answers for image files in their order, `batch` at a time, and hands each to `each`: the answer, or why the file
    /// cannot be read. The files of the next batch are read and decoded while the network answers for this one.
    ///
    /// # Errors
    /// `Error::Failed` if the device or a thread fails.
    pub fn answer_files(
        &mut self,
        files: &[PathBuf],
        batch: usize,
        mut each: impl FnMut(&Path, Result<Answer>),
    ) -> Result<()> {
        let (preprocess, batch) = (self.preprocess.clone(), batch.max(1));
        std::thread::scope(|scope| {
            let (sender, prepared) = sync_channel(1);
            std::thread::Builder::new()
                .name("decoder".into())
                .spawn_scoped(scope, move || decode(files, batch, &preprocess, &sender))
                .map_err(|e| Error::failed(format!("cannot start the decoder thread: {e}")))?;
            self.answer_batches(files, batch, prepared, &mut each)
        })
    }

    fn answer_batches(
        &mut self,
        files: &[PathBuf],
        batch: usize,
        prepared: Receiver<Decoded>,
        each: &mut impl FnMut(&Path, Result<Answer>),
    ) -> Result<()> {
        for part in files.chunks(batch) {
            let Decoded { pixels, errors } =
                prepared.recv().map_err(|_| Error::failed("the decoder thread stopped"))?;
            let answers = if pixels.is_empty() { Vec::new() } else { self.answer(&pixels)? };
            let mut answers = answers.into_iter();
            for (path, error) in part.iter().zip(errors) {
                match error {
                    Some(error) => each(path, Err(error)),
                    None => answers.next().into_iter().for_each(|answer| each(path, Ok(answer))),
                }
            }
        }
        Ok(())
    }
}

/// The files of a batch: the pixels of those that can be read, one after the other, and for each file why it cannot.
struct Decoded {
    pixels: Vec<f32>,
    errors: Vec<Option<Error>>,
}

/// Reads and preprocesses all files; ends when the receiver is dropped.
fn decode(files: &[PathBuf], batch: usize, preprocess: &Preprocess, sender: &SyncSender<Decoded>) {
    let size = preprocess.output_len();
    for part in files.chunks(batch) {
        let mut pixels = vec![0.0; part.len() * size];
        let read = |(path, out): (&PathBuf, &mut [f32])| {
            let (rgb, height, width) = image_file::read_rgb(path)?;
            preprocess.eval(ImageView { height, width, channels: 3, pixels: &rgb }, out);
            Ok(())
        };
        let results: Vec<Result<()>> =
            part.par_iter().zip(pixels.par_chunks_exact_mut(size)).map(read).collect();
        let mut whole = 0;
        for (i, result) in results.iter().enumerate() {
            if result.is_ok() {
                pixels.copy_within(i * size..(i + 1) * size, whole * size);
                whole += 1;
            }
        }
        pixels.truncate(whole * size);
        let errors = results.into_iter().map(Result::err).collect();
        if sender.send(Decoded { pixels, errors }).is_err() {
            return;
        }
    }
}
