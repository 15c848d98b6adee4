//! What a model needs to know of a configuration, checked against the backbone it will get.

use super::layout::TokenLayout;
use super::regularizer::{self, Sizes};
use crate::config::schema::{Classifier, ClipScope, Config, HeadInit, Method, Shortcuts, TokenOrder};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::nn::adapter::AdapterDims;
use crate::nn::block::Types;
use crate::nn::params::Declare;
use crate::nn::vit::Dims;
use crate::ops::linear::PackedForm;
use crate::prompts::{PromptMethod, Room, Settings};
use crate::tensor::DType;
use crate::tensor::plan::Plan;

/// Everything that decides the shapes and formulas of a [`super::Model`].
#[derive(Debug, Clone)]
pub struct Setup {
    pub dims: Dims,
    /// Width of the head.
    pub classes: usize,
    pub classifier: Classifier,
    pub head_init: HeadInit,
    pub norm_pre_logits: bool,
    pub temperature: f64,
    pub token_order: TokenOrder,
    pub freeze_part: Vec<String>,
    /// What prompt methods read.
    pub prompts: Settings,
    /// Adapters beside the MLPs of all blocks, and a head of cosines in training.
    pub adapter: Option<AdapterDims>,
    /// What regularizers read.
    pub regularizer: regularizer::Settings,
    pub clip_scope: ClipScope,
    /// l2 penalty in the loss: 0.5 · decay · Σ p² (0 for AdamW, which decays in the optimizer).
    pub weight_decay: f64,
    pub label_smoothing: f64,
    /// See [`crate::optim::Optimizer::with_layer_decay`]; 1: one learning rate for all.
    pub layer_decay: f64,
    pub shortcuts: Shortcuts,
    /// What activations are stored as.
    pub dtype: DType,
    /// The CPU's form of 16 bits; see [`Setup::on`].
    pub bf16_products: bool,
    /// Images of a part of a step: larger steps are divided.
    pub part_images: usize,
    /// Largest batch of a step or an evaluation.
    pub max_batch: usize,
    /// Keep the pre-trained backbone beside one that learns, for `Model::features`.
    pub keep_original: bool,
    /// Whether gradients will be asked for.
    pub training: bool,
    /// The columns of the head are made unit vectors before a step.
    pub weight_norm: bool,
    /// Classes of a task, and whether the kernel alone, where the head of new classes starts from that of old ones.
    pub transfer_head: Option<(usize, bool)>,
    /// Tasks that a run began with.
    pub tasks: usize,
    /// Whether images of a batch may have class masks of their own.
    pub row_masks: bool,
    /// Whether images of a batch may have soft labels instead of labels.
    pub mixed: bool,
}

impl Setup {
    /// # Errors
    /// `Error::Config` naming the key, what the backbone allows and what was found.
    pub fn new(config: &Config, dims: Dims, classes: usize, max_batch: usize) -> Result<Setup> {
        use crate::config::schema::{OptimizerName, Precision};
        let setup = Setup {
            dims,
            classes,
            classifier: config.model.vit_classifier,
            head_init: config.model.head_init,
            norm_pre_logits: config.model.norm_pre_logits,
            temperature: config.model.temperature,
            token_order: config.model.token_order,
            freeze_part: config.model.freeze_part.clone(),
            prompts: Settings::of(config),
            adapter: (config.method == Method::Ranpac && config.ranpac.adapter_width > 0).then_some(
                AdapterDims {
                    width: config.ranpac.adapter_width,
                    scale: config.ranpac.adapter_scale,
                    dropout: config.ranpac.adapter_dropout,
                },
            ),
            regularizer: regularizer::Settings::of(config),
            clip_scope: config.optim.clip_scope,
            weight_decay: match config.optim.optim {
                OptimizerName::AdamW => 0.0,
                _ => config.optim.weight_decay,
            },
            label_smoothing: 0.0,
            layer_decay: 1.0,
            shortcuts: Shortcuts::named(&config.train.shortcuts).map_err(|word| {
                let words = Shortcuts::WORDS.join("`, `");
                Error::config(format!("train.shortcuts: wanted any of `{words}`, found `{word}`"))
            })?,
            dtype: match config.precision {
                Precision::Auto | Precision::F32 => DType::F32,
                Precision::Bf16 => DType::BF16,
                Precision::F16 => DType::F16,
                Precision::F64 => DType::F64,
            },
            bf16_products: false,
            part_images: config.train.micro_batch.of(usize::MAX),
            max_batch,
            keep_original: config.baselines.any(),
            training: true,
            weight_norm: config.model.weight_norm,
            transfer_head: {
                let cl = &config.continual;
                cl.num_classes_per_task
                    .same()
                    .filter(|_| cl.weights_transfer)
                    .map(|classes| (classes, cl.transfer_kernel_only))
            },
            tasks: config.continual.num_tasks,
            row_masks: config.continual.replay_batch_size > 0,
            mixed: config.data.is_mixed(),
        };
        setup.check()?;
        Ok(setup)
    }

