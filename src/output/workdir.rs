//! The work directory of a run: its lock, and the files in it.

use super::atomic;
use super::console::say;
use crate::config::{CHANGEABLE, Config};
use crate::error::{Error, Result};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

pub const CONFIG: &str = "config.toml";
const RESULTS: &str = "results.json";
pub const LOG: &str = "log.jsonl";
pub const CHECKPOINTS: &str = "checkpoints";
const LOCK: &str = "run.lock";

/// A work directory that this process alone writes to, until it is dropped.
#[derive(Debug)]
pub struct Workdir {
    path: PathBuf,
    /// `optim.learning_rate` in its `config.toml`, if a run was there already.
    earlier_rate: Option<f64>,
    _lock: Lock,
}

impl Workdir {
    /// Makes `path`, or takes it over with `resume`, locks it and writes `config.toml`. With `resume` and no
    /// checkpoint in it the run begins anew, which a note on standard error says.
    ///
    /// # Errors
    /// [`Error::Config`] if it holds a run and `resume` is false, or a run of another configuration;
    /// [`Error::Failed`] if another process is running in it; [`Error::File`] if it cannot be written.
    pub fn create(path: &Path, resume: bool, config: &Config) -> Result<Workdir> {
        if path.exists() && !path.is_dir() {
            return Err(Error::file(path, "`--workdir` wants a folder, this is a file"));
        }
        std::fs::create_dir_all(path).map_err(|e| Error::file(path, atomic::explain(&e, "made")))?;
        let lock = Lock::take(path)?;
        let found = contents(path);
        if !found.is_empty() && !resume {
            return Err(Error::config(format!(
                "{} already holds a run ({}); add `--resume` to continue it or choose another `--workdir`",
                path.display(),
                found.join(", ")
            )));
        }
        let saved = Workdir::saved_config(path)?;
        match &saved {
            Some(saved) => refuse_other_config(path, saved, config)?,
            None if found.is_empty() => {}
            None => {
                return Err(Error::file(
                    path.join(CONFIG),
                    format!(
                        "is missing, but there is {}: which run this was cannot be told; choose another `--workdir`",
                        found.join(", ")
                    ),
                ));
            }
        }
        if resume && !found.iter().any(|name| name.starts_with(CHECKPOINTS)) {
            say(&format!("note: {} holds no checkpoint to resume from; the run begins anew", path.display()));
        }
        atomic::sweep(path);
        if saved.is_none() {
            atomic::write(&path.join(CONFIG), config.to_toml().as_bytes())?;
        }
        Ok(Workdir {
            path: path.to_path_buf(),
            earlier_rate: saved.map(|saved| saved.optim.learning_rate),
            _lock: lock,
        })
    }

