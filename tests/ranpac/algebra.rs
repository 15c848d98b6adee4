//! The two factorisations of ridge regression.

use l2p_engine::device::Device;
use l2p_engine::methods::ranpac::band::{Band, WIDTH};
use l2p_engine::methods::ranpac::cholesky::{self, BLOCK};
use l2p_engine::ops::matmul::{self, Layout, Write};
use l2p_engine::rng::{Rng, Stream};
use l2p_engine::tensor::{DType, Tensor};

/// x w.
fn product(x: &Tensor, w: &Tensor) -> Tensor {
    let dense = |x: &Tensor| Layout::dense(x.dims()[0], x.dims()[1]);
    let mut y = Tensor::zeros([x.dims()[0], w.dims()[1]], x.dtype());
    let to = dense(&y);
    matmul::forward(&Device::Cpu, (y.view_mut(), to), (x.view(), dense(x)), (w.view(), dense(w)), Write::Set)
        .expect("a product");
    y
}

/// A positive definite matrix larger than two blocks, and one that is not definite.
#[test]
fn the_solution_solves_the_system_and_indefinite_matrices_are_seen() {
    let (n, c) = (2 * BLOCK + 37, 3);
    let mut rng = Rng::new(5, Stream::Test, 0);
    let root: Vec<f64> = (0..n * n).map(|_| rng.normal()).collect();
    let mut a = vec![0.0; n * n];
    for i in 0..n {
        for j in 0..n {
            a[i * n + j] = (0..n).map(|k| root[i * n + k] * root[j * n + k]).sum::<f64>() / n as f64;
        }
        a[i * n + i] += 0.5;
    }
    let b: Vec<f64> = (0..n * c).map(|_| rng.normal()).collect();
    let mut l = Tensor::from_f64(&a, [n, n], DType::F64);
    let mut x = Tensor::from_f64(&b, [n, c], DType::F64);
    assert!(cholesky::factorize::<f64>(&mut l).expect("f64"));
    cholesky::solve::<f64>(&l, &mut x).expect("f64");
    let x = x.to_f64();
    for i in 0..n {
        for j in 0..c {
            let product: f64 = (0..n).map(|k| a[i * n + k] * x[k * c + j]).sum();
            assert!((product - b[i * c + j]).abs() < 1e-10, "row {i}: {product} and {}", b[i * c + j]);
        }
    }
    a[(n - 1) * n + n - 1] = -1.0;
    assert!(!cholesky::factorize::<f64>(&mut Tensor::from_f64(&a, [n, n], DType::F64)).expect("f64"));
    a[0] = f64::NAN;
    assert!(!cholesky::factorize::<f64>(&mut Tensor::from_f64(&a, [n, n], DType::F64)).expect("f64"));
}

/// Answers k (A + λ I)⁻¹ y through the band beside those of a factor of the whole matrix, for sizes around the width.
#[test]
fn the_band_answers_as_the_whole_matrix() {
    for n in [1, 2, 3, WIDTH, WIDTH + 1, WIDTH + 2, 2 * WIDTH + 1, 3 * WIDTH + 17] {
        let (c, r) = (2, 3);
        let mut rng = Rng::new(9, Stream::Test, n as u64);
        let mut draw = |n: usize| (0..n).map(|_| rng.normal()).collect::<Vec<f64>>();
        let (root, y, k) = (draw(n * n), draw(n * c), draw(r * n));
        let mut a = vec![0.0; n * n];
        for i in 0..n {
            for j in 0..n {
                a[i * n + j] = (0..n).map(|k| root[i * n + k] * root[j * n + k]).sum::<f64>();
            }
        }
        let tensor = |values: &[f64], shape: [usize; 2]| Tensor::from_f64(values, shape, DType::F64);
        let (mut reduced, mut qy) = (tensor(&a, [n, n]), tensor(&y, [n, c]));
        let band = Band::reduce::<f64>(&mut reduced, &mut qy).expect("f64");
        for lambda in [0.3, 50.0] {
            let z = band.solve(lambda, &qy.to_f64()).expect("positive definite");
            let mut z = tensor(&z, [n, c]);
            band.turn_back::<f64>(&reduced, &mut z).expect("f64");
            let got = product(&tensor(&k, [r, n]), &z).to_f64();
            let mut shifted = a.clone();
            (0..n).for_each(|i| shifted[i * n + i] += lambda);
            let (mut l, mut x) = (tensor(&shifted, [n, n]), tensor(&y, [n, c]));
            assert!(cholesky::factorize::<f64>(&mut l).expect("f64"));
            cholesky::solve::<f64>(&l, &mut x).expect("f64");
            let wanted = product(&tensor(&k, [r, n]), &x).to_f64();
            let scale = wanted.iter().fold(0.0f64, |m, v| m.max(v.abs()));
            for (got, wanted) in got.iter().zip(&wanted) {
                let error = (got - wanted).abs() / scale;
                assert!(error < 1e-10, "{n} rows, lambda {lambda}: {got} beside {wanted}");
            }
        }
        assert!(band.solve(-1e9, &qy.to_f64()).is_none());
    }
}
