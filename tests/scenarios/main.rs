//! Runs in every scenario from start to end, and plans of the papers' benchmarks without their files.

#[path = "../common/mod.rs"]
mod common;

use common::lanes::deep;
use common::process::{engine, expect, outcome, small, stderr, train};
use std::path::Path;

/// The matrix and the results of a small run with these settings.
fn run(workdir: &Path, sets: &[&str]) -> (Vec<Vec<f64>>, serde_json::Value) {
    let mut args = Vec::new();
    for set in ["train.num_epochs=1", "optim.reinit_optimizer=false", "baselines.single_prompt=false"]
        .iter()
        .chain(sets)
    {
        args.extend(["--set", set]);
    }
    expect(train(workdir, &args), 0);
    let text = std::fs::read_to_string(workdir.join("results.json")).expect("results.json");
    let results: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let number = |v: &serde_json::Value| v.as_f64().expect("a number");
    let row = |v: &serde_json::Value| v.as_array().expect("a row").iter().map(number).collect();
    let matrix = results["per_image"]["accuracy_matrix"].as_array().expect("rows").iter().map(row).collect();
    (matrix, results)
}

/// One test set: one accuracy after each test, and no forgetting, which would mean nothing.
#[test]
fn without_boundaries_there_is_one_accuracy() {
    let dir = tempfile::tempdir().expect("a folder");
    let seven = "continual.num_tasks=7";
    for (i, (name, sets, rows)) in [
        ("stream", &[seven][..], 7),
        ("gaussian_once", &[seven, "continual.gaussian_sigma=2", "continual.eval_every_tasks=3"], 3),
        ("gaussian", &[seven, "continual.gaussian_sigma=1", "continual.eval_every_tasks=3"], 3),
        ("gaussian", &[seven, "continual.gaussian_sigma=1", "method=joint"], 1),
    ]
    .into_iter()
    .enumerate()
    {
        let workdir = dir.path().join(format!("run{i}"));
        let scenario = format!("continual.scenario={name}");
        let (matrix, results) = run(&workdir, &[&[scenario.as_str()], sets].concat());
        assert!(matrix.len() == rows && matrix.iter().all(|row| row.len() == 1), "{name}: {matrix:?}");
        // Rows are called by the task after which they were taken.
        let wanted: &[u64] = match rows {
            7 => &[0, 1, 2, 3, 4, 5, 6],
            3 => &[2, 5, 6],
            _ => &[0],
        };
        let tasks = |score: &serde_json::Value| -> Vec<u64> {
            let rows = score["after_each_task"].as_array().expect("rows");
            rows.iter().map(|row| row["task"].as_u64().expect("a task")).collect()
        };
        assert_eq!(tasks(&results["per_image"]), wanted, "{name}");
        assert_eq!(tasks(&results["per_batch"]), wanted, "{name}");
        assert_eq!(tasks(&results["baselines"]["ncm"]), wanted[rows - 1..], "{name}");
        let csv = std::fs::read_to_string(workdir.join("accuracy_matrix.csv")).expect("a table");
        let after = csv.lines().skip(1).map(|line| line.split(',').nth(1).expect("a column").to_string());
        let numbered: Vec<String> = wanted.iter().chain(wanted).map(|t| (t + 1).to_string()).collect();
        assert_eq!(after.collect::<Vec<_>>(), numbered, "{name}: {csv}");
        let last = matrix[rows - 1][0];
        assert!((0.0..=1.0).contains(&last), "{name}: {last}");
        if rows > 1 {
            for key in ["forgetting", "backward", "learning_acc"] {
                assert!(results["per_image"][key].is_null(), "{name}: {key}");
            }
            assert!(results["baselines"]["naive_head"].is_null());
        }
        assert_eq!(results["per_image"]["avg_acc"].as_f64(), Some(last));
        // The baselines know every class at the end.
        let ncm = results["baselines"]["ncm"]["avg_acc"].as_f64().expect("a baseline");
        assert!(ncm > 0.5, "{name}: nearest class mean {ncm}");
        let mut eval = engine();
        eval.args(["eval", "--json", "--workdir"]).arg(&workdir);
        let said = expect(eval, 0);
        let eval: serde_json::Value =
            serde_json::from_str(&said[said.find('{').expect("JSON")..]).expect("JSON");
        assert_eq!(eval["per_image"]["avg_acc"].as_f64(), Some(last), "{name}: {said}");
        assert_eq!(tasks(&eval["per_image"]), wanted, "{name}");
    }
}

