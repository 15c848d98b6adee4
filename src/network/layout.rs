//! The token order, decided here and only here: which rows of which layer are what.
//!
//! In memory every sequence is [latest prompts … first prompts, class token, patches], for every
//! rule set: attention does not see order, so `cls_first` differs only in the position embedding
//! that its prompts carry. Source: google-research/l2p `models/vit.py:198-244`.

use crate::config::schema::Classifier;
use crate::nn::vit::Dims;
use crate::prompts::{PromptMethod, Slots};
use std::ops::Range;

/// One layer's sequence.
#[derive(Debug, Clone, Copy)]
pub struct LayerLayout {
    /// Prompt tokens put in front at this layer.
    pub tokens_in: usize,
    /// Keys and values put in front at this layer.
    pub prefix_rows: usize,
    /// Tokens that the block sees.
    pub tokens: usize,
}

#[derive(Debug, Clone)]
pub struct TokenLayout {
    pub layers: Vec<LayerLayout>,
    /// All prompt tokens in front of the class token at the end.
    pub prompt_tokens: usize,
    /// First layer that differs from the plain network.
    pub entry: Option<usize>,
    /// Rows of the last layer that the head reads.
    pub read: Range<usize>,
}

impl TokenLayout {
    pub fn new(dims: &Dims, classifier: Classifier, prompts: &PromptMethod) -> TokenLayout {
        let mut tokens = dims.tokens();
        let layers = (0..dims.layers).map(|l| {
            let Slots { tokens: tokens_in, prefix: prefix_rows } = prompts.slots(l);
            tokens += tokens_in;
            LayerLayout { tokens_in, prefix_rows, tokens }
        });
        let layers: Vec<LayerLayout> = layers.collect();
        let prompt_tokens = tokens - dims.tokens();
        let read = match classifier {
            Classifier::Prompt => 0..prompt_tokens,
            Classifier::Token => prompt_tokens..prompt_tokens + 1,
            Classifier::TokenPrompt => 0..prompt_tokens + 1,
            Classifier::Gap => 0..tokens,
        };
        let entry = layers.iter().position(|l| l.tokens_in + l.prefix_rows > 0);
        TokenLayout { layers, prompt_tokens, entry, read }
    }

    /// Tokens of the last layer, the most there are.
    pub fn max_tokens(&self) -> usize {
        self.layers.last().map_or(0, |l| l.tokens)
    }
}
