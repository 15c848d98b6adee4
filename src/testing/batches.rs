//! Whether an image's results depend on what else is in its batch.

use super::cases::{Case, Data, On, Scope};
use super::close;
use crate::tensor::Tensor;

/// The part of a tensor that belongs to `n` images from `from`.
fn cut(t: &Tensor, part: Scope, batch: usize, from: usize, n: usize) -> Tensor {
    if part == Scope::All {
        return t.clone();
    }
    let each = t.len() / batch;
    let mut dims = t.dims().to_vec();
    dims[0] = dims[0] / batch * n;
    Tensor::from_f64(&t.to_f64()[from * each..(from + n) * each], dims.as_slice(), t.dtype())
}

/// Compares an image's (or row's) results with those of the same image in other batches, bit for bit; how
/// many arrays there were. `data` is in host memory.
///
/// Panics where they differ.
pub fn compare(on: &On, case: &Case, data: &Data) -> usize {
    let (Some(with_batch), b) = (&case.with_batch, case.batch) else { return 0 };
    let run = |case: &Case, data: &Data| {
        let here = data.to(&on.dev, data.dtype).expect("numbers where they are used");
        case.everything(on, &here).expect("forward and backward")
    };
    let whole = run(case, data);
    let mut compared = 0;
    for (from, n) in [(0, 1), (b - 1, 1), (b / 2, 1), (0, b.min(2)), (b / 3, b - b / 3)] {
        let inputs = data.inputs.iter().zip(&case.inputs).map(|(t, a)| cut(t, a.part, b, from, n));
        let upstream = data.upstream.iter().zip(case.results()).map(|(t, o)| cut(t, o.part, b, from, n));
        let few = Data { inputs: inputs.collect(), upstream: upstream.collect(), dtype: data.dtype };
        let got = run(&with_batch(n), &few);
        let parts = case.outputs.iter().map(|o| o.part);
        let parts = parts.chain(case.grads.iter().map(|g| case.inputs[g.input].part));
        for (((part, got), whole), name) in parts.zip(&got).zip(&whole).zip(case.names()) {
            if part == Scope::All {
                continue;
            }
            let each = whole.len() / b;
            let wanted = &whole[from * each..(from + n) * each];
            let text = format!("{} {} {name} in {:?}", case.op, case.label, data.dtype);
            assert!(close::same_bits(got, wanted), "{text}: {n} from {from} differ from all {b}");
            compared += 1;
        }
    }
    compared
}
