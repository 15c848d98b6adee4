//! What the composition of the test batches does to the accuracy when the images of a batch vote on
//! their prompts: batches of one class or one task tell the network what the images have in common.

use super::evaluate::{self, TestBatch};
use super::session::Session;
use crate::data::Subset;
use crate::error::{Error, Result};
use crate::ops::match_prompts::Select;
use crate::output::spread::Spread;
use crate::prompts::PromptChoice;
use crate::rng::{Rng, Stream};
use crate::tensor::Tensor;
use serde::Serialize;
use std::collections::HashMap;

/// Accuracies of one learned network under several compositions of the test batches.
#[derive(Debug, Clone, Serialize)]
pub struct Leak {
    /// Tasks learned, and their test images together.
    pub tasks: usize,
    pub images: usize,
    /// Images per vote.
    pub vote_group: usize,
    /// How many different sets of prompts the images choose by themselves.
    pub choices: usize,
    pub compositions: Vec<Composition>,
}

/// One way to put the test images into batches.
#[derive(Debug, Clone, Serialize)]
pub struct Composition {
    pub name: &'static str,
    /// Mean accuracy over tasks, a fraction; over shuffles where the order is random.
    pub avg_acc: Spread,
    /// Accuracy per task, mean over shuffles.
    pub per_task: Vec<f64>,
    /// Share of the images that got other prompts than their own choice.
    pub moved: f64,
}

impl Leak {
    /// The composition of a name of [`names`].
    pub fn named(&self, name: &str) -> Option<&Composition> {
        self.compositions.iter().find(|c| c.name == name)
    }
}

pub mod names {
    pub const OWN: &str = "each image selects";
    pub const ONE: &str = "vote of one image";
    pub const ORDERED: &str = "vote within a task, in order";
    pub const SHUFFLED: &str = "vote within a task, shuffled";
    pub const CLASS: &str = "vote within a class";
    pub const MIXED: &str = "vote over all tasks, shuffled";
}

/// Evaluates the test images of the first `tasks` tasks. `group`: images per vote, otherwise as the
/// configuration has it; `shuffles`: random orders per random composition.
///
/// # Errors
/// `Error::Failed` without a pool, `Error::Config` for a group that does not fit in a batch.
pub fn check(session: &mut Session, tasks: usize, group: Option<usize>, shuffles: usize) -> Result<Leak> {
    let tasks = session.split.tests_after(tasks.saturating_sub(1));
    let Some(usual) = evaluate::vote_group(session) else {
        return Err(Error::failed("the run has no prompt pool: its images have nothing to vote on"));
    };
    let (group, room) = (group.unwrap_or(usual), session.learner.method.model().setup.max_batch);
    if group == 0 || group > room {
        return Err(Error::config(format!(
            "--vote-group: wanted from 1 to the {room} images of the largest batch, found {group}"
        )));
    }
    let mut images = TestImages::new(session, tasks)?;
    let vote = Select::Vote { group };
    let by_task: Vec<Vec<usize>> = (0..tasks).map(|t| images.of(|i| images.task[i] == t)).collect();
    let mut by_class: Vec<Vec<usize>> = Vec::new();
    for class in 0..session.classes() {
        by_class.push(images.of(|i| session.data.test.labels[images.indices[i] as usize] as usize == class));
    }
    let everything = vec![images.of(|_| true)];
    let compositions = [
        (names::OWN, &by_task, Select::PerImage, false),
        (names::ONE, &by_task, Select::Vote { group: 1 }, false),
        (names::CLASS, &by_class, vote, false),
        (names::ORDERED, &by_task, vote, false),
        (names::SHUFFLED, &by_task, vote, true),
        (names::MIXED, &everything, vote, true),
    ]
    .into_iter()
    .map(|(name, parts, how, shuffled)| {
        let repeats = if shuffled { shuffles } else { 1 };
        let trials: Result<Vec<Trial>> =
            (0..repeats).map(|n| images.trial(session, parts, how, shuffled.then_some(n as u64))).collect();
        let trials = trials?;
        let mean = |of: &dyn Fn(&Trial) -> f64| trials.iter().map(of).sum::<f64>() / trials.len() as f64;
        Ok(Composition {
            name,
            avg_acc: Spread::of(&trials.iter().map(Trial::avg_acc).collect::<Vec<_>>()),
            per_task: (0..tasks).map(|t| mean(&|trial| trial.per_task[t])).collect(),
            moved: mean(&|trial| trial.moved),
        })
    })
    .collect::<Result<Vec<_>>>()?;
    let mut own = images.own.clone();
    own.iter_mut().for_each(|ids| ids.sort_unstable());
    own.sort_unstable();
    own.dedup();
    Ok(Leak { tasks, images: images.indices.len(), vote_group: group, choices: own.len(), compositions })
}

/// One evaluation of all images.
struct Trial {
    per_task: Vec<f64>,
    moved: f64,
}

