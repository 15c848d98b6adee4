//! A disk that fails: calls of a run that change a file fail once, with a full disk and with an error of the
//! device. The run says so, and goes on from its last checkpoint to the bits of one that was left alone.

use super::*;
use std::path::PathBuf;
use std::process::Command;

/// A short run, so that its calls are few.
const FEW: &[&str] = &[
    "--set",
    "continual.num_tasks=2",
    "--set",
    "train.num_epochs=1",
    "--set",
    "baselines.linear_probe=false",
    "--set",
    "baselines.naive_head=false",
];

const ENOSPC: i32 = 28;
const EIO: i32 = 5;

/// The library that makes calls fail.
fn failing_disk(dir: &Path) -> PathBuf {
    let library = dir.join("failing_disk.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/resume/failing_disk.c");
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(source).arg("-ldl");
    assert!(compiler.status().expect("the C compiler with which Rust links").success());
    library
}

#[test]
fn some_calls_that_fail_cost_no_checkpoint() {
    calls_fail(6);
}

#[test]
fn deep_many_calls_that_fail_cost_no_checkpoint() {
    if deep("many writes, renames and syncs of a run fail once") {
        calls_fail(40);
    }
}

/// So many calls, drawn by chance, or as many as `L2P_FAILING_CALLS` says; all of them, if there are no more.
fn calls_fail(wanted: usize) {
    let wanted = std::env::var("L2P_FAILING_CALLS").map_or(wanted, |n| n.parse().expect("a number"));
    let dir = tempfile::tempdir().expect("a folder");
    let library = failing_disk(dir.path());
    let left_alone = dir.path().join("left alone");
    let log = dir.path().join("calls");
    let mut whole = train(&left_alone, FEW);
    whole.env("LD_PRELOAD", &library).env("L2P_FAIL_BELOW", &left_alone).env("L2P_FAIL_LOG", &log);
    expect(whole, 0);
    let calls = std::fs::read_to_string(&log).expect("the calls");
    let calls: Vec<&str> = calls.lines().collect();
    for name in ["write", "rename", "fsync", "fdatasync", "create"] {
        assert!(calls.iter().any(|call| call.starts_with(name)), "no {name} among {calls:?}");
    }
    let mut chosen: Vec<(usize, i32)> =
        (1..=calls.len()).flat_map(|call| [(call, ENOSPC), (call, EIO)]).collect();
    Rng::new(std::process::id().into(), Stream::Test, 0).shuffle(&mut chosen);
    chosen.truncate(wanted);
    let mut ended = 0;
    for (i, &(call, error)) in chosen.iter().enumerate() {
        let workdir = dir.path().join(i.to_string());
        let what = format!("call {call} of {} ({}) fails with {error}", calls.len(), calls[call - 1]);
        let mut command = train(&workdir, FEW);
        command.env("LD_PRELOAD", &library).env("L2P_FAIL_BELOW", &workdir);
        command.env("L2P_FAIL_CALL", call.to_string()).env("L2P_FAIL_ERROR", error.to_string());
        let output = command.output().expect("the program starts");
        let said = stderr(&output);
        assert!(!said.contains("panicked"), "{what}: {said}");
        match output.status.code() {
            // What a run does not need may fail: an old checkpoint that stays, for example.
            Some(0) => {}
            Some(1) => {
                ended += 1;
                let reason = if error == ENOSPC { "the disk is full" } else { "Input/output error" };
                assert!(
                    said.contains(reason) && said.contains(&*workdir.to_string_lossy()),
                    "{what}: {said}"
                );
            }
            other => panic!("{what}: exit {other:?}: {said}"),
        }
        expect(train(&workdir, &[FEW, &["--resume"]].concat()), 0);
        same(&left_alone, &workdir, &what);
        std::fs::remove_dir_all(&workdir).expect("an end");
    }
    println!(
        "{} of {} calls failed; {ended} runs ended there and were resumed",
        chosen.len(),
        2 * calls.len()
    );
    assert!(ended > 0, "no run noticed that a call failed");
}
