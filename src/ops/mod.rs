//! The mathematics: one folder per op, forward above backward. See `src/ops/README.md`.

/// Runs `$body` with `$T` bound to the float type of a tensor.
macro_rules! float {
    ($op:literal, $arg:literal, $dtype:expr, $T:ident => $body:expr) => {
        match $dtype {
            $crate::tensor::DType::F32 => {
                type $T = f32;
                $body
            }
            $crate::tensor::DType::F64 => {
                type $T = f64;
                $body
            }
            other => Err($crate::error::Error::Shape {
                op: $op,
                arg: $arg,
                wanted: "F32 or F64".into(),
                got: format!("{other:?}"),
            }),
        }
    };
}

pub mod float;

pub mod anchor;
pub mod attention;
pub mod axpy;
pub mod component_weights;
pub mod cross_entropy;
pub mod distill;
pub mod gather;
pub mod gelu;
pub mod layer_norm;
pub mod linear;
pub mod match_prompts;
pub mod matmul;
pub mod optimizer;
pub mod patches;
pub mod pool_tokens;
pub mod preprocess;
pub mod relu;
pub mod row_norm;
pub mod sum;
pub mod tokens;
