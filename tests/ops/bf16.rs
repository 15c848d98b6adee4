//! Products of bf16 on the CPU: every arithmetic of this machine beside the definition in plain loops, and bits that
//! must not depend on what else is computed.

use super::{DEV, on_threads, random};
use half::bf16;
use l2p_engine::ops::gelu::GeluForm;
use l2p_engine::ops::linear::{self, Epilogue, LinearWeights, Packed, PackedForm};
use l2p_engine::ops::matmul::Start;
use l2p_engine::ops::matmul::Write;
use l2p_engine::ops::matmul::bf16::Arithmetic;
use l2p_engine::ops::matmul::bf16::cpu::{Bf16Matrix, Ending, Strided, pack, product};
use l2p_engine::tensor::{DType, Tensor};
use std::ops::Range;

/// Rows, k, n: single ones, odd ones, less and more than a tile, a panel and a group of rows.
const EXTENTS: [(usize, usize, usize); 7] =
    [(1, 1, 1), (2, 3, 5), (12, 64, 32), (13, 65, 33), (29, 130, 96), (121, 48, 70), (260, 770, 64)];

struct Case {
    dims: (usize, usize, usize),
    x: Vec<f32>,
    w: Vec<f32>,
    packed: Vec<bf16>,
}

fn f32s(seed: u64, n: usize) -> Vec<f32> {
    random(seed, [n], DType::F32).to_f64().iter().map(|&v| v as f32).collect()
}

impl Case {
    fn new((m, k, n): (usize, usize, usize)) -> Case {
        let (x, w) = (f32s(1, m * k), f32s(2, k * n));
        let mut packed = vec![bf16::NAN; l2p_engine::ops::matmul::bf16::packed_len(k, n)];
        // SAFETY: w has k rows and n columns.
        unsafe {
            let w = Strided { at: w.as_ptr(), row_stride: n, col_stride: 1 };
            pack(&mut packed, w, (k, n));
        }
        Case { dims: (m, k, n), x, w, packed }
    }

    fn matrix(&self, rows: Range<usize>, columns: Range<usize>) -> Bf16Matrix<'_> {
        Bf16Matrix { packed: &self.packed, k: self.dims.1, n: self.dims.2, rows, columns }
    }

    /// x w, the first `m` rows of it.
    fn all(&self, arithmetic: Arithmetic, m: usize) -> Vec<f32> {
        let (_, k, n) = self.dims;
        let mut y = vec![f32::NAN; m * n];
        product(&mut y, &self.x[..m * k], &self.matrix(0..k, 0..n), arithmetic, Ending::Plain(Start::Zero));
        y
    }

    /// x w with operands of bf16 and sums of f64, and Σ |x w|.
    fn exact(&self) -> Vec<(f64, f64)> {
        let (m, k, n) = self.dims;
        let round = |v: f32| bf16::from_f32(v).to_f64();
        let element = |i: usize, j: usize| {
            let terms = (0..k).map(|l| round(self.x[i * k + l]) * round(self.w[l * n + j]));
            terms.fold((0.0, 0.0), |(sum, size), term| (sum + term, size + term.abs()))
        };
        (0..m * n).map(|at| element(at / n, at % n)).collect()
    }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

#[test]
fn every_arithmetic_computes_the_same_product() {
    for dims in EXTENTS {
        let case = Case::new(dims);
        let (reference, exact) = (case.all(Arithmetic::Reference, dims.0), case.exact());
        for arithmetic in Arithmetic::here() {
            let y = case.all(arithmetic, dims.0);
            for (y, (exact, size)) in y.iter().zip(&exact) {
                let error = (f64::from(*y) - exact).abs();
                let limit = dims.1 as f64 * f64::from(f32::EPSILON) * size;
                assert!(
                    error <= limit,
                    "{arithmetic:?} {dims:?}: {y} for {exact}, off by {error:e} of {limit:e}"
                );
            }
            // An instruction may round its two products together.
            if arithmetic == Arithmetic::Widened {
                assert_eq!(bits(&y), bits(&reference), "{dims:?}");
            }
        }
    }
}

