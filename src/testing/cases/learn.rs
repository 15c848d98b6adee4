//! Cases of the ops that a step learns with: prompt selection, loss and optimizer.

use super::case::{Case, Role, assign, plain, take};
use super::data::{Fill, Scope};
use crate::device::Device;
use crate::error::Result;
use crate::ops::float::Float as _;
use crate::ops::match_prompts::{self, Select};
use crate::ops::matmul::Write;
use crate::ops::optimizer::{self, Adam, Sgd};
use crate::ops::{anchor, axpy, component_weights, cross_entropy, distill, relu, row_norm};
use crate::tensor::{DType, Tensor, View, ViewMut};
use crate::testing::plain as naive;

fn scalar(view: View) -> f64 {
    view.to_f64()[0]
}

pub(super) fn pull(b: usize, m: usize, n: usize) -> Case {
    Case::new("match_prompts", format!("pull {n} of {m}, batch {b}"), 0)
        .input("ids", [b, n], Fill::DistinctIds(n, m as u32), Scope::Each)
        .input("similarity", [b, m], Fill::Values, Scope::Each)
        .output("pull", [1], Scope::All, Role::Result)
        .all_wide()
        .numbers(&["pull"])
        .forward(move |dev, x, out| {
            let [out] = take(out);
            match_prompts::pull(dev, out, x[1], x[0])
        })
        .backward(&[("similarity", Write::Set)], move |dev, x, _, up, grads| {
            let [dsimilarity] = take(grads);
            match_prompts::backward_pull(dev, dsimilarity, x[0], scalar(up[0]))
        })
        .waiting()
        .moves(b * n, b * m + b * n)
}

pub(super) fn weigh_components(b: usize, m: usize, c: usize) -> Case {
    Case::new("component_weights", format!("{m} components of {c}, batch {b}"), b)
        .input("query", [b, c], Fill::Values, Scope::Each)
        .input("attention", [m, c], Fill::Values, Scope::All)
        .input("key", [m, c], Fill::Values, Scope::All)
        .output("weights", [b, m], Scope::Each, Role::Result)
        .all_wide()
        .forward(move |dev, x, out| {
            let [weights] = take(out);
            component_weights::forward(dev, weights, x[0], x[1], x[2])
        })
        .backward(&[("attention", Write::Add), ("key", Write::Add)], move |dev, x, _, up, grads| {
            let [dattention, dkey] = take(grads);
            component_weights::backward_acc(dev, dattention, dkey, up[0], x[0], x[1], x[2])
        })
        .plain(plain!(|x, up| {
            let (w, grads) = naive::component_weights(x, &up[0], c);
            (vec![w], grads.to_vec())
        }))
        .moves(b * m + b * c + 2 * m * c, b * m + b * c + 6 * m * c)
        .batched(move |b| weigh_components(b, m, c))
}

/// The penalty of parameters away from their anchor.
pub(super) fn anchor(n: usize) -> Case {
    let scale = |up: &[View]| scalar(up[0]);
    Case::new("anchor", format!("{n} parameters"), 0)
        .input("p", [n], Fill::Values, Scope::All)
        .input("anchor", [n], Fill::Values, Scope::All)
        .input("importance", [n], Fill::Positive, Scope::All)
        .output("penalty", [1], Scope::All, Role::Result)
        .all_wide()
        .numbers(&["penalty"])
        .forward(move |dev, x, out| {
            let [out] = take(out);
            anchor::penalty(dev, out, x[0], x[1], x[2])
        })
        .backward(&[("p", Write::Add)], move |dev, x, _, up, grads| {
            let [dp] = take(grads);
            anchor::backward_acc(dev, dp, x[0], x[1], x[2], scale(up))
        })
        .plain(plain!(|x, up| {
            let (penalty, d) = naive::anchor(x, up[0][0]);
            (vec![vec![penalty]], vec![d])
        }))
        .waiting()
        .moves(3 * n, 4 * n)
}

