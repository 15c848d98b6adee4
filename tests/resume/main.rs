//! A run that is killed at any moment and resumed ends with the bits of one that was left alone.
//! Processes are really killed.

mod changes;
#[path = "../common/mod.rs"]
mod common;
mod disk;
mod kills;
mod pretrain;

use common::lanes::deep;
use common::process::{engine, expect, same, stderr, train};
use l2p_engine::rng::{Rng, Stream};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

fn start(workdir: &Path, more: &[&str]) -> Child {
    train(workdir, more).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the program starts")
}

/// Runs undisturbed; returns how long it took.
fn reference(workdir: &Path, more: &[&str]) -> Duration {
    let clock = Instant::now();
    expect(train(workdir, more), 0);
    clock.elapsed()
}

#[test]
fn signals_save_and_other_thread_counts_give_the_same_bits() {
    let dir = tempfile::tempdir().expect("a folder");
    let (left_alone, stopped) = (dir.path().join("a"), dir.path().join("b"));
    let whole = reference(&left_alone, &[]);
    let mut interrupted = 0;
    for (i, signal) in ["TERM", "INT", "TERM", "INT"].iter().enumerate() {
        let child = start(&stopped, &["--resume"]);
        std::thread::sleep(whole.mul_f32(0.2 + 0.1 * i as f32));
        let kill = ["-s", signal, &child.id().to_string()].map(String::from);
        std::process::Command::new("kill").args(kill).status().expect("kill");
        let output = child.wait_with_output().expect("an end");
        let said = stderr(&output);
        assert!(!said.contains("panicked"), "{said}");
        match output.status.code() {
            Some(130) => {
                assert!(said.contains("--resume"), "{said}");
                interrupted += 1;
            }
            // The signal came before the handler was in place, or after the run had ended.
            other => assert!(other.is_none() || other == Some(0), "{other:?}: {said}"),
        }
    }
    assert!(interrupted > 0, "no signal reached a running training");
    let mut last = train(&stopped, &["--resume"]);
    last.env("RAYON_NUM_THREADS", "1");
    expect(last, 0);
    same(&left_alone, &stopped, "after signals, with one thread");
}

