//! Prompt methods: their parameters, how an image chooses prompts, where these enter a layer, the terms they add to
//! the loss, and how gradients return. `docs/adding.md` says how to add one.

mod choice;
mod coda;
mod general;
mod gram_schmidt;
pub mod k_means;
mod method;
mod onnx;
mod pool;
mod s_prompts;
mod settings;
mod stack;

pub use choice::{PromptChoice, Rows};
pub use coda::Coda;
pub use general::General;
pub use gram_schmidt::gram_schmidt;
pub use method::{PromptMethod, Query};
pub use onnx::{ChosenGraph, PromptGraph};
pub use pool::Pool;
pub use s_prompts::{Heads, SPrompts};
pub use settings::{Components, Domains, Room, Settings};
pub use stack::{Place, Slots, TokenRows};
