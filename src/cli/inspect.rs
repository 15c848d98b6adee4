//! `l2p-engine inspect`.

use super::print;
use crate::error::{Error, Result};
use crate::import;
use crate::learner::Position;
use crate::output::checkpoint::Store;
use crate::output::results::Results;
use crate::output::table::{self, Style};
use crate::output::workdir::Workdir;
use clap::Args;
use std::path::{Path, PathBuf};

#[derive(Debug, Args)]
pub struct Inspect {
    /// `.npz`, `.safetensors` or PyTorch file, a folder with one, or work directory.
    #[arg(value_name = "FILE|DIR")]
    path: PathBuf,
}

impl Inspect {
    pub fn run(self) -> Result<()> {
        if !self.path.exists() {
            return Err(Error::file(&self.path, "does not exist; wanted a weight file or a work directory"));
        }
        if self.path.is_dir() { folder(&self.path) } else { file(&self.path) }
    }
}

fn file(path: &Path) -> Result<()> {
    let tensors = import::list(path)?;
    let mut total = 0usize;
    for (name, shape, dtype) in &tensors {
        let n: usize = shape.iter().product();
        total += n;
        print(&format!("{dtype:<5} {:<24} {name}", format!("{shape:?}")));
    }
    print(&format!("{} tensors, {total} values", tensors.len()));
    for (key, value) in import::metadata(path)? {
        print(&format!("{key} = {value}"));
    }
    match import::load(path, &import::LoadOptions::default()) {
        Ok(backbone) => print(&format!("a backbone: {}\nsha256 {}", backbone.source, backbone.sha256)),
        Err(e) => print(&format!("not a backbone this engine can start from: {e}")),
    }
    Ok(())
}

fn folder(path: &Path) -> Result<()> {
    let Some(config) = Workdir::saved_config(path)? else {
        // No work directory; a folder with a checkpoint stands for it.
        return file(path);
    };
    print(&format!(
        "{} on {}, rule set {}, seed {}, backbone {}",
        config.method, config.data.dataset, config.rule_set, config.seed, config.model.init_checkpoint
    ));
    let checkpoints = path.join("checkpoints");
    if checkpoints.is_dir() {
        let mut warnings = Vec::new();
        let state = Store::read_latest(&checkpoints, &config, &mut warnings)?;
        warnings.iter().for_each(|w| crate::output::say(&format!("warning: {w}")));
        if let Some(state) = state {
            let at = Position::of(&state, &config)?;
            print(&format!(
                "last checkpoint: step {}, {} tasks finished, {} steps into the next",
                at.step,
                at.per_image.len(),
                at.task_step
            ));
            for (name, shape, _) in &state.tensors {
                print(&format!("  {name} {shape:?}"));
            }
        }
    }
    let results = path.join("results.json");
    if results.is_file() {
        let results = Results::read(&results)?;
        print(&table::accuracy(&results.per_image, Some(&results.per_batch), Style::detect()));
    }
    Ok(())
}