/// The order that Intel's manual gives for `TDPBF16PS`, in plain loops.
#[test]
fn tiles_add_in_the_order_of_the_manual() {
    if !Arithmetic::Amx.is_here() {
        println!("skipped: this processor has no AMX");
        return;
    }
    for dims @ (m, k, n) in EXTENTS {
        let case = Case::new(dims);
        let element = |i: usize, j: usize| in_tiles(k, |l| case.x[i * k + l], |l| case.w[l * n + j]);
        let wanted: Vec<f32> = (0..m * n).map(|at| element(at / n, at % n)).collect();
        assert_eq!(bits(&case.all(Arithmetic::Amx, m)), bits(&wanted), "{dims:?}");
    }
}

/// Element (i, j) of x w in the order of the manual; x and w by their elements.
fn in_tiles(k: usize, x: impl Fn(usize) -> f32, w: impl Fn(usize) -> f32) -> f32 {
    let round = |v: f32| bf16::from_f32(v).to_f32();
    let products = |step: usize, first: usize| {
        let values = (32 * step..k.min(32 * (step + 1))).skip(first).step_by(2);
        values.fold(0.0, |sum, l| round(x(l)).mul_add(round(w(l)), sum))
    };
    (0..k.div_ceil(32)).fold(0.0, |sum, step| sum + (products(step, 0) + products(step, 1)))
}

/// What attention multiplies: rows or columns contiguous, in wider rows, among NaN.
#[cfg(target_arch = "x86_64")]
#[test]
fn products_of_strided_matrices_in_tiles() {
    use l2p_engine::ops::matmul::bf16::amx::strided::cpu::product;
    if !Arithmetic::Amx.is_here() {
        println!("skipped: this processor has no AMX");
        return;
    }
    for (m, k, n) in EXTENTS.into_iter().chain([(197, 64, 197), (64, 197, 3), (17, 5, 31)]) {
        for (across, down) in [(false, false), (true, false), (false, true), (true, true)] {
            // A matrix (rows, columns) among NaN, and the strides of its rows and columns.
            let within = |seed, rows: usize, columns: usize, by_columns: bool| {
                let (lines, values) = if by_columns { (columns, rows) } else { (rows, columns) };
                let (stride, from) = (values + 3, f32s(seed, lines * values));
                let mut at = vec![f32::NAN; lines * stride];
                for (line, from) in at.chunks_exact_mut(stride).zip(from.chunks_exact(values)) {
                    line[..values].copy_from_slice(from);
                }
                (at, if by_columns { (1, stride) } else { (stride, 1) })
            };
            let ((x, xs), (w, ws)) = (within(1, m, k, across), within(2, k, n, down));
            let mut y = vec![0.5; m * (n + 2)];
            let strided =
                |at: &[f32], (row_stride, col_stride)| Strided { at: at.as_ptr(), row_stride, col_stride };
            let dst = strided(&y, (n + 2, 1)).map(<*const f32>::cast_mut);
            for add in [false, true] {
                let dst = Strided { at: y.as_mut_ptr(), ..dst };
                // SAFETY: all extents lie within their vectors.
                unsafe { product((m, n, k), dst, strided(&x, xs), strided(&w, ws), 0.25, add) };
            }
            for (i, y) in y.chunks_exact(n + 2).enumerate() {
                for (j, &y) in y[..n].iter().enumerate() {
                    let sum = in_tiles(k, |l| x[i * xs.0 + l * xs.1], |l| w[l * ws.0 + j * ws.1]);
                    let wanted = 0.25 * sum + 0.25 * sum;
                    assert_eq!(y.to_bits(), wanted.to_bits(), "{m} {k} {n}, {across} {down}: {i} {j}");
                }
                assert_eq!(y[n..], [0.5; 2], "beyond the row");
            }
        }
    }
}

