//! The arguments of `tokens`.

pub(super) const OP: &str = "tokens";
