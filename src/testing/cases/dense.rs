//! Cases of the ops where the work is: products, linear layers, GELU, layer norm, attention.

use super::case::{Case, Role, assign, plain, take};
use super::data::{ArgType, Fill, Scope, StepShapes};
use crate::ops::attention::{self, GradientTarget, Gradients, Prefix, PrefixMut, Qkv, Wanted};
use crate::ops::float::Float;
use crate::ops::gelu::{self, GeluForm};
use crate::ops::layer_norm as norm;
use crate::ops::linear::{self, Epilogue, LinearWeights};
use crate::ops::matmul::{self, Layout, Write};
use crate::tensor::Shape;
use crate::testing::plain as naive;

const EPS: f64 = 1e-6;

pub(super) fn small() -> Vec<Case> {
    let mut cases = vec![
        matmul(1, 1, 1),
        matmul(3, 5, 7),
        matmul(17, 48, 5),
        matmul(2, 19, 1),
        // On a GPU: loads of whole vectors, through a pipeline that goes round.
        matmul(12, 200, 24),
        matmul_in_columns(5, 6, 4),
        // The same: long sums in slices.
        matmul_in_columns(2, 3, 1030),
        matmul_in_columns(2, 520, 3),
        linear_columns(3, 530, 4),
        linear_columns(3, 5, 4),
        linear_residual((5, 1), 7, 3),
        linear_gelu((9, 1), 13, 11, GeluForm::Tanh),
        linear_gelu((7, 1), 3, 15, GeluForm::Erf),
        gelu_linear((5, 1), 11, 6, GeluForm::Tanh),
        gelu_linear((3, 1), 8, 16, GeluForm::Erf),
        gelu(3, 37, GeluForm::Tanh),
        gelu(3, 37, GeluForm::Erf),
    ];
    for (rows, c) in [(3, 1), (1, 5), (3, 32), (5, 33), (2, 100)] {
        cases.push(layer_norm(rows, c, Fill::Values));
    }
    cases.push(layer_norm(3, 33, Fill::Around(1000.0)));
    cases.push(layer_norm(2, 8, Fill::Constant(3.0)));
    cases.push(layer_norm_again(3, 5));
    cases.push(attention_packed(2, 5, (3, 4), 0));
    cases.push(attention_packed(1, 1, (1, 1), 0));
    cases.push(attention_packed(2, 4, (2, 3), 3));
    cases.push(attention_apart(2, (2, 7), (3, 5), 0));
    cases.push(attention_apart(2, (1, 6), (2, 4), 2));
    cases.push(attention_apart(3, (5, 3), (1, 7), 1));
    cases
}

/// Large enough for several threads and for every blocking of the products.
pub(super) fn medium() -> Vec<Case> {
    vec![
        matmul(67, 700, 33),
        matmul(130, 64, 257),
        // On a GPU: large tiles, and slices of a weight's gradient.
        matmul(9, 8, 16_300),
        matmul(9, 16_296, 7),
        matmul(1100, 24, 40),
        linear_residual((131, 1), 48, 192),
        linear_gelu((131, 1), 48, 193, GeluForm::Tanh),
        gelu_linear((131, 1), 192, 48, GeluForm::Tanh),
        // On the CPU: panels and tiles without seven products for eight, rows with a rest, longer than one piece of the sum.
        linear_residual((101, 1), 576, 96),
        linear_gelu((131, 1), 96, 160, GeluForm::Erf),
        gelu_linear((131, 1), 160, 96, GeluForm::Erf),
        gelu(131, 500, GeluForm::Erf),
        layer_norm(133, 192, Fill::Values),
        layer_norm(150, 768, Fill::Values),
        attention_packed(7, 37, (3, 16), 0),
        attention_packed(5, 17, (3, 16), 5),
        attention_apart(7, (1, 65), (2, 64), 0),
        attention_packed(1, 150, (2, 64), 0),
        attention_packed(2, 40, (2, 80), 3),
        attention_apart(1, (130, 70), (1, 128), 1),
    ]
}

