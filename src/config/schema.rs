//! The configuration as the engine uses it: one struct per table of the TOML file.
//!
//! Words of the official configuration files (google-research/l2p @ dd8836e, `configs/`) are kept
//! where they are good. Defaults are those of rule set `official` for Split CIFAR-100; every shipped
//! file states the source of each value. The comment of a field is also the comment above its key in
//! the files that the engine writes.

pub use super::enums::*;

use super::kinds::{Field, Key, KeyKind};
use super::micro_batch::MicroBatch;
pub use super::shortcuts::Shortcuts;
pub use super::task_sizes::{Names, TaskSizes};
use serde::{Deserialize, Serialize};

/// Defines a table of the configuration: the struct, its defaults and its list of keys from one text.
macro_rules! table {
    ($(#[$meta:meta])* $name:ident { $($(#[doc = $doc:literal])+ $field:ident: $ty:ty = $default:expr,)+ }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct $name { $($(#[doc = $doc])+ pub $field: $ty,)+ }
        impl $name {
            /// Every key of the table, in the order of the struct.
            pub const KEYS: &'static [Key] = &[$(Key {
                name: stringify!($field),
                doc: &[$($doc),+],
                kind: <$ty as Field>::KIND,
            }),+];
        }
        impl Default for $name {
            fn default() -> $name { $name { $($field: $default),+ } }
        }
        impl Field for $name { const KIND: KeyKind = KeyKind::Table(Self::KEYS); }
    };
}

table! {
/// The whole configuration.
Config {
    /// Which published variant of L2P the values follow; a label, it changes nothing by itself.
    rule_set: RuleSet = RuleSet::default(),
    /// What learns, and how tasks are presented.
    method: Method = Method::default(),
    /// Seed of every random number of the run.
    seed: u64 = 42,
    /// What others report for these values, in percent, for the report beside the run's own numbers:
    /// "SOURCE: AVERAGE ACCURACY ± DEVIATION, FORGETTING ± DEVIATION"; all but the first two may be left out.
    published: Vec<String> = Vec::new(),
    /// Element type of activations and weights.
    precision: Precision = Precision::default(),
    /// Images and how they enter the network.
    data: Data = Data::default(),
    /// How the classes are split into tasks.
    continual: Continual = Continual::default(),
    /// The backbone and the classifier on it.
    model: Model = Model::default(),
    /// The pool of the paper: M prompts of length L_p, of which N are selected.
    prompt_pool: PromptPool = PromptPool::default(),
    /// General prompts, the same for every image and task (DualPrompt).
    g_prompt: GPrompt = GPrompt::default(),
    /// Ridge regression on random features (RanPAC).
    ranpac: Ranpac = Ranpac::default(),
    /// Components of `method = "coda_prompt"`; no other method reads them.
    coda: CodaPrompt = CodaPrompt::default(),
    /// Domains of `method = "s_prompts"`; no other method reads them.
    s_prompts: SPrompts = SPrompts::default(),
    /// Elastic weight consolidation; only `method = "ewc"` reads it.
    ewc: Ewc = Ewc::default(),
    /// Learning without forgetting; only `method = "lwf"` reads it.
    lwf: Lwf = Lwf::default(),
    /// The optimizer and its learning rate.
    optim: Optim = Optim::default(),
    /// Batches, epochs, checkpoints.
    train: Train = Train::default(),
    /// Which baselines a training run computes beside its own result.
    baselines: Baselines = Baselines::default(),
    /// Only read by `l2p-engine pretrain`: supervised training of a new backbone.
    pretrain: Pretrain = Pretrain::default(),
}
}

