//! A model that another program trained, as a run: its backbone as a file of the run, what it learned as the run's
//! checkpoint, and its accuracy as this engine measures it. `docs/adopt.md` says what each program does differently.

use super::evaluate::{self, QueryCache, TaskScore};
use super::scores;
use super::session::{Loaded, Session, images_on_a_rank};
use super::steps;
use crate::config::Config;
use crate::config::schema::{Baselines, Method};
use crate::data::Subset;
use crate::device::Choice;
use crate::error::{Error, Result};
use crate::import::HostTensor;
use crate::import::ports::{self, Columns, Kind, Learned, Port, Ported};
use crate::learner::{InitialWeights, Position, Purpose};
use crate::methods::{Ranks, Tensors};
use crate::output::checkpoint::{State, Store, TensorData};
use crate::output::workdir::{CHECKPOINTS, CONFIG};
use crate::output::{atomic, say};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The backbone of an adopted run, in its folder.
pub const BACKBONE: &str = "backbone.safetensors";

/// What is adopted.
#[derive(Debug, Clone)]
pub struct Adoption {
    pub checkpoint: PathBuf,
    pub port: Port,
    /// The data, the tasks and the method that the checkpoint is of.
    pub config: Config,
    /// The folder of the run, which must be free.
    pub workdir: PathBuf,
    /// Tasks that the model has learned; `None`: all.
    pub tasks: Option<usize>,
    pub choice: Choice,
}

/// What came of it.
#[derive(Debug)]
pub struct Adopted {
    pub tasks: usize,
    pub of: usize,
    pub scores: Vec<TaskScore>,
    /// Whether the images of a batch can vote.
    pub votes: bool,
}

/// Makes the run and tests it on the tasks that it has learned.
///
/// # Errors
/// `Error::File` for a checkpoint that is not of this program, `Error::Config` for a configuration that it does not fit, or a
/// folder that is taken. Then nothing is left behind.
pub fn adopt(adoption: &Adoption) -> Result<Adopted> {
    let into = &adoption.workdir;
    if into.is_file() || std::fs::read_dir(into).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(Error::config(format!(
            "{} is not an empty folder; choose another `--workdir`",
            into.display()
        )));
    }
    let ported = ports::read(&adoption.checkpoint, adoption.port)?;
    expect_method(&adoption.config, &ported, adoption)?;
    let parent = into.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(parent).map_err(|e| Error::file(parent, atomic::explain(&e, "made")))?;
    let new = tempfile::Builder::new()
        .prefix(".adopt-")
        .suffix(atomic::TEMPORARY)
        .tempdir_in(parent)
        .map_err(|e| Error::file(parent, atomic::explain(&e, "written")))?;
    let backbone = new.path().join(BACKBONE);
    write_backbone(&ported.backbone, &backbone)?;
    let mut config = adoption.config.clone();
    config.model.init_checkpoint = backbone.to_string_lossy().into_owned();
    // They would learn all tasks anew, and others report theirs for models of their own.
    config.baselines = Baselines::none();
    config.published.clear();
    let batch = config.train.per_device_batch_size;
    let ranks = Ranks::alone(batch);
    let purpose = Purpose::Training { ranks: &ranks, images: images_on_a_rank(&config, batch, 1) };
    let loaded = Loaded::new(&config, adoption.choice.clone(), purpose)?;
    let mut session = Session::for_training(config, loaded, ranks, InitialWeights::Checkpoint)?;
    let tasks = learned_tasks(&session, adoption.tasks)?;
    put(&mut session, &ported, tasks, &adoption.checkpoint)?;
    let (mut at, scores) = tested(&mut session, tasks)?;
    let mut config = session.learner.config.clone();
    let place = std::path::absolute(into).unwrap_or_else(|_| into.clone()).join(BACKBONE);
    config.model.init_checkpoint = place.to_string_lossy().into_owned();
    at.step = steps::total_steps(&session)? - steps::steps_from(&session, tasks)?;
    let meta = serde_json::to_value(&at)
        .map_err(|e| Error::failed(format!("the state of the run cannot be written: {e}")))?;
    let state = State { step: at.step, meta, tensors: session.learner.method.state()? };
    Store::open(&new.path().join(CHECKPOINTS), &config)?.save(&state)?;
    atomic::write(&new.path().join(CONFIG), config.to_toml().as_bytes())?;
    // As any other folder that is made, and not for this user alone.
    let made = std::fs::metadata(new.path().join(CHECKPOINTS))
        .and_then(|about| std::fs::set_permissions(new.path(), about.permissions()))
        .and_then(|()| std::fs::rename(new.path(), into));
    made.map_err(|e| Error::file(into, atomic::explain(&e, "made")))?;
    let votes = session.learner.method.model().prompts.vote_group().is_some();
    Ok(Adopted { tasks, of: session.train_tasks.len(), scores, votes })
}