/// Units that are all kept, by the factor of those that are not dropped.
pub(super) fn relu(rows: usize, c: usize) -> Case {
    Case::new("relu", format!("{rows}x{c}"), 0)
        .input("x", [rows, c], Fill::Values, Scope::Each)
        .input("keep", [rows, c], Fill::Constant(1.25), Scope::Each)
        .output("y", [rows, c], Scope::Each, Role::Result)
        .all_wide()
        .on_cpu_only()
        .forward(|dev, x, out| {
            let [mut y] = take(out);
            assign(y.reborrow(), x[0]);
            relu::forward_in_place(dev, y, Some(x[1]))
        })
        .backward(&[("x", Write::Set)], |dev, _, out, up, grads| {
            let [mut dx] = take(grads);
            assign(dx.reborrow(), up[0]);
            relu::backward_in_place(dev, dx, out[0], 1.25)
        })
        .plain(plain!(|x, up| {
            let (y, dx) = naive::relu(&x[0], &up[0], 1.25);
            (vec![y], vec![dx])
        }))
        .moves(3 * rows * c, 3 * rows * c)
}

/// Squares of gradients that are added up, weighed by a loss or not.
pub(super) fn add_squares(n: usize, weighed: bool) -> Case {
    Case::new("anchor", format!("{n} squares{}", if weighed { ", weighed" } else { "" }), 0)
        .input("importance", [n], Fill::Positive, Scope::All)
        .input("g", [n], Fill::Values, Scope::All)
        .input("loss", [1], Fill::Constant(0.7), Scope::All)
        .output("importance", [n], Scope::All, Role::Kept)
        .all_wide()
        .numbers(&["loss"])
        .forward(move |dev, x, out| {
            let [mut f] = take(out);
            assign(f.reborrow(), x[0]);
            anchor::add_squares(dev, f, x[1], weighed.then_some(x[2]), 0.3)
        })
        .plain(plain!(|x, _up| {
            let weight = if weighed { 0.3 * (-x[2][0].to_f64()).exp() } else { 0.3 };
            (vec![naive::add_squares(&x[0], &x[1], weight)], vec![])
        }))
        .moves(3 * n, 0)
}

/// Distillation over all classes but every third.
pub(super) fn distill(b: usize, k: usize, temperature: f64) -> Case {
    Case::new("distill", format!("{b}x{k} at temperature {temperature}"), 0)
        .input("logits", [b, k], Fill::Values, Scope::Each)
        .input("teacher", [b, k], Fill::Values, Scope::Each)
        .input("mask", [k], Fill::TwoOfThree, Scope::All)
        .output("distance", [1], Scope::All, Role::Result)
        .all_wide()
        .numbers(&["distance"])
        .forward(move |dev, x, out| {
            let ([out], mut none) = (take(out), Tensor::zeros_on(dev, [b, k], x[0].dtype())?);
            distill::forward_backward_acc(dev, out, none.view_mut(), x[0], x[1], x[2], (temperature, 0.0))
        })
        .backward(&[("logits", Write::Add)], move |dev, x, out, up, grads| {
            let ([d], mut distance) = (take(grads), Tensor::zeros_on(dev, [1], out[0].dtype())?);
            let with = (temperature, scalar(up[0]));
            distill::forward_backward_acc(dev, distance.view_mut(), d, x[0], x[1], x[2], with)
        })
        .plain(plain!(|x, up| {
            let (distance, d) = naive::distill(x, k, temperature, up[0][0]);
            (vec![vec![distance]], vec![d])
        }))
        .waiting()
        .moves(2 * b * k, 4 * b * k)
}

pub(super) fn column_norm(rows: usize, c: usize) -> Case {
    Case::new("row_norm", format!("columns of {rows}x{c}"), 0)
        .input("x", [rows, c], Fill::Values, Scope::Each)
        .output("y", [rows, c], Scope::Each, Role::Kept)
        .all_wide()
        .forward(|dev, x, out| {
            let [mut y] = take(out);
            assign(y.reborrow(), x[0]);
            row_norm::columns_in_place(dev, y)
        })
        .plain(plain!(|x, _up| (vec![naive::column_norm(&x[0], c)], vec![])))
        .moves(5 * rows * c, 0)
}

