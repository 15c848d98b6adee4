//! The list of what is checked, the same in parent and child.

use crate::config::Config;
use crate::config::schema::Kernels;
use crate::device::ElementType;
use crate::learner::backbone;
use crate::ops::matmul::hopper::TILE_COLS;
use crate::tensor::DType;
pub use crate::testing::cases::StepShapes;
use crate::testing::cases::{self, Case};

/// Images of the ops at the shapes of a step. A row of a result does not depend on how many there are, and the CPU, which
/// computes the same, is slow.
const IMAGES: usize = 2;

pub(super) const FORMS: [ElementType; 3] = [ElementType::F32, ElementType::Bf16, ElementType::F16];
/// Those that Hopper kernels have.
pub(super) const NARROW: [ElementType; 2] = [ElementType::Bf16, ElementType::F16];
/// Ops whose products Hopper kernels do, in tiles of several widths.
const PRODUCTS: [&str; 2] = ["matmul", "linear"];
/// The op that has a Hopper kernel for each range of keys.
const ATTENTION: &str = "attention";
/// Elements of the first operand of the products that a quick check has.
const QUICK: usize = 30_000;

/// One piece of work of a child.
pub(super) enum Work {
    /// An op of the case table, by portable kernels.
    Op(Box<Case>, ElementType),
    /// The same by the Hopper kernels, products with tiles of so many columns.
    Hopper(Box<Case>, ElementType, Option<usize>),
    /// The same by the Hopper kernels with tiles of each width and by the portable ones, which are compared.
    Widths(Box<Case>, ElementType),
    /// Whole training steps of a small network, by the kernels of this generation.
    Step(ElementType, Kernels),
}

impl Work {
    /// The op, by the name of its folder.
    pub fn op(&self) -> &'static str {
        match self {
            Work::Op(case, _) | Work::Hopper(case, ..) | Work::Widths(case, _) => case.op,
            Work::Step(..) => STEP,
        }
    }

    pub fn form(&self) -> ElementType {
        match self {
            Work::Op(_, form) | Work::Hopper(_, form, _) | Work::Widths(_, form) | Work::Step(form, _) => {
                *form
            }
        }
    }

    /// The kernels that it is there to check.
    pub fn generation(&self) -> Kernels {
        match self {
            Work::Op(..) => Kernels::Portable,
            Work::Hopper(..) | Work::Widths(..) => Kernels::Hopper,
            Work::Step(_, kernels) => *kernels,
        }
    }

    /// Where one of a family hangs, the others are left out: they would as well, or are of Hopper kernels, which a run can
    /// do without.
    pub fn family(&self) -> String {
        match self.generation() {
            Kernels::Portable => format!("{} {}", self.op(), self.form().name()),
            Kernels::Hopper => format!("{} {}", Kernels::Hopper, self.form().name()),
        }
    }

    /// In messages.
    pub fn name(&self) -> String {
        match self {
            Work::Op(case, form) => format!("{} {} in {}", case.op, case.label, form.name()),
            Work::Hopper(case, form, Some(cols)) => {
                format!("{} {} in {}, tiles of {cols} columns", case.op, case.label, form.name())
            }
            Work::Hopper(case, form, None) => {
                format!("{} {} in {}, Hopper kernels", case.op, case.label, form.name())
            }
            Work::Widths(case, form) => {
                format!("{} {} in {}, tiles of each width", case.op, case.label, form.name())
            }
            Work::Step(form, Kernels::Portable) => format!("training steps in {}", form.name()),
            Work::Step(form, Kernels::Hopper) => format!("training steps in {}, Hopper kernels", form.name()),
        }
    }

    /// The same work in every form has the same label.
    pub fn label(&self) -> &str {
        match self {
            Work::Op(case, _) | Work::Hopper(case, ..) | Work::Widths(case, _) => &case.label,
            Work::Step(..) => STEP,
        }
    }
}

/// What stands for a kernel in the row of whole steps.
pub(super) const STEP: &str = "training_step";

/// The row of whole steps.
pub(super) fn step_row(form: ElementType, kernels: Kernels) -> String {
    match kernels {
        Kernels::Portable => format!("{STEP}_{}", form.name()),
        Kernels::Hopper => format!("{STEP}_{kernels}_{}", form.name()),
    }
}

pub(super) fn dtype(form: ElementType) -> DType {
    match form {
        ElementType::F32 => DType::F32,
        ElementType::Bf16 => DType::BF16,
        ElementType::F16 => DType::F16,
    }
}

/// Every op in all its forms: at small, odd shapes, at shapes that take the kernels which these leave out (not with
/// `quick`), and at the shapes of a step; whole steps; and with `kernels` = hopper what Hopper kernels do, of which
/// `quick` leaves out what is large, and whole steps with them.
pub(super) fn works(
    shapes: Option<&StepShapes>,
    quick: bool,
    kernels: Kernels,
    multiprocessors: usize,
) -> Vec<Work> {
    let mut works = Vec::new();
    let of_step = || shapes.map_or(Vec::new(), cases::of_step);
    let others = || if quick { Vec::new() } else { cases::other_kernels() };
    for list in [&cases::small_on_gpu as &dyn Fn() -> Vec<Case>, &others, &of_step] {
        for form in FORMS {
            let has = |case: &Case| form == ElementType::F32 || case.has_narrow_form();
            works.extend(list().into_iter().filter(has).map(|case| Work::Op(Box::new(case), form)));
        }
    }
    works.extend(FORMS.map(|form| Work::Step(form, Kernels::Portable)));
    if kernels == Kernels::Hopper {
        works.extend(NARROW.into_iter().flat_map(|form| of_hopper(shapes, quick, form, multiprocessors)));
    }
    works
}

fn of_hopper(
    shapes: Option<&StepShapes>,
    quick: bool,
    form: ElementType,
    multiprocessors: usize,
) -> Vec<Work> {
    let cases = |ops: &'static [&str]| {
        let mut cases = cases::hopper();
        cases.retain(|case| !quick || case.inputs[0].shape.len() < QUICK);
        cases.extend(shapes.map_or(Vec::new(), cases::of_step));
        cases.retain(|case| ops.contains(&case.op));
        cases.into_iter().map(Box::new)
    };
    let mut works = Vec::new();
    for cols in TILE_COLS {
        works.extend(cases(&PRODUCTS).map(|case| Work::Hopper(case, form, Some(cols))));
    }
    works.extend(cases(&PRODUCTS).map(|case| Work::Widths(case, form)));
    works.extend(cases(&[ATTENTION]).map(|case| Work::Hopper(case, form, None)));
    if !quick {
        let [product, attention] = cases::hopper_rounds(multiprocessors).map(Box::new);
        works.extend([Work::Widths(product, form), Work::Hopper(attention, form, None)]);
    }
    works.push(Work::Step(form, Kernels::Hopper));
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
