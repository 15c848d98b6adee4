//! All memory of a model beside its parameters, allocated once from the plan.

use super::layout::TokenLayout;
use super::setup::Setup;
use crate::nn::block::{BlockActs, BlockTemp, Keep};
use crate::nn::vit::Embedded;
use crate::tensor::plan::Plan;
use crate::tensor::{DType, Tensor};

/// B images, T tokens of the last layer, T0 without prompts, R rows that the head reads.
#[derive(Debug)]
pub struct Workspace {
    pub embedded: Embedded,

    /// The query pass: one block's activations, the residual stream twice, the class rows.
    pub query_acts: BlockActs,
    /// (B, T0, C)
    pub query_x: [Tensor; 2],
    /// (B, C), class rows, where the stream has 16 bits.
    pub query_cls: Tensor,
    /// (B, 2)
    pub query_stats: Tensor,
    /// (B, C): what prompts are chosen by.
    pub query: Tensor,

    /// Input of every block: (B, T_l, C).
    pub xs: Vec<Tensor>,
    pub acts: Vec<BlockActs>,
    /// Output of a block whose successor puts prompts in front; later, gradients without them.
    pub stage: Tensor,
    /// Key and value prefixes of every layer: (B, n, C).
    pub prefixes: Vec<[Tensor; 2]>,
    /// Their gradients, shared by the layers.
    pub dprefix: [Tensor; 2],
    /// Prompt rows of one source: (rows, C), their statistics and projections (rows, 3C).
    pub table: Tensor,
    pub table_stats: Tensor,
    pub table_normed: Tensor,
    pub table_qkv: Tensor,
    pub dtable: Tensor,
    pub dtable_qkv: Tensor,

    /// (B, R, C): last block's output, normalised output.
    pub last: Tensor,
    pub normed: Tensor,
    pub norm_stats: Tensor,
    /// (B, C): what the head reads, before and after `norm_pre_logits`.
    pub pooled: Tensor,
    pub features: Tensor,
    pub logits: Tensor,
    /// (T B, K): what each of several heads says of all images; (B, 1): the rows of it that are the logits.
    pub all_logits: Tensor,
    pub logit_rows: Tensor,

    /// Gradients: (B, K), (B, C), (B, C), (B, T, C).
    pub dlogits: Tensor,
    pub dfeatures: Tensor,
    pub dpooled: Tensor,
    pub d: Tensor,
    /// (B, N, C), for embeddings that learn.
    pub dpatches: [Tensor; 2],
    /// (B, C), for queries that learn.
    pub dquery: Tensor,
    /// (P, C): gradients of the prompt tokens of one layer, summed over images.
    pub dprompt_rows: Tensor,
    /// (K) u32, or (B, K): classes that take part in the loss.
    pub mask: Tensor,
    pub temp: BlockTemp,
}

/// What the model decides about its memory.
#[derive(Debug, Clone, Copy)]
pub struct Needs {
    /// The last block computes only the rows that are read.
    pub limit_last: bool,
    /// Rows of the largest table of prompts.
    pub table_rows: usize,
    /// Heads, where there are several.
    pub heads: usize,
    /// Blocks learn (or their gradients are asked for).
    pub blocks_learn: bool,
    pub embed_learns: bool,
}

impl Needs {
    fn keep(&self, training: bool) -> Keep {
        match (training, self.blocks_learn) {
            (false, _) => Keep::Nothing,
            (true, false) => Keep::ForInput,
            (true, true) => Keep::ForParameters,
        }
    }
}