/// Attention whose products are rounded, beside f64: output and gradients, with keys in front of the others.
#[test]
fn attention_in_bf16() {
    use l2p_engine::ops::attention::{
        self, GradientTarget, Gradients, Heads, Prefix, PrefixMut, Qkv, Wanted,
    };
    let (b, t, c, n) = (3, 37, 96, 5);
    let both = |seed, shape: &[usize]| {
        let values = random(seed, shape, DType::F32).to_f64();
        [DType::F64, DType::F32].map(|dtype| Tensor::from_f64(&values, shape, dtype))
    };
    let (qkv, dout) = (both(1, &[b, t, 3 * c]), both(2, &[b, t, c]));
    let (pk, pv) = (both(3, &[b, n, c]), both(4, &[b, n, c]));
    let results: Vec<Vec<f64>> = [DType::F64, DType::F32]
        .into_iter()
        .enumerate()
        .map(|(i, dtype)| {
            let heads = Heads { count: 3, in_bf16: i == 1 };
            let nan =
                |shape: &[usize]| Tensor::from_f64(&vec![f64::NAN; shape.iter().product()], shape, dtype);
            let (mut out, mut lse, mut dqkv) = (nan(&[b, t, c]), nan(&[b, 3, t]), nan(&[b, t, 3 * c]));
            let (mut dk, mut dv) = (nan(&[b, n, c]), nan(&[b, n, c]));
            let layout = Qkv::packed(qkv[i].view());
            let prefix = Prefix { k: pk[i].view(), v: pv[i].view() };
            attention::forward(&DEV, out.view_mut(), lse.view_mut(), &layout, Some(&prefix), heads)
                .expect("forward");
            let into = GradientTarget::Packed(dqkv.view_mut());
            let wanted = Wanted {
                gradients: Some(Gradients { into, q_rows: 0..t, kv_rows: 0..t }),
                prefix: Some(PrefixMut { k: dk.view_mut(), v: dv.view_mut() }),
            };
            let (dout, lse) = (dout[i].view(), lse.view());
            attention::backward_input(&DEV, wanted, dout, lse, &layout, Some(&prefix), heads)
                .expect("backward");
            [out, dqkv, dk, dv].iter().map(Tensor::to_f64).collect::<Vec<_>>().concat()
        })
        .collect();
    let largest = results[0].iter().fold(0.0, |most: f64, v| most.max(v.abs()));
    let error = results[0].iter().zip(&results[1]).fold(0.0, |most: f64, (a, b)| most.max((a - b).abs()));
    println!("largest error {error:e} of {largest:e}");
    assert!(error <= 2.0 / 256.0 * largest, "{error:e} of {largest:e}");
    // Where tiles multiply, something was rounded.
    assert_eq!(error > 1e-5 * largest, Arithmetic::of_process().expect("known") == Arithmetic::Amx);
}

/// Tiles are a thread's own: other threads, a signal and a change of task in the middle change nothing.
#[test]
fn tiles_survive_what_interrupts_them() {
    if !Arithmetic::Amx.is_here() {
        println!("skipped: this processor has no AMX");
        return;
    }
    let case = Case::new((260, 770, 640));
    let wanted = bits(&case.all(Arithmetic::Amx, 260));
    let threads = 4 * std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                for _ in 0..20 {
                    assert_eq!(bits(&on_threads(2, || case.all(Arithmetic::Amx, 260))), wanted);
                }
            });
        }
    });
}

#[test]
fn bits_do_not_depend_on_rows_threads_or_columns() {
    for dims @ (m, k, n) in EXTENTS {
        let case = Case::new(dims);
        for arithmetic in Arithmetic::here() {
            let whole = case.all(arithmetic, m);
            for threads in [1, 3] {
                for some in [1, m.div_ceil(2), m] {
                    let rows = on_threads(threads, || case.all(arithmetic, some));
                    assert_eq!(bits(&rows), bits(&whole[..some * n]), "{arithmetic:?} {dims:?}: {some} rows");
                }
            }
            for columns in [0..n.div_ceil(2), n / 3..n, n - 1..n] {
                let width = columns.len();
                let mut y = vec![f32::NAN; m * width];
                let w = case.matrix(0..k, columns.clone());
                product(&mut y, &case.x, &w, arithmetic, Ending::Plain(Start::Zero));
                for (y, whole) in y.chunks_exact(width).zip(whole.chunks_exact(n)) {
                    assert_eq!(
                        bits(y),
                        bits(&whole[columns.clone()]),
                        "{arithmetic:?} {dims:?}: {columns:?}"
                    );
                }
            }
        }
    }
}

/// Rows of w that take part, from an odd one and to an odd one, and what the sums are added to.
#[test]
fn parts_of_a_sum_and_what_they_are_added_to() {
    let dims @ (m, k, n) = (29, 131, 45);
    let case = Case::new(dims);
    let (bias, residual) = (f32s(3, n), f32s(4, m * n));
    for arithmetic in Arithmetic::here() {
        let part = |rows: Range<usize>, y: &mut [f32], start: Start<f32>| {
            let x: Vec<f32> = case.x.chunks_exact(k).flat_map(|x| x[rows.clone()].to_vec()).collect();
            product(y, &x, &case.matrix(rows, 0..n), arithmetic, Ending::Plain(start));
        };
        let mut y = vec![f32::NAN; m * n];
        part(0..57, &mut y, Start::Residual(&bias, &residual));
        part(57..k, &mut y, Start::Own);
        let mut other = vec![f32::NAN; m * n];
        part(0..k, &mut other, Start::Bias(&bias));
        for (at, (exact, size)) in case.exact().iter().enumerate() {
            let (b, r) = (f64::from(bias[at % n]), f64::from(residual[at]));
            let limit = k as f64 * f64::from(f32::EPSILON) * (size + b.abs() + r.abs());
            assert!((f64::from(y[at]) - exact - b - r).abs() <= limit, "{arithmetic:?}: residual, then own");
            assert!((f64::from(other[at]) - exact - b).abs() <= limit, "{arithmetic:?}: bias");
        }
    }
}