/// `predict` answers among the classes that learning has met, whatever the tasks are, and the earlier word for learning
/// all at once is the scenario.
#[test]
fn predict_answers_among_the_classes_met() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("image.png");
    image::RgbImage::from_fn(28, 28, |x, y| image::Rgb([x as u8 * 9, y as u8 * 9, 7]))
        .save(&file)
        .expect("a PNG");
    let classes = |workdir: &Path| -> usize {
        let mut predict = engine();
        predict.args(["predict", "--json", "--workdir"]).arg(workdir).arg(&file);
        let said = expect(predict, 0);
        let answer: serde_json::Value = serde_json::from_str(said.trim()).expect("JSON");
        answer["classes"].as_array().expect("classes").len()
    };
    let few = ["continual.num_tasks=3", "continual.num_classes_per_task=2"];
    for (i, (more, wanted)) in [
        (&[][..], 6),
        (&["continual.scenario=stream", "continual.eval_every_tasks=2"], 10),
        (&["continual.scenario=joint"], 6),
        (&["method=joint"], 6),
        (&["method=joint", "continual.scenario=stream"], 10),
    ]
    .iter()
    .enumerate()
    {
        let workdir = dir.path().join(format!("run{i}"));
        let (_, results) = run(&workdir, &[&few[..], more].concat());
        assert_eq!(classes(&workdir), *wanted, "{more:?}");
        assert_eq!(results["classes_seen"].as_u64(), Some(*wanted as u64), "{more:?}");
    }
    let checkpoint = |run: &str| {
        let mut files: Vec<_> = std::fs::read_dir(dir.path().join(run).join("checkpoints"))
            .expect("checkpoints")
            .map(|e| e.expect("an entry").path())
            .filter(|p| p.extension().is_some_and(|e| e == "safetensors"))
            .collect();
        files.sort();
        std::fs::read(files.last().expect("a checkpoint")).expect("its bytes")
    };
    assert!(checkpoint("run2") == checkpoint("run3"), "both words train the same network");
}

/// Told its task, an image is answered right at least as often as before, here more often.
#[test]
fn task_incremental_evaluation_chooses_among_the_classes_of_the_task() {
    let dir = tempfile::tempdir().expect("a folder");
    let few = ["optim.learning_rate=0.003"];
    let (all, results) = run(&dir.path().join("all"), &few);
    let (told, told_results) = run(&dir.path().join("told"), &["continual.eval_task_inc=true", few[0]]);
    let cells = |m: &[Vec<f64>]| m.iter().flatten().copied().collect::<Vec<f64>>();
    assert!(cells(&told).iter().zip(cells(&all)).all(|(told, all)| *told >= all), "{told:?} {all:?}");
    assert!(told[4].iter().sum::<f64>() > all[4].iter().sum::<f64>(), "{told:?} {all:?}");
    assert!(told[4].iter().all(|a| *a >= 0.5), "two classes: {told:?}");
    assert_eq!(results["baselines"], told_results["baselines"]);
}

/// Images of a class, train and test, with which accuracies mean something.
const ENOUGH: [&str; 2] = ["data.train_per_class=40", "data.test_per_class=10"];

