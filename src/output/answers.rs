//! What test images were answered, counted by class and by task.

use serde::{Deserialize, Serialize};

/// The answers to the images of a test set, by engine class.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answers {
    /// Images of each class, and those that were answered right.
    pub images: Vec<u64>,
    pub right: Vec<u64>,
    /// Images that were answered with each class.
    pub answered: Vec<u64>,
}

impl Answers {
    /// Of no images yet.
    pub fn new(classes: usize) -> Answers {
        Answers { images: vec![0; classes], right: vec![0; classes], answered: vec![0; classes] }
    }

    /// Counts an image of class `label` that was answered with `class`.
    pub fn add(&mut self, label: u32, class: u32) {
        self.images[label as usize] += 1;
        self.right[label as usize] += u64::from(label == class);
        self.answered[class as usize] += 1;
    }

    /// All counts, in a fixed order, for a sum over ranks; [`Answers::from_counts`] takes them back.
    pub fn counts(&self) -> impl Iterator<Item = f64> + '_ {
        self.images.iter().chain(&self.right).chain(&self.answered).map(|&n| n as f64)
    }

    /// # Shapes
    /// `counts`: 3 times the number of classes.
    pub fn from_counts(counts: &[f64]) -> Answers {
        let classes = counts.len() / 3;
        let part = |i: usize| counts[i * classes..][..classes].iter().map(|&n| n as u64).collect();
        Answers { images: part(0), right: part(1), answered: part(2) }
    }

    /// The share of images that were answered right; 0 without images.
    pub fn accuracy(&self) -> f64 {
        let (right, images): (u64, u64) = (self.right.iter().sum(), self.images.iter().sum());
        right as f64 / images.max(1) as f64
    }
}

/// What the answers behind the rows of an accuracy matrix say of classes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Tally {
    /// For each row, the mean accuracy over the classes that have test images; `None`: a row of a version that did not
    /// count.
    pub macro_acc: Vec<Option<f64>>,
    /// Of the last row, by engine class: images, and those that were answered right.
    pub images: Vec<u64>,
    pub right: Vec<u64>,
    /// Of the last row: images of task i that were answered with a class of task j, `confusion[i][j]`; one column more
    /// for the classes of no task, where there are any. Empty where classes do not belong to tasks.
    pub confusion: Vec<Vec<u64>>,
}

impl Tally {
    /// Adds row `row`, from the answers to each of its test sets. `task_of`: the task of each class, the number of tasks
    /// for the classes of none; empty where classes do not belong to tasks.
    pub fn add_row(&mut self, row: usize, tests: &[Answers], task_of: &[usize]) {
        let classes = tests.iter().map(|test| test.images.len()).max().unwrap_or(0);
        let sum = |of: fn(&Answers) -> &Vec<u64>| -> Vec<u64> {
            (0..classes).map(|class| tests.iter().map(|test| of(test)[class]).sum()).collect()
        };
        (self.images, self.right) = (sum(|test| &test.images), sum(|test| &test.right));
        let each: Vec<f64> = self.class_accuracy().into_iter().flatten().collect();
        let mean = each.iter().sum::<f64>() / each.len() as f64;
        self.macro_acc.resize(row, None);
        self.macro_acc.push(Some(mean).filter(|mean| mean.is_finite()));
        let columns = task_of.iter().max().map_or(0, |last| last + 1);
        let of_test = |test: &Answers| {
            let mut row = vec![0; columns];
            test.answered.iter().zip(task_of).for_each(|(n, &task)| row[task] += n);
            row
        };
        self.confusion = if columns == 0 { Vec::new() } else { tests.iter().map(of_test).collect() };
    }

    /// Of the last row, by engine class; `None` of a class without test images.
    pub fn class_accuracy(&self) -> Vec<Option<f64>> {
        let accuracy = |(&right, &images): (&u64, &u64)| (images > 0).then(|| right as f64 / images as f64);
        self.right.iter().zip(&self.images).map(accuracy).collect()
    }
}
