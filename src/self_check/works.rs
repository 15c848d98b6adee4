//! The list of what is checked, the same in parent and child.

use crate::config::Config;
use crate::device::ElementType;
use crate::learner::backbone;
use crate::tensor::DType;
pub use crate::testing::cases::StepShapes;
use crate::testing::cases::{self, Case};

/// Images of the ops at the shapes of a step. A row of a result does not depend on how many there are, and the CPU, which
/// computes the same, is slow.
const IMAGES: usize = 2;

pub(super) const FORMS: [ElementType; 3] = [ElementType::F32, ElementType::Bf16, ElementType::F16];

/// One piece of work of a child.
pub(super) enum Work {
    /// An op of the case table.
    Op(Box<Case>, ElementType),
    /// Whole training steps of a small network.
    Step(ElementType),
}

impl Work {
    /// The op, by the name of its folder.
    pub fn op(&self) -> &'static str {
        match self {
            Work::Op(case, _) => case.op,
            Work::Step(_) => STEP,
        }
    }

    pub fn form(&self) -> ElementType {
        match self {
            Work::Op(_, form) | Work::Step(form) => *form,
        }
    }

    /// In messages.
    pub fn name(&self) -> String {
        match self {
            Work::Op(case, form) => format!("{} {} in {}", case.op, case.label, form.name()),
            Work::Step(form) => format!("training steps in {}", form.name()),
        }
    }

    /// The same work in every form has the same label.
    pub fn label(&self) -> &str {
        match self {
            Work::Op(case, _) => &case.label,
            Work::Step(_) => STEP,
        }
    }
}

/// What stands for a kernel in the row of whole steps.
pub(super) const STEP: &str = "training_step";

pub(super) fn dtype(form: ElementType) -> DType {
    match form {
        ElementType::F32 => DType::F32,
        ElementType::Bf16 => DType::BF16,
        ElementType::F16 => DType::F16,
    }
}

/// Every op in all its forms: at small, odd shapes, at shapes that take the kernels which these leave out (not with
/// `quick`), and at the shapes of a step; at last whole steps.
pub(super) fn works(shapes: Option<&StepShapes>, quick: bool) -> Vec<Work> {
    let mut works = Vec::new();
    let of_step = || shapes.map_or(Vec::new(), cases::of_step);
    let others = || if quick { Vec::new() } else { cases::other_kernels() };
    for list in [&cases::small_on_gpu as &dyn Fn() -> Vec<Case>, &others, &of_step] {
        for form in FORMS {
            let has = |case: &Case| form == ElementType::F32 || case.has_narrow_form();
            works.extend(list().into_iter().filter(has).map(|case| Work::Op(Box::new(case), form)));
        }
    }
    works.extend(FORMS.map(Work::Step));
    works
}

/// The shapes of a step of this configuration; `None` where its backbone cannot be read.
pub fn shapes(config: &Config) -> Option<StepShapes> {
    let dims = backbone::dims(&backbone::describe(config).ok()?);
    let pool = &config.prompt_pool;
    let used = pool.pool_size > 0;
    Some(StepShapes {
        images: IMAGES,
        side: dims.image_size,
        patch: dims.patch_size,
        width: dims.embed_dim,
        heads: dims.heads,
        mlp: dims.mlp_dim,
        pool: pool.pool_size,
        top_k: if used { pool.top_k.min(pool.pool_size) } else { 0 },
        length: pool.length,
        classes: CLASSES,
    })
}

/// Outputs of the head: the number of a run is known once its images are, and it decides columns alone.
const CLASSES: usize = 10;