    /// The configuration of the run in `path`; `None` if there is none.
    ///
    /// # Errors
    /// Those of [`Config::from_toml`], and [`Error::File`] if the file cannot be read.
    pub fn saved_config(path: &Path) -> Result<Option<Config>> {
        let file = path.join(CONFIG);
        match std::fs::read_to_string(&file) {
            Ok(text) => {
                let mut config = Config::from_toml(&text, &file.display().to_string())?;
                // The note was said when the run was started.
                let _ = config.understand_joint();
                Ok(Some(config))
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::file(&file, atomic::explain(&e, "read"))),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes `config.toml` again with facts as comments on top, such as the checksum of the backbone.
    ///
    /// # Errors
    /// [`Error::File`] if it cannot be written; the old file is then untouched.
    pub fn write_config(&self, config: &Config, facts: &[(&str, &str)]) -> Result<()> {
        let mut text = String::new();
        for (name, value) in facts {
            // Whatever the value holds, it stays within its comment.
            let value: String = value.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
            text += &format!("# {name}: {value}\n");
        }
        text += &config.to_toml();
        atomic::write(&self.config_toml(), text.as_bytes())
    }

    /// Keeps the lists of a split that was made for this run, in `split/`; with a run that is there already
    /// they must say the same, wherever the images lie now.
    ///
    /// # Errors
    /// [`Error::File`] if they do not, or cannot be written.
    pub fn keep_split(&self, lists: &[(&str, Vec<u8>)]) -> Result<()> {
        let folder = self.path.join("split");
        std::fs::create_dir_all(&folder).map_err(|e| Error::file(&folder, atomic::explain(&e, "made")))?;
        for (name, text) in lists {
            let path = folder.join(name);
            let kept = if self.resumed() { std::fs::read(&path).ok() } else { None };
            // The last part of the path, and what follows it.
            let plain = |text: &[u8]| -> Vec<String> {
                String::from_utf8_lossy(text)
                    .lines()
                    .map(|line| line.rsplit_once('/').map_or(line, |(_, rest)| rest).to_string())
                    .collect()
            };
            if kept.is_some_and(|kept| plain(&kept) != plain(text)) {
                return Err(Error::file(
                    &path,
                    "the run was started with other images than those that are there now; give back the old ones \
                     or start a new run",
                ));
            }
            atomic::write(&path, text)?;
        }
        Ok(())
    }

    /// Writes the list of the files that the run leaves out.
    ///
    /// # Errors
    /// [`Error::File`] if it cannot be written.
    pub fn keep_damaged(&self, list: &[u8]) -> Result<()> {
        atomic::write(&self.path.join("damaged.txt"), list)
    }

    /// Whether a run was there already.
    pub fn resumed(&self) -> bool {
        self.earlier_rate.is_some()
    }

    /// The learning rate that the run was last started with, if it was there already.
    pub fn earlier_rate(&self) -> Option<f64> {
        self.earlier_rate
    }

    pub fn config_toml(&self) -> PathBuf {
        self.path.join(CONFIG)
    }

    pub fn results_json(&self) -> PathBuf {
        self.path.join(RESULTS)
    }

    pub fn accuracy_csv(&self) -> PathBuf {
        self.path.join("accuracy_matrix.csv")
    }

    pub fn metrics_csv(&self) -> PathBuf {
        self.path.join("metrics.csv")
    }

    pub fn log_jsonl(&self) -> PathBuf {
        self.path.join(LOG)
    }

    pub fn checkpoints(&self) -> PathBuf {
        self.path.join(CHECKPOINTS)
    }
}

/// The files of a run that are in the folder.
pub fn contents(path: &Path) -> Vec<String> {
    let mut found: Vec<String> = [CONFIG, RESULTS, LOG, super::seeds::FILE]
        .iter()
        .filter(|n| path.join(n).exists())
        .map(|n| n.to_string())
        .collect();
    let entries = std::fs::read_dir(path.join(CHECKPOINTS)).into_iter().flatten().flatten();
    let newest =
        entries.filter_map(|e| e.file_name().into_string().ok()).filter(|n| n.starts_with("step_")).max();
    found.extend(newest.map(|name| format!("{CHECKPOINTS}/{name}")));
    found
}

fn refuse_other_config(path: &Path, saved: &Config, config: &Config) -> Result<()> {
    let mut differences = saved.identity().differences(&config.identity());
    differences.retain(|(key, ..)| key != CHANGEABLE);
    if differences.is_empty() {
        return Ok(());
    }
    // Images per step are part of the run; on how many ranks they are computed is not.
    let batch = differences.iter().any(|(key, ..)| key == "train.per_device_batch_size");
    let hint = match batch {
        true => {
            "\na run keeps its images per step: leave the key out to go on, on any number of ranks, or start a new run; \
             train.eval_batch_size may change"
        }
        false => "",
    };
    let lines: Vec<String> = differences
        .iter()
        .map(|(key, there, here)| format!("  {key}: the run has {there}, asked for {here}"))
        .collect();
    Err(Error::config(format!(
        "{} holds a run of another configuration:\n{}{hint}\nask for the same values to continue it, or choose another `--workdir`",
        path.display(),
        lines.join("\n")
    )))
}

/// `run.lock`, locked with the operating system and holding the process id and its start time. The
/// lock of a killed process goes with it; where files cannot be locked, the process id decides.
#[derive(Debug)]
struct Lock {
    path: PathBuf,
    file: File,
}

impl Lock {
    fn take(dir: &Path) -> Result<Lock> {
        let path = dir.join(LOCK);
        let fail = |e: std::io::Error| Error::file(&path, atomic::explain(&e, "locked"));
        // A lock on a file that its last owner has removed in the meantime excludes no other process: try again.
        for _ in 0..100 {
            let mut file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(&path)
                .map_err(fail)?;
            let mut owner = String::new();
            let _ = (&mut file).take(100).read_to_string(&mut owner);
            match file.try_lock() {
                Err(TryLockError::WouldBlock) => return Err(taken(dir, &owner)),
                Err(TryLockError::Error(_)) | Ok(()) if is_running(&owner) => return Err(taken(dir, &owner)),
                Err(TryLockError::Error(_)) | Ok(()) => {}
            }
            let same =
                std::fs::metadata(&path).map(|m| m.ino()).ok() == file.metadata().map(|m| m.ino()).ok();
            if !same {
                continue;
            }
            let pid = std::process::id();
            let text = format!("{pid} {}\n", start_time(pid).unwrap_or_default());
            file.set_len(0).map_err(fail)?;
            file.seek(SeekFrom::Start(0)).map_err(fail)?;
            file.write_all(text.as_bytes()).map_err(fail)?;
            return Ok(Lock { path, file });
        }
        Err(Error::file(&path, "cannot be locked: other processes keep taking it"))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
        let _ = self.file.unlock();
    }
}

fn taken(dir: &Path, owner: &str) -> Error {
    let pid = owner.split_whitespace().next().unwrap_or("?");
    Error::failed(format!(
        "{}: process {pid} is running in this folder; wait for it, stop it, or choose another `--workdir`",
        dir.display()
    ))
}

/// Whether the process that wrote `PID START` into a lock is still running. A process with the same number and
/// another start time is a different one.
fn is_running(owner: &str) -> bool {
    let mut words = owner.split_whitespace();
    let Some(pid) = words.next().and_then(|w| w.parse::<u32>().ok()) else { return false };
    match (start_time(pid), words.next()) {
        (Some(now), Some(then)) => now == then,
        (Some(_), None) => true,
        (None, _) => false,
    }
}

/// Field 22 of `/proc/PID/stat`: clock ticks from boot to the start of the process.
fn start_time(pid: u32) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name of the program, in parentheses, may hold spaces and parentheses.
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_whitespace().nth(19).map(String::from)
}
