//! Whole training steps in f64: the total loss against central differences for every kind of
//! configuration, the exact shortcuts against the plain path, an independent network against ours,
//! and logits that do not depend on the batch.

#[path = "model/gradients.rs"]
mod gradients;
#[path = "model/independence.rs"]
mod independence;
#[path = "model/naive.rs"]
mod naive;
#[path = "model/shortcuts.rs"]
mod shortcuts;
#[path = "model/support.rs"]
mod support;