/// Of [`medium`] what takes other kernels than [`small`] does on a GPU: large tiles, and wide heads.
pub(super) fn other_kernels() -> Vec<Case> {
    vec![
        matmul(9, 8, 16_300),
        matmul(9, 16_296, 7),
        matmul(1100, 24, 40),
        attention_apart(2, (1, 65), (2, 64), 0),
        attention_packed(1, 40, (1, 80), 3),
        attention_apart(1, (67, 70), (1, 128), 1),
    ]
}

/// What the kernels for compute capability 9.0 take, of 16-bit numbers. Products: each width of tile, more depth than two rounds of
/// the ring, tails in rows, columns and depth, several tiles for a block of a device with four multiprocessors, every ending.
/// Attention: each number of keys that there is a kernel for, few rows of queries, all numbers of tiles, several units for a block;
/// and what is left to the portable kernel.
pub(super) fn hopper() -> Vec<Case> {
    let mut cases = hopper_products();
    cases.extend([
        attention_packed(7, 5, (3, 64), 0),
        attention_packed(5, 37, (2, 64), 0),
        attention_apart(9, (1, 65), (1, 64), 0),
        attention_apart(1, (70, 128), (3, 64), 0),
        attention_apart(3, (130, 17), (2, 64), 0),
        attention_packed(1, 150, (1, 64), 0),
        attention_packed(1, 197, (1, 64), 0),
        attention_apart(1, (40, 222), (1, 64), 0),
        attention_apart(1, (207, 237), (1, 64), 0),
        attention_apart(3, (5, 256), (2, 64), 0),
        attention_packed(2, 5, (3, 48), 0),
        attention_packed(2, 9, (1, 64), 3),
        attention_apart(1, (1, 257), (1, 64), 0),
    ]);
    cases
}

/// For a GPU with so many multiprocessors: a product of which each block of the kernels for compute capability 9.0 does several tiles,
/// in tiles of each width, and attention of which it does several heads, so that rings go round and turns are taken.
pub(super) fn hopper_rounds(multiprocessors: usize) -> [Case; 2] {
    let images = (2 * multiprocessors + 1).div_ceil(3);
    [matmul(128 * multiprocessors + 5, 136, 264), attention_packed(images, 70, (3, 64), 0)]
}

fn hopper_products() -> Vec<Case> {
    vec![
        matmul(20, 64, 8),
        matmul(1, 24, 200),
        matmul(300, 72, 248),
        matmul(300, 856, 264),
        matmul(130, 840, 40),
        matmul(270, 264, 840),
        matmul_in_vectors(140, 77, 203),
        matmul_in_columns(5, 6, 4),
        linear_residual((131, 1), 200, 72),
        linear_gelu((131, 1), 72, 200, GeluForm::Tanh),
        linear_gelu((3, 1), 40, 136, GeluForm::Erf),
        gelu_linear((131, 1), 200, 72, GeluForm::Tanh),
        gelu_linear((5, 1), 136, 24, GeluForm::Erf),
    ]
}

/// By images, with an odd number of rows, sums in pieces, several groups of rows.
pub(super) fn wide() -> Vec<Case> {
    vec![
        linear_residual((2, 33), 1032, 448),
        linear_gelu((5, 22), 384, 384, GeluForm::Erf),
        gelu_linear((3, 37), 448, 1090, GeluForm::Tanh),
    ]
}

/// B = 4, T = 237 (196 patches, class token, 40 prompts), C = 768.
pub(super) fn vit_b() -> Vec<Case> {
    let (b, t, c) = (4, 237, 768);
    vec![
        matmul(b * t, c, 3 * c),
        linear_residual((b, t), c, c),
        linear_gelu((b, t), c, 4 * c, GeluForm::Tanh),
        linear_gelu((b, t), c, 4 * c, GeluForm::Erf),
        gelu_linear((b, t), 4 * c, c, GeluForm::Tanh),
        gelu_linear((b, t), 4 * c, c, GeluForm::Erf),
        gelu(b * t, 4 * c, GeluForm::Tanh),
        gelu(b * t, 4 * c, GeluForm::Erf),
        layer_norm(b * t, c, Fill::Values),
        attention_packed(b, t, (12, c / 12), 0),
        attention_packed(b, 197, (12, c / 12), 20),
        attention_apart(b, (40, t), (12, c / 12), 0),
    ]
}

