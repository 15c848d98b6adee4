//! S-Prompts without text (S-iPrompts): a prompt and a head for each domain, learned alone. A test image takes those of
//! the domain that has the nearest centre to its query.
//! Source: Wang et al. 2022, arXiv:2207.12819; iamwangyabin/S-Prompts @ a26e822, `methods/sprompt.py`, `models/sinet.py`.
//!
//! Names: T domains, L_p rows of a prompt, K centres of a domain.

use super::choice::PromptChoice;
use super::k_means;
use super::onnx::{ChosenGraph, PromptGraph};
use super::settings::{Domains, Room};
use super::stack::{Entering, Place, Stack};
use crate::error::{Error, Result};
use crate::nn::layers::Linear;
use crate::nn::onnx::Weights;
use crate::nn::params::{Declare, ParamId, Params};
use crate::onnx::{Attribute, Element, Graph, Value};
use crate::rng::{Rng, Stream};
use crate::tensor::plan::Plan;
use crate::tensor::{DType, Tensor, View};

/// `s_prompts/prompt` [T, L_p, C], tokens in front of layer 0. The network has a head of each domain: `head/kernel`
/// [T, C, K], `head/bias` [T, K]. The rows of other domains than the one that is learned are frozen.
#[derive(Debug)]
pub struct SPrompts {
    settings: Domains,
    stack: Stack,
    /// (B, 1): the domain of each image, as the device reads it.
    ids: Tensor,
    chosen: Chosen,
    /// The domain whose rows learn.
    entered: Option<usize>,
    /// (T, K, C), on the host: centres of the queries of each domain.
    centres: Tensor,
    /// (1) u32: the first so many domains have centres.
    known: Tensor,
    /// Queries (n, C) of unit length of the domain that ends.
    queries: Vec<f64>,
}

/// The domains of a batch.
#[derive(Debug, Clone, PartialEq)]
enum Chosen {
    /// One for all images.
    All(u32),
    Each(Vec<u32>),
}

/// Which head an image uses.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Heads<'a> {
    /// The only one.
    One,
    /// That of one domain for all images.
    Domain(usize),
    /// That of a domain for each image.
    Each(&'a [u32]),
}

impl SPrompts {
    pub(super) fn new(declare: &mut Declare, plan: &mut Plan, settings: &Domains, room: Room) -> SPrompts {
        let (t, c, length) = (settings.tasks, room.dims.embed_dim, settings.config.length);
        let stack = Stack {
            id: declare.add("s_prompts/prompt", [t, length, c]),
            place: Place::Tokens,
            layers: vec![(0, 0)],
            sides: 1,
            rows: t * length,
            channels: c,
            chosen: 1,
            length,
        };
        SPrompts {
            stack,
            ids: plan.tensor("domains of images", [room.batch, 1], DType::U32),
            chosen: Chosen::All(0),
            entered: None,
            centres: plan.on_host("centres of domains", [t, settings.config.centres, c], DType::F64),
            known: Tensor::zeros([1], DType::U32),
            queries: Vec::new(),
            settings: settings.clone(),
        }
    }

    /// T
    pub fn domains(&self) -> usize {
        self.settings.tasks
    }

    pub(super) fn stack(&self) -> &Stack {
        &self.stack
    }

