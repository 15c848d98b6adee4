//! Running the program as a user does.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The configuration of small runs: five tasks of two digits.
pub fn split_mnist() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/split_mnist.toml")
}

/// A run of a second or two: few images, short prompts, frequent checkpoints.
pub const SMALL: &[&str] = &[
    "data.train_per_class=24",
    "data.test_per_class=6",
    "train.num_epochs=2",
    "train.checkpoint_every_steps=2",
    "prompt_pool.length=2",
    "prompt_pool.top_k=2",
    // As long as the run itself.
    "baselines.single_prompt=false",
];

/// The number that `SMALL` gives a key.
pub fn small(key: &str) -> usize {
    let mut values = SMALL.iter().filter_map(|set| set.strip_prefix(key)?.strip_prefix('='));
    values.next_back().expect("a key of SMALL").parse().expect("a number")
}

pub fn engine() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_l2p-engine"));
    command.env("RUST_BACKTRACE", "1");
    // `tests/check_device` alone has the kernels checked; the emulated GPU takes seconds for it.
    command.env("L2P_CHECK_DEVICE", "off");
    command
}

/// `l2p-engine train` on the small run.
pub fn train(workdir: &Path, more: &[&str]) -> Command {
    let mut command = engine();
    command.arg("train").arg("--workdir").arg(workdir).arg("--quiet");
    // A run that is resumed has a configuration of its own.
    let own = more.contains(&"--resume") && workdir.join("config.toml").is_file();
    if !own && !more.contains(&"--config") {
        command.arg("--config").arg(split_mnist());
    }
    for set in SMALL {
        command.args(["--set", set]);
    }
    command.args(more);
    command
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The program must end with this code and without a panic; returns what it said.
pub fn expect(mut command: Command, code: i32) -> String {
    let output = command.output().expect("the program starts");
    let said = format!("{}{}", stdout(&output), stderr(&output));
    assert!(!said.contains("panicked"), "{command:?} panicked:\n{said}");
    assert_eq!(output.status.code(), Some(code), "{command:?} said:\n{said}");
    said
}

/// Everything of a run that must not depend on how often it was stopped: the last checkpoint's
/// bytes, the matrices, the results without times, the log without times.
pub fn outcome(workdir: &Path) -> (Vec<u8>, String, serde_json::Value, Vec<String>) {
    let read = |name: &str| std::fs::read_to_string(workdir.join(name)).expect(name);
    let mut checkpoints: Vec<_> = std::fs::read_dir(workdir.join("checkpoints"))
        .expect("checkpoints")
        .map(|e| e.expect("an entry").path())
        .filter(|p| p.extension().is_some_and(|e| e == "safetensors"))
        .collect();
    checkpoints.sort();
    let last = std::fs::read(checkpoints.last().expect("a checkpoint")).expect("its bytes");
    let mut results: serde_json::Value = serde_json::from_str(&read("results.json")).expect("results.json");
    for key in ["seconds", "images_per_second", "device"] {
        results.as_object_mut().expect("an object").remove(key);
    }
    let log = read("log.jsonl").lines().map(String::from).collect();
    (last, read("accuracy_matrix.csv"), results, log)
}

/// The two runs must have ended with the same bits: parameters, matrices, results and logs.
pub fn same(a: &Path, b: &Path, what: &str) {
    let (a, b) = (outcome(a), outcome(b));
    assert!(a.0 == b.0, "{what}: the parameters differ");
    assert_eq!(a.1, b.1, "{what}: the accuracy matrices differ");
    assert_eq!(a.2, b.2, "{what}: the results differ");
    assert_eq!(a.3, b.3, "{what}: the logs differ");
}
