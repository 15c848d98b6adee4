//! A run as it lies in its work directory, for the commands that read it.

use super::assemble::{InitialWeights, Learner, fitting_device};
use super::backbone;
use super::exported::{self, Learned};
use super::locate::locate_backbone;
use super::onnx;
use super::position::Position;
use super::purpose::Purpose;
use super::timm;
use crate::config::Config;
use crate::config::schema::Precision;
use crate::device::{Choice, Device};
use crate::error::{Error, Result};
use crate::methods::Tensors;
use crate::output::checkpoint::Store;
use crate::output::say;
use crate::output::workdir::Workdir;
use std::path::{Path, PathBuf};

/// Configuration and last checkpoint of a run, which may still be going on.
pub struct SavedRun {
    pub workdir: PathBuf,
    pub config: Config,
    pub at: Position,
    pub tensors: Tensors,
}

impl SavedRun {
    /// Reads the run in `workdir`, or the exported run in that file; damaged checkpoints are skipped with a warning on stderr.
    ///
    /// # Errors
    /// `Error::File` if there is no run or no whole checkpoint yet.
    pub fn read(workdir: &Path) -> Result<SavedRun> {
        if workdir.is_file() {
            let Learned { config, at, tensors } = exported::read(workdir)?;
            return Ok(SavedRun { workdir: workdir.to_path_buf(), config, at, tensors });
        }
        let config = SavedRun::config(workdir)?;
        let dir = workdir.join("checkpoints");
        if !dir.is_dir() {
            return Err(Error::file(&dir, "is missing: the run has no checkpoint yet; train it first"));
        }
        let mut warnings = Vec::new();
        let state = Store::read_latest(&dir, &config, &mut warnings);
        warnings.iter().for_each(|w| say(&format!("warning: {w}")));
        let state =
            state?.ok_or_else(|| Error::file(&dir, "holds no checkpoint yet; train the run first"))?;
        let at = Position::of(&state, &config)?;
        Ok(SavedRun { workdir: workdir.to_path_buf(), config, at, tensors: state.tensors })
    }

    /// Writes it as one file that answers, see [`exported`].
    ///
    /// # Errors
    /// Those of [`exported::write`].
    pub fn export(&self, path: &Path) -> Result<()> {
        let (config, at, tensors) = (self.config.clone(), self.at.clone(), self.tensors.clone());
        exported::write(&Learned { config, at, tensors }, &self.workdir, path)
    }

    /// Writes it as an ONNX file, see [`onnx`]: its numbers are f32, whatever the run computed with.
    ///
    /// # Errors
    /// Those of [`SavedRun::learner`] and [`onnx::write`].
    pub fn export_onnx(&self, path: &Path) -> Result<()> {
        onnx::write(&self.wide_learner()?, path)
    }

    /// Writes its backbone under timm's names, see [`timm`].
    ///
    /// # Errors
    /// Those of [`SavedRun::learner`] and [`timm::write`].
    pub fn export_timm(&self, path: &Path) -> Result<()> {
        timm::write(&self.wide_learner()?, path)
    }

    /// A learner on the CPU whose numbers have at least 32 bits.
    fn wide_learner(&self) -> Result<Learner> {
        let mut config = self.config.clone();
        if matches!(config.precision, Precision::Bf16 | Precision::F16) {
            config.precision = Precision::F32;
        }
        let wide = SavedRun {
            workdir: self.workdir.clone(),
            config,
            at: self.at.clone(),
            tensors: self.tensors.clone(),
        };
        wide.learner(Choice { device: Device::Cpu, auto: false }, 1)
    }

    /// Refuses an exported run.
    ///
    /// # Errors
    /// `Error::File` for a file.
    pub fn expect_folder(workdir: &Path) -> Result<()> {
        if !workdir.is_file() {
            return Ok(());
        }
        Err(Error::file(
            workdir,
            "is a file; an exported run answers in `predict` alone, wanted the work directory of the run",
        ))
    }

    /// The configuration that a run was started with.
    pub fn config(workdir: &Path) -> Result<Config> {
        SavedRun::expect_folder(workdir)?;
        Workdir::saved_config(workdir)?.ok_or_else(|| {
            Error::file(workdir, "holds no run (no config.toml); wanted the --workdir of a finished `train`")
        })
    }

    /// Finds the backbone again after the run or the file has moved: the configuration then names `given`, or
    /// the first place where the recorded path leads to a file with the checksum of the run's backbone.
    ///
    /// # Errors
    /// `Error::File` if no such file is found, or `given` is another one.
    pub fn locate_backbone(&mut self, given: Option<&str>) -> Result<()> {
        let path = locate_backbone(
            &self.config.model.init_checkpoint,
            given,
            &self.workdir,
            Some(&self.at.checkpoint_sha256),
        )?;
        self.config.model.init_checkpoint = path;
        Ok(())
    }

    /// Puts what was learned into a learner of the same configuration.
    ///
    /// # Errors
    /// `Error::Failed` if the run was made on another backbone.
    pub fn restore(&self, learner: &mut Learner) -> Result<()> {
        learner.expect_backbone(&self.at, &self.workdir)?;
        learner.classes_seen.clone_from(&self.at.classes_seen);
        learner.method.restore(&self.tensors, self.at.optimizer_step)
    }

    /// A learner of this run for up to `images` images at once, wherever `choice` says that it fits. Nothing is
    /// planned for training.
    ///
    /// # Errors
    /// Those of [`Learner::new`], [`fitting_device`] and [`SavedRun::restore`].
    pub fn learner(&self, choice: Choice, images: usize) -> Result<Learner> {
        let (config, names) = (self.config.clone(), self.at.class_names.clone());
        let (about, purpose) = (backbone::describe(&config)?, Purpose::Inference { images });
        let dev = fitting_device(&config, backbone::dims(&about), names.len(), choice, purpose)?;
        let mut learner = Learner::new(config, about, dev, names, purpose, InitialWeights::Checkpoint)?;
        self.restore(&mut learner)?;
        Ok(learner)
    }
}