pub(super) fn penalise(b: usize, m: usize) -> Case {
    Case::new("match_prompts", format!("penalise {m}, batch {b}"), b)
        .input("similarity", [b, m], Fill::Cosines, Scope::Each)
        .input("used", [m], Fill::Ids(4), Scope::All)
        .output("scores", [b, m], Scope::Each, Role::Kept)
        .all_wide()
        .forward(|dev, x, out| {
            let [scores] = take(out);
            match_prompts::penalise(dev, scores, x[0], x[1])
        })
        .plain(plain!(|x, _up| (vec![naive::penalised(&x[0], &x[1])], vec![])))
        .moves(2 * b * m, 0)
        .batched(move |b| penalise(b, m))
}

pub(super) fn count(b: usize, m: usize, n: usize) -> Case {
    Case::new("match_prompts", format!("count {n} of {m}, batch {b}"), 0)
        .input("ids", [b, n], Fill::DistinctIds(n, m as u32), Scope::Each)
        .output("counts", [m], Scope::All, Role::Ids)
        .adding()
        .all_wide()
        .forward(|dev, x, out| {
            let [counts] = take(out);
            match_prompts::count_acc(dev, counts, x[0])
        })
        .exact()
        .moves(b * n, 0)
}

pub(super) fn select(b: usize, m: usize, n: usize, how: Select) -> Case {
    let batch = if matches!(how, Select::Vote { .. }) { 0 } else { b };
    let case = Case::new("match_prompts", format!("{how:?} {n} of {m}, batch {b}"), batch)
        .input("similarity", [b, m], Fill::Values, Scope::Each)
        .output("ids", [b, n], Scope::Each, Role::Ids)
        .all_wide()
        .forward(move |dev, x, out| {
            let [ids] = take(out);
            match_prompts::select(dev, ids, x[0], how)
        })
        .moves(b * m + b * n, 0);
    if batch == 0 { case } else { case.batched(move |b| select(b, m, n, how)) }
}

/// Whether each image has its own class mask, and whether labels are soft.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Loss {
    pub own_mask: bool,
    pub soft: bool,
}

/// x: labels or soft labels, logits, mask.
fn run_loss(dev: &Device, outcome: ViewMut, d: Option<ViewMut>, x: &[View], smoothing: f64) -> Result<()> {
    // On the CPU soft labels are f32 beside logits in f64.
    let narrow =
        (x[0].dtype() == DType::F64).then(|| Tensor::from_f64(&x[0].to_f64(), x[0].shape(), DType::F32));
    let targets = narrow.as_ref().map_or(x[0], Tensor::view);
    cross_entropy::forward_backward(dev, outcome, d, x[1], targets, x[2], smoothing)
}

