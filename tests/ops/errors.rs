//! Wrong arguments are refused by name.

use super::DEV;
use l2p_engine::ops::attention::{self, GradientTarget, Gradients, Prefix, PrefixMut, Qkv, Wanted};
use l2p_engine::ops::gelu::GeluForm;
use l2p_engine::ops::linear::{self, Epilogue, LinearWeights};
use l2p_engine::ops::match_prompts::{self, Select};
use l2p_engine::ops::matmul::{self, Layout, Write};
use l2p_engine::ops::optimizer::{self, Adam, Sgd};
use l2p_engine::ops::pool_tokens::Pooling;
use l2p_engine::ops::{
    anchor, axpy, component_weights, cross_entropy, distill, gather, gelu, layer_norm, patches, pool_tokens,
    relu, row_norm, sum, tokens,
};
use l2p_engine::tensor::{DType, Shape, Tensor};
use l2p_engine::{Error, Result};

fn t(shape: impl std::convert::Into<Shape>) -> Tensor {
    Tensor::zeros(shape, DType::F64)
}

fn ids(shape: impl std::convert::Into<Shape>) -> Tensor {
    Tensor::zeros(shape, DType::U32)
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T>, op: &str, arg: &str) {
    match result {
        Err(Error::Shape { op: found, arg: named, .. }) => assert_eq!((found, named), (op, arg)),
        other => panic!("{op} must refuse `{arg}`, but: {other:?}"),
    }
}

#[test]
fn layer_norm_arguments() {
    let run = |y: Tensor, stats: Tensor, x: Tensor, scale: Tensor, bias: Tensor| {
        let (mut y, mut stats) = (y, stats);
        let out = (y.view_mut(), stats.view_mut());
        layer_norm::forward(&DEV, out.0, out.1, x.view(), scale.view(), bias.view(), 1e-6)
    };
    assert!(run(t([2, 3]), t([2, 2]), t([2, 3]), t([3]), t([3])).is_ok());
    refused(run(t([2, 4]), t([2, 2]), t([2, 3]), t([3]), t([3])), "layer_norm", "y");
    refused(run(t([2, 3]), t([3, 2]), t([2, 3]), t([3]), t([3])), "layer_norm", "stats");
    refused(run(t([2, 3]), t([2, 2]), t([2, 3]), t([4]), t([3])), "layer_norm", "scale");
    refused(run(t([2, 3]), t([2, 2]), t([2, 3]), t([3]), t([1, 3])), "layer_norm", "bias");
    refused(run(t([2, 3]), t([2, 2]), ids([2, 3]), t([3]), t([3])), "layer_norm", "x");
    let run = |dx: Tensor, dy: Tensor, stats: Tensor, scale: Tensor| {
        let (mut dx, x) = (dx, t([2, 3]));
        let views = (dy.view(), stats.view(), scale.view());
        layer_norm::backward_input_acc(&DEV, dx.view_mut(), views.0, x.view(), views.1, views.2)
    };
    refused(run(t([3, 2]), t([2, 3]), t([2, 2]), t([3])), "layer_norm", "dx");
    refused(run(t([2, 3]), t([2, 4]), t([2, 2]), t([3])), "layer_norm", "dy");
    refused(run(t([2, 3]), t([2, 3]), t([2, 3]), t([3])), "layer_norm", "stats");
    refused(run(t([2, 3]), t([2, 3]), t([2, 2]), t([2])), "layer_norm", "scale");
    let run = |dscale: Tensor, dbias: Tensor| {
        let (mut dscale, mut dbias, x, stats) = (dscale, dbias, t([2, 3]), t([2, 2]));
        let out = (dscale.view_mut(), dbias.view_mut());
        layer_norm::backward_params_acc(&DEV, out.0, out.1, x.view(), x.view(), stats.view())
    };
    refused(run(t([2]), t([3])), "layer_norm", "dscale");
    refused(run(t([3]), t([4])), "layer_norm", "dbias");
}

