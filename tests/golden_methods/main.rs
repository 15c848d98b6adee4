//! The numbers of published code of further methods, reproduced in f64.
//!
//! The fixtures are described in `tests/fixtures/golden_methods/README.md`. `L2P_GOLDEN_METHODS_DIR` points these tests
//! at another folder of the same format, with other sizes.

mod coda;
#[path = "../common/mod.rs"]
mod common;
mod ranpac_adapter;
mod regularizers;
mod s_prompts;

use common::golden_methods::{cases, count, npz, number};
use common::npz::Array;
use l2p_engine::config::Config;
use l2p_engine::device::Device;
use l2p_engine::network::Model;
use l2p_engine::tensor::{DType, Tensor};
use serde_json::Value;

/// Agreement relative to the largest value of a quantity; of gradients: to the largest of the case.
const F64: f64 = 1e-9;

const DEV: Device = Device::Cpu;

fn images(array: &Array) -> Tensor {
    let values: Vec<f64> = array.data.iter().map(|v| v / 256.0).collect();
    Tensor::from_f64(&values, array.shape.as_slice(), DType::F64)
}

fn labels(array: &Array) -> Tensor {
    Tensor::from_vec(array.u32s(), array.shape.as_slice())
}

/// A model of the sizes that `about` names, without weights.
fn model_of(config: &Config, all: &Value, about: &Value, classes: usize, batch: usize) -> Model {
    common::golden_methods::model_of(&DEV, config, all, about, classes, batch)
}

/// The worst error of a case, and everything that is beyond the limit.
#[derive(Default)]
struct Report {
    worst: f64,
    checks: usize,
    failures: Vec<String>,
}

impl Report {
    fn check(&mut self, what: &str, error: f64) {
        self.checks += 1;
        self.worst = if error <= self.worst { self.worst } else { error };
        if error.is_nan() || error > F64 {
            self.failures.push(format!("{what}: {error:.2e} > {F64:.0e}"));
        }
    }

    fn array(&mut self, what: &str, got: &[f64], wanted: &[f64]) {
        self.check(what, common::relative_error(got, wanted));
    }

    fn finish(self, name: &str) {
        println!("golden {name:<34} {:>4} checks, worst {:.1e}", self.checks, self.worst);
        assert!(self.failures.is_empty(), "{name}:\n  {}", self.failures.join("\n  "));
    }
}
