//! From tests to scores: rows of the accuracy matrices with what stands beside them, and the metrics that follow.

use super::evaluate::TaskScore;
use super::session::Session;
use crate::config::schema::Scenario;
use crate::data::{Split, Subset, Task};
use crate::error::Result;
use crate::learner::Position;
use crate::output::answers::{Answers, Tally};
use crate::output::results::{Added, ClassOfRun, EarlierTask, Score, TestSets};

/// The tests of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tests {
    /// Each test image selects its own prompts.
    Own,
    /// The test images of a group vote.
    Vote,
    /// Validation images, each of which selects its own prompts.
    Validation,
}

/// Adds the tests `scores`, and `validation` where there is any, as a row of each matrix of `at`.
pub fn add_row(split: &Split, at: &mut Position, scores: &[TaskScore], validation: &[TaskScore]) {
    let task_of = task_of(split);
    type Read = (fn(&TaskScore) -> &Answers, fn(&TaskScore) -> f64);
    let add =
        |matrix: &mut Vec<Vec<f64>>, tally: &mut Tally, scores: &[TaskScore], (answers, accuracy): Read| {
            let answers: Vec<Answers> = scores.iter().map(answers).cloned().collect();
            tally.add_row(matrix.len(), &answers, &task_of);
            matrix.push(scores.iter().map(accuracy).collect());
        };
    let own: Read = (|score| &score.own, |score| score.per_image);
    add(&mut at.per_image, &mut at.tallies.per_image, scores, own);
    add(
        &mut at.per_batch,
        &mut at.tallies.per_batch,
        scores,
        (|score| &score.voted, |score| score.per_batch),
    );
    if !validation.is_empty() {
        add(&mut at.validation, &mut at.tallies.validation, validation, own);
    }
}

/// Takes the last row of the matrices of the test images away again.
pub fn remove_last_row(at: &mut Position) {
    for (matrix, tally) in
        [(&mut at.per_image, &mut at.tallies.per_image), (&mut at.per_batch, &mut at.tallies.per_batch)]
    {
        matrix.pop();
        tally.macro_acc.truncate(matrix.len());
    }
}

/// The task of each class, the number of tasks for the classes of none; empty where a class is in several.
pub fn task_of(split: &Split) -> Vec<usize> {
    let none = split.tasks.len();
    let mut task_of = vec![none; split.class_names.len()];
    for task in &split.tasks {
        for &class in &task.classes {
            if std::mem::replace(&mut task_of[class as usize], task.index) != none {
                return Vec::new();
            }
        }
    }
    task_of
}

/// Every class with its task, for the results.
pub fn classes(split: &Split) -> Vec<ClassOfRun> {
    let task_of = task_of(split);
    let task = |class: usize| task_of.get(class).copied().filter(|&task| task < split.tasks.len());
    let names = split.class_names.iter().enumerate();
    names.map(|(class, name)| ClassOfRun { name: name.clone(), task: task(class) }).collect()
}

/// What the last task that was added did to those before it, once it was tested.
pub fn added(session: &Session, at: &Position) -> Option<Added> {
    let (task, earlier) = session.split.tasks.split_last()?;
    let [.., before, after] = at.per_image.as_slice() else { return None };
    if !session.learner.config.is_added(task.index) || after.len() != session.split.tasks.len() {
        return None;
    }
    let known = |row: &[f64], task: usize| row.get(task).copied().filter(|accuracy| accuracy.is_finite());
    let of = |task: &Task| EarlierTask {
        task: task.index,
        name: task.name.clone(),
        before: known(before, task.index),
        after: known(after, task.index),
    };
    let name = |&class: &u32| session.split.class_names[class as usize].clone();
    let added = Added {
        task: task.index,
        classes: task.classes.iter().map(name).collect(),
        train_images: task.train.len(),
        test_images: task.test.len(),
        accuracy: known(after, task.index),
        earlier: earlier.iter().map(of).collect(),
        before: None,
        after: None,
        forgetting: None,
    };
    Some(added.with_means())
}

impl Session {
    /// What the tests of a run at `at` found.
    ///
    /// # Errors
    /// Those of [`Score::from_matrix`].
    pub fn score(&self, at: &Position, tests: Tests) -> Result<Score> {
        let ahead = |which: usize| at.ahead.iter().map(|both| both[which]).collect();
        let fresh = |which: usize| at.fresh.iter().map(|both| both[which]).collect();
        let tallies = &at.tallies;
        let (matrix, tally, forward): (_, _, (Vec<f64>, Vec<f64>)) = match tests {
            Tests::Own => (&at.per_image, &tallies.per_image, (ahead(0), fresh(0))),
            Tests::Vote => (&at.per_batch, &tallies.per_batch, (ahead(1), fresh(1))),
            Tests::Validation => (&at.validation, &tallies.validation, Default::default()),
        };
        let which = if tests == Tests::Validation { Subset::Validation } else { Subset::Test };
        let at_once = self.learner.config.continual.scenario == Scenario::Joint;
        let sets = TestSets { forward: (&forward.0, &forward.1), at_once, ..self.test_sets(which, tally) };
        Ok(Score::from_matrix(matrix.clone())?.after_tasks(&self.tested_tasks()).with_tests(&sets))
    }

    /// The test sets of a method that learns task after task.
    pub fn test_sets<'a>(&self, which: Subset, tally: &'a Tally) -> TestSets<'a> {
        let (split, tasks) = (&self.split, &self.split.tasks);
        let images = if split.shared_test {
            Vec::new()
        } else {
            tasks.iter().map(|t| t.images(which).len()).collect()
        };
        let new_classes = tasks.len() > 1 && !task_of(split).is_empty();
        TestSets { images, new_classes, at_once: false, tally: Some(tally), forward: (&[], &[]) }
    }
}