#[test]
fn matmul_and_linear_arguments() {
    let run = |y: Layout, x: Layout, w: Layout| {
        let (mut a, b, c) = (t([2, 4]), t([2, 3]), t([3, 4]));
        matmul::forward(&DEV, (a.view_mut(), y), (b.view(), x), (c.view(), w), Write::Set)
    };
    let (y, x, w) = (Layout::dense(2, 4), Layout::dense(2, 3), Layout::dense(3, 4));
    assert!(run(y, x, w).is_ok());
    refused(run(Layout::dense(2, 3), x, w), "matmul", "y");
    refused(run(Layout { stride: 3, ..y }, x, w), "matmul", "y");
    refused(run(Layout { offset: 1, ..y }, x, w), "matmul", "y");
    refused(run(y, Layout { stride: 4, ..x }, w), "matmul", "x");
    refused(run(y, x, Layout { rows: 2, ..w }), "matmul", "w");
    let (mut a, b, c) = (t([2, 4]), ids([2, 3]), t([3, 4]));
    refused(
        matmul::forward(&DEV, (a.view_mut(), y), (b.view(), x), (c.view(), w), Write::Set),
        "matmul",
        "x",
    );
    let (mut d, e) = (t([2, 3]), t([2, 4]));
    let bad = Layout::dense(2, 2);
    refused(
        matmul::backward_input(&DEV, (d.view_mut(), bad), (e.view(), y), (c.view(), w), Write::Set),
        "matmul",
        "dx",
    );
    let mut dw = t([3, 4]);
    let short = Layout::dense(1, 3);
    refused(
        matmul::backward_weight_acc(&DEV, (dw.view_mut(), w), (d.view(), short), (e.view(), y)),
        "matmul",
        "dy",
    );
    refused(
        matmul::backward_weight_acc(&DEV, (dw.view_mut(), x), (d.view(), x), (e.view(), y)),
        "matmul",
        "dw",
    );

    let (kernel, bias, input) = (t([3, 4]), t([4]), t([2, 3]));
    let weights = LinearWeights::all(kernel.view(), bias.view());
    let (mut y, wrong) = (t([2, 4]), t([2, 3]));
    let residual = Epilogue::Residual(wrong.view());
    refused(linear::forward(&DEV, y.view_mut(), input.view(), &weights, residual), "linear", "residual");
    let mut pre = t([2, 3]);
    let ending = Epilogue::Gelu { pre: Some(pre.view_mut()), form: GeluForm::Erf };
    refused(linear::forward(&DEV, y.view_mut(), input.view(), &weights, ending), "linear", "pre");
    let mut narrow = t([2, 3]);
    refused(linear::forward(&DEV, narrow.view_mut(), input.view(), &weights, Epilogue::Plain), "matmul", "y");
}

