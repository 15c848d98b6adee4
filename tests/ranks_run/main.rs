//! The program itself on several ranks: threads of one process, and processes that were launched together.

#[path = "../common/mod.rs"]
mod common;

use common::lanes::deep;
use common::process::{SMALL, engine, expect, outcome, same, split_mnist, stderr, stdout, train};
use common::signals::is_ignored;
use common::{absolute_error, relative_error};
use safetensors::{Dtype, SafeTensors};
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Sixteen images a step on any of these numbers of ranks.
fn shared(ranks: usize) -> String {
    format!("train.per_device_batch_size={}", 16 / ranks)
}

/// Without baselines, which one test has.
const NO_FLOORS: &[&str] = &[
    "baselines.ncm=false",
    "baselines.linear_probe=false",
    "baselines.naive_head=false",
    "baselines.single_prompt=false",
];

fn on(ranks: usize, workdir: &Path, more: &[&str]) -> Command {
    let mut command = train(workdir, &["--device", "cpu", "--ranks", &ranks.to_string()]);
    command.args(set(NO_FLOORS)).args(more);
    command
}

fn set<'a>(pairs: &[&'a str]) -> Vec<&'a str> {
    pairs.iter().flat_map(|pair| ["--set", *pair]).collect()
}

/// A rate at which a rounding does not grow into another course.
const GENTLE: &str = "optim.learning_rate=0.003";
/// The last batch of a pass over 50 images has two: some ranks have none.
const ODD: &str = "data.train_per_class=25";
const PER_IMAGE: &[&str] = &["prompt_pool.batchwise_prompt=false", "precision=\"f64\""];

/// The tensors of the last checkpoint, by name.
fn learned(workdir: &Path) -> Vec<(String, Vec<f64>)> {
    let (bytes, ..) = outcome(workdir);
    let file = SafeTensors::deserialize(&bytes).expect("a checkpoint");
    let mut all: Vec<(String, Vec<f64>)> = Vec::new();
    for (name, tensor) in file.tensors() {
        let data = tensor.data();
        let fours = data.chunks_exact(4).map(|b| b.try_into().expect("four bytes"));
        let values = match tensor.dtype() {
            Dtype::F64 => {
                data.chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().expect("eight bytes"))).collect()
            }
            Dtype::F32 => fours.map(|b| f64::from(f32::from_le_bytes(b))).collect(),
            Dtype::U32 => fours.map(|b| f64::from(u32::from_le_bytes(b))).collect(),
            other => panic!("{other:?}"),
        };
        all.push((name, values));
    }
    all.sort_by(|a, b| a.0.cmp(&b.0));
    assert!(!all.is_empty(), "an empty checkpoint");
    all
}

/// The worst relative error of any tensor.
fn off_by(a: &Path, b: &Path) -> f64 {
    let (a, b) = (learned(a), learned(b));
    assert_eq!(a.len(), b.len(), "another number of tensors");
    let errors = a.iter().zip(&b).map(|((name, a), (other, b))| {
        assert_eq!(name, other);
        relative_error(a, b)
    });
    errors.fold(0.0, f64::max)
}

fn matrix(workdir: &Path, name: &str) -> Vec<f64> {
    let (.., results, _) = outcome(workdir);
    let rows = results[name]["accuracy_matrix"].as_array().expect("a matrix").clone();
    rows.iter()
        .flat_map(|r| r.as_array().expect("a row").clone())
        .map(|v| v.as_f64().expect("a number"))
        .collect()
}

