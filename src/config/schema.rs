//! The configuration as the engine uses it: one struct per table of the TOML file.
//!
//! Words of the official configuration files (google-research/l2p @ dd8836e, `configs/`) are kept
//! where they are good. Defaults are those of rule set `official` for Split CIFAR-100; every shipped
//! file states the source of each value.

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
        }
        impl Default for $name { fn default() -> Self { $name::$default } }
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result { f.write_str(self.word()) }
        }
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
    /// What learns, and how tasks are presented.
    Method {
        /// Prompt pool in front of the tokens.
        L2p = "l2p",
        /// G- and E-prompts as key/value prefixes.
        DualPrompt = "dualprompt",
        /// No prompts; the whole network learns.
        FineTune = "finetune",
        /// No prompts; only the head learns, on frozen features.
        Linear = "linear",
        /// Nearest class mean of the frozen features; nothing learns by gradient.
        Ncm = "ncm",
        /// The configured prompts, all tasks at once: the upper bound.
        Joint = "joint",
    } default L2p
}

words! { DatasetName {
    /// 5,000 images of MNIST that come with the program.
    MnistSubset = "mnist_subset",
    Mnist = "mnist", FashionMnist = "fashion_mnist", Cifar10 = "cifar10", Cifar100 = "cifar100",
    /// Random class-dependent images, for tests and for trying a configuration without data.
    Synthetic = "synthetic",
} default MnistSubset }

words! { Augment {
    /// Training images are resized like test images.
    None = "none",
    /// TensorFlow's random resized crop (area 0.05 to 1, aspect 0.75 to 1.33) and a flip.
    CropFlip = "crop_flip",
    /// The same crop without the flip (digits and letters have a handedness).
    Crop = "crop",
} default CropFlip }

words! { InputNorm {
    /// What the checkpoint was trained with, as far as its format tells.
    Auto = "auto",
    /// [0, 1], as the official code feeds it.
    Unit = "unit",
    /// [-1, 1], as ViT checkpoints of the JAX repository were trained.
    Half = "half",
    /// Mean 0.485 0.456 0.406, deviation 0.229 0.224 0.225.
    ImageNet = "imagenet",
} default Auto }

words! { GeluChoice { Auto = "auto", Tanh = "tanh", Erf = "erf" } default Auto }

words! { Classifier {
    /// Mean over all prompt rows of the last layer.
    Prompt = "prompt",
    /// The class token.
    Token = "token",
    /// Mean over all rows.
    Gap = "gap",
    /// Mean over the prompt rows and the class token.
    TokenPrompt = "token+prompt",
} default Prompt }

words! { TokenOrder {
    /// [prompts, class token, patches]; prompts carry no position embedding.
    PromptsFirst = "prompts_first",
    /// [class token, prompts, patches]; prompts carry the class token's position embedding.
    ClsFirst = "cls_first",
} default PromptsFirst }

words! { EmbeddingKey { Cls = "cls", Mean = "mean", Max = "max", MeanMax = "mean_max" } default Cls }

words! { Initializer {
    /// Uniform in [0, 0.01).
    Uniform = "uniform",
    /// Uniform in [-1, 1).
    UniformSymmetric = "uniform_symmetric",
    /// Normal with deviation 0.01.
    Normal = "normal",
    Zero = "zero",
} default Uniform }

words! { OptimizerName { Adam = "adam", AdamW = "adamw", Sgd = "sgd" } default Adam }
words! { Schedule { Constant = "constant", Cosine = "cosine", Linear = "linear" } default Constant }

words! { ClipScope {
    /// Norm over the gradients of what learns.
    Trainable = "trainable",
    /// Norm over all gradients, frozen ones included, as the official code has it (+35 % work).
    All = "all",
} default Trainable }

words! { Precision { F32 = "f32", F64 = "f64" } default F32 }