#[test]
fn attention_arguments() {
    let forward = |out: [usize; 3], lse: [usize; 3], q: [usize; 3], kv: [usize; 3], heads: usize| {
        let (mut out, mut lse, q, kv) = (t(out), t(lse), t(q), t(kv));
        let qkv = Qkv::apart(q.view(), kv.view());
        attention::forward(&DEV, out.view_mut(), lse.view_mut(), &qkv, None, heads)
    };
    assert!(forward([2, 3, 4], [2, 2, 3], [2, 3, 4], [2, 5, 8], 2).is_ok());
    refused(forward([2, 3, 4], [2, 2, 3], [2, 3, 4], [2, 5, 8], 3), "attention", "heads");
    refused(forward([2, 3, 4], [2, 2, 3], [2, 3, 4], [2, 5, 8], 0), "attention", "heads");
    refused(forward([2, 3, 4], [2, 2, 3], [1, 3, 4], [2, 5, 8], 2), "attention", "q");
    refused(forward([2, 3, 4], [2, 2, 3], [2, 3, 4], [1, 5, 8], 2), "attention", "k");
    refused(forward([2, 4, 4], [2, 2, 4], [2, 3, 4], [2, 5, 8], 2), "attention", "out");
    refused(forward([2, 3, 4], [2, 1, 3], [2, 3, 4], [2, 5, 8], 2), "attention", "lse");

    let (qkv, lse, dout) = (t([2, 3, 12]), t([2, 2, 3]), t([2, 3, 4]));
    let packed = Qkv::packed(qkv.view());
    let backward = |gradients: Option<Gradients>, dprefix: Option<PrefixMut>, prefix: Option<&Prefix>| {
        let (dout, lse) = (dout.view(), lse.view());
        attention::backward_input(&DEV, Wanted { gradients, prefix: dprefix }, dout, lse, &packed, prefix, 2)
    };
    let with = |shape: [usize; 3], q_rows, kv_rows| {
        let mut d = t(shape);
        backward(Some(Gradients { into: GradientTarget::Packed(d.view_mut()), q_rows, kv_rows }), None, None)
    };
    assert!(with([2, 2, 12], 1..3, 1..3).is_ok());
    refused(with([2, 3, 12], 0..4, 0..3), "attention", "q_rows");
    refused(with([2, 3, 12], 0..3, 1..4), "attention", "kv_rows");
    refused(with([2, 3, 12], 0..3, 0..2), "attention", "into");
    refused(with([2, 3, 12], 0..2, 0..2), "attention", "dqkv");
    for (q, kv, named) in [([2, 1, 4], [2, 3, 8], "dq"), ([2, 3, 4], [2, 3, 4], "dkv")] {
        let (mut q, mut kv) = (t(q), t(kv));
        let into = GradientTarget::Apart { q: q.view_mut(), kv: kv.view_mut() };
        let gradients = Gradients { into, q_rows: 0..3, kv_rows: 0..3 };
        refused(backward(Some(gradients), None, None), "attention", named);
    }
    let (k, v, long) = (t([2, 1, 4]), t([2, 1, 4]), t([2, 2, 4]));
    let (good, bad) = (Prefix { k: k.view(), v: v.view() }, Prefix { k: k.view(), v: long.view() });
    refused(backward(None, None, Some(&bad)), "attention", "prefix.v");
    let (mut dk, mut dv) = (t([2, 2, 4]), t([2, 1, 4]));
    let dprefix = PrefixMut { k: dk.view_mut(), v: dv.view_mut() };
    refused(backward(None, Some(dprefix), Some(&good)), "attention", "dprefix.k");
}

#[test]
fn elementwise_arguments() {
    let (mut y, x, wrong) = (t([2, 3]), t([2, 3]), t([3, 2]));
    refused(gelu::forward(&DEV, y.view_mut(), wrong.view(), GeluForm::Erf), "gelu", "y");
    refused(gelu::backward_in_place(&DEV, y.view_mut(), wrong.view(), GeluForm::Tanh), "gelu", "d");
    refused(gelu::forward(&DEV, y.view_mut(), ids([2, 3]).view(), GeluForm::Erf), "gelu", "x");
    refused(axpy::axpy(&DEV, y.view_mut(), t([5]).view(), 1.0), "axpy", "x");
    refused(axpy::axpy(&DEV, y.view_mut(), ids([6]).view(), 1.0), "axpy", "x");
    refused(axpy::scale_in_place(&DEV, ids([6]).view_mut(), 1.0), "axpy", "x");
    refused(sum::columns_acc(&DEV, t([2]).view_mut(), x.view()), "sum", "out");
    refused(sum::squares_acc(&DEV, t([1]).view_mut(), ids([2]).view()), "sum", "x");
    refused(sum::squares_acc(&DEV, t([2]).view_mut(), x.view()), "sum", "out");
    refused(
        row_norm::forward(&DEV, y.view_mut(), wrong.view(), row_norm::Normalization::Plus),
        "row_norm",
        "y",
    );
    let form = row_norm::Normalization::Rsqrt;
    refused(row_norm::backward_acc(&DEV, y.view_mut(), wrong.view(), x.view(), form), "row_norm", "dy");
    refused(row_norm::backward_acc(&DEV, t([5]).view_mut(), x.view(), x.view(), form), "row_norm", "dx");
}

