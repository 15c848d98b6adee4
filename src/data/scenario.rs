//! What a run learns one after the other: tasks, their class masks and their test sets.
//!
//! A scenario is a function from images and configuration to a [`Split`]; the rest of the engine reads
//! the split, not the scenario. `class`, and `joint` for training on all classes at once: [`tasks::split`]. `domain`: a
//! task per domain. `gaussian`: overlapping label sets, drawn around peaks that move over the classes. `gaussian_once`
//! and `stream`: one pass without boundaries, cut only where the network is tested.

use std::sync::Arc;

use super::few_shot;
use super::image_set::DataSet;
use super::tasks::{self, Numbering, Split, Task};
use crate::config::schema::{Continual, Scenario, TaskSizes};
use crate::error::{Error, Result};
use crate::rng::{Rng, Stream};

/// An empty label set is drawn again at most so often.
const DRAWS_MAX: u32 = 100_000;

/// The tasks of `continual`. `seed` draws the Gaussian schedules and the class order `seed`; streams are cut at multiples of `batch`
/// images, so that no image is lost at a cut.
///
/// # Errors
/// Those of [`tasks::split`] and [`few_shot::limit`]; `Error::Config` for more tasks than there are domains or batches.
pub fn split(data: &DataSet, continual: &Continual, seed: u64, batch: usize) -> Result<Split> {
    let Some(extension) = &data.extension else { return split_first(data, data, continual, seed, batch) };
    let first = extension.first(data);
    let split = match extension.lost_tasks() {
        None => split_first(&first, data, continual, seed, batch)?,
        Some(lost) => extension.split_found(&first, continual, lost)?,
    };
    extension.add_tasks(data, split)
}

/// The tasks of the set that a run began with. `data`: its labels; `images`: the same, and what was added behind them.
fn split_first(
    data: &DataSet,
    images: &DataSet,
    continual: &Continual,
    seed: u64,
    batch: usize,
) -> Result<Split> {
    if continual.takes_all_classes() {
        let (num_tasks, num_classes_per_task) = (1, TaskSizes::Same(data.class_names.len()));
        return tasks::split(data, &Continual { num_tasks, num_classes_per_task, ..continual.clone() }, seed);
    }
    if matches!(continual.scenario, Scenario::Class | Scenario::Joint) {
        let mut split = tasks::split(data, continual, seed)?;
        few_shot::limit(images, continual, seed, &mut split)?;
        return Ok(split);
    }
    let numbering = Numbering::new(data, continual, seed)?;
    let (tasks, shared_test) = match continual.scenario {
        Scenario::Domain => domains(data, continual, &numbering)?,
        Scenario::Gaussian => (gaussian(data, continual, seed, &numbering)?, true),
        Scenario::GaussianOnce => {
            let order = gaussian_order(data, continual, seed, &numbering);
            (stream(order, data, continual, batch, &numbering)?, true)
        }
        Scenario::Class | Scenario::Joint | Scenario::Stream => {
            let order = (0..data.train.len() as u32).collect();
            (stream(order, data, continual, batch, &numbering)?, true)
        }
    };
    Ok(numbering.split(tasks, shared_test))
}

fn all_test(data: &DataSet) -> Arc<Vec<u32>> {
    Arc::new((0..data.test.len() as u32).collect())
}

fn all_val(data: &DataSet) -> Arc<Vec<u32>> {
    Arc::new((0..data.val.len() as u32).collect())
}

