//! Parse, run, exit; everything else is in the library.

fn main() {
    std::process::exit(l2p_engine::cli::main());
}
