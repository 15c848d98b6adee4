//! Kills at random moments: whatever is resumed ends with the bits of what was left alone.

use super::*;
use std::process::Command;

/// Something that is killed and resumed.
struct Killed {
    name: &'static str,
    /// Works in a folder; with `--resume`, goes on there.
    command: fn(&Path) -> Command,
    /// Refuses a folder that is not as the first.
    same: fn(&Path, &Path, &str),
}

const KINDS: [Killed; 4] = [
    Killed {
        name: "train",
        // A kill may come during the baselines, too, of which this takes longest.
        command: |dir| train(dir, &["--set", "baselines.single_prompt=true"]),
        same,
    },
    Killed { name: "pretrain", command: |dir| pretrain::pretrain(dir, "backbone", &[]), same: same_backbone },
    Killed {
        name: "train --seeds",
        command: |dir| train(dir, &["--seeds", "3,4", "--set", "train.num_epochs=1"]),
        same: |a, b, what| ["seed_3", "seed_4"].iter().for_each(|run| same(&a.join(run), &b.join(run), what)),
    },
    Killed {
        name: "train --ranks",
        command: |dir| {
            let mut command = train(dir, &["--device", "cpu", "--ranks", "2"]);
            command.args(["--set", "train.per_device_batch_size=8"]);
            command
        },
        same,
    },
];

fn same_backbone(a: &Path, b: &Path, what: &str) {
    let read = |dir: &Path| std::fs::read(dir.join("backbone.safetensors")).expect("a backbone");
    assert!(read(a) == read(b), "{what}: the backbones differ");
}

#[test]
fn killed_at_random_moments() {
    killed(&KINDS[0], asked_for().unwrap_or(3));
}

#[test]
fn deep_killed_at_many_random_moments() {
    if deep("kills of training, pre-training, several seeds and several ranks") {
        KINDS.iter().for_each(|kind| killed(kind, asked_for().unwrap_or(5)));
    }
}

/// `L2P_KILLS`: so many kills of each kind.
fn asked_for() -> Option<usize> {
    std::env::var("L2P_KILLS").ok().map(|n| n.parse().expect("L2P_KILLS is a number"))
}

fn killed(kind: &Killed, wanted: usize) {
    let dir = tempfile::tempdir().expect("a folder");
    let (left_alone, killed) = (dir.path().join("a"), dir.path().join("b"));
    let clock = Instant::now();
    expect((kind.command)(&left_alone), 0);
    let whole = clock.elapsed();
    let resumed = || {
        let mut command = (kind.command)(&killed);
        command.arg("--resume");
        command
    };
    let mut rng = Rng::new(std::process::id().into(), Stream::Test, 0);
    let mut kills = 0;
    let mut finished = 0;
    // Each kill comes later than a run needs to start, so that the run advances now and then.
    while kills < wanted {
        let delay = whole.mul_f32(0.1 + 0.6 * rng.uniform());
        let mut command = resumed();
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program starts");
        std::thread::sleep(delay);
        let running = child.try_wait().expect("a status").is_none();
        child.kill().expect("a kill");
        let output = child.wait_with_output().expect("an end");
        assert!(!stderr(&output).contains("panicked"), "{}: {}", kind.name, stderr(&output));
        if running {
            kills += 1;
        } else {
            assert_eq!(output.status.code(), Some(0), "{}: {}", kind.name, stderr(&output));
            (kind.same)(&left_alone, &killed, kind.name);
            finished += 1;
            std::fs::remove_dir_all(&killed).expect("a new start");
        }
    }
    expect(resumed(), 0);
    (kind.same)(&left_alone, &killed, kind.name);
    println!("{}: {kills} kills, {} runs equal to the undisturbed one", kind.name, finished + 1);
}
