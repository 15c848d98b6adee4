//! Bits that must not depend on what else is computed: rows of products in any batch, gradients of
//! some rows of attention, threads.

use super::{DEV, on_threads, random};
use l2p_engine::ops::attention::{self, GradientTarget, Gradients, Prefix, PrefixMut, Qkv, Wanted};
use l2p_engine::ops::matmul::{self, Layout, Write};
use l2p_engine::tensor::{DType, Tensor};
use l2p_engine::testing::close::same_bits;
use std::ops::Range;

const ROWS: [usize; 5] = [65, 17, 3, 2, 1];
const WIDTHS: [usize; 6] = [1, 5, 10, 64, 65, 192];
const INNER: [usize; 8] = [1, 2, 3, 48, 64, 513, 768, 3072];

/// y = x w or, with `transposed`, y = x wᵀ of the first m rows of x.
fn product(x: &Tensor, w: &Tensor, (m, k, n): (usize, usize, usize), transposed: bool) -> Vec<f64> {
    let mut y = Tensor::zeros([m, n], x.dtype());
    y.fill(f64::NAN);
    let (to, from) = ((y.view_mut(), Layout::dense(m, n)), (x.view(), Layout::dense(m, k)));
    if transposed {
        let w = (w.view(), Layout::dense(n, k));
        matmul::backward_input(&DEV, to, from, w, Write::Set).expect("a product");
    } else {
        let w = (w.view(), Layout::dense(k, n));
        matmul::forward(&DEV, to, from, w, Write::Set).expect("a product");
    }
    y.to_f64()
}

#[test]
fn rows_of_products_do_not_depend_on_how_many_there_are() {
    let mut failures = Vec::new();
    for dtype in [DType::F32, DType::F64] {
        for (k, n, transposed) in
            INNER.iter().flat_map(|&k| WIDTHS.iter().flat_map(move |&n| [(k, n, false), (k, n, true)]))
        {
            let (x, w) = (random(1, [ROWS[0], k], dtype), random(2, [k * n], dtype));
            let all = product(&x, &w, (ROWS[0], k, n), transposed);
            assert!(all.iter().all(|y| y.is_finite()));
            for threads in [1, 3] {
                for m in ROWS {
                    let some = on_threads(threads, || product(&x, &w, (m, k, n), transposed));
                    if !same_bits(&some, &all[..m * n]) {
                        let what = if transposed { "x wᵀ" } else { "x w" };
                        failures
                            .push(format!("{what} in {dtype:?}: {m} rows, K {k}, N {n}, {threads} threads"));
                    }
                }
            }
        }
    }
    let text = failures.join("\n  ");
    assert!(failures.is_empty(), "{} products depend on the number of rows:\n  {text}", failures.len());
}

/// Adding to y gives the bits of y + x w for one row as for many.
#[test]
fn rows_that_are_added_do_not_depend_on_how_many_there_are() {
    for (k, n) in [(48, 5), (768, 64), (64, 1), (1025, 2), (2, 3)] {
        let (x, w, start) =
            (random(1, [17, k], DType::F32), random(2, [k, n], DType::F32), random(3, [17, n], DType::F32));
        let run = |m: usize| {
            let mut y = start.clone();
            let to = (y.view_mut(), Layout::dense(m, n));
            let (x, w) = ((x.view(), Layout::dense(m, k)), (w.view(), Layout::dense(k, n)));
            matmul::forward(&DEV, to, x, w, Write::Add).expect("a product");
            y.to_f64()[..m * n].to_vec()
        };
        let all = run(17);
        for m in [1, 2, 3] {
            assert!(same_bits(&run(m), &all[..m * n]), "{m} rows, K {k}, N {n}");
        }
    }
}

const B: usize = 2;
const T: usize = 7;
const H: usize = 2;
const C: usize = 8;
const PREFIX: usize = 3;

/// What attention's backward pass wrote: dq, dkv, dprefix.k, dprefix.v.
fn attention_grads(tq: usize, rows: Option<(Range<usize>, Range<usize>)>, prefixes: bool) -> [Tensor; 4] {
    let poisoned = |shape: [usize; 3]| {
        let mut t = Tensor::zeros(shape, DType::F64);
        t.fill(f64::NAN);
        t
    };
    let (q, kv) = (random(1, [B, tq, C], DType::F64), random(2, [B, T, 2 * C], DType::F64));
    let (pk, pv) = (random(3, [B, PREFIX, C], DType::F64), random(4, [B, PREFIX, C], DType::F64));
    let dout = random(5, [B, tq, C], DType::F64);
    let prefix = Prefix { k: pk.view(), v: pv.view() };
    let (qkv, prefix) = (Qkv::apart(q.view(), kv.view()), Some(&prefix));
    let (mut out, mut lse) = (poisoned([B, tq, C]), poisoned([B, H, tq]));
    attention::forward(&DEV, out.view_mut(), lse.view_mut(), &qkv, prefix, H).expect("forward");
    let (nq, nkv) = rows.as_ref().map_or((0, 0), |r| (r.0.len(), r.1.len()));
    let (mut dq, mut dkv) = (poisoned([B, nq, C]), poisoned([B, nkv, 2 * C]));
    let (mut dk, mut dv) = (poisoned([B, PREFIX, C]), poisoned([B, PREFIX, C]));
    let gradients = rows.map(|(q_rows, kv_rows)| Gradients {
        into: GradientTarget::Apart { q: dq.view_mut(), kv: dkv.view_mut() },
        q_rows,
        kv_rows,
    });
    let dprefix = prefixes.then(|| PrefixMut { k: dk.view_mut(), v: dv.view_mut() });
    attention::backward_input(
        &DEV,
        Wanted { gradients, prefix: dprefix },
        dout.view(),
        lse.view(),
        &qkv,
        prefix,
        H,
    )
    .expect("backward");
    [dq, dkv, dk, dv]
}

