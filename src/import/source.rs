//! Where the numbers of one tensor of the engine come from.

/// How a stored tensor lies in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StoredLayout {
    /// As the engine has it: [in, out], up to splitting axes.
    InOut,
    /// PyTorch's linear layer: [out, in].
    OutIn,
    /// PyTorch's convolution: [D, 3, P, P].
    Conv,
    /// A position table [1, `leading` + A A, D] with so many rows in front of the grid: the class token's
    /// comes first; without one it is zero.
    Positions { leading: usize },
    /// Register tokens [1, R, D], to which rows 1 to R of a second tensor, the position table, are added.
    RegistersAndPositions,
}

/// One tensor of the engine and its sources.
#[derive(Debug, Clone)]
pub(super) struct TensorSource {
    /// Name and shape in the engine.
    pub to: String,
    pub to_shape: Vec<usize>,
    /// Stored names and shapes; several are put side by side along the last axis, none means zeros.
    pub from: Vec<(String, Vec<usize>)>,
    pub layout: StoredLayout,
    /// LayerScale [D]: multiplies the last axis.
    pub scale: Option<String>,
}