/// Images kept of earlier tasks are seen again after each task, without a mask: the classes of different tasks are
/// told apart better than without them.
#[test]
fn deep_review_of_replayed_images_tells_tasks_apart() {
    if !deep("review of kept images beside a run without it") {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let sets = [&ENOUGH[..], &["optim.learning_rate=0.01"]].concat();
    let (_, plain) = run(&dir.path().join("plain"), &sets);
    let kept = [&sets[..], &["continual.replay_per_class=16", "continual.num_review_epochs=6"]].concat();
    let (_, review) = run(&dir.path().join("review"), &kept);
    let accuracy = |r: &serde_json::Value| r["per_image"]["avg_acc"].as_f64().expect("a number");
    // 0.39, 0.34, 0.32 without and 0.59, 0.53, 0.61 with, for seeds 42, 1, 2.
    assert!(accuracy(&review) > accuracy(&plain) + 0.1, "{} {}", accuracy(&review), accuracy(&plain));
    // 5 steps of 16 of the 80 images of a task; 6 epochs of 2, 4, 6, 8 and 10 steps on 32 kept images per task.
    let log = std::fs::read_to_string(dir.path().join("review/log.jsonl")).expect("a log");
    let last: serde_json::Value = serde_json::from_str(log.lines().last().expect("lines")).expect("JSON");
    assert_eq!(last["step"].as_u64(), Some(5 * 5 + 6 * (2 + 4 + 6 + 8 + 10)), "{last}");
}

/// Tests within a task say how it goes and change nothing; on some images of a test set only, they are of those.
#[test]
fn tests_within_a_task_and_on_few_images() {
    let dir = tempfile::tempdir().expect("a folder");
    let sets = [&ENOUGH[..], &["train.num_epochs=3", "train.num_eval_steps=1"]].concat();
    let (alone, _) = run(&dir.path().join("alone"), &sets);
    let within = [&sets[..], &["train.eval_per_epochs=1"]].concat();
    let (matrix, _) = run(&dir.path().join("within"), &within);
    assert_eq!(matrix, alone);
    // 20 test images per task, of which one batch of 16.
    assert!(matrix.iter().flatten().all(|a| (a * 16.0).fract() == 0.0), "{matrix:?}");
    let log = std::fs::read_to_string(dir.path().join("within/log.jsonl")).expect("a log");
    let lines: Vec<serde_json::Value> =
        log.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let epochs: Vec<(u64, usize)> = lines
        .iter()
        .filter(|line| line["event"] == "epoch")
        .map(|line| {
            let tests = line["per_image"].as_array().expect("accuracies").len();
            (line["step"].as_u64().expect("a step"), tests)
        })
        .collect();
    // 15 steps a task; the third epoch ends with it.
    let wanted: Vec<(u64, usize)> =
        (0..5).flat_map(|t| [(15 * t + 5, t as usize + 1), (15 * t + 10, t as usize + 1)]).collect();
    assert_eq!(epochs, wanted);
}

/// Class means have seen every image of a task once and in one order, however many a step and a rank take.
#[test]
fn class_means_do_not_depend_on_batches_and_ranks() {
    let dir = tempfile::tempdir().expect("a folder");
    let learned = |name: &str, batch: usize, ranks: &str| -> Vec<u8> {
        let (workdir, batch) = (dir.path().join(name), format!("train.per_device_batch_size={batch}"));
        let mut args = vec!["--device", "cpu", "--ranks", ranks];
        for set in ["method=ncm", &batch] {
            args.extend(["--set", set]);
        }
        expect(train(&workdir, &args), 0);
        let (bytes, _, results, log) = outcome(&workdir);
        let file = safetensors::SafeTensors::deserialize(&bytes).expect("a checkpoint");
        let counts = file.tensor("class counts").expect("counts").data().to_vec();
        let counts = counts.chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().expect("eight bytes")));
        let each = small("data.train_per_class") as f64;
        assert_eq!(counts.collect::<Vec<_>>(), [each; 10], "{name}");
        // What the method learns is what the baseline of the same name does.
        let [own, baseline] = [&results["per_image"], &results["baselines"]["ncm"]];
        assert_eq!(own["accuracy_matrix"], baseline["accuracy_matrix"], "{name}");
        assert!(
            log.iter().filter(|line| line.contains(r#""event":"train""#)).count() >= 5,
            "{name}: {log:?}"
        );
        bytes
    };
    let wanted = learned("batches of 16", 16, "1");
    // 12 steps, the last of 3 images; 3 steps, the last of 16; fewer images than a batch; a last step of 2 images that
    // are all those of one rank.
    for (name, batch, ranks) in [("7", 7, "1"), ("32", 32, "1"), ("100", 100, "1"), ("2 ranks", 39, "2")] {
        assert!(learned(name, batch, ranks) == wanted, "{name}: other class means");
    }
}

/// Kept images in every batch from the second task on: less is forgotten than without them.
#[test]
fn deep_replay_keeps_what_was_learned() {
    if !deep("replay beside a run without it") {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let rare = ["train.num_epochs=6", "optim.learning_rate=0.03", "optim.reinit_optimizer=true"];
    let sets = [&ENOUGH[..], &rare].concat();
    let (_, plain) = run(&dir.path().join("plain"), &sets);
    let replay = [&sets[..], &["continual.replay_per_class=16", "continual.replay_batch_size=16"]].concat();
    let (_, with) = run(&dir.path().join("replay"), &replay);
    let number = |r: &serde_json::Value, key: &str| r["per_image"][key].as_f64().expect("a number");
    let [accuracy, forgetting] =
        ["avg_acc", "forgetting"].map(|key| (number(&with, key), number(&plain, key)));
    // Accuracy 0.43, 0.53, 0.54 without and 0.58, 0.65, 0.56 with, forgetting 0.31, 0.16, 0.21 and 0.06, 0.10, 0.11, for
    // seeds 42, 1, 2.
    assert!(accuracy.0 > accuracy.1 + 0.05, "{accuracy:?}");
    assert!(forgetting.0 < forgetting.1 - 0.1, "{forgetting:?}");
    // 30 steps of the 80 images of a task, as without it; from the second task on of 32 images.
    let log = std::fs::read_to_string(dir.path().join("replay/log.jsonl")).expect("a log");
    let last: serde_json::Value = serde_json::from_str(log.lines().last().expect("lines")).expect("JSON");
    assert_eq!(last["step"].as_u64(), Some(5 * 30), "{last}");
}

/// Pictures of three classes in three domains, and three lists of them: for training, for tests of every domain, for
/// tests of one.
fn domains_of_a_list(dir: &Path) -> [String; 3] {
    let mut lists = [String::new(), String::new(), String::new()];
    for (d, domain) in ["day", "night", "fog"].iter().enumerate() {
        for class in 0..3u32 {
            for i in 0..12u32 {
                let name = format!("{domain}_{class}_{i}.png");
                let shade = (60 * d) as u8;
                let pixel = |x: u32, y: u32| {
                    image::Luma([((x * (class + 1) * 9 + y * 3) as u8 / 2).wrapping_add(shade)])
                };
                image::GrayImage::from_fn(20, 24, pixel).save(dir.join(&name)).expect("a picture");
                let line = format!("{name} kind{class} {domain}\n");
                lists[usize::from(i >= 8)] += &line;
                // A test list of one domain only.
                if i >= 8 && d == 2 {
                    lists[2] += &line;
                }
            }
        }
    }
    lists
}

const DOMAINS: [&str; 5] = [
    "data.dataset=images",
    "continual.scenario=domain",
    "continual.num_tasks=3",
    "train.per_device_batch_size=8",
    "data.test_per_class=10",
];

/// Domains from the third column of a list, tested apart and together.
#[test]
fn a_task_per_domain_of_a_list() {
    let dir = tempfile::tempdir().expect("a folder");
    let lists = domains_of_a_list(dir.path());
    let data = format!("data.dir={}", dir.path().display());
    let cache = format!("data.cache_dir={}", dir.path().join("cache").display());
    let sets = [&DOMAINS[..], &[&data, &cache]].concat();
    std::fs::write(dir.path().join("train.txt"), &lists[0]).expect("a list");
    for (test, columns) in [(1, vec![1, 2, 3]), (2, vec![1, 1, 1])] {
        std::fs::write(dir.path().join("test.txt"), &lists[test]).expect("a list");
        let (matrix, results) = run(&dir.path().join(format!("run{test}")), &sets);
        assert_eq!(matrix.iter().map(Vec::len).collect::<Vec<_>>(), columns);
        assert_eq!(results["per_image"]["forgetting"].is_null(), test == 2);
        assert!(results["per_image"]["forward"].is_null(), "not asked for");
        // Classes belong to all tasks.
        assert!(results["per_image"]["task_confusion"].is_null());
        assert_eq!(results["per_image"]["class_accuracy"].as_array().expect("classes").len(), 3);
    }
    // Forward transfer, asked for where tasks share a test set, then where they do not.
    let forward = [&sets[..], &["data.test_per_class=0", "continual.forward_transfer=true"]].concat();
    let args: Vec<&str> = forward.iter().flat_map(|set| ["--set", set]).collect();
    let said = expect(train(&dir.path().join("shared"), &args), 2);
    assert!(said.contains("continual.forward_transfer = true needs test images in each"), "{said}");
    std::fs::write(dir.path().join("test.txt"), &lists[1]).expect("a list");
    let (matrix, results) = run(&dir.path().join("forward"), &forward);
    let plain = run(&dir.path().join("plain"), &[&sets[..], &["data.test_per_class=0"]].concat());
    assert_eq!(matrix, plain.0, "the tests ahead change what is learned");
    // After the first task: what a run that ends there answers to the second domain (domains are in the order of their names), less that of a head of zeros, which
    // takes all for the first class, a third of the images.
    let first = dir.path().join("first");
    run(&first, &[&sets[..], &["data.test_per_class=0", "continual.num_tasks=1"]].concat());
    let mut predict = engine();
    predict.args(["predict", "--json", "--workdir"]).arg(&first);
    let second = |class: usize| (8..12).map(move |i| format!("fog_{class}_{i}.png"));
    predict.args((0..3).flat_map(second).map(|name| dir.path().join(name)));
    let said = expect(predict, 0);
    let answers: Vec<serde_json::Value> = said
        .lines()
        .filter(|line| line.starts_with('{'))
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let is_right = |(i, answer): &(usize, &serde_json::Value)| {
        answer["classes"][0]["class"].as_str() == Some(&format!("kind{}", i / 4))
    };
    let right = answers.iter().enumerate().filter(is_right).count();
    let after = results["per_image"]["after_each_task"].as_array().expect("rows");
    let found = after[1]["forward"].as_f64().expect("a number");
    assert_eq!(answers.len(), 12, "{said}");
    assert!((found - (right as f64 / 12.0 - 1.0 / 3.0)).abs() < 1e-12, "{found} with {right} of 12 right");
    assert!(after[0]["forward"].is_null() && after[2]["forward"].is_number(), "{after:?}");
}

/// Prompts that no key chooses: the same answers in batches of any size and on any number of ranks, and with the first
/// prompts for every image the network of a single prompt as long as these.
#[test]
fn controls_of_the_selection_depend_on_seed_and_image_only() {
    let dir = tempfile::tempdir().expect("a folder");
    let few = ["continual.num_tasks=3", "prompt_pool.pull_constraint_coeff=0", "prompt_pool.pool_size=6"];
    let none = ["baselines.ncm=false", "baselines.linear_probe=false", "baselines.naive_head=false"];
    let wanted =
        ["baselines.single_prompt=true", "baselines.random_prompts=true", "baselines.fixed_prompts=true"];
    let (_, results) = run(&dir.path().join("run"), &[&few[..], &none, &wanted].concat());
    let baseline = |name: &str| results["baselines"][name].clone();
    assert_eq!(baseline("fixed_prompts"), baseline("single_prompt"), "the same tokens learn the same");
    assert_ne!(baseline("fixed_prompts"), baseline("random_prompts"));
    let random = [&few[..], &none, &["prompt_pool.selection=random"]].concat();
    let workdir = dir.path().join("random");
    let (_, alone) = run(&workdir, &random);
    assert_eq!(alone["per_image"], baseline("random_prompts"), "the baseline is this run");
    assert_eq!(alone["per_image"], alone["per_batch"], "nothing to vote on");
    for batch in ["1", "7", "64"] {
        let mut eval = engine();
        eval.args(["eval", "--json", "--batch-size", batch, "--workdir"]).arg(&workdir);
        let said = expect(eval, 0);
        let eval: serde_json::Value =
            serde_json::from_str(&said[said.find('{').expect("JSON")..]).expect("JSON");
        assert_eq!(eval["per_image"], alone["per_image"], "batches of {batch}");
    }
    // Every prompt is taken, and by about as many images.
    let log = std::fs::read_to_string(workdir.join("log.jsonl")).expect("a log");
    let last = log.lines().rfind(|line| line.contains(r#""event":"task""#)).expect("a task");
    let last: serde_json::Value = serde_json::from_str(last).expect("JSON");
    let usage: Vec<Vec<u64>> = serde_json::from_value(last["prompt_usage"].clone()).expect("counts");
    let each: Vec<u64> = (0..6).map(|prompt| usage.iter().map(|task| task[prompt]).sum()).collect();
    assert!(each.iter().all(|n| *n > 0) && each.iter().sum::<u64>() == 2 * 36, "{each:?}");
}

/// What results, tables and events of one run say of classes and tasks agrees.
#[test]
fn metrics_of_a_run_agree_with_its_answers() {
    let dir = tempfile::tempdir().expect("a folder");
    let workdir = dir.path().join("run");
    // Tasks of three, two and one classes, whose test sets differ in size.
    let sets = ["continual.num_tasks=3", "continual.num_classes_per_task=[3,2,1]", "data.test_per_class=9"];
    let (matrix, results) = run(&workdir, &sets);
    let images = [27.0, 18.0, 9.0];
    let number = |v: &serde_json::Value| v.as_f64().expect("a number");
    let close = |found: &serde_json::Value, wanted: f64, what: &str| {
        assert!((number(found) - wanted).abs() < 1e-12, "{what}: {found} for {wanted}");
    };
    let classes = results["classes"].as_array().expect("classes");
    let tasks: Vec<Option<u64>> = classes.iter().map(|class| class["task"].as_u64()).collect();
    let none = [None; 4];
    assert_eq!(tasks, [&[Some(0), Some(0), Some(0), Some(1), Some(1), Some(2)][..], &none].concat());
    let baselines = ["ncm", "linear_probe", "naive_head"].map(|name| &results["baselines"][name]);
    for score in [&results["per_image"], &results["per_batch"]].into_iter().chain(baselines) {
        let last: Vec<f64> =
            score["accuracy_matrix"][2].as_array().expect("a row").iter().map(number).collect();
        let right: f64 = last.iter().zip(images).map(|(a, n)| a * n).sum();
        close(&score["seen_acc"], right / 54.0, "seen_acc");
        let of_class: Vec<f64> =
            score["class_accuracy"].as_array().expect("classes").iter().filter_map(|v| v.as_f64()).collect();
        assert_eq!(of_class.len(), 6, "{score}");
        close(&score["macro_acc"], of_class.iter().sum::<f64>() / 6.0, "macro_acc");
        // All classes have nine test images.
        close(&score["macro_acc"], number(&score["seen_acc"]), "macro_acc");
        close(&score["base_acc"], last[0], "base_acc");
        let each: Vec<f64> = score["after_each_task"]
            .as_array()
            .expect("rows")
            .iter()
            .map(|m| number(&m["seen_acc"]))
            .collect();
        close(&score["incremental_acc"], each.iter().sum::<f64>() / 3.0, "incremental_acc");
        let confusion = score["task_confusion"].as_array().expect("a table");
        for (i, row) in confusion.iter().enumerate() {
            let row: Vec<f64> = row.as_array().expect("a row").iter().map(number).collect();
            // Three tasks, and the classes that none of them has.
            assert_eq!((row.len(), row.iter().sum::<f64>()), (4, images[i]), "{row:?}");
            assert!(row[i] >= last[i] * images[i] - 1e-9, "{row:?}: right answers are of the right task");
        }
    }
    assert_eq!(matrix[2].len(), 3);
    let csv = std::fs::read_to_string(workdir.join("metrics.csv")).expect("a table");
    let wanted = format!("per_image,3,{},", number(&results["per_image"]["avg_acc"]));
    assert!(csv.lines().any(|line| line.starts_with(&wanted)), "no `{wanted}` in {csv}");
    assert!(csv.contains("\nnearest class mean,3,"), "{csv}");
    let events = std::fs::read_dir(&workdir).expect("a folder").map(|e| e.expect("an entry").path());
    let events = events.filter(|path| path.to_string_lossy().contains("tfevents"));
    let events: Vec<u8> = events.flat_map(|path| std::fs::read(path).expect("events")).collect();
    for tag in ["l2p_engine/incremental_acc", "l2p_engine/per_batch/macro_acc", "forgetting"] {
        assert!(events.windows(tag.len()).any(|part| part == tag.as_bytes()), "no {tag}");
    }
    let page = dir.path().join("page.html");
    let mut report = engine();
    report.args(["report", "--workdir"]).arg(&workdir).arg("--out").arg(&page);
    expect(report, 0);
    let page = std::fs::read_to_string(page).expect("a page");
    for word in
        ["All metrics", "average incremental accuracy", "Accuracy of each class", "Confusion between tasks"]
    {
        assert!(page.contains(word), "no `{word}` on the page");
    }
}

/// What was learned of domains is read back by `eval`, with the accuracies of the run, and by `predict`.
#[test]
fn methods_of_domains_answer_after_their_run() {
    let dir = tempfile::tempdir().expect("a folder");
    let lists = domains_of_a_list(dir.path());
    for (name, list) in ["train.txt", "test.txt"].into_iter().zip(&lists) {
        std::fs::write(dir.path().join(name), list).expect("a list");
    }
    let data = format!("data.dir={}", dir.path().display());
    let cache = format!("data.cache_dir={}", dir.path().join("cache").display());
    for method in ["s_prompts", "ewc", "lwf"] {
        let workdir = dir.path().join(method);
        let word = format!("method={method}");
        let sets = [&DOMAINS[..], &[&data, &cache, &word, "baselines.linear_probe=false"]].concat();
        let (matrix, _) = run(&workdir, &sets);
        assert_eq!(matrix.iter().map(Vec::len).collect::<Vec<_>>(), [1, 2, 3], "{method}");
        let mut eval = engine();
        eval.args(["eval", "--json", "--batch-size", "5", "--workdir"]).arg(&workdir);
        let said = expect(eval, 0);
        let eval: serde_json::Value =
            serde_json::from_str(&said[said.find('{').expect("JSON")..]).expect("JSON");
        let last: Vec<f64> = matrix[2].clone();
        let mean = last.iter().sum::<f64>() / last.len() as f64;
        let again = eval["per_image"]["avg_acc"].as_f64().expect("a number");
        assert!((again - mean).abs() < 1e-12, "{method}: {again}, {mean} in the run");
        let mut predict = engine();
        predict.args(["predict", "--json", "--workdir"]).arg(&workdir).arg(dir.path().join("fog_1_9.png"));
        let said = expect(predict, 0);
        let answer: serde_json::Value = serde_json::from_str(said.trim()).expect("JSON");
        assert_eq!(answer["classes"].as_array().map(Vec::len), Some(3), "{method}: {said}");
    }
}

/// In a folder with nothing in it: what every shipped benchmark will do.
#[test]
fn benchmarks_are_planned_without_images_and_weights() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs");
    let plan = |name: &str, more: &[&str]| {
        let dir = tempfile::tempdir().expect("a folder");
        let mut command = engine();
        command.args(["train", "--dry-run", "--config"]).arg(root.join(format!("{name}.toml")));
        command.args(more).current_dir(dir.path());
        let said = expect(command, 0);
        assert_eq!(std::fs::read_dir(dir.path()).expect("a folder").count(), 0, "{name} left files");
        for word in ["images were not read", "ViT-B/16", "learning rate 0.0", "total", "PFLOP", "about "] {
            assert!(said.contains(word), "{name}: no `{word}` in {said}");
        }
        said
    };
    for (name, wanted) in [
        ("cifar100_l2p", "1950 steps of 128 images, learning rate 0.015,"),
        ("five_datasets_l2p", "10075 steps of 128 images, learning rate 0.015,"),
        ("core50_l2p", "4680 steps of 128 images, learning rate 0.015,"),
        ("cifar100_gaussian_l2p", "and 180 more tasks"),
        ("cifar100_dualprompt", "1300 steps of 192 images, learning rate 0.0225,"),
        ("imr_dualprompt", "6000 steps of 192 images, learning rate 0.00375,"),
        ("cifar100_coda", "7800 steps of 128 images, learning rate 0.001,"),
        ("core50_s_prompts", "18720 steps of 128 images, learning rate 0.01,"),
        ("cifar100_ranpac", "400 steps of 128 images, learning rate 0.015,"),
        ("cifar100_b50_inc10_l2p", "15610 steps of 16 images, learning rate 0.001875,"),
        ("cifar100_b50_inc10_coda", "7800 steps of 128 images, learning rate 0.001,"),
        ("cifar100_few_shot_l2p", "1210 steps of 128 images, learning rate 0.015,"),
    ] {
        let said = plan(name, &[]);
        assert!(said.contains(wanted), "{name}: no `{wanted}` in {said}");
    }
    // Query, forward and backward pass of 197 tokens with 4 prefixed rows in five layers, and 3 x 5 (4 + 2 x 8) 100 x 768
    // for the components, computed by hand.
    let coda = plan("cifar100_coda", &[]);
    assert!(coda.contains("per training image 106.64 GFLOP"), "{coda}");
    // 17.6 billion products and sums forward, as every table of ViT-B/16 has it, twice that counted one by one.
    let said = plan("cifar100_l2p", &["--set", "prompt_pool.length=1", "--set", "prompt_pool.top_k=1"]);
    assert!(said.contains("and once 35.1"), "{said}");
}

/// Folders `train/` and `test/` as PILOT lays them out: what each shipped file of such a set will do.
#[test]
fn benchmarks_of_folders_are_planned_on_such_folders() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs");
    for (name, classes, wanted) in [
        ("vtab_ranpac", 50, "5 tasks of 10 classes (names)"),
        ("imagenet_a_ranpac", 200, "10 tasks of 20 classes (numpy:1993)"),
        ("objectnet_ncm", 200, "10 tasks of 20 classes (numpy:1993)"),
        ("omnibenchmark_ranpac", 300, "10 tasks of 30 classes (numpy:1993)"),
        ("imagenet_a_l2p", 200, "10 tasks of 20 classes (numpy:1993)"),
        ("imagenet_a_coda", 200, "10 tasks of 20 classes (names)"),
        ("objectnet_l2p", 200, "10 tasks of 20 classes (numpy:1993)"),
        ("objectnet_coda", 200, "10 tasks of 20 classes (names)"),
        ("omnibenchmark_l2p", 300, "10 tasks of 30 classes (numpy:1993)"),
        ("omnibenchmark_coda", 300, "10 tasks of 30 classes (names)"),
        ("vtab_l2p", 50, "5 tasks of 10 classes (numpy:1993)"),
        ("vtab_coda", 50, "5 tasks of 10 classes (names)"),
    ] {
        let dir = tempfile::tempdir().expect("a folder");
        for (part, shade) in [("train", 0), ("test", 100)] {
            for class in 0..classes {
                let folder = dir.path().join(format!("data/{part}/class{class}"));
                std::fs::create_dir_all(&folder).expect("a folder");
                let pixel = |x: u32, y: u32| image::Luma([(class + 3 * x + 5 * y + shade) as u8]);
                image::GrayImage::from_fn(3, 2, pixel).save(folder.join("a.png")).expect("a picture");
            }
        }
        let mut command = engine();
        command.args(["train", "--dry-run", "--config"]).arg(root.join(format!("{name}.toml")));
        command.arg("--data-dir").arg(dir.path().join("data")).current_dir(dir.path());
        command.arg("--set").arg(format!("data.cache_dir={}", dir.path().join("cache").display()));
        let said = expect(command, 0);
        let images = format!("{classes} training and {classes} test images, {wanted}");
        assert!(said.contains(&images), "{name}: no `{images}` in {said}");
    }
}

/// Tasks of few images: what is reported of the first task and of the later ones.
#[test]
fn few_shot_tasks_report_base_and_novel_classes() {
    let dir = tempfile::tempdir().expect("a folder");
    let sets = [
        "continual.num_tasks=3",
        "continual.num_classes_per_task=[6,2,2]",
        "continual.shots=5",
        "method=ncm",
    ];
    let (matrix, results) = run(&dir.path().join("run"), &sets);
    let own = &results["per_image"];
    let number = |key: &str| own[key].as_f64().unwrap_or_else(|| panic!("{key} in {own}"));
    // The later tasks have test sets of one size.
    let (base, novel) = (matrix[2][0], (matrix[2][1] + matrix[2][2]) / 2.0);
    assert!(
        (number("base_acc") - base).abs() < 1e-12 && (number("novel_acc") - novel).abs() < 1e-12,
        "{own}"
    );
    let wanted = 2.0 * base * novel / (base + novel);
    assert!((number("harmonic_acc") - wanted).abs() < 1e-12, "{own}");
    // Class means of five images each.
    let (bytes, ..) = outcome(&dir.path().join("run"));
    let file = safetensors::SafeTensors::deserialize(&bytes).expect("a checkpoint");
    let counts = file.tensor("class counts").expect("counts").data().to_vec();
    let counts = counts.chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().expect("eight bytes")));
    let each = small("data.train_per_class") as f64;
    assert_eq!(counts.collect::<Vec<_>>(), [&[each; 6][..], &[5.0; 4]].concat());
}