/// Rows `rows` of every image of t (B, n, width).
fn rows_of(t: &Tensor, rows: &Range<usize>) -> Vec<f64> {
    let (n, width) = (t.dims()[1], t.dims()[2]);
    let images = t.to_f64();
    images.chunks_exact(n * width).flat_map(|i| i[rows.start * width..rows.end * width].to_vec()).collect()
}

#[test]
fn attention_gradients_of_some_rows_are_those_rows_of_all() {
    for tq in [T, 2, 1] {
        let [dq, dkv, dk, dv] = attention_grads(tq, Some((0..tq, 0..T)), true);
        for (q_rows, kv_rows) in
            [(0..tq, 0..3), (0..1, 2..T), (tq - 1..tq, 0..T), (0..0, 1..2), (0..tq, 4..4), (0..0, 0..0)]
        {
            let rows = Some((q_rows.clone(), kv_rows.clone()));
            for prefixes in [true, false] {
                let [pq, pkv, pk, pv] = attention_grads(tq, rows.clone(), prefixes);
                let text = format!("{tq} questions, rows {q_rows:?} and {kv_rows:?}");
                assert!(same_bits(&pq.to_f64(), &rows_of(&dq, &q_rows)), "dq: {text}");
                assert!(same_bits(&pkv.to_f64(), &rows_of(&dkv, &kv_rows)), "dkv: {text}");
                if prefixes {
                    assert!(same_bits(&pk.to_f64(), &dk.to_f64()), "dprefix.k: {text}");
                    assert!(same_bits(&pv.to_f64(), &dv.to_f64()), "dprefix.v: {text}");
                }
            }
        }
        let [.., pk, pv] = attention_grads(tq, None, true);
        assert!(same_bits(&pk.to_f64(), &dk.to_f64()), "the prefix alone");
        assert!(same_bits(&pv.to_f64(), &dv.to_f64()), "the prefix alone");
    }
}

/// Packed and apart are two layouts of the same numbers.
#[test]
fn packed_and_apart_agree_bitwise() {
    let qkv = random(9, [B, T, 3 * C], DType::F64);
    let columns = |from: usize, to: usize| -> Vec<f64> {
        qkv.to_f64().chunks_exact(3 * C).flat_map(|row| row[from..to].to_vec()).collect()
    };
    let q = Tensor::from_f64(&columns(0, C), [B, T, C], DType::F64);
    let kv = Tensor::from_f64(&columns(C, 3 * C), [B, T, 2 * C], DType::F64);
    let dout = random(5, [B, T, C], DType::F64);
    let zeros = |w: usize| Tensor::zeros([B, T, w], DType::F64);
    let mut results = Vec::new();
    for apart in [false, true] {
        let (mut out, mut lse) = (zeros(C), Tensor::zeros([B, H, T], DType::F64));
        let layout = if apart { Qkv::apart(q.view(), kv.view()) } else { Qkv::packed(qkv.view()) };
        attention::forward(&DEV, out.view_mut(), lse.view_mut(), &layout, None, H).expect("forward");
        let (mut dqkv, mut dq, mut dkv) = (zeros(3 * C), zeros(C), zeros(2 * C));
        let into = match apart {
            true => GradientTarget::Apart { q: dq.view_mut(), kv: dkv.view_mut() },
            false => GradientTarget::Packed(dqkv.view_mut()),
        };
        // Some rows only, the same of queries, keys and values: what the shared prompts ask for.
        let gradients = Some(Gradients { into, q_rows: 0..T, kv_rows: 0..T });
        attention::backward_input(
            &DEV,
            Wanted { gradients, prefix: None },
            dout.view(),
            lse.view(),
            &layout,
            None,
            H,
        )
        .expect("backward");
        if apart {
            let rows = dq.to_f64();
            let rows = rows.chunks_exact(C).zip(dkv.as_slice::<f64>().expect("f64").chunks_exact(2 * C));
            let packed: Vec<f64> = rows.flat_map(|(q, kv)| [q, kv].concat()).collect();
            dqkv = Tensor::from_f64(&packed, [B, T, 3 * C], DType::F64);
        }
        results.push([out.to_f64(), lse.to_f64(), dqkv.to_f64()].concat());
    }
    assert!(same_bits(&results[0], &results[1]));
}
