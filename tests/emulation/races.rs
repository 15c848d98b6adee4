//! Recorded launches under ThreadSanitizer.

use super::emulation;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// What came of a replay.
pub struct Replay {
    /// What ThreadSanitizer says, one text per kernel that it says something about.
    pub reports: Vec<String>,
    pub launches: usize,
    /// Kernels of which no launch was recorded.
    pub never: Vec<String>,
}

/// Why ThreadSanitizer cannot run here, in a sentence.
pub fn unavailable() -> Option<String> {
    let compiler = match emulation::compiler() {
        Ok(compiler) => compiler,
        Err(why) => return Some(why),
    };
    let folder = tempfile::tempdir().expect("a folder");
    let (source, program) = (folder.path().join("probe.cpp"), folder.path().join("probe"));
    std::fs::write(&source, "int main() { return 0; }\n").expect("a file");
    let made = compiler.command().arg("-fsanitize=thread").arg(source).arg("-o").arg(&program).output();
    let said = |output: std::io::Result<Output>| match output {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(String::from_utf8_lossy(&output.stderr).trim().to_string()),
        Err(e) => Some(e.to_string()),
    };
    let why = said(made).or_else(|| said(at_fixed_addresses(&program).output()));
    why.map(|why| format!("ThreadSanitizer does not run here: {why}"))
}

/// Its addresses do not go with those that the kernel of the host draws at random.
fn at_fixed_addresses(program: &Path) -> Command {
    let mut command = Command::new("setarch");
    command.arg("-R").arg(program);
    command
}

/// Replays the launches in `folder` of the kernels in another one.
///
/// Panics where a launch ends with an error.
pub fn replay(kernels: &Path, folder: &Path) -> Result<Replay, String> {
    let program = emulation::replay_of(kernels)?;
    let all = at_fixed_addresses(&program).output().map_err(|e| format!("setarch: {e}"))?;
    let mut never: BTreeSet<String> =
        String::from_utf8_lossy(&all.stdout).lines().map(str::to_string).collect();
    let mut of_kernels: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    let launches = emulation::files(folder, "launch")?;
    for launch in &launches {
        let name = launch.file_name().expect("a name").to_string_lossy();
        let name = name.split('.').next().expect("a kernel").to_string();
        never.remove(&name);
        of_kernels.entry(name).or_default().push(launch.clone());
    }
    let groups: Vec<_> = of_kernels.values().collect();
    let outputs = emulation::in_parallel(&groups, |files| at_fixed_addresses(&program).args(*files).output());
    let mut reports = Vec::new();
    for (output, kernel) in outputs.into_iter().zip(of_kernels.keys()) {
        let output = output.map_err(|e| format!("setarch: {e}"))?;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        match output.status.code() {
            Some(0) => {}
            Some(66) if text.contains("data race") => reports.push(text),
            _ => panic!("{kernel}: {}: {text}", output.status),
        }
    }
    Ok(Replay { reports, launches: launches.len(), never: never.into_iter().collect() })
}
