//! What a report reads: runs in their folders, those of one configuration together.

use crate::config::Config;
use crate::config::published::Published;
use crate::error::{Error, Result};
use crate::output::atomic;
use crate::output::results::{Results, Score};
use crate::output::seeds::{self, Seeds};
use crate::output::spread::Spread;
use crate::output::times::{self, TimeRow};
use crate::output::workdir::Workdir;
use serde::Deserialize;
use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// One run as it lies in its folder.
#[derive(Debug, Clone)]
pub struct Run {
    pub workdir: PathBuf,
    pub config: Config,
    pub results: Results,
    pub history: History,
}

/// Runs that differ in nothing but their seed.
#[derive(Debug, Clone)]
pub struct Group {
    /// A few words by which it differs from the other groups.
    pub label: String,
    pub runs: Vec<Run>,
}

/// What `log.jsonl` holds.
#[derive(Debug, Clone, Default)]
pub struct History {
    pub steps: Vec<LoggedSteps>,
    pub tasks: Vec<Choices>,
    /// Where the time went, and the seconds of which this is said; empty without `train --profile`.
    pub times: Vec<TimeRow>,
    pub timed: f64,
}

/// A part of a run that was timed.
#[derive(Debug, Deserialize)]
struct Timed {
    seconds: f64,
    rows: Vec<TimeRow>,
}

/// Some training steps, up to this one.
#[derive(Debug, Clone, Deserialize)]
pub struct LoggedSteps {
    pub step: u64,
    pub task: usize,
    pub ce_loss: Option<f64>,
    pub accuracy: Option<f64>,
}

/// How the test images of each task chose prompts after a task: [task][prompt].
#[derive(Debug, Clone, Deserialize, Default)]
#[serde(default)]
pub struct Choices {
    /// Images that chose the prompt by themselves, and in a vote.
    pub prompt_usage: Vec<Vec<u64>>,
    pub vote_usage: Vec<Vec<u64>>,
    /// Mean cosine of query and key.
    pub similarity: Vec<Vec<Option<f64>>>,
}

impl Choices {
    /// Prompts that no test image of any task chose by itself.
    pub fn dead(&self) -> Vec<usize> {
        let pool = self.prompt_usage.iter().map(Vec::len).max().unwrap_or(0);
        let used =
            |prompt: usize| self.prompt_usage.iter().any(|task| task.get(prompt).is_some_and(|n| *n > 0));
        (0..pool).filter(|prompt| !used(*prompt)).collect()
    }
}

/// H = -Σ p log2 p of counts, in bits.
pub fn entropy(counts: &[u64]) -> f64 {
    let total: f64 = counts.iter().map(|n| *n as f64).sum();
    let shares = counts.iter().map(|n| *n as f64 / total).filter(|p| *p > 0.0);
    shares.map(|p| -p * p.log2()).sum::<f64>().max(0.0)
}

/// The counts of all tasks together.
pub fn together(usage: &[Vec<u64>]) -> Vec<u64> {
    let pool = usage.iter().map(Vec::len).max().unwrap_or(0);
    let sum =
        |p: usize| usage.iter().filter_map(|task| task.get(p)).fold(0u64, |sum, n| sum.saturating_add(*n));
    (0..pool).map(sum).collect()
}

impl Run {
    /// The run in `workdir`, which may still be going on.
    ///
    /// # Errors
    /// [`Error::File`] if there is no run, no finished task, or a file that cannot be read.
    pub fn read(workdir: &Path) -> Result<Run> {
        let Some(config) = Workdir::saved_config(workdir)? else {
            return Err(Error::file(
                workdir,
                "holds no run (neither config.toml nor seeds.json, nor a folder with one); wanted a --workdir of `train` or \
                 a folder above some",
            ));
        };
        let file = workdir.join("results.json");
        if !file.exists() {
            return Err(Error::file(&file, "is missing: no task is finished yet; train the run first"));
        }
        let (results, history) = (Results::read(&file)?, History::read(&workdir.join("log.jsonl"))?);
        Ok(Run { workdir: workdir.to_path_buf(), config, results, history })
    }

    /// Rows of the accuracy matrix.
    pub fn rows(&self) -> usize {
        self.results.per_image.accuracy_matrix.len()
    }

