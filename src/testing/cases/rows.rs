//! Cases of the ops that move and sum rows, and the list of all cases but products.

use super::case::{Case, Role, assign, plain, take};
use super::data::{Fill, Scope, StepShapes};
use super::learn::{
    Loss, adam, add_squares, anchor, column_norm, count, cross_entropy, distill, penalise, pull, relu,
    select, sgd, weigh_components,
};
use crate::config::schema::{Augment, Data};
use crate::data::{Normalize, Preprocess};
use crate::ops::match_prompts::Select;
use crate::ops::matmul::Write;
use crate::ops::pool_tokens::{self, Pooling};
use crate::ops::preprocess::ImageTransform;
use crate::ops::row_norm::{self, Normalization};
use crate::ops::{axpy, gather, patches, preprocess, sum, tokens};
use crate::testing::plain as naive;
use std::ops::Range;

pub(super) fn small() -> Vec<Case> {
    let mut cases = vec![
        patches(2, 6, 3),
        patches(3, 4, 4),
        preprocess(3, (7, 5, 3), (9, 6), 3, Augment::None),
        preprocess(4, (6, 11, 1), (12, 10), 5, Augment::CropFlip),
        preprocess(2, (8, 8, 3), (8, 8), 8, Augment::Crop),
        patches(2, 16, 8),
        embed(3, 5, 7),
        embed(1, 2, 1),
        copy(3, (6, 4, 5), 2, 1..4),
        add_row(5, 7),
        gather(3, (7, 5, 4), 1, (3, 1)),
        gather(2, (7, 6, 5), 1, (2, 3)),
        gather(1, (3, 1, 1), 0, (1, 1)),
        gather(9, (5, 6, 5), 1, (4, 1)),
        axpy(3, 11),
        scale(2, 9),
        column_sums(7, 5),
        column_sums(2000, 33),
        squares(3, 12_347),
        pull(3, 7, 2),
        select(5, 9, 3, Select::PerImage),
        select(5, 9, 3, Select::Vote { group: 2 }),
        select(5, 9, 3, Select::Fixed { start: 4 }),
        weigh_components(3, 5, 7),
        anchor(1001),
        anchor(8192),
        add_squares(1003, false),
        add_squares(1004, true),
        relu(3, 7),
        distill(3, 5, 2.0),
        distill(2, 2, 1.0),
        weigh_components(1, 1, 2),
        weigh_components(5, 3, 37),
        // On a GPU: more components than a block has warps, more columns than threads.
        weigh_components(2, 9, 6),
        weigh_components(2, 2, 300),
        column_norm(3, 37),
        column_norm(70, 5),
        column_norm(1, 1),
        penalise(5, 9),
        penalise(1, 1),
        penalise(70, 37),
        count(5, 9, 3),
        count(23, 37, 5),
        cross_entropy(4, 7, 0.0, Loss::default()),
        cross_entropy(3, 10, 0.1, Loss::default()),
        cross_entropy(1, 2, 0.0, Loss::default()),
        cross_entropy(4, 7, 0.0, Loss { own_mask: true, soft: false }),
        cross_entropy(9, 37, 0.1, Loss { own_mask: true, soft: false }),
        cross_entropy(4, 7, 0.0, Loss { own_mask: false, soft: true }),
        cross_entropy(11, 70, 0.1, Loss { own_mask: true, soft: true }),
        adam(1001, 0.0),
        adam(37, 0.02),
        sgd(1001, true),
        sgd(1003, false),
    ];
    for kind in [Pooling::Mean, Pooling::Max, Pooling::MeanMax] {
        cases.push(pool_tokens(3, (6, 5), 1..5, kind));
        cases.push(pool_tokens(1, (1, 1), 0..1, kind));
    }
    for form in [Normalization::Rsqrt, Normalization::Plus] {
        cases.push(row_norm(3, 37, form));
        cases.push(row_norm(5, 2, form));
    }
    cases
}

