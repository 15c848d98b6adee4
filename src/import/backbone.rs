//! What a checkpoint becomes: the sizes, the tensors and the conventions of a vision transformer.

use crate::error::Result;
use std::collections::BTreeMap;

/// The sizes of a vision transformer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VitDims {
    /// Side of the square input, in pixels.
    pub image_size: usize,
    /// Side of a patch, in pixels.
    pub patch_size: usize,
    /// Always 3.
    pub channels: usize,
    pub embed_dim: usize,
    pub heads: usize,
    pub mlp_dim: usize,
    pub layers: usize,
    /// Register tokens between the class token and the patches (Darcet et al. 2024, arXiv:2309.16588).
    pub registers: usize,
}

impl VitDims {
    /// Patches along one side of the image.
    pub fn grid(&self) -> usize {
        self.image_size / self.patch_size
    }

    /// Name and shape of every tensor of a [`Backbone`], in the order of the forward pass. Kernels
    /// are [in, out]; the columns of `qkv` are all query heads, then all key heads, then all value
    /// heads. `registers` is there only if the model has any; they have no positions.
    pub fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let (p, d, m) = (self.patch_size, self.embed_dim, self.mlp_dim);
        let mut all = vec![
            ("embedding/kernel".to_string(), vec![p, p, self.channels, d]),
            ("embedding/bias".to_string(), vec![d]),
            ("cls".to_string(), vec![1, 1, d]),
            ("pos_embedding".to_string(), vec![1, 1 + self.grid() * self.grid(), d]),
        ];
        if self.registers > 0 {
            all.push(("registers".to_string(), vec![1, self.registers, d]));
        }
        for l in 0..self.layers {
            let block = [
                ("ln1/scale", vec![d]),
                ("ln1/bias", vec![d]),
                ("qkv/kernel", vec![d, 3 * d]),
                ("qkv/bias", vec![3 * d]),
                ("proj/kernel", vec![d, d]),
                ("proj/bias", vec![d]),
                ("ln2/scale", vec![d]),
                ("ln2/bias", vec![d]),
                ("fc1/kernel", vec![d, m]),
                ("fc1/bias", vec![m]),
                ("fc2/kernel", vec![m, d]),
                ("fc2/bias", vec![d]),
            ];
            all.extend(block.map(|(name, shape)| (format!("block_{l}/{name}"), shape)));
        }
        all.push(("norm/scale".to_string(), vec![d]));
        all.push(("norm/bias".to_string(), vec![d]));
        all
    }
}

/// Which form of x Phi(x) the weights were trained with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gelu {
    /// 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), the default of JAX.
    Tanh,
    /// 0.5 x (1 + erf(x / sqrt(2))), the default of PyTorch.
    Erf,
}

/// How a position table is resized to another grid. `docs/checkpoints.md` has the formulas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PositionResize {
    /// Bilinear, aligned corners: vision_transformer `interpolate_posembed` (scipy `zoom`, order 1).
    BilinearAligned,
    /// Bicubic (a = -0.75), half-pixel centres: transformers `interpolate_pos_encoding`.
    Bicubic,
    /// Bicubic (a = -0.5), half-pixel centres, antialiased: timm `resample_abs_pos_embed`, and DINOv2
    /// and transformers for models with registers.
    BicubicAntialias,
    /// Bicubic (a = -0.75) with the scale (B + 0.1) / A instead of B / A: facebookresearch/dinov2.
    Dinov2,
}

impl PositionResize {
    /// The rule and whose it is, for the source sentence.
    pub fn describe(self) -> &'static str {
        match self {
            PositionResize::BilinearAligned => "bilinear, aligned corners, the rule of JAX ViT",
            PositionResize::Bicubic => {
                "bicubic, half-pixel centres, not antialiased, the rule of Hugging Face"
            }
            PositionResize::BicubicAntialias => "bicubic, half-pixel centres, antialiased, the rule of timm",
            PositionResize::Dinov2 => {
                "bicubic, half-pixel centres, not antialiased, offset 0.1, the rule of DINOv2"
            }
        }
    }
}

/// A tensor in main memory, row-major.
#[derive(Debug, Clone, PartialEq)]
pub struct HostTensor {
    pub shape: Vec<usize>,
    pub data: Vec<f32>,
}

/// A pre-trained vision transformer without its head.
#[derive(Debug, Clone, PartialEq)]
pub struct Backbone {
    pub dims: VitDims,
    pub gelu: Gelu,
    pub layer_norm_eps: f64,
    /// The weights expect `(x - mean) / std` for pixels x in [0, 1].
    pub mean: [f32; 3],
    pub std: [f32; 3],
    /// The rule by which the position table was resized; `None` where it is as stored.
    pub position_resize: Option<PositionResize>,
    /// One sentence: the format, what was recognised, the sizes.
    pub source: String,
    /// SHA-256 of the file, in hex. Of a checkpoint in parts: that of the text with one line
    /// `<sha256>  <file name>` per part, in the order of the names.
    pub sha256: String,
    /// By the names of [`VitDims::tensors`].
    pub tensors: BTreeMap<String, HostTensor>,
}

/// What the user says about a checkpoint; the default asks for everything as the file has it.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct LoadOptions {
    /// Attention heads; 0: as stored, or inferred.
    pub heads: usize,
    /// Only the first so many blocks (the final norm stays); 0: all.
    pub blocks: usize,
    /// Side of the input in pixels, to which the position table is resized; 0: as stored.
    pub image_size: usize,
    /// Overrides what the format implies.
    pub gelu: Option<Gelu>,
    /// Overrides what the format implies.
    pub layer_norm_eps: Option<f64>,
    /// Mean and deviation of the input; overrides what the format implies.
    pub norm: Option<([f32; 3], [f32; 3])>,
    /// Overrides the rule of the format's own library.
    pub position_resize: Option<PositionResize>,
}

/// Takes a tensor of the engine under its name.
pub type TensorSink<'a> = &'a mut dyn FnMut(&str, HostTensor) -> Result<()>;