table! {
/// Images and how they enter the network.
Data {
    /// The images and labels of the run.
    dataset: DatasetName = DatasetName::Cifar100,
    /// The data sets of `dataset = "joined"`, in order; all lie in `dir`.
    joined: Vec<String> = ["cifar10", "mnist", "svhn", "notmnist", "fashion_mnist"].map(String::from).to_vec(),
    /// Folder of the raw downloads; `--data-dir` wins over it.
    dir: String = String::new(),
    /// Side of the square network input in pixels.
    input_size: usize = 224,
    /// Side that images are resized to before the crop, in pixels.
    resize_size: usize = 256,
    /// The rules by which images are resized and cropped.
    transforms: Transforms = Transforms::TensorFlow,
    /// Resize of training images; `bicubic` is there with the transforms `torchvision`.
    train_interpolation: Interpolation = Interpolation::Bilinear,
    /// The same for test images.
    eval_interpolation: Interpolation = Interpolation::Bilinear,
    /// What happens to a training image between the file and the network.
    augment: Augment = Augment::CropFlip,
    /// Folder for decoded images of image files; empty: `l2p-engine` in the user's cache folder.
    cache_dir: String = String::new(),
    /// Larger sets are decoded image by image when needed; in 10^9 bytes of decoded pixels (0: no cache).
    cache_gb: usize = 8,
    /// Leave out image files that are damaged, with a note and a list in the work directory, instead of stopping.
    skip_damaged: bool = false,
    /// Training images pass through JPEG (quality 95, 4:2:0) between resize and crop, as in the official code.
    jpeg_reencode: bool = false,
    /// RandAugment: operations per training image; 0: none. The official code has 2 where it is on.
    rand_augment_layers: usize = 0,
    /// Strength of each operation, 0 to 1 (with a deviation 0 to `rand_augment_levels`); below 0: drawn each time.
    rand_augment_magnitude: f64 = -1.0,
    /// Drawn strengths are multiples of 1 / this; 0: any number.
    rand_augment_levels: usize = 10,
    /// Strengths are normal around the magnitude with this deviation, in units of 1 / `rand_augment_levels`; 0: not.
    rand_augment_deviation: f64 = 0.0,
    /// Probability of each operation.
    rand_augment_probability: f64 = 1.0,
    /// A grey square of half the side follows the operations.
    rand_augment_cutout: bool = true,
    /// Strength of a random change of brightness, contrast, saturation and hue; 0: none, at most 1.25.
    color_jitter: f64 = 0.0,
    /// Probability that a box of a training image becomes noise.
    erase_probability: f64 = 0.0,
    /// Mixup: training images are weighted means of two, with weights drawn by this alpha; 0: none.
    mixup_alpha: f64 = 0.0,
    /// CutMix: a box of a training image comes from another, of a size drawn by this alpha; 0: none.
    cutmix_alpha: f64 = 0.0,
    /// Probability that a batch is mixed, by mixup or CutMix with equal chance where both are on.
    mix_probability: f64 = 1.0,
    /// The classes that are used: names, numbers, or a file with one of them per line; empty: all.
    classes: Names = Names::default(),
    /// A task with fewer training images than a batch is trained in one smaller batch per epoch; false: it is refused.
    partial_batch: bool = true,
    /// Use at most this many training images per class (0: all).
    train_per_class: usize = 0,
    /// Use at most this many test images per class (0: all).
    test_per_class: usize = 0,
    /// `add-classes` writes this and the five keys below. Folders of images that were added, each as a task behind those
    /// of `continual.num_tasks`; "" where the images were gone when more were added.
    added: Vec<String> = Vec::new(),
    /// Classes of each of these tasks.
    added_sizes: Vec<usize> = Vec::new(),
    /// How many of them were new; these come first.
    added_new: Vec<usize> = Vec::new(),
    /// The names of all of them, task after task.
    added_classes: Vec<String> = Vec::new(),
    /// Where images of the first tasks were gone when others were added: the names of all classes before those that were
    /// added, in the order of learning. Images are then found by these names.
    base_classes: Vec<String> = Vec::new(),
    /// With them, the tasks (from 0) whose images were gone: they are not tested.
    lost_tasks: Vec<usize> = Vec::new(),
}
}