    pub(super) fn entering(&self, batch: usize) -> Entering<'_> {
        Entering { stack: &self.stack, ids: self.ids.view().part(0, [batch, 1]) }
    }

    pub(super) fn heads(&self) -> Heads<'_> {
        match &self.chosen {
            Chosen::All(domain) => Heads::Domain(*domain as usize),
            Chosen::Each(domains) => Heads::Each(domains),
        }
    }

    fn known(&self) -> Result<usize> {
        Ok(self.known.view().get::<u32>("s_prompts", "domains")?[0] as usize)
    }

    fn put(&mut self, chosen: Chosen) -> Result<()> {
        if self.chosen == chosen {
            return Ok(());
        }
        let ids = match &chosen {
            Chosen::All(domain) => vec![*domain; self.ids.capacity()],
            Chosen::Each(domains) => domains.clone(),
        };
        self.ids.reshape([ids.len(), 1]);
        self.ids.view_mut().write(&ids)?;
        self.chosen = chosen;
        Ok(())
    }

    /// Σ |q - c| between a query q (C) of any length, which is made 1, and each centre c (K, C) of each domain that has
    /// centres: the distance of the published code, which its paper calls that of nearest neighbours.
    ///
    /// # Errors
    /// `Error::Failed` if the device fails.
    pub fn distances(&self, query: &[f64]) -> Result<Vec<f64>> {
        let (query, width) = (unit(query), self.stack.channels);
        let centres = self.centres.view().get::<f64>("s_prompts", "centres")?;
        let centres = &centres[..self.known()? * self.settings.config.centres * width];
        let l1 = |centre: &[f64]| centre.iter().zip(&query).map(|(c, q)| (q - c).abs()).sum();
        Ok(centres.chunks_exact(width).map(l1).collect())
    }

    /// The domain of each query (B, C) by its nearest centre, the first of equals. Before the end of the first domain it
    /// is that one; a later domain is not chosen before its end.
    pub(super) fn choose(&mut self, query: View) -> Result<()> {
        let queries = query.read_f64()?;
        let each = self.settings.config.centres;
        let domain = |query: &[f64]| {
            let first = (0, f64::INFINITY);
            let distances = self.distances(query)?.into_iter().enumerate();
            let best = distances.fold(first, |best, (i, d)| if d < best.1 { (i, d) } else { best });
            Ok((best.0 / each) as u32)
        };
        let domains = queries.chunks_exact(self.stack.channels).map(domain).collect::<Result<Vec<u32>>>()?;
        self.put(Chosen::Each(domains))
    }

    /// [`SPrompts::choose`], and the prompt and the head of the domain. query: (B, C).
    ///
    /// # Errors
    /// `Error::Failed` if the device fails.
    pub(super) fn onnx(
        &self,
        g: &mut Graph,
        w: Weights,
        query: &Value,
        into: &mut PromptGraph,
    ) -> Result<()> {
        let (known, c, each) = (self.known()?.max(1), self.stack.channels, self.settings.config.centres);
        let length = g.length(query);
        let length = g.at_least(&length, 1e-12);
        let unit = g.op("Div", &[query, &length], &[]);
        let unit = g.reshape(&unit, &[0, 1, c as i64]);
        let centres = self.centres.view().get::<f64>("s_prompts", "centres")?;
        let centres = &centres[..known * each * c];
        let centres = g.weights("centres", &[1, known * each, c], || Ok(centres.to_vec()))?;
        let difference = g.op("Sub", &[&unit, &centres], &[]);
        let norm = [("axes", Attribute::Ints(&[-1])), ("keepdims", Attribute::Int(0))];
        let distances = g.op("ReduceL1", &[&difference], &norm);
        let nearness = g.scaled(&distances, -1.0);
        // The nearest centre of each domain, then the first domain of the nearest.
        let by_domain = g.reshape(&nearness, &[0, known as i64, each as i64]);
        let best = g.max(&by_domain, 2);
        let domain = g.top_places(&best, 1);
        into.head = Some(g.reshape(&domain, &[-1]));
        into.chosen =
            Some(ChosenGraph { name: "prompts", value: domain.clone(), element: Element::I64, width: 1 });
        into.add_stack(g, w, &self.stack, Some(&domain))
    }

    pub(super) fn choice(&self) -> PromptChoice {
        let ids = match &self.chosen {
            Chosen::All(domain) => vec![*domain; self.ids.capacity()],
            Chosen::Each(domains) => domains.clone(),
        };
        PromptChoice::ids(ids, 1, self.domains())
    }

    pub(super) fn empty_choice(&self) -> PromptChoice {
        PromptChoice::ids(Vec::new(), 1, self.domains())
    }

    /// Domains chosen earlier for `batch` images, instead of a choice.
    pub(super) fn set_choice(&mut self, batch: usize, choice: &PromptChoice) -> Result<()> {
        let wanted = format!("{batch} domains below {}", self.domains());
        let got = match choice.as_ids() {
            Some((ids, 1)) if ids.len() == batch && ids.iter().all(|&id| (id as usize) < self.domains()) => {
                return self.put(Chosen::Each(ids.to_vec()));
            }
            Some((ids, _)) => format!("{ids:?}"),
            None => "weights".into(),
        };
        Err(Error::Shape { op: "s_prompts", arg: "choice", wanted, got })
    }

    /// All parameters uniform in ±1/√C, as PyTorch's linear layers start.
    pub(super) fn init(&self, p: &mut Params, head: &Linear, seed: u64) -> Result<()> {
        let bound = 1.0 / (self.stack.channels as f64).sqrt();
        // Streams of their own, beside those of other prompts and heads.
        for (stream, id) in [self.stack.id, head.kernel, head.bias].into_iter().enumerate() {
            let mut rng = Rng::new(seed, Stream::Init, 5 + stream as u64);
            p.draw(id, || bound * (2.0 * f64::from(rng.uniform()) - 1.0))?;
        }
        Ok(())
    }

    /// From now on prompt and head of domain `task` learn, and all images of a step use them.
    ///
    /// # Errors
    /// `Error::Config` for a domain that has no room.
    pub(super) fn enter_task(&mut self, p: &mut Params, head: &Linear, task: usize) -> Result<()> {
        let t = self.domains();
        if task >= t {
            return Err(Error::config(format!(
                "continual.num_tasks: there is a prompt and a head for each of {t} tasks, but task {} begins; wanted \
                 continual.num_tasks to be the number of tasks",
                task + 1
            )));
        }
        if self.entered != Some(task) {
            let frozen: Vec<_> = [0..task, task + 1..t].into_iter().filter(|rows| !rows.is_empty()).collect();
            let ids: [ParamId; 3] = [self.stack.id, head.kernel, head.bias];
            for id in ids.into_iter().filter(|&id| p.spec(id).trainable).collect::<Vec<_>>() {
                p.freeze_rows(id, &frozen)?;
            }
            self.entered = Some(task);
        }
        self.put(Chosen::All(task as u32))
    }

    /// The weight of the l2 penalty in domain `task`, if it is another than `optim.weight_decay`.
    pub(super) fn weight_decay(&self, task: usize) -> Option<f64> {
        Some(self.settings.config.later_weight_decay).filter(|decay| task > 0 && *decay >= 0.0)
    }

    /// Whether domain `task` still lacks centres, which are made of the queries of its images.
    pub(super) fn wants_queries(&self, task: usize) -> Result<bool> {
        Ok(self.known()? <= task)
    }

    /// Adds the queries (n, C) of some images of the domain that ends.
    pub(super) fn collect(&mut self, queries: &[f64]) {
        self.queries.extend(queries.chunks_exact(self.stack.channels).flat_map(unit));
    }

    /// Makes the centres of the domain whose queries were collected; nothing without queries.
    pub(super) fn end_task(&mut self) -> Result<()> {
        let queries = std::mem::take(&mut self.queries);
        if queries.is_empty() {
            return Ok(());
        }
        let (domain, width, k) = (self.known()?, self.stack.channels, self.settings.config.centres);
        let mut rng = Rng::new(self.settings.seed, Stream::Centres, domain as u64);
        let start = k_means::plus_plus(&queries, width, k, &mut rng);
        let found = k_means::lloyd(&queries, width, start).centres;
        self.centres.view_mut().part(domain * k * width, [k, width]).write(&found)?;
        self.known.view_mut().write(&[domain as u32 + 1])
    }

    /// What is learned without gradients, by name.
    pub(super) fn state(&self) -> [(&'static str, &Tensor); 2] {
        [("centres", &self.centres), ("domains", &self.known)]
    }

    pub(super) fn state_mut(&mut self) -> [(&'static str, &mut Tensor); 2] {
        [("centres", &mut self.centres), ("domains", &mut self.known)]
    }
}

/// A query with length 1; the least length is that of PyTorch's `normalize`.
fn unit(query: &[f64]) -> Vec<f64> {
    let length = query.iter().map(|v| v * v).sum::<f64>().sqrt().max(1e-12);
    query.iter().map(|v| v / length).collect()
}
