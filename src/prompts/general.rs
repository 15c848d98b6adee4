//! The general prompt of DualPrompt: the same rows for every image.
//! Source: Wang et al. 2022, arXiv:2204.04799; google-research/l2p `models/prompt.py`.

use super::onnx::PromptGraph;
use super::settings::{Room, Settings};
use super::stack::{Entering, Place, Stack};
use crate::config::schema::{GPrompt, Initializer};
use crate::error::Result;
use crate::nn::onnx::Weights;
use crate::nn::params::Declare;
use crate::onnx::Graph;
use crate::tensor::plan::Plan;
use crate::tensor::{DType, Shape, Tensor};

/// `prefix`: [layers, 2, n, H, D], or [layers, 1, n, H, D] when key and value share it, or [layers, n, C] as tokens.
#[derive(Debug)]
pub struct General {
    pub(super) stack: Stack,
    pub(super) initializer: Initializer,
    /// (B, 1) zeros: every image uses prompt 0.
    ids: Tensor,
}

impl General {
    pub(super) fn new(
        declare: &mut Declare,
        plan: &mut Plan,
        config: &GPrompt,
        all: &Settings,
        room: Room,
    ) -> General {
        let (c, heads, layers) = (room.dims.embed_dim, room.dims.heads, room.dims.layers);
        let (n, d) = (config.g_prompt_length, c / heads);
        let prefix = config.use_prefix_tune_for_g_prompt;
        let sides = if prefix && !config.same_key_value { 2 } else { 1 };
        let shape =
            if prefix { Shape::new(&[layers, sides, n, heads, d]) } else { Shape::new(&[layers, n, c]) };
        // As tokens it is only used where the layer has pool tokens, too.
        let pool = all.pool.as_ref().filter(|p| !p.use_prefix_tune_for_e_prompt);
        let beside_pool = |l: &usize| pool.is_some_and(|p| p.e_prompt_layer_idx.contains(l));
        let used = config.g_prompt_layer_idx.iter().copied().filter(|l| prefix || beside_pool(l));
        let stack = Stack {
            id: declare.add("prefix", shape),
            place: if prefix { Place::Prefix } else { Place::Tokens },
            layers: used.map(|l| (l, l)).collect(),
            sides,
            rows: n,
            channels: c,
            chosen: 1,
            length: n,
        };
        let ids = plan.tensor("general prompt ids", [room.batch, 1], DType::U32);
        General { stack, initializer: config.initializer, ids }
    }

    /// # Errors
    /// `Error::Failed` if the device fails.
    pub(super) fn onnx(&self, g: &mut Graph, w: Weights, into: &mut PromptGraph) -> Result<()> {
        into.add_stack(g, w, &self.stack, None)
    }

    pub(super) fn entering(&self, batch: usize) -> Entering<'_> {
        Entering { stack: &self.stack, ids: self.ids.view().part(0, [batch, 1]) }
    }
}