/// Operands that are rounded: halfway cases to even, infinities and NaN as they are.
#[test]
fn operands_are_rounded_to_the_nearest() {
    let values = [1.0, 1.003_906_3, 1.011_718_8, -0.0, 3.389_531_4e38, f32::MAX, f32::INFINITY, 1e-30];
    for arithmetic in Arithmetic::here() {
        for value in values.into_iter().chain([f32::NAN, -f32::NAN]) {
            let case = Case { x: vec![value], ..Case::new((1, 1, 1)) };
            let case = Case {
                w: vec![1.0],
                packed: vec![bf16::ONE; 1].into_iter().chain(case.packed[1..].to_vec()).collect(),
                ..case
            };
            let y = case.all(arithmetic, 1)[0];
            let wanted = bf16::from_f32(value).to_f32();
            assert!(y == wanted || y.is_nan() && wanted.is_nan(), "{arithmetic:?}: {value:e} becomes {y:e}");
        }
    }
}

/// A layer with a packed kernel: forward with every ending, backward with and without the activation, all columns and
/// some, beside the same layer in f64 whose x and W are rounded.
#[test]
fn layers_with_packed_kernels() {
    let (b, t, k, n) = (2, 7, 34, 48);
    let rounded = |seed, shape: &[usize]| {
        let values: Vec<f64> =
            random(seed, shape, DType::F32).to_f64().iter().map(|&v| bf16::from_f64(v).to_f64()).collect();
        [DType::F64, DType::F32].map(|dtype| Tensor::from_f64(&values, shape, dtype))
    };
    let (w, bias, pre) = (rounded(1, &[k, n]), rounded(2, &[n]), rounded(5, &[b * t, k]));
    let lens = PackedForm::Bf16.lens(k, n).expect("any extents");
    let [mut forward, mut backward] = lens.map(|len| Tensor::zeros([len], DType::BF16));
    linear::pack(&DEV, PackedForm::Bf16, forward.view_mut(), backward.view_mut(), w[1].view())
        .expect("packed");
    let packed = Packed { form: PackedForm::Bf16, forward: forward.view(), backward: backward.view() };
    for columns in [0..n, 16..n, 3..20] {
        let width = columns.len();
        let (x, residual) = (rounded(3, &[b, t, k]), rounded(4, &[b * t, width]));
        let dy = rounded(6, &[b, t, width]);
        let run = |which: usize| {
            let dtype = x[which].dtype();
            let packed = (which == 1).then_some(packed);
            let (kernel, bias) = (w[which].view(), bias[which].view());
            let w = LinearWeights { kernel, bias, columns: columns.clone(), packed };
            let poisoned = |shape: [usize; 2]| {
                let mut y = Tensor::zeros(shape, dtype);
                y.fill(f64::NAN);
                y
            };
            let mut all = Vec::new();
            for ending in 0..3 {
                let (mut y, mut kept) = (poisoned([b * t, width]), poisoned([b * t, width]));
                let what = match ending {
                    0 => Epilogue::Plain,
                    1 => Epilogue::Residual(residual[which].view()),
                    _ => Epilogue::Gelu { pre: Some(kept.view_mut()), form: GeluForm::Erf },
                };
                linear::forward(&DEV, y.view_mut(), x[which].view(), &w, what).expect("a layer");
                all.push(y.to_f64());
                if ending == 2 {
                    all.push(kept.to_f64());
                }
            }
            let mut dx = poisoned([b * t, k]);
            linear::backward_input(&DEV, dx.view_mut(), dy[which].view(), &w, Write::Set).expect("a layer");
            linear::backward_input(&DEV, dx.view_mut(), dy[which].view(), &w, Write::Add).expect("a layer");
            all.push(dx.to_f64());
            let (mut dx, pre) = (poisoned([b * t, k]), pre[which].view());
            linear::backward_input_gelu(&DEV, dx.view_mut(), dy[which].view(), &w, pre, GeluForm::Erf)
                .expect("a layer");
            all.push(dx.to_f64());
            all
        };
        for (number, (wanted, got)) in run(0).iter().zip(run(1)).enumerate() {
            let error = l2p_engine::testing::close::relative_error(&got, wanted);
            assert!(error < 1e-6, "columns {columns:?}, result {number}: off by {error:.1e}");
        }
    }
}