/// Query pass and prompted pass of one block, and the head.
pub(super) fn of_step(step: &StepShapes) -> Vec<Case> {
    let (b, t, c, mlp) = (step.images, step.tokens(), step.width, step.mlp);
    let (heads, prompts) = ((step.heads, c / step.heads), step.top_k * step.length);
    let mut cases = vec![
        matmul(b * t, c, 3 * c),
        linear_residual((b, 1), c, step.classes),
        linear_residual((b, t), c, c),
        linear_gelu((b, t), c, mlp, GeluForm::Tanh),
        linear_gelu((b, t), c, mlp, GeluForm::Erf),
        gelu_linear((b, t), mlp, c, GeluForm::Tanh),
        gelu_linear((b, t), mlp, c, GeluForm::Erf),
        layer_norm(b * t, c, Fill::Values),
        attention_packed(b, t, heads, 0),
        attention_apart(b, (1, t - prompts), heads, 0),
    ];
    if prompts > 0 {
        cases.push(attention_packed(b, t - prompts, heads, prompts));
        cases.push(attention_apart(b, (prompts, t), heads, 0));
    }
    cases
}

/// y = x w, with the gradients of both.
fn matmul(m: usize, k: usize, n: usize) -> Case {
    let (x_at, w_at, y_at) = (Layout::dense(m, k), Layout::dense(k, n), Layout::dense(m, n));
    Case::new("matmul", format!("{m}x{k}x{n}"), m)
        .input("x", [m, k], Fill::Values, Scope::Each)
        .input("w", [k, n], Fill::Values, Scope::All)
        .output("y", [m, n], Scope::Each, Role::Result)
        .keep(&["w"], ArgType::Weight)
        .forward(move |dev, x, out| {
            let [y] = take(out);
            matmul::forward(dev, (y, y_at), (x[0], x_at), (x[1], w_at), Write::Set)
        })
        .backward(&[("x", Write::Set), ("w", Write::Add)], move |dev, x, _, up, grads| {
            let [dx, dw] = take(grads);
            matmul::backward_input(dev, (dx, x_at), (up[0], y_at), (x[1], w_at), Write::Set)?;
            matmul::backward_weight_acc(dev, (dw, w_at), (x[0], x_at), (up[0], y_at))
        })
        .plain(plain!(|x, up| {
            let dx = naive::matmul(&up[0], &naive::transpose(&x[1], k, n), m, n, k);
            let dw = naive::matmul(&naive::transpose(&x[0], m, k), &up[0], k, m, n);
            (vec![naive::matmul(&x[0], &x[1], m, k, n)], vec![dx, dw])
        }))
        .flops(2 * m * k * n, 4 * m * k * n)
        .exact()
        .batched(move |m| matmul(m, k, n))
}

/// The same added to y, with x and w in the middle columns of wider matrices.
fn matmul_in_columns(m: usize, k: usize, n: usize) -> Case {
    matmul_between(m, (1, k, 2), (2, n, 3))
}

/// The same with columns that begin at multiples of 8 and rows that are multiples of 8 apart, k and n left as they are.
fn matmul_in_vectors(m: usize, k: usize, n: usize) -> Case {
    let behind = |n: usize| 16 - n % 8;
    matmul_between(m, (8, k, behind(k)), (16, n, behind(n)))
}