pub(super) fn medium() -> Vec<Case> {
    vec![
        patches(7, 28, 7),
        preprocess(5, (28, 28, 1), (36, 32), 8, Augment::CropFlip),
        preprocess(5, (32, 32, 3), (72, 64), 16, Augment::None),
        embed(7, 50, 96),
        copy(7, (60, 50, 96), 10, 0..50),
        add_row(300, 193),
        gather(7, (60, 40, 96), 2, (4, 5)),
        axpy(300, 193),
        scale(300, 193),
        column_sums(5000, 48),
        squares(300, 193),
        pool_tokens(9, (50, 96), 1..50, Pooling::MeanMax),
        row_norm(200, 193, Normalization::Rsqrt),
        row_norm(200, 193, Normalization::Plus),
        select(65, 10, 4, Select::PerImage),
        select(65, 10, 4, Select::Vote { group: 16 }),
        weigh_components(65, 20, 193),
        anchor(100_003),
        distill(65, 103, 0.7),
        column_norm(300, 100),
        penalise(65, 20),
        count(65, 20, 4),
        cross_entropy(65, 100, 0.1, Loss::default()),
        cross_entropy(65, 100, 0.1, Loss { own_mask: true, soft: true }),
        adam(100_003, 0.01),
        sgd(100_003, true),
    ]
}

pub(super) fn vit_b() -> Vec<Case> {
    let (b, t, c) = (4, 237, 768);
    vec![
        patches(b, 224, 16),
        preprocess(b, (32, 32, 3), (256, 224), 16, Augment::CropFlip),
        embed(b, 197, c),
        copy(b, (t, 197, c), 40, 0..197),
        add_row(b * t, c),
        gather(b, (t, 50, c), 0, (4, 10)),
        axpy(b * t, c),
        scale(b * t, c),
        column_sums(b * t, c),
        squares(b * t, c),
        pool_tokens(b, (40, c), 0..40, Pooling::Mean),
        pool_tokens(b, (196, c), 0..196, Pooling::MeanMax),
        row_norm(128, c, Normalization::Rsqrt),
        pull(128, 10, 4),
        select(128, 10, 4, Select::Vote { group: 16 }),
        weigh_components(128, 100, c),
        anchor(122_980),
        add_squares(122_980, true),
        relu(128 * 197, 64),
        distill(128, 100, 2.0),
        column_norm(c, 100),
        penalise(128, 10),
        count(128, 10, 4),
        cross_entropy(128, 100, 0.0, Loss::default()),
        cross_entropy(128, 100, 0.0, Loss { own_mask: true, soft: true }),
        adam(122_980, 0.0),
        sgd(122_980, true),
    ]
}

pub(super) fn of_step(step: &StepShapes) -> Vec<Case> {
    let (b, t, c, k) = (step.images, step.tokens(), step.width, step.classes);
    let (tokens, prompts) = (1 + step.patches(), step.top_k * step.length);
    let mut cases = vec![
        patches(b, step.side, step.patch),
        embed(b, tokens, c),
        copy(b, (t, tokens, c), prompts, 0..tokens),
        add_row(b * t, c),
        axpy(b * t, c),
        column_sums(b * t, c),
        squares(b * t, c),
        pool_tokens(b, (t, c), 0..prompts.max(1), Pooling::Mean),
        pool_tokens(b, (t, c), 0..t, Pooling::MeanMax),
        row_norm(b.max(step.pool), c, Normalization::Rsqrt),
        cross_entropy(b, k, 0.0, Loss::default()),
        adam(c * k, 0.0),
        sgd(c * k, true),
    ];
    if prompts > 0 {
        let (pool, n) = (step.pool, step.top_k);
        cases.extend([
            gather(b, (t, pool * step.length, c), 0, (n, step.length)),
            pull(b, pool, n),
            select(b, pool, n, Select::PerImage),
            select(b, pool, n, Select::Vote { group: b }),
            weigh_components(b, pool, c),
        ]);
    }
    cases
}