#[test]
fn component_weights_arguments() {
    let run = |w: [usize; 2], a: [usize; 2], k: [usize; 2]| {
        let mut w = t(w);
        component_weights::forward(&DEV, w.view_mut(), t([2, 3]).view(), t(a).view(), t(k).view())
    };
    assert!(run([2, 4], [4, 3], [4, 3]).is_ok());
    refused(run([2, 5], [4, 3], [4, 3]), "component_weights", "weights");
    refused(run([2, 4], [4, 2], [4, 3]), "component_weights", "attention");
    refused(run([2, 4], [4, 3], [5, 3]), "component_weights", "key");
    let run = |da: [usize; 2], dk: [usize; 2], dw: [usize; 2]| {
        let (mut da, mut dk, q, rows) = (t(da), t(dk), t([2, 3]), t([4, 3]));
        let (da, dk, rows) = (da.view_mut(), dk.view_mut(), rows.view());
        component_weights::backward_acc(&DEV, da, dk, t(dw).view(), q.view(), rows, rows)
    };
    assert!(run([4, 3], [4, 3], [2, 4]).is_ok());
    refused(run([3, 4], [4, 3], [2, 4]), "component_weights", "dattention");
    refused(run([4, 3], [4, 2], [2, 4]), "component_weights", "dkey");
    refused(run([4, 3], [4, 3], [4, 2]), "component_weights", "dweights");
}

#[test]
fn anchor_arguments() {
    let run = |out: usize, a: usize, f: usize| {
        let mut out = t([out]);
        anchor::penalty(&DEV, out.view_mut(), t([4]).view(), t([a]).view(), t([f]).view())
    };
    assert!(run(1, 4, 4).is_ok());
    refused(run(2, 4, 4), "anchor", "out");
    refused(run(1, 3, 4), "anchor", "anchor");
    refused(run(1, 4, 5), "anchor", "importance");
    let run = |d: usize, a: usize, f: usize| {
        let mut d = t([d]);
        anchor::backward_acc(&DEV, d.view_mut(), t([4]).view(), t([a]).view(), t([f]).view(), 1.0)
    };
    assert!(run(4, 4, 4).is_ok());
    refused(run(3, 4, 4), "anchor", "dp");
    refused(run(4, 3, 4), "anchor", "anchor");
    refused(run(4, 4, 5), "anchor", "importance");
    let run = |g: usize, loss: usize| {
        let (g, loss) = (t([g]), t([loss]));
        anchor::add_squares(&DEV, t([4]).view_mut(), g.view(), Some(loss.view()), 1.0)
    };
    assert!(run(4, 1).is_ok());
    refused(run(3, 1), "anchor", "importance");
    refused(run(4, 2), "anchor", "loss");
}

#[test]
fn relu_arguments() {
    let run = |keep: usize| relu::forward_in_place(&DEV, t([4]).view_mut(), Some(t([keep]).view()));
    assert!(run(4).is_ok());
    refused(run(3), "relu", "keep");
    let run = |y: usize| relu::backward_in_place(&DEV, t([4]).view_mut(), t([y]).view(), 1.0);
    assert!(run(4).is_ok());
    refused(run(5), "relu", "dx");
}

#[test]
fn distill_arguments() {
    let run = |out: usize, d: [usize; 2], teacher: [usize; 2], mask: usize| {
        let (mut out, mut d, mask) = (t([out]), t(d), Tensor::from_vec(vec![1u32; mask], [mask]));
        let (out, d, z, teacher) = (out.view_mut(), d.view_mut(), t([2, 3]), t(teacher));
        distill::forward_backward_acc(&DEV, out, d, z.view(), teacher.view(), mask.view(), (2.0, 1.0))
    };
    assert!(run(1, [2, 3], [2, 3], 3).is_ok());
    refused(run(2, [2, 3], [2, 3], 3), "distill", "out");
    refused(run(1, [3, 2], [2, 3], 3), "distill", "dlogits");
    refused(run(1, [2, 3], [1, 3], 3), "distill", "teacher");
    refused(run(1, [2, 3], [2, 3], 2), "distill", "mask");
}

