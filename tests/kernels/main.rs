//! The sources of the kernels: their arguments are those of the bindings, and what nvcc compiles stays within the
//! table of `docs/kernel_resources.md`. Their results are tested by `tests/ops` on the CPU, by `tests/emulated_gpu` in
//! emulation and by `tests/device` on a GPU.

mod bindings;
#[path = "../emulation/mod.rs"]
mod emulation;
mod machine_code;
mod resources;
