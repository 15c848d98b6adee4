//! Parse, run, exit; everything else is in the library.

fn main() {
    if std::env::var_os("CUDA_MODULE_LOADING").is_none() {
        // Kernels are loaded when a GPU is opened. By default the driver loads each at its first use, which may
        // wait for a sum over several GPUs that in turn waits for this process.
        // SAFETY: no other thread runs yet.
        unsafe { std::env::set_var("CUDA_MODULE_LOADING", "EAGER") };
    }
    std::process::exit(l2p_engine::cli::main());
}
