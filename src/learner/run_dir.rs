//! A run as it lies in its work directory, for the commands that read it.

use super::locate::locate_backbone;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::import::Backbone;
use crate::methods::{Method, Tensors};
use crate::output::checkpoint::Store;
use crate::output::say;
use crate::output::workdir::Workdir;
use crate::train::run::Position;
use crate::train::session::Session;
use std::path::{Path, PathBuf};

/// Configuration and last checkpoint of a run, which may still be going on.
pub struct Saved {
    pub workdir: PathBuf,
    pub config: Config,
    pub at: Position,
    pub tensors: Tensors,
}

impl Saved {
    /// Reads the run in `workdir`; damaged checkpoints are skipped with a warning on stderr.
    ///
    /// # Errors
    /// `Error::File` if there is no run or no whole checkpoint yet.
    pub fn read(workdir: &Path) -> Result<Saved> {
        let config = Saved::config(workdir)?;
        let dir = workdir.join("checkpoints");
        if !dir.is_dir() {
            return Err(Error::file(&dir, "is missing: the run has no checkpoint yet; train it first"));
        }
        let mut warnings = Vec::new();
        let state = Store::read_latest(&dir, &mut warnings);
        warnings.iter().for_each(|w| say(&format!("warning: {w}")));
        let state =
            state?.ok_or_else(|| Error::file(&dir, "holds no checkpoint yet; train the run first"))?;
        Ok(Saved {
            workdir: workdir.to_path_buf(),
            config,
            at: Position::of(&state)?,
            tensors: state.tensors,
        })
    }

    /// The configuration that a run was started with.
    pub fn config(workdir: &Path) -> Result<Config> {
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

    /// Puts what was learned into a method on `backbone`.
    ///
    /// # Errors
    /// `Error::Failed` if the run was made on another backbone.
    pub fn restore(&self, method: &mut dyn Method, backbone: &Backbone) -> Result<()> {
        self.at.expect_backbone(&self.workdir, backbone, &self.config)?;
        method.restore(&self.tensors, self.at.optimizer_step)
    }

    /// [`Saved::restore`] for a whole session.
    pub fn restore_session(&self, session: &mut Session) -> Result<()> {
        self.restore(session.method.as_mut(), &session.backbone)
    }
}
