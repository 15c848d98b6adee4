//! A run as it lies in its work directory, for the commands that read it.

use crate::config::Config;
use crate::error::{Error, Result};
use crate::import::{self, Backbone};
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

/// Folders above the run in which a relative path is looked for: `runs/name` is two below the folder that
/// `train` was started in.
const FOLDERS_ABOVE: usize = 4;

/// Where the backbone of the run in `workdir` lies now. `recorded` is the path in its configuration and `given`
/// the user's. A relative path is looked for below the current folder, the run's and those above it. Where it
/// leads to several files, the one with the checksum `sha256` counts.
///
/// # Errors
/// `Error::File` with the places that were tried, or if `given` is not the run's backbone.
pub fn locate_backbone(
    recorded: &str,
    given: Option<&str>,
    workdir: &Path,
    sha256: Option<&str>,
) -> Result<String> {
    let is_bundled = |path: &str| path.starts_with("bundled:");
    if let Some(given) = given {
        let found = if is_bundled(given) { None } else { Some(import::checksum(Path::new(given))?) };
        return match (found, sha256) {
            (Some(found), Some(wanted)) if found != wanted => Err(Error::file(
                given,
                format!("has the sha256 {found}; the run in {} was made on a backbone with {wanted}", workdir.display()),
            )),
            _ => Ok(given.to_string()),
        };
    }
    let path = Path::new(recorded);
    if is_bundled(recorded) || path.is_absolute() && path.exists() {
        return Ok(recorded.to_string());
    }
    let run = std::path::absolute(workdir).unwrap_or_else(|_| workdir.to_path_buf());
    let mut places = vec![path.to_path_buf()];
    if !path.is_absolute() {
        places.extend(run.ancestors().take(1 + FOLDERS_ABOVE).map(|folder| folder.join(path)));
    }
    // A file that moved together with its run.
    places.extend(path.file_name().map(|name| run.join(name)));
    let found: Vec<&PathBuf> = places.iter().filter(|place| place.exists()).collect();
    let fits = |place: &&&PathBuf| match sha256 {
        Some(wanted) => import::checksum(place).is_ok_and(|found| found == wanted),
        None => true,
    };
    // Of one file the checksum is compared when it is loaded.
    let best = if found.len() < 2 { found.first() } else { found.iter().find(fits).or(found.first()) };
    match best {
        Some(place) => Ok(place.to_string_lossy().into_owned()),
        None => Err(Error::file(
            path,
            format!(
                "the backbone of the run in {} is not there, nor below the folders of the run; wanted the file with \
                 the sha256 {}; say where it is now with --init-checkpoint FILE",
                workdir.display(),
                sha256.unwrap_or("unknown")
            ),
        )),
    }
}