/// A task per domain that has training images, in their order, all classes in each. Where every one of them
/// also has test images, each task has its own test set; otherwise (CORe50, whose test sessions are others)
/// all tasks share the whole test set, as in google-research/l2p @ dd8836e.
fn domains(data: &DataSet, continual: &Continual, numbering: &Numbering) -> Result<(Vec<Task>, bool)> {
    let of = |domains: &[u32], domain: u32| -> Vec<u32> {
        (0..domains.len() as u32).filter(|&i| domains[i as usize] == domain).collect()
    };
    let with_images: Vec<(u32, Vec<u32>)> = (0..data.domain_names.len() as u32)
        .map(|domain| (domain, of(&data.train.domains, domain)))
        .filter(|(_, train)| !train.is_empty())
        .collect();
    let wanted = continual.num_tasks;
    if with_images.len() < wanted {
        return Err(Error::config(format!(
            "continual.num_tasks = {wanted} is more than the {} domains of {} with training images; `scenario = \
             \"domain\"` has a task per domain",
            with_images.len(),
            data.name
        )));
    }
    let tests: Vec<Vec<u32>> =
        with_images.iter().map(|(domain, _)| of(&data.test.domains, *domain)).collect();
    let shared = tests.iter().take(wanted).any(Vec::is_empty);
    let (all, all_val) = (all_test(data), all_val(data));
    let parts = with_images.into_iter().zip(tests).take(wanted).enumerate();
    let tasks = parts.map(|(index, ((domain, train), test))| Task {
        index,
        name: data.domain_names[domain as usize].clone(),
        classes: numbering.all(),
        train,
        test: if shared { all.clone() } else { Arc::new(test) },
        val: if shared { all_val.clone() } else { Arc::new(of(&data.val.domains, domain)) },
        ordered: false,
    });
    Ok((tasks.collect(), shared))
}

/// Distance of task t from the peak of class j, in tasks: t - (j + 1/2) T / C; the peaks stand evenly over the T
/// tasks.
fn distance(t: f64, class: usize, tasks: usize, classes: usize) -> f64 {
    t - (class as f64 + 0.5) * tasks as f64 / classes as f64
}

/// The label sets of the official schedule: class j is in that of task t with probability
/// exp(-(t - (j + 1/2) T / C)^2 / (2 sigma^2)), drawn anew for each pair; an empty set is drawn again.
///
/// Source: google-research/l2p @ dd8836e, `libml/input_pipeline.py`, lines 902-939, where the configuration
/// leaves the steps of a task at -1: peaks at 1, 3, ... and a sigma of 50 tasks.
pub fn label_sets(classes: usize, tasks: usize, sigma: f64, seed: u64) -> Result<Vec<Vec<u32>>> {
    let draw = |t: usize| {
        (0..DRAWS_MAX).find_map(|attempt| {
            let mut rng = Rng::new(seed, Stream::Schedule, (t as u64) << 32 | u64::from(attempt));
            let mut present = |class: usize| {
                let d = distance(t as f64, class, tasks, classes) / sigma;
                rng.uniform_f64() < libm::exp(-0.5 * d * d)
            };
            let set: Vec<u32> = (0..classes).filter(|&class| present(class)).map(|c| c as u32).collect();
            (!set.is_empty()).then_some(set)
        })
    };
    (0..tasks)
        .map(|t| {
            draw(t).ok_or_else(|| {
                Error::config(format!(
                    "continual.gaussian_sigma = {sigma} is so narrow that task {} of {tasks} has no class in \
                     {DRAWS_MAX} draws; the peaks of {classes} classes are {} tasks apart",
                    t + 1,
                    tasks as f64 / classes as f64
                ))
            })
        })
        .collect()
}

/// Tasks of overlapping label sets, each with all training images of its classes.
fn gaussian(data: &DataSet, continual: &Continual, seed: u64, numbering: &Numbering) -> Result<Vec<Task>> {
    let all = numbering.all();
    let sets = label_sets(all.len(), continual.num_tasks, continual.gaussian_sigma, seed)?;
    let (test, val) = (all_test(data), all_val(data));
    let task = |(index, classes): (usize, Vec<u32>)| {
        let mut inside = vec![false; all.len()];
        classes.iter().for_each(|&class| inside[class as usize] = true);
        let train: Vec<u32> = (0..data.train.len() as u32)
            .filter(|&i| inside[numbering.class(data.train.labels[i as usize]) as usize])
            .collect();
        if train.is_empty() {
            return Err(Error::config(format!(
                "no class of task {} of {} has training images",
                index + 1,
                data.name
            )));
        }
        let name = numbering.name(&classes);
        Ok(Task { index, name, classes, train, test: test.clone(), val: val.clone(), ordered: false })
    };
    sets.into_iter().enumerate().map(task).collect()
}

