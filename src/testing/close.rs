//! Comparisons that NaN cannot pass, with limits that are derived, not tuned.

/// Largest |got - wanted|. A NaN in either, or two infinities, count as infinitely wrong.
///
/// Panics if the lengths differ.
pub fn absolute_error(got: &[f64], wanted: &[f64]) -> f64 {
    assert_eq!(got.len(), wanted.len(), "lengths differ");
    got.iter().zip(wanted).fold(0.0, |worst: f64, (g, w)| {
        let error = (g - w).abs();
        if error.is_nan() { f64::INFINITY } else { worst.max(error) }
    })
}

/// Largest absolute value; NaN counts as infinite.
pub fn scale(values: &[f64]) -> f64 {
    values.iter().fold(0.0, |m: f64, v| if v.is_nan() { f64::INFINITY } else { m.max(v.abs()) })
}

/// Largest |got - wanted| relative to the largest |wanted|; absolute where all of them are zero.
pub fn relative_error(got: &[f64], wanted: &[f64]) -> f64 {
    let error = absolute_error(got, wanted);
    match scale(wanted) {
        0.0 => error,
        s if s.is_infinite() => f64::INFINITY,
        s => error / s,
    }
}

/// An error in f32 and what it may be: `times` the error of plain code in f32 plus one ulp of the
/// largest exact value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Budget {
    pub error: f64,
    pub allowed: f64,
}

impl Budget {
    /// `got` and `plain` were computed in f32, `exact` in f64 from the same inputs.
    pub fn f32(got: &[f64], plain: &[f64], exact: &[f64], times: f64) -> Budget {
        let ulp = f64::from(f32::EPSILON) * scale(exact);
        let allowed = times * absolute_error(plain, exact) + ulp;
        Budget { error: absolute_error(got, exact), allowed }
    }

    /// False when either number is NaN, and when plain code gives no finite number to go by.
    pub fn holds(&self) -> bool {
        self.allowed.is_finite() && self.error <= self.allowed
    }
}

/// Whether two sequences have the same bits (so that NaN equals itself and 0 differs from -0).
pub fn same_bits(a: &[f64], b: &[f64]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nan_is_infinitely_wrong() {
        for (got, wanted) in
            [(f64::NAN, 1.0), (1.0, f64::NAN), (f64::INFINITY, f64::INFINITY), (f64::NAN, f64::NAN)]
        {
            assert_eq!(absolute_error(&[0.0, got, 0.0], &[0.0, wanted, 0.0]), f64::INFINITY);
            assert_eq!(relative_error(&[1.0, got], &[1.0, wanted]), f64::INFINITY);
        }
        assert!(!Budget::f32(&[f64::NAN], &[1.0], &[1.0], 4.0).holds());
        assert!(!Budget::f32(&[1.0], &[f64::NAN], &[1.0], 4.0).holds());
        assert!(!Budget::f32(&[1.0], &[1.0], &[f64::NAN], 4.0).holds());
    }

    #[test]
    fn the_budget_is_that_of_plain_code_and_one_ulp() {
        let exact = [1.0, -2.0];
        let ulp = 2.0 * f64::from(f32::EPSILON);
        assert!(Budget::f32(&[1.0, -2.0 - ulp], &exact, &exact, 4.0).holds());
        assert!(!Budget::f32(&[1.0, -2.0 - 1.01 * ulp], &exact, &exact, 4.0).holds());
        assert!(Budget::f32(&[1.0, -2.0 - 5.0 * ulp], &[1.0 + ulp, -2.0], &exact, 4.0).holds());
        assert!(!Budget::f32(&[1.0, -2.0 - 5.1 * ulp], &[1.0 + ulp, -2.0], &exact, 4.0).holds());
    }

    #[test]
    fn relative_to_the_largest() {
        assert_eq!(relative_error(&[1.0, 8.0], &[2.0, 8.0]), 0.125);
        assert_eq!(relative_error(&[0.5], &[0.0]), 0.5);
        assert_eq!(relative_error(&[], &[]), 0.0);
    }
}
