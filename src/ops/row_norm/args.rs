//! The arguments of `row_norm`.

pub(super) const OP: &str = "row_norm";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Normalization {
    Rsqrt,
    Plus,
}
