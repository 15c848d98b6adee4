//! The prompted network: query pass, selection, prompted pass, head, loss, and all of it backwards.

mod backward;

use super::pixels::{Entry, Pixels};
use super::report::{Report, StepStats};
use super::setup::Setup;
use super::workspace::{Needs, Workspace};
use crate::config::schema::{ClipScope, EmbeddingKey, Initializer, Shortcuts, TokenOrder};
use crate::device::{Device, range};
use crate::error::{Error, Result};
use crate::nn::block::{Block, BlockShape, Need};
use crate::nn::layers::Linear;
use crate::nn::params::{Declare, Grads, Params};
use crate::nn::vit::Vit;
use crate::ops::attention::{Prefix, PrefixMut};
use crate::ops::axpy::{axpy, cast, scale_in_place};
use crate::ops::cross_entropy;
use crate::ops::linear::Epilogue;
use crate::ops::match_prompts::Select;
use crate::ops::matmul::Write;
use crate::ops::pool_tokens::{self, Pooling};
use crate::ops::row_norm::{self, Normalization};
use crate::ops::{gather, layer_norm, sum, tokens};
use crate::prompts::layout::Layout;
use crate::prompts::prompts::{Prompts, Side};
use crate::rng::{Rng, Stream};
use crate::tensor::input::Input;
use crate::tensor::plan::Plan;
use crate::tensor::{DType, Tensor, View};

/// What a step needs to know of its task.
#[derive(Debug, Clone)]
pub struct TaskView {
    pub index: usize,
    /// Classes whose logits take part in the loss, (K), or (B, K) where each image has its own.
    pub mask: Vec<bool>,
    /// What part of a step's images is here: 1, or less on one of several ranks.
    pub share: f64,
}

/// Parameters, gradients and memory of one network.
#[derive(Debug)]
pub struct Model {
    pub setup: Setup,
    pub layout: Layout,
    pub vit: Vit,
    pub prompts: Prompts,
    pub head: Linear,
    pub params: Params,
    /// The pre-trained backbone as it was, for the query pass of a backbone that learns.
    pub query_params: Option<Params>,
    pub grads: Grads,
    pub report: Report,
    entry: Entry,
    labels: Input,
    shares: Input,
    /// The mask that the workspace holds.
    mask: Vec<bool>,
    limit_last: bool,
    can_share: bool,
    ws: Workspace,
}

impl Model {
    /// A model with all parameters zero. Every tensor comes from `plan`.
    pub fn new(setup: Setup, plan: &mut Plan) -> Model {
        let layout = Layout::new(&setup);
        let mut declare = Declare::new(&setup.freeze_part);
        let mut vit = Vit::declare(&mut declare, setup.dims);
        vit.blocks.iter_mut().for_each(|block| block.strassen = setup.shortcuts.strassen);
        let prompts = Prompts::declare(&mut declare, &setup);
        let (c, classes) = (setup.dims.embed_dim, setup.classes);
        let head = Linear::declare(&mut declare, "head", c, classes);
        let mut params = declare.finish(plan, setup.dtype);
        let Shortcuts { strassen, packed_weights, .. } = setup.shortcuts;
        if setup.training && strassen && packed_weights && plan.device().gpu().is_none() {
            params.keep_packed(plan, vit.blocks.iter().flat_map(Block::kernels));
        }
        let query_params = Self::query_params(&setup, &vit, &params, plan);
        let all = setup.clip_scope == ClipScope::All;
        let grads = Grads::new(plan, &params, all && setup.training);
        let embed_learns = vit.embed_wanted(&params, &grads);
        let blocks_learn = vit.blocks.iter().any(|b| block_wanted(b, &params, &grads));
        let last = setup.dims.layers - 1;
        let limit_last = setup.shortcuts.limit_last_block && layout.read.len() < layout.layers[last].tokens;
        let cls_query = setup.pool.as_ref().is_some_and(|p| p.embedding_key == EmbeddingKey::Cls);
        let can_share = setup.shortcuts.share_query_pass
            && cls_query
            && query_params.is_none()
            && !embed_learns
            && !blocks_learn
            && layout.entry.is_some_and(|entry| entry < last);
        let needs = Needs { limit_last, blocks_learn, embed_learns };
        let ws = Workspace::new(plan, &setup, &layout, needs);
        let (report, mask) = (Report::new(plan), Vec::new());
        plan.group("inputs");
        let entry = Entry::new(plan, &setup);
        let labels = Input::new(plan, "labels", [setup.max_batch], DType::U32);
        let mixed = if setup.mixed { setup.max_batch } else { 0 };
        let shares = Input::new(plan, "shares of classes", [mixed, setup.classes], DType::F32);
        Model {
            setup,
            layout,
            vit,
            prompts,
            head,
            params,
            query_params,
            grads,
            report,
            entry,
            labels,
            shares,
            mask,
            limit_last,
            can_share,
            ws,
        }
    }

