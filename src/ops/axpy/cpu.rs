//! Scaled sums on slices.

use crate::error::{Error, Result};
use crate::ops::float::{Float, for_rows};
use crate::tensor::{DType, Element, View, ViewMut};
use half::{bf16, f16};

pub fn axpy<T: Float>(y: &mut [T], x: &[T], a: f64) {
    let a = T::of(a);
    for_rows(
        y,
        1,
        #[inline(always)]
        |first, y| {
            for (y, &x) in y.iter_mut().zip(&x[first..]) {
                *y += a * x;
            }
        },
    );
}

pub fn scale_in_place<T: Float>(x: &mut [T], a: f64) {
    let a = T::of(a);
    for_rows(
        x,
        1,
        #[inline(always)]
        |_, x| x.iter_mut().for_each(|x| *x *= a),
    );
}

pub fn cast(y: ViewMut, x: View) -> Result<()> {
    match (y.dtype(), x.dtype()) {
        (DType::BF16, DType::F32) => convert::<bf16, f32>(y, x),
        (DType::F16, DType::F32) => convert::<f16, f32>(y, x),
        (DType::F32, DType::BF16) => convert::<f32, bf16>(y, x),
        (DType::F32, DType::F16) => convert::<f32, f16>(y, x),
        (to, from) => Err(Error::Shape {
            op: "cast",
            arg: "y",
            wanted: "F32, or BF16 or F16 from F32".into(),
            got: format!("{to:?} from {from:?}"),
        }),
    }
}

/// By way of f64, which holds every value of the other types: rounded once.
fn convert<To: Element, From: Element>(y: ViewMut, x: View) -> Result<()> {
    let (y, x) = (y.get::<To>("cast", "y")?, x.get::<From>("cast", "x")?);
    y.iter_mut().zip(x).for_each(|(y, x)| *y = To::narrow(x.wide()));
    Ok(())
}