/// The whole configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    pub rule_set: RuleSet,
    pub method: Method,
    /// Seed of every random number of the run.
    pub seed: u64,
    pub precision: Precision,
    pub data: Data,
    pub continual: Continual,
    pub model: Model,
    pub prompt_pool: PromptPool,
    pub g_prompt: GPrompt,
    pub optim: Optim,
    pub train: Train,
    pub floors: Floors,
    pub pretrain: Pretrain,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Data {
    pub dataset: DatasetName,
    /// Folder of the raw downloads; `--data-dir` wins over it.
    pub dir: String,
    /// Side of the square network input in pixels.
    pub input_size: usize,
    /// Side that images are resized to before the crop, in pixels.
    pub resize_size: usize,
    pub augment: Augment,
    /// Use at most this many training images per class (0: all).
    pub train_per_class: usize,
    /// Use at most this many test images per class (0: all).
    pub test_per_class: usize,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Continual {
    pub num_tasks: usize,
    pub num_classes_per_task: usize,
    /// `natural`, `seed:N`, or the path of a file with one class (name or number) per line.
    pub class_order: String,
    /// Logits of classes outside the task are masked in the training loss.
    pub train_mask: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Model {
    /// `bundled:micro` or the path of a `.npz` / `.safetensors` file; `--init-checkpoint` wins.
    pub init_checkpoint: String,
    pub gelu: GeluChoice,
    /// 0: what the checkpoint was trained with, as far as its format tells.
    pub layer_norm_eps: f64,
    pub input_norm: InputNorm,
    /// Attention heads; 0: read or inferred from the checkpoint.
    pub heads: usize,
    /// Use only the first so many blocks; 0: all.
    pub blocks: usize,
    pub vit_classifier: Classifier,
    /// Divide the classifier input by its l2 norm.
    pub norm_pre_logits: bool,
    /// Logits are divided by this.
    pub temperature: f64,
    pub token_order: TokenOrder,
    /// Parameters whose official path contains one of these words do not learn.
    pub freeze_part: Vec<String>,
}

/// The pool of the paper: M prompts of length L_p, of which N are selected.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PromptPool {
    /// M. 0: no pool.
    pub pool_size: usize,
    /// L_p, in tokens.
    pub length: usize,
    /// N, the prompts selected per image (or per vote).
    pub top_k: usize,
    pub initializer: Initializer,
    /// Keys are learned; otherwise the key of a prompt is its mean.
    pub prompt_key: bool,
    pub prompt_key_init: Initializer,
    pub embedding_key: EmbeddingKey,
    /// In training, all images of a vote group use the prompts most of them chose.
    pub batchwise_prompt: bool,
    /// Images per vote; 0: `train.per_device_batch_size`.
    pub vote_group: usize,
    /// In training, task t uses prompts [t N, (t+1) N) while they exist.
    pub use_prompt_mask: bool,
    /// At a task switch, the next task's prompts start as a copy of the last one's.
    pub shared_prompt_pool: bool,
    /// The same for the keys.
    pub shared_prompt_key: bool,
    /// Layers that receive pool prompts.
    pub e_prompt_layer_idx: Vec<usize>,
    /// Prompts are keys and values in front of the attention (DualPrompt) instead of tokens.
    pub use_prefix_tune_for_e_prompt: bool,
    /// lambda, the weight of the pull term.
    pub pull_constraint_coeff: f64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GPrompt {
    /// 0: no general prompt.
    pub g_prompt_length: usize,
    pub g_prompt_layer_idx: Vec<usize>,
    pub use_prefix_tune_for_g_prompt: bool,
    /// One tensor serves as key and value.
    pub same_key_value: bool,
    pub initializer: Initializer,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Optim {
    pub optim: OptimizerName,
    /// Per `lr_batch` images of the global batch; 0 in `lr_batch`: used as it is.
    pub learning_rate: f64,
    pub lr_batch: usize,
    pub learning_rate_schedule: Schedule,
    /// In epochs.
    pub warmup_epochs: f64,
    pub min_learning_rate: f64,
    pub weight_decay: f64,
    pub sgd_momentum: f64,
    /// 0: gradients are not clipped.
    pub grad_clip_max_norm: f64,
    pub clip_scope: ClipScope,
    /// A new optimizer (moments and step zero) at every task.
    pub reinit_optimizer: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Train {
    /// Images per step and device.
    pub per_device_batch_size: usize,
    /// Epochs per task.
    pub num_epochs: usize,
    /// Images per evaluation batch; results do not depend on it.
    pub eval_batch_size: usize,
    /// Steps between checkpoints within a task; one is always written at the end of a task.
    pub checkpoint_every_steps: usize,
    /// Exact savings of work; `false` runs the plain path.
    pub shortcuts: bool,
}

/// Which floors a training run computes beside its own result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Floors {
    pub ncm: bool,
    pub linear_probe: bool,
    pub naive_head: bool,
    /// Trains once more with a pool of one prompt: as long as the run itself.
    pub pool_of_one: bool,
}

/// Only read by `l2p-engine pretrain`: supervised training of a new backbone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Pretrain {
    pub patch_size: usize,
    pub embed_dim: usize,
    pub layers: usize,
    pub heads: usize,
    pub mlp_dim: usize,
    /// Images are also turned by 90, 180 and 270 degrees, each turn a class of its own.
    pub rotations: bool,
    pub label_smoothing: f64,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            rule_set: RuleSet::default(),
            method: Method::default(),
            seed: 42,
            precision: Precision::default(),
            data: Data::default(),
            continual: Continual::default(),
            model: Model::default(),
            prompt_pool: PromptPool::default(),
            g_prompt: GPrompt::default(),
            optim: Optim::default(),
            train: Train::default(),
            floors: Floors::default(),
            pretrain: Pretrain::default(),
        }
    }
}

