//! What is done to pixel values at the end.

/// (x - mean) / std per channel, for x in [0, 1].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Normalize {
    pub mean: [f32; 3],
    pub std: [f32; 3],
}

impl Normalize {
    /// [0, 1], as the official code feeds it.
    pub const UNIT: Normalize = Normalize { mean: [0.0; 3], std: [1.0; 3] };
    /// [-1, 1].
    pub const HALF: Normalize = Normalize { mean: [0.5; 3], std: [0.5; 3] };
    /// torchvision's constants for ImageNet.
    pub const IMAGENET: Normalize = Normalize { mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225] };
    /// What the official code uses with RandAugment and the like. Source: `libml/preprocess.py`.
    pub const CIFAR10: Normalize =
        Normalize { mean: [0.4914, 0.4822, 0.4465], std: [0.2471, 0.2435, 0.2616] };
    pub const CIFAR100: Normalize =
        Normalize { mean: [0.5071, 0.4867, 0.4408], std: [0.2675, 0.2565, 0.2761] };

    pub(super) fn apply(&self, channel: usize, x: f32) -> f32 {
        (x - self.mean[channel]) / self.std[channel]
    }

    /// What each byte of each channel becomes.
    pub(super) fn table(&self) -> [[f32; 256]; 3] {
        std::array::from_fn(|channel| std::array::from_fn(|v| self.apply(channel, v as f32 / 255.0)))
    }
}