#[test]
fn token_arguments() {
    let run = |p: [usize; 3], cls: usize, positions: usize| {
        let mut x = t([2, 3, 4]);
        tokens::embed(&DEV, x.view_mut(), t(p).view(), t([cls]).view(), t([positions]).view())
    };
    assert!(run([2, 2, 4], 4, 12).is_ok());
    refused(run([2, 3, 4], 4, 12), "tokens", "patches");
    refused(run([2, 2, 4], 3, 12), "tokens", "cls");
    refused(run([2, 2, 4], 4, 8), "tokens", "positions");
    let (mut y, x) = (t([2, 3, 4]), t([2, 5, 4]));
    refused(tokens::copy(&DEV, y.view_mut(), 0, x.view(), 4..6, Write::Set), "tokens", "x");
    refused(tokens::copy(&DEV, y.view_mut(), 1, x.view(), 0..3, Write::Set), "tokens", "y");
    refused(tokens::copy(&DEV, y.view_mut(), 0, t([1, 5, 4]).view(), 0..1, Write::Set), "tokens", "x");
    refused(tokens::sum_images_acc(&DEV, t([2, 4]).view_mut(), x.view(), 0..3), "tokens", "sum");
    refused(tokens::sum_images_acc(&DEV, t([2, 4]).view_mut(), x.view(), 4..6), "tokens", "x");
    refused(tokens::add_row_in_place(&DEV, t([2, 4]).view_mut(), t([3]).view()), "tokens", "row");
    refused(patches::forward(&DEV, t([2, 27]).view_mut(), t([1, 4, 4, 3]).view(), 3), "patches", "images");
    refused(patches::forward(&DEV, t([2, 12]).view_mut(), t([1, 4, 4, 3]).view(), 2), "patches", "rows");
    refused(patches::forward(&DEV, t([4, 12]).view_mut(), t([1, 4, 2, 3]).view(), 2), "patches", "images");
    let pool = |y: [usize; 2], rows| {
        pool_tokens::forward(&DEV, t(y).view_mut(), t([2, 5, 4]).view(), rows, Pooling::Mean)
    };
    refused(pool([2, 4], 3..6), "pool_tokens", "x");
    refused(pool([2, 4], 3..3), "pool_tokens", "x");
    refused(pool([2, 3], 0..5), "pool_tokens", "pooled");
    let (mut dx, dy) = (t([2, 4, 4]), t([2, 4]));
    refused(
        pool_tokens::backward(&DEV, dx.view_mut(), dy.view(), x.view(), 0..5, Pooling::Max),
        "pool_tokens",
        "dx",
    );
    let table = t([3, 4]);
    let high = Tensor::from_vec(vec![0u32, 3], [2, 1]);
    refused(gather::forward(&DEV, y.view_mut(), 0, table.view(), high.view(), 1), "gather", "ids");
    refused(gather::forward(&DEV, y.view_mut(), 0, table.view(), ids([1, 1]).view(), 1), "gather", "ids");
    refused(gather::forward(&DEV, y.view_mut(), 3, table.view(), ids([2, 1]).view(), 1), "gather", "tokens");
    refused(
        gather::forward(&DEV, y.view_mut(), 0, t([3, 5]).view(), ids([2, 1]).view(), 1),
        "gather",
        "tokens",
    );
    refused(gather::forward(&DEV, y.view_mut(), 0, table.view(), t([2, 1]).view(), 1), "gather", "ids");
}