    /// A copy of the backbone that never learns, if the model's own does.
    fn query_params(setup: &Setup, vit: &Vit, params: &Params, plan: &mut Plan) -> Option<Params> {
        let cls = setup.pool.as_ref().is_some_and(|p| p.embedding_key == EmbeddingKey::Cls);
        let cls = cls || setup.keep_original;
        let learns = params.ids().any(|id| {
            let spec = params.spec(id);
            spec.trainable && crate::nn::params::is_backbone(&spec.name)
        });
        (cls && learns).then(|| {
            // Every path contains the empty word: all frozen. The order is that of the model, so the
            // same ids point at the same parameters.
            let mut declare = Declare::new(&[String::new()]);
            Vit::declare(&mut declare, vit.dims);
            declare.finish(plan, setup.dtype)
        })
    }

    /// Which rows of which layer are what.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The type of images, queries and logits.
    pub fn dtype(&self) -> DType {
        self.setup.dtype.accum_dtype()
    }

    /// Copies of parameters in 16 bits, where they are read, up to date.
    fn refresh(&mut self, dev: &Device) -> Result<()> {
        self.params.refresh(dev)?;
        self.query_params.as_mut().map_or(Ok(()), |p| p.refresh(dev))
    }

    /// What happens to the prompts when task `index` starts.
    pub fn begin_task(&mut self, index: usize) -> Result<()> {
        self.ws.matching.begin_task()?;
        self.transfer_head(index)?;
        self.prompts.transfer(&mut self.params, &self.setup, index)
    }

    /// Class i of a new task starts as the mean of the classes i of the tasks before.
    /// Source: google-research/l2p @ dd8836e, `libml/utils.py`, `transfer_weights`.
    fn transfer_head(&mut self, task: usize) -> Result<()> {
        let Some((n, kernel_only)) = self.setup.transfer_head.filter(|_| task > 0) else { return Ok(()) };
        let (kernel, bias) = (self.head.kernel, (!kernel_only).then_some(self.head.bias));
        for id in std::iter::once(kernel).chain(bias) {
            let mut values = self.params.get(id).read_f64()?;
            for row in values.chunks_exact_mut(self.setup.classes) {
                for i in 0..n {
                    row[task * n + i] = (0..task).map(|t| row[t * n + i]).sum::<f64>() / task as f64;
                }
            }
            self.params.set(id, &values)?;
        }
        Ok(())
    }

    /// Before a training step: the head's columns become unit vectors, where the configuration says so.
    /// Source: google-research/l2p @ dd8836e, `libml/utils.py`, `weight_norm`.
    pub fn normalise_head(&mut self, dev: &Device) -> Result<()> {
        if !self.setup.weight_norm {
            return Ok(());
        }
        row_norm::columns_in_place(dev, self.params.get_mut(self.head.kernel))
    }