/// y += x w with columns of x and w before and behind those in use.
fn matmul_between(m: usize, x_columns: (usize, usize, usize), w_columns: (usize, usize, usize)) -> Case {
    let ((x_before, k, x_behind), (w_before, n, w_behind)) = (x_columns, w_columns);
    let (x_stride, w_stride) = (x_before + k + x_behind, w_before + n + w_behind);
    let x_at = Layout::dense(m, x_stride).columns(x_before, k);
    let w_at = Layout::dense(k, w_stride).columns(w_before, n);
    let y_at = Layout::dense(m, n);
    Case::new("matmul", format!("{m}x{k}x{n} in columns {x_before} and {w_before}, added"), m)
        .input("x", [m, x_stride], Fill::Values, Scope::Each)
        .input("w", [k, w_stride], Fill::Values, Scope::All)
        .output("y", [m, n], Scope::Each, Role::Result)
        .adding()
        .keep(&["w"], ArgType::Weight)
        .forward(move |dev, x, out| {
            let [y] = take(out);
            matmul::forward(dev, (y, y_at), (x[0], x_at), (x[1], w_at), Write::Add)
        })
        .backward(&[("x", Write::Add), ("w", Write::Add)], move |dev, x, _, up, grads| {
            let [dx, dw] = take(grads);
            matmul::backward_input(dev, (dx, x_at), (up[0], y_at), (x[1], w_at), Write::Add)?;
            matmul::backward_weight_acc(dev, (dw, w_at), (x[0], x_at), (up[0], y_at))
        })
        .plain(plain!(|x, up| {
            let own = columns(&x[0], x_stride, x_before, k);
            let w = columns(&x[1], w_stride, w_before, n);
            let dx = naive::matmul(&up[0], &naive::transpose(&w, k, n), m, n, k);
            let dw = naive::matmul(&naive::transpose(&own, m, k), &up[0], k, m, n);
            let grads = vec![between(&dx, k, x_before, x_behind), between(&dw, n, w_before, w_behind)];
            (vec![naive::matmul(&own, &w, m, k, n)], grads)
        }))
        .flops(2 * m * k * n, 4 * m * k * n)
        .exact()
        .batched(move |m| matmul_between(m, x_columns, w_columns))
}

/// `cols` columns of rows of `stride` values, from `start` on.
fn columns<T: Float>(values: &[T], stride: usize, start: usize, cols: usize) -> Vec<T> {
    values.chunks_exact(stride).flat_map(|row| &row[start..][..cols]).copied().collect()
}

/// Rows of `cols` values with zeros before and behind them.
fn between<T: Float>(values: &[T], cols: usize, before: usize, behind: usize) -> Vec<T> {
    let zeros = |n: usize| std::iter::repeat_n(T::ZERO, n);
    values
        .chunks_exact(cols)
        .flat_map(|row| zeros(before).chain(row.iter().copied()).chain(zeros(behind)))
        .collect()
}

/// Images, and rows of each: a matrix, if that is one.
type ImageRows = (usize, usize);

fn shape((b, t): ImageRows, width: usize) -> Shape {
    if t == 1 { [b, width].into() } else { [b, t, width].into() }
}

fn named((b, t): ImageRows) -> String {
    if t == 1 { b.to_string() } else { format!("{b}·{t}") }
}

fn with_weights(op: &'static str, label: String, rows: ImageRows, k: usize, n: usize) -> Case {
    Case::new(op, label, rows.0)
        .input("x", shape(rows, k), Fill::Values, Scope::Each)
        .input("kernel", [k, n], Fill::Values, Scope::All)
        .input("bias", [n], Fill::Values, Scope::All)
        .keep(&["kernel"], ArgType::Weight)
        .wide(&["bias"])
}

/// Some columns of a wider layer, no ending.
fn linear_columns(m: usize, k: usize, n: usize) -> Case {
    let used = 2..2 + n;
    let (here, there) = (used.clone(), used);
    with_weights("linear", format!("{m}x{k}x{n} columns 2.. of {}", n + 3), (m, 1), k, n + 3)
        .output("y", [m, n], Scope::Each, Role::Result)
        .forward(move |dev, x, out| {
            let [y] = take(out);
            let w = LinearWeights { kernel: x[1], bias: x[2], columns: here.clone(), packed: None };
            linear::forward(dev, y, x[0], &w, Epilogue::Plain)
        })
        .backward(
            &[("x", Write::Set), ("kernel", Write::Add), ("bias", Write::Add)],
            move |dev, x, _, up, grads| {
                let [dx, dkernel, dbias] = take(grads);
                let w = LinearWeights { kernel: x[1], bias: x[2], columns: there.clone(), packed: None };
                linear::backward_input(dev, dx, up[0], &w, Write::Set)?;
                linear::backward_params_acc(dev, Some(dkernel), Some(dbias), x[0], up[0], there.clone())
            },
        )
        .plain(plain!(|x, up| {
            let w = columns(&x[1], n + 3, 2, n);
            let mut y = naive::matmul(&x[0], &w, m, k, n);
            y.iter_mut().enumerate().for_each(|(i, y)| *y += x[2][2 + i % n]);
            let dx = naive::matmul(&up[0], &naive::transpose(&w, k, n), m, n, k);
            let dw = naive::matmul(&naive::transpose(&x[0], m, k), &up[0], k, m, n);
            let mut db = up[0][..n].to_vec();
            up[0][n..].iter().enumerate().for_each(|(i, up)| db[i % n] += *up);
            (vec![y], vec![dx, between(&dw, n, 2, 1), between(&db, n, 2, 1)])
        }))
        .flops(2 * m * k * n, 4 * m * k * n)
        .exact()
        .batched(move |m| linear_columns(m, k, n))
}

