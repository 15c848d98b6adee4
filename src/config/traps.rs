//! Values that are valid and yet probably not what was meant.

use super::schema::{Config, Method};

/// The published general prompt of DualPrompt (google-research/l2p @ dd8836e, `configs/cifar100_dualprompt.py`).
const GENERAL_LENGTH: usize = 5;

impl Config {
    /// A sentence for each value that is easily left behind when another one is set.
    pub fn traps(&self) -> Vec<String> {
        let mut found = Vec::new();
        let (input, resize) = (self.data.input_size, self.data.resize_size);
        // Published configurations keep 224 of 256, or 88 %.
        if input > 0 && 2 * resize > 3 * input {
            found.push(format!(
                "data.resize_size = {resize} beside data.input_size = {input}: the crop keeps {:.0} % of the side of an \
                 image; data.resize_size = {} keeps 88 %",
                100.0 * input as f64 / resize as f64,
                input * 8 / 7
            ));
        }
        if self.method == Method::DualPrompt && self.g_prompt.g_prompt_length == 0 {
            found.push(format!(
                "method = \"dualprompt\" with g_prompt.g_prompt_length = 0 has no general prompt, which DualPrompt as \
                 published has: g_prompt_length = {GENERAL_LENGTH} in front of layers other than \
                 prompt_pool.e_prompt_layer_idx = {:?}; configs/cifar100_dualprompt.toml has all its values",
                self.prompt_pool.e_prompt_layer_idx
            ));
        }
        found
    }
}