    /// Tasks that are finished, as far as the last test tells.
    pub fn tasks(&self) -> usize {
        self.rows().checked_sub(1).map_or(0, |last| self.results.per_image.task_of(last) + 1)
    }

    /// All runs of a key are one group: the configuration without its seed, the backbone, the tasks done.
    fn key(&self) -> String {
        let mut config = self.config.identity();
        config.seed = 0;
        format!("{} {} {}", config.config_hash(), self.results.checkpoint_sha256, self.tasks())
    }
}

impl History {
    fn read(path: &Path) -> Result<History> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(History::default()),
            Err(e) => return Err(Error::file(path, atomic::explain(&e, "read"))),
        };
        let mut history = History::default();
        for (n, line) in text.split_inclusive('\n').enumerate() {
            // A run that is going on may be writing its last line.
            if !line.ends_with('\n') {
                break;
            }
            let bad = |e| Error::file(path, format!("line {} is not of a run's log: {e}", n + 1));
            let value: serde_json::Value = serde_json::from_str(line).map_err(bad)?;
            match value.get("event").and_then(|e| e.as_str()) {
                Some("train") => history.steps.push(serde_json::from_value(value).map_err(bad)?),
                Some("task") => history.tasks.push(serde_json::from_value(value).map_err(bad)?),
                Some("profile") => {
                    let Timed { seconds, rows } = serde_json::from_value(value).map_err(bad)?;
                    history.timed += seconds;
                    times::add(&mut history.times, rows);
                }
                _ => {}
            }
        }
        Ok(history)
    }
}

impl Group {
    pub fn first(&self) -> &Run {
        &self.runs[0]
    }

    /// Mean and deviation over the runs of what `read` finds in each.
    pub fn spread(&self, read: impl Fn(&Run) -> Option<f64>) -> Option<Spread> {
        Spread::of_some(self.runs.iter().map(read))
    }

    /// The same over a baseline of each run, by its name.
    pub fn baseline(&self, name: &str, read: impl Fn(&Score) -> Option<f64>) -> Option<Spread> {
        self.spread(|run| {
            let named = run.results.baselines.named();
            read(named.iter().find(|(n, _)| *n == name)?.1)
        })
    }

    /// The mean accuracy matrix.
    pub fn matrix(&self, of: fn(&Results) -> &Score) -> Vec<Vec<f64>> {
        let first = &of(&self.first().results).accuracy_matrix;
        let cell = |t: usize, i: usize| {
            let values = self.runs.iter().map(|r| of(&r.results).accuracy_matrix.get(t)?.get(i).copied());
            Spread::of_some(values).map_or(f64::NAN, |s| s.mean)
        };
        first.iter().enumerate().map(|(t, row)| (0..row.len()).map(|i| cell(t, i)).collect()).collect()
    }

    /// Whether there is something to vote on.
    pub fn votes(&self) -> bool {
        self.first().config.prompt_pool.votes()
    }

    pub fn published(&self) -> Vec<Published> {
        let texts = &self.first().config.published;
        texts.iter().filter_map(|text| Published::parse(text).ok()).collect()
    }
}

/// The runs in `dirs`, grouped in the order given. Each of `dirs` is a work directory of a run or of several
/// seeds, or a folder with such folders at any depth below it.
///
/// # Errors
/// Those of [`Run::read`].
pub fn read(dirs: &[PathBuf]) -> Result<Vec<Group>> {
    let mut seen = HashSet::new();
    let mut groups: Vec<(String, Group)> = Vec::new();
    for dir in dirs {
        for folder in folders(dir)? {
            if !seen.insert(folder.canonicalize().unwrap_or(folder.clone())) {
                continue;
            }
            let run = Run::read(&folder)?;
            let key = run.key();
            match groups.iter_mut().find(|(k, _)| *k == key) {
                Some((_, group)) => group.runs.push(run),
                None => groups.push((key, Group { label: String::new(), runs: vec![run] })),
            }
        }
    }
    let mut groups: Vec<Group> = groups.into_iter().map(|(_, group)| group).collect();
    let labels: Vec<String> = (0..groups.len()).map(|g| label(&groups, g)).collect();
    groups.iter_mut().zip(labels).for_each(|(group, label)| group.label = label);
    Ok(groups)
}

