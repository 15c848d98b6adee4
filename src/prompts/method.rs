//! The closed set of prompt methods, and all that the network asks of one.

use super::choice::PromptChoice;
use super::coda::Coda;
use super::general::General;
use super::onnx::PromptGraph;
use super::pool::{Pool, PullBackward};
use super::s_prompts::{Heads, SPrompts};
use super::settings::{Room, Settings};
use super::stack::{self, Entering, Place, Side, Slots, Stack, TokenRows};
use crate::config::schema::{EmbeddingKey, Initializer};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::nn::layers::Linear;
use crate::nn::onnx::Weights;
use crate::nn::params::{Declare, Grads, ParamId, Params};
use crate::onnx::{Graph, Value};
use crate::ops::match_prompts::Select;
use crate::ops::pool_tokens;
use crate::rng::{Rng, Stream};
use crate::tensor::plan::Plan;
use crate::tensor::{Tensor, View, ViewMut};

/// What the network puts in front of its layers.
#[derive(Debug)]
pub enum PromptMethod {
    /// Nothing: the plain network.
    None,
    /// A pool, of which each image or vote uses the prompts whose keys are nearest to its query.
    L2p(Pool),
    /// A prompt for all images, with a pool or without.
    DualPrompt { general: General, pool: Option<Pool> },
    /// A weighted sum of components that tasks add.
    Coda(Coda),
    /// A prompt and a head for each domain.
    SPrompts(SPrompts),
}

/// Which features of an image its prompts are chosen by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Query {
    /// None: nothing is chosen.
    Nothing,
    /// The class token of the pre-trained network without prompts.
    Cls,
    /// The embedded patches, pooled.
    Patches(pool_tokens::Pooling),
}

impl PromptMethod {
    /// Declares the parameters and takes the memory.
    pub fn new(declare: &mut Declare, plan: &mut Plan, settings: &Settings, room: Room) -> PromptMethod {
        plan.group("selection");
        if let Some(components) = &settings.components {
            return PromptMethod::Coda(Coda::new(declare, plan, components, room));
        }
        if let Some(domains) = &settings.domains {
            return PromptMethod::SPrompts(SPrompts::new(declare, plan, domains, room));
        }
        let general = settings.general.as_ref();
        let general = general.map(|config| General::new(declare, plan, config, settings, room));
        let pool = settings.pool.as_ref();
        let pool = pool.map(|config| Pool::new(declare, plan, config, settings.seed, room));
        match (general, pool) {
            (None, None) => PromptMethod::None,
            (None, Some(pool)) => PromptMethod::L2p(pool),
            (Some(general), pool) => PromptMethod::DualPrompt { general, pool },
        }
    }

    /// The pool, if the method has one.
    pub fn pool(&self) -> Option<&Pool> {
        match self {
            PromptMethod::None | PromptMethod::Coda(_) | PromptMethod::SPrompts(_) => None,
            PromptMethod::L2p(pool) => Some(pool),
            PromptMethod::DualPrompt { pool, .. } => pool.as_ref(),
        }
    }

    /// The pool, if images choose from it by keys.
    fn keyed_pool(&self) -> Option<&Pool> {
        self.pool().filter(|pool| pool.has_keys())
    }

    /// Whether the host chooses, so that a step waits for it.
    pub fn chooses_on_host(&self) -> bool {
        self.pool().is_some_and(|pool| !pool.has_keys())
    }

    /// The components, if the method has them.
    pub fn coda(&self) -> Option<&Coda> {
        if let PromptMethod::Coda(coda) = self { Some(coda) } else { None }
    }

    /// The domains, if the method has them.
    pub fn domains(&self) -> Option<&SPrompts> {
        if let PromptMethod::SPrompts(domains) = self { Some(domains) } else { None }
    }

    fn pool_mut(&mut self) -> Option<&mut Pool> {
        match self {
            PromptMethod::None | PromptMethod::Coda(_) | PromptMethod::SPrompts(_) => None,
            PromptMethod::L2p(pool) => Some(pool),
            PromptMethod::DualPrompt { pool, .. } => pool.as_mut(),
        }
    }

