//! `add-classes`: a finished run and a folder of images to a new run, whatever the method, whatever is gone or damaged.

#[path = "../common/mod.rs"]
mod common;

use common::pictures::pictures;
use common::process::{engine, expect, same, stderr, train};
use l2p_engine::learner::SavedRun;
use l2p_engine::output::{Results, TensorData};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

fn path(p: &Path) -> &str {
    p.to_str().expect("a UTF-8 path")
}

/// A small run of two tasks of two digits.
fn digits(workdir: &Path, more: &[&str]) {
    let sets = ["continual.num_tasks=2"].iter().chain(more).flat_map(|set| ["--set", *set]);
    expect(train(workdir, &sets.collect::<Vec<_>>()), 0);
}

fn add(run: &Path, images: &Path, more: &[&str]) -> Command {
    let mut command = engine();
    command.args(["add-classes", "--device", "cpu", "--quiet", "--workdir", path(run)]);
    command.args(["--data-dir", path(images)]).args(more);
    command
}

/// Every file below a folder with its bytes.
fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir(dir).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            all.extend(files(&path));
        } else {
            all.insert(path.clone(), std::fs::read(&path).expect("a file"));
        }
    }
    all
}

/// A saved tensor as bits.
fn bits(run: &Path, name: &str) -> (Vec<usize>, Vec<u64>) {
    let saved = SavedRun::read(run).expect("a run");
    let (_, shape, data) = saved.tensors.iter().find(|(n, ..)| n == name).expect(name).clone();
    let bits = match data {
        TensorData::F32(values) => values.iter().map(|v| u64::from(v.to_bits())).collect(),
        TensorData::F64(values) => values.iter().map(|v| v.to_bits()).collect(),
        TensorData::U32(values) => values.iter().map(|v| u64::from(*v)).collect(),
    };
    (shape, bits)
}

/// The columns of the head by class name.
fn columns(run: &Path) -> BTreeMap<String, Vec<u64>> {
    let names = SavedRun::read(run).expect("a run").at.class_names;
    let (kernel, bias) = (bits(run, "params/head/kernel"), bits(run, "params/head/bias"));
    assert_eq!(kernel.0.last(), Some(&names.len()));
    let column =
        |class: usize| kernel.1.iter().skip(class).step_by(names.len()).chain(&bias.1[class..=class]);
    names.iter().enumerate().map(|(class, name)| (name.clone(), column(class).copied().collect())).collect()
}

fn results(run: &Path) -> Results {
    Results::read(&run.join("results.json")).expect("results")
}

/// The classes that `predict` names first.
fn predicted(run: &Path, image: &Path) -> String {
    let mut command = engine();
    command.args(["predict", "--device", "cpu", "--workdir", path(run), path(image)]);
    let said = expect(command, 0);
    let (_, classes) = said.split_once(": ").expect("an answer");
    classes.rsplit_once(" %").expect("a probability").0.split(' ').next().expect("a class").to_string()
}

#[test]
fn a_folder_of_images_becomes_a_task_of_a_new_run() {
    let dir = tempfile::tempdir().expect("a folder");
    let (run, second, third) = (dir.path().join("run"), dir.path().join("run-v2"), dir.path().join("zoo"));
    digits(&run, &["optim.weight_decay=0.001", "optim.optim=adamw"]);
    let before = files(&run);
    let five = pictures(&dir.path().join("five"), &["bars", "cross", "diag"], 20);
    let said = expect(add(&run, &five, &[]), 0);
    assert!(files(&run) == before, "the old run has changed");
    assert!(said.starts_with("forgetting of this step: "), "{said}");
    assert!(said.contains("on 2 earlier tasks") && said.contains(path(&second)), "{said}");
    let (old, new) = (columns(&run), columns(&second));
    assert_eq!(old.len() + 3, new.len());
    old.iter().for_each(|(name, column)| assert_eq!(&new[name], column, "{name}"));
    let found = results(&second);
    let added = found.added.clone().expect("what was added");
    assert_eq!((added.task, added.train_images, added.test_images), (2, 48, 12));
    assert_eq!(added.classes, ["bars", "cross", "diag"]);
    assert!(found.complete && added.accuracy > Some(0.8), "{added:?}");
    let last = results(&run).per_image.accuracy_matrix.pop().expect("a row");
    assert_eq!(added.earlier.iter().filter_map(|task| task.before).collect::<Vec<_>>(), last);
    let row = &found.per_image.accuracy_matrix[2];
    assert_eq!(added.earlier.iter().filter_map(|task| task.after).collect::<Vec<_>>(), row[..2]);
    let lost = (0..2).map(|i| last[i] - row[i]).sum::<f64>() / 2.0;
    assert!((added.forgetting.expect("measured") - lost).abs() < 1e-12);
    assert_eq!(predicted(&second, &five.join("cross/cross_03.png")), "cross");
    // The new run is one like any other.
    let mut eval = engine();
    eval.args(["eval", "--device", "cpu", "--json", "--workdir", path(&second)]);
    let value: serde_json::Value = serde_json::from_str(&expect(eval, 0)).expect("JSON");
    let now: Vec<f64> =
        serde_json::from_value(value["per_image"]["accuracy_matrix"][2].clone()).expect("accuracies");
    assert_eq!(&now, row);
    let mut again = engine();
    again.args(["train", "--resume", "--device", "cpu", "--workdir", path(&second)]);
    assert!(expect(again, 0).contains("forgetting of this step"));
    let mut report = engine();
    let page = dir.path().join("report.html");
    report.args(["report", "--workdir", path(&run), path(&second), "--out", path(&page)]);
    expect(report, 0);
    assert!(std::fs::read_to_string(&page).expect("a page").contains("cross"));
    // A task of one class: its loss is over all classes, and old columns stay all the same.
    let one = pictures(&dir.path().join("one"), &["ring"], 20);
    let before = files(&second);
    expect(add(&second, &one, &["--into", path(&third)]), 0);
    assert!(files(&second) == before, "the run that was extended has changed");
    let (old, new) = (columns(&second), columns(&third));
    old.iter().for_each(|(name, column)| assert_eq!(&new[name], column, "{name}"));
    let added = results(&third).added.expect("what was added");
    assert_eq!(added.earlier.len(), 3);
    assert!(added.accuracy > Some(0.7), "{added:?}");
    assert_eq!(predicted(&third, &one.join("ring/ring_05.png")), "ring");
}