table! {
/// How the classes are split into tasks.
Continual {
    /// How the images come in tasks.
    scenario: Scenario = Scenario::Class,
    /// Number of tasks, learned one after the other; of a stream: parts, after which the network is tested.
    num_tasks: usize = 10,
    /// Classes of every task, or a list with those of each task: `[50, 10, 10]`; only scenarios `class` and `joint` read
    /// it. 0 with `joint`: all classes, one task.
    num_classes_per_task: TaskSizes = TaskSizes::Same(10),
    /// Width of a class in time in the Gaussian scenarios, in tasks.
    gaussian_sigma: f64 = 50.0,
    /// Few-shot: tasks after the first have so many training images of each class, drawn by the seed; 0: all.
    shots: usize = 0,
    /// The same for the first task.
    base_shots: usize = 0,
    /// Few-shot: a folder with the lists `session_1.txt`, `session_2.txt`, … of the training images of each task
    /// (positions in the training set, or paths); without the first, task 1 has all. Empty: no lists.
    session_lists: String = String::new(),
    /// A test image is told its task: only the classes of that task can be the answer. Losses and baselines stay over
    /// all classes; only for scenario `class`.
    eval_task_inc: bool = false,
    /// Only the classes learned so far can be the answer to a test image, as CODA-Prompt's and PILOT's codes have it. Off:
    /// every class of the head, as the official code of L2P and its PyTorch port.
    eval_seen_classes: bool = false,
    /// Images kept of each class over the tasks so far, drawn by the seed; 0: none (L2P-R: 10 or 50).
    replay_per_class: usize = 0,
    /// So many replayed images come with each batch from the second task on (official: as many as the batch has).
    replay_batch_size: usize = 0,
    /// Images of the task that is being learned are among them, not only those of earlier tasks.
    replay_include_new_task: bool = true,
    /// The class mask of the training loss is for the task's own images; those that are replayed have none.
    replay_no_mask: bool = true,
    /// Those that are replayed have the opposite mask: the classes of the task take no part in their loss.
    replay_reverse_mask: bool = false,
    /// After the steps of a task, so many epochs over the replay set of it and all tasks before, without a mask
    /// (the official review trick).
    num_review_epochs: usize = 0,
    /// The head's columns for a new task start as the mean of those of the tasks before, class by class of a task.
    weights_transfer: bool = false,
    /// Of them only the kernel, not the bias.
    transfer_kernel_only: bool = false,
    /// Test also on the task that comes next, and on all before the first step: forward transfer (GEM). Only for scenario
    /// `domain`, in which tasks share their classes.
    forward_transfer: bool = false,
    /// Test after every so many tasks and after the last; more than 1 only where tasks share a test set.
    eval_every_tasks: usize = 1,
    /// `natural`, `seed:N`, `seed` (the seed of the run), or the path of a file with one class (name or number) per line;
    /// `names`: sorted as text; `numpy:N`: NumPy's permutation of these with seed N, as PILOT has it.
    class_order: String = "natural".into(),
    /// Logits of classes outside the task are masked in the training loss.
    train_mask: bool = true,
}
}

table! {
/// The backbone and the classifier on it.
Model {
    /// `bundled:micro` or a `.npz`, `.safetensors` or PyTorch file or a folder; `--init-checkpoint` wins.
    init_checkpoint: String = "bundled:micro".into(),
    /// The form of the activation; `auto`: as the checkpoint was trained.
    gelu: GeluChoice = GeluChoice::Auto,
    /// 0: what the checkpoint was trained with, as far as its format tells.
    layer_norm_eps: f64 = 0.0,
    /// The range in which pixels enter the network.
    input_norm: InputNorm = InputNorm::Auto,
    /// How the position table is resized to another input size; `auto`: as the checkpoint's library does.
    position_resize: PositionRule = PositionRule::Auto,
    /// Attention heads; 0: read or inferred from the checkpoint.
    heads: usize = 0,
    /// Use only the first so many blocks; 0: all.
    blocks: usize = 0,
    /// The rows of the last layer that the head classifies.
    vit_classifier: Classifier = Classifier::Prompt,
    /// What the head starts from; CODA-Prompt and S-Prompts draw it as their codes do, whatever this says.
    head_init: HeadInit = HeadInit::Zero,
    /// Divide the classifier input by its l2 norm.
    norm_pre_logits: bool = false,
    /// Before each training step, the head's column of each class is divided by its l2 norm.
    weight_norm: bool = false,
    /// Logits are divided by this.
    temperature: f64 = 1.0,
    /// Where the prompts stand, and with which position embedding.
    token_order: TokenOrder = TokenOrder::PromptsFirst,
    /// Parameters whose official path contains one of these words do not learn.
    freeze_part: Vec<String> = ["encoder", "embedding", "cls"].map(String::from).to_vec(),
}
}

