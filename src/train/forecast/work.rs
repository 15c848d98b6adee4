//! How much a run computes and moves.

use crate::config::Config;
use crate::config::schema::{Method as Name, Scenario};
use crate::data::{Split, Task, loader};
use crate::error::Result;
use crate::methods::ranpac;
use crate::network::Model;
use crate::prompts::Query;
use crate::train::baselines;

/// What is counted of a run: floating-point operations of its matrix products, a product and a sum being two, or bytes
/// between a GPU and its memory.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Amount {
    /// Per training image: query, prompted network, its backward pass.
    pub train_image: f64,
    /// Per test image and test, and once per test image for its query.
    pub test_image: f64,
    pub query: f64,
    /// Of the whole run, without baselines.
    pub total: f64,
    /// Of the baselines: the features of all images once, and each run once more.
    pub baselines: f64,
}

/// The run that is counted.
pub struct Counted<'a> {
    pub config: &'a Config,
    pub model: &'a Model,
    pub split: &'a Split,
    /// What is trained, with its steps.
    pub tasks: &'a [(Task, usize)],
    /// Images of a step, on all ranks.
    pub batch: usize,
}

/// What one image costs in a pass.
struct Cost<L, A> {
    /// The layers of a block, by its tokens.
    layers: L,
    /// The attention of a block, by its tokens and prefixed rows.
    attention: A,
    /// What is there once in a pass.
    embed: f64,
    /// How often the layers and the attention of the forward pass are in the backward pass.
    backward: [f64; 2],
    /// The same for gradients of the weights of layers, where they learn.
    backward_weights: f64,
    /// Of the components of CODA-Prompt: what they add to the forward and to the backward pass.
    components: [f64; 2],
    /// Of a ridge regression on all tasks.
    ridge: f64,
}

/// The components of CODA-Prompt.
struct ComponentExtents {
    /// N, components.
    count: f64,
    /// E, layers that have them.
    layers: f64,
    /// L, rows of one in a layer.
    rows: f64,
    /// f², of those so far, in the mean over the tasks; 0 without a penalty.
    squares: f64,
    /// Images that share a step of a rank.
    batch: f64,
}

