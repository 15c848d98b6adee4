//! The product routines of the `gemm` family, one crate per element type: the `gemm` crate above them would compile
//! complex and 16-bit products as well.

use gemm_common::Parallelism;

/// dst (m, n) = lhs (m, k) rhs (k, n) · `scale`, plus dst · `alpha` where dst is read. Arguments: m, n, k; dst with its
/// column and row strides, and whether it is read; lhs and rhs, each with its column and row strides; alpha; scale;
/// three signs of conjugation, which real numbers do not have; threads.
pub type Routine<T> = unsafe fn(
    usize,
    usize,
    usize,
    *mut T,
    isize,
    isize,
    bool,
    *const T,
    isize,
    isize,
    *const T,
    isize,
    isize,
    T,
    T,
    bool,
    bool,
    bool,
    Parallelism,
);

/// Element types that the library multiplies.
pub trait LibraryProduct: Sized {
    /// The routine for the vector unit of this machine.
    fn routine() -> Routine<Self>;
}

impl LibraryProduct for f32 {
    fn routine() -> Routine<f32> {
        gemm_f32::gemm::f32::get_gemm_fn()
    }
}

impl LibraryProduct for f64 {
    fn routine() -> Routine<f64> {
        gemm_f64::gemm::f64::get_gemm_fn()
    }
}
