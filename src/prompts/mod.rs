//! Prompts: their parameters, how an image chooses them, where they enter a layer, and how gradients return.

pub mod layout;
pub mod pool;
#[allow(clippy::module_inception)]
pub mod prompts;