impl Counted<'_> {
    /// Counts the products. With T tokens, P prefixed rows, width C and MLP width H, a block is
    /// 2 T (4 C^2 + 2 C H) for its layers and 4 T (T + P) C for the attention; backward without weight gradients is
    /// the same once for the layers and twice for the attention, and the layers once more where they learn.
    pub fn operations(&self) -> Amount {
        let d = self.model.setup.dims;
        let (c, h) = (d.embed_dim as f64, d.mlp_dim as f64);
        self.amount(Cost {
            layers: |tokens: usize| 2.0 * tokens as f64 * (4.0 * c * c + 2.0 * c * h),
            attention: |tokens: usize, prefix: usize| 4.0 * (tokens * (tokens + prefix)) as f64 * c,
            embed: 2.0 * (d.patches() * d.patch_len()) as f64 * c,
            backward: [1.0, 2.0],
            backward_weights: 1.0,
            components: self.components().map_or([0.0; 2], |of| of.operations(c)),
            ridge: self.ridge(),
        })
    }

    fn components(&self) -> Option<ComponentExtents> {
        let coda = (self.config.method == Name::CodaPrompt).then_some(&self.config.coda)?;
        let tasks = self.split.tasks.len().max(1);
        let each = coda.components / tasks;
        let squares: usize = (1..=tasks).map(|t| (t * each).pow(2)).sum();
        Some(ComponentExtents {
            count: coda.components as f64,
            layers: coda.layers.len() as f64,
            rows: coda.length as f64,
            squares: if coda.ortho_mu > 0.0 { squares as f64 / tasks as f64 } else { 0.0 },
            batch: self.config.train.per_device_batch_size as f64,
        })
    }

    /// Counts the bytes of values of 16 bits, each input of a kernel read once and each result written once. A token is
    /// 14 C + 2 H values for the layers of a block (two norms, four products, two sums) and 2 C, with 2 C for its key
    /// and value, for the attention; backward reads what was kept besides, twice as much. Weights are
    /// read once a pass, on each GPU.
    pub fn bytes(&self) -> Amount {
        const VALUE: f64 = 2.0;
        let d = self.model.setup.dims;
        let (c, h) = (d.embed_dim as f64, d.mlp_dim as f64);
        let weights = (4.0 * c * c + 2.0 * c * h) * d.layers as f64;
        let image = (d.patches() * d.patch_len()) as f64 + (d.tokens() as f64) * c;
        self.amount(Cost {
            layers: |tokens: usize| VALUE * tokens as f64 * (14.0 * c + 2.0 * h),
            attention: |tokens: usize, prefix: usize| VALUE * 2.0 * (2 * tokens + prefix) as f64 * c,
            embed: VALUE * (image + weights / self.config.train.per_device_batch_size as f64),
            backward: [2.0, 2.0],
            backward_weights: 1.0,
            components: self.components().map_or([0.0; 2], |of| of.bytes(c)),
            // It is computed by the host.
            ridge: 0.0,
        })
    }

    fn amount<L: Fn(usize) -> f64, A: Fn(usize, usize) -> f64>(&self, cost: Cost<L, A>) -> Amount {
        let Counted { config, model, tasks, batch, .. } = *self;
        let d = model.setup.dims;
        let (layers, attention, embed) = (cost.layers, cost.attention, cost.embed);
        let plain = embed + d.layers as f64 * (layers(d.tokens()) + attention(d.tokens(), 0));
        let (mut dense, mut mixed) = (0.0, 0.0);
        for block in &model.layout().layers {
            dense += layers(block.tokens);
            mixed += attention(block.tokens, block.prefix_rows);
        }
        let [components, components_backward] = cost.components;
        let forward = embed + dense + mixed + components;
        let whole = config.model.freeze_part.is_empty();
        let learns_below = whole || model.layout().entry.is_some();
        let backward = match (config.method, learns_below) {
            (Name::Ncm | Name::Ranpac, _) | (_, false) => 0.0,
            _ => {
                let weights = if whole { cost.backward_weights * dense + embed } else { 0.0 };
                cost.backward[0] * dense + cost.backward[1] * mixed + weights + components_backward
            }
        };
        let pass = |query: Query| if query == Query::Cls { plain } else { 0.0 };
        let query = pass(model.prompts.query());
        let train_image = pass(model.prompts.query_to_learn()) + forward + backward;
        // A method that takes each image once answers from features, which are computed once for each test image.
        let once = config.method.takes_each_image_once();
        let (forward, query) = if once { (0.0, plain) } else { (forward, query) };
        let (tested, queried) = self.tests();
        let steps: usize = tasks.iter().map(|(_, steps)| steps).sum();
        let different: usize = tasks.iter().map(|(task, _)| task.train.len()).sum();
        let trained = if once { different } else { steps * batch + self.replayed() };
        let later = tasks.iter().skip(1).map(|(task, _)| task.train.len()).sum::<usize>();
        let seen_again = match config.method {
            Name::SPrompts => different as f64 * plain,
            Name::Ewc => different as f64 * (forward + backward),
            // Adapters learn on the first task: forward, and back through everything but the weights.
            Name::Ranpac if config.ranpac.adapter_width > 0 => {
                let first = tasks.first().map_or(0, |(task, _)| task.train.len());
                let back = cost.backward[0] * dense + cost.backward[1] * mixed;
                (first * config.ranpac.adapter_epochs) as f64 * (embed + dense + mixed + back)
            }
            // The teacher, and its head before.
            Name::Lwf => (later * (1 + config.lwf.warmup_epochs)) as f64 * forward,
            _ => 0.0,
        };
        let own_ridge = if config.method == Name::Ranpac { cost.ridge } else { 0.0 };
        let total = trained as f64 * train_image
            + tested as f64 * forward
            + queried as f64 * query
            + seen_again
            + own_ridge;
        let images = different + queried;
        let features = if baselines::wants_features(&config.baselines) { images as f64 * plain } else { 0.0 };
        let again = baselines::runs_of(config).len() as f64;
        let ridge = if config.baselines.ranpac { cost.ridge } else { 0.0 };
        let baselines = features + ridge + again * total;
        Amount { train_image, test_image: forward, query, total, baselines }
    }

    /// Test images of all tests together, and different ones.
    fn tests(&self) -> (usize, usize) {
        let Counted { config, split, tasks, .. } = *self;
        let cl = &config.continual;
        let every = cl.eval_every_tasks.max(1);
        let test = |i: usize| split.tasks[i].test.len();
        let after = |last: usize| (0..split.tests_after(last)).map(test).sum::<usize>();
        let end = split.tasks.len() - 1;
        let tested = (0..tasks.len())
            .filter(|t| (t + 1).is_multiple_of(every) || t + 1 == tasks.len())
            .map(|t| after(if cl.scenario == Scenario::Joint { end } else { t }));
        (tested.sum(), after(end))
    }

    /// The products of a ridge regression (`src/methods/ranpac`) on the tasks. Of n images of width L with M random
    /// features f are fitted: features 4 n L M, G n M², its factor M³ / 3, and to choose lambda with d the smaller of f
    /// and M the band of a matrix 2 d³. Where that matrix is not G, it takes f² M, and the answers for the r images that
    /// are left 2 r f M.
    fn ridge(&self) -> f64 {
        let width = self.model.setup.dims.embed_dim;
        let m = ranpac::features(self.config, width) as f64;
        let of = |(task, _): &(Task, usize)| {
            let (n, fitted) = (task.train.len() as f64, (task.train.len() * 4 / 5) as f64);
            let d = fitted.min(m);
            let matrix = if fitted <= m { fitted * m * (fitted + 2.0 * (n - fitted)) } else { 0.0 };
            let choice = matrix + 2.0 * d.powi(3);
            4.0 * n * width as f64 * m + n * m * m + m.powi(3) / 3.0 + choice
        };
        self.tasks.iter().map(of).sum()
    }

    /// Replayed images of all steps.
    fn replayed(&self) -> usize {
        let Counted { config, tasks, batch, .. } = *self;
        let with_replay =
            tasks.iter().filter(|(task, _)| config.continual.replayed_upto(task.index).is_some());
        let own = with_replay.map(|(task, all)| {
            steps(task.train.len(), config.train.num_epochs, batch, config).unwrap_or(*all)
        });
        own.sum::<usize>() * config.continual.replay_batch_size * batch / config.train.per_device_batch_size
    }
}

