//! What a run that goes on may change, and what it must not: its learning rate; its data and its backbone.

use super::common::process::{engine, expect, train};
use sha2::{Digest, Sha256};
use std::path::Path;
use std::process::Command;

/// What stands before the checksum of a description.
const SEAL: &str = ",\n  \"manifest_sha256\": \"";

/// The description of the newest checkpoint.
fn description(workdir: &Path) -> serde_json::Value {
    let mut files: Vec<_> = std::fs::read_dir(workdir.join("checkpoints"))
        .expect("checkpoints")
        .map(|e| e.expect("an entry").path())
        .filter(|p| p.extension().is_some_and(|e| e == "json"))
        .collect();
    files.sort();
    let text = std::fs::read_to_string(files.last().expect("a checkpoint")).expect("a description");
    serde_json::from_str(&text).expect("JSON")
}

/// A rate at which the loss is soon no number any more ends the run; with a smaller one it goes on from the last
/// checkpoint, and the log and the results tell.
#[test]
fn a_run_that_diverges_goes_on_with_another_learning_rate() {
    let dir = tempfile::tempdir().expect("a folder");
    let workdir = dir.path().join("run");
    let with = |rate: &str, more: &[&str]| -> Command {
        let rate = format!("optim.learning_rate={rate}");
        let args = ["--set", &rate, "--set", "train.checkpoint_every_steps=1", "--set", "optim.optim=sgd"];
        train(&workdir, &[&args[..], &["--set", "optim.grad_clip_max_norm=0"], more].concat())
    };
    let said = expect(with("1e30", &[]), 1);
    assert!(said.contains("--resume --set optim.learning_rate=RATE"), "{said}");
    let step = description(&workdir)["step"].as_u64().expect("a step");
    // Another key is still refused, and so is the rate where the run is only read.
    let said = expect(with("0.001", &["--resume", "--set", "optim.sgd_momentum=0.5"]), 2);
    assert!(said.contains("optim.sgd_momentum") && !said.contains("optim.learning_rate:"), "{said}");
    if step == 0 {
        panic!("the run has no checkpoint to go on from");
    }
    // What was learned at the high rate is lost; a run that stood well goes on.
    let calm = dir.path().join("calm");
    let go = |rate: &str, more: &[&str]| -> Command {
        let rate = format!("optim.learning_rate={rate}");
        let sets = ["--set", &rate, "--set", "train.checkpoint_every_steps=3"];
        train(&calm, &[&sets[..], more].concat())
    };
    let mut child = go("0.02", &["--set", "train.num_epochs=6"]).spawn().expect("the program starts");
    while !calm.join("checkpoints/step_000003.json").exists() && child.try_wait().expect("a status").is_none()
    {
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    child.kill().expect("a kill");
    child.wait().expect("an end");
    let at = description(&calm)["step"].as_u64().expect("a step");
    assert!(at > 0);
    expect(go("0.01", &["--set", "train.num_epochs=6", "--resume"]), 0);
    let text = std::fs::read_to_string(calm.join("results.json")).expect("results");
    let results: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let changes = results["learning_rate_changes"].as_array().expect("changes").clone();
    assert_eq!(changes.len(), 1, "{changes:?}");
    assert_eq!((changes[0]["from"].as_f64(), changes[0]["to"].as_f64()), (Some(0.02), Some(0.01)));
    let step = changes[0]["step"].as_u64().expect("a step");
    let log = std::fs::read_to_string(calm.join("log.jsonl")).expect("a log");
    let lines: Vec<serde_json::Value> =
        log.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let told = lines.iter().find(|line| line["event"] == "learning_rate").expect("a line about it");
    assert_eq!((told["step"].as_u64(), told["to"].as_f64()), (Some(step), Some(0.01)));
    // 16 images of 256.
    for line in lines.iter().filter(|line| line["event"] == "train") {
        let rate = if line["step"].as_u64() > Some(step) { 0.01 } else { 0.02 } * 16.0 / 256.0;
        let found = line["learning_rate"].as_f64().expect("a rate");
        assert!((found - rate).abs() < 1e-12, "{line}: {rate}");
    }
    // Saying it again changes nothing; at the end there is nothing left to change.
    expect(go("0.01", &["--set", "train.num_epochs=6", "--resume"]), 0);
    let said = expect(go("0.5", &["--set", "train.num_epochs=6", "--resume"]), 2);
    assert!(said.contains("the run has 0.01, asked for 0.5, but all of its tasks are learned"), "{said}");
    let mut eval = engine();
    eval.args(["eval", "--device", "cpu", "--workdir"]).arg(&calm);
    expect(eval, 0);
    // A rate that was written into the run's own configuration is another one than its checkpoints have.
    let path = calm.join("config.toml");
    let text = std::fs::read_to_string(&path).expect("a configuration");
    assert!(text.contains("learning_rate = 0.01"), "{text}");
    std::fs::write(&path, text.replace("learning_rate = 0.01", "learning_rate = 0.04")).expect("written");
    let mut eval = engine();
    eval.args(["eval", "--device", "cpu", "--workdir"]).arg(&calm);
    let said = expect(eval, 2);
    assert!(said.contains("optim.learning_rate: the checkpoint has 0.01, asked for 0.04"), "{said}");
}

/// An edited class order and another description of the backbone are found when a run is resumed or evaluated, with
/// what was and what is.
#[test]
fn other_classes_and_another_backbone_are_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let (workdir, order) = (dir.path().join("run"), dir.path().join("order.txt"));
    let write = |classes: [u32; 10]| {
        let lines: String = classes.iter().map(|class| format!("{class}\n")).collect();
        std::fs::write(&order, lines).expect("a class order");
    };
    write([3, 1, 2, 0, 4, 5, 6, 7, 8, 9]);
    let set = format!("continual.class_order={}", order.display());
    let few = ["--set", &set, "--set", "train.num_epochs=1"];
    let resumed = || train(&workdir, &[&few[..], &["--resume"]].concat());
    let eval = || {
        let mut eval = engine();
        eval.args(["eval", "--device", "cpu", "--workdir"]).arg(&workdir);
        eval
    };
    expect(train(&workdir, &few), 0);
    expect(eval(), 0);
    let origin = description(&workdir)["meta"]["origin"].clone();
    for name in ["GELU", "LayerNorm epsilon", "attention heads", "input mean", "positions", "tasks"] {
        assert!(origin[name].as_str().is_some_and(|value| !value.is_empty()), "{name}: {origin}");
    }
    write([3, 1, 0, 2, 4, 5, 6, 7, 8, 9]);
    for said in [expect(resumed(), 1), expect(eval(), 1)] {
        assert!(said.contains("class 2: the run has `2`, found `0`"), "{said}");
    }
    write([3, 1, 2, 0, 4, 5, 6, 7, 8, 9]);
    expect(resumed(), 0);

    // What the file of the backbone leaves open is another now.
    let edit = |name: &str, from: &str, to: &str| {
        for entry in std::fs::read_dir(workdir.join("checkpoints")).expect("checkpoints") {
            let path = entry.expect("an entry").path();
            if path.extension().is_some_and(|e| e == "json") {
                let text = std::fs::read_to_string(&path).expect("a description");
                let (body, _) = text.rsplit_once(SEAL).expect("a seal");
                let body = body.replace(&format!("{name:?}: {from:?}"), &format!("{name:?}: {to:?}"));
                let seal: String =
                    Sha256::digest(body.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
                std::fs::write(&path, format!("{body}{SEAL}{seal}\"\n}}\n")).expect("written");
            }
        }
    };
    for (name, value) in [("GELU", "something else"), ("labels of the test images", "9 images, abc")] {
        let was = origin[name].as_str().expect("a value").to_string();
        edit(name, &was, value);
        let wanted = format!("{name}: the run has {value}, found {was}");
        for said in [expect(resumed(), 1), expect(eval(), 1)] {
            assert!(said.contains(&wanted), "{said}");
        }
        edit(name, value, &was);
        expect(eval(), 0);
    }
}

/// The same end to end: labels that were rotated in their file, and a backbone whose description was left behind.
#[test]
fn rotated_labels_and_a_backbone_without_its_description_are_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let at = |name: &str| dir.path().join(name);
    let data = at("data");
    std::fs::create_dir(&data).expect("a folder");
    for (number, class) in (0..30u8).map(|i| (i, i % 3)) {
        let pixel = |x: u32, y: u32| image::Luma([(x as u8) * (20 + 30 * class) + y as u8 * 3 + number]);
        image::GrayImage::from_fn(8, 8, pixel).save(data.join(format!("{number}.png"))).expect("a picture");
    }
    // Names that stay, of classes that do not.
    let lists = |turned: u8| {
        for (file, numbers) in [("train.txt", 0..24u8), ("test.txt", 24..30)] {
            let line = |n: u8| format!("{n}.png {}\n", ["ant", "bee", "cat"][usize::from((n + turned) % 3)]);
            std::fs::write(data.join(file), numbers.map(line).collect::<String>()).expect("a list");
        }
    };
    lists(0);
    // A file of another program says neither the form of its GELU nor its epsilon: what lies beside it does.
    let backbone = at("vit.safetensors");
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/import");
    std::fs::copy(fixtures.join("hf_vit.safetensors"), &backbone).expect("a backbone");
    let description = serde_json::json!({
        "model_type": "vit", "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-5, "num_attention_heads": 2,
    });
    let describe = || std::fs::write(at("config.json"), description.to_string()).expect("a description");
    describe();
    let settings = [
        format!("model.init_checkpoint={}", backbone.display()),
        format!("data.dir={}", data.display()),
        "data.dataset=images".into(),
        "continual.num_tasks=1".into(),
        "continual.num_classes_per_task=3".into(),
        "model.heads=2".into(),
        "prompt_pool.pool_size=4".into(),
        "train.per_device_batch_size=4".into(),
        "baselines.linear_probe=false".into(),
        "baselines.naive_head=false".into(),
    ];
    let mut sets: Vec<&str> = settings.iter().flat_map(|set| ["--set", set.as_str()]).collect();
    let workdir = at("run");
    expect(train(&workdir, &sets), 0);
    sets.push("--resume");
    let eval = || {
        let mut eval = engine();
        eval.args(["eval", "--device", "cpu", "--workdir"]).arg(&workdir);
        eval
    };
    expect(eval(), 0);

    lists(1);
    for said in [expect(eval(), 1), expect(train(&workdir, &sets), 1)] {
        assert!(said.contains("labels of the training images: the run has"), "{said}");
    }
    lists(0);
    expect(eval(), 0);

    std::fs::remove_file(at("config.json")).expect("removed");
    for said in [expect(eval(), 1), expect(train(&workdir, &sets), 1)] {
        for name in ["GELU", "LayerNorm epsilon"] {
            assert!(said.contains(&format!("{name}: the run has")), "no {name} in {said}");
        }
    }
    describe();
    expect(eval(), 0);
}