    /// On the device of the network: on a CPU `bf16` is the type of the operands of products with the backbone's
    /// kernels, and everything is stored as f32.
    pub fn on(self, gpu: bool) -> Setup {
        let bf16_products = !gpu && self.dtype == DType::BF16;
        Setup { bf16_products, dtype: if bf16_products { DType::F32 } else { self.dtype }, ..self }
    }

    /// How the backbone's kernels are packed for products on a CPU.
    pub fn packed_form(&self, plan: &Plan) -> Option<PackedForm> {
        let Shortcuts { strassen, packed_weights, .. } = self.shortcuts;
        match self.bf16_products {
            true => Some(PackedForm::Bf16),
            false => {
                (self.training && strassen && packed_weights && !plan.is_on_gpu()).then_some(PackedForm::Own)
            }
        }
    }

    /// What blocks store. Where a CPU multiplies in bf16, what only products read is bf16 in memory as well, if blocks are
    /// frozen: gradients of their kernels are products of f32.
    pub fn block_types(&self, blocks_learn: bool) -> Types {
        let narrow = self.bf16_products && !blocks_learn;
        Types { stream: self.dtype, hidden: if narrow { DType::BF16 } else { self.dtype } }
    }

    /// What gradients are multiplied by, so that small ones survive in f16; the optimizer divides by it.
    pub fn loss_scale(&self) -> f64 {
        if self.dtype == DType::F16 { 1024.0 } else { 1.0 }
    }

    /// What prompt methods know of the network.
    pub fn room(&self) -> Room {
        let Setup { dims, max_batch: batch, training, dtype, .. } = *self;
        Room { dims, batch, training, dtype: dtype.accum_dtype(), activations: dtype }
    }

    /// What regularizers know of it.
    pub fn sizes(&self) -> Sizes {
        let Setup { classes, max_batch: batch, training, dtype, .. } = *self;
        Sizes { batch, classes, training, dtype: dtype.accum_dtype() }
    }

    fn check(&self) -> Result<()> {
        self.prompts.check(self.dims.layers)?;
        let (mut declare, mut plan) = (Declare::default(), Plan::dry(&Device::Cpu));
        let prompts = PromptMethod::new(&mut declare, &mut plan, &self.prompts, self.room());
        let layout = TokenLayout::new(&self.dims, self.classifier, &prompts);
        let needs_prompts = matches!(self.classifier, Classifier::Prompt | Classifier::TokenPrompt);
        if needs_prompts && layout.prompt_tokens == 0 {
            return Err(Error::config(format!(
                "model.vit_classifier: `{}` reads prompt tokens, but this configuration prepends none; wanted \
                 `token` or `gap`, or a prompt pool with prompt tuning",
                self.classifier
            )));
        }
        if self.token_order == TokenOrder::ClsFirst && layout.layers.iter().skip(1).any(|l| l.tokens_in > 0) {
            return Err(Error::config(
                "model.token_order: `cls_first` is defined for prompts in layer 0 only \
                 (prompt_pool.e_prompt_layer_idx = [0])",
            ));
        }
        Ok(())
    }
}