    /// Query features of `images`, as the keys were trained to meet them: (B, C), valid until the next
    /// call.
    pub fn query<'a>(&mut self, dev: &Device, images: impl Into<Pixels<'a>>) -> Result<&Tensor> {
        let images = images.into();
        self.load(dev, images)?;
        match self.patch_query() {
            Some(_) => self.embed(dev, images.batch())?,
            None => self.query_pass(dev, images.batch(), false)?,
        }
        Ok(&self.ws.matching.query)
    }

    /// Class-token features of the backbone as it was pre-trained, without prompts, whatever makes
    /// the queries: (B, C).
    pub fn features<'a>(&mut self, dev: &Device, images: impl Into<Pixels<'a>>) -> Result<Tensor> {
        let images = images.into();
        self.load(dev, images)?;
        self.query_pass(dev, images.batch(), false)?;
        Ok(self.ws.matching.query.clone())
    }

    /// Fills prompts, keys and general prompts as the configuration's initialisers say; the head stays
    /// zero, as the official code has it.
    pub fn init_prompts(&mut self, seed: u64) -> Result<()> {
        let pool = self.setup.pool.as_ref();
        let ids = [
            (self.prompts.prompt, pool.map(|p| p.initializer)),
            (self.prompts.key, pool.map(|p| p.prompt_key_init)),
            (self.prompts.general, self.setup.general.as_ref().map(|g| g.initializer)),
        ];
        for (stream, (id, how)) in ids.into_iter().enumerate() {
            if let (Some(id), Some(how)) = (id, how) {
                let mut rng = Rng::new(seed, Stream::Init, stream as u64);
                let n = self.params.spec(id).shape.len();
                let values: Vec<f64> = (0..n).map(|_| draw(&mut rng, how)).collect();
                self.params.set(id, &values)?;
            }
        }
        Ok(())
    }

    /// The query features that the last call of `query` or `step` computed.
    pub fn last_query(&self) -> &Tensor {
        &self.ws.matching.query
    }

    /// Similarities, selected ids and pull term of the last selection.
    pub fn matching(&self) -> &crate::prompts::pool::Matching {
        &self.ws.matching
    }

    /// How often each prompt was used, for checkpoints; see [`crate::prompts::pool::Matching::used`].
    pub fn prompts_used(&mut self) -> &mut Tensor {
        &mut self.ws.matching.used
    }

    /// What the head read last: (B, C), before `norm_pre_logits`.
    pub fn pre_logits(&self) -> &Tensor {
        &self.ws.pooled
    }

    pub fn logits(&self) -> &Tensor {
        &self.ws.logits
    }

    /// Chooses prompts for queries computed earlier, as `how` says.
    pub fn select(&mut self, dev: &Device, query: View, how: Select) -> Result<&Tensor> {
        self.ws.matching.set_query(query)?;
        self.ws.matching.select(dev, &self.params, &self.prompts, &self.setup, how)?;
        Ok(&self.ws.matching.ids)
    }

    /// Logits (B, K) of `images` with the prompts `ids` (B, N), whatever was selected before.
    pub fn logits_with<'a>(
        &mut self,
        dev: &Device,
        images: impl Into<Pixels<'a>>,
        ids: &[u32],
    ) -> Result<&Tensor> {
        let images = images.into();
        self.ws.matching.set_ids(images.batch(), ids)?;
        self.load(dev, images)?;
        self.embed(dev, images.batch())?;
        self.forward(dev, images.batch(), false)?;
        Ok(&self.ws.logits)
    }

    /// How the images of a training step choose their prompts.
    pub fn train_select(&self, task: usize, batch: usize) -> Select {
        let Some(pool) = &self.setup.pool else { return Select::PerImage };
        if pool.use_prompt_mask && (task + 1) * pool.top_k <= pool.pool_size {
            return Select::Fixed { start: task * pool.top_k };
        }
        let group = if pool.vote_group == 0 { batch } else { pool.vote_group };
        if pool.batchwise_prompt { Select::Vote { group } } else { Select::PerImage }
    }

    /// Brings what the host knows of a step where it reads it: all that may wait for the host.
    pub fn prepare_step(
        &mut self,
        dev: &Device,
        images: Pixels,
        labels: View,
        task: &TaskView,
    ) -> Result<()> {
        self.load(dev, images)?;
        self.targets_mut(labels).load(dev, labels)?;
        self.set_mask(&task.mask)
    }

    /// The part of a prepared step that reads nothing that learns: the query pass. On a GPU it only queues the work,
    /// as do the two parts that follow.
    pub fn queue_query(&mut self, dev: &Device, batch: usize) -> Result<()> {
        let _phase = range(c"query pass");
        if self.has_cls_query() { self.query_pass(dev, batch, self.can_share) } else { Ok(()) }
    }

    /// Forward and backward of a training batch after its query pass: fills `grads` and the report but for the
    /// norm, changes no parameter. labels: (B) u32 or shares (B, K) f32.
    pub fn queue_gradient(&mut self, dev: &Device, labels: View, task: &TaskView) -> Result<()> {
        let batch = labels.dims()[0];
        let share = self.can_share;
        let phase = range(c"selection");
        if !share {
            self.embed(dev, batch)?;
        }
        let how = self.train_select(task.index, batch);
        self.ws.matching.select_and_count(dev, &self.params, &self.prompts, &self.setup, how)?;
        drop(phase);
        let phase = range(c"prompted pass and loss");
        self.forward(dev, batch, share)?;
        let ws = &mut self.ws;
        ws.dlogits.reshape([batch, self.setup.classes]);
        let (dlogits, smoothing) = (Some(ws.dlogits.view_mut()), self.setup.label_smoothing);
        let (logits, mask) = (ws.logits.view(), ws.mask.view());
        let targets = if labels.dtype() == DType::F32 { &self.shares } else { &self.labels };
        let (outcome, labels) = (self.report.outcome(), targets.view(dev, labels));
        cross_entropy::forward_backward(dev, outcome, dlogits, logits, labels, mask, smoothing)?;
        if self.setup.pool.is_some() {
            ws.matching.pull(dev, self.report.pull_mut())?;
        }
        drop(phase);
        let _phase = range(c"backward pass");
        let scaled = self.pull_weight() * self.setup.loss_scale();
        self.grads.zero();
        self.backward(dev, batch, share, scaled)?;
        self.weight_decay(dev)
    }

    /// The square of the norm of the gradients in the clip scope, into the report.
    pub fn queue_norm(&mut self, dev: &Device) -> Result<()> {
        self.report.squares_mut().fill(0.0);
        sum::squares_acc(dev, self.report.squares_mut(), self.grads.trainable.view())?;
        match &self.grads.frozen {
            Some(frozen) => sum::squares_acc(dev, self.report.squares_mut(), frozen.view()),
            None => Ok(()),
        }
    }

    /// What the last step reports, once it is computed.
    pub fn step_stats(&self) -> Result<StepStats> {
        Ok(self.stats_of(&self.report.view().read_f64()?))
    }

    /// What a report's numbers mean.
    pub fn stats_of(&self, report: &[f64]) -> StepStats {
        StepStats::of(report, self.pull_weight(), self.setup.weight_decay, self.setup.loss_scale())
    }

    /// All parts of a step, from [`Model::prepare_step`] to [`Model::step_stats`].
    /// images: (B, S, S, 3) or kept ones, labels: (B) u32.
    pub fn step<'a>(
        &mut self,
        dev: &Device,
        images: impl Into<Pixels<'a>>,
        labels: View,
        task: &TaskView,
    ) -> Result<StepStats> {
        self.prepare_step(dev, images.into(), labels, task)?;
        self.queue_query(dev, labels.dims()[0])?;
        self.queue_gradient(dev, labels, task)?;
        self.queue_norm(dev)?;
        self.step_stats()
    }

    fn pull_weight(&self) -> f64 {
        self.setup.pool.as_ref().map_or(0.0, |pool| pool.pull_constraint_coeff)
    }

    /// Brings images and parameters where the network reads them.
    fn load(&mut self, dev: &Device, images: Pixels) -> Result<()> {
        self.refresh(dev)?;
        self.entry.load(dev, &mut self.ws.embedded, &self.setup, images)
    }

    /// Where class ids or shares of classes go.
    fn targets_mut(&mut self, labels: View) -> &mut Input {
        if labels.dtype() == DType::F32 { &mut self.shares } else { &mut self.labels }
    }

    /// Copies the mask where the loss reads it, if it is another than before.
    fn set_mask(&mut self, mask: &[bool]) -> Result<()> {
        if self.mask == mask {
            return Ok(());
        }
        let numbers: Vec<u32> = mask.iter().map(|&m| u32::from(m)).collect();
        let classes = self.setup.classes;
        if mask.len() == classes {
            self.ws.mask.reshape([classes]);
        } else if mask.len().is_multiple_of(classes) && mask.len() <= self.ws.mask.capacity() {
            self.ws.mask.reshape([mask.len() / classes, classes]);
        } else {
            let wanted = format!("{classes} classes, or as many for each image where they may differ");
            return Err(Error::Shape { op: "step", arg: "mask", wanted, got: mask.len().to_string() });
        }
        self.ws.mask.view_mut().write(&numbers)?;
        self.mask = mask.to_vec();
        Ok(())
    }

    /// Whether an image's query changes while the model learns.
    pub fn query_learns(&self) -> bool {
        self.patch_query().is_some() && self.params.spec(self.vit.embedding.kernel).trainable
    }

    fn has_cls_query(&self) -> bool {
        self.setup.pool.as_ref().is_some_and(|p| p.embedding_key == EmbeddingKey::Cls)
    }

    /// Σ p² over parameters with more than one axis, and the gradient of 0.5 · decay times that.
    fn weight_decay(&mut self, dev: &Device) -> Result<()> {
        let decay = self.setup.weight_decay;
        if decay == 0.0 {
            return Ok(());
        }
        self.report.decayed_mut().fill(0.0);
        for id in self.params.ids().filter(|&id| self.params.spec(id).decays) {
            let value = self.params.get(id);
            sum::squares_acc(dev, self.report.decayed_mut(), value)?;
            if let Some(grad) = self.grads.get_mut(&self.params, id) {
                axpy(dev, grad, value, decay * self.setup.loss_scale())?;
            }
        }
        Ok(())
    }

    /// The plain network on the frozen backbone, class row after the final norm. With `share`, what
    /// the prompted pass needs of it is copied on the way.
    fn query_pass(&mut self, dev: &Device, batch: usize, share: bool) -> Result<()> {
        let (dims, last) = (self.setup.dims, self.setup.dims.layers - 1);
        let t0 = dims.tokens();
        let p = self.query_params.as_ref().unwrap_or(&self.params);
        let ws = &mut self.ws;
        let [x, next] = &mut ws.query_x;
        self.vit.embed(dev, p, x, &mut ws.embedded)?;
        let acts = &mut ws.query_acts;
        for (l, block) in self.vit.blocks.iter().enumerate() {
            let only_cls = l == last && self.setup.shortcuts.limit_query_block && t0 > 1;
            let read = if only_cls { 0..1 } else { 0..t0 };
            let extents = BlockShape { batch, tokens: t0, read };
            block.project(dev, p, acts, x, &extents, &mut ws.temp)?;
            if share && self.layout.entry == Some(l) {
                let layer = &self.layout.layers[l];
                let (at, target) = (layer.tokens_in, &mut ws.acts[l]);
                target.shape(&BlockShape::all(batch, layer.tokens), &dims.block());
                tokens::copy(dev, target.qkv.view_mut(), at, acts.qkv.view(), 0..t0, Write::Set)?;
                ws.xs[l].reshape([batch, layer.tokens, dims.embed_dim]);
                tokens::copy(dev, ws.xs[l].view_mut(), at, x.view(), 0..t0, Write::Set)?;
            }
            block.attend(dev, p, next, acts, x, None, &mut ws.temp)?;
            std::mem::swap(x, next);
        }
        // The class row is row 0 of what the last block gave.
        let (rows, c) = (x.dims()[1], dims.embed_dim);
        next.reshape([batch, 1, c]);
        tokens::copy(dev, next.view_mut(), 0, x.view().reshaped([batch, rows, c]), 0..1, Write::Set)?;
        ws.query_stats.reshape([batch, 2]);
        ws.matching.query.reshape([batch, c]);
        let (query, mut cls) = (ws.matching.query.view_mut(), next.view().reshaped([batch, c]));
        if cls.dtype() != query.dtype() {
            ws.query_cls.reshape([batch, c]);
            cast(dev, ws.query_cls.view_mut(), cls)?;
            cls = ws.query_cls.view();
        }
        self.vit.norm.forward(dev, p, query, ws.query_stats.view_mut(), cls)
    }

    /// Tokens of the prompted pass before any prompt; and the query, where patches make it.
    fn embed(&mut self, dev: &Device, batch: usize) -> Result<()> {
        let patch_query = self.patch_query();
        let ws = &mut self.ws;
        let direct = self.layout.layers[0].tokens_in == 0;
        let x = if direct { &mut ws.xs[0] } else { &mut ws.stage };
        self.vit.embed(dev, &self.params, x, &mut ws.embedded)?;
        if let Some(kind) = patch_query {
            let (patches, n) = (ws.embedded.patches.view(), self.setup.dims.patches());
            ws.matching.query.reshape([batch, self.setup.dims.embed_dim]);
            pool_tokens::forward(dev, ws.matching.query.view_mut(), patches, 0..n, kind)?;
        }
        Ok(())
    }

    fn patch_query(&self) -> Option<Pooling> {
        match self.setup.pool.as_ref()?.embedding_key {
            EmbeddingKey::Cls => None,
            EmbeddingKey::Mean => Some(Pooling::Mean),
            EmbeddingKey::Max => Some(Pooling::Max),
            EmbeddingKey::MeanMax => Some(Pooling::MeanMax),
        }
    }

    /// From tokens and selected ids to logits. `shared`: the query pass has left the entry layer's
    /// input and projections of the image tokens.
    fn forward(&mut self, dev: &Device, batch: usize, shared: bool) -> Result<()> {
        let (c, last) = (self.setup.dims.embed_dim, self.setup.dims.layers - 1);
        let first = if shared { self.layout.entry.unwrap_or(0) } else { 0 };
        for l in first..=last {
            let reused = shared && l == first;
            self.insert_prompts(dev, batch, l, reused)?;
            let layer = &self.layout.layers[l];
            let (block, p, ws) = (&self.vit.blocks[l], &self.params, &mut self.ws);
            let limit = l == last && self.limit_last;
            let read = if limit { self.layout.read.clone() } else { 0..layer.tokens };
            let extents = BlockShape { batch, tokens: layer.tokens, read };
            let prefix = (layer.prefix_rows > 0)
                .then(|| Prefix { k: ws.prefixes[l][0].view(), v: ws.prefixes[l][1].view() });
            let (here, after) = ws.xs.split_at_mut(l + 1);
            let direct = after.first_mut().filter(|_| self.layout.layers[l + 1].tokens_in == 0);
            let y = match direct {
                Some(next) => next,
                None if l == last => &mut ws.last,
                None => &mut ws.stage,
            };
            let (x, acts) = (&here[l], &mut ws.acts[l]);
            if !reused {
                block.project(dev, p, acts, x, &extents, &mut ws.temp)?;
            }
            block.attend(dev, p, y, acts, x, prefix.as_ref(), &mut ws.temp)?;
        }
        self.head_forward(dev, batch, c)
    }

    /// Puts the prompts of layer `l` in front of its input, and fills its prefixes. `reused`: the
    /// image rows are in place already, and the prompt rows are projected here, once per pool row.
    fn insert_prompts(&mut self, dev: &Device, batch: usize, l: usize, reused: bool) -> Result<()> {
        let (layer, c) = (&self.layout.layers[l], self.setup.dims.embed_dim);
        let (p, ws) = (&self.params, &mut self.ws);
        for (side, out) in [Side::Key, Side::Value].into_iter().zip(&mut ws.prefixes[l]) {
            if layer.prefix_rows > 0 {
                out.reshape([batch, layer.prefix_rows, c]);
                let parts = &layer.prefix_parts;
                self.prompts.fill_prefix(dev, p, out, l, parts, side, &ws.matching)?;
            }
        }
        if layer.tokens_in == 0 {
            return Ok(());
        }
        ws.xs[l].reshape([batch, layer.tokens, c]);
        if !reused {
            let before = layer.tokens - layer.tokens_in;
            let stage = ws.stage.view().reshaped([batch, before, c]);
            tokens::copy(dev, ws.xs[l].view_mut(), layer.tokens_in, stage, 0..before, Write::Set)?;
        }
        for part in &layer.token_parts {
            let Some(rows) = self.prompts.rows(p, l, part, Side::Key) else { continue };
            let cls_first = self.setup.token_order == TokenOrder::ClsFirst;
            let position = cls_first.then(|| p.get(self.vit.positions).part(0, [c]));
            fill_table(dev, &mut ws.table, rows, position)?;
            let n = rows.dims()[0];
            let (ids, length) = self.prompts.chosen(part, &ws.matching, batch);
            gather::forward(dev, ws.xs[l].view_mut(), part.at, ws.table.view(), ids, length)?;
            if reused {
                let block = &self.vit.blocks[l];
                ws.table_stats.reshape([n, 2]);
                ws.table_qkv.reshape([n, 3 * c]);
                ws.table_normed.reshape([n, c]);
                let (normed, stats) = (&mut ws.table_normed, ws.table_stats.view_mut());
                block.ln1.forward(dev, p, normed.view_mut(), stats, ws.table.view())?;
                block.qkv.forward(dev, p, ws.table_qkv.view_mut(), normed.view(), Epilogue::Plain)?;
                let qkv = ws.acts[l].qkv.view_mut();
                gather::forward(dev, qkv, part.at, ws.table_qkv.view(), ids, length)?;
            }
        }
        Ok(())
    }

    /// Rows of `last` that the head reads, and how many there are per image.
    fn read_rows(&self) -> (std::ops::Range<usize>, usize) {
        let read = &self.layout.read;
        if self.limit_last { (0..read.len(), read.len()) } else { (read.clone(), self.layout.max_tokens()) }
    }

    fn head_forward(&mut self, dev: &Device, batch: usize, c: usize) -> Result<()> {
        let (read, rows) = self.read_rows();
        let (p, ws, classes) = (&self.params, &mut self.ws, self.setup.classes);
        ws.normed.reshape([batch * rows, c]);
        ws.norm_stats.reshape([batch * rows, 2]);
        for tensor in [&mut ws.pooled, &mut ws.features] {
            tensor.reshape([batch, c]);
        }
        ws.logits.reshape([batch, classes]);
        /* 1 */
        let last = ws.last.view().reshaped([batch * rows, c]);
        self.vit.norm.forward(dev, p, ws.normed.view_mut(), ws.norm_stats.view_mut(), last)?;
        /* 2 */
        let normed = ws.normed.view().reshaped([batch, rows, c]);
        pool_tokens::forward(dev, ws.pooled.view_mut(), normed, read, Pooling::Mean)?;
        /* 3 */
        let features = if self.setup.norm_pre_logits {
            row_norm::forward(dev, ws.features.view_mut(), ws.pooled.view(), Normalization::Plus)?;
            ws.features.view()
        } else {
            ws.pooled.view()
        };
        /* 4 */
        self.head.forward(dev, p, ws.logits.view_mut(), features, Epilogue::Plain)?;
        scale_in_place(dev, ws.logits.view_mut(), 1.0 / self.setup.temperature)
    }
}

/// table = the rows of a source, with the class token's position embedding where prompts carry it.
fn fill_table(dev: &Device, table: &mut Tensor, rows: View, position: Option<View>) -> Result<()> {
    table.reshape(rows.shape());
    table.fill(0.0);
    axpy(dev, table.view_mut(), rows, 1.0)?;
    match position {
        Some(position) => tokens::add_row_in_place(dev, table.view_mut(), position),
        None => Ok(()),
    }
}

fn draw(rng: &mut Rng, how: Initializer) -> f64 {
    match how {
        Initializer::Uniform => 0.01 * f64::from(rng.uniform()),
        Initializer::UniformSymmetric => 2.0 * f64::from(rng.uniform()) - 1.0,
        Initializer::Normal => 0.01 * rng.normal(),
        Initializer::Zero => 0.0,
    }
}

fn block_wanted(b: &crate::nn::block::Block, p: &Params, grads: &Grads) -> bool {
    [&b.qkv, &b.proj, &b.fc1, &b.fc2].iter().any(|l| l.wanted(p, grads))
        || [&b.ln1, &b.ln2].iter().any(|n| grads.wants(p, n.scale) || grads.wants(p, n.bias))
}
