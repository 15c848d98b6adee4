//! What tests and benchmarks share: comparisons that NaN cannot pass, gradient checks, plain
//! implementations to compare with, and the one table of cases. Of the library only `self_check` uses it.

pub mod batches;
pub mod cases;
pub mod close;
pub mod gradcheck;
pub mod parity;
pub mod plain;
