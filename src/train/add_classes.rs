//! Classes that are added to a finished run, as a new run whose first tasks are those of the old one.
//!
//! The new run is the old one with a task more: its configuration names the images that came (`data.added…`), its first
//! checkpoint holds what the old run has learned, grown by name. From there it is resumed like any other. Nothing is
//! written into the folder of the old run.

use super::options::Options;
use super::run;
use super::session::{self, Loaded, Session, images_on_a_rank};
use crate::comm::Launch;
use crate::config::Config;
use crate::config::schema::{Baselines, Scenario};
use crate::data::added::{self, IMAGES_MIN};
use crate::data::{self, DataSet, Split, cache::Cache};
use crate::device::Choice;
use crate::error::{Error, Result};
use crate::learner::origin;
use crate::learner::{InitialWeights, Position, Purpose, SavedRun};
use crate::methods::Ranks;
use crate::output::checkpoint::{State, Store};
use crate::output::progress::Listener;
use crate::output::results::Results;
use crate::output::workdir::{self, CHECKPOINTS, CONFIG, LOG};
use crate::output::{atomic, say};
use std::collections::BTreeSet;
use std::io::Read;
use std::path::{Path, PathBuf};

/// What is added to which run.
#[derive(Debug, Clone)]
pub struct Addition {
    /// The run, which stays as it is.
    pub workdir: PathBuf,
    /// A folder with a folder of images for each class, or lists.
    pub images: String,
    /// The folder of the new run; `None`: the first free one of `RUN-v2`, `RUN-v3`, …
    pub into: Option<PathBuf>,
    pub epochs: Option<usize>,
    /// Classes of the run may get more images.
    pub update: bool,
    /// Where backbone and images of the run lie now, if they have moved.
    pub init_checkpoint: Option<String>,
    pub run_images: Option<String>,
    pub choice: Choice,
    pub quiet: bool,
    /// Hears of every step and every test.
    pub listener: Option<Listener>,
}

/// Makes the new run, learns its last task and returns its folder and its results.
///
/// # Errors
/// `Error::Config` for classes that the run has or a folder that is taken, `Error::File` for a run or images that are
/// not there, `Error::Failed` for a run that is not finished. Before the new run has its folder nothing is left behind;
/// after that it can be resumed.
pub fn add_classes(addition: &Addition) -> Result<(PathBuf, Results)> {
    if let Some(into) = &addition.into {
        expect_free(into)?;
    }
    let mut saved = SavedRun::read(&addition.workdir)?;
    saved.locate_backbone(addition.init_checkpoint.as_deref())?;
    expect_finished(&saved)?;
    let mut config = extended(&saved, addition)?;
    find_earlier_images(&mut config, &saved, addition)?;
    let (config, state) = grown(config, &saved, addition)?;
    let into = make_folder(addition, &saved, &config, &state)?;
    if !addition.quiet {
        say(&format!("the new run is {}; {} stays as it is", into.display(), addition.workdir.display()));
    }
    let options = Options {
        workdir: into.clone(),
        resume: true,
        quiet: addition.quiet,
        profile: false,
        choices: vec![addition.choice.clone()],
        launch: Launch::single(),
        listener: addition.listener.clone(),
    };
    match run::train(config, &options) {
        Ok(results) => Ok((into, results)),
        Err(Error::Interrupted(what)) => {
            let on = format!("`l2p-engine train --workdir {} --resume`", into.display());
            Err(Error::Interrupted(format!("{what}: {on}")))
        }
        Err(e) => Err(e),
    }
}

/// Refuses a folder that holds anything.
fn expect_free(into: &Path) -> Result<()> {
    if into.exists() && !into.is_dir() {
        return Err(Error::file(into, "`--into` wants a folder, this is a file"));
    }
    let found = workdir::contents(into);
    if !found.is_empty() {
        let found = found.join(", ");
        return Err(Error::config(format!(
            "{} already holds a run ({found}); choose another `--into`",
            into.display()
        )));
    }
    if std::fs::read_dir(into).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(Error::config(format!("{} is not empty; choose another `--into`", into.display())));
    }
    Ok(())
}

fn expect_finished(saved: &SavedRun) -> Result<()> {
    let (at, tasks, dir) = (&saved.at, saved.config.tasks(), saved.workdir.display());
    if at.task < tasks {
        return Err(Error::failed(format!(
            "{dir}: {} of {tasks} tasks are learned; finish the run with `train --workdir {dir} --resume` before classes \
             are added",
            at.task
        )));
    }
    let by_task = matches!(saved.config.continual.scenario, Scenario::Class | Scenario::Domain);
    if by_task && at.per_image.last().is_some_and(|row| row.len() != tasks) {
        return Err(Error::config(format!(
            "{dir}: all tasks of the run share one test set, and classes cannot be added to it; wanted a run with a test \
             set for each task (continual.scenario = \"class\", or \"domain\" where each domain has test images)"
        )));
    }
    Ok(())
}

