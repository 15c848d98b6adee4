//! Classes that were added to a run: their images stand behind those of the set that the run began with, and each time is
//! a task of its own behind its tasks.
//!
//! Images of the first set may be gone by then. What is left of them is found by the names of the classes, and tasks of
//! which something is missing have no images: they are not tested.

use std::collections::HashMap;
use std::sync::Arc;

use super::cache::Cache;
use super::checks;
use super::extension::{Extension, Part};
use super::image_set::{DataSet, ImageSet};
use super::images;
use super::tasks::{self, Numbering, Split, Task};
use crate::config::schema::{Continual, Data, Scenario};
use crate::error::{Error, Result};

/// Images of a new class, training and test together, without which nothing is learned of it.
pub const IMAGES_MIN: usize = 5;

/// The images in `dir`, a folder per class or lists, all of them checked.
///
/// # Errors
/// As [`super::load`] for data set `images`.
pub fn read(dir: &str, config: &Data, cache: &mut Cache) -> Result<DataSet> {
    let mut data = images::load(dir)?;
    checks::files(&mut data, config.skip_damaged, cache)?;
    data.check()?;
    let notes = checks::overlap(&data)?;
    data.notes.extend(notes);
    data.notes.append(&mut cache.notes);
    Ok(data)
}

/// Images of each class of a set, by label: for training, and for test.
pub fn images_of_classes(data: &DataSet) -> Vec<[usize; 2]> {
    let mut counts = vec![[0; 2]; data.class_names.len()];
    for (i, set) in [&data.train, &data.test].into_iter().enumerate() {
        set.labels.iter().for_each(|&label| counts[label as usize][i] += 1);
    }
    counts
}

/// Adds to the first set of a run all that `config` says.
///
/// # Errors
/// Those of [`read`]; `Error::File` for a folder whose classes are others than they were.
pub(super) fn extend(data: &mut DataSet, config: &Data, cache: &mut Cache) -> Result<()> {
    if !config.base_classes.is_empty() {
        by_name(data, &config.base_classes);
    }
    let mut extension = Extension {
        classes: data.class_names.len(),
        domains: data.domain_names.len(),
        images: [&data.train, &data.test, &data.val].map(ImageSet::len),
        lost: (!config.base_classes.is_empty()).then(|| config.lost_tasks.clone()),
        parts: Vec::new(),
    };
    for (n, (names, new)) in config.added_tasks().into_iter().enumerate() {
        let dir = config.added.get(n).map_or("", String::as_str);
        let labels = labels_of(data, names, new)?;
        let starts = [&data.train, &data.test, &data.val].map(|set| set.len() as u32);
        data.domain_names.push(format!("added {}", n + 1));
        if !dir.is_empty() {
            put(data, read(dir, config, cache)?, names, &labels, dir)?;
        }
        let ends = [&data.train, &data.test, &data.val].map(|set| set.len() as u32);
        let images = [0, 1, 2].map(|i| starts[i]..ends[i]);
        let mut classes = labels;
        classes.sort_unstable();
        extension.parts.push(Part { classes, images });
    }
    data.extension = Some(extension);
    data.check()
}

/// Gives a set the classes `names`, in this order, with the images that it has of them.
fn by_name(data: &mut DataSet, names: &[String]) {
    let place: HashMap<&str, u32> =
        names.iter().enumerate().map(|(i, name)| (name.as_str(), i as u32)).collect();
    let new: Vec<Option<u32>> =
        data.class_names.iter().map(|name| place.get(name.as_str()).copied()).collect();
    for set in [&mut data.train, &mut data.test, &mut data.val] {
        let keep: Vec<bool> = set.labels.iter().map(|&label| new[label as usize].is_some()).collect();
        set.keep(&keep);
        set.labels.iter_mut().for_each(|label| *label = new[*label as usize].unwrap_or_default());
    }
    data.class_names = names.to_vec();
    if data.domain_names.is_empty() {
        (data.name, data.domain_names) = ("images".into(), vec!["images".into()]);
    }
}

/// The labels of the classes of a task, of which the first `new` are made.
fn labels_of(data: &mut DataSet, names: &[String], new: usize) -> Result<Vec<u32>> {
    let mut labels = Vec::new();
    for (i, name) in names.iter().enumerate() {
        let known = data.class_names.iter().position(|known| known == name);
        labels.push(match known {
            None if i < new => {
                data.class_names.push(name.clone());
                data.class_names.len() - 1
            }
            Some(label) if i >= new => label,
            _ => {
                let wanted = if i < new { "no class of this name before it" } else { "a class of this name before it" };
                return Err(Error::config(format!(
                    "data.added_classes: `{name}`: wanted {wanted}; the images of the run are others than when it was made"
                )));
            }
        } as u32);
    }
    Ok(labels)
}

