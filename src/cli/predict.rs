//! `l2p-engine predict`.

use super::print;
use crate::data::{ImageView, Preprocess, image_file};
use crate::error::{Error, Result};
use crate::learner::{Saved, backbone};
use crate::methods::{self, Ranks};
use crate::ops::match_prompts::Select;
use crate::tensor::plan::Plan;
use crate::train::batch;
use clap::Args;
use std::path::PathBuf;

/// Classes listed per image.
const SHOWN: usize = 5;

#[derive(Debug, Args)]
pub struct Predict {
    /// A work directory that `train` wrote.
    #[arg(long, value_name = "DIR", default_value = "runs/default")]
    workdir: PathBuf,
    #[arg(long, default_value = "auto")]
    device: String,
    /// Where the backbone lies now, if it has moved; its checksum must be the run's.
    #[arg(long, value_name = "FILE")]
    init_checkpoint: Option<String>,
    /// Print one JSON object per image.
    #[arg(long)]
    json: bool,
    /// PNG or JPEG files.
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<PathBuf>,
}

impl Predict {
    pub fn run(self) -> Result<()> {
        let choice = super::device(&self.device)?;
        let mut saved = Saved::read(&self.workdir)?;
        saved.locate_backbone(self.init_checkpoint.as_deref())?;
        let (mut config, at) = (saved.config.clone(), &saved.at);
        config.precision = crate::train::reading_precision(config.precision, &choice.device);
        let backbone = backbone::load(&config)?;
        let dims = backbone::dims(&backbone);
        let images = config.train.per_device_batch_size;
        let dev = backbone::fitting_device(&config, dims, at.class_names.len(), choice, images)?;
        config.precision = crate::train::reading_precision(config.precision, &dev);
        let config = &config;
        let mut plan = Plan::on(&dev);
        let model = backbone::model(config, &backbone, at.class_names.len(), &mut plan, images)?;
        let mut method = methods::build(config, model, &mut plan, &Ranks::alone(images));
        plan.check()?;
        saved.restore(method.as_mut(), &backbone)?;
        let preprocess = Preprocess::new(&config.data, backbone::normalize(&backbone))?;
        let mut failed = 0;
        for path in &self.images {
            let (pixels, height, width) = match image_file::read_rgb(path) {
                Ok(image) => image,
                Err(e) => {
                    crate::output::say(&format!("l2p-engine: {e}"));
                    failed += 1;
                    continue;
                }
            };
            let mut input = vec![0.0; preprocess.output_len()];
            preprocess.eval(ImageView { height, width, channels: 3, pixels: &pixels }, &mut input);
            let model_type = method.model().dtype();
            let images = batch::ready(model_type, preprocess.input_size(), &input);
            let features = method.query(&dev, images.view().into())?;
            let ids = method.select(&dev, features.view(), Select::PerImage)?;
            let logits =
                method.logits(&dev, images.view().into(), features.view(), &ids)?.view().read_f64()?;
            let seen = config.continual.num_classes_per_task * at.per_image.len();
            let ranked = rank(&logits, &at.class_names, seen);
            if self.json {
                let classes: Vec<_> = ranked
                    .iter()
                    .map(|(name, p)| serde_json::json!({ "class": name, "probability": p }))
                    .collect();
                print(&serde_json::json!({ "image": path, "prompts": ids, "classes": classes }).to_string());
            } else {
                let best: Vec<String> =
                    ranked.iter().take(SHOWN).map(|(name, p)| format!("{name} {:.1} %", 100.0 * p)).collect();
                print(&format!("{}: {}", path.display(), best.join(", ")));
            }
        }
        if failed > 0 {
            let all = self.images.len();
            return Err(Error::failed(format!("{failed} of {all} images could not be read")));
        }
        Ok(())
    }
}

/// Class names with softmax probabilities over the classes learned so far, best first.
fn rank(logits: &[f64], names: &[String], seen: usize) -> Vec<(String, f64)> {
    let seen = if seen == 0 { logits.len() } else { seen.min(logits.len()) };
    let max = logits[..seen].iter().fold(f64::NEG_INFINITY, |m, &z| m.max(z));
    let total: f64 = logits[..seen].iter().map(|z| (z - max).exp()).sum();
    let mut ranked: Vec<(String, f64)> =
        names.iter().zip(&logits[..seen]).map(|(n, z)| (n.clone(), (z - max).exp() / total)).collect();
    ranked.sort_by(|a, b| b.1.total_cmp(&a.1));
    ranked
}