fn patches(b: usize, side: usize, patch: usize) -> Case {
    let (grid, line) = (side / patch, patch * 3);
    Case::new("patches", format!("{b}x{side}x{side} by {patch}"), b)
        .input("images", [b, side, side, 3], Fill::Values, Scope::Each)
        .output("rows", [b * grid * grid, patch * line], Scope::Each, Role::Kept)
        .wide(&["images"])
        .forward(move |dev, x, out| {
            let [rows] = take(out);
            patches::forward(dev, rows, x[0], patch)
        })
        .plain(plain!(|x, _up| {
            let mut rows = Vec::new();
            for n in 0..b * grid * grid * patch * line {
                let (row, at) = (n / (patch * line), n % (patch * line));
                let (b, i, j) = (row / (grid * grid), row / grid % grid, row % grid);
                let (u, v, channel) = (at / line, at % line / 3, at % 3);
                rows.push(x[0][((b * side + i * patch + u) * side + j * patch + v) * 3 + channel]);
            }
            (vec![rows], vec![])
        }))
        .moves(2 * b * side * side * 3, 0)
        .exact()
        .batched(move |b| patches(b, side, patch))
}

/// Images of `height` x `width` to `resize`, to `size`, to patches.
fn preprocess(
    b: usize,
    (height, width, channels): (usize, usize, usize),
    (resize_size, input_size): (usize, usize),
    patch_size: usize,
    augment: Augment,
) -> Case {
    const IMAGES: usize = 3;
    let config = Data { input_size, resize_size, augment, ..Data::default() };
    let with = Preprocess::new(&config, Normalize::IMAGENET).expect("sizes that fit");
    let patches = (input_size / patch_size).pow(2);
    let label = format!("{b}x{height}x{width}x{channels} to {resize_size} to {input_size} {augment:?}");
    Case::new("preprocess", label, 0)
        .input("pixels", [IMAGES, height, width, channels], Fill::Bytes, Scope::All)
        .input("indices", [b], Fill::Ids(IMAGES as u32), Scope::Each)
        .input("first", [2], Fill::Ids(u32::MAX), Scope::All)
        .output("rows", [b * patches, patch_size * patch_size * 3], Scope::Each, Role::Kept)
        .forward(move |dev, x, out| {
            let [rows] = take(out);
            let plan = ImageTransform { preprocess: &with, patch_size, seed: 5 };
            let table = preprocess::table(&with).to(dev)?;
            preprocess::forward(dev, rows, x[0], x[1], Some(x[2]), table.view(), plan)
        })
        .waiting()
        .moves(b * input_size * input_size * 3, 0)
}

/// Class token, patches and positions; `copy` and `sum_images_acc` are its transpose.
fn embed(b: usize, t: usize, c: usize) -> Case {
    Case::new("tokens", format!("embed {b}x{t}x{c}"), b)
        .input("patches", [b, t - 1, c], Fill::Values, Scope::Each)
        .input("cls", [c], Fill::Values, Scope::All)
        .input("positions", [t, c], Fill::Values, Scope::All)
        .output("x", [b, t, c], Scope::Each, Role::Result)
        .wide(&["cls", "positions"])
        .forward(move |dev, x, out| {
            let [y] = take(out);
            tokens::embed(dev, y, x[0], x[1], x[2])
        })
        .backward(
            &[("patches", Write::Set), ("cls", Write::Add), ("positions", Write::Add)],
            move |dev, _, _, up, grads| {
                let [dpatches, dcls, dpositions] = take(grads);
                tokens::copy(dev, dpatches, 0, up[0], 1..t, Write::Set)?;
                tokens::sum_images_acc(dev, dcls, up[0], 0..1)?;
                tokens::sum_images_acc(dev, dpositions, up[0], 0..t)
            },
        )
        .plain(plain!(|x, up| {
            let cls: Vec<_> = (0..b).flat_map(|_| x[1].clone()).collect();
            let rows = naive::beside(&cls, c, &x[0], (t - 1) * c);
            let dpatches = naive::columns(&up[0], t * c, c..t * c);
            let all = naive::column_sums(&up[0], t * c);
            (vec![naive::add_row(&rows, &x[2])], vec![dpatches, all[..c].to_vec(), all])
        }))
        .moves(2 * b * t * c, 3 * b * t * c)
        .exact()
        .batched(move |b| embed(b, t, c))
}