/// The folders of the runs in `dir`.
fn folders(dir: &Path) -> Result<Vec<PathBuf>> {
    if let Some(folders) = of_seeds(dir)? {
        return Ok(folders);
    }
    if dir.join("config.toml").exists() {
        return Ok(vec![dir.to_path_buf()]);
    }
    let mut found = Vec::new();
    below(dir, 0, &mut found)?;
    // Without any run below, the folder itself is named as what holds none.
    Ok(if found.is_empty() { vec![dir.to_path_buf()] } else { found })
}

/// The folders that a `seeds.json` in `dir` lists.
fn of_seeds(dir: &Path) -> Result<Option<Vec<PathBuf>>> {
    let file = dir.join(seeds::FILE);
    if !file.exists() {
        return Ok(None);
    }
    Ok(Some(Seeds::read(&file)?.runs.iter().map(|run| dir.join(&run.workdir)).collect()))
}

/// Folders of runs are looked for this far below a folder that was named.
const MAX_DEPTH: usize = 8;

/// Collects the runs below `dir` that have a finished task, in the order of their names. Links are not followed.
fn below(dir: &Path, depth: usize, found: &mut Vec<PathBuf>) -> Result<()> {
    let unreadable = |e: std::io::Error| Error::file(dir, atomic::explain(&e, "read"));
    let mut folders = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        if entry.file_type().map_err(unreadable)?.is_dir() {
            folders.push(entry.path());
        }
    }
    folders.sort();
    for folder in folders {
        if let Some(runs) = of_seeds(&folder)? {
            found.extend(runs);
        } else if folder.join("results.json").exists() && folder.join("config.toml").exists() {
            found.push(folder);
        } else if depth < MAX_DEPTH && !folder.join("config.toml").exists() {
            below(&folder, depth + 1, found)?;
        }
    }
    Ok(())
}

/// The method, and where that does not tell the groups apart, the folder.
fn label(groups: &[Group], which: usize) -> String {
    let run = groups[which].first();
    let alone = |of: &dyn Fn(&Run) -> String| groups.iter().filter(|g| of(g.first()) == of(run)).count() == 1;
    let method = |r: &Run| r.config.method.to_string();
    let mut label = method(run);
    if !alone(&method) {
        label = format!("{label}: {}", folder(run));
    }
    if !alone(&|r| format!("{} {}", method(r), folder(r))) {
        label = format!("{label} ({})", which + 1);
    }
    if !run.results.complete {
        label = format!("{label}, {} of {} tasks", run.tasks(), run.results.num_tasks);
    }
    label
}

/// The name of a run's folder; of one of several seeds, that of the folder above.
fn folder(run: &Run) -> String {
    let dir = run.workdir.canonicalize().unwrap_or_else(|_| run.workdir.clone());
    let own = if dir.parent().is_some_and(|above| above.join(seeds::FILE).exists()) {
        dir.parent()
    } else {
        Some(&*dir)
    };
    own.and_then(Path::file_name).map_or(String::new(), |name| name.to_string_lossy().into_owned())
}

/// The numbers of the groups that have data, tasks and backbone in common, in the order of their first: the baselines of
/// one hold for all of a set.
pub fn comparable(groups: &[Group]) -> Vec<Vec<usize>> {
    let of = |g: &Group| {
        let (r, order) = (&g.first().results, &g.first().config.continual.class_order);
        (r.dataset.clone(), r.checkpoint_sha256.clone(), r.num_tasks, order.clone())
    };
    let mut sets: Vec<Vec<usize>> = Vec::new();
    for g in 0..groups.len() {
        match sets.iter_mut().find(|set| of(&groups[set[0]]) == of(&groups[g])) {
            Some(set) => set.push(g),
            None => sets.push(vec![g]),
        }
    }
    sets
}

/// Where the baselines of comparable groups are read: the group with baselines that has the most runs.
pub fn with_baselines<'a>(set: impl Iterator<Item = &'a Group>) -> Option<&'a Group> {
    let has = |g: &&Group| !g.first().results.baselines.named().is_empty();
    set.filter(has).max_by_key(|g| g.runs.len())
}
