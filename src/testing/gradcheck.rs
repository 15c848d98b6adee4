//! Analytic gradients against central differences in f64, with a random upstream gradient.

use super::close;

/// Steps tried for every entry, relative to max(1, |x|). Powers of two, so that x ± h is exact or
/// nearly so.
const STEPS: [f64; 3] = [1.0 / 1024.0, 1.0 / 8192.0, 1.0 / 1_048_576.0];

/// d/dx of `f` at `x`, extrapolated from two central differences: error O(h⁴). Of the steps tried,
/// the one wins whose two differences agree best.
pub fn derivative(x: f64, mut f: impl FnMut(f64) -> f64) -> f64 {
    let mut best = (f64::INFINITY, f64::NAN);
    for step in STEPS {
        let h = step * x.abs().max(1.0);
        let mut slope = |h: f64| {
            let (right, left) = (x + h, x - h);
            (f(right) - f(left)) / (right - left)
        };
        let (near, far) = (slope(h), slope(2.0 * h));
        let estimate = near + (near - far) / 3.0;
        // The last term stands for what rounding of values around 1 does to a difference.
        let doubt = (estimate - near).abs() + f64::EPSILON / h;
        if doubt < best.0 {
            best = (doubt, estimate);
        }
    }
    best.1
}

/// The gradient of Σ upstream · forward(inputs) with respect to input `which`, entry by entry.
/// `forward` maps all inputs to all outputs, flattened one after the other.
pub fn numeric(
    inputs: &[Vec<f64>],
    which: usize,
    upstream: &[f64],
    mut forward: impl FnMut(&[Vec<f64>]) -> Vec<f64>,
) -> Vec<f64> {
    let mut inputs = inputs.to_vec();
    // Differences of the outputs, not of their sum: unmoved outputs then cancel exactly.
    let base = forward(&inputs);
    assert_eq!(base.len(), upstream.len(), "one upstream value per output");
    (0..inputs[which].len())
        .map(|i| {
            let x = inputs[which][i];
            let slope = derivative(x, |moved| {
                inputs[which][i] = moved;
                let outputs = forward(&inputs);
                outputs.iter().zip(&base).zip(upstream).map(|((o, b), u)| (o - b) * u).sum()
            });
            inputs[which][i] = x;
            slope
        })
        .collect()
}

/// Worst error of an analytic gradient relative to its largest entry.
pub fn worst(analytic: &[f64], numeric: &[f64]) -> f64 {
    close::relative_error(analytic, numeric)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derivatives_of_known_functions() {
        for x in [-3.0, -0.01, 0.0, 0.7, 40.0] {
            let error = (derivative(x, f64::sin) - f64::cos(x)).abs();
            assert!(error < 1e-10, "{x}: {error:e}");
        }
        assert!((derivative(1.0, |x| (5.0 * x).exp()) / (5.0 * 5f64.exp()) - 1.0).abs() < 1e-10);
        assert!(derivative(0.0, |_| f64::NAN).is_nan());
    }

    #[test]
    fn a_wrong_gradient_is_seen() {
        // y = (a b, a²) with upstream (2, -3): dL/da = 2 b - 6 a, dL/db = 2 a.
        let inputs = [vec![0.5, 1.5], vec![-2.0, 4.0]];
        let up = [2.0, 2.0, -3.0, -3.0];
        let f = |x: &[Vec<f64>]| {
            let products = x[0].iter().zip(&x[1]).map(|(a, b)| a * b);
            products.chain(x[0].iter().map(|a| a * a)).collect::<Vec<_>>()
        };
        assert!(worst(&[-7.0, -1.0], &numeric(&inputs, 0, &up, f)) < 1e-11);
        assert!(worst(&[1.0, 3.0], &numeric(&inputs, 1, &up, f)) < 1e-11);
        assert!(worst(&[-7.0, -1.001], &numeric(&inputs, 0, &up, f)) > 1e-4);
        assert!(worst(&[f64::NAN, -1.0], &numeric(&inputs, 0, &up, f)) > 1.0);
    }
}