/// A loss that stays where guessing is, is said once a task with what decides about it; one that falls is not.
#[test]
fn a_run_that_does_not_learn_says_so() {
    let dir = tempfile::tempdir().expect("a folder");
    let said = |rate: &str| -> String {
        let sets = [
            "data.train_per_class=64",
            "train.num_epochs=5",
            "continual.num_tasks=2",
            "baselines.ncm=false",
            "baselines.linear_probe=false",
            "baselines.naive_head=false",
            rate,
        ];
        let args: Vec<&str> = sets.iter().flat_map(|set| ["--set", set]).collect();
        let output = train(&dir.path().join(rate), &args).output().expect("the program starts");
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        stderr(&output)
    };
    // Forty steps of 16 images for each task of two classes.
    let stuck = said("optim.learning_rate=1e-7");
    for task in ["task 1", "task 2"] {
        let line = stuck.lines().find(|line| line.contains("guessing") && line.contains(task));
        let line = line.unwrap_or_else(|| panic!("nothing about {task} in {stuck}"));
        for word in
            ["guessing among 2 classes 0.693", "optim.learning_rate = 0.0000001", "features of length"]
        {
            assert!(line.contains(word), "no `{word}` in {line}");
        }
    }
    assert_eq!(stuck.matches("guessing").count(), 2, "{stuck}");
    assert!(!said("optim.learning_rate=0.05").contains("guessing"));
}