#[test]
fn every_method_goes_on_with_a_next_task() {
    let dir = tempfile::tempdir().expect("a folder");
    let images = pictures(&dir.path().join("new"), &["bars", "ring"], 8);
    for (method, more) in [
        ("dualprompt", &["g_prompt.g_prompt_length=2"][..]),
        ("coda_prompt", &["coda.components=5", "coda.length=2", "coda.layers=[0,1]"]),
        ("finetune", &["optim.learning_rate=0.003"]),
        ("linear", &["continual.train_mask=false", "optim.reinit_optimizer=false"]),
        ("ewc", &["model.freeze_part=[]", "optim.learning_rate=0.003"]),
        ("lwf", &["optim.optim=sgd", "lwf.warmup_epochs=2", "continual.train_mask=false"]),
        ("ncm", &[]),
        ("ranpac", &["ranpac.random_features=64"]),
        ("s_prompts", &["continual.train_mask=false", "s_prompts.length=2", "s_prompts.centres=2"]),
    ] {
        let (run, new) = (dir.path().join(method), dir.path().join(format!("{method}-new")));
        let method_set = format!("method={method}");
        digits(&run, &[&[method_set.as_str()], more].concat());
        let before = files(&run);
        let said = expect(add(&run, &images, &["--epochs", "20", "--into", path(&new)]), 0);
        assert!(files(&run) == before, "{method}: the old run has changed");
        assert!(said.starts_with("forgetting of this step: "), "{method}: {said}");
        let added = results(&new).added.expect("what was added");
        let guess = 1.0 / columns_or_classes(&new) as f64;
        println!("{method}: forgetting {:?}, new classes {:?}", added.forgetting, added.accuracy);
        assert!(added.accuracy > Some(guess) && added.after.is_some(), "{method}: {added:?}");
        match method {
            "ncm" => {
                let (old, new) = (bits(&run, "class sums").1, bits(&new, "class sums").1);
                assert_eq!(new[..old.len()], old, "{method}");
            }
            // Solved for anew.
            "ranpac" => assert_eq!(bits(&new, "head").0[1], bits(&run, "head").0[1] + 2),
            "s_prompts" => {
                let ((old_shape, old), (shape, new)) =
                    (bits(&run, "params/head/kernel"), bits(&new, "params/head/kernel"));
                let (k, more) = (old_shape[2], shape[2]);
                assert_eq!((old_shape[0] + 1, k + 2), (shape[0], more));
                // Heads of earlier domains: what they know stays, what they never met is zero.
                for (old, new) in old.chunks(k).zip(new.chunks(more)) {
                    assert_eq!((&new[..k], &new[k..]), (old, &[0, 0][..]));
                }
            }
            _ => {
                let (old, new) = (columns(&run), columns(&new));
                old.iter().for_each(|(name, column)| assert_eq!(&new[name], column, "{method}: {name}"));
            }
        }
        if method == "coda_prompt" {
            // Two components of the five for each of two tasks, and as many for the third.
            let ((old_shape, old), (shape, new)) =
                (bits(&run, "params/coda/0/key"), bits(&new, "params/coda/0/key"));
            assert_eq!((old_shape[0], shape[0]), (5, 7));
            let each = 2 * old_shape[1];
            assert_eq!(new[..2 * each], old[..2 * each], "components of earlier tasks");
            assert!(new[2 * each..3 * each].iter().all(|&bits| bits != 0), "components of the new task");
        }
    }
}

