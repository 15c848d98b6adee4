//! Signals that ask a run to stop. The run stops after the current step, saves and ends with exit code 130.
//!
//! SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2 and SIGXCPU ask for it; batch systems send the last three
//! before the time of a job runs out. A signal that was ignored when the program started stays ignored, as
//! SIGHUP is under `nohup`. Signals that follow change nothing, because the kernel, the shell and a batch
//! system may each send one; only a SIGINT at least [`AGAIN`] after the first signal ends the process
//! without saving.

use super::console::say;
use crate::error::{Error, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;
use std::ffi::c_int;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

static STOP: AtomicBool = AtomicBool::new(false);
static INSTALLED: OnceLock<std::result::Result<(), String>> = OnceLock::new();

/// The same number on every architecture of Linux; signal-hook has no name for it.
const SIGXCPU: c_int = 24;
/// The least time between the first signal and a SIGINT that ends the process without saving.
const AGAIN: Duration = Duration::from_secs(2);

/// Handles the signals from now on. Doing it again changes nothing.
///
/// # Errors
/// [`Error::Failed`] if the operating system refuses.
pub fn install() -> Result<()> {
    install_saying("stopping after this step and saving")
}

/// The same for a process whose first signal means `what`.
///
/// # Errors
/// As [`install`].
pub fn install_saying(what: &'static str) -> Result<()> {
    INSTALLED
        .get_or_init(|| {
            let ignored = ignored();
            let all = [SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2, SIGXCPU];
            let handled: Vec<c_int> = all.into_iter().filter(|s| ignored >> (s - 1) & 1 == 0).collect();
            let signals = Signals::new(handled).map_err(|e| e.to_string())?;
            let thread = std::thread::Builder::new().name("signals".into());
            thread.spawn(move || watch(signals, what)).map(|_| ()).map_err(|e| e.to_string())
        })
        .clone()
        .map_err(|e| Error::failed(format!("signals cannot be handled: {e}")))
}

/// The signals that this process ignores, as bits from signal 1. None where `/proc` does not say.
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

fn watch(mut signals: Signals, what: &str) {
    let mut first = None;
    for signal in signals.forever() {
        let first = *first.get_or_insert_with(|| {
            STOP.store(true, Ordering::SeqCst);
            say(&format!("{what}; Ctrl-C after {} seconds ends at once without saving", AGAIN.as_secs()));
            Instant::now()
        });
        if signal == SIGINT && first.elapsed() >= AGAIN {
            std::process::exit(130);
        }
    }
}

/// Whether the run was asked to stop.
pub fn stop_requested() -> bool {
    STOP.load(Ordering::SeqCst)
}

/// # Errors
/// `Error::Interrupted` if the run was asked to stop. For baselines, which begin anew when the run is resumed.
pub fn stop_baseline() -> Result<()> {
    if !stop_requested() {
        return Ok(());
    }
    Err(Error::Interrupted(
        "stopped while computing a baseline; the run itself is saved, add --resume to go on".into(),
    ))
}

/// # Errors
/// `Error::Interrupted` after a signal, for a search that writes nothing.
pub fn stop_sweep() -> Result<()> {
    match stop_requested() {
        true => Err(Error::Interrupted("stopped while trying learning rates; nothing was written".into())),
        false => Ok(()),
    }
}

/// Asks the run to stop, as the first signal does.
pub fn request_stop() {
    STOP.store(true, Ordering::SeqCst);
}
