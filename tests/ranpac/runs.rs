//! Whole runs of the program with `method = "ranpac"`.

use super::common::lanes::deep;
use super::common::process::{engine, expect, outcome, same, stdout, train};
use safetensors::SafeTensors;
use std::path::Path;

const METHOD: &[&str] = &["method=ranpac", "ranpac.random_features=300", "baselines.ranpac=true"];

/// Few images and a narrow projection.
fn run(workdir: &Path, sets: &[&str], more: &[&str]) -> std::process::Command {
    let mut args = vec!["--device", "cpu"];
    args.extend(METHOD.iter().chain(sets).flat_map(|set| ["--set", *set]));
    args.extend(more);
    train(workdir, &args)
}

/// The method has seen every image of a task once and in one order, however many a step and a rank take, on any number
/// of threads; the baseline of the same name learns the same, and both beat chance by far.
#[test]
fn sums_do_not_depend_on_batches_ranks_and_threads() {
    let dir = tempfile::tempdir().expect("a folder");
    let learned = |name: &str, batch: usize, ranks: &str, threads: &str| {
        let (workdir, batch) = (dir.path().join(name), format!("train.per_device_batch_size={batch}"));
        let mut command = run(&workdir, &[&batch], &["--ranks", ranks]);
        command.env("RAYON_NUM_THREADS", threads);
        expect(command, 0);
        let (bytes, _, results, _) = outcome(&workdir);
        let [own, baseline] = [&results["per_image"], &results["baselines"]["ranpac"]];
        assert_eq!(own["accuracy_matrix"], baseline["accuracy_matrix"], "{name}");
        let accuracy = own["avg_acc"].as_f64().expect("an accuracy");
        assert!(accuracy > 0.5, "{name}: {accuracy}");
        bytes
    };
    let wanted = learned("batches of 16", 16, "1", "2");
    for (name, batch, ranks, threads) in
        [("7", 7, "1", "2"), ("2 ranks", 39, "2", "2"), ("1 thread", 16, "1", "1")]
    {
        assert!(learned(name, batch, ranks, threads) == wanted, "{name}: other sums");
    }
}

/// A checkpoint in the middle of a task holds those gathered so far.
#[test]
fn a_killed_run_ends_with_the_same_bits_and_predicts() {
    let dir = tempfile::tempdir().expect("a folder");
    let (left_alone, killed) = (dir.path().join("a"), dir.path().join("b"));
    let start = std::time::Instant::now();
    expect(run(&left_alone, &[], &[]), 0);
    let whole = start.elapsed();
    for part in [0.3, 0.5, 0.7] {
        let mut child =
            run(&killed, &[], &["--resume"]).stderr(std::process::Stdio::null()).spawn().expect("a start");
        std::thread::sleep(whole.mul_f64(part));
        let _ = child.kill();
        child.wait().expect("an end");
    }
    expect(run(&killed, &[], &["--resume"]), 0);
    same(&left_alone, &killed, "killed three times");

    let image = dir.path().join("image.png");
    image::GrayImage::from_fn(28, 28, |x, y| image::Luma([((x * y) % 251) as u8]))
        .save(&image)
        .expect("a picture");
    let mut command = engine();
    command.args(["predict", "--json", "--device", "cpu", "--workdir"]).arg(&left_alone).arg(&image);
    let said = stdout(&command.output().expect("the program starts"));
    let answers: serde_json::Value = serde_json::from_str(&said).unwrap_or_else(|e| panic!("{said}: {e}"));
    assert!(answers.to_string().contains("probability"), "{said}");
    let mut command = engine();
    command.args(["eval", "--device", "cpu", "--workdir"]).arg(&left_alone);
    expect(command, 0);
}

/// Training images are prepared like test images; the plan has the sums.
#[test]
fn augmentation_is_set_aside_and_a_plan_names_the_memory() {
    let dir = tempfile::tempdir().expect("a folder");
    let crop = ["data.augment=crop"];
    let said = expect(run(&dir.path().join("run"), &crop, &["--print-config"]), 0);
    assert!(said.contains("augment = \"none\"") && said.contains("random_features = 300"), "{said}");
    let said = expect(run(&dir.path().join("run"), &crop, &["--dry-run"]), 0);
    assert!(said.contains("ridge regression"), "{said}");
}

#[test]
fn deep_other_scenarios_and_no_projection() {
    if !deep("ranpac in other scenarios") {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let kinds: [&[&str]; 3] = [
        &["ranpac.random_features=0"],
        &["continual.scenario=joint", "ranpac.random_features=100"],
        &["precision=f64", "ranpac.lambdas=[1, 100]"],
    ];
    for (i, sets) in kinds.iter().enumerate() {
        let workdir = dir.path().join(i.to_string());
        expect(run(&workdir, sets, &[]), 0);
        let (.., results, _) = outcome(&workdir);
        let accuracy = results["per_image"]["avg_acc"].as_f64().expect("an accuracy");
        assert!(accuracy > 0.5, "{sets:?}: {accuracy}");
    }
}

/// Adapters of the first task: what is learned from adapted features is another head, the baseline of the same name stays
/// that of the backbone as it was, and a saved run answers with its adapters.
#[test]
fn adapters_learn_the_first_task_and_leave_the_baseline_alone() {
    let dir = tempfile::tempdir().expect("a folder");
    let (plain, adapted) = (dir.path().join("plain"), dir.path().join("adapted"));
    let adapters = [
        "ranpac.adapter_width=8",
        "ranpac.adapter_scale=1",
        "ranpac.adapter_epochs=2",
        "optim.optim=sgd",
        "optim.learning_rate=0.05",
        "optim.lr_batch=0",
        "optim.warmup_epochs=0",
    ];
    expect(run(&plain, &[], &[]), 0);
    expect(run(&adapted, &adapters, &[]), 0);
    let ((bytes, _, before, _), (adapted_bytes, _, after, _)) = (outcome(&plain), outcome(&adapted));
    let matrix = |score: &serde_json::Value| score["accuracy_matrix"].clone();
    assert_eq!(matrix(&after["baselines"]["ranpac"]), matrix(&before["per_image"]), "without adapters");
    let [saved, adapted_saved] =
        [&bytes, &adapted_bytes].map(|bytes| SafeTensors::deserialize(bytes).expect("a checkpoint"));
    let tensor = |of: &SafeTensors, name: &str| of.tensor(name).expect(name).data().to_vec();
    assert_ne!(tensor(&saved, "gram"), tensor(&adapted_saved, "gram"), "other features");
    let up = tensor(&adapted_saved, "params/adapter/1/up/kernel");
    assert!(up.iter().any(|&byte| byte != 0), "adapters that start at zero have learned");
    assert!(saved.tensor("params/adapter/1/up/kernel").is_err(), "no adapters");
    let accuracy = after["per_image"]["avg_acc"].as_f64().expect("an accuracy");
    assert!(accuracy > 0.5, "{accuracy}");
    let mut command = engine();
    command.args(["eval", "--json", "--device", "cpu", "--workdir"]).arg(&adapted);
    let read: serde_json::Value = serde_json::from_str(&expect(command, 0)).expect("JSON");
    let last = |matrix: serde_json::Value| matrix.as_array().expect("rows").last().cloned();
    assert_eq!(last(matrix(&read["per_image"])), last(matrix(&after["per_image"])), "what was saved");
}
