//! Interpreters with packages that some tests need.

use std::path::Path;
use std::process::Command;

/// `L2P_PYTHON`, or `python3`, if it has all of these packages; otherwise the test says that it is skipped.
pub fn python_with(packages: &[&str]) -> Option<String> {
    let python = std::env::var("L2P_PYTHON").unwrap_or_else(|_| "python3".into());
    let import = format!("import {}", packages.join(", "));
    let there = Command::new(&python).args(["-c", &import]).output();
    if there.is_ok_and(|o| o.status.success()) {
        return Some(python);
    }
    println!("skipped: `{python} -c '{import}'` fails; set L2P_PYTHON");
    None
}

/// Runs a script, which must end without an error, and returns what it printed.
pub fn run(python: &str, script: &str, args: &[&str]) -> String {
    let output = Command::new(python).arg("-c").arg(script).args(args).output().expect("Python starts");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "the script failed:\n{out}{err}\n{script}");
    out.into_owned()
}

/// The first block of Python in a document behind a line that says `mark`.
pub fn example(document: &str, mark: &str) -> String {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(document)).expect(document);
    let behind = text.split_once(mark).unwrap_or_else(|| panic!("{document}: no `{mark}`")).1;
    let code = behind.split_once("```python\n").expect("a block of Python").1;
    code.split_once("```").expect("its end").0.to_string()
}
