//! Training of backbones: what is written, and when it is saved.

use super::common::process::{engine, expect, split_mnist};
use safetensors::SafeTensors;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

/// Steps of the small training below: 400 images in batches of 16.
const STEPS: usize = 25;

/// `l2p-engine pretrain` on few images, with a configuration for prompts.
pub fn pretrain(dir: &Path, name: &str, more: &[&str]) -> Command {
    let mut command = engine();
    command.args(["pretrain", "--quiet", "--workdir"]).arg(dir.join(name)).arg("--config").arg(split_mnist());
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

/// The configuration has a pool of prompts, a frozen backbone and baselines, all of which a training of a
/// backbone leaves out: every weight learns, and the file is a backbone that `train` takes.
#[test]
fn pretrain_with_a_configuration_for_prompts_writes_a_backbone() {
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
    train.arg("--config").arg(split_mnist());
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

/// `pretrain` on from the bundled backbone.
fn from_the_bundled(dir: &Path, name: &str, more: &[&str]) -> Command {
    let mut command = pretrain(dir, name, more);
    command.args(["--init-checkpoint", "bundled:micro"]);
    command
}

/// The tensors of a backbone's file, by name.
fn values(path: &Path) -> BTreeMap<String, Vec<f32>> {
    let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let file = SafeTensors::deserialize(&bytes).expect("safetensors");
    let number = |bytes: &[u8]| f32::from_le_bytes(bytes.try_into().expect("four bytes"));
    let tensor = |name: &&str| file.tensor(name).expect(name).data().chunks(4).map(number).collect();
    file.names().iter().map(|name| (name.to_string(), tensor(name))).collect()
}

fn bundled() -> BTreeMap<String, Vec<f32>> {
    values(&Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/micro.safetensors"))
}

/// How many blocks a backbone has.
fn blocks(tensors: &BTreeMap<String, Vec<f32>>) -> usize {
    (0..).take_while(|i| tensors.contains_key(&format!("block_{i}/ln1/scale"))).count()
}

/// With `pretrain.learning_blocks` the blocks before keep their bits; a training that goes on in the middle ends with the
/// bits of one that was left alone; and it does not go on from another checkpoint.
#[test]
fn pretraining_goes_on_from_a_checkpoint() {
    let dir = tempfile::tempdir().expect("a folder");
    let set = ["pretrain.learning_blocks=1", "train.checkpoint_every_steps=10"];
    expect(from_the_bundled(dir.path(), "adapted", &set), 0);
    let (before, out) = (bundled(), dir.path().join("adapted.safetensors"));
    let after = values(&out);
    let last = format!("block_{}/", blocks(&before) - 1);
    assert!(before.keys().eq(after.keys()), "other tensors");
    for (name, values) in &before {
        let learns = name.starts_with(&last) || name.starts_with("norm/");
        assert_eq!(learns, after[name] != *values, "`{name}`");
    }
    assert_eq!(saved(dir.path(), "adapted"), [20, STEPS]);
    let whole = std::fs::read(&out).expect("a backbone");
    std::fs::remove_file(&out).expect("a backbone");
    for ending in ["json", "safetensors"] {
        let file = format!("adapted/checkpoints/step_{STEPS:06}.{ending}");
        let file = dir.path().join(file);
        std::fs::remove_file(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    }
    let mut again = from_the_bundled(dir.path(), "adapted", &set);
    again.arg("--resume");
    expect(again, 0);
    assert!(std::fs::read(&out).expect("a backbone") == whole, "the resumed training ended elsewhere");
    let mut other = pretrain(dir.path(), "adapted", &set);
    other.arg("--resume").arg("--init-checkpoint").arg(&out);
    let said = expect(other, 1);
    assert!(said.contains("sha256") && said.contains("wanted the same file"), "{said}");
}

/// Each tensor moves by its block's power of `pretrain.layer_decay`. The first step of SGD moves the head alone, which begins
/// at zero and has the whole rate, so that the gradients of the second are the same at any decay.
#[test]
fn the_learning_rate_falls_from_block_to_block() {
    let dir = tempfile::tempdir().expect("a folder");
    let moved = |name: &str, decay: &str| {
        let set = [
            "train.per_device_batch_size=200",
            "train.num_epochs=1",
            "optim.optim=sgd",
            "optim.sgd_momentum=0.0",
            "optim.learning_rate=1.0",
            "optim.learning_rate_schedule=constant",
            decay,
        ];
        expect(from_the_bundled(dir.path(), name, &set), 0);
        let after = values(&dir.path().join(format!("{name}.safetensors")));
        let by = |before: &[f32], after: &[f32]| {
            let squares = before.iter().zip(after).map(|(b, a)| (f64::from(*a) - f64::from(*b)).powi(2));
            squares.sum::<f64>().sqrt()
        };
        bundled()
            .iter()
            .map(|(name, before)| (name.clone(), by(before, &after[name])))
            .collect::<BTreeMap<_, _>>()
    };
    let (one, half) = (moved("one", "pretrain.layer_decay=1.0"), moved("half", "pretrain.layer_decay=0.5"));
    let layers = blocks(&bundled());
    for (name, by) in one {
        let block = name.strip_prefix("block_").and_then(|rest| rest.split('/').next());
        let below = match block {
            Some(block) => layers - block.parse::<usize>().expect("a number"),
            None if name.starts_with("norm/") => 0,
            None => layers + 1,
        };
        let wanted = 0.5f64.powi(below as i32);
        assert!(by > 0.0, "`{name}` has not moved");
        let ratio = half[&name] / by;
        assert!((ratio / wanted - 1.0).abs() < 1e-2, "`{name}` moved {ratio} as far, wanted {wanted}");
    }
}
