//! Mean and deviation over runs.

use serde::{Deserialize, Serialize};

/// mean = Σ x / n; deviation = sqrt(Σ (x - mean)² / (n - 1)), `None` for a single value.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    #[serde(with = "super::nullable::number")]
    pub mean: f64,
    pub deviation: Option<f64>,
    pub n: usize,
}

impl Spread {
    pub fn of(values: &[f64]) -> Spread {
        let n = values.len();
        let mean = values.iter().sum::<f64>() / n as f64;
        let squares: f64 = values.iter().map(|x| (x - mean).powi(2)).sum();
        Spread { mean, deviation: (n > 1).then(|| (squares / (n - 1) as f64).sqrt()), n }
    }

    /// Over the values that are there; `None` if none is.
    pub fn of_some(values: impl IntoIterator<Item = Option<f64>>) -> Option<Spread> {
        let values: Vec<f64> = values.into_iter().flatten().collect();
        (!values.is_empty()).then(|| Spread::of(&values))
    }

    /// In percent, such as `83.83` or `83.83 ± 0.04`; `-` for what is not finite.
    pub fn percent(&self) -> String {
        match self.deviation.filter(|_| self.mean.is_finite()) {
            Some(deviation) => format!("{:.2} ± {:.2}", 100.0 * self.mean, 100.0 * deviation),
            None => percent(self.mean),
        }
    }
}

/// Percent with two decimals; `-` for what is not finite.
pub fn percent(fraction: f64) -> String {
    if fraction.is_finite() { format!("{:.2}", 100.0 * fraction) } else { "-".into() }
}