impl Trial {
    fn avg_acc(&self) -> f64 {
        self.per_task.iter().sum::<f64>() / self.per_task.len() as f64
    }
}

/// The test images of all tasks, in task order.
struct TestImages {
    /// (n): places in the data set.
    indices: Vec<u32>,
    /// (n)
    task: Vec<usize>,
    tasks: usize,
    /// (n, C), row by row.
    features: Vec<f64>,
    width: usize,
    /// What each image selects by itself.
    own: Vec<Vec<u32>>,
    /// Whether an image is answered right with some prompts: its logits depend on nothing else.
    known: HashMap<(usize, Vec<u32>), bool>,
}

impl TestImages {
    fn new(session: &mut Session, tasks: usize) -> Result<TestImages> {
        let (mut indices, mut task) = (Vec::new(), Vec::new());
        for t in &session.split.tasks[..tasks] {
            indices.extend(t.test.iter());
            task.extend(t.test.iter().map(|_| t.index));
        }
        let features = session.queries(Subset::Test, &indices)?;
        let width = session.learner.backbone.dims.embed_dim;
        let (own, known) = (Vec::new(), HashMap::new());
        let mut images = TestImages { indices, task, tasks, features, width, own, known };
        let everything = images.of(|_| true);
        images.own = images.select(session, &everything, Select::PerImage)?;
        Ok(images)
    }

    fn of(&self, wanted: impl Fn(usize) -> bool) -> Vec<usize> {
        (0..self.indices.len()).filter(|&i| wanted(i)).collect()
    }

    fn rows(&self, session: &Session, which: &[usize]) -> Tensor {
        let c = self.width;
        let rows: Vec<f64> = which.iter().flat_map(|&i| &self.features[i * c..][..c]).copied().collect();
        Tensor::from_f64(&rows, [which.len(), c], session.dtype())
    }

    /// The prompts of the images `order`, which stand in batches in this order.
    fn select(&self, session: &mut Session, order: &[usize], how: Select) -> Result<Vec<Vec<u32>>> {
        if order.is_empty() {
            return Ok(Vec::new());
        }
        let features = self.rows(session, order);
        let (choice, _) = evaluate::select_all(session, &features, how, order.len())?;
        let (ids, width) = choice.as_ids().ok_or_else(|| Error::failed("only ids can be voted on"))?;
        Ok(ids.chunks_exact(width).map(<[u32]>::to_vec).collect())
    }

    /// Evaluates with batches that stay within each of `parts`, whose images are shuffled by a seed.
    fn trial(
        &mut self,
        session: &mut Session,
        parts: &[Vec<usize>],
        how: Select,
        shuffle: Option<u64>,
    ) -> Result<Trial> {
        let mut ids = vec![Vec::new(); self.indices.len()];
        for (n, part) in parts.iter().enumerate() {
            let mut order = part.clone();
            if let Some(seed) = shuffle {
                Rng::new(seed, Stream::Shuffle, n as u64).shuffle(&mut order);
            }
            for (&i, chosen) in order.iter().zip(self.select(session, &order, how)?) {
                ids[i] = chosen;
            }
        }
        let asked: Vec<(usize, Vec<u32>)> = ids.into_iter().enumerate().collect();
        self.answer(session, &asked)?;
        let (mut right, mut of) = (vec![0; self.tasks], vec![0; self.tasks]);
        let mut moved = 0;
        for question in &asked {
            let task = self.task[question.0];
            of[task] += 1;
            right[task] += usize::from(self.known[question]);
            // A vote lists the same prompts in another order.
            moved += usize::from(!question.1.iter().all(|id| self.own[question.0].contains(id)));
        }
        let share = |(r, n): (&usize, &usize)| *r as f64 / (*n).max(1) as f64;
        let per_task = right.iter().zip(&of).map(share).collect();
        Ok(Trial { per_task, moved: moved as f64 / asked.len().max(1) as f64 })
    }

    /// Makes every answer known.
    fn answer(&mut self, session: &mut Session, asked: &[(usize, Vec<u32>)]) -> Result<()> {
        let open: Vec<&(usize, Vec<u32>)> = asked.iter().filter(|q| !self.known.contains_key(*q)).collect();
        for batch in open.chunks(session.learner.config.train.eval_batch_size) {
            let which: Vec<usize> = batch.iter().map(|(i, _)| *i).collect();
            let indices: Vec<u32> = which.iter().map(|&i| self.indices[i]).collect();
            let features = self.rows(session, &which);
            let ids: Vec<u32> = batch.iter().flat_map(|(_, ids)| ids).copied().collect();
            let some = TestBatch { which: Subset::Test, indices: &indices, features: features.view() };
            let (width, among) = (ids.len() / batch.len(), session.learner.method.model().prompts.keys());
            let (guesses, _) = evaluate::answer(session, &some, &PromptChoice::ids(ids, width, among))?;
            self.known
                .extend(batch.iter().map(|&q| q.clone()).zip(guesses.iter().map(|guess| guess.is_right())));
        }
        Ok(())
    }
}