table! {
/// The pool of the paper: M prompts of length L_p, of which N are selected.
PromptPool {
    /// M. 0: no pool.
    pool_size: usize = 10,
    /// L_p, in tokens.
    length: usize = 10,
    /// N, the prompts selected per image (or per vote).
    top_k: usize = 4,
    /// How images choose: `key`; or as controls, without keys, `random`: N prompts drawn by the seed and the image's
    /// query, or `fixed`: the first N for every image.
    selection: Selection = Selection::Key,
    /// Values that prompts start with.
    initializer: Initializer = Initializer::Uniform,
    /// Keys are learned; otherwise the key of a prompt is its mean.
    prompt_key: bool = true,
    /// Values that keys start with.
    prompt_key_init: Initializer = Initializer::Uniform,
    /// The query that is compared with the keys.
    embedding_key: EmbeddingKey = EmbeddingKey::Cls,
    /// In training, all images of a vote group use the prompts most of them chose.
    batchwise_prompt: bool = true,
    /// Images per vote, the last group of a batch may have fewer; 0: `train.per_device_batch_size`.
    vote_group: usize = 16,
    /// In training, task t uses prompts [t N, (t+1) N) while they exist.
    use_prompt_mask: bool = false,
    /// In training, a prompt counts as the more distant the more often earlier tasks used it (equation 4 of the paper,
    /// which has it for 5-datasets; the official code has `use_prompt_mask` instead).
    diversified_selection: bool = false,
    /// At a task switch, the next task's prompts start as a copy of the last one's.
    shared_prompt_pool: bool = false,
    /// The same for the keys.
    shared_prompt_key: bool = false,
    /// Layers that receive pool prompts, counted from 0, ascending.
    e_prompt_layer_idx: Vec<usize> = vec![0],
    /// Prompts are keys and values in front of the attention (DualPrompt) instead of tokens.
    use_prefix_tune_for_e_prompt: bool = false,
    /// lambda, the weight of the pull term.
    pull_constraint_coeff: f64 = 1.0,
}
}

table! {
/// General prompts, the same for every image and task (DualPrompt).
GPrompt {
    /// Tokens of the general prompt; 0: none.
    g_prompt_length: usize = 0,
    /// Layers that receive the general prompt, counted from 0, ascending.
    g_prompt_layer_idx: Vec<usize> = vec![0, 1],
    /// The general prompt is keys and values in front of the attention instead of tokens.
    use_prefix_tune_for_g_prompt: bool = true,
    /// One tensor serves as key and value.
    same_key_value: bool = false,
    /// Values that the general prompt starts with.
    initializer: Initializer = Initializer::Uniform,
}
}

table! {
/// Ridge regression on random features (RanPAC).
Ranpac {
    /// M, the random features h = relu(f W) of an image; W is drawn by the seed of the run. 0: h = f. Two matrices of
    /// M x M numbers are in memory.
    random_features: usize = 10_000,
    /// Candidates for lambda. Each task chooses by the squared error on the last fifth of its images.
    lambdas: Vec<f64> = powers_of_ten(),
    /// Phase 1: before the first task the backbone learns its classes by adapters of this width beside the MLPs
    /// (published: 64), by `[optim]`; they are frozen afterwards. 0: no adapters.
    adapter_width: usize = 0,
    /// The factor of what adapters add.
    adapter_scale: f64 = 0.1,
    /// Probability that a unit of an adapter is dropped in training.
    adapter_dropout: f64 = 0.1,
    /// Epochs of phase 1, of batches of `train.per_device_batch_size`.
    adapter_epochs: usize = 20,
    /// What happens to the images of phase 1, as `data.augment`; those of phase 2 are prepared like test images.
    adapter_augment: Augment = Augment::CropFlip,
}
}

table! {
/// Components of `method = "coda_prompt"`; no other method reads them.
CodaPrompt {
    /// M, those of all tasks together. Each task learns M / `continual.num_tasks` of them, rounded down.
    components: usize = 100,
    /// L_p, rows of a component: the first half are keys, the second half values in front of the attention.
    length: usize = 8,
    /// Layers that receive the sum of components, counted from 0, ascending.
    layers: Vec<usize> = vec![0, 1, 2, 3, 4],
    /// lambda, the weight of the orthogonality penalty. The paper has 0.1, the published scripts 0.
    ortho_mu: f64 = 0.0,
}
}

table! {
/// Domains of `method = "s_prompts"`; no other method reads them.
SPrompts {
    /// L_p, tokens of a domain's prompt.
    length: usize = 10,
    /// K, centres of the queries of a domain (k-means). A test image takes prompt and head of the domain with the
    /// nearest one.
    centres: usize = 5,
    /// `optim.weight_decay` from the second domain on; below 0: the same. The published settings have another.
    later_weight_decay: f64 = -1.0,
}
}

table! {
/// Elastic weight consolidation; only `method = "ewc"` reads it.
Ewc {
    /// lambda: the loss gets lambda times the sum of F (w - w*)^2 over what learns, without a factor 1/2.
    lambda: f64 = 10.0,
    /// What is left of F when the next task adds its own: F = gamma F + F_new.
    gamma: f64 = 1.0,
    /// The form of F_new.
    fisher: Fisher = Fisher::Weighted,
}
}