impl ComponentExtents {
    /// Of an image, forwards and backwards, at width C: weights are two products of (1, C) and (C, N), prefixes one of
    /// (1, N) and (N, L C), in each of E layers. Backward has the former four times, of which two are those of the forward
    /// pass again, and the latter twice. The penalty is one product of a step for each matrix M of f rows, (f, W) and
    /// (W, f), and one for its gradient, with (2 + L) C for all W of a layer.
    fn operations(&self, c: f64) -> [f64; 2] {
        let weights = 4.0 * self.layers * self.count * c;
        let prefixes = 2.0 * self.layers * self.count * self.rows * c;
        let penalty = 4.0 * self.layers * self.squares * (2.0 + self.rows) * c / self.batch;
        [weights + prefixes, 2.0 * (weights + prefixes) + penalty]
    }

    /// The same in bytes, of values of 32 bits, but for prefixes in 16: all components once in a step, forwards, twice
    /// backwards, and their gradients read and written; prefixes of an image before and after they are rounded. The penalty
    /// reads components twice and their gradients once, and writes these once.
    fn bytes(&self, c: f64) -> [f64; 2] {
        let all = 4.0 * self.layers * self.count * (2.0 + self.rows) * c / self.batch;
        let prefixes = (4.0 + 4.0 + 2.0) * self.layers * self.rows * c;
        let penalty = if self.squares > 0.0 { 4.0 * all } else { 0.0 };
        [all + prefixes, 4.0 * all + prefixes + penalty]
    }
}

/// Steps of a task with `images` images.
pub fn steps(images: usize, epochs: usize, batch: usize, config: &Config) -> Result<usize> {
    if config.method.takes_each_image_once() {
        // Each image once.
        return Ok(images.div_ceil(batch));
    }
    loader::steps_per_task(images, epochs, loader::task_batch(images, batch, config.data.partial_batch))
}