fn linear_residual(rows: ImageRows, k: usize, n: usize) -> Case {
    let m = rows.0 * rows.1;
    with_weights("linear", format!("{}x{k}x{n} + residual", named(rows)), rows, k, n)
        .input("residual", shape(rows, n), Fill::Values, Scope::Each)
        .output("y", shape(rows, n), Scope::Each, Role::Result)
        .forward(move |dev, x, out| {
            let [y] = take(out);
            linear::forward(dev, y, x[0], &LinearWeights::all(x[1], x[2]), Epilogue::Residual(x[3]))
        })
        .backward(
            &[("x", Write::Set), ("kernel", Write::Add), ("bias", Write::Add)],
            move |dev, x, _, up, grads| {
                let [dx, dkernel, dbias] = take(grads);
                linear::backward_input(dev, dx, up[0], &LinearWeights::all(x[1], x[2]), Write::Set)?;
                linear::backward_params_acc(dev, Some(dkernel), Some(dbias), x[0], up[0], 0..n)
            },
        )
        .plain(plain!(|x, up| {
            let y = naive::add_row(&naive::matmul(&x[0], &x[1], m, k, n), &x[2]);
            let dx = naive::matmul(&up[0], &naive::transpose(&x[1], k, n), m, n, k);
            let dw = naive::matmul(&naive::transpose(&x[0], m, k), &up[0], k, m, n);
            (vec![naive::add(&y, &x[3])], vec![dx, dw, naive::column_sums(&up[0], n)])
        }))
        .flops(2 * m * k * n, 4 * m * k * n)
        .exact()
        .batched(move |b| linear_residual((b, rows.1), k, n))
}

fn linear_gelu(rows: ImageRows, k: usize, n: usize, form: GeluForm) -> Case {
    let m = rows.0 * rows.1;
    with_weights("linear", format!("{}x{k}x{n} gelu {form:?}", named(rows)), rows, k, n)
        .output("y", shape(rows, n), Scope::Each, Role::Result)
        .output("pre", shape(rows, n), Scope::Each, Role::Kept)
        .forward(move |dev, x, out| {
            let [y, pre] = take(out);
            linear::forward(
                dev,
                y,
                x[0],
                &LinearWeights::all(x[1], x[2]),
                Epilogue::Gelu { pre: Some(pre), form },
            )
        })
        .backward(
            &[("x", Write::Set), ("kernel", Write::Add), ("bias", Write::Add)],
            move |dev, x, out, up, grads| {
                let [dx, dkernel, dbias] = take(grads);
                let mut d = crate::tensor::Tensor::zeros_on(dev, up[0].shape(), up[0].dtype())?;
                assign(d.view_mut(), up[0]);
                gelu::backward_in_place(dev, d.view_mut(), out[1], form)?;
                linear::backward_input(dev, dx, d.view(), &LinearWeights::all(x[1], x[2]), Write::Set)?;
                linear::backward_params_acc(dev, Some(dkernel), Some(dbias), x[0], d.view(), 0..n)
            },
        )
        .plain(plain!(|x, up| {
            let pre = naive::add_row(&naive::matmul(&x[0], &x[1], m, k, n), &x[2]);
            let both: Vec<_> = pre.iter().map(|&x| naive::gelu(x, form)).collect();
            let d: Vec<_> = both.iter().zip(&up[0]).map(|(g, &u)| g.1 * u).collect();
            let dx = naive::matmul(&d, &naive::transpose(&x[1], k, n), m, n, k);
            let dw = naive::matmul(&naive::transpose(&x[0], m, k), &d, k, m, n);
            let y = both.iter().map(|g| g.0).collect();
            (vec![y, pre], vec![dx, dw, naive::column_sums(&d, n)])
        }))
        .flops(2 * m * k * n, 4 * m * k * n)
        .batched(move |b| linear_gelu((b, rows.1), k, n, form))
}