/// The configuration of the new run, as if all images of the old one were found.
fn extended(saved: &SavedRun, addition: &Addition) -> Result<Config> {
    let mut config = saved.config.clone();
    let absolute = |path: &str| {
        let there = std::path::absolute(path).ok().filter(|path| path.exists());
        there.map_or(path.to_string(), |path| path.to_string_lossy().into_owned())
    };
    if !config.model.init_checkpoint.starts_with("bundled:") {
        config.model.init_checkpoint = absolute(&config.model.init_checkpoint);
    }
    if let Some(dir) = &addition.run_images {
        config.data.dir.clone_from(dir);
    }
    if !config.data.dir.is_empty() {
        config.data.dir = absolute(&config.data.dir);
    }
    if addition.images.is_empty() {
        return Err(Error::config("--data-dir: the folder of the new images was wanted, found nothing"));
    }
    let new = added::read(&addition.images, &config.data, &mut Cache::of(&config.data))?;
    let known = |name: &&String| saved.at.class_names.contains(name);
    let (old, fresh): (Vec<&String>, Vec<&String>) = new.class_names.iter().partition(known);
    if !old.is_empty() && !addition.update {
        return Err(Error::config(format!(
            "{}: the run in {} has {} already: `--update` gives it more images; a class that is another wants another name",
            addition.images,
            saved.workdir.display(),
            quoted(&old)
        )));
    }
    expect_images(&new, &fresh, &addition.images)?;
    let data = &mut config.data;
    data.added.push(absolute(&addition.images));
    data.added_sizes.push(fresh.len() + old.len());
    data.added_new.push(fresh.len());
    data.added_classes.extend(fresh.into_iter().chain(old).cloned());
    // A handful of images is less than a batch.
    data.partial_batch = true;
    let usual = epochs(config.train.num_epochs, new.train.len(), saved.at.images(&saved.config));
    config.train.num_epochs = addition.epochs.unwrap_or(usual);
    // They would learn all earlier tasks anew.
    config.baselines = Baselines::none();
    // Others report them for the tasks that the run began with.
    config.published.clear();
    config.check()?;
    Ok(config)
}

/// Steps in which new classes are learned at least, unless that takes more than so many images and so many epochs.
const STEPS: usize = 50;
const IMAGES: usize = 800;
const EPOCHS: usize = 10;

/// Epochs over `images` new images in batches of `batch`: those of the run, or more until there are [`STEPS`], because
/// new columns of the head have learned nothing, and old ones have grown.
fn epochs(of_run: usize, images: usize, batch: usize) -> usize {
    let each = (images / batch.max(1)).max(1);
    of_run.max(STEPS.div_ceil(each).min(EPOCHS.max(IMAGES / images.max(1))))
}

fn quoted(names: &[&String]) -> String {
    const SHOWN: usize = 5;
    let shown: Vec<String> = names.iter().take(SHOWN).map(|name| format!("`{name}`")).collect();
    let more = names.len() - shown.len();
    let more = if more == 0 { String::new() } else { format!(" and {more} more classes") };
    format!("{}{more}", shown.join(", "))
}

/// Refuses classes of which too little can be learned or tested.
fn expect_images(new: &DataSet, fresh: &[&String], dir: &str) -> Result<()> {
    let counts = added::images_of_classes(new);
    let few = new.class_names.iter().zip(&counts).filter(|(name, [train, test])| {
        let least = if fresh.contains(name) { IMAGES_MIN } else { 2 };
        *train == 0 || *test == 0 || train + test < least
    });
    let few: Vec<String> = few
        .map(|(name, [train, test])| format!("`{name}` has {train} to learn and {test} to test"))
        .collect();
    if few.is_empty() {
        return Ok(());
    }
    Err(Error::file(
        dir,
        format!(
            "a new class wants at least {IMAGES_MIN} images and a known one 2, at least one of them to test; {}",
            few.join(", ")
        ),
    ))
}

