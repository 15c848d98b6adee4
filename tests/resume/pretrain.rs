//! Training of backbones: what is written, and when it is saved.

use super::common::process::{engine, expect};
use safetensors::SafeTensors;
use std::path::Path;
use std::process::Command;

/// Steps of the small training below: 400 images in batches of 16.
const STEPS: usize = 25;

/// `l2p-engine pretrain` with the built-in configuration on few images.
pub fn pretrain(dir: &Path, name: &str, more: &[&str]) -> Command {
    let mut command = engine();
    command.args(["pretrain", "--quiet", "--workdir"]).arg(dir.join(name));
    command.arg("--out").arg(dir.join(format!("{name}.safetensors")));
    let few = ["data.train_per_class=40", "data.test_per_class=4", "pretrain.layers=2"];
    few.iter().chain(more).for_each(|set| {
        command.args(["--set", set]);
    });
    command
}

/// The steps of which there is a checkpoint, ascending.
fn saved(dir: &Path, name: &str) -> Vec<usize> {
    let files = std::fs::read_dir(dir.join(name).join("checkpoints")).expect("checkpoints");
    let names = files.map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"));
    let step = |name: String| name.strip_prefix("step_")?.strip_suffix(".json")?.parse().ok();
    let mut steps: Vec<usize> = names.filter_map(step).collect();
    steps.sort_unstable();
    steps
}

/// The built-in configuration has a pool of prompts, a frozen backbone and baselines, all of which a training of a
/// backbone leaves out: every weight learns, and the file is a backbone that `train` takes.
#[test]
fn pretrain_with_the_built_in_configuration_writes_a_backbone() {
    let dir = tempfile::tempdir().expect("a folder");
    for (name, epochs) in [("one", "train.num_epochs=1"), ("two", "train.num_epochs=2")] {
        expect(pretrain(dir.path(), name, &[epochs]), 0);
    }
    let read =
        |name: &str| std::fs::read(dir.path().join(format!("{name}.safetensors"))).expect("a backbone");
    let (one, two) = (read("one"), read("two"));
    let [one, two] = [&one, &two].map(|bytes| SafeTensors::deserialize(bytes).expect("safetensors"));
    let mut names = one.names();
    names.sort_unstable();
    assert!(names.iter().any(|name| name.contains('1')), "the second block is missing: {names:?}");
    for name in names {
        let [one, two] = [&one, &two].map(|file| file.tensor(name).expect(name).data().to_vec());
        assert!(one != two, "`{name}` has not learned in the second epoch");
    }
    let backbone = dir.path().join("one.safetensors");
    let mut train = engine();
    train.args(["train", "--quiet", "--workdir"]).arg(dir.path().join("run"));
    train.arg("--init-checkpoint").arg(&backbone);
    for set in ["data.train_per_class=8", "data.test_per_class=2", "baselines.single_prompt=false"] {
        train.args(["--set", set]);
    }
    expect(train, 0);
}

/// 0 saves at the end of a task only; any other number also within it.
#[test]
fn no_checkpoints_within_a_task_where_none_are_asked_for() {
    let dir = tempfile::tempdir().expect("a folder");
    for (every, steps) in [(0, &[STEPS][..]), (10, &[20, STEPS])] {
        let (name, set) = (format!("every {every}"), format!("train.checkpoint_every_steps={every}"));
        expect(pretrain(dir.path(), &name, &[&set]), 0);
        assert_eq!(saved(dir.path(), &name), steps, "{set}");
    }
    // Five tasks of five steps.
    let mut train = engine();
    train.args(["train", "--quiet", "--workdir"]).arg(dir.path().join("run"));
    for set in [
        "data.train_per_class=40",
        "data.test_per_class=2",
        "train.checkpoint_every_steps=0",
        "baselines.single_prompt=false",
    ] {
        train.args(["--set", set]);
    }
    expect(train, 0);
    assert_eq!(saved(dir.path(), "run"), [20, STEPS]);
}
