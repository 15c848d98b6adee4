//! Tasks, and the split of a data set into tasks by class.
//!
//! The class order is a permutation of the labels; engine class k is label `class_order[k]`, and task t has the
//! next n_t engine classes, n_t = `num_classes_per_task`, which is a number or a list.

use std::path::Path;
use std::sync::Arc;

use super::folder;
use super::image_set::{DataSet, ImageSet};
use super::numpy;
use super::parts::Subset;
use crate::config::schema::{Continual, TaskSizes};
use crate::error::{Error, Result};
use crate::rng::{Rng, Stream};

/// One step of the continual-learning sequence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// From 0.
    pub index: usize,
    /// Its first classes or its domain, for people.
    pub name: String,
    /// Engine class ids, ascending: the mask of the training loss.
    pub classes: Vec<u32>,
    /// Positions in `DataSet::train`.
    pub train: Vec<u32>,
    /// Positions in `DataSet::test`, ascending.
    pub test: Arc<Vec<u32>>,
    /// Positions in `DataSet::val`, ascending.
    pub val: Arc<Vec<u32>>,
    /// The training images come in the order of `train` and not shuffled.
    pub ordered: bool,
}

/// All tasks and the numbering of the classes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split {
    pub tasks: Vec<Task>,
    /// Engine class id to data-set label. All classes, also those that no task uses.
    pub class_order: Vec<u32>,
    /// By engine class id.
    pub class_names: Vec<String>,
    /// Data-set label to engine class id; the inverse of `class_order`.
    pub label_to_class: Vec<u32>,
    /// All tasks have the same test set: there is one accuracy, not one per task.
    pub shared_test: bool,
}

impl Task {
    /// Positions of its images in a part of the data set.
    pub fn images(&self, which: Subset) -> &[u32] {
        match which {
            Subset::Train => &self.train,
            Subset::Test => &self.test,
            Subset::Validation => &self.val,
        }
    }
}

impl Split {
    /// Whether every task has validation images, so that there is an accuracy on them.
    pub fn has_validation(&self) -> bool {
        self.tasks.iter().all(|task| !task.val.is_empty())
    }

    /// How many test sets there are once task `t` is learned: those of the tasks so far, or the one of all.
    pub fn tests_after(&self, t: usize) -> usize {
        if self.shared_test { 1 } else { t + 1 }
    }

    /// Only `images` of each test set of `data`, spread evenly over it in the order of its classes, so that each class
    /// keeps its share to within one image; 0: all.
    pub fn limit_tests(&mut self, data: &DataSet, images: usize) {
        if images == 0 {
            return;
        }
        for task in &mut self.tasks {
            let n = task.test.len();
            if n <= images {
                continue;
            }
            let mut by_class = task.test.to_vec();
            by_class.sort_by_key(|&i| self.label_to_class[data.test.labels[i as usize] as usize]);
            let middle = |k: usize| by_class[(2 * k + 1) * n / (2 * images)];
            let mut spread: Vec<u32> = (0..images).map(middle).collect();
            spread.sort_unstable();
            task.test = Arc::new(spread);
        }
    }
}

/// The numbering of the classes.
pub struct Numbering {
    class_order: Vec<u32>,
    class_names: Vec<String>,
    label_to_class: Vec<u32>,
}

impl Numbering {
    /// As `continual.class_order` says.
    ///
    /// # Errors
    /// Those of [`split`] that concern the class order.
    pub fn new(data: &DataSet, continual: &Continual, seed: u64) -> Result<Numbering> {
        let class_order = class_order(&continual.class_order, seed, &data.class_names)?;
        let mut label_to_class = vec![0; data.class_names.len()];
        for (class, &label) in class_order.iter().enumerate() {
            label_to_class[label as usize] = class as u32;
        }
        let class_names = class_order.iter().map(|&label| data.class_names[label as usize].clone()).collect();
        Ok(Numbering { class_order, class_names, label_to_class })
    }

    /// The engine class of a label.
    pub fn class(&self, label: u32) -> u32 {
        self.label_to_class[label as usize]
    }

    /// Every engine class.
    pub fn all(&self) -> Vec<u32> {
        (0..self.class_order.len() as u32).collect()
    }

    /// The first of `classes`, and how many more there are.
    pub fn name(&self, classes: &[u32]) -> String {
        name(classes, &self.class_names)
    }

    pub fn split(self, tasks: Vec<Task>, shared_test: bool) -> Split {
        let Numbering { class_order, class_names, label_to_class } = self;
        Split { tasks, class_order, class_names, label_to_class, shared_test }
    }
}

