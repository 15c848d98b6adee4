//! The two lanes of tests. `cargo test --release` is the fast one. With `L2P_DEEP=1` the tests whose names begin with
//! `deep_` run, too, and properties are tried with ten times as many random cases.

// Some programs use a part of this.
#![allow(dead_code)]

use std::io::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering};

static LEFT_OUT: AtomicUsize = AtomicUsize::new(0);

/// Random cases of a property: `fast`, and ten times as many in the deep lane.
pub fn fuzz_cases(fast: u32) -> u32 {
    if asked_for() { 10 * fast } else { fast }
}

fn asked_for() -> bool {
    std::env::var_os("L2P_DEEP").is_some_and(|v| v == "1")
}

/// Whether the deep lane was asked for. If not, standard error gets a line with `what` is left out and how many
/// such checks this test program has left out so far.
pub fn deep(what: &str) -> bool {
    if asked_for() {
        return true;
    }
    let count = LEFT_OUT.fetch_add(1, Ordering::Relaxed) + 1;
    // Not `eprintln!`, which the test harness captures.
    let line =
        format!("skipped: {what} (deep lane, {count} left out so far in this program; L2P_DEEP=1 runs it)\n");
    let _ = std::io::stderr().write_all(line.as_bytes());
    false
}