/// Puts the images of `set` behind those of `data`.
fn put(data: &mut DataSet, set: DataSet, names: &[String], labels: &[u32], dir: &str) -> Result<()> {
    let label_of: HashMap<&str, u32> = names.iter().map(String::as_str).zip(labels.iter().copied()).collect();
    let of_set: Option<Vec<u32>> =
        set.class_names.iter().map(|name| label_of.get(name.as_str()).copied()).collect();
    let Some(of_set) = of_set.filter(|all| all.len() == names.len()) else {
        return Err(Error::file(
            dir,
            format!(
                "the classes {} were added from here, found {}; give back what was there (data.added in the \
                 config.toml of the run says where)",
                checks::first(names),
                checks::first(&set.class_names)
            ),
        ));
    };
    let domain = data.domain_names.len() as u32 - 1;
    let behind = |to: &mut ImageSet, mut set: ImageSet| {
        set.labels.iter_mut().for_each(|label| *label = of_set[*label as usize]);
        set.domains.fill(domain);
        to.append(set);
    };
    behind(&mut data.train, set.train);
    behind(&mut data.test, set.test);
    behind(&mut data.val, set.val);
    data.notes.extend(set.notes);
    data.damaged.extend(set.damaged);
    data.split_here |= set.split_here;
    Ok(())
}

impl Extension {
    /// Names, labels and domains of the set before anything was added: for its tasks, not for reading.
    pub(super) fn first(&self, data: &DataSet) -> DataSet {
        let [train, test, val] = self.images;
        DataSet {
            name: data.name.clone(),
            train: data.train.labels_of_first(train),
            test: data.test.labels_of_first(test),
            val: data.val.labels_of_first(val),
            class_names: data.class_names[..self.classes].to_vec(),
            domain_names: data.domain_names[..self.domains].to_vec(),
            ..DataSet::default()
        }
    }

    /// The tasks of a first set that is not whole; `lost` ones have no images.
    ///
    /// # Errors
    /// `Error::Config` for more classes than there are.
    pub(super) fn split_found(
        &self,
        first: &DataSet,
        continual: &Continual,
        lost: &[usize],
    ) -> Result<Split> {
        let in_order = Continual { class_order: "natural".into(), ..continual.clone() };
        let numbering = Numbering::new(first, &in_order, 0)?;
        let by_class = continual.scenario == Scenario::Class;
        let sizes = &continual.num_classes_per_task;
        if by_class && sizes.upto(continual.num_tasks) > self.classes {
            return Err(Error::config(format!(
                "data.base_classes: {} names of classes were wanted, found {}",
                sizes.upto(continual.num_tasks),
                self.classes
            )));
        }
        let task = |index: usize| {
            let classes: Vec<u32> = match by_class {
                true => sizes.range(index).map(|class| class as u32).collect(),
                false => numbering.all(),
            };
            let images = |set: &ImageSet| -> Vec<u32> {
                let inside = |&i: &u32| classes.contains(&set.labels[i as usize]);
                let gone = lost.contains(&index) || !by_class;
                if gone { Vec::new() } else { (0..set.len() as u32).filter(inside).collect() }
            };
            let (name, train) = (numbering.name(&classes), images(&first.train));
            let (test, val) = (Arc::new(images(&first.test)), Arc::new(images(&first.val)));
            Task { index, name, classes, train, test, val, ordered: false }
        };
        let tasks = (0..continual.num_tasks).map(task).collect();
        Ok(numbering.split(tasks, false))
    }

    /// Adds the classes and tasks that were added.
    ///
    /// # Errors
    /// `Error::Config` where all tasks share one test set.
    pub(super) fn add_tasks(&self, data: &DataSet, mut split: Split) -> Result<Split> {
        if split.shared_test {
            return Err(Error::config(format!(
                "all tasks of {} share one test set, and classes cannot be added to it: wanted a test set for each task",
                data.name
            )));
        }
        for (label, name) in data.class_names.iter().enumerate().skip(self.classes) {
            split.class_order.push(label as u32);
            split.label_to_class.push(label as u32);
            split.class_names.push(name.clone());
        }
        for part in &self.parts {
            let class = |&label: &u32| split.label_to_class[label as usize];
            let mut classes: Vec<u32> = part.classes.iter().map(class).collect();
            classes.sort_unstable();
            let [train, test, val] = part.images.clone().map(Iterator::collect::<Vec<u32>>);
            split.tasks.push(Task {
                index: split.tasks.len(),
                name: tasks::name(&classes, &split.class_names),
                classes,
                train,
                test: Arc::new(test),
                val: Arc::new(val),
                ordered: false,
            });
        }
        Ok(split)
    }
}
