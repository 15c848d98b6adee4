//! Test accuracy of the tasks so far, with each image's own selection and with the batch vote side by
//! side. Query features are computed once per run: the backbone is frozen and nothing is augmented.

use super::session::Session;
use crate::data::Subset;
use crate::error::Result;
use crate::ops::cross_entropy;
use crate::ops::match_prompts::Select;
use crate::output::answers::Answers;
use crate::prompts::PromptChoice;
use crate::tensor::Tensor;

/// Queries of a rank's images of every task in a part of the data set, (n, C) each, in task order.
pub struct QueryCache {
    which: Subset,
    tasks: Vec<Option<Tensor>>,
}

/// One task's test or validation images under both selections.
#[derive(Debug, Clone, Default)]
pub struct TaskScore {
    pub images: usize,
    pub per_image: f64,
    pub per_batch: f64,
    /// Mean cross-entropy over all classes, per-image selection.
    pub loss: f64,
    /// How often each prompt was selected, per-image selection.
    pub usage: Vec<u64>,
    /// The same for the batch vote.
    pub vote_usage: Vec<u64>,
    /// Mean cosine of the queries to each key.
    pub similarity: Vec<f64>,
    /// What the images of all ranks were answered, by class: per-image selection, and the batch vote.
    pub own: Answers,
    pub voted: Answers,
    /// What each image of this rank was answered and the prompts that it chose, per-image selection.
    pub guesses: Vec<Guess>,
    pub chosen: Vec<Vec<u32>>,
}

/// An engine class id that was answered, and the right one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Guess {
    pub class: u32,
    pub label: u32,
}

impl Guess {
    pub fn is_right(self) -> bool {
        self.class == self.label
    }
}

impl QueryCache {
    /// For test or validation images.
    pub fn new(which: Subset, tasks: usize) -> QueryCache {
        QueryCache { which, tasks: (0..tasks).map(|_| None).collect() }
    }

    /// Queries of the images of `task`, computed at the first call (and again after learning where
    /// the patch embedding, which makes them, learns).
    pub fn get(&mut self, session: &mut Session, task: usize) -> Result<&Tensor> {
        if self.tasks[task].is_none() || session.learner.method.model().query_learns() {
            let indices = own_images(session, self.which, task);
            let values = session.queries(self.which, &indices)?;
            let c = session.learner.backbone.dims.embed_dim;
            let features = Tensor::from_f64(&values, [indices.len(), c], session.dtype());
            self.tasks[task] = Some(features);
        }
        Ok(self.tasks[task].as_ref().expect("filled just above"))
    }
}

/// The images of `task` that are this rank's: whole vote groups.
fn own_images(session: &Session, which: Subset, task: usize) -> Vec<u32> {
    let all = session.split.tasks[task].images(which);
    all[session.ranks.share_of(all.len(), vote_group(session).unwrap_or(1))].to_vec()
}

/// Evaluates the images of `task` that `cache` is for, each rank a part of them.
pub fn task(session: &mut Session, cache: &mut QueryCache, task: usize) -> Result<TaskScore> {
    let features = cache.get(session, task)?.clone();
    let which = cache.which;
    let (all, indices) = (session.split.tasks[task].images(which).len(), own_images(session, which, task));
    let (n, c) = (indices.len(), session.learner.backbone.dims.embed_dim);
    let (own, similarity) = select_all(session, &features, Select::PerImage, all)?;
    let voted = match vote_group(session) {
        Some(group) => select_all(session, &features, Select::Vote { group }, all)?.0,
        None => own.clone(),
    };
    let (usage, vote_usage) = (own.usage(), voted.usage());
    let chosen = own.as_ids().map_or(Vec::new(), |(ids, width)| match width {
        0 => Vec::new(),
        width => ids.chunks_exact(width).map(<[u32]>::to_vec).collect(),
    });
    let mut score = TaskScore { images: n, usage, vote_usage, similarity, chosen, ..TaskScore::default() };
    (score.own, score.voted) = (Answers::new(session.classes()), Answers::new(session.classes()));
    for (chunk, from) in indices
        .chunks(session.learner.config.train.eval_batch_size)
        .zip((0..).step_by(session.learner.config.train.eval_batch_size))
    {
        session.ranks.comm.check()?;
        let rows = from..from + chunk.len();
        let features = features.view().part(from * c, [chunk.len(), c]);
        let batch = TestBatch { which, indices: chunk, features };
        let choice = own.part(rows.clone());
        let (guesses, loss) = answer(session, &batch, &choice)?;
        let by_vote = with_votes(session, &batch, &choice, &voted.part(rows), &guesses)?;
        guesses.iter().for_each(|guess| score.own.add(guess.label, guess.class));
        by_vote.iter().for_each(|guess| score.voted.add(guess.label, guess.class));
        score.guesses.extend(guesses);
        score.loss += loss * chunk.len() as f64 / all as f64;
    }
    if !session.ranks.is_alone() {
        // All are counts or shares of a mean.
        let mut sums = vec![n as f64, score.loss];
        sums.extend(score.own.counts().chain(score.voted.counts()));
        sums.extend(score.usage.iter().chain(&score.vote_usage).map(|&count| count as f64));
        sums.extend(&score.similarity);
        session.ranks.comm.sum_f64("answers of a test", &mut sums)?;
        let (counted, answers) = (score.usage.len(), 3 * session.classes());
        let (head, rest) = sums.split_at(2);
        (score.images, score.loss) = (head[0] as usize, head[1]);
        let (own, rest) = rest.split_at(answers);
        let (voted, rest) = rest.split_at(answers);
        (score.own, score.voted) = (Answers::from_counts(own), Answers::from_counts(voted));
        let counts = |from: &[f64]| from.iter().map(|&x| x as u64).collect();
        (score.usage, score.vote_usage) = (counts(&rest[..counted]), counts(&rest[counted..2 * counted]));
        score.similarity = rest[2 * counted..].to_vec();
    }
    // Images that are gone are answered neither right nor wrong.
    let tested = |answers: &Answers| if all == 0 { f64::NAN } else { answers.accuracy() };
    (score.per_image, score.per_batch) = (tested(&score.own), tested(&score.voted));
    Ok(score)
}