/// Refuses a configuration of another method than the checkpoint has.
fn expect_method(config: &Config, ported: &Ported, adoption: &Adoption) -> Result<()> {
    let method = match ported.kind {
        Kind::L2p => Method::L2p,
        Kind::DualPrompt => Method::DualPrompt,
        Kind::CodaPrompt => Method::CodaPrompt,
    };
    if config.method == method {
        return Ok(());
    }
    Err(Error::config(format!(
        "method: {} holds what `{method}` learns, the configuration says `{}`; wanted a configuration of that method, such \
         as those in `configs`",
        adoption.checkpoint.display(),
        config.method
    )))
}

fn learned_tasks(session: &Session, asked: Option<usize>) -> Result<usize> {
    let all = session.train_tasks.len();
    let tasks = asked.unwrap_or(all);
    if tasks == 0 || tasks > all {
        return Err(Error::config(format!(
            "--tasks: wanted between 1 and continual.num_tasks = {all}, found {tasks}"
        )));
    }
    if !session.tests_after(tasks - 1) {
        return Err(Error::config(format!(
            "--tasks: continual.eval_every_tasks = {} tests no network after {tasks} tasks; wanted 1",
            session.learner.config.continual.eval_every_tasks
        )));
    }
    Ok(tasks)
}

/// Writes tensors as they are.
fn write_backbone(tensors: &BTreeMap<String, HostTensor>, path: &Path) -> Result<()> {
    let views = tensors.iter().map(|(name, tensor)| {
        let view = TensorView::new(Dtype::F32, tensor.shape.clone(), bytemuck::cast_slice(&tensor.data));
        view.map(|view| (name, view)).map_err(|e| Error::failed(format!("`{name}`: {e}")))
    });
    let bytes = safetensors::serialize(views.collect::<Result<Vec<_>>>()?, None)
        .map_err(|e| Error::failed(format!("the backbone cannot be put into a file: {e}")))?;
    atomic::write(path, &bytes)
}

/// Puts what was learned into the network.
fn put(session: &mut Session, ported: &Ported, tasks: usize, checkpoint: &Path) -> Result<()> {
    let mut tensors: Tensors = session.learner.method.state()?;
    let mut used = 0;
    for (name, shape, data) in &mut tensors {
        let Some(name) = name.strip_prefix("params/") else { continue };
        let values = match (ported.learned.get(name), &ported.general, name) {
            (Some(learned), _, "head/kernel") => head(session, ported, learned, shape, checkpoint)?,
            (Some(learned), _, "head/bias") => {
                expect_shape(learned, shape, "the classes of the data set", checkpoint)?;
                by_class(session, ported, |column| learned.tensor.data[column])
            }
            (Some(learned), ..) => prompts(session, ported, name, learned, shape, tasks, checkpoint)?,
            (None, Some(general), "prefix") => {
                used += 1;
                general_prompts(session, general, shape, checkpoint)?
            }
            (None, ..) => {
                return Err(Error::config(format!(
                    "{}: the configuration has `{name}` {shape:?}, for which the checkpoint holds nothing; wanted a \
                     configuration with the prompts of the checkpoint, and a frozen backbone",
                    checkpoint.display()
                )));
            }
        };
        used += usize::from(ported.learned.contains_key(name));
        *data = match data {
            TensorData::F64(_) => TensorData::F64(values.into_iter().map(f64::from).collect()),
            _ => TensorData::F32(values),
        };
    }
    let there = ported.learned.len() + usize::from(ported.general.is_some());
    if used < there {
        let names = tensors.iter().filter_map(|(name, ..)| name.strip_prefix("params/"));
        let names: Vec<&str> = names.collect();
        let unused = ported.learned.iter().find(|(name, _)| !names.contains(&name.as_str()));
        let unused = unused.map_or("g_prompt", |(_, learned)| &learned.name);
        return Err(Error::config(format!(
            "{}: the configuration has no place for `{unused}`; wanted one with the prompts of the checkpoint \
             (prompt_pool, g_prompt, coda.layers)",
            checkpoint.display()
        )));
    }
    session.learner.method.restore(&tensors, 0)
}

fn expect_shape(learned: &Learned, shape: &[usize], keys: &str, checkpoint: &Path) -> Result<()> {
    if learned.tensor.shape.iter().filter(|&&n| n != 1).eq(shape.iter().filter(|&&n| n != 1)) {
        return Ok(());
    }
    Err(Error::config(format!(
        "{}: its `{}` has the shape {:?}, the configuration wants {shape:?}; what decides that: {keys}",
        checkpoint.display(),
        learned.name,
        learned.tensor.shape
    )))
}

