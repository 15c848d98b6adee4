//! The arguments of `layer_norm`.

pub(super) const OP: &str = "layer_norm";