/// Tasks of new classes. `seed`, that of the run, is used by the class order `seed` only: `seed:N` carries its own,
/// so that the same tasks can be run with other seeds.
///
/// # Errors
/// `Error::Config` for zero or too many classes, a bad class order, or a class without images;
/// `Error::File` for a bad class-order file, with the line.
pub fn split(data: &DataSet, continual: &Continual, seed: u64) -> Result<Split> {
    let (num_tasks, per_task) = (continual.num_tasks, &continual.num_classes_per_task);
    let short = matches!(per_task, TaskSizes::Each(sizes) if sizes.len() < num_tasks);
    if num_tasks == 0 || per_task.smallest() == 0 || short {
        return Err(Error::config(format!(
            "continual.num_tasks and continual.num_classes_per_task must be at least 1, got {num_tasks} and {per_task}"
        )));
    }
    let classes = data.class_names.len();
    let used = per_task.upto(num_tasks);
    if used > classes {
        return Err(Error::config(format!(
            "continual.num_tasks * continual.num_classes_per_task = {num_tasks} * {per_task} is more than the {classes} classes of {}",
            data.name
        )));
    }
    let task_of: Vec<usize> = (0..num_tasks).flat_map(|task| vec![task; per_task.of(task)]).collect();
    let numbering = Numbering::new(data, continual, seed)?;
    let by_task = |set: &ImageSet, what: &str| {
        let (mut seen, mut lists) = (vec![false; classes], vec![Vec::new(); num_tasks]);
        for (i, &label) in set.labels.iter().enumerate() {
            let class = numbering.class(label) as usize;
            seen[class] = true;
            if let Some(&task) = task_of.get(class) {
                lists[task].push(i as u32);
            }
        }
        match seen[..used].iter().position(|&has| !has) {
            Some(class) => Err(Error::config(format!(
                "class `{}` of {} has no {what} images",
                numbering.class_names[class], data.name
            ))),
            None => Ok(lists),
        }
    };
    let (train, test) = (by_task(&data.train, "training")?, by_task(&data.test, "test")?);
    let mut val = vec![Vec::new(); num_tasks];
    for (i, &label) in data.val.labels.iter().enumerate() {
        if let Some(&task) = task_of.get(numbering.class(label) as usize) {
            val[task].push(i as u32);
        }
    }
    let task = |(index, (train, test)): (usize, (Vec<u32>, Vec<u32>))| {
        let classes: Vec<u32> = per_task.range(index).map(|class| class as u32).collect();
        let (name, val) = (numbering.name(&classes), Arc::new(std::mem::take(&mut val[index])));
        Task { index, name, classes, train, test: Arc::new(test), val, ordered: false }
    };
    let tasks = train.into_iter().zip(test).enumerate().map(task).collect();
    Ok(numbering.split(tasks, false))
}

/// A sentence about the classes of a set that no task has; `None` where every class is in one.
pub fn unused(data: &DataSet, split: &Split) -> Option<String> {
    const SHOWN: usize = 20;
    let mut used = vec![false; split.class_names.len()];
    split.tasks.iter().flat_map(|task| &task.classes).for_each(|&class| used[class as usize] = true);
    let unused = split.class_names.iter().zip(&used).filter(|(_, used)| !**used);
    let names: Vec<&str> = unused.map(|(name, _)| name.as_str()).collect();
    if names.is_empty() {
        return None;
    }
    let more = match names.len().saturating_sub(SHOWN) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    Some(format!(
        "{} has {} classes, the tasks use {}; left out: {}{more}",
        data.name,
        used.len(),
        used.len() - names.len(),
        names[..names.len().min(SHOWN)].join(", ")
    ))
}

/// One task with the classes and images of all, each image once.
pub fn joint(split: &Split) -> Task {
    let all = |list: fn(&Task) -> &[u32]| {
        let mut items: Vec<u32> = split.tasks.iter().flat_map(|task| list(task).iter().copied()).collect();
        items.sort_unstable();
        items.dedup();
        items
    };
    let classes = all(|task| &task.classes);
    Task {
        index: 0,
        name: name(&classes, &split.class_names),
        train: all(|task| &task.train),
        test: Arc::new(all(|task| &task.test)),
        val: Arc::new(all(|task| &task.val)),
        ordered: false,
        classes,
    }
}

pub(super) fn name(classes: &[u32], class_names: &[String]) -> String {
    const SHOWN: usize = 3;
    let shown: Vec<&str> = classes.iter().take(SHOWN).map(|&c| class_names[c as usize].as_str()).collect();
    let more = classes.len() - shown.len();
    if more == 0 { shown.join(", ") } else { format!("{} and {more} more", shown.join(", ")) }
}

/// Labels in the order in which they are learned.
fn class_order(text: &str, seed: u64, class_names: &[String]) -> Result<Vec<u32>> {
    let mut order: Vec<u32> = (0..class_names.len() as u32).collect();
    if text == "natural" {
        return Ok(order);
    }
    if text == "seed" {
        Rng::new(seed, Stream::ClassOrder, 0).shuffle(&mut order);
        return Ok(order);
    }
    if let Some(number) = text.strip_prefix("seed:") {
        let seed: u64 = number.parse().map_err(|_| {
            Error::config(format!(
                "continual.class_order: a whole number was wanted after `seed:`, got `{number}`"
            ))
        })?;
        Rng::new(seed, Stream::ClassOrder, 0).shuffle(&mut order);
        return Ok(order);
    }
    if text == "names" || text.starts_with("numpy:") {
        // Equal names cannot be.
        order.sort_by_key(|&label| &class_names[label as usize]);
        let Some(number) = text.strip_prefix("numpy:") else { return Ok(order) };
        let seed: u32 = number.parse().map_err(|_| {
            Error::config(format!(
                "continual.class_order: a whole number below 2^32 was wanted after `numpy:`, got `{number}`"
            ))
        })?;
        let places = numpy::permutation(seed, order.len());
        return Ok(places.iter().map(|&place| order[place as usize]).collect());
    }
    let path = Path::new(text);
    if !path.exists() {
        return Err(Error::config(format!(
            "continual.class_order: `natural`, `names`, `seed`, `seed:N`, `numpy:N` or the path of a file was wanted, got `{text}`, which does not exist"
        )));
    }
    parse_class_order(&folder::read_text(path)?, path, class_names)
}