/// A head that starts at random answers with classes that it was never trained for, unless they are left out.
#[test]
fn classes_that_were_not_learned_are_answers_unless_they_are_left_out() {
    let dir = tempfile::tempdir().expect("a folder");
    let answers = |name: &str, seen: &str| {
        let sets = [
            "method=coda_prompt",
            "coda.components=2",
            "coda.layers=[0]",
            "optim.learning_rate=1e-9",
            "continual.num_tasks=2",
            "data.train_per_class=20",
            seen,
        ];
        let (_, results) = run(&dir.path().join(name), &sets);
        let rows = results["per_image"]["task_confusion"].as_array().expect("a table").clone();
        let row = |row: &serde_json::Value| -> Vec<u64> {
            row.as_array().expect("a row").iter().map(|n| n.as_u64().expect("a count")).collect()
        };
        rows.iter().map(row).collect::<Vec<_>>()
    };
    let all = answers("all", "continual.eval_seen_classes=false");
    let seen = answers("seen", "continual.eval_seen_classes=true");
    // Two tasks, and a column for the classes of none.
    assert!(all.iter().chain(&seen).all(|row| row.len() == 3), "{all:?}, {seen:?}");
    assert!(all.iter().any(|row| row[2] > 0), "{all:?}");
    assert!(seen.iter().all(|row| row[2] == 0), "{seen:?}");
    let images = |rows: &[Vec<u64>]| rows.iter().map(|row| row.iter().sum::<u64>()).collect::<Vec<_>>();
    assert_eq!(images(&all), images(&seen));
}
