//! The prompted network as an ONNX graph: what `forward.rs` computes, for images that each choose their own prompts.

use super::*;
use crate::nn::onnx::Weights;
use crate::onnx::{Graph, Value};
use crate::prompts::ChosenGraph;

/// What a graph answers.
#[derive(Debug)]
pub struct AnswerGraph {
    /// (B, K)
    pub logits: Value,
    /// What each image has chosen, where there is a choice.
    pub chosen: Option<ChosenGraph>,
}

impl Model {
    /// The weights of the query pass: under names of their own where the backbone learns.
    fn original(&self) -> Weights<'_> {
        match &self.query_params {
            Some(p) => Weights { p, prefix: "original/" },
            None => self.learned(),
        }
    }

    fn learned(&self) -> Weights<'_> {
        Weights { p: &self.params, prefix: "" }
    }

    /// The query pass: inputs (B, T, C) of each block, and class-token features (B, C).
    fn onnx_query_pass(&self, g: &mut Graph, tokens: &Value, adapted: bool) -> Result<(Vec<Value>, Value)> {
        let (w, c) = (self.original(), self.setup.dims.embed_dim as i64);
        let mut xs = vec![tokens.clone()];
        for (l, block) in self.vit.blocks.iter().enumerate() {
            let x = xs[l].clone();
            xs.push(block.onnx(g, w, &x, None, adapted)?);
        }
        let cls = g.slice(&xs[self.vit.blocks.len()], 1, 0..1);
        let cls = g.reshape(&cls, &[0, c]);
        Ok((xs, self.vit.norm.onnx(g, w, &cls)?))
    }

    /// Class-token features (B, C) of the pre-trained backbone for images (B, S, S, 3). `adapted`: with adapters, where
    /// there are any.
    ///
    /// # Errors
    /// `Error::Failed` if the device fails.
    pub fn onnx_features(&self, g: &mut Graph, images: &Value, adapted: bool) -> Result<Value> {
        let embedded = self.vit.onnx_embed(g, self.original(), images)?;
        Ok(self.onnx_query_pass(g, &embedded.x, adapted)?.1)
    }

    /// Logits for images (B, S, S, 3).
    ///
    /// # Errors
    /// `Error::Config` for a choice of prompts that ONNX cannot make.
    pub fn onnx(&self, g: &mut Graph, images: &Value) -> Result<AnswerGraph> {
        let w = self.learned();
        let embedded = self.vit.onnx_embed(g, w, images)?;
        let (mut first, mut x) = (0, embedded.x.clone());
        let query = match self.prompts.query() {
            Query::Nothing => None,
            Query::Patches(Pooling::Mean) => Some(g.mean(&embedded.patches, 1)),
            Query::Patches(Pooling::Max) => Some(g.max(&embedded.patches, 1)),
            Query::Patches(Pooling::MeanMax) => {
                let (mean, max) = (g.mean(&embedded.patches, 1), g.max(&embedded.patches, 1));
                let twice = g.scaled(&mean, 2.0);
                Some(g.add(&max, &twice))
            }
            Query::Cls if self.query_params.is_some() => Some(self.onnx_features(g, images, true)?),
            Query::Cls => {
                // The two passes are the same before the first prompt.
                let (xs, query) = self.onnx_query_pass(g, &embedded.x, true)?;
                first = self.layout.entry.unwrap_or(0);
                x = xs[first].clone();
                Some(query)
            }
        };
        let prompts = self.prompts.onnx(g, w, query.as_ref())?;
        let c = self.setup.dims.embed_dim;
        let position = match self.setup.token_order {
            TokenOrder::PromptsFirst => None,
            TokenOrder::ClsFirst => {
                let first = |positions: Vec<f64>| positions[..c].to_vec();
                Some(w.part(g, self.vit.positions, "of the class token", &[1, 1, c], first)?)
            }
        };
        for (l, block) in self.vit.blocks.iter().enumerate().skip(first) {
            let mut rows = prompts.tokens(l);
            if let Some(position) = &position {
                rows = rows.iter().map(|rows| g.add(rows, position)).collect();
            }
            rows.push(x);
            x = g.concat(&rows, 1);
            let prefix = prompts.prefix(g, l);
            x = block.onnx(g, w, &x, prefix.as_ref(), true)?;
        }
        let read = g.slice(&x, 1, self.layout.read.clone());
        let normed = self.vit.norm.onnx(g, w, &read)?;
        let mut features = g.mean(&normed, 1);
        if self.setup.norm_pre_logits {
            let (length, more) = (g.length(&features), g.scalar(1e-10));
            let length = g.add(&length, &more);
            features = g.op("Div", &[&features, &length], &[]);
        }
        let logits = match &prompts.head {
            None => self.head.onnx(g, w, &features)?,
            Some(head) => {
                // (B, 1, C) times the kernel (B, C, K) of each image's head.
                let (kernels, biases) = (w.get(g, self.head.kernel)?, w.get(g, self.head.bias)?);
                let (kernel, bias) = (g.gather(&kernels, head, 0), g.gather(&biases, head, 0));
                let rows = g.reshape(&features, &[0, 1, c as i64]);
                let logits = g.mat_mul(&rows, &kernel);
                let logits = g.reshape(&logits, &[0, self.setup.classes as i64]);
                g.add(&logits, &bias)
            }
        };
        let logits = g.scaled(&logits, 1.0 / self.setup.temperature);
        Ok(AnswerGraph { logits, chosen: prompts.chosen })
    }
}