/// A name and settings.
type Kind = (&'static str, &'static [&'static str]);

const COMMON_KINDS: &[Kind] = &[(
    "l2p with baselines",
    &["baselines.ncm=true", "baselines.linear_probe=true", "baselines.naive_head=true"],
)];

/// The run once more with a single prompt; an l2 penalty and queries from patches; a norm of all gradients and images that are cropped; components with a penalty, which is of parameters and not of
/// images; centres of all images of a task; kept images.
const OTHER_KINDS: &[Kind] = &[
    ("single prompt", &["baselines.single_prompt=true"]),
    ("random prompts", &["prompt_pool.selection=\"random\"", "prompt_pool.pull_constraint_coeff=0"]),
    (
        "mean query",
        &["prompt_pool.embedding_key=\"mean_max\"", "optim.optim=\"sgd\"", "optim.weight_decay=0.01"],
    ),
    (
        "all gradients",
        &["optim.clip_scope=\"all\"", "optim.grad_clip_max_norm=0.5", "data.augment=\"crop_flip\"", GENTLE],
    ),
    (
        "components",
        &[
            "method=\"coda_prompt\"",
            "coda.components=11",
            "coda.length=4",
            "coda.layers=[0,2]",
            "coda.ortho_mu=0.1",
            GENTLE,
        ],
    ),
    (
        "domains",
        &[
            "method=\"s_prompts\"",
            "continual.train_mask=false",
            "s_prompts.length=3",
            "optim.optim=\"sgd\"",
            "optim.nesterov=false",
            "data.augment=\"crop\"",
            ODD,
            GENTLE,
        ],
    ),
    (
        "importance of parameters",
        &[
            "method=\"ewc\"",
            "model.freeze_part=[]",
            "data.augment=\"crop\"",
            "optim.optim=\"sgd\"",
            ODD,
            GENTLE,
        ],
    ),
    (
        "adapters of the first task",
        &[
            "method=\"ranpac\"",
            "ranpac.random_features=60",
            "ranpac.adapter_width=4",
            // So large that the solution is no less exact than the features.
            "ranpac.lambdas=[1000.0]",
            "ranpac.adapter_epochs=2",
            "optim.optim=\"sgd\"",
            "optim.warmup_epochs=0",
            ODD,
            GENTLE,
        ],
    ),
    (
        "a teacher",
        &[
            "method=\"lwf\"",
            "model.freeze_part=[]",
            "lwf.warmup_epochs=2",
            "continual.train_mask=false",
            "optim.optim=\"sgd\"",
            ODD,
            GENTLE,
        ],
    ),
    (
        "kept images, seldom used prompts",
        &[
            "data.train_per_class=40",
            "continual.replay_per_class=3",
            "prompt_pool.diversified_selection=true",
            "model.weight_norm=true",
            // Adam makes whole steps of gradients that are rounding alone.
            "optim.optim=\"sgd\"",
            GENTLE,
        ],
    ),
];

#[test]
fn any_number_of_ranks_learns_the_same() {
    learn_the_same(COMMON_KINDS);
}

#[test]
fn deep_any_number_of_ranks_learns_the_same_in_other_ways() {
    if deep(&format!("{} other settings on 1, 2 and 4 ranks", OTHER_KINDS.len())) {
        learn_the_same(OTHER_KINDS);
    }
}

fn learn_the_same(kinds: &[Kind]) {
    let dir = tempfile::tempdir().expect("a folder");
    for (kind, sets) in kinds {
        let workdir = |ranks: usize| dir.path().join(format!("{kind} {ranks}"));
        for ranks in [1, 2, 4] {
            let batch = shared(ranks);
            let kept = format!("continual.replay_batch_size={}", 8 / ranks);
            let mut sets = [*sets, PER_IMAGE].concat();
            sets.push(&batch);
            if kind.starts_with("kept") {
                sets.push(&kept);
            }
            expect(on(ranks, &workdir(ranks), &set(&sets)), 0);
        }
        let matrix_of_one = matrix(&workdir(1), "per_image");
        for ranks in [2, 4] {
            let error = off_by(&workdir(ranks), &workdir(1));
            println!("{kind}, {ranks} ranks: parameters and moments within {error:.1e}");
            assert!(error < 1e-12, "{kind}, {ranks} ranks: {error:e}");
            assert_eq!(matrix(&workdir(ranks), "per_image"), matrix_of_one, "{kind}, {ranks} ranks");
            let baselines = |ranks: usize| outcome(&workdir(ranks)).2["baselines"].clone();
            assert_eq!(baselines(ranks), baselines(1), "{kind}, {ranks} ranks");
        }
    }
}

#[test]
fn deep_class_means_and_mixed_images_do_not_depend_on_ranks() {
    if !deep("class means and mixed images on 1 and 4 ranks") {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    for (kind, sets) in [
        ("ncm", &["method=\"ncm\""][..]),
        (
            "mixup",
            &["data.mixup_alpha=0.8", "data.cutmix_alpha=1.0", "prompt_pool.batchwise_prompt=false"][..],
        ),
    ] {
        let workdir = |ranks: usize| dir.path().join(format!("{kind} {ranks}"));
        for ranks in [1, 4] {
            let batch = shared(ranks);
            let precision = "precision=\"f64\"";
            expect(on(ranks, &workdir(ranks), &set(&[sets, &[&batch, precision]].concat())), 0);
        }
        let error = off_by(&workdir(4), &workdir(1));
        assert!(error < 1e-12, "{kind}: {error:e}");
    }
}

#[test]
fn the_same_number_twice_gives_the_same_bits_and_votes_are_per_device() {
    let dir = tempfile::tempdir().expect("a folder");
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    // In f32, with the vote of the official rule set.
    let batch = shared(2);
    for workdir in [&a, &b] {
        expect(on(2, workdir, &set(&[&batch])), 0);
    }
    same(&a, &b, "two ranks, twice");
    // One rank that lets its images vote in two groups of eight chooses as two ranks do.
    let (two, one) = (dir.path().join("two"), dir.path().join("one"));
    let f64 = "precision=\"f64\"";
    expect(on(2, &two, &set(&[&batch, f64])), 0);
    expect(on(1, &one, &set(&[&shared(1), f64, "prompt_pool.vote_group=8"])), 0);
    let error = off_by(&two, &one);
    println!("two ranks beside two votes on one: {error:.1e}");
    assert!(error < 1e-12, "{error:e}");
}

#[test]
fn deep_killed_and_resumed_on_the_same_and_other_numbers_of_ranks() {
    if !deep("kills on two ranks, resumed on two and three") {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let (whole, killed, other) =
        (dir.path().join("whole"), dir.path().join("killed"), dir.path().join("other"));
    let batch = shared(2);
    let sets = set(&[PER_IMAGE, &[&batch]].concat());
    let clock = Instant::now();
    expect(on(2, &whole, &sets), 0);
    let needed = clock.elapsed();
    for part in [0.4, 0.6, 0.8] {
        let mut command = on(2, &killed, &sets);
        command.arg("--resume").stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program starts");
        std::thread::sleep(needed.mul_f64(part));
        child.kill().expect("a kill");
        let output = child.wait_with_output().expect("an end");
        assert!(!stderr(&output).contains("panicked"), "{}", stderr(&output));
        if part == 0.4 {
            copy(&killed, &other);
        }
    }
    expect(on(2, &killed, &[&sets[..], &["--resume"]].concat()), 0);
    same(&whole, &killed, "killed and resumed on two ranks");
    // The run keeps its 16 images a step on 3 ranks, and learns the same.
    expect(on(3, &other, &[&sets[..], &["--resume"]].concat()), 0);
    let error = off_by(&other, &whole);
    println!("begun on two ranks, ended on three: {error:.1e}");
    assert!(error < 1e-11, "{error:e}");
    assert!(absolute_error(&matrix(&other, "per_image"), &matrix(&whole, "per_image")) == 0.0);
}

fn copy(from: &Path, to: &Path) {
    let done = Command::new("cp").arg("-r").args([from, to]).status().expect("cp");
    assert!(done.success());
}

/// One of several processes as a launcher starts it.
fn process(rank: usize, world: usize, port: u16, workdir: &Path, sets: &[&str], more: &[&str]) -> Child {
    let mut command = train(workdir, &["--device", "cpu"]);
    command.args(set(NO_FLOORS)).args(set(sets)).args(more);
    command.env("RANK", rank.to_string()).env("WORLD_SIZE", world.to_string());
    command.env("LOCAL_RANK", rank.to_string());
    command.env("MASTER_ADDR", "127.0.0.1").env("MASTER_PORT", port.to_string());
    command.env("L2P_JOIN_TIMEOUT_S", "60").env("L2P_RANK_TIMEOUT_S", "60");
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("the program starts")
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port()
}

fn ends(child: Child) -> Output {
    let output = child.wait_with_output().expect("an end");
    assert!(!stderr(&output).contains("panicked"), "{}", stderr(&output));
    output
}

#[test]
fn processes_give_the_bits_of_threads() {
    let dir = tempfile::tempdir().expect("a folder");
    let (threads, processes) = (dir.path().join("threads"), dir.path().join("processes"));
    let batch = shared(4);
    expect(on(4, &threads, &set(&[&batch])), 0);
    // Two processes of two ranks each. Each has a folder of its own, and only the first writes.
    let port = free_port();
    let nothing = dir.path().join("nothing");
    let ranks = ["--ranks", "2"];
    let first = process(0, 2, port, &processes, &[&batch], &ranks);
    let second = process(1, 2, port, &nothing, &[&batch], &ranks);
    let (first, second) = (ends(first), ends(second));
    assert_eq!(first.status.code(), Some(0), "{}", stderr(&first));
    assert_eq!(second.status.code(), Some(0), "{}", stderr(&second));
    assert!(stdout(&first).contains("average accuracy") || !stdout(&first).is_empty());
    assert_eq!(stdout(&second), "", "only rank 0 prints");
    assert!(!nothing.exists(), "only rank 0 writes");
    same(&threads, &processes, "two processes of two ranks beside four threads");
}

/// Waits until the run in `workdir` has a checkpoint.
fn until_saved(workdir: &Path) {
    let begin = Instant::now();
    let saved = || std::fs::read_dir(workdir.join("checkpoints")).is_ok_and(|mut d| d.next().is_some());
    while !saved() {
        assert!(begin.elapsed() < Duration::from_secs(60), "no checkpoint within a minute");
        std::thread::sleep(Duration::from_millis(5));
    }
}

const LONG: &[&str] = &["train.num_epochs=50", "train.per_device_batch_size=8"];

#[test]
fn a_dead_process_ends_the_run_with_a_sentence_and_it_can_be_resumed() {
    let dir = tempfile::tempdir().expect("a folder");
    let (workdir, nothing) = (dir.path().join("run"), dir.path().join("nothing"));
    let port = free_port();
    let first = process(0, 2, port, &workdir, LONG, &[]);
    let mut second = process(1, 2, port, &nothing, LONG, &[]);
    until_saved(&workdir);
    second.kill().expect("a kill");
    second.wait().expect("an end");
    let clock = Instant::now();
    let first = ends(first);
    assert!(clock.elapsed() < Duration::from_secs(30), "noticed after {:?}", clock.elapsed());
    assert_eq!(first.status.code(), Some(1), "{}", stderr(&first));
    let said = stderr(&first);
    assert!(said.contains("rank 1"), "{said}");
    assert_eq!(said.lines().filter(|line| line.starts_with("l2p-engine:")).count(), 1, "{said}");
    // The checkpoint is whole: another step is stopped and saved.
    let found = expect(inspect(&workdir), 0);
    assert!(found.contains("params/head/kernel ["), "{found}");
}

fn inspect(workdir: &Path) -> Command {
    let mut command = common::process::engine();
    command.arg("inspect").arg(workdir);
    command
}

/// Rank 0 alone learns the linear heads; the other ranks, which wait for them, hear of a request to stop all the same.
#[test]
fn a_signal_during_baselines_is_no_failure() {
    if is_ignored("INT") {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let start = |workdir: &Path| -> (Child, BufReader<ChildStderr>) {
        let mut command = engine();
        command.args(["train", "--device", "cpu", "--ranks", "2", "--workdir"]).arg(workdir);
        command.arg("--config").arg(split_mnist());
        command.args(set(SMALL)).args(set(&["baselines.single_prompt=true", "train.num_epochs=1"]));
        let mut child =
            command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the program starts");
        let said = BufReader::new(child.stderr.take().expect("its messages"));
        (child, said)
    };
    let until = |said: &mut BufReader<ChildStderr>, wanted: &str| {
        let mut line = String::new();
        while !line.contains(wanted) {
            line.clear();
            assert!(said.read_line(&mut line).expect("a line") > 0, "no `{wanted}`");
        }
    };
    // How long the baselines before the single prompt take.
    let (mut child, mut said) = start(&dir.path().join("whole"));
    until(&mut said, "baselines on the frozen features");
    let clock = Instant::now();
    until(&mut said, "the same run with a single prompt");
    let needed = clock.elapsed();
    child.kill().expect("a kill");
    child.wait().expect("an end");
    for part in [0.2, 0.7, 0.85, 0.95] {
        let workdir = dir.path().join(part.to_string());
        let (child, mut said) = start(&workdir);
        until(&mut said, "baselines on the frozen features");
        std::thread::sleep(needed.mul_f64(part));
        let kill = ["-s", "INT", &child.id().to_string()].map(String::from);
        assert!(Command::new("kill").args(kill).status().expect("kill").success());
        let mut rest = String::new();
        said.read_to_string(&mut rest).expect("the rest");
        let output = ends(child);
        assert_eq!(output.status.code(), Some(130), "after {part} of {needed:?}: {rest}");
        assert!(rest.contains("add --resume to go on") && !rest.contains("panicked"), "{rest}");
    }
}

#[test]
fn a_signal_to_any_rank_saves_once() {
    if is_ignored("INT") {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    for asked in [0, 1] {
        let (workdir, nothing) = (dir.path().join(format!("run {asked}")), dir.path().join("nothing"));
        let port = free_port();
        let children = [process(0, 2, port, &workdir, LONG, &[]), process(1, 2, port, &nothing, LONG, &[])];
        until_saved(&workdir);
        let kill = ["-s", "INT", &children[asked].id().to_string()].map(String::from);
        assert!(Command::new("kill").args(kill).status().expect("kill").success());
        let [first, second] = children.map(ends);
        assert_eq!(first.status.code(), Some(130), "{}", stderr(&first));
        assert_eq!(second.status.code(), Some(130), "{}", stderr(&second));
        assert!(stderr(&first).contains("--resume"), "{}", stderr(&first));
        assert!(!nothing.exists(), "only rank 0 writes");
    }
}

#[test]
fn the_learning_rate_follows_the_images_of_all_ranks() {
    let dir = tempfile::tempdir().expect("a folder");
    let said = expect(train(&dir.path().join("none"), &["--device", "cpu", "--ranks", "4", "--dry-run"]), 0);
    // 0.03 for 256 images.
    assert!(said.contains("64 images on 4 ranks, learning rate 0.0075"), "{said}");
}

#[test]
fn what_cannot_be_shared_is_a_sentence() {
    let dir = tempfile::tempdir().expect("a folder");
    for (more, code, wanted) in [
        (&["--device", "cpu", "--ranks", "0"][..], 2, "--ranks: wanted from 1 to"),
        (&["--device", "cpu", "--ranks", "257"][..], 2, "found 257"),
        (&["--device", "cuda:0,0"][..], 2, "named twice"),
        (&["--device", "cuda:a"][..], 2, "cuda:0,1"),
    ] {
        let said = expect(train(&dir.path().join("none"), more), code);
        assert!(said.contains(wanted), "{said}");
        assert!(!dir.path().join("none").exists());
    }
    // A process that was told of others, but not where they are.
    let mut alone = train(&dir.path().join("none"), &["--device", "cpu"]);
    alone.env("RANK", "1").env("WORLD_SIZE", "2");
    let said = expect(alone, 2);
    assert!(said.contains("MASTER_ADDR"), "{said}");
}
