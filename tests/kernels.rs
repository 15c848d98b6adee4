//! The kernels as texts: their arguments are those of the bindings, and nvcc makes of them what was meant.
//! What they compute is tested by `tests/ops.rs`.

#[path = "kernels/bindings.rs"]
mod bindings;
#[path = "emulation/mod.rs"]
mod emulation;
#[path = "kernels/resources.rs"]
mod resources;