/// The labels in a class-order file: one class per line, as a name or else as the data set's label;
/// empty lines and lines starting with `#` are skipped. `path` is only for messages.
///
/// # Errors
/// `Error::File` with the line number for an unknown or repeated class; naming the missing ones.
pub fn parse_class_order(text: &str, path: &Path, class_names: &[String]) -> Result<Vec<u32>> {
    let (order, line_of) = parse_classes(text, path, class_names)?;
    let missing: Vec<&str> =
        class_names.iter().zip(&line_of).filter(|(_, line)| **line == 0).map(|(n, _)| n.as_str()).collect();
    if !missing.is_empty() {
        let shown = missing[..missing.len().min(5)].join("`, `");
        return Err(Error::file(
            path,
            format!(
                "all {} classes were wanted, found {}; missing: `{shown}`{}; add them at the end (tasks take classes \
                 from the start), or name the same file in data.classes to leave them out",
                class_names.len(),
                order.len(),
                if missing.len() > 5 { " and others" } else { "" }
            ),
        ));
    }
    Ok(order)
}

/// The labels that a file names, one class per line, and the line of each class or 0.
fn parse_classes(text: &str, path: &Path, class_names: &[String]) -> Result<(Vec<u32>, Vec<usize>)> {
    let mut order = Vec::new();
    let mut line_of = vec![0; class_names.len()];
    for (i, line) in text.lines().enumerate() {
        let (number, word) = (i + 1, line.trim());
        if word.is_empty() || word.starts_with('#') {
            continue;
        }
        let Some(label) = label_of(word, class_names) else {
            return Err(Error::file(path, format!("line {number}: {}", unknown(word, class_names))));
        };
        if line_of[label] != 0 {
            return Err(Error::file(
                path,
                format!("line {number}: class `{word}` is already on line {}", line_of[label]),
            ));
        }
        line_of[label] = number;
        order.push(label as u32);
    }
    Ok((order, line_of))
}

/// Whether a number could be the name of another class.
fn have_numbers(class_names: &[String]) -> bool {
    class_names.iter().any(|name| name.parse::<u64>().is_ok())
}

/// A class by its name or else by its label; by its name alone where names are numbers, as those of the digits 0, 1, 3
/// and 7 when the others are left out.
fn label_of(word: &str, class_names: &[String]) -> Option<usize> {
    let by_name = class_names.iter().position(|name| name == word);
    if have_numbers(class_names) {
        return by_name;
    }
    by_name.or_else(|| word.parse().ok().filter(|&label: &usize| label < class_names.len()))
}

/// The labels that `data.classes` selects, in the data set's order; `None` where it selects all.
///
/// # Errors
/// `Error::Config` for a class that is not there; `Error::File` for a bad file, with the line.
pub fn selected(classes: &[String], class_names: &[String]) -> Result<Option<Vec<u32>>> {
    let mut labels: Vec<u32> = match classes {
        [] => return Ok(None),
        [file] if label_of(file, class_names).is_none() && Path::new(file).is_file() => {
            let path = Path::new(file);
            parse_classes(&folder::read_text(path)?, path, class_names)?.0
        }
        words => {
            let label = |word: &String| {
                let label = label_of(word, class_names).map(|label| label as u32);
                label.ok_or_else(|| Error::config(format!("data.classes: {}", unknown(word, class_names))))
            };
            words.iter().map(label).collect::<Result<_>>()?
        }
    };
    labels.sort_unstable();
    labels.dedup();
    Ok(Some(labels))
}

fn unknown(word: &str, class_names: &[String]) -> String {
    let word: String = word.chars().take(60).collect();
    let last = class_names.len().saturating_sub(1);
    let wanted = if have_numbers(class_names) {
        let shown = class_names[..class_names.len().min(10)].join("`, `");
        let more = if class_names.len() > 10 { ", …" } else { "" };
        format!("one of the class names `{shown}`{more} was wanted, got `{word}`")
    } else {
        format!("a class name or a number from 0 to {last} was wanted, got `{word}`")
    };
    let near = class_names
        .iter()
        .map(|name| (strsim::damerau_levenshtein(name, &word), name))
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, name)| *distance <= 1 + name.chars().count() / 3);
    match near {
        Some((_, name)) if word.parse::<f64>().is_err() => format!("{wanted}; did you mean `{name}`?"),
        _ => wanted,
    }
}