#[test]
fn selection_and_loss_arguments() {
    let select = |n: usize, how| match_prompts::select(&DEV, ids([2, n]).view_mut(), t([2, 3]).view(), how);
    refused(select(4, Select::PerImage), "match_prompts", "similarity");
    refused(select(4, Select::Vote { group: 2 }), "match_prompts", "group");
    refused(select(2, Select::Vote { group: 0 }), "match_prompts", "group");
    refused(select(2, Select::Fixed { start: 2 }), "match_prompts", "start");
    refused(
        match_prompts::pull(&DEV, t([1]).view_mut(), t([2, 3]).view(), ids([3, 1]).view()),
        "match_prompts",
        "ids",
    );
    refused(
        match_prompts::pull(&DEV, t([1]).view_mut(), t([2, 3]).view(), t([2, 1]).view()),
        "match_prompts",
        "ids",
    );
    let high = Tensor::from_vec(vec![0u32, 3], [2, 1]);
    refused(
        match_prompts::pull(&DEV, t([1]).view_mut(), t([2, 3]).view(), high.view()),
        "match_prompts",
        "ids",
    );
    let run = |labels: &[u32], mask: &[u32]| {
        let labels = Tensor::from_vec(labels.to_vec(), [labels.len()]);
        let mask = Tensor::from_vec(mask.to_vec(), [mask.len()]);
        let (mut outcome, logits) = (t([2]), t([2, 3]));
        let outcome = outcome.view_mut();
        cross_entropy::forward_backward(&DEV, outcome, None, logits.view(), labels.view(), mask.view(), 0.0)
    };
    refused(run(&[0], &[1; 3]), "cross_entropy", "labels");
    refused(run(&[0, 3], &[1; 3]), "cross_entropy", "labels");
    refused(run(&[0, 1], &[1, 0, 1]), "cross_entropy", "labels");
    refused(run(&[0, 1], &[1; 4]), "cross_entropy", "mask");
    let own = |labels: [u32; 2], masks: &[u32], rows: usize| {
        let (labels, masks) =
            (Tensor::from_vec(labels.to_vec(), [2]), Tensor::from_vec(masks.to_vec(), [rows, 3]));
        let (mut outcome, logits) = (t([2]), t([2, 3]));
        let outcome = outcome.view_mut();
        cross_entropy::forward_backward(&DEV, outcome, None, logits.view(), labels.view(), masks.view(), 0.0)
    };
    assert!(own([0, 2], &[1, 1, 0, 0, 1, 1], 2).is_ok());
    refused(own([0, 0], &[1, 1, 0, 0, 1, 1], 2), "cross_entropy", "labels");
    refused(own([2, 2], &[1, 1, 0, 0, 1, 1], 2), "cross_entropy", "labels");
    refused(own([0, 0], &[1; 3], 1), "cross_entropy", "mask");
    let run = |soft_labels: &[f32], shape: [usize; 2]| {
        let (soft_labels, mask) =
            (Tensor::from_vec(soft_labels.to_vec(), shape), Tensor::from_vec(vec![1u32, 1, 0], [3]));
        let (mut outcome, logits) = (t([2]), t([2, 3]));
        let outcome = outcome.view_mut();
        cross_entropy::forward_backward(
            &DEV,
            outcome,
            None,
            logits.view(),
            soft_labels.view(),
            mask.view(),
            0.0,
        )
    };
    assert!(run(&[1.0, 0.0, 0.0, 0.5, 0.5, 0.0], [2, 3]).is_ok());
    refused(run(&[1.0, 0.0, 0.0, 0.5, 0.0, 0.5], [2, 3]), "cross_entropy", "labels");
    refused(run(&[1.0, 0.0, 0.0, 1.0], [2, 2]), "cross_entropy", "labels");
    let with = Adam { beta1: 0.9, beta2: 0.999, eps: 1e-8, decay: 0.0, max_norm: 1.0 };
    let (squares, step_scalars) = (t([1]), t([4]));
    let adam = |m: usize, v: usize, g: usize| {
        let (mut p, mut m, mut v, g) = (t([3]), t([m]), t([v]), t([g]));
        optimizer::adam(
            &DEV,
            p.view_mut(),
            [m.view_mut(), v.view_mut()],
            g.view(),
            squares.view(),
            step_scalars.view(),
            with,
        )
    };
    refused(adam(2, 3, 3), "optimizer", "m");
    refused(adam(3, 2, 3), "optimizer", "v");
    refused(adam(3, 3, 4), "optimizer", "g");
    let sgd = |u: usize, g: usize| {
        let (mut p, mut u, g) = (t([3]), t([u]), t([g]));
        let with = Sgd { momentum: 0.9, nesterov: true, max_norm: 1.0 };
        optimizer::sgd(&DEV, p.view_mut(), u.view_mut(), g.view(), squares.view(), step_scalars.view(), with)
    };
    refused(sgd(2, 3), "optimizer", "u");
    refused(sgd(3, 2), "optimizer", "g");
}
