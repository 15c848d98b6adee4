//! The arguments of `gelu`.

/// Which of the two formulas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GeluForm {
    Tanh,
    Erf,
}
