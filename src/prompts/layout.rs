//! The token order, decided here and only here: which rows of which layer are what.
//!
//! In memory every sequence is [latest prompts … first prompts, class token, patches], for every
//! rule set: attention does not see order, so `cls_first` differs only in the position embedding
//! that its prompts carry. Source: google-research/l2p `models/vit.py:198-244`.

use crate::config::schema::Classifier;
use crate::network::setup::Setup;
use std::ops::Range;

/// Where prompt rows come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The general prompt of this layer.
    General,
    /// This slice of the pool.
    Pool(usize),
}

/// Rows of one source, one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    pub source: Source,
    /// First row within the prompts of the layer.
    pub at: usize,
    pub rows: usize,
}

/// One layer's prompts.
#[derive(Debug, Clone, Default)]
pub struct LayerLayout {
    /// Prompt tokens put in front at this layer.
    pub token_parts: Vec<Part>,
    pub tokens_in: usize,
    /// Keys and values put in front at this layer.
    pub prefix_parts: Vec<Part>,
    pub prefix_rows: usize,
    /// Tokens that the block sees.
    pub tokens: usize,
}

#[derive(Debug, Clone)]
pub struct Layout {
    pub layers: Vec<LayerLayout>,
    /// All prompt tokens in front of the class token at the end.
    pub prompt_tokens: usize,
    /// First layer that differs from the plain network.
    pub entry: Option<usize>,
    /// Rows of the last layer that the head reads.
    pub read: Range<usize>,
}

impl Layout {
    pub fn new(setup: &Setup) -> Layout {
        let mut layers = Vec::with_capacity(setup.dims.layers);
        let mut tokens = setup.dims.tokens();
        for l in 0..setup.dims.layers {
            let layer = layer(setup, l, tokens);
            tokens = layer.tokens;
            layers.push(layer);
        }
        let prompt_tokens = tokens - setup.dims.tokens();
        let read = match setup.classifier {
            Classifier::Prompt => 0..prompt_tokens,
            Classifier::Token => prompt_tokens..prompt_tokens + 1,
            Classifier::TokenPrompt => 0..prompt_tokens + 1,
            Classifier::Gap => 0..tokens,
        };
        let entry = layers.iter().position(|l| l.tokens_in + l.prefix_rows > 0);
        Layout { layers, prompt_tokens, entry, read }
    }

    /// Tokens of the last layer, the most there are.
    pub fn max_tokens(&self) -> usize {
        self.layers.last().map_or(0, |l| l.tokens)
    }
}

fn layer(setup: &Setup, l: usize, tokens_before: usize) -> LayerLayout {
    let mut layer = LayerLayout::default();
    let pool = setup.pool.as_ref();
    let slice = pool.and_then(|p| p.e_prompt_layer_idx.iter().position(|&at| at == l));
    let e = pool.zip(slice).map(|(p, slice)| (Source::Pool(slice), p.top_k * p.length, p));
    let g = setup.general.as_ref().filter(|g| g.g_prompt_layer_idx.contains(&l));
    let e_tokens = e.filter(|(.., p)| !p.use_prefix_tune_for_e_prompt);
    let e_prefix = e.filter(|(.., p)| p.use_prefix_tune_for_e_prompt);
    // The general part comes first. As tokens it is only used where the layer has pool tokens too.
    let g_tokens = g.filter(|g| !g.use_prefix_tune_for_g_prompt && e_tokens.is_some());
    let g_prefix = g.filter(|g| g.use_prefix_tune_for_g_prompt);
    let fill = |general: Option<usize>, pool: Option<(Source, usize)>| {
        let general = general.map(|rows| (Source::General, rows));
        let mut at = 0;
        let parts = general.into_iter().chain(pool).map(|(source, rows)| {
            at += rows;
            Part { source, at: at - rows, rows }
        });
        let parts: Vec<Part> = parts.collect();
        (parts, at)
    };
    (layer.token_parts, layer.tokens_in) =
        fill(g_tokens.map(|g| g.g_prompt_length), e_tokens.map(|(s, rows, _)| (s, rows)));
    (layer.prefix_parts, layer.prefix_rows) =
        fill(g_prefix.map(|g| g.g_prompt_length), e_prefix.map(|(s, rows, _)| (s, rows)));
    layer.tokens = tokens_before + layer.tokens_in;
    layer
}
