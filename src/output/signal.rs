//! Ctrl-C and termination: the first asks the run to stop at the next step and save, the second ends
//! the process at once.

use crate::error::{Error, Result};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

static STOP: AtomicBool = AtomicBool::new(false);
static INSTALLED: OnceLock<std::result::Result<(), String>> = OnceLock::new();

/// Listens for SIGINT, SIGTERM and SIGHUP from now on. Doing it again changes nothing.
///
/// # Errors
/// [`Error::Failed`] if the operating system refuses.
pub fn install() -> Result<()> {
    INSTALLED
        .get_or_init(|| {
            ctrlc::set_handler(|| {
                if STOP.swap(true, Ordering::SeqCst) {
                    std::process::exit(130);
                }
                crate::output::say("stopping after this step and saving; once more to stop at once");
            })
            .map_err(|e| e.to_string())
        })
        .clone()
        .map_err(|e| Error::failed(format!("signals cannot be handled: {e}")))
}

/// Whether somebody asked the run to stop.
pub fn stop_requested() -> bool {
    STOP.load(Ordering::SeqCst)
}

/// # Errors
/// `Error::Interrupted` if somebody asked the run to stop, for parts that begin anew after it.
pub fn stop_baseline() -> Result<()> {
    if !stop_requested() {
        return Ok(());
    }
    Err(Error::Interrupted(
        "stopped while computing a baseline; the run itself is saved, add --resume to go on".into(),
    ))
}

/// Asks the run to stop, as the first signal does.
pub fn request_stop() {
    STOP.store(true, Ordering::SeqCst);
}