/// A layer on gelu(x), back to x in one step.
fn gelu_linear(rows: ImageRows, k: usize, n: usize, form: GeluForm) -> Case {
    let m = rows.0 * rows.1;
    with_weights("linear", format!("{}x{k}x{n} of gelu {form:?}", named(rows)), rows, k, n)
        .output("y", shape(rows, n), Scope::Each, Role::Result)
        .output("activation", shape(rows, k), Scope::Each, Role::Kept)
        .forward(move |dev, x, out| {
            let [y, mut activation] = take(out);
            gelu::forward(dev, activation.reborrow(), x[0], form)?;
            linear::forward(dev, y, activation.as_view(), &LinearWeights::all(x[1], x[2]), Epilogue::Plain)
        })
        .backward(&[("x", Write::Set)], move |dev, x, _, up, grads| {
            let [dx] = take(grads);
            linear::backward_input_gelu(dev, dx, up[0], &LinearWeights::all(x[1], x[2]), x[0], form)
        })
        .plain(plain!(|x, up| {
            let both: Vec<_> = x[0].iter().map(|&x| naive::gelu(x, form)).collect();
            let activation: Vec<_> = both.iter().map(|g| g.0).collect();
            let y = naive::add_row(&naive::matmul(&activation, &x[1], m, k, n), &x[2]);
            let d = naive::matmul(&up[0], &naive::transpose(&x[1], k, n), m, n, k);
            (vec![y, activation], vec![both.iter().zip(&d).map(|(g, &d)| g.1 * d).collect()])
        }))
        .flops(2 * m * k * n, 2 * m * k * n)
        .batched(move |b| gelu_linear((b, rows.1), k, n, form))
}

fn gelu(m: usize, n: usize, form: GeluForm) -> Case {
    Case::new("gelu", format!("{m}x{n} {form:?}"), m)
        .input("x", [m, n], Fill::Values, Scope::Each)
        .output("y", [m, n], Scope::Each, Role::Result)
        .forward(move |dev, x, out| {
            let [y] = take(out);
            gelu::forward(dev, y, x[0], form)
        })
        .backward(&[("x", Write::Set)], move |dev, x, _, up, grads| {
            let [mut dx] = take(grads);
            assign(dx.reborrow(), up[0]);
            gelu::backward_in_place(dev, dx, x[0], form)
        })
        .plain(plain!(|x, up| {
            let both: Vec<_> = x[0].iter().map(|&x| naive::gelu(x, form)).collect();
            let dx = both.iter().zip(&up[0]).map(|(g, &u)| g.1 * u).collect();
            (vec![both.iter().map(|g| g.0).collect()], vec![dx])
        }))
        .moves(2 * m * n, 5 * m * n)
        .batched(move |m| gelu(m, n, form))
}

fn layer_norm(rows: usize, c: usize, values: Fill) -> Case {
    let about = if let Fill::Around(mean) = values { format!(" mean {mean}") } else { String::new() };
    Case::new("layer_norm", format!("{rows}x{c}{about}"), rows)
        .input("x", [rows, c], values, Scope::Each)
        .input("scale", [c], Fill::Weights, Scope::All)
        .input("bias", [c], Fill::Values, Scope::All)
        .output("y", [rows, c], Scope::Each, Role::Result)
        .output("stats", [rows, 2], Scope::Each, Role::Kept)
        .wide(&["scale", "bias", "stats"])
        .forward(move |dev, x, out| {
            let [y, stats] = take(out);
            norm::forward(dev, y, stats, x[0], x[1], x[2], EPS)
        })
        .backward(
            &[("x", Write::Add), ("scale", Write::Add), ("bias", Write::Add)],
            move |dev, x, out, up, grads| {
                let [dx, dscale, dbias] = take(grads);
                norm::backward_input_acc(dev, dx, up[0], x[0], out[1], x[1])?;
                norm::backward_params_acc(dev, dscale, dbias, up[0], x[0], out[1])
            },
        )
        .plain(plain!(|x, up| {
            let (y, stats) = naive::layer_norm(&x[0], &x[1], &x[2], EPS);
            let grads = naive::layer_norm_backward(&x[0], &x[1], &stats, &up[0]);
            (vec![y, stats], grads.to_vec())
        }))
        .moves(2 * rows * c, 6 * rows * c)
        .batched(move |rows| layer_norm(rows, c, values))
}

