//! The versions of a run: the run itself is version 1 and never changed; each class that is taught makes another one, a run
//! of its own in a folder with its images. What is a version stands in one file, `index.json`, which is replaced as a
//! whole. A folder that it does not name is what a killed server left, and is removed.
//!
//! ```text
//! RUN.versions/index.json        which versions there are, and which one answers
//! RUN.versions/lock              held by the server that uses the folder
//! RUN.versions/2/images          the images that were taught
//! RUN.versions/2/run             the run that `add-classes` made of them
//! ```

use crate::device::Choice;
use crate::error::{Error, Result};
use crate::learner::{Learner, SavedRun};
use crate::output::results::{Results, Score};
use crate::output::{atomic, say};
use serde::{Deserialize, Serialize};
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use utoipa::ToSchema;

const FORMAT: &str = "l2p-engine versions 1";
const INDEX: &str = "index.json";
const LOCK: &str = "lock";
/// The number of the original run.
pub const FIRST: u32 = 1;

/// How a version is loaded.
#[derive(Debug, Clone)]
pub struct Loading {
    pub choice: Choice,
    pub init_checkpoint: Option<String>,
    /// Images at once.
    pub batch: usize,
}

impl Loading {
    /// What is saved in `dir`, with its backbone found.
    ///
    /// # Errors
    /// Those of [`SavedRun::read`] and [`SavedRun::locate_backbone`].
    pub fn saved(&self, dir: &Path) -> Result<SavedRun> {
        let mut saved = SavedRun::read(dir)?;
        saved.locate_backbone(self.init_checkpoint.as_deref())?;
        Ok(saved)
    }

