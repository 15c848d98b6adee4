//! The arguments of `gather`.

pub(super) const OP: &str = "gather";