impl Workspace {
    pub fn new(plan: &mut Plan, setup: &Setup, layout: &TokenLayout, needs: Needs) -> Workspace {
        let (b, dtype, wide) = (setup.max_batch, setup.dtype, setup.dtype.accum_dtype());
        let types = setup.block_types(needs.blocks_learn);
        let dims = &setup.dims;
        let (c, t0, block) = (dims.embed_dim, dims.tokens(), dims.block());
        let (t, r) = (layout.max_tokens(), layout.read.len());
        let read = if needs.limit_last { r } else { t };
        let back = if setup.training { b } else { 0 };
        plan.group("query pass");
        let embedded = Embedded::new(plan, dims, b, dtype);
        // With shortcuts the last query block computes one row, but the others need all of them.
        let query_acts =
            BlockActs::new(plan, "query", block, (b, t0, t0), Keep::Nothing, types).with_room_for_q(plan);
        let query_acts = query_acts.with_adapter(plan, setup.adapter);
        let query_x = [
            plan.tensor("query stream", [b, t0, c], dtype),
            plan.tensor("query stream, next", [b, t0, c], dtype),
        ];
        let query_cls = plan.tensor("query class rows", [if wide == dtype { 0 } else { b }, c], wide);
        let query_stats = plan.tensor("query norm statistics", [b, 2], wide);
        let query = plan.tensor("query", [b, c], wide);
        plan.group("kept activations");
        let mut xs = Vec::new();
        let mut acts = Vec::new();
        for (l, layer) in layout.layers.iter().enumerate() {
            let rows = if l + 1 == dims.layers { read } else { layer.tokens };
            xs.push(plan.tensor(format!("block {l} input"), [b, layer.tokens, c], dtype));
            let (extents, keep) = ((b, layer.tokens, rows), needs.keep(setup.training));
            let own = BlockActs::new(plan, &format!("block {l}"), block, extents, keep, types);
            acts.push(own.with_adapter(plan, setup.adapter));
        }
        let prefixes = layout.layers.iter().map(|layer| {
            ["key prefix", "value prefix"].map(|name| plan.tensor(name, [b, layer.prefix_rows, c], dtype))
        });
        let prefixes = prefixes.collect();
        let last = plan.tensor("last output", [b, read, c], dtype);
        let normed = plan.tensor("last output, normalised", [b, read, c], dtype);
        let norm_stats = plan.tensor("last norm statistics", [b * read, 2], wide);
        let pooled = plan.tensor("pooled", [b, c], wide);
        let features = plan.tensor("features", [b, c], wide);
        let logits = plan.tensor("logits", [b, setup.classes], wide);
        let all_logits = plan.tensor("logits of all heads", [needs.heads * b, setup.classes], wide);
        let logit_rows = plan.tensor("heads of images", [if needs.heads > 0 { b } else { 0 }, 1], DType::U32);
        plan.group("gradients of activations");
        let prefix_rows = layout.layers.iter().map(|l| l.prefix_rows).max().unwrap_or(0);
        let dprefix = ["dkey prefix", "dvalue prefix"].map(|n| plan.tensor(n, [back, prefix_rows, c], dtype));
        let learn = if needs.embed_learns { back } else { 0 };
        let prompt_rows =
            if needs.embed_learns { layout.layers.iter().map(|l| l.tokens_in).max().unwrap_or(0) } else { 0 };
        Workspace {
            embedded,
            query_acts,
            query_x,
            query_cls,
            query_stats,
            query,
            xs,
            acts,
            stage: plan.tensor("stage", [b, t, c], dtype),
            prefixes,
            dprefix,
            table: plan.tensor("prompt table", [needs.table_rows, c], wide),
            table_normed: plan.tensor("prompt table, normalised", [needs.table_rows, c], wide),
            table_stats: plan.tensor("prompt table statistics", [needs.table_rows, 2], wide),
            table_qkv: plan.tensor("prompt table qkv", [needs.table_rows, 3 * c], wide),
            dtable: plan.tensor("prompt table gradient", [needs.table_rows, c], wide),
            dtable_qkv: plan.tensor("prompt table qkv gradient", [needs.table_rows, 3 * c], wide),
            last,
            normed,
            norm_stats,
            pooled,
            features,
            logits,
            all_logits,
            logit_rows,
            dlogits: plan.tensor("dlogits", [back, setup.classes], wide),
            dfeatures: plan.tensor("dfeatures", [back, c], wide),
            dpooled: plan.tensor("dpooled", [back, c], wide),
            d: plan.tensor("residual gradient", [back, t, c], dtype),
            dpatches: ["dpatches", "dpatches from the query"]
                .map(|n| plan.tensor(n, [learn, t0 - 1, c], dtype)),
            dquery: plan.tensor("dquery", [learn, c], wide),
            dprompt_rows: plan.tensor("dprompt rows", [prompt_rows, c], wide),
            mask: plan.tensor("class mask", [if setup.row_masks { b } else { 1 }, setup.classes], DType::U32),
            temp: BlockTemp::new(plan, block, (b, t), setup.training, needs.blocks_learn, types)
                .with_adapter(plan, setup.adapter.filter(|_| setup.training)),
        }
    }
}