/// `again` after a forward pass, as a backward pass uses it.
fn layer_norm_again(rows: usize, c: usize) -> Case {
    Case::new("layer_norm", format!("{rows}x{c} again"), rows)
        .input("x", [rows, c], Fill::Values, Scope::Each)
        .input("scale", [c], Fill::Weights, Scope::All)
        .input("bias", [c], Fill::Values, Scope::All)
        .output("y", [rows, c], Scope::Each, Role::Kept)
        .output("stats", [rows, 2], Scope::Each, Role::Kept)
        .wide(&["scale", "bias", "stats"])
        .forward(move |dev, x, out| {
            let [mut y, mut stats] = take(out);
            norm::forward(dev, y.reborrow(), stats.reborrow(), x[0], x[1], x[2], EPS)?;
            y.fill(f64::NAN);
            norm::recompute(dev, y, x[0], stats.as_view(), x[1], x[2])
        })
        .plain(plain!(|x, _up| {
            let (y, stats) = naive::layer_norm(&x[0], &x[1], &x[2], EPS);
            (vec![y, stats], vec![])
        }))
        .moves(4 * rows * c, 0)
        .batched(move |rows| layer_norm_again(rows, c))
}

fn prefix_inputs(case: Case, b: usize, n: usize, c: usize) -> Case {
    if n == 0 {
        return case;
    }
    case.input("prefix.k", [b, n, c], Fill::Values, Scope::Each).input(
        "prefix.v",
        [b, n, c],
        Fill::Values,
        Scope::Each,
    )
}

/// 2 products forward, 5 backward, each 2 · rows · keys · C.
fn attention_flops(case: Case, b: usize, tq: usize, keys: usize, c: usize) -> Case {
    case.flops(4 * b * tq * keys * c, 10 * b * tq * keys * c)
}

fn attention_packed(b: usize, t: usize, (h, d): (usize, usize), n: usize) -> Case {
    let c = h * d;
    let e = naive::Heads { b, h, d, tq: t, tk: n + t };
    let prefix = if n > 0 { format!(" prefix {n}") } else { String::new() };
    let case = Case::new("attention", format!("{b}x{t} {h}x{d} packed{prefix}"), b);
    let case = case.input("qkv", [b, t, 3 * c], Fill::Values, Scope::Each);
    let mut grads = vec![("qkv", Write::Set)];
    if n > 0 {
        grads.extend([("prefix.k", Write::Set), ("prefix.v", Write::Set)]);
    }
    let case = prefix_inputs(case, b, n, c)
        .output("out", [b, t, c], Scope::Each, Role::Result)
        .output("lse", [b, h, t], Scope::Each, Role::Kept)
        .wide(&["lse"])
        .forward(move |dev, x, out| {
            let [out, lse] = take(out);
            let prefix = (n > 0).then(|| Prefix { k: x[1], v: x[2] });
            attention::forward(dev, out, lse, &Qkv::packed(x[0]), prefix.as_ref(), h)
        })
        .backward(&grads, move |dev, x, out, up, grads| {
            let mut grads = grads.into_iter();
            let into = GradientTarget::Packed(grads.next().expect("dqkv"));
            let gradients = Gradients { into, q_rows: 0..t, kv_rows: 0..t };
            let dprefix = grads.next().zip(grads.next()).map(|(k, v)| PrefixMut { k, v });
            let prefix = (n > 0).then(|| Prefix { k: x[1], v: x[2] });
            let qkv = Qkv::packed(x[0]);
            let wanted = Wanted { gradients: Some(gradients), prefix: dprefix };
            attention::backward_input(dev, wanted, up[0], out[1], &qkv, prefix.as_ref(), h)
        })
        .plain(plain!(|x, up| {
            let part = |i: usize| naive::columns(&x[0], 3 * c, i * c..(i + 1) * c);
            let (mut k, mut v) = (part(1), part(2));
            if n > 0 {
                k = naive::beside(&x[1], n * c, &k, t * c);
                v = naive::beside(&x[2], n * c, &v, t * c);
            }
            let a = naive::attention(&part(0), &k, &v, &up[0], e);
            let image = (n + t) * c;
            let [own_k, own_v] = [&a.dk, &a.dv].map(|g| naive::columns(g, image, n * c..image));
            let dkv = naive::beside(&own_k, c, &own_v, c);
            let mut grads = vec![naive::beside(&a.dq, c, &dkv, 2 * c)];
            if n > 0 {
                grads.extend([&a.dk, &a.dv].map(|g| naive::columns(g, image, 0..n * c)));
            }
            (vec![a.out, a.lse], grads)
        }));
    attention_flops(case, b, t, n + t, c).batched(move |b| attention_packed(b, t, (h, d), n))
}

