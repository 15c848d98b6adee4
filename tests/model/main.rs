//! Whole training steps in f64: the total loss against central differences for every kind of
//! configuration, the exact shortcuts against the plain path, an independent network against ours,
//! and logits that do not depend on the batch.

mod coda;
mod frozen_rows;
mod gradients;
mod head;
mod independence;
mod naive;
mod parts;
mod regularizers;
mod s_prompts;
mod shortcuts;
mod support;
