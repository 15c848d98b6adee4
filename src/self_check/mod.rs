//! Whether the kernels compute on this GPU what they should, before a run trusts them.
//!
//! A child process runs every op of the case table on the GPU ([`works`]): beside the CPU, again and again beside copies,
//! and in a replayed graph ([`op`]), then a few training steps ([`step`]); Hopper kernels also in tiles of each width
//! ([`widths`]). It reports line by line; a parent waits for each
//! line, ends a child that hangs, and goes on behind the work that was under way ([`child`]). What was found becomes a
//! [`Verdict`] with a row per kernel, which is kept in the cache folder, and decides what a run may use ([`decision`]).

mod child;
mod decision;
mod found;
mod op;
mod step;
mod verdict;
mod widths;
mod works;

pub use child::{Check, child};
pub use decision::{Checked, checked};
pub use found::{Failure, Found, Stage};
pub use verdict::{Key, Row, Verdict};
pub use works::{StepShapes, shapes};

/// The variable that turns the check off (`off`) or leaves large shapes out (`quick`).
pub const SWITCH: &str = "L2P_CHECK_DEVICE";