    /// The same as it answers.
    ///
    /// # Errors
    /// Those of [`Loading::saved`] and [`SavedRun::learner`].
    pub fn learner(&self, dir: &Path) -> Result<Learner> {
        self.saved(dir)?.learner(self.choice.clone(), self.batch)
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Index {
    format: String,
    /// The original run, to tell it from others: the checksum of its backbone, its last step, its classes.
    run: Origin,
    active: u32,
    versions: Vec<Entry>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Origin {
    checkpoint_sha256: String,
    step: u64,
    classes: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Entry {
    number: u32,
    /// The version that it was made of.
    parent: u32,
    /// The class that was taught.
    class: String,
}

/// A version with what is known of it.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Version {
    /// 1 is the original run.
    pub number: u32,
    /// The version that it was made of.
    pub parent: Option<u32>,
    /// The class that was taught.
    pub class: Option<String>,
    /// Whether it answers.
    pub active: bool,
    /// Classes that it can answer with.
    pub classes: usize,
    /// Accuracy on the test images of each task after the last one, each image selecting its own prompts, from 0 to 1; null
    /// for a task whose images are gone.
    pub task_accuracy: Vec<Option<f64>>,
    /// Its mean over the tasks.
    pub average_accuracy: Option<f64>,
    /// By how much the accuracy on earlier tasks is below the best it ever was, from -1 to 1, as `docs/metrics.md` defines it.
    pub forgetting: Option<f64>,
    /// What teaching the class cost earlier tasks: their mean accuracy before less that after.
    pub forgetting_of_step: Option<f64>,
    /// Accuracy on the held-out images of the class that was taught.
    pub class_accuracy: Option<f64>,
    /// The classes, in the order of learning, and those that later tasks of an unfinished run would bring.
    #[serde(skip)]
    pub names: Vec<String>,
    #[serde(skip)]
    pub known: Vec<String>,
    #[serde(skip)]
    pub dir: PathBuf,
}

fn finite(value: f64) -> Option<f64> {
    Some(value).filter(|value| value.is_finite())
}

impl Version {
    fn of(saved: &SavedRun, number: u32, entry: Option<&Entry>) -> Version {
        let at = &saved.at;
        let matrix: Vec<Vec<f64>> = at.per_image.clone();
        let last = matrix.last().cloned().unwrap_or_default();
        let score = Score::from_matrix(matrix).ok().filter(|_| !last.is_empty());
        let results = entry.and_then(|_| Results::read(&saved.workdir.join("results.json")).ok());
        let added = results.and_then(|results| results.added);
        Version {
            number,
            parent: entry.map(|entry| entry.parent),
            class: entry.map(|entry| entry.class.clone()),
            active: false,
            classes: at.classes_seen.len(),
            task_accuracy: last.iter().map(|&a| finite(a)).collect(),
            average_accuracy: score.as_ref().and_then(|score| finite(score.avg_acc)),
            forgetting: score.and_then(|score| score.forgetting).and_then(finite),
            forgetting_of_step: added.as_ref().and_then(|added| added.forgetting),
            class_accuracy: added.and_then(|added| added.accuracy),
            names: at
                .classes_seen
                .iter()
                .filter_map(|&id| at.class_names.get(id as usize).cloned())
                .collect(),
            known: at.class_names.clone(),
            dir: saved.workdir.clone(),
        }
    }
}

/// The versions of a run, and the folder that they lie in.
pub struct Versions {
    all: Vec<Version>,
    active: u32,
    origin: Origin,
    store: Option<Store>,
    /// Versions that cannot be read now. They stay in the index.
    left_out: Vec<Entry>,
}

/// A folder of versions that no other server uses.
struct Store {
    dir: PathBuf,
    _lock: File,
}

impl Store {
    fn open(dir: &Path) -> Result<Store> {
        let unmade = |e| format!("{} (--versions DIR names another folder)", atomic::explain(&e, "made"));
        std::fs::create_dir_all(dir).map_err(|e| Error::file(dir, unmade(e)))?;
        let path = dir.join(LOCK);
        let lock = File::create(&path).map_err(|e| Error::file(&path, atomic::explain(&e, "made")))?;
        match lock.try_lock() {
            Ok(()) => Ok(Store { dir: dir.to_path_buf(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(Error::file(
                dir,
                "another server uses these versions; stop it, or choose another folder with --versions DIR",
            )),
            Err(TryLockError::Error(e)) => Err(Error::file(&path, atomic::explain(&e, "locked"))),
        }
    }

    fn folder(&self, number: u32) -> PathBuf {
        self.dir.join(number.to_string())
    }

    fn index(&self) -> Result<Option<Index>> {
        let path = self.dir.join(INDEX);
        if !path.exists() {
            return Ok(None);
        }
        let index: Index = atomic::read_json(&path, "an index of versions")?;
        match index.format == FORMAT {
            true => Ok(Some(index)),
            false => {
                Err(Error::file(&path, format!("format \"{FORMAT}\" was wanted, found \"{}\"", index.format)))
            }
        }
    }

    /// Removes the folders of versions that are not in the index.
    fn sweep(&self, index: &Index) {
        atomic::sweep(&self.dir);
        for entry in std::fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let number = name.to_str().and_then(|name| name.parse::<u32>().ok());
            // A folder that is not ours has other things in it.
            let ours = std::fs::read_dir(entry.path()).is_ok_and(|inside| {
                inside.flatten().all(|inside| {
                    let name = inside.file_name();
                    let name = name.to_string_lossy();
                    name == "images" || name == "run" || name.starts_with(".add-classes-")
                })
            });
            if let Some(number) = number
                && ours
                && index.versions.iter().all(|known| known.number != number)
            {
                say(&format!("note: {} was never finished, and is removed", entry.path().display()));
                if let Err(e) = std::fs::remove_dir_all(entry.path()) {
                    say(&format!("warning: {}: {}", entry.path().display(), atomic::explain(&e, "removed")));
                }
            }
        }
    }
}

impl Versions {
    /// The versions of the run `first`, in the folder `dir`; without one, the run alone.
    ///
    /// # Errors
    /// `Error::File` for a folder that belongs to another run or another server, or cannot be read.
    pub fn open(first: &SavedRun, dir: Option<&Path>) -> Result<Versions> {
        let origin = Origin {
            checkpoint_sha256: first.at.checkpoint_sha256.clone(),
            step: first.at.step,
            classes: first.at.class_names.clone(),
        };
        let mut all = vec![Version::of(first, FIRST, None)];
        let Some(dir) = dir else {
            return Ok(Versions { all, active: FIRST, origin, store: None, left_out: Vec::new() });
        };
        let dir = std::path::absolute(dir).map_err(|e| Error::file(dir, atomic::explain(&e, "read")))?;
        let store = Store::open(&dir)?;
        let empty =
            || Index { format: FORMAT.into(), run: origin.clone(), active: FIRST, versions: Vec::new() };
        let index = store.index()?.unwrap_or_else(empty);
        if index.run != origin {
            return Err(Error::file(
                &dir,
                format!(
                    "holds versions of another run than {} (or it was trained on since then); choose another folder with \
                     --versions DIR",
                    first.workdir.display()
                ),
            ));
        }
        store.sweep(&index);
        let mut left_out = Vec::new();
        for entry in &index.versions {
            match SavedRun::read(&store.folder(entry.number).join("run")) {
                Ok(saved) => all.push(Version::of(&saved, entry.number, Some(entry))),
                Err(e) => {
                    say(&format!("warning: version {} is left out: {e}", entry.number));
                    left_out.push(entry.clone());
                }
            }
        }
        // The nearest one that it was made of, where the active one is damaged.
        let mut active = index.active;
        while all.iter().all(|version| version.number != active) {
            let parent = index.versions.iter().find(|entry| entry.number == active).map(|entry| entry.parent);
            active = parent.unwrap_or(FIRST);
        }
        Ok(Versions { all, active, origin, store: Some(store), left_out })
    }

    /// Every version, by number.
    pub fn list(&self) -> Vec<Version> {
        let mark = |version: &Version| Version { active: version.number == self.active, ..version.clone() };
        self.all.iter().map(mark).collect()
    }

    pub fn get(&self, number: u32) -> Option<&Version> {
        self.all.iter().find(|version| version.number == number)
    }

    /// The version that answers.
    pub fn active(&self) -> &Version {
        self.get(self.active).unwrap_or(&self.all[0])
    }

    /// A folder for a version that is not one yet, and its number. `None` where nothing can be taught.
    ///
    /// # Errors
    /// `Error::File` if it cannot be made.
    pub fn begin(&self) -> Result<Option<(u32, PathBuf)>> {
        let Some(store) = &self.store else { return Ok(None) };
        let mut number = self.all.last().map_or(FIRST, |version| version.number) + 1;
        while store.folder(number).exists() {
            number += 1;
        }
        let dir = store.folder(number);
        let images = dir.join("images");
        std::fs::create_dir_all(&images).map_err(|e| Error::file(&images, atomic::explain(&e, "made")))?;
        Ok(Some((number, dir)))
    }

    /// Lists the finished version `number`, which then answers.
    ///
    /// # Errors
    /// `Error::File` if the index cannot be written; then nothing has changed.
    pub fn add(&mut self, saved: &SavedRun, number: u32, parent: u32, class: &str) -> Result<()> {
        let entry = Entry { number, parent, class: class.into() };
        let version = Version::of(saved, number, Some(&entry));
        let mut entries = self.entries();
        entries.push(entry);
        self.write(number, entries)?;
        self.all.push(version);
        self.active = number;
        Ok(())
    }

    /// Says that version `number` answers from now on.
    ///
    /// # Errors
    /// As [`Versions::add`].
    pub fn activate(&mut self, number: u32) -> Result<()> {
        self.write(number, self.entries())?;
        self.active = number;
        Ok(())
    }

    fn entries(&self) -> Vec<Entry> {
        let entry = |version: &Version| {
            Some(Entry { number: version.number, parent: version.parent?, class: version.class.clone()? })
        };
        let mut entries: Vec<Entry> = self.all.iter().filter_map(entry).collect();
        entries.extend(self.left_out.iter().cloned());
        entries.sort_by_key(|entry| entry.number);
        entries
    }

    fn write(&self, active: u32, versions: Vec<Entry>) -> Result<()> {
        let Some(store) = &self.store else { return Ok(()) };
        let index = Index { format: FORMAT.into(), run: self.origin.clone(), active, versions };
        atomic::write_json(&store.dir.join(INDEX), &index)
    }
}