/// Rows stored as bf16, read and written: the bits of rows in f32, rounded once.
#[test]
fn rows_stored_in_bf16() {
    for (b, t, k, n) in [(1, 1, 1, 1), (2, 7, 34, 48), (3, 11, 96, 65), (1, 70, 130, 33)] {
        let [x, dy, pre, w, bias, residual] =
            [[b * t, k], [b * t, n], [b * t, k], [k, n], [1, n], [b * t, n]].map({
                let mut seed = 0;
                move |shape| {
                    seed += 1;
                    random(seed, shape, DType::F32)
                }
            });
        let lens = PackedForm::Bf16.lens(k, n).expect("any extents");
        let [mut forward, mut backward] = lens.map(|len| Tensor::zeros([len], DType::BF16));
        linear::pack(&DEV, PackedForm::Bf16, forward.view_mut(), backward.view_mut(), w.view())
            .expect("packed");
        let packed = Packed { form: PackedForm::Bf16, forward: forward.view(), backward: backward.view() };
        for columns in [0..n, n / 3..n] {
            let bias = bias.view().reshaped([n]);
            let w = LinearWeights { kernel: w.view(), bias, columns: columns.clone(), packed: Some(packed) };
            let width = columns.len();
            let (dy, residual) = (&dy.to_f64()[..b * t * width], &residual.to_f64()[..b * t * width]);
            let residual = Tensor::from_f64(residual, [b * t, width], DType::F32);
            // Rows that are read of one type, rows that are written of another.
            let run = |read: DType, written: DType| {
                let of = |values: &[f64], width: usize| Tensor::from_f64(values, [b * t, width], read);
                let nan =
                    |width: usize| Tensor::from_f64(&vec![f64::NAN; b * t * width], [b * t, width], written);
                let (x, dy) = (of(&x.to_f64(), k), of(dy, width));
                // The slope is taken at what was kept, which has the type of what is written.
                let kept: Vec<f64> = pre.to_f64().iter().map(|&v| bf16::from_f64(v).to_f64()).collect();
                let pre = Tensor::from_f64(&kept, [b * t, k], written);
                let mut all = Vec::new();
                for form in [GeluForm::Erf, GeluForm::Tanh] {
                    let (mut y, mut kept, mut dx) = (nan(width), nan(width), nan(k));
                    let ending = Epilogue::Gelu { pre: Some(kept.view_mut()), form };
                    linear::forward(&DEV, y.view_mut(), x.view(), &w, ending).expect("a layer");
                    linear::backward_input_gelu(&DEV, dx.view_mut(), dy.view(), &w, pre.view(), form)
                        .expect("a layer");
                    all.extend([y, kept, dx]);
                }
                let (mut y, mut z, mut dx) = (nan(width), nan(width), nan(k));
                linear::forward(&DEV, y.view_mut(), x.view(), &w, Epilogue::Plain).expect("a layer");
                linear::forward(&DEV, z.view_mut(), x.view(), &w, Epilogue::Residual(residual.view()))
                    .expect("a layer");
                linear::backward_input(&DEV, dx.view_mut(), dy.view(), &w, Write::Set).expect("a layer");
                all.extend([y, z, dx]);
                all.iter().map(Tensor::to_f64).collect::<Vec<_>>().concat()
            };
            let wide = run(DType::F32, DType::F32);
            let rounded: Vec<f64> = wide.iter().map(|&v| bf16::from_f32(v as f32).to_f64()).collect();
            let place = format!("({b}, {t}, {k}, {n}), columns {columns:?}");
            assert!(wide.iter().all(|v| v.is_finite()), "{place}");
            assert_eq!(run(DType::BF16, DType::F32), wide, "{place}: read");
            assert_eq!(run(DType::F32, DType::BF16), rounded, "{place}: written");
            assert_eq!(run(DType::BF16, DType::BF16), rounded, "{place}: both");
        }
    }
}