table! {
/// Learning without forgetting; only `method = "lwf"` reads it.
Lwf {
    /// Weight of the distance to the teacher's answers in the loss.
    alpha: f64 = 0.5,
    /// T, which logits are divided by before the two are compared.
    temperature: f64 = 2.0,
    /// Epochs in which the head alone learns a task with new classes, before the teacher answers. The published code has
    /// as many as `train.num_epochs`.
    warmup_epochs: usize = 5,
}
}

table! {
/// The optimizer and its learning rate.
Optim {
    /// The update rule.
    optim: OptimizerName = OptimizerName::Adam,
    /// Per `lr_batch` images of the global batch; with `lr_batch` 0 it is used as it is.
    learning_rate: f64 = 0.03,
    /// The batch that `learning_rate` is meant for, in images; 0: no scaling.
    lr_batch: usize = 256,
    /// The learning rate over the steps of a task.
    learning_rate_schedule: Schedule = Schedule::Constant,
    /// Linear warm-up from 0, in epochs.
    warmup_epochs: f64 = 0.0,
    /// The schedule does not go below this, which is scaled by the batch as `learning_rate` is.
    min_learning_rate: f64 = 0.0,
    /// Weight of the decay; 0: none.
    weight_decay: f64 = 0.0,
    /// Momentum of `sgd`.
    sgd_momentum: f64 = 0.9,
    /// Nesterov's form of it; false: PyTorch's default.
    nesterov: bool = true,
    /// Gradients are scaled down to at most this norm; 0: not clipped.
    grad_clip_max_norm: f64 = 1.0,
    /// Which gradients the clip norm runs over.
    clip_scope: ClipScope = ClipScope::Trainable,
    /// A new optimizer (moments and step zero) at every task.
    reinit_optimizer: bool = true,
}
}

table! {
/// Batches, epochs, checkpoints.
Train {
    /// Images per step and device.
    per_device_batch_size: usize = 16,
    /// Epochs per task.
    num_epochs: usize = 5,
    /// Images of a part of a step, whose gradients are added up: less memory, the same step but for rounding. `auto`: a
    /// whole step where it fits into memory, else as much of it as fits. Whole votes stay together.
    micro_batch: MicroBatch = MicroBatch::AUTO,
    /// Images per evaluation batch; results do not depend on it.
    eval_batch_size: usize = 64,
    /// Test on so many images of each test set, counted in batches of `per_device_batch_size` and spread evenly over the
    /// set in the order of its classes; 0: on all.
    num_eval_steps: usize = 0,
    /// Test also after every so many epochs of a task, for the log and TensorBoard; 0: at the end of a task only.
    eval_per_epochs: usize = 0,
    /// Steps between checkpoints within a task (0: none); one is always written at its end.
    checkpoint_every_steps: usize = 100,
    /// Exact savings of work, each of which may be left out: `share_query_pass` (patch embedding and
    /// everything up to the first prompt once for query and prompted pass, prompts once per pool row),
    /// `limit_last_block` (only the rows the head reads), `limit_query_block` (only the class row), `strassen`
    /// (large products on the CPU with seven multiplications instead of eight; rounds in another way),
    /// `packed_weights` (with `strassen`: frozen matrices of a training run are kept as products read
    /// them, too, for three and a half times their memory, small ones for twice).
    shortcuts: Vec<String> = Shortcuts::all(),
    /// On a GPU: a step is captured once and then started as one (CUDA graph); the bits are the same.
    graph: bool = true,
    /// On a GPU: `portable`, or `hopper`: products and attention in 16 bits by kernels for compute capability 9.0, which other
    /// GPUs refuse. Hopper kernels have not run on hardware and are opt-in until a recorded pass exists. Each that fails the check of the GPU is replaced by the portable one. The CPU has no such kernels: there this
    /// is ignored, with a note.
    kernels: Kernels = Kernels::Portable,
}
}

table! {
/// Which baselines a training run computes beside its own result.
Baselines {
    /// Nearest class mean of the frozen features.
    ncm: bool = true,
    /// A linear classifier on the frozen features.
    linear_probe: bool = true,
    /// A head trained naively, task after task, on the frozen features.
    naive_head: bool = true,
    /// Ridge regression on random features of the frozen backbone; `[ranpac]` has its settings.
    ranpac: bool = false,
    /// Trains once more with a single prompt: as long as the run itself.
    single_prompt: bool = false,
    /// Trains once more with prompts drawn at random for each image: as long as the run itself.
    random_prompts: bool = false,
    /// Trains once more with the same prompts for every image: as long as the run itself.
    fixed_prompts: bool = false,
}
}

