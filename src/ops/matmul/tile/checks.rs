//! What the tests of products share.

use super::{FEW, Lanes, MANY, TileShape};
use crate::ops::float::Float;
use crate::ops::matmul::cpu::{Right, Strided, plain, transposed};
use crate::ops::matmul::{Layout, Start};

/// Numbers in [-1, 1) without a pattern: a linear congruential generator.
pub fn random<T: Float>(n: usize, which: u64) -> Vec<T> {
    let mut state = which;
    let next = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        T::of((state >> 40) as f64 / f64::from(1 << 23) - 1.0)
    };
    (0..n).map(next).collect()
}

/// Σ_l x[i, l] w(l, j) for every element.
fn definition<T: Float>(x: &[T], w: impl Fn(usize, usize) -> T, (k, n): (usize, usize)) -> Vec<f64> {
    let row = |x: &[T]| -> Vec<f64> {
        (0..n).map(|j| (0..k).map(|l| x[l].to_f64() * w(l, j).to_f64()).sum()).collect()
    };
    x.chunks_exact(k).flat_map(row).collect()
}

/// The largest difference, beside the largest value.
fn error<T: Float>(got: &[T], wanted: &[f64]) -> f64 {
    assert_eq!(got.len(), wanted.len());
    let largest = wanted.iter().fold(f64::MIN_POSITIVE, |m: f64, w| m.max(w.abs()));
    got.iter()
        .zip(wanted)
        .map(|(g, w)| (g.to_f64() - w).abs())
        .fold(0.0, |m: f64, e| if e <= m { m } else { e })
        / largest
}

/// Called with the number of its first row for each group of rows that is complete.
pub type RowsDone<'a, T> = &'a (dyn Fn(usize, &mut [T]) + Sync);

/// A product under test: y, x, w, what y holds before, the ending, and the tile.
pub type Run<'a, T> = &'a dyn Fn(&mut [T], &[T], Right<T>, Start<T>, RowsDone<T>, TileShape);

/// y = start + x w against its definition, x: (m, k), w: (k, n): every start and both ways to read w, packed before and in the call,
/// in tiles for few and for many registers; NaN where y is overwritten. `packed` has the length of a packed w.
pub fn check<T: Lanes>(
    m: usize,
    (k, n): (usize, usize),
    limit: f64,
    packed: usize,
    pack: &dyn Fn(&mut [T], Strided<*const T>),
    run: Run<T>,
) {
    let (x, w) = (random::<T>(m * k, 1), random::<T>(k * (n + 5), 2));
    let (bias, residual) = (random::<T>(n, 3), random::<T>(m * n, 4));
    let at = Layout::dense(k, n + 5).columns(3, n);
    let turned = Layout::dense(n, k + 3).columns(2, k);
    let v = random::<T>(n * (k + 3), 5);
    let width = TileShape::of::<T>().width;
    for (tile, back) in [(FEW, false), (FEW, true), (MANY, false), (MANY, true)] {
        let matrix = if back { transposed(&v, turned) } else { plain(&w, at) };
        let element = |l: usize, j: usize| match back {
            true => v[turned.offset + j * turned.stride + l],
            false => w[at.offset + l * at.stride + j],
        };
        let sums = definition(&x, element, (k, n));
        let mut before = vec![T::of(f64::NAN); packed];
        pack(&mut before, matrix);
        let starts = [Start::Zero, Start::Bias(&bias), Start::Residual(&bias, &residual), Start::Own];
        for (which, start) in starts.into_iter().enumerate() {
            let own = which == 3;
            let held = if own { residual.clone() } else { vec![T::of(f64::NAN); m * n] };
            let product = |w: Right<T>| {
                let (mut y, seen) = (held.clone(), std::sync::Mutex::new(vec![0; m]));
                let ending = |first: usize, rows: &mut [T]| {
                    let mut seen = seen.lock().expect("the rows seen");
                    seen[first..][..rows.len() / n].iter_mut().for_each(|times| *times += 1);
                    rows.iter_mut().for_each(|y| *y += T::ONE);
                };
                run(&mut y, &x, w, start, &ending, TileShape { tile, width });
                assert!(seen.into_inner().expect("the rows seen").iter().all(|&times| times == 1));
                y
            };
            let y = product(Right::Matrix(matrix));
            assert!(product(Right::Packed(&before)) == y, "packed before or in the call");
            let wanted: Vec<f64> = (sums.iter().enumerate())
                .map(|(i, sum)| {
                    let bias = if matches!(which, 1 | 2) { bias[i % n].to_f64() } else { 0.0 };
                    let held = if matches!(which, 2 | 3) { residual[i].to_f64() } else { 0.0 };
                    sum + bias + held + 1.0
                })
                .collect();
            let error = error(&y, &wanted);
            assert!(error < limit, "{m} x {k} x {n}, tile {tile}, back {back}, start {which}: {error:.1e}");
        }
    }
}