fn columns_or_classes(run: &Path) -> usize {
    SavedRun::read(run).expect("a run").at.class_names.len()
}

#[test]
fn killed_in_the_midst_it_is_resumed_to_the_same_bits() {
    let dir = tempfile::tempdir().expect("a folder");
    let (run, whole, killed) = (dir.path().join("run"), dir.path().join("whole"), dir.path().join("killed"));
    digits(&run, &[]);
    let images = pictures(&dir.path().join("new"), &["bars", "ring"], 20);
    let with = |into: &Path| add(&run, &images, &["--epochs", "60", "--into", path(into)]);
    expect(with(&whole), 0);
    let first = SavedRun::read(&run).expect("a run").at.step;
    let mut child = with(&killed).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("a start");
    let clock = Instant::now();
    let step = || SavedRun::read(&killed).map_or(first, |saved| saved.at.step);
    while !killed.join("config.toml").is_file() || step() < first + 10 {
        assert!(clock.elapsed() < Duration::from_secs(120), "no step is made");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(child.try_wait().expect("a status").is_none(), "the run was over too soon");
    child.kill().expect("a kill");
    let output = child.wait_with_output().expect("an end");
    assert!(!stderr(&output).contains("panicked"), "{}", stderr(&output));
    let mut resume = engine();
    resume.args(["train", "--resume", "--quiet", "--device", "cpu", "--workdir", path(&killed)]);
    assert!(expect(resume, 0).starts_with("forgetting of this step: "));
    same(&whole, &killed, "add-classes");
}

#[test]
fn a_class_that_exists_gets_more_images_only_when_asked() {
    let dir = tempfile::tempdir().expect("a folder");
    let (run, new) = (dir.path().join("run"), dir.path().join("new"));
    digits(&run, &[]);
    let images = pictures(&dir.path().join("images"), &["3", "ring"], 10);
    let said = expect(add(&run, &images, &[]), 2);
    assert!(said.contains("`3`") && said.contains("--update"), "{said}");
    assert!(!dir.path().join("run-v2").exists());
    expect(add(&run, &images, &["--update", "--into", path(&new)]), 0);
    let (old, now) = (columns(&run), columns(&new));
    assert_eq!(old.len() + 1, now.len());
    for (name, column) in &old {
        assert_eq!(&now[name] == column, name != "3", "{name}");
    }
    let config = SavedRun::config(&new).expect("a configuration").data;
    assert_eq!((config.added_sizes, config.added_new), (vec![2], vec![1]));
    assert_eq!(config.added_classes, ["ring", "3"]);
}

#[test]
fn images_that_are_gone_are_named_and_never_counted_as_wrong() {
    let dir = tempfile::tempdir().expect("a folder");
    let (run, second, third) = (dir.path().join("run"), dir.path().join("second"), dir.path().join("third"));
    let images = pictures(&dir.path().join("images"), &["bars", "cross", "diag", "frame"], 12);
    let data_dir = format!("data.dir={}", path(&images));
    digits(&run, &["data.dataset=images", &data_dir]);
    // A class of the first task is gone, and with it the test of that task.
    std::fs::remove_dir_all(images.join("cross")).expect("a folder less");
    let ring = pictures(&dir.path().join("ring"), &["ring"], 20);
    let said = expect(add(&run, &ring, &["--into", path(&second)]), 0);
    assert!(said.contains("on 1 earlier task ("), "{said}");
    let row = said.lines().find(|line| line.contains("task 1 (bars, cross)")).expect("a row");
    assert!(row.contains("not measured"), "{said}");
    let text = std::fs::read_to_string(second.join("results.json")).expect("results");
    let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let row = &value["per_image"]["accuracy_matrix"][2];
    assert!(row[0].is_null() && row[1].is_f64() && row[2].is_f64(), "{row}");
    assert!(value["per_image"]["avg_acc"].is_null() && value["per_image"]["forgetting"].is_null());
    assert_eq!(value["added"]["earlier"][0]["name"], "bars, cross");
    assert!(value["added"]["earlier"][0]["after"].is_null() && value["added"]["forgetting"].is_f64());
    let command = |args: &[&str]| {
        let mut command = engine();
        command.args(args);
        command
    };
    let page = dir.path().join("report.html");
    expect(command(&["eval", "--device", "cpu", "--per-class", "--workdir", path(&second)]), 0);
    expect(command(&["train", "--resume", "--device", "cpu", "--workdir", path(&second)]), 0);
    expect(command(&["report", "--out", path(&page), "--workdir", path(&second)]), 0);
    // All of them are gone, also what was added first.
    std::fs::remove_dir_all(&images).expect("a folder less");
    let kept = dir.path().join("ring/ring/ring_01.png");
    std::fs::rename(&ring, dir.path().join("moved")).expect("a move");
    let more = pictures(&dir.path().join("more"), &["cross", "frame"], 10);
    expect(add(&second, &more, &["--into", path(&third)]), 2);
    let said = expect(add(&second, &more, &["--update", "--into", path(&third)]), 0);
    assert!(said.starts_with("forgetting of this step: not measured"), "{said}");
    assert_eq!(said.matches("not measured |").count(), 2 + 1 + 1, "{said}");
    assert!(!kept.exists());
    expect(
        command(&["predict", "--workdir", path(&third), path(&dir.path().join("moved/ring/ring_01.png"))]),
        0,
    );
    expect(command(&["eval", "--device", "cpu", "--workdir", path(&third)]), 0);
}

#[test]
fn bad_input_is_a_sentence_and_leaves_nothing_behind() {
    let dir = tempfile::tempdir().expect("a folder");
    let run = dir.path().join("run");
    digits(&run, &[]);
    let before = files(&run);
    let good = pictures(&dir.path().join("good"), &["bars", "ring"], 6);
    let empty = dir.path().join("empty");
    std::fs::create_dir(&empty).expect("a folder");
    let damaged = pictures(&dir.path().join("damaged"), &["bars", "ring"], 6);
    std::fs::write(damaged.join("ring/ring_02.png"), b"\x89PNG\r\n\x1a\nno picture").expect("a file");
    let single = pictures(&dir.path().join("single"), &["bars", "ring"], 6);
    for i in 1..6 {
        std::fs::remove_file(single.join(format!("ring/ring_{i:02}.png"))).expect("a file less");
    }
    let taken = dir.path().join("taken");
    std::fs::create_dir(&taken).expect("a folder");
    std::fs::write(taken.join("note"), "mine").expect("a file");
    let nowhere = dir.path().join("nowhere");
    let listing = || {
        let mut names: Vec<_> = std::fs::read_dir(dir.path())
            .expect("a folder")
            .map(|e| e.expect("an entry").file_name())
            .collect();
        names.sort();
        names
    };
    let names = listing();
    for (from, images, more, code, says) in [
        (&run, &empty, &[][..], 1, "no images here"),
        (&run, &nowhere, &[], 1, "nowhere"),
        (&run, &damaged, &[], 1, "ring_02.png"),
        (&run, &single, &[], 1, "`ring` has 1 to learn and 0 to test"),
        (&nowhere, &good, &[], 1, "holds no run"),
        (&run, &good, &["--into", path(&run)], 2, "already holds a run"),
        (&run, &good, &["--into", path(&taken)], 2, "not empty"),
        (&run, &good, &["--epochs", "0"], 2, "train.num_epochs"),
        (&run, &good, &["--epochs", "many"], 2, "many"),
        (&run, &good, &["--init-checkpoint", path(&nowhere)], 1, "nowhere"),
    ] {
        let said = expect(add(from, images, more), code);
        assert!(said.contains(says), "wanted `{says}`: {said}");
        assert_eq!(listing(), names, "{says}: something is left behind");
    }
    assert!(files(&run) == before, "the run has changed");
    // Runs that classes cannot be added to.
    for (name, sets, code, says) in [
        ("norm", &["model.weight_norm=true"][..], 2, "model.weight_norm"),
        ("told", &["continual.eval_task_inc=true"], 2, "continual.eval_task_inc"),
        ("joint", &["continual.scenario=joint"], 2, "scenario"),
        (
            "stream",
            &["continual.scenario=stream", "train.num_epochs=1", "optim.reinit_optimizer=false"],
            2,
            "scenario",
        ),
    ] {
        let run = dir.path().join(name);
        digits(&run, sets);
        let said = expect(add(&run, &good, &[]), code);
        assert!(said.contains(says), "wanted `{says}`: {said}");
        assert!(!dir.path().join(format!("{name}-v2")).exists(), "{name}");
    }
    // Part of a run.
    let part = dir.path().join("part");
    let mut child =
        train(&part, &["--set", "train.num_epochs=50"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let child = child.as_mut().expect("a start");
    let clock = Instant::now();
    while SavedRun::read(&part).is_err() {
        assert!(clock.elapsed() < Duration::from_secs(120), "no step is made");
        std::thread::sleep(Duration::from_millis(20));
    }
    child.kill().expect("a kill");
    child.wait().expect("an end");
    let said = expect(add(&part, &good, &[]), 1);
    assert!(said.contains("0 of 5 tasks are learned") && said.contains("--resume"), "{said}");
}