    /// The parameters whose rows enter layers by number, in the order in which they stand in front of a layer.
    fn stacks(&self) -> impl Iterator<Item = &Stack> {
        let stacks = match self {
            PromptMethod::None | PromptMethod::Coda(_) => [None, None],
            PromptMethod::L2p(pool) => [None, Some(&pool.stack)],
            PromptMethod::DualPrompt { general, pool } => {
                [Some(&general.stack), pool.as_ref().map(|pool| &pool.stack)]
            }
            PromptMethod::SPrompts(domains) => [Some(domains.stack()), None],
        };
        stacks.into_iter().flatten()
    }

    /// The same with the ids of the `batch` images of the last choice.
    fn entering(&self, batch: usize) -> impl Iterator<Item = Entering<'_>> + Clone {
        let entering = match self {
            PromptMethod::None | PromptMethod::Coda(_) => [None, None],
            PromptMethod::L2p(pool) => [None, Some(pool.entering())],
            PromptMethod::DualPrompt { general, pool } => {
                [Some(general.entering(batch)), pool.as_ref().map(Pool::entering)]
            }
            PromptMethod::SPrompts(domains) => [Some(domains.entering(batch)), None],
        };
        entering.into_iter().flatten()
    }

    /// Rows per image that enter layer `l`.
    pub fn slots(&self, l: usize) -> Slots {
        let rows = |place| self.stacks().map(|stack| stack.rows_in(l, place)).sum();
        let components = self.coda().map_or(0, |coda| coda.prefix_rows(l));
        Slots { tokens: rows(Place::Tokens), prefix: rows(Place::Prefix) + components }
    }

    /// Rows of the largest table that enters layers.
    pub fn table_rows(&self) -> usize {
        self.stacks().map(|stack| stack.rows).max().unwrap_or(0)
    }

    /// What images choose by.
    pub fn query(&self) -> Query {
        let pool = match self {
            PromptMethod::None => None,
            PromptMethod::L2p(pool) => Some(pool),
            PromptMethod::DualPrompt { pool, .. } => pool.as_ref(),
            PromptMethod::Coda(_) | PromptMethod::SPrompts(_) => return Query::Cls,
        };
        let Some(pool) = pool else { return Query::Nothing };
        match pool.config.embedding_key {
            EmbeddingKey::Cls => Query::Cls,
            EmbeddingKey::Mean => Query::Patches(pool_tokens::Pooling::Mean),
            EmbeddingKey::Max => Query::Patches(pool_tokens::Pooling::Max),
            EmbeddingKey::MeanMax => Query::Patches(pool_tokens::Pooling::MeanMax),
        }
    }

    /// What the images of a training step choose by.
    pub fn query_to_learn(&self) -> Query {
        match self {
            PromptMethod::None
            | PromptMethod::L2p(_)
            | PromptMethod::DualPrompt { .. }
            | PromptMethod::Coda(_) => self.query(),
            // The domain that is learned is known.
            PromptMethod::SPrompts(_) => Query::Nothing,
        }
    }

    /// Heads of the network, where each domain has one of its own.
    pub fn several_heads(&self) -> Option<usize> {
        self.domains().map(SPrompts::domains)
    }

    /// The heads that the images of the last choice use.
    pub fn heads(&self) -> Heads<'_> {
        self.domains().map_or(Heads::One, SPrompts::heads)
    }

    /// Images of a vote, 0: as many as a batch of training has; `None` where each image can only choose for itself.
    pub fn vote_group(&self) -> Option<usize> {
        self.keyed_pool().map(|pool| pool.config.vote_group)
    }

    /// How the images of a training step choose.
    pub fn how_to_learn(&self, task: usize, batch: usize) -> Select {
        self.pool().map_or(Select::PerImage, |pool| pool.how_to_learn(task, batch))
    }

    /// Chooses prompts for queries (B, C), for an evaluation.
    pub fn choose(&mut self, dev: &Device, p: &Params, query: View, how: Select) -> Result<()> {
        match self {
            PromptMethod::None | PromptMethod::DualPrompt { pool: None, .. } => Ok(()),
            PromptMethod::L2p(pool) | PromptMethod::DualPrompt { pool: Some(pool), .. } => {
                pool.choose(dev, p, query, how)
            }
            PromptMethod::Coda(coda) => coda.choose(dev, p, query),
            PromptMethod::SPrompts(domains) => domains.choose(query),
        }
    }

    /// Chooses prompts for the queries (B, C) of a training step.
    pub fn choose_to_learn(&mut self, dev: &Device, p: &Params, query: View, how: Select) -> Result<()> {
        match self {
            PromptMethod::None | PromptMethod::DualPrompt { pool: None, .. } => Ok(()),
            PromptMethod::L2p(pool) | PromptMethod::DualPrompt { pool: Some(pool), .. } => {
                pool.choose_to_learn(dev, p, query, how)
            }
            PromptMethod::Coda(coda) => coda.choose_to_learn(dev, p, query),
            // Since the task was entered.
            PromptMethod::SPrompts(_) => Ok(()),
        }
    }

    /// The choice of each image and what it puts into the network, as a part of an ONNX graph. query: (B, C), unless
    /// [`PromptMethod::query`] is nothing.
    ///
    /// # Errors
    /// `Error::Config` for a choice that ONNX cannot make.
    pub fn onnx(&self, g: &mut Graph, w: Weights, query: Option<&Value>) -> Result<PromptGraph> {
        let mut into = PromptGraph::default();
        match (self, query) {
            (PromptMethod::None, _) => {}
            (PromptMethod::DualPrompt { general, pool: None }, _) => general.onnx(g, w, &mut into)?,
            (PromptMethod::DualPrompt { general, pool: Some(pool) }, Some(query)) => {
                general.onnx(g, w, &mut into)?;
                pool.onnx(g, w, query, &mut into)?;
            }
            (PromptMethod::L2p(pool), Some(query)) => pool.onnx(g, w, query, &mut into)?,
            (PromptMethod::Coda(coda), Some(query)) => coda.onnx(g, w, query, &mut into)?,
            (PromptMethod::SPrompts(domains), Some(query)) => domains.onnx(g, w, query, &mut into)?,
            (
                PromptMethod::L2p(_)
                | PromptMethod::DualPrompt { .. }
                | PromptMethod::Coda(_)
                | PromptMethod::SPrompts(_),
                None,
            ) => return Err(Error::failed("onnx: prompts are chosen by a query, and there is none")),
        }
        Ok(into)
    }

    /// What was chosen last.
    pub fn choice(&self) -> Result<PromptChoice> {
        match self {
            PromptMethod::None | PromptMethod::DualPrompt { pool: None, .. } => Ok(PromptChoice::nothing()),
            PromptMethod::L2p(pool) | PromptMethod::DualPrompt { pool: Some(pool), .. } => pool.choice(),
            PromptMethod::Coda(coda) => coda.choice(),
            PromptMethod::SPrompts(domains) => Ok(domains.choice()),
        }
    }

    /// The choice of no images, to which those of images can be added.
    pub fn empty_choice(&self) -> PromptChoice {
        match self {
            PromptMethod::None | PromptMethod::DualPrompt { pool: None, .. } => PromptChoice::nothing(),
            PromptMethod::L2p(pool) | PromptMethod::DualPrompt { pool: Some(pool), .. } => {
                PromptChoice::ids(Vec::new(), pool.config.top_k, pool.config.pool_size)
            }
            PromptMethod::Coda(coda) => coda.empty_choice(),
            PromptMethod::SPrompts(domains) => domains.empty_choice(),
        }
    }

    /// What `batch` images chose earlier, instead of choosing.
    ///
    /// # Errors
    /// `Error::Shape` for the choice of another number of images or of another kind.
    pub fn set_choice(&mut self, batch: usize, choice: &PromptChoice) -> Result<()> {
        match self {
            PromptMethod::None | PromptMethod::DualPrompt { pool: None, .. } => {
                if choice.as_ids().is_some_and(|(ids, _)| ids.is_empty()) {
                    return Ok(());
                }
                let (wanted, got) = ("nothing: there is nothing to choose from".into(), "a choice".into());
                Err(Error::Shape { op: "prompts", arg: "choice", wanted, got })
            }
            PromptMethod::L2p(pool) | PromptMethod::DualPrompt { pool: Some(pool), .. } => {
                pool.set_choice(batch, choice)
            }
            PromptMethod::Coda(coda) => coda.set_choice(batch, choice),
            PromptMethod::SPrompts(domains) => domains.set_choice(batch, choice),
        }
    }

    /// M: keys that queries are compared with; 0 without keys.
    pub fn keys(&self) -> usize {
        self.keyed_pool().map_or(0, |pool| pool.config.pool_size)
    }

    /// The cosine of each query to each key at the last choice, (B, M); `None` without keys.
    pub fn similarity(&self) -> Option<View<'_>> {
        self.keyed_pool().map(|pool| pool.similarity.view())
    }

    /// Whether anything that enters layer `l` at `place` learns.
    pub fn learns(&self, p: &Params, grads: &Grads, l: usize, place: Place) -> bool {
        let components = |coda: &Coda| place == Place::Prefix && coda.learns(p, grads, l);
        self.coda().is_some_and(components)
            || self.stacks().any(|stack| stack.rows_in(l, place) > 0 && grads.wants(p, stack.id))
    }

    /// The tables whose rows are put in front of the tokens of layer `l`. They are tables, not tokens, because
    /// the network projects each row once for all images where it can.
    pub fn token_rows<'a>(&'a self, p: &'a Params, l: usize, batch: usize) -> Vec<TokenRows<'a>> {
        let placed = stack::placed(self.entering(batch), l, Place::Tokens);
        let rows = placed.filter_map(|(at, Entering { stack, ids })| {
            let table = stack.table(p, l, Side::Key)?;
            Some(TokenRows { table, at, ids, length: stack.length })
        });
        rows.collect()
    }

    /// The gradient of table `i` of [`PromptMethod::token_rows`], if it is wanted.
    pub fn token_rows_grad<'a>(
        &self,
        p: &Params,
        grads: &'a mut Grads,
        l: usize,
        i: usize,
    ) -> Option<ViewMut<'a>> {
        let mut entering = self.stacks().filter(|stack| stack.rows_in(l, Place::Tokens) > 0);
        entering.nth(i)?.table_grad(p, grads, l, Side::Key)
    }

    /// Overwrites what is put in front of the keys and values of layer `l`, (B, n, C) each.
    pub fn write_prefix(
        &mut self,
        dev: &Device,
        p: &Params,
        l: usize,
        prefix: &mut [Tensor; 2],
    ) -> Result<()> {
        match self {
            PromptMethod::Coda(coda) => coda.write_prefix(dev, p, l, prefix),
            PromptMethod::None
            | PromptMethod::L2p(_)
            | PromptMethod::DualPrompt { .. }
            | PromptMethod::SPrompts(_) => {
                stack::write_prefix(dev, p, self.entering(prefix[0].dims()[0]), l, prefix)
            }
        }
    }

    /// Adds what the gradient of the prefixes of layer `l`, (B, n, C) each, says of the parameters.
    pub fn backward_prefix(
        &mut self,
        dev: &Device,
        p: &Params,
        grads: &mut Grads,
        l: usize,
        dprefix: &[Tensor; 2],
    ) -> Result<()> {
        match self {
            PromptMethod::Coda(coda) => coda.backward_prefix(dev, p, grads, l, dprefix),
            PromptMethod::None
            | PromptMethod::L2p(_)
            | PromptMethod::DualPrompt { .. }
            | PromptMethod::SPrompts(_) => {
                stack::backward_prefix(dev, p, grads, self.entering(dprefix[0].dims()[0]), l, dprefix)
            }
        }
    }

    /// The factor by which [`PromptMethod::loss_term`] enters the loss.
    pub fn loss_weight(&self) -> f64 {
        match self {
            PromptMethod::Coda(coda) => coda.penalty_weight(),
            PromptMethod::L2p(pool) | PromptMethod::DualPrompt { pool: Some(pool), .. }
                if pool.has_keys() =>
            {
                -pool.config.pull_constraint_coeff
            }
            // Prompts that no key chooses are pulled nowhere.
            PromptMethod::None
            | PromptMethod::L2p(_)
            | PromptMethod::DualPrompt { .. }
            | PromptMethod::SPrompts(_) => 0.0,
        }
    }

    /// Overwrites `out` (1) with the term that the method adds to the loss, before its weight; leaves it alone
    /// where there is none. Of L2P: the pull term, Σ of the selected similarities / B. Of CODA-Prompt: how far the
    /// components are from orthonormal.
    pub fn loss_term(&mut self, dev: &Device, p: &Params, out: ViewMut) -> Result<()> {
        match self {
            PromptMethod::Coda(coda) => coda.penalty(dev, p, out),
            PromptMethod::L2p(pool) | PromptMethod::DualPrompt { pool: Some(pool), .. }
                if pool.has_keys() =>
            {
                pool.pull(dev, out)
            }
            PromptMethod::None
            | PromptMethod::L2p(_)
            | PromptMethod::DualPrompt { .. }
            | PromptMethod::SPrompts(_) => Ok(()),
        }
    }

    /// Adds the gradient of `scale` times the weighted term to the parameters, and overwrites `dquery` (B, C),
    /// where it is asked for, with that of the queries (B, C) of the last choice.
    pub fn backward_loss_term(
        &mut self,
        dev: &Device,
        p: &Params,
        grads: &mut Grads,
        scale: f64,
        query: View,
        dquery: Option<&mut Tensor>,
    ) -> Result<()> {
        let weight = self.loss_weight() * scale;
        match self {
            PromptMethod::Coda(coda) => coda.backward_penalty(dev, p, grads, weight),
            PromptMethod::L2p(pool) | PromptMethod::DualPrompt { pool: Some(pool), .. }
                if pool.has_keys() =>
            {
                pool.backward_pull(dev, p, grads, PullBackward { weight, query, dquery })
            }
            // Nothing depends on the queries.
            PromptMethod::None
            | PromptMethod::L2p(_)
            | PromptMethod::DualPrompt { .. }
            | PromptMethod::SPrompts(_) => {
                if let Some(dquery) = dquery {
                    dquery.reshape(query.shape());
                    dquery.fill(0.0);
                }
                Ok(())
            }
        }
    }

    /// Fills the parameters as the configuration's initialisers say, and the head where the method has it start from
    /// other values than zero.
    pub fn init(&self, p: &mut Params, head: &Linear, seed: u64) -> Result<()> {
        let (general, pool) = match self {
            PromptMethod::None => (None, None),
            PromptMethod::L2p(pool) => (None, Some(pool)),
            PromptMethod::DualPrompt { general, pool } => (Some(general), pool.as_ref()),
            PromptMethod::Coda(coda) => return coda.init(p, head, seed),
            PromptMethod::SPrompts(domains) => return domains.init(p, head, seed),
        };
        // Each parameter has a stream of its own.
        let prompt = pool.map(|pool| (pool.stack.id, pool.config.initializer));
        let key = pool.and_then(|pool| Some((pool.key?, pool.config.prompt_key_init)));
        let general = general.map(|general| (general.stack.id, general.initializer));
        for (stream, parameter) in [prompt, key, general].into_iter().enumerate() {
            if let Some((id, how)) = parameter {
                fill(p, id, how, Rng::new(seed, Stream::Init, stream as u64))?;
            }
        }
        Ok(())
    }

    /// Which rows learn in task `task`. Called before every step, so that a run that is resumed within a task needs
    /// nothing else.
    pub fn enter_task(&mut self, p: &mut Params, head: &Linear, task: usize) -> Result<()> {
        match self {
            PromptMethod::None | PromptMethod::L2p(_) | PromptMethod::DualPrompt { .. } => Ok(()),
            PromptMethod::Coda(coda) => coda.enter_task(p, task),
            PromptMethod::SPrompts(domains) => domains.enter_task(p, head, task),
        }
    }

    /// The weight of the l2 penalty in task `task`, if it is another than `optim.weight_decay`.
    pub fn weight_decay(&self, task: usize) -> Option<f64> {
        self.domains().and_then(|domains| domains.weight_decay(task))
    }

    /// Components of the tasks so far, 0 of a method without: a step that was captured is one for so many.
    pub fn components_in_use(&self) -> usize {
        self.coda().map_or(0, Coda::in_use)
    }

    /// What happens to prompts and counts when task `task` begins.
    pub fn begin_task(&mut self, p: &mut Params, task: usize) -> Result<()> {
        match self {
            PromptMethod::None
            | PromptMethod::DualPrompt { pool: None, .. }
            // All is drawn before the first task.
            | PromptMethod::SPrompts(_) => Ok(()),
            PromptMethod::L2p(pool) | PromptMethod::DualPrompt { pool: Some(pool), .. } => {
                pool.begin_task(p, task)
            }
            PromptMethod::Coda(coda) => coda.begin_task(p, task),
        }
    }

    /// Whether the queries of all images of task `task` are wanted once more after its steps.
    pub fn wants_queries(&self, task: usize) -> Result<bool> {
        self.domains().map_or(Ok(false), |domains| domains.wants_queries(task))
    }

    /// Adds queries (n, C) of the task that ends.
    pub fn collect(&mut self, queries: &[f64]) {
        if let PromptMethod::SPrompts(domains) = self {
            domains.collect(queries);
        }
    }

    /// What is made of the collected queries, after which there are none; nothing if there are none.
    pub fn end_task(&mut self) -> Result<()> {
        if let PromptMethod::SPrompts(domains) = self { domains.end_task() } else { Ok(()) }
    }

    /// What is learned without gradients and saved, by name; see also [`PromptMethod::uses`].
    pub fn state(&self) -> Vec<(&'static str, &Tensor)> {
        self.domains().map_or(Vec::new(), |domains| domains.state().to_vec())
    }

    pub fn state_mut(&mut self) -> Vec<(&'static str, &mut Tensor)> {
        if let PromptMethod::SPrompts(domains) = self { domains.state_mut().into() } else { Vec::new() }
    }

    /// How often each prompt was used, (2, M) u32: by the tasks before this one, and by this one. It learns without
    /// gradients: ranks add up the second row, checkpoints keep both. `None` where the selection does not look.
    pub fn uses(&self) -> Option<&Tensor> {
        self.pool().map(|pool| &pool.used).filter(|used| !used.is_empty())
    }

    pub fn uses_mut(&mut self) -> Option<&mut Tensor> {
        self.pool_mut().map(|pool| &mut pool.used).filter(|used| !used.is_empty())
    }
}

fn fill(p: &mut Params, id: ParamId, how: Initializer, mut rng: Rng) -> Result<()> {
    p.draw(id, || draw(&mut rng, how))
}

fn draw(rng: &mut Rng, how: Initializer) -> f64 {
    match how {
        Initializer::Uniform => 0.01 * f64::from(rng.uniform()),
        Initializer::UniformSymmetric => 2.0 * f64::from(rng.uniform()) - 1.0,
        Initializer::Normal => 0.01 * rng.normal(),
        Initializer::Zero => 0.0,
    }
}