fn attention_apart(b: usize, (tq, t): (usize, usize), (h, d): (usize, usize), n: usize) -> Case {
    let c = h * d;
    let e = naive::Heads { b, h, d, tq, tk: n + t };
    let prefix = if n > 0 { format!(" prefix {n}") } else { String::new() };
    let case = Case::new("attention", format!("{b}x{tq} of {t} {h}x{d} apart{prefix}"), b)
        .input("q", [b, tq, c], Fill::Values, Scope::Each)
        .input("kv", [b, t, 2 * c], Fill::Values, Scope::Each);
    let mut grads = vec![("q", Write::Set), ("kv", Write::Set)];
    if n > 0 {
        grads.extend([("prefix.k", Write::Set), ("prefix.v", Write::Set)]);
    }
    let case = prefix_inputs(case, b, n, c)
        .output("out", [b, tq, c], Scope::Each, Role::Result)
        .output("lse", [b, h, tq], Scope::Each, Role::Kept)
        .wide(&["lse"])
        .forward(move |dev, x, out| {
            let [out, lse] = take(out);
            let prefix = (n > 0).then(|| Prefix { k: x[2], v: x[3] });
            attention::forward(dev, out, lse, &Qkv::apart(x[0], x[1]), prefix.as_ref(), h)
        })
        .backward(&grads, move |dev, x, out, up, grads| {
            let mut grads = grads.into_iter();
            let into = GradientTarget::Apart { q: grads.next().expect("dq"), kv: grads.next().expect("dkv") };
            let gradients = Gradients { into, q_rows: 0..tq, kv_rows: 0..t };
            let dprefix = grads.next().zip(grads.next()).map(|(k, v)| PrefixMut { k, v });
            let prefix = (n > 0).then(|| Prefix { k: x[2], v: x[3] });
            let qkv = Qkv::apart(x[0], x[1]);
            let wanted = Wanted { gradients: Some(gradients), prefix: dprefix };
            attention::backward_input(dev, wanted, up[0], out[1], &qkv, prefix.as_ref(), h)
        })
        .plain(plain!(|x, up| {
            let part = |i: usize| naive::columns(&x[1], 2 * c, i * c..(i + 1) * c);
            let (mut k, mut v) = (part(0), part(1));
            if n > 0 {
                k = naive::beside(&x[2], n * c, &k, t * c);
                v = naive::beside(&x[3], n * c, &v, t * c);
            }
            let a = naive::attention(&x[0], &k, &v, &up[0], e);
            let image = (n + t) * c;
            let [own_k, own_v] = [&a.dk, &a.dv].map(|g| naive::columns(g, image, n * c..image));
            let mut grads = vec![a.dq, naive::beside(&own_k, c, &own_v, c)];
            if n > 0 {
                grads.extend([&a.dk, &a.dv].map(|g| naive::columns(g, image, 0..n * c)));
            }
            (vec![a.out, a.lse], grads)
        }));
    attention_flops(case, b, tq, n + t, c).batched(move |b| attention_apart(b, (tq, t), (h, d), n))
}