/// Looks for the images of the old run. Where they are not what they were, `config` is told which tasks cannot be tested.
fn find_earlier_images(config: &mut Config, saved: &SavedRun, addition: &Addition) -> Result<()> {
    let mut old = saved.config.clone();
    old.data.dir.clone_from(&config.data.dir);
    let Err(why) = as_it_was(&old, saved) else { return Ok(()) };
    if !addition.quiet {
        say(&format!("note: the images of the run are not all there as they were: {why}"));
    }
    let tasks = saved.config.continual.num_tasks;
    let old_new: usize = saved.config.data.added_new.iter().sum();
    let base = saved.at.class_names.len() - old_new.min(saved.at.class_names.len());
    config.data.base_classes = saved.at.class_names[..base].to_vec();
    for (n, (names, _)) in saved.config.data.added_tasks().into_iter().enumerate() {
        let dir = &config.data.added[n];
        let same = |set: DataSet| set.class_names.iter().collect::<BTreeSet<_>>() == names.iter().collect();
        let found =
            !dir.is_empty() && added::read(dir, &config.data, &mut Cache::of(&config.data)).is_ok_and(same);
        if !found {
            config.data.added[n].clear();
        }
    }
    config.data.lost_tasks = match config.continual.scenario {
        Scenario::Class => Vec::new(),
        _ => (0..tasks).collect(),
    };
    let (images, split) = load(config, saved)?;
    let lost = lost_tasks(&images, &split, saved);
    for &task in &lost {
        if task < tasks {
            config.data.lost_tasks.push(task);
        } else {
            config.data.added[task - tasks].clear();
        }
    }
    config.data.lost_tasks.sort_unstable();
    config.data.lost_tasks.dedup();
    if config.continual.replay_per_class > 0 && !lost.is_empty() {
        return Err(Error::config(format!(
            "continual.replay_per_class = {}: the run learns with images of earlier tasks, which are not there: {why}",
            config.continual.replay_per_class
        )));
    }
    Ok(())
}

fn load(config: &Config, saved: &SavedRun) -> Result<(DataSet, Split)> {
    let images = data::load(&config.data, config.seed)?;
    let split = session::split(config, &images, saved.at.images(config))?;
    Ok((images, split))
}

/// Whether the images of the run are what they were.
fn as_it_was(config: &Config, saved: &SavedRun) -> Result<()> {
    let (images, split) = load(config, saved)?;
    origin::expect_classes(&saved.at.class_names, &split.class_names, &saved.workdir)?;
    origin::expect(&saved.at.origin, &origin::of_data(&images, &split), &saved.workdir)
}

/// The earlier tasks whose test images are not those of the last test: others in number, or, where the engine chose them,
/// others by name.
fn lost_tasks(images: &DataSet, split: &Split, saved: &SavedRun) -> Vec<usize> {
    let earlier = &split.tasks[..saved.config.tasks()];
    let mut found = vec![0u64; split.class_names.len()];
    let class_of = |image: u32| split.label_to_class[images.test.labels[image as usize] as usize];
    for &image in earlier.iter().flat_map(|task| task.test.iter()) {
        found[class_of(image) as usize] += 1;
    }
    let recorded = &saved.at.tallies.per_image.images;
    let kept = std::fs::read_to_string(saved.workdir.join("split/test.txt")).ok();
    let last_part = |line: &str| line.rsplit_once('/').map_or(line.to_string(), |(_, rest)| rest.to_string());
    let kept: Option<BTreeSet<String>> = kept.map(|text| text.lines().map(last_part).collect());
    let is_known = |image: u32| {
        let (Some(kept), Some(path)) = (&kept, images.test.path(image as usize)) else { return true };
        let file = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let line = format!("{file}\t{}", split.class_names[class_of(image) as usize]);
        // A list of several domains has one more column.
        kept.range(line.clone()..).next().is_some_and(|known| {
            known.strip_prefix(&line).is_some_and(|rest| rest.is_empty() || rest.starts_with('\t'))
        })
    };
    let is_whole = |task: &&data::Task| {
        let counted = |&class: &u32| match recorded.get(class as usize) {
            Some(&images) => found[class as usize] == images && images > 0,
            None => found[class as usize] > 0,
        };
        !task.test.is_empty()
            && task.classes.iter().all(counted)
            && task.test.iter().all(|&image| is_known(image))
    };
    earlier.iter().filter(|task| !is_whole(task)).map(|task| task.index).collect()
}

/// The configuration of the new run on its device, and what the old one has learned in a network that has room for more.
fn grown(config: Config, saved: &SavedRun, addition: &Addition) -> Result<(Config, State)> {
    let batch = saved.at.images(&config);
    let ranks = Ranks::alone(batch);
    let images = images_on_a_rank(&config, batch, 1);
    let loaded = Loaded::new(&config, addition.choice.clone(), Purpose::Training { ranks: &ranks, images })?;
    let mut session = Session::for_training(config, loaded, ranks, InitialWeights::Checkpoint)?;
    session.learner.expect_backbone(&saved.at, &saved.workdir)?;
    session.learner.method.restore_grown(&saved.tensors, saved.at.optimizer_step)?;
    let at = Position {
        task_step: 0,
        baselines: None,
        complete: false,
        window: Vec::new(),
        window_images: 0,
        class_names: session.learner.class_names.clone(),
        origin: session.origin(),
        learning_rate: Some(session.learner.config.optim.learning_rate),
        batch,
        ..saved.at.clone()
    };
    let meta = serde_json::to_value(&at)
        .map_err(|e| Error::failed(format!("the state of the run cannot be written: {e}")))?;
    let state = State { step: at.step, meta, tensors: session.learner.method.state()? };
    Ok((session.learner.config.clone(), state))
}

