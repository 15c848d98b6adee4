//! What tests and benchmarks share: comparisons that NaN cannot pass, gradient checks, plain
//! implementations to compare with, and the one table of cases. Nothing else in the library uses it.

pub mod batches;
pub mod cases;
pub mod close;
pub mod gradcheck;
pub mod plain;