/// What `of` says of the column of each class of the engine, in their order.
fn by_class(session: &Session, ported: &Ported, of: impl Fn(usize) -> f32) -> Vec<f32> {
    let classes = 0..session.classes();
    let mut label_of: Vec<usize> = classes.clone().collect();
    if ported.columns == Columns::ByLabel {
        for (label, &class) in session.split.label_to_class.iter().enumerate() {
            if let Some(place) = label_of.get_mut(class as usize) {
                *place = label;
            }
        }
    }
    classes.map(|class| of(label_of[class])).collect()
}

/// (K, C), as PyTorch has it, as (C, K).
fn head(
    session: &Session,
    ported: &Ported,
    learned: &Learned,
    shape: &[usize],
    checkpoint: &Path,
) -> Result<Vec<f32>> {
    let &[c, classes] = shape else { return Err(Error::failed("a head with one matrix was wanted")) };
    expect_shape(learned, &[classes, c], "the classes of the data set", checkpoint)?;
    Ok((0..c).flat_map(|i| by_class(session, ported, |column| learned.tensor.data[column * c + i])).collect())
}

/// A pool, keys or components, as they are. Components that no task has reached yet are not read by the program; here they
/// must be zero until their task begins.
fn prompts(
    session: &Session,
    ported: &Ported,
    name: &str,
    learned: &Learned,
    shape: &[usize],
    tasks: usize,
    checkpoint: &Path,
) -> Result<Vec<f32>> {
    let keys = match ported.kind {
        Kind::L2p | Kind::DualPrompt => {
            "prompt_pool.pool_size, prompt_pool.length, prompt_pool.e_prompt_layer_idx, model.heads"
        }
        Kind::CodaPrompt => "coda.components, coda.length",
    };
    expect_shape(learned, shape, keys, checkpoint)?;
    let mut values = learned.tensor.data.clone();
    if name.starts_with("coda/") {
        let (config, rows) = (&session.learner.config, shape[0]);
        let each = config.coda.components / config.continual.num_tasks.max(1);
        let width = values.len() / rows.max(1);
        values[tasks * each * width..].fill(0.0);
    }
    Ok(values)
}

/// (G, 2, L, H, D) in the layers of `g_prompt.g_prompt_layer_idx`; the engine has room for every layer.
fn general_prompts(
    session: &Session,
    general: &Learned,
    shape: &[usize],
    checkpoint: &Path,
) -> Result<Vec<f32>> {
    let layers = &session.learner.config.g_prompt.g_prompt_layer_idx;
    let wanted: Vec<usize> = std::iter::once(layers.len()).chain(shape[1..].iter().copied()).collect();
    let keys = "g_prompt.g_prompt_layer_idx, g_prompt.g_prompt_length, g_prompt.same_key_value, model.heads";
    expect_shape(general, &wanted, keys, checkpoint)?;
    let each = shape[1..].iter().product::<usize>();
    let mut values = vec![0.0; shape.iter().product()];
    for (part, &layer) in general.tensor.data.chunks_exact(each).zip(layers) {
        values[layer * each..(layer + 1) * each].copy_from_slice(part);
    }
    Ok(values)
}

/// Tests the network on the tasks that it has learned, and where the run then stands. What it was after earlier tasks
/// is not known.
fn tested(session: &mut Session, tasks: usize) -> Result<(Position, Vec<TaskScore>)> {
    let learner = &mut session.learner;
    session.train_tasks[..tasks].iter().for_each(|task| learner.meet(&task.classes));
    let mut cache = QueryCache::new(Subset::Test, session.split.tasks.len());
    let tests = session.split.tests_after(tasks - 1);
    let scores = (0..tests).map(|i| evaluate::task(session, &mut cache, i)).collect::<Result<Vec<_>>>()?;
    let earlier: Vec<Vec<f64>> = session
        .tested_tasks()
        .into_iter()
        .filter(|&task| task + 1 < tasks)
        .map(|task| vec![f64::NAN; session.split.tests_after(task)])
        .collect();
    let learner = &session.learner;
    let mut at = Position {
        task: tasks,
        per_image: earlier.clone(),
        per_batch: earlier,
        class_names: learner.class_names.clone(),
        classes_seen: learner.classes_seen.clone(),
        checkpoint_sha256: learner.backbone.sha256.clone(),
        origin: session.origin(),
        learning_rate: Some(learner.config.optim.learning_rate),
        bf16_arithmetic: crate::learner::bf16_arithmetic(learner.config.precision, &learner.dev),
        batch: session.ranks.batch,
        ..Position::default()
    };
    scores::add_row(&session.split, &mut at, &scores, &[]);
    if scores.iter().any(|score| score.images == 0) {
        say("note: a task without test images was not tested");
    }
    Ok((at, scores))
}
