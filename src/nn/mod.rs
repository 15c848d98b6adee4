//! The network: parameters by name, the transformer block, the Vision Transformer. Every forward
//! function has its backward beside it; a backward line carries the number of the line it undoes.

pub mod adapter;
pub mod block;
pub mod layers;
pub mod onnx;
pub mod params;
pub mod vit;
