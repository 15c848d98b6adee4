//! The arguments of `pool_tokens`.

pub(super) const OP: &str = "pool_tokens";

/// How tokens become one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    Mean,
    Max,
    /// max + 2 mean.
    MeanMax,
}