pub(super) fn cross_entropy(b: usize, k: usize, smoothing: f64, of: Loss) -> Case {
    let case = Case::new("cross_entropy", format!("{b}x{k} smoothing {smoothing}, {of:?}"), 0);
    let case = match of.soft {
        true => case.input("soft_labels", [b, k], Fill::SoftLabels(k), Scope::Each),
        false => case.input("labels", [b], Fill::Ids(2), Scope::Each),
    };
    let case = case.input("logits", [b, k], Fill::Values, Scope::Each);
    let case = match of.own_mask {
        true => case.input("mask", [b, k], Fill::MaskRows(k), Scope::Each),
        false => case.input("mask", [k], Fill::TwoOfThree, Scope::All),
    };
    case.output("loss", [1], Scope::All, Role::Result)
        .output("outcome", [2], Scope::All, Role::Kept)
        .all_wide()
        .numbers(&["loss", "outcome"])
        .forward(move |dev, x, out| {
            let [mut loss, mut outcome] = take(out);
            run_loss(dev, outcome.reborrow(), None, x, smoothing)?;
            loss.copy_from(outcome.as_view().part(0, [1]))
        })
        .backward(&[("logits", Write::Set)], move |dev, x, out, up, grads| {
            let ([mut d], mut outcome) = (take(grads), Tensor::zeros_on(dev, [2], out[1].dtype())?);
            run_loss(dev, outcome.view_mut(), Some(d.reborrow()), x, smoothing)?;
            axpy::scale_in_place(dev, d, scalar(up[0]))
        })
        .plain(plain!(|x, up| {
            let masks: Vec<bool> = x[2].iter().map(|&m| m.to_f64() != 0.0).cycle().take(b * k).collect();
            let soft_labels = if of.soft { x[0].clone() } else { naive::one_hot(&x[0], k) };
            let (outcome, d) = naive::cross_entropy(&x[1], &soft_labels, &masks, b, smoothing);
            let d = d.iter().map(|&d| d * up[0][0]).collect();
            (vec![vec![outcome[0]], outcome.to_vec()], vec![d])
        }))
        .waiting()
        .moves(b * k, 4 * b * k)
}

pub(super) fn adam(n: usize, decay: f64) -> Case {
    let with = Adam { beta1: 0.9, beta2: 0.999, eps: 1e-8, decay, max_norm: 1.5 };
    // With decay the norm is within its limit, without beyond.
    let squares = if decay > 0.0 { 0.25 } else { 9.0 };
    Case::new("optimizer", format!("adam {n} decay {decay}"), 0)
        .input("p", [n], Fill::Values, Scope::All)
        .input("m", [n], Fill::Values, Scope::All)
        .input("v", [n], Fill::Positive, Scope::All)
        .input("g", [n], Fill::Values, Scope::All)
        .input("squares", [1], Fill::Constant(squares), Scope::All)
        .input("step_scalars", [4], Fill::Numbers([0.03, 0.271, 0.002997, 1.0]), Scope::All)
        .output("p", [n], Scope::All, Role::Kept)
        .output("m", [n], Scope::All, Role::Kept)
        .output("v", [n], Scope::All, Role::Kept)
        .all_wide()
        .numbers(&["squares", "step_scalars"])
        .forward(move |dev, x, out| {
            let [mut p, mut m, mut v] = take(out);
            for (to, from) in [&mut p, &mut m, &mut v].into_iter().zip(x) {
                assign(to.reborrow(), *from);
            }
            optimizer::adam(dev, p, [m, v], x[3], x[4], x[5], with)
        })
        .plain(plain!(|x, _up| (naive::adam(x, with), vec![])))
        .moves(13 * n, 0)
}

pub(super) fn sgd(n: usize, nesterov: bool) -> Case {
    let with = Sgd { momentum: 0.9, nesterov, max_norm: 1.5 };
    Case::new("optimizer", format!("sgd {n}{}", if nesterov { ", Nesterov" } else { "" }), 0)
        .input("p", [n], Fill::Values, Scope::All)
        .input("u", [n], Fill::Values, Scope::All)
        .input("g", [n], Fill::Values, Scope::All)
        .input("squares", [1], Fill::Constant(9.0), Scope::All)
        .input("step_scalars", [4], Fill::Numbers([0.03, 0.271, 0.002997, 1.0]), Scope::All)
        .output("p", [n], Scope::All, Role::Kept)
        .output("u", [n], Scope::All, Role::Kept)
        .all_wide()
        .numbers(&["squares", "step_scalars"])
        .forward(move |dev, x, out| {
            let [mut p, mut u] = take(out);
            assign(p.reborrow(), x[0]);
            assign(u.reborrow(), x[1]);
            optimizer::sgd(dev, p, u, x[2], x[3], x[4], with)
        })
        .plain(plain!(|x, _up| (naive::sgd(x, with), vec![])))
        .moves(9 * n, 0)
}
