//! Recorded launches under ThreadSanitizer.

use super::emulation;
use std::path::Path;
use std::process::Command;

/// What ThreadSanitizer says about the launches in `folder`, one text per launch with a report; and how many
/// launches there were. An error in a sentence where it cannot run.
pub fn replay(kernels: &Path, folder: &Path) -> Result<(Vec<String>, usize), String> {
    let program = emulation::replay_of(kernels)?;
    let launches = emulation::files(folder, "launch")?;
    let mut reports = Vec::new();
    for launch in &launches {
        // Its addresses do not go with those that the kernel draws at random.
        let output = Command::new("setarch").arg("-R").arg(&program).arg(launch).output();
        let output = output.map_err(|e| format!("setarch: {e}"))?;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        match output.status.code() {
            Some(0) => {}
            Some(66) if text.contains("data race") => reports.push(text),
            _ if text.contains("FATAL: ThreadSanitizer") || text.contains("setarch:") => {
                return Err(format!("ThreadSanitizer does not run here: {text}"));
            }
            _ => panic!("{}: {text}", launch.display()),
        }
    }
    Ok((reports, launches.len()))
}
