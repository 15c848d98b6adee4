//! The arguments of `component_weights`.

pub(super) const OP: &str = "component_weights";