/// Writes the new run beside the place that it gets, and moves it there as a whole.
fn make_folder(addition: &Addition, saved: &SavedRun, config: &Config, state: &State) -> Result<PathBuf> {
    let into = addition.into.clone().unwrap_or_else(|| next_version(&saved.workdir));
    let parent = into.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(parent).map_err(|e| Error::file(parent, atomic::explain(&e, "made")))?;
    let new = tempfile::Builder::new()
        .prefix(".add-classes-")
        .suffix(atomic::TEMPORARY)
        .tempdir_in(parent)
        .map_err(|e| Error::file(parent, atomic::explain(&e, "written")))?;
    Store::open(&new.path().join(CHECKPOINTS), config)?.save(state)?;
    copy_log(saved, new.path())?;
    atomic::write(&new.path().join(CONFIG), config.to_toml().as_bytes())?;
    let fail = |into: &Path, e: std::io::Error| Error::file(into, atomic::explain(&e, "made"));
    // As any other folder that is made, and not for this user alone.
    let mode = std::fs::metadata(new.path().join(CHECKPOINTS)).map_err(|e| fail(&into, e))?.permissions();
    std::fs::set_permissions(new.path(), mode).map_err(|e| fail(&into, e))?;
    let mut place = into;
    loop {
        // A folder with something in it is not replaced.
        match std::fs::rename(new.path(), &place) {
            Ok(()) => break,
            Err(_) if addition.into.is_none() && place.exists() => place = next_version(&place),
            Err(e) => return Err(fail(&place, e)),
        }
    }
    Ok(place)
}

/// The lines of the log that the checkpoint counts.
fn copy_log(saved: &SavedRun, new: &Path) -> Result<()> {
    let (from, to) = (saved.workdir.join(LOG), new.join(LOG));
    let Ok(file) = std::fs::File::open(&from) else { return Ok(()) };
    let mut text = Vec::new();
    file.take(saved.at.log_bytes)
        .read_to_end(&mut text)
        .map_err(|e| Error::file(&from, atomic::explain(&e, "read")))?;
    atomic::write(&to, &text)
}

/// `RUN-v2` of `RUN`, `RUN-v3` of `RUN-v2`: the first that is not there.
fn next_version(run: &Path) -> PathBuf {
    let whole = if run.file_name().is_some() { Ok(run.to_path_buf()) } else { std::fs::canonicalize(run) };
    let whole = whole.unwrap_or_else(|_| run.to_path_buf());
    let name = whole.file_name().map_or("run".into(), |name| name.to_string_lossy().into_owned());
    let numbered = name.rsplit_once("-v").and_then(|(stem, n)| Some((stem, n.parse::<u32>().ok()?)));
    let (stem, first) = numbered.map_or((name.as_str(), 2), |(stem, n)| (stem, n.saturating_add(1)));
    let mut places = (first..).map(|n| whole.with_file_name(format!("{stem}-v{n}")));
    places.find(|place| !place.exists()).unwrap_or_else(|| whole.clone())
}

#[cfg(test)]
mod tests {
    use super::{epochs, next_version};
    use std::path::Path;

    #[test]
    fn few_images_are_learned_more_often() {
        assert_eq!(epochs(2, 80, 16), 10);
        assert_eq!(epochs(2, 80, 128), 10);
        assert_eq!(epochs(2, 4, 16), 50);
        assert_eq!(epochs(2, 320, 16), 3);
        assert_eq!(epochs(2, 5000, 16), 2);
        assert_eq!(epochs(50, 80, 16), 50);
    }

    #[test]
    fn versions_are_counted() {
        let dir = tempfile::tempdir().expect("a folder");
        let next = |name: &str| next_version(&dir.path().join(name)).file_name().map(|n| n.to_os_string());
        assert_eq!(next("zoo").expect("a name"), "zoo-v2");
        assert_eq!(next("zoo-v2").expect("a name"), "zoo-v3");
        assert_eq!(next("zoo-very").expect("a name"), "zoo-very-v2");
        std::fs::create_dir(dir.path().join("zoo-v2")).expect("a folder");
        assert_eq!(next("zoo").expect("a name"), "zoo-v3");
        assert!(
            next_version(Path::new(".")).file_name().is_some_and(|n| n.to_string_lossy().ends_with("-v2"))
        );
    }
}
