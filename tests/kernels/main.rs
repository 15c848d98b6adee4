//! The kernels as texts: their arguments are those of the bindings, and nvcc makes of them what was meant.
//! What they compute is tested by `tests/ops/main.rs`.

mod bindings;
#[path = "../emulation/mod.rs"]
mod emulation;
mod resources;
