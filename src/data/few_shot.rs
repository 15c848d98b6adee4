//! Few-shot tasks: which training images of its classes a task has, where it does not have all of them.
//!
//! `continual.shots`: so many of each class, drawn by the seed. `continual.session_lists`: those that published lists
//! name, `session_1.txt` for the first task and so on, as icoz69/CEC-CVPR2021 @ 3a5d335 has them in `data/index_list`:
//! positions in the training set for sets in one file, otherwise paths.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use super::folder;
use super::image_set::DataSet;
use super::tasks::Split;
use crate::config::schema::Continual;
use crate::error::{Error, Result};
use crate::rng::{Rng, Stream};

/// Leaves to each task of `split`, which has all training images of its classes, those that `continual` says.
///
/// # Errors
/// `Error::Config` for a class with fewer images than are wanted of it; `Error::File` for a list that is missing or
/// damaged, with the line.
pub fn limit(data: &DataSet, continual: &Continual, seed: u64, split: &mut Split) -> Result<()> {
    if !continual.session_lists.is_empty() {
        return listed(data, Path::new(&continual.session_lists), split);
    }
    for task in 0..split.tasks.len() {
        let shots = if task == 0 { continual.base_shots } else { continual.shots };
        if shots > 0 {
            split.tasks[task].train = drawn(data, shots, seed, split, task)?;
        }
    }
    Ok(())
}

/// The engine class of a training image.
fn class_of(data: &DataSet, split: &Split, image: u32) -> u32 {
    split.label_to_class[data.train.labels[image as usize] as usize]
}

/// `shots` images of each class: those with the smallest numbers that the seed gives to images, so that they are the same
/// for every method and each is among those of a larger number of shots.
fn drawn(data: &DataSet, shots: usize, seed: u64, split: &Split, task: usize) -> Result<Vec<u32>> {
    let mut of_class: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for &i in &split.tasks[task].train {
        of_class.entry(class_of(data, split, i)).or_default().push(i);
    }
    let number = |i: &u32| (Rng::new(seed, Stream::Shots, u64::from(*i)).next_u32(), *i);
    let mut chosen = Vec::new();
    for (class, mut images) in of_class {
        if images.len() < shots {
            return Err(Error::config(format!(
                "continual.shots and continual.base_shots: {shots} training images of each class were wanted, class `{}` of \
                 {} has {}",
                split.class_names[class as usize],
                data.name,
                images.len()
            )));
        }
        images.sort_by_cached_key(number);
        chosen.extend_from_slice(&images[..shots]);
    }
    chosen.sort_unstable();
    Ok(chosen)
}

/// The images that the lists in `folder` name. The first task has all where there is no list for it.
fn listed(data: &DataSet, folder: &Path, split: &mut Split) -> Result<()> {
    if !folder.is_dir() {
        return Err(Error::file(
            folder,
            "continual.session_lists: a folder with session_1.txt, session_2.txt, … was wanted, found none",
        ));
    }
    let paths = Paths::of(data);
    for task in 0..split.tasks.len() {
        let images = &split.tasks[task].train;
        let list = folder.join(format!("session_{}.txt", task + 1));
        if task == 0 && !list.exists() {
            continue;
        }
        let mut in_task = vec![false; data.train.len()];
        images.iter().for_each(|&i| in_task[i as usize] = true);
        let mut line_of: HashMap<u32, usize> = HashMap::new();
        for (n, line) in folder::read_text(&list)?.lines().enumerate() {
            let (number, word) = (n + 1, line.trim());
            if word.is_empty() {
                continue;
            }
            let fail = |what: String| Error::file(&list, format!("line {number}: {what}"));
            let image = match &paths {
                Some(paths) => paths.find(word).map_err(fail)?,
                None => position(word, data.train.len()).map_err(fail)?,
            };
            if !in_task[image as usize] {
                let class = class_of(data, split, image);
                return Err(fail(format!(
                    "image `{}` is of class `{}`, which task {} does not learn; continual.num_classes_per_task and \
                     continual.class_order must be those of the lists",
                    shown(word),
                    split.class_names[class as usize],
                    task + 1
                )));
            }
            if let Some(first) = line_of.insert(image, number) {
                return Err(fail(format!("image `{}` is already on line {first}", shown(word))));
            }
        }
        if line_of.is_empty() {
            return Err(Error::file(&list, "names no image"));
        }
        let named: BTreeSet<u32> = line_of.keys().map(|&i| class_of(data, split, i)).collect();
        if let Some(&class) = split.tasks[task].classes.iter().find(|class| !named.contains(class)) {
            let name = &split.class_names[class as usize];
            let what = format!("names no image of class `{name}`, which task {} learns", task + 1);
            return Err(Error::file(&list, what));
        }
        let mut images: Vec<u32> = line_of.into_keys().collect();
        images.sort_unstable();
        split.tasks[task].train = images;
    }
    Ok(())
}

fn shown(word: &str) -> String {
    word.chars().take(80).collect()
}

/// A line of a list for a set without files of its own.
fn position(word: &str, images: usize) -> std::result::Result<u32, String> {
    let last = images.saturating_sub(1);
    let found = word.parse().ok().filter(|&i: &u32| (i as usize) < images);
    found.ok_or_else(|| {
        format!("a position in the training set, 0 to {last}, was wanted, found `{}`", shown(word))
    })
}

/// The training images by the ends of their paths.
struct Paths {
    /// By the names of folder and file.
    by_end: HashMap<PathBuf, Vec<u32>>,
    paths: Vec<PathBuf>,
}

impl Paths {
    /// `None` for a set without files of its own.
    fn of(data: &DataSet) -> Option<Paths> {
        let paths: Option<Vec<PathBuf>> = (0..data.train.len()).map(|i| data.train.path(i)).collect();
        let paths = paths?;
        let mut by_end: HashMap<PathBuf, Vec<u32>> = HashMap::new();
        for (i, path) in paths.iter().enumerate() {
            by_end.entry(end(path)).or_default().push(i as u32);
        }
        Some(Paths { by_end, paths })
    }

    /// The image whose path ends like `word`: in folder and file, and where several do, in the most names.
    fn find(&self, word: &str) -> std::result::Result<u32, String> {
        let wanted = Path::new(word);
        let same = |path: &Path| {
            let pairs = path.components().rev().zip(wanted.components().rev());
            pairs.take_while(|(a, b)| a == b).count()
        };
        let found = self.by_end.get(&end(wanted)).map_or(&[][..], Vec::as_slice);
        let most = found.iter().map(|&i| same(&self.paths[i as usize])).max().unwrap_or(0);
        let mut best = found.iter().filter(|&&i| same(&self.paths[i as usize]) == most);
        match (best.next(), best.next()) {
            (Some(&one), None) => Ok(one),
            (None, _) => {
                let example = self.paths.first().map_or(String::new(), |path| path.display().to_string());
                Err(format!(
                    "the path of a training image was wanted, found `{}`; the set has none that ends so, it has {example}",
                    shown(word)
                ))
            }
            (Some(&a), Some(&b)) => Err(format!(
                "`{}` may be {} or {}; write more of its path",
                shown(word),
                self.paths[a as usize].display(),
                self.paths[b as usize].display()
            )),
        }
    }
}

/// Folder and file.
fn end(path: &Path) -> PathBuf {
    let parts: Vec<_> = path.components().rev().take(2).collect();
    parts.into_iter().rev().collect()
}