/// Rows of one sequence added to another.
fn copy(b: usize, (ty, tx, c): (usize, usize, usize), to: usize, from: Range<usize>) -> Case {
    let (n, again, there) = (from.len(), from.clone(), from.clone());
    Case::new("tokens", format!("copy {b}x{n} of {tx} into {ty}, C {c}"), b)
        .input("x", [b, tx, c], Fill::Values, Scope::Each)
        .output("y", [b, ty, c], Scope::Each, Role::Result)
        .adding()
        .forward(move |dev, x, out| {
            let [y] = take(out);
            tokens::copy(dev, y, to, x[0], from.clone(), Write::Add)
        })
        .backward(&[("x", Write::Add)], move |dev, _, _, up, grads| {
            let [dx] = take(grads);
            tokens::copy(dev, dx, there.start, up[0], to..to + n, Write::Add)
        })
        .moves(3 * b * n * c, 3 * b * n * c)
        .exact()
        .batched(move |b| copy(b, (ty, tx, c), to, again.clone()))
}

fn add_row(rows: usize, c: usize) -> Case {
    Case::new("tokens", format!("add_row {rows}x{c}"), rows)
        .input("x", [rows, c], Fill::Values, Scope::Each)
        .input("row", [c], Fill::Values, Scope::All)
        .output("y", [rows, c], Scope::Each, Role::Result)
        .wide(&["row"])
        .forward(move |dev, x, out| {
            let [mut y] = take(out);
            assign(y.reborrow(), x[0]);
            tokens::add_row_in_place(dev, y, x[1])
        })
        .backward(&[("row", Write::Add)], move |dev, _, _, up, grads| {
            let [drow] = take(grads);
            sum::columns_acc(dev, drow, up[0])
        })
        .plain(plain!(|x, up| { (vec![naive::add_row(&x[0], &x[1])], vec![naive::column_sums(&up[0], c)]) }))
        .moves(4 * rows * c, rows * c)
        .exact()
        .batched(move |rows| add_row(rows, c))
}

/// n rows of a table, from row `at` of each sequence of t.
fn gather(b: usize, (t, rows, c): (usize, usize, usize), at: usize, (n, length): (usize, usize)) -> Case {
    Case::new("gather", format!("{b}x{n} times {length} of {rows} into {t}, C {c}"), b)
        .input("ids", [b, n], Fill::Ids((rows / length) as u32), Scope::Each)
        .input("table", [rows, c], Fill::Values, Scope::All)
        .output("tokens", [b, t, c], Scope::Each, Role::Result)
        .adding()
        .wide(&["table"])
        .forward(move |dev, x, out| {
            let [tokens] = take(out);
            gather::forward(dev, tokens, at, x[1], x[0], length)
        })
        .backward(&[("table", Write::Add)], move |dev, x, _, up, grads| {
            let [dtable] = take(grads);
            gather::backward_acc(dev, dtable, up[0], at, x[0], length)
        })
        .moves(2 * b * n * length * c, b * n * length * c + 2 * rows * c)
        .exact()
        .batched(move |b| gather(b, (t, rows, c), at, (n, length)))
}

fn axpy(rows: usize, c: usize) -> Case {
    Case::new("axpy", format!("y += -0.7 x, {rows}x{c}"), rows)
        .input("x", [rows, c], Fill::Values, Scope::Each)
        .output("y", [rows, c], Scope::Each, Role::Result)
        .adding()
        .forward(move |dev, x, out| {
            let [y] = take(out);
            axpy::axpy(dev, y, x[0], -0.7)
        })
        .backward(&[("x", Write::Add)], move |dev, _, _, up, grads| {
            let [dx] = take(grads);
            axpy::axpy(dev, dx, up[0], -0.7)
        })
        .moves(3 * rows * c, 3 * rows * c)
        .batched(move |rows| axpy(rows, c))
}