/// Images per vote; `None` where images cannot vote.
pub fn vote_group(session: &Session) -> Option<usize> {
    let group = session.learner.method.model().prompts.vote_group()?;
    Some(if group == 0 { session.learner.config.train.per_device_batch_size } else { group })
}

/// Images with their features, (n, C).
pub(super) struct TestBatch<'a> {
    pub which: Subset,
    pub indices: &'a [u32],
    pub features: crate::tensor::View<'a>,
}

/// What each image is answered, and the mean loss: over all classes, the latter in any case, or over those learned so far
/// (`continual.eval_seen_classes`), or where the task is told (`continual.eval_task_inc`) over those of the image's task.
pub(super) fn answer(
    session: &mut Session,
    batch: &TestBatch,
    choice: &PromptChoice,
) -> Result<(Vec<Guess>, f64)> {
    let images = session.eval_batch(batch.which, batch.indices)?;
    let logits =
        session.learner.method.logits(&session.learner.dev, images.pixels(), batch.features, choice)?;
    let (logits, labels) = (logits.view().to_host()?, &images.labels);
    let (classes, cl) = (session.classes(), &session.learner.config.continual);
    let unseen = cl.eval_seen_classes.then(|| {
        let seen = &session.learner.classes_seen;
        (0..classes as u32).filter(|class| !seen.contains(class)).collect::<Vec<u32>>()
    });
    let told = (cl.eval_task_inc && !cl.takes_all_classes()).then(|| cl.num_classes_per_task.clone());
    let labels_tensor = Tensor::from_vec(labels.clone(), [labels.len()]);
    let loss = cross_entropy::mean_loss(logits.view(), labels_tensor.view())?;
    let mut logits = logits.to_f64();
    for z in logits.chunks_exact_mut(classes) {
        unseen.iter().flatten().for_each(|&class| z[class as usize] = f64::NEG_INFINITY);
    }
    let guesses = logits
        .chunks_exact(classes)
        .zip(labels)
        .map(|(z, &label)| {
            let label = label as usize;
            let among = told.as_ref().map_or(0..classes, |sizes| sizes.range_with(label, classes));
            Guess { class: (among.start + argmax(&z[among.clone()])) as u32, label: label as u32 }
        })
        .collect();
    Ok((guesses, loss))
}

/// What each image is answered with the voted prompts. An image whose vote equals its own choice keeps its
/// answer: the logits of an image depend on nothing but the image and its prompts.
fn with_votes(
    session: &mut Session,
    batch: &TestBatch,
    own: &PromptChoice,
    votes: &PromptChoice,
    guesses: &[Guess],
) -> Result<Vec<Guess>> {
    let changed = own.differing(votes);
    let mut by_vote = guesses.to_vec();
    if changed.is_empty() {
        return Ok(by_vote);
    }
    let c = batch.features.dims()[1];
    let features = batch.features.to_f64();
    let rows: Vec<f64> = changed.iter().flat_map(|&i| features[i * c..][..c].to_vec()).collect();
    let rows = Tensor::from_f64(&rows, [changed.len(), c], session.dtype());
    let indices: Vec<u32> = changed.iter().map(|&i| batch.indices[i]).collect();
    let some = TestBatch { which: batch.which, indices: &indices, features: rows.view() };
    let (guesses, _) = answer(session, &some, &votes.of(&changed))?;
    changed.iter().zip(guesses).for_each(|(&i, guess)| by_vote[i] = guess);
    Ok(by_vote)
}

/// What images choose, in chunks of whole vote groups, and their part in the mean over `all` images of the cosine of a
/// query to each key, which is empty without keys.
pub(super) fn select_all(
    session: &mut Session,
    features: &Tensor,
    how: Select,
    all: usize,
) -> Result<(PromptChoice, Vec<f64>)> {
    let (n, c) = (features.dims()[0], features.dims()[1]);
    let room = session.learner.method.model().setup.max_batch;
    let chunk = match how {
        Select::Vote { group } => room / group * group,
        _ => room,
    };
    let prompts = &session.learner.method.model().prompts;
    let (mut choice, mut similarity) = (prompts.empty_choice(), vec![0.0; prompts.keys()]);
    for start in (0..n).step_by(chunk.max(1)) {
        let rows = chunk.min(n - start);
        let part = features.view().part(start * c, [rows, c]);
        choice.append(session.learner.method.select(&session.learner.dev, part, how)?)?;
        if let Some(cosines) = session.learner.method.model().prompts.similarity() {
            for row in cosines.read_f64()?.chunks_exact(similarity.len()) {
                similarity.iter_mut().zip(row).for_each(|(sum, cosine)| *sum += cosine / all as f64);
            }
        }
    }
    Ok((choice, similarity))
}

/// The largest value's place; ties to the lower.
pub fn argmax(values: &[f64]) -> usize {
    (0..values.len()).fold(0, |best, k| if values[k] > values[best] { k } else { best })
}
