//! The words a configuration value can be: one enum per key that takes a word.

use super::kinds::{Field, KeyKind};
use serde::{Deserialize, Serialize};

/// Defines an enum whose values are written in lower case in TOML.
macro_rules! words {
    ($(#[$meta:meta])* $name:ident { $($(#[$vmeta:meta])* $variant:ident = $word:literal),+ $(,)? } default $default:ident) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
        pub enum $name { $($(#[$vmeta])* #[serde(rename = $word)] $variant),+ }
        impl $name {
            /// Every accepted word.
            pub const WORDS: &'static [&'static str] = &[$($word),+];
            pub fn word(self) -> &'static str {
                match self { $($name::$variant => $word),+ }
            }
            /// The one with this word.
            pub fn named(word: &str) -> Option<$name> {
                match word { $($word => Some($name::$variant),)+ _ => None }
            }
        }
        impl Default for $name { fn default() -> Self { $name::$default } }
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result { f.write_str(self.word()) }
        }
        impl Field for $name { const KIND: KeyKind = KeyKind::Word(Self::WORDS); }
    };
}

words! {
    /// Which of the published "L2P"s a configuration follows. A label with provenance: everything
    /// that differs is a value below, never a fork in the code.
    RuleSet {
        /// google-research/l2p, last commit (2022-12).
        Official = "official",
        /// google-research/l2p before July 2022.
        OfficialV1 = "official-v1",
        /// Wang et al. 2022, arXiv:2112.08654, as printed.
        Paper = "paper",
        /// JH-LEE-KR/l2p-pytorch.
        PyTorch = "pytorch",
    } default Official
}

words! {
    /// What learns.
    Method {
        /// Prompt pool in front of the tokens.
        L2p = "l2p",
        /// G- and E-prompts as key/value prefixes.
        DualPrompt = "dualprompt",
        /// Weighted sums of components as key/value prefixes; each task adds components.
        CodaPrompt = "coda_prompt",
        /// A prompt and a head per domain; the nearest centre of the queries of a domain chooses.
        SPrompts = "s_prompts",
        /// No prompts; the whole network learns.
        FineTune = "finetune",
        /// No prompts; only the head learns, on frozen features.
        Linear = "linear",
        /// No prompts; what learns is held near what earlier tasks need (elastic weight consolidation).
        Ewc = "ewc",
        /// No prompts; answers are held near those before the task (learning without forgetting).
        Lwf = "lwf",
        /// Nearest class mean of the frozen features; nothing learns by gradient.
        Ncm = "ncm",
        /// Ridge regression on random features of the frozen backbone; nothing learns by gradient.
        Ranpac = "ranpac",
        /// The word of earlier versions for `continual.scenario = "joint"`; see `Config::understand_joint`.
        Joint = "joint",
    } default L2p
}

impl Method {
    /// Whether it takes each training image once, prepared like a test image, and learns nothing by gradient.
    pub fn takes_each_image_once(self) -> bool {
        matches!(self, Method::Ncm | Method::Ranpac)
    }

    /// Whether it does something at the end of each task, and with each image as it is.
    pub fn looks_at_tasks(self) -> bool {
        matches!(self, Method::SPrompts | Method::Ewc | Method::Lwf)
    }
}

words! {
/// What makes a parameter important for a task (`method = "ewc"`).
Fisher {
    /// Squared gradients weighted with the probability of the label, divided by batches times batch size.
    Weighted = "weighted",
    /// The empirical Fisher information: the mean of the squared gradients.
    Empirical = "empirical",
} default Weighted }

words! {
/// The images and labels of a run.
DatasetName {
    /// 5,000 images of MNIST that come with the program.
    MnistSubset = "mnist_subset",
    /// 3,000 pictures of ten letters that come with the program.
    LettersSubset = "letters_subset",
    Mnist = "mnist", FashionMnist = "fashion_mnist", Cifar10 = "cifar10", Cifar100 = "cifar100",
    Svhn = "svhn", NotMnist = "notmnist", Core50 = "core50", ImageNetR = "imagenet_r", Cub200 = "cub200",
    DomainNet = "domainnet",
    /// The sets of `data.joined` one after the other, whose classes are kept apart (5-datasets).
    Joined = "joined",
    /// Images of the user: a folder per class, lists `path label [task]`, or a CSV.
    Images = "images",
    /// Random class-dependent images, for tests and for trying a configuration without data.
    Synthetic = "synthetic",
} default MnistSubset }

impl DatasetName {
    /// How many classes the set has; `None`: known once it is loaded.
    pub fn classes(self) -> Option<usize> {
        use DatasetName::*;
        match self {
            MnistSubset | LettersSubset | Mnist | FashionMnist | Cifar10 | Svhn | NotMnist | Synthetic => {
                Some(10)
            }
            Core50 => Some(50),
            Cifar100 => Some(100),
            ImageNetR | Cub200 => Some(200),
            DomainNet => Some(345),
            Joined | Images => None,
        }
    }
}

words! {
/// Where pre-training starts.
StartFrom { Random = "random", Checkpoint = "checkpoint" } default Random }

words! {
/// How the images of a data set come in tasks.
Scenario {
    /// Tasks of `num_classes_per_task` new classes each.
    Class = "class",
    /// The classes of those tasks all at once, tested by task: the upper bound.
    Joint = "joint",
    /// A task per domain (session, style, third column of a list), all classes in each.
    Domain = "domain",
    /// Tasks of overlapping label sets, drawn around peaks that move over the classes, as the official code
    /// has it.
    Gaussian = "gaussian",
    /// One pass without boundaries: every training image once, the share of each class rising and falling.
    GaussianOnce = "gaussian_once",
    /// One pass without boundaries over the training images in the order of their files or lists.
    Stream = "stream",
} default Class }

words! {
/// What happens to a training image between the file and the network.
Augment {
    /// Training images are resized like test images.
    None = "none",
    /// A random crop, resized (area 0.05 to 1, aspect 0.75 to 1.33), and a flip.
    CropFlip = "crop_flip",
    /// The same crop without the flip (digits and letters have a handedness).
    Crop = "crop",
} default CropFlip }

words! {
/// The rules by which images are resized and cropped.
Transforms {
    /// As google-research/l2p: bilinear resize to a square without antialiasing, then the crop.
    TensorFlow = "tensorflow",
    /// As JH-LEE-KR/l2p-pytorch: crops of the image itself, resized by Pillow's antialiased filters; test
    /// images keep their aspect ratio.
    Torchvision = "torchvision",
} default TensorFlow }

words! {
/// How pixels are weighed in a resize.
Interpolation {
    Bilinear = "bilinear", Bicubic = "bicubic",
} default Bilinear }

words! {
/// What the head starts from.
HeadInit {
    /// All zero, as in the official code.
    Zero = "zero",
    /// The kernel normal with deviation 0.02 and the bias zero, as timm's Vision Transformers and what is built on them.
    Normal = "normal",
} default Zero }

words! {
/// The range in which pixels enter the network.
InputNorm {
    /// What the checkpoint was trained with, as far as its format tells.
    Auto = "auto",
    /// [0, 1], as the official code feeds it.
    Unit = "unit",
    /// [-1, 1], as ViT checkpoints of the JAX repository were trained.
    Half = "half",
    /// Mean 0.485 0.456 0.406, deviation 0.229 0.224 0.225.
    ImageNet = "imagenet",
    /// Mean 0.4914 0.4822 0.4465, deviation 0.2471 0.2435 0.2616.
    Cifar10 = "cifar10",
    /// Mean 0.5071 0.4867 0.4408, deviation 0.2675 0.2565 0.2761.
    Cifar100 = "cifar100",
} default Auto }

words! {
/// The form of the activation x Phi(x).
GeluChoice {
    /// What the checkpoint was trained with, as far as its format tells.
    Auto = "auto",
    /// 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), as JAX checkpoints.
    Tanh = "tanh",
    /// 0.5 x (1 + erf(x / sqrt 2)), as PyTorch checkpoints.
    Erf = "erf",
} default Auto }

words! {
/// How a position table is resized to another input size; `docs/checkpoints.md` has the formulas.
PositionRule {
    /// As the library does that the checkpoint's format belongs to.
    Auto = "auto",
    /// Bilinear, aligned corners, as JAX checkpoints.
    BilinearAligned = "bilinear_aligned",
    /// Bicubic, half-pixel centres, as Hugging Face.
    Bicubic = "bicubic",
    /// Bicubic, half-pixel centres, antialiased, as timm.
    BicubicAntialias = "bicubic_antialias",
    /// Bicubic, half-pixel centres, offset 0.1, as facebookresearch/dinov2.
    Dinov2 = "dinov2",
} default Auto }

words! {
/// The rows of the last layer that the head classifies.
Classifier {
    /// Mean over all prompt rows of the last layer.
    Prompt = "prompt",
    /// The class token.
    Token = "token",
    /// Mean over all rows.
    Gap = "gap",
    /// Mean over the prompt rows and the class token.
    TokenPrompt = "token+prompt",
} default Prompt }

words! {
/// Where the prompts stand.
TokenOrder {
    /// [prompts, class token, patches]; prompts carry no position embedding.
    PromptsFirst = "prompts_first",
    /// [class token, prompts, patches]; prompts carry the class token's position embedding.
    ClsFirst = "cls_first",
} default PromptsFirst }

words! {
/// How images choose prompts of the pool.
Selection {
    /// The prompts whose keys are nearest to the image's query.
    Key = "key",
    /// Prompts that are drawn for each image; a control.
    Random = "random",
    /// The first prompts, the same for every image; a control.
    Fixed = "fixed",
} default Key }

words! {
/// The query that is compared with the keys.
EmbeddingKey {
    /// The class token of the frozen network without prompts.
    Cls = "cls",
    /// Mean of the patch embeddings.
    Mean = "mean",
    /// Maximum of the patch embeddings.
    Max = "max",
    /// Maximum plus twice the mean.
    MeanMax = "mean_max",
} default Cls }

words! {
/// Values that prompts and keys start with.
Initializer {
    /// Uniform in [0, 0.01).
    Uniform = "uniform",
    /// Uniform in [-1, 1).
    UniformSymmetric = "uniform_symmetric",
    /// Normal with deviation 0.01.
    Normal = "normal",
    Zero = "zero",
} default Uniform }

words! {
/// The update rule.
OptimizerName { Adam = "adam", AdamW = "adamw", Sgd = "sgd" } default Adam }
words! {
/// The learning rate over the steps of a task.
Schedule {
    Constant = "constant", Cosine = "cosine", Linear = "linear",
    /// By epoch, as CODA-Prompt has it: the first two at the full rate, then along a cosine.
    CodaCosine = "coda_cosine",
    /// By epoch along a cosine, as PyTorch's CosineAnnealingLR.
    CosineEpoch = "cosine_epoch",
} default Constant }

words! {
/// Which gradients the clip norm runs over.
ClipScope {
    /// Norm over the gradients of what learns.
    Trainable = "trainable",
    /// Norm over all gradients, frozen ones included, as the official code has it (+35 % work).
    All = "all",
} default Trainable }

words! {
/// The kernels of a GPU.
Kernels {
    /// Those that every GPU of compute capability 8.0 or newer runs.
    Portable = "portable",
    /// For compute capability 9.0: products of 16-bit matrices and attention by tensor copies and wgmma; everything else as `portable`.
    Hopper = "hopper",
} default Portable }

words! {
/// Element type of activations and of the weights of matrix products. Statistics, prompts, head, losses,
/// gradients of parameters and the optimizer are f32 (or f64) in any case.
Precision {
    /// bf16 on a GPU, f32 on the CPU.
    Auto = "auto",
    F32 = "f32",
    /// CPU only, for checks.
    F64 = "f64",
    /// On a GPU of everything that is stored. On a CPU of the operands of products with the backbone's kernels, whose
    /// sums are f32; attention's products are f32.
    Bf16 = "bf16",
    /// GPU only; gradients are scaled on their way.
    F16 = "f16",
} default Auto }