fn scale(rows: usize, c: usize) -> Case {
    Case::new("axpy", format!("x *= 1.3, {rows}x{c}"), rows)
        .input("x", [rows, c], Fill::Values, Scope::Each)
        .output("y", [rows, c], Scope::Each, Role::Result)
        .forward(move |dev, x, out| {
            let [mut y] = take(out);
            assign(y.reborrow(), x[0]);
            axpy::scale_in_place(dev, y, 1.3)
        })
        .plain(plain!(|x, _up| (vec![naive::scaled(&x[0], 1.3)], vec![])))
        .moves(4 * rows * c, 0)
        .batched(move |rows| scale(rows, c))
}

fn column_sums(rows: usize, c: usize) -> Case {
    Case::new("sum", format!("columns {rows}x{c}"), 0)
        .input("x", [rows, c], Fill::Values, Scope::Each)
        .output("out", [c], Scope::All, Role::Kept)
        .adding()
        .wide(&["out"])
        .forward(move |dev, x, out| {
            let [out] = take(out);
            sum::columns_acc(dev, out, x[0])
        })
        .plain(plain!(|x, _up| (vec![naive::column_sums(&x[0], c)], vec![])))
        .exact()
        .moves(rows * c, 0)
}

fn squares(rows: usize, c: usize) -> Case {
    Case::new("sum", format!("squares {rows}x{c}"), 0)
        .input("x", [rows, c], Fill::Values, Scope::Each)
        .output("out", [1], Scope::All, Role::Kept)
        .all_wide()
        .numbers(&["out"])
        .adding()
        .forward(move |dev, x, out| {
            let [out] = take(out);
            sum::squares_acc(dev, out, x[0])
        })
        .plain(plain!(|x, _up| {
            let squares: Vec<_> = x[0].iter().map(|&x| x * x).collect();
            (vec![naive::column_sums(&squares, 1)], vec![])
        }))
        .exact()
        .moves(rows * c, 0)
}

fn pool_tokens(b: usize, (t, c): (usize, usize), rows: Range<usize>, kind: Pooling) -> Case {
    let (from, to) = (rows.start, rows.end);
    let n = b * rows.len() * c;
    Case::new("pool_tokens", format!("{kind:?} of {rows:?} of {b}x{t}x{c}"), b)
        .input("x", [b, t, c], Fill::Values, Scope::Each)
        .output("y", [b, c], Scope::Each, Role::Result)
        .wide(&["y"])
        .forward(move |dev, x, out| {
            let [y] = take(out);
            pool_tokens::forward(dev, y, x[0], from..to, kind)
        })
        .backward(&[("x", Write::Set)], move |dev, x, _, up, grads| {
            let [dx] = take(grads);
            pool_tokens::backward(dev, dx, up[0], x[0], from..to, kind)
        })
        .plain(plain!(|x, up| {
            let (y, dx) = naive::pool_tokens(&x[0], &up[0], (t, c), from..to, kind);
            (vec![y], vec![dx])
        }))
        .moves(n, if kind == Pooling::Mean { b * t * c } else { n + b * t * c })
        .batched(move |b| pool_tokens(b, (t, c), from..to, kind))
}

fn row_norm(rows: usize, c: usize, form: Normalization) -> Case {
    Case::new("row_norm", format!("{rows}x{c} {form:?}"), rows)
        .input("x", [rows, c], Fill::Values, Scope::Each)
        .output("y", [rows, c], Scope::Each, Role::Result)
        .all_wide()
        .forward(move |dev, x, out| {
            let [y] = take(out);
            row_norm::forward(dev, y, x[0], form)
        })
        .backward(&[("x", Write::Add)], move |dev, x, _, up, grads| {
            let [dx] = take(grads);
            row_norm::backward_acc(dev, dx, up[0], x[0], form)
        })
        .plain(plain!(|x, up| {
            let (y, dx) = naive::row_norm(&x[0], &up[0], c, form);
            (vec![y], vec![dx])
        }))
        .moves(2 * rows * c, 4 * rows * c)
        .batched(move |rows| row_norm(rows, c, form))
}