table! {
/// Only read by `l2p-engine pretrain`: supervised training of a new backbone.
Pretrain {
    /// Weights at the start: `random` ones of the sizes below, or those of the `checkpoint` that
    /// `model.init_checkpoint` names, whose sizes hold. `pretrain --init-checkpoint FILE` sets it.
    start_from: StartFrom = StartFrom::Random,
    /// Only so many of the last blocks learn, with the last norm and the head; 0: all of the backbone.
    learning_blocks: usize = 0,
    /// The learning rate falls by this factor from each block to the one before; 1: one rate for all.
    layer_decay: f64 = 1.0,
    /// Side of a patch in pixels.
    patch_size: usize = 7,
    /// Width of a token.
    embed_dim: usize = 64,
    /// Transformer blocks.
    layers: usize = 6,
    /// Attention heads; divides `embed_dim`.
    heads: usize = 4,
    /// Width of the hidden layer of a block's MLP.
    mlp_dim: usize = 256,
    /// Images are also turned by 90, 180 and 270 degrees; each class and turn is one class.
    rotations: bool = false,
    /// Every training image is one class, which its warped copies belong to;
    /// the labels of the data set are not used. `data.train_per_class` limits their number.
    exemplars: bool = false,
    /// Strength of the random warp (shift, turn, scale, shear, contrast): 0 is none, 1 is strong.
    warp: f64 = 0.0,
    /// Fraction of the target that is spread evenly over all classes.
    label_smoothing: f64 = 0.0,
}
}

/// 10⁻⁸ to 10⁸, as RanPAC/RanPAC @ 012927f has them.
fn powers_of_ten() -> Vec<f64> {
    vec![1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8]
}

impl Continual {
    /// Whether one task has all classes, however many the data have: `num_classes_per_task = 0` with scenario `joint`.
    pub fn takes_all_classes(&self) -> bool {
        self.scenario == Scenario::Joint && self.num_classes_per_task == TaskSizes::Same(0)
    }

    /// The last task whose replayed images come with the batches of task `t`; `None`: none do.
    pub fn replayed_upto(&self, t: usize) -> Option<usize> {
        let upto = if self.replay_include_new_task { t } else { t.saturating_sub(1) };
        (t > 0 && self.replay_batch_size > 0).then_some(upto)
    }
}

impl Config {
    /// Tasks that are learned one after the other, those that were added included.
    pub fn tasks(&self) -> usize {
        match self.continual.scenario {
            Scenario::Joint => 1,
            _ => self.continual.num_tasks + self.data.added_sizes.len(),
        }
    }

    /// Whether task `task` was added by `add-classes`.
    pub fn is_added(&self, task: usize) -> bool {
        !self.data.added_sizes.is_empty() && task >= self.continual.num_tasks
    }
}

impl PromptPool {
    /// Whether there are keys by which the images of a batch can vote.
    pub fn votes(&self) -> bool {
        self.pool_size > 0 && self.selection == Selection::Key
    }
}

impl Data {
    /// The data sets that `joined` names.
    ///
    /// # Errors
    /// A sentence for a word that is no data set, and for no word at all.
    pub fn joined_names(&self) -> Result<Vec<DatasetName>, String> {
        let wanted = || {
            let words = DatasetName::WORDS.iter().filter(|word| **word != DatasetName::Joined.word());
            words.map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
        };
        let name = |word: &String| {
            let name = serde_json::from_value(serde_json::json!(word)).ok();
            name.filter(|name| *name != DatasetName::Joined)
                .ok_or_else(|| format!("data.joined: wanted any of {}, found `{word}`", wanted()))
        };
        if self.joined.is_empty() {
            return Err(format!("data.joined: wanted at least one of {}, found none", wanted()));
        }
        self.joined.iter().map(name).collect()
    }

    /// The names of the classes of each task that was added, and how many of them, from the first, were new.
    pub fn added_tasks(&self) -> Vec<(&[String], usize)> {
        let mut rest = self.added_classes.as_slice();
        let part = |(&size, &new): (&usize, &usize)| {
            let (names, behind) = rest.split_at(size.min(rest.len()));
            rest = behind;
            (names, new.min(names.len()))
        };
        self.added_sizes.iter().zip(&self.added_new).map(part).collect()
    }

    /// Whether images of a batch are mixed.
    pub fn is_mixed(&self) -> bool {
        (self.mixup_alpha > 0.0 || self.cutmix_alpha > 0.0) && self.mix_probability > 0.0
    }
}