/// Methods and what else is kept between steps, each with its settings.
type Kind = (&'static str, &'static [&'static str]);

const COMMON_KINDS: &[Kind] = &[
    (
        "dualprompt",
        &[
            "prompt_pool.e_prompt_layer_idx=[2]",
            "prompt_pool.top_k=1",
            "g_prompt.g_prompt_length=2",
            "continual.replay_per_class=4",
            "continual.replay_batch_size=3",
        ],
    ),
    (
        "l2p",
        &[
            "data.augment=crop",
            "data.rand_augment_layers=2",
            "data.color_jitter=0.5",
            "data.erase_probability=0.5",
            "data.mixup_alpha=0.8",
            "data.cutmix_alpha=1",
            "data.mix_probability=0.8",
        ],
    ),
];

/// Two components for each of five tasks, and one that is never used.
const COMPONENTS: &[&str] = &[
    "coda.components=11",
    "coda.length=4",
    "coda.layers=[0,2]",
    "coda.ortho_mu=0.1",
    "optim.learning_rate_schedule=coda_cosine",
    "train.num_epochs=3",
];

/// Every task is a domain, whose images are looked at once more after its steps.
const DOMAINS: &[&str] = &[
    "continual.train_mask=false",
    "s_prompts.length=3",
    "s_prompts.later_weight_decay=0.001",
    "optim.optim=sgd",
    "optim.nesterov=false",
    "optim.weight_decay=0.002",
    "optim.learning_rate_schedule=cosine_epoch",
    "train.num_epochs=3",
    "data.augment=crop",
];

const OTHER_KINDS: &[Kind] = &[
    ("finetune", &[]),
    ("linear", &["continual.replay_per_class=8", "continual.num_review_epochs=4"]),
    (
        "l2p",
        &[
            "prompt_pool.diversified_selection=true",
            "model.weight_norm=true",
            "continual.weights_transfer=true",
            "train.num_epochs=3",
            "train.eval_per_epochs=1",
        ],
    ),
    ("l2p", &["continual.replay_per_class=8", "continual.replay_batch_size=5"]),
    (
        "finetune",
        &[
            "continual.replay_per_class=9",
            "continual.replay_batch_size=7",
            "continual.num_review_epochs=2",
            "continual.replay_include_new_task=false",
            "continual.replay_reverse_mask=true",
        ],
    ),
    ("ncm", &[]),
    ("joint", &[]),
    ("coda_prompt", COMPONENTS),
    ("l2p", &["prompt_pool.selection=random", "prompt_pool.pull_constraint_coeff=0", "data.augment=crop"]),
    ("s_prompts", DOMAINS),
    (
        "ewc",
        &["model.freeze_part=[]", "optim.learning_rate=0.003", "train.num_epochs=2", "data.augment=crop"],
    ),
    (
        "ranpac",
        &[
            "ranpac.random_features=50",
            "ranpac.adapter_width=3",
            "ranpac.adapter_epochs=2",
            "optim.optim=sgd",
            "optim.warmup_epochs=0",
        ],
    ),
    ("lwf", &["optim.optim=sgd", "lwf.warmup_epochs=2", "train.num_epochs=3", "continual.train_mask=false"]),
    ("lwf", &["model.freeze_part=[]", "optim.learning_rate=0.003", "lwf.warmup_epochs=1"]),
    ("l2p", &["precision=bf16"]),
    ("finetune", &["precision=bf16", "model.freeze_part=[]", "optim.learning_rate=0.003"]),
];

#[test]
fn dualprompt_with_replay_and_l2p_with_augmentation_resume() {
    resume_each(COMMON_KINDS);
}

#[test]
fn deep_every_method_resumes() {
    if deep(&format!("resuming {} other methods and settings", OTHER_KINDS.len())) {
        resume_each(OTHER_KINDS);
    }
}

fn resume_each(kinds: &[Kind]) {
    let dir = tempfile::tempdir().expect("a folder");
    for (i, (method, more)) in kinds.iter().enumerate() {
        let (left_alone, killed) = (dir.path().join(format!("{i}-a")), dir.path().join(format!("{i}-b")));
        let method_set = format!("method={method}");
        let mut args = vec!["--set", method_set.as_str(), "--set", "train.num_epochs=1"];
        args.extend(more.iter().flat_map(|set| ["--set", *set]));
        let whole = reference(&left_alone, &args);
        args.push("--resume");
        let mut child = start(&killed, &args);
        std::thread::sleep(whole.mul_f32(0.5));
        let _ = child.kill();
        child.wait().expect("an end");
        expect(train(&killed, &args), 0);
        same(&left_alone, &killed, method);
        // A finished run only says again what it found.
        expect(train(&killed, &args), 0);
        same(&left_alone, &killed, method);
    }
}

#[test]
fn damaged_checkpoints_fall_back() {
    let dir = tempfile::tempdir().expect("a folder");
    let (left_alone, damaged) = (dir.path().join("a"), dir.path().join("b"));
    reference(&left_alone, &[]);
    let whole = reference(&damaged, &[]);
    assert!(whole > Duration::ZERO);
    let mut files: Vec<_> = std::fs::read_dir(damaged.join("checkpoints"))
        .expect("checkpoints")
        .map(|e| e.expect("an entry").path())
        .filter(|p| p.extension().is_some_and(|e| e == "safetensors"))
        .collect();
    files.sort();
    assert_eq!(files.len(), 2, "two checkpoints are kept");
    let bytes = std::fs::read(&files[1]).expect("bytes");
    std::fs::write(&files[1], &bytes[..bytes.len() / 2]).expect("a truncated file");
    let output = train(&damaged, &["--resume"]).output().expect("the program starts");
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stderr(&output).contains("skipped"), "{}", stderr(&output));
    same(&left_alone, &damaged, "after a truncated checkpoint");
    for file in std::fs::read_dir(damaged.join("checkpoints")).expect("checkpoints") {
        let path = file.expect("an entry").path();
        let mut bytes = std::fs::read(&path).expect("bytes");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x40;
        std::fs::write(&path, bytes).expect("a damaged file");
    }
    let before = std::fs::read_dir(damaged.join("checkpoints")).expect("checkpoints").count();
    let said = expect(train(&damaged, &["--resume"]), 1);
    assert!(said.contains("checkpoint"), "{said}");
    let after = std::fs::read_dir(damaged.join("checkpoints")).expect("checkpoints").count();
    assert_eq!(before, after, "nothing is deleted");
}

/// What a batch script does that always passes `--resume`.
#[test]
fn resume_without_a_checkpoint_begins_anew_and_says_so() {
    let dir = tempfile::tempdir().expect("a folder");
    let (workdir, usual) = (dir.path().join("new"), dir.path().join("usual"));
    let said = expect(train(&workdir, &["--resume"]), 0);
    assert!(said.contains("holds no checkpoint to resume from; the run begins anew"), "{said}");
    reference(&usual, &[]);
    same(&usual, &workdir, "begun with --resume");
    let said = expect(train(&workdir, &["--resume"]), 0);
    assert!(!said.contains("begins anew"), "{said}");
}

/// Without --config a run goes on with its own configuration; what is asked for is compared with that.
#[test]
fn a_run_is_resumed_with_its_own_configuration() {
    let dir = tempfile::tempdir().expect("a folder");
    let (workdir, seeds) = (dir.path().join("run"), dir.path().join("seeds"));
    let resume = |workdir: &Path, more: &[&str]| {
        let mut command = engine();
        command.args(["train", "--resume", "--workdir"]).arg(workdir).args(more);
        command
    };
    let backbone = dir.path().join("micro.safetensors");
    std::fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/micro.safetensors"), &backbone)
        .expect("a backbone");
    let from = ["--init-checkpoint", backbone.to_str().expect("UTF-8"), "--seed", "3"];
    reference(&workdir, &from);
    let said = expect(resume(&workdir, &[]), 0);
    assert!(said.contains("written to"), "{said}");
    let said = expect(resume(&workdir, &["--set", "prompt_pool.length=3"]), 2);
    assert!(said.contains("prompt_pool.length: the run has 2, asked for 3"), "{said}");
    assert_eq!(said.lines().filter(|line| line.contains("the run has")).count(), 1, "{said}");
    let said = expect(resume(&workdir, &["--set", "train.per_device_batch_size=8"]), 2);
    assert!(said.contains("leave the key out"), "{said}");
    // The backbone lies beside the run now.
    std::fs::rename(&backbone, workdir.join("micro.safetensors")).expect("a move");
    let said = expect(resume(&workdir, &[]), 0);
    assert!(said.contains("is ") && said.contains("run/micro.safetensors now"), "{said}");

    expect(train(&seeds, &["--seeds", "0..2", "--set", "train.num_epochs=1"]), 0);
    let said = expect(resume(&seeds, &["--seeds", "0..2"]), 0);
    assert!(said.contains("note: --seeds 0..2 are 2 seeds: 0, 1"), "{said}");
}