impl Default for Data {
    fn default() -> Data {
        Data {
            dataset: DatasetName::Cifar100,
            dir: String::new(),
            input_size: 224,
            resize_size: 256,
            augment: Augment::CropFlip,
            train_per_class: 0,
            test_per_class: 0,
        }
    }
}

impl Default for Continual {
    fn default() -> Continual {
        Continual { num_tasks: 10, num_classes_per_task: 10, class_order: "natural".into(), train_mask: true }
    }
}

impl Default for Model {
    fn default() -> Model {
        Model {
            init_checkpoint: "bundled:micro".into(),
            gelu: GeluChoice::Auto,
            layer_norm_eps: 0.0,
            input_norm: InputNorm::Auto,
            heads: 0,
            blocks: 0,
            vit_classifier: Classifier::Prompt,
            norm_pre_logits: false,
            temperature: 1.0,
            token_order: TokenOrder::PromptsFirst,
            freeze_part: ["encoder", "embedding", "cls"].map(String::from).to_vec(),
        }
    }
}

impl Default for PromptPool {
    fn default() -> PromptPool {
        PromptPool {
            pool_size: 10,
            length: 10,
            top_k: 4,
            initializer: Initializer::Uniform,
            prompt_key: true,
            prompt_key_init: Initializer::Uniform,
            embedding_key: EmbeddingKey::Cls,
            batchwise_prompt: true,
            vote_group: 16,
            use_prompt_mask: false,
            shared_prompt_pool: false,
            shared_prompt_key: false,
            e_prompt_layer_idx: vec![0],
            use_prefix_tune_for_e_prompt: false,
            pull_constraint_coeff: 1.0,
        }
    }
}

impl Default for GPrompt {
    fn default() -> GPrompt {
        GPrompt {
            g_prompt_length: 0,
            g_prompt_layer_idx: vec![0, 1],
            use_prefix_tune_for_g_prompt: true,
            same_key_value: false,
            initializer: Initializer::Uniform,
        }
    }
}

impl Default for Optim {
    fn default() -> Optim {
        Optim {
            optim: OptimizerName::Adam,
            learning_rate: 0.03,
            lr_batch: 256,
            learning_rate_schedule: Schedule::Constant,
            warmup_epochs: 0.0,
            min_learning_rate: 0.0,
            weight_decay: 0.0,
            sgd_momentum: 0.9,
            grad_clip_max_norm: 1.0,
            clip_scope: ClipScope::Trainable,
            reinit_optimizer: true,
        }
    }
}

impl Default for Train {
    fn default() -> Train {
        Train {
            per_device_batch_size: 16,
            num_epochs: 5,
            eval_batch_size: 64,
            checkpoint_every_steps: 100,
            shortcuts: true,
        }
    }
}

impl Default for Floors {
    fn default() -> Floors {
        Floors { ncm: true, linear_probe: true, naive_head: true, pool_of_one: false }
    }
}

impl Default for Pretrain {
    fn default() -> Pretrain {
        Pretrain {
            patch_size: 7,
            embed_dim: 64,
            layers: 6,
            heads: 4,
            mlp_dim: 256,
            rotations: false,
            label_smoothing: 0.0,
        }
    }
}
