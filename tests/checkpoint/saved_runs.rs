//! Runs that the version before named checkpoints has saved, in `tests/fixtures/runs`: all that learns was one row, the
//! baselines were called floors, and the configuration was recorded as a hash. `l2p_complete` is what that version
//! made of `l2p_interrupted`, whose process was killed after step 28 of 60.

use super::common::process::{engine, expect};
use safetensors::SafeTensors;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/runs").join(name)
}

/// A copy of a saved run, which may be written to.
fn copy(name: &str, to: &Path) -> PathBuf {
    let to = to.join(name);
    fs::create_dir_all(to.join("checkpoints")).expect("a folder");
    for folder in ["", "checkpoints"] {
        for entry in fs::read_dir(fixture(name).join(folder)).expect("a saved run") {
            let entry = entry.expect("an entry");
            if entry.path().is_file() {
                fs::copy(entry.path(), to.join(folder).join(entry.file_name())).expect("a copy");
            }
        }
    }
    to
}

/// The bundled backbone of that version.
fn backbone() -> PathBuf {
    fixture("micro.safetensors")
}

fn train(config: &Path, workdir: &Path, more: &[&str]) -> Command {
    let mut command = engine();
    command.args(["train", "--resume", "--quiet", "--config"]).arg(config).arg("--workdir").arg(workdir);
    command.arg("--init-checkpoint").arg(backbone()).args(more);
    command
}

/// The f32 values of the last checkpoint: parameters, first and second moments, each in one row.
fn last(workdir: &Path) -> [Vec<f32>; 3] {
    let path = workdir.join("checkpoints/step_000060.safetensors");
    let manifest = fs::read_to_string(path.with_extension("json")).expect("a description");
    let manifest: serde_json::Value = serde_json::from_str(&manifest).expect("JSON");
    let bytes = fs::read(&path).expect("a checkpoint");
    let file = SafeTensors::deserialize(&bytes).expect("a safetensors file");
    let names = manifest["tensors"].as_array().expect("names").iter().map(|n| n.as_str().expect("a name"));
    [("trainable", "params/"), ("first moment", "m/"), ("second moment", "v/")].map(|(old, prefix)| {
        let own = names.clone().filter(|name| *name == old || name.starts_with(prefix));
        let bytes = own.flat_map(|name| file.tensor(name).expect("a tensor").data());
        let bytes: Vec<u8> = bytes.copied().collect();
        bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
    })
}

/// The rows of the accuracy matrix without the numbers of their tasks, which that version counted from 0.
fn accuracies(workdir: &Path) -> Vec<String> {
    let text = fs::read_to_string(workdir.join("accuracy_matrix.csv")).expect("a matrix");
    let rows = text.lines().skip(1).map(|line| {
        let mut fields: Vec<&str> = line.split(',').collect();
        fields.remove(1);
        fields.join(",")
    });
    rows.collect()
}

#[test]
fn an_interrupted_run_of_the_version_before_goes_on() {
    let dir = tempfile::tempdir().expect("a folder");
    let (stopped, alone) = (copy("l2p_interrupted", dir.path()), dir.path().join("alone"));
    let (config, old) = (fixture("l2p_interrupted").join("config.toml"), fixture("l2p_complete"));
    let listed = expect(inspect(&stopped), 0);
    assert!(listed.contains("step 28") && listed.contains("  trainable ["), "{listed}");
    // A key that really differs is refused, with its values.
    let said = expect(train(&config, &stopped, &["--set", "prompt_pool.length=3"]), 2);
    assert!(said.contains("prompt_pool.length: the run has 2, asked for 3"), "{said}");
    expect(train(&config, &stopped, &[]), 0);
    let (wanted, got) = (last(&old), last(&stopped));
    assert!(wanted[0].len() > 1000 && wanted.iter().zip(&got).all(|(a, b)| a.len() == b.len()));
    // The fixture's bits are those of the processor that made it: where a run from the start has them, this one has.
    expect(train(&config, &alone, &[]), 0);
    if last(&alone) == wanted {
        assert!(got == wanted, "the parameters or moments differ");
        assert_eq!(accuracies(&stopped), accuracies(&old));
    } else {
        let off = wanted[0].iter().zip(&got[0]).fold(0f32, |worst, (a, b)| worst.max((a - b).abs()));
        assert!(off < 1e-3, "the parameters are off by {off}");
    }
    // Saved by name now; what the run was is in the checkpoint, too.
    let listed = expect(inspect(&stopped), 0);
    for line in [
        "  params/head/kernel [128, 10]",
        "  params/prompt_pool/prompt [1, 6, 2, 128]",
        "  m/prompt_pool/key [6, 128]",
        "  v/head/bias [10]",
        "  state/prompt_uses [2, 6]",
    ] {
        assert!(listed.contains(line), "{line}: {listed}");
    }
    let path = stopped.join("config.toml");
    let text = fs::read_to_string(&path).expect("a configuration");
    fs::write(&path, text.replace("seed = 42", "seed = 43")).expect("another one");
    let said = expect(with(&["eval", "--json"], &stopped), 2);
    assert!(said.contains("seed: the checkpoint has 42, asked for 43"), "{said}");
}

fn inspect(workdir: &Path) -> Command {
    let mut command = engine();
    command.arg("inspect").arg(workdir);
    command
}

fn with(args: &[&str], workdir: &Path) -> Command {
    let mut command = engine();
    command.args(args).arg("--workdir").arg(workdir).arg("--init-checkpoint").arg(backbone());
    command
}

#[test]
fn complete_runs_of_the_version_before_are_evaluated() {
    for name in ["l2p_complete", "dualprompt_complete"] {
        let output =
            with(&["eval", "--json", "--device", "cpu"], &fixture(name)).output().expect("an answer");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let found: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let results = fs::read_to_string(fixture(name).join("results.json")).expect("results");
        let results: serde_json::Value = serde_json::from_str(&results).expect("JSON");
        for selection in ["per_image", "per_batch"] {
            let [found, wanted] = [&found, &results].map(|v| &v[selection]["accuracy_matrix"]);
            assert_eq!(found, wanted, "{name}, {selection}");
        }
    }
}