/// Every training image once: an image of class j comes at a moment drawn from the normal distribution around
/// (j + 1/2) T / C with deviation sigma, in tasks, within [0, T). So the share of each class rises and falls as in
/// the task-agnostic setting of Wang et al. 2022 (arXiv:2112.08654, after Shanahan et al. 2021), in which each batch
/// is seen once; the paper states no width.
fn gaussian_order(data: &DataSet, continual: &Continual, seed: u64, numbering: &Numbering) -> Vec<u32> {
    let (tasks, classes) = (continual.num_tasks, numbering.all().len());
    let moment = |i: u32| {
        let mut rng = Rng::new(seed, Stream::Schedule, 1 << 63 | u64::from(i));
        let class = numbering.class(data.train.labels[i as usize]) as usize;
        let peak = -distance(0.0, class, tasks, classes);
        // At least half of each distribution lies within, or nearly so: this ends.
        std::iter::repeat_with(|| peak + continual.gaussian_sigma * rng.normal())
            .take(DRAWS_MAX as usize)
            .find(|t| (0.0..tasks as f64).contains(t))
            .unwrap_or(peak)
    };
    let mut order: Vec<(f64, u32)> = (0..data.train.len() as u32).map(|i| (moment(i), i)).collect();
    order.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    order.into_iter().map(|(_, i)| i).collect()
}

/// One pass over `order`, cut into `num_tasks` parts of whole batches, all classes in each.
fn stream(
    order: Vec<u32>,
    data: &DataSet,
    continual: &Continual,
    batch: usize,
    numbering: &Numbering,
) -> Result<Vec<Task>> {
    let (parts, batches) = (continual.num_tasks, order.len() / batch.max(1));
    if batches < parts {
        return Err(Error::config(format!(
            "continual.num_tasks = {parts} parts of a stream of {} images in batches of {batch}: at most {batches} \
             parts have a whole batch each",
            order.len()
        )));
    }
    let (test, val) = (all_test(data), all_val(data));
    let cut = |part: usize| (part * batches / parts) * batch;
    let task = |index: usize| Task {
        index,
        name: format!("part {} of the stream", index + 1),
        classes: numbering.all(),
        train: order[cut(index)..cut(index + 1)].to_vec(),
        test: test.clone(),
        val: val.clone(),
        ordered: true,
    };
    Ok((0..parts).map(task).collect())
}

/// The replay set of the tasks up to `task`, as a task of its own: `replay_per_class` of each of their classes (or all,
/// where there are fewer), with the smallest numbers that the seed gives to images. So a resumed run has the same ones,
/// and an image that is in it after a task was in it before or is of that task. `None` without replay. The official
/// buffer (google-research/l2p @ dd8836e, `libml/continual_buffer.py`) draws as many per task, without regard to
/// class, and keeps their augmented pixels.
pub fn replay_set(
    data: &DataSet,
    split: &Split,
    continual: &Continual,
    seed: u64,
    task: usize,
) -> Option<Task> {
    if continual.replay_per_class == 0 {
        return None;
    }
    let mut of_class = vec![Vec::new(); split.class_names.len()];
    // Gaussian tasks share images.
    let mut seen = vec![false; data.train.len()];
    for &i in split.tasks[..=task].iter().flat_map(|task| &task.train) {
        if std::mem::replace(&mut seen[i as usize], true) {
            continue;
        }
        of_class[split.label_to_class[data.train.labels[i as usize] as usize] as usize].push(i);
    }
    let number = |i: &u32| (Rng::new(seed, Stream::Replay, u64::from(*i)).next_u32(), *i);
    let mut train = Vec::new();
    for images in &mut of_class {
        images.sort_by_cached_key(number);
        train.extend_from_slice(&images[..images.len().min(continual.replay_per_class)]);
    }
    train.sort_unstable();
    let mut classes: Vec<u32> =
        split.tasks[..=task].iter().flat_map(|task| task.classes.iter().copied()).collect();
    classes.sort_unstable();
    classes.dedup();
    let name = format!("replay set after task {}", task + 1);
    // Reviewed, its random streams are those of no other task.
    let index = split.tasks.len() + task;
    Some(Task { index, name, classes, train, test: Arc::default(), val: Arc::default(), ordered: false })
}
