//! The command line as a user meets it: exit codes, sentences, files.

#[path = "../common/mod.rs"]
mod common;
mod reproduce;

use approx::abs_diff_eq;
use common::process::{SMALL, engine, expect, small, stderr, stdout, train};
use std::path::{Path, PathBuf};
use std::process::Command;

fn with(args: &[&str]) -> Command {
    let mut command = engine();
    command.args(args);
    command
}

fn path(p: &Path) -> &str {
    p.to_str().expect("a UTF-8 path")
}

/// A finished small run in a folder that lives as long as the returned guard.
fn finished(more: &[&str]) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a folder");
    let workdir = dir.path().join("run");
    expect(train(&workdir, more), 0);
    (dir, workdir)
}

#[test]
fn help_and_version() {
    for args in [
        &["--help"][..],
        &["--version"],
        &["train", "--help"],
        &["eval", "--help"],
        &["predict", "--help"],
        &["inspect", "--help"],
        &["devices", "--help"],
        &["leakcheck", "--help"],
        &["report", "--help"],
        &["pretrain", "--help"],
    ] {
        assert!(!expect(with(args), 0).is_empty());
    }
}

#[test]
fn usage_errors_exit_2_and_name_the_thing() {
    for (args, named) in [
        (&["trian"][..], "train"),
        (&["train", "--sed", "1"], "--sed"),
        (&["train", "--seed", "many"], "many"),
        (&["train", "--seeds", "4..many"], "many"),
        (&["train", "--seeds", "4..4"], "from 1 to"),
        (&["train", "--seeds", "1,2,1"], "twice"),
        (&["train", "--seeds", "0..9223372036854775807"], "from 1 to"),
        (&["train", "--seeds", "0..3", "--seed", "1"], "--seed"),
        (&["train", "--set", "published=[\"Wang et al.\"]"], "SOURCE"),
        (&["report"], "--workdir"),
        (&["leakcheck", "--shuffles", "0"], "--shuffles"),
        (&["train", "--set", "prompt_pool.lenght=5"], "prompt_pool.length"),
        (&["train", "--set", "prompt_pool.length=\"five\""], "length"),
        (&["train", "--set", "prompt_pool.length"], "="),
        (&["train", "--set", "prompt_pool.top_k=11"], "top_k"),
        (&["train", "--set", "prompt_pool.e_prompt_layer_idx=[99]"], "e_prompt_layer_idx"),
        (&["train", "--set", "model.temperature=nan"], "temperature"),
        (&["train", "--set", "method=l3p"], "l2p"),
        (&["train", "--set", "train.shortcuts=[\"fly\"]"], "limit_last_block"),
        (&["train", "--set", "model.init_checkpoint=bundled:huge"], "bundled:micro"),
        (&["train", "--set", "continual.num_tasks=6"], "30 classes"),
        (&["train", "--set", "continual.class_order=nowhere.txt"], "nowhere.txt"),
        (
            &["train", "--set", "train.per_device_batch_size=60000", "--set", "data.partial_batch=false"],
            "60000",
        ),
        (&["train", "--device", "tpu"], "tpu"),
        (&["predict"], "IMAGE"),
        (&["pretrain", "--set", "pretrain.learning_blocks=1"], "--init-checkpoint"),
        (
            &["pretrain", "--init-checkpoint", "bundled:micro", "--set", "pretrain.learning_blocks=9"],
            "pretrain.learning_blocks must be at most",
        ),
    ] {
        let dir = tempfile::tempdir().expect("a folder");
        let mut command = with(args);
        command.current_dir(dir.path());
        let said = expect(command, 2);
        assert!(said.contains(named), "{args:?} does not name `{named}`: {said}");
        let left: Vec<_> = walk(dir.path()).into_iter().filter(|p| p.ends_with("results.json")).collect();
        assert!(left.is_empty(), "{args:?} left {left:?}");
    }
}

fn walk(dir: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(dir).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() { all.extend(walk(&path)) } else { all.push(path) }
    }
    all
}

#[test]
fn missing_and_bad_files_exit_1() {
    let dir = tempfile::tempdir().expect("a folder");
    let garbage = dir.path().join("garbage.npz");
    std::fs::write(&garbage, b"PK\x03\x04 this is no archive").expect("a file");
    let empty = dir.path().join("empty.safetensors");
    std::fs::write(&empty, b"").expect("a file");
    let work = dir.path().join("work");
    for (args, named) in [
        (vec!["train", "--config", "no.toml"], "no.toml"),
        (vec!["train", "--init-checkpoint", "no.npz"], "no.npz"),
        (vec!["train", "--init-checkpoint", path(&garbage)], "garbage.npz"),
        (vec!["train", "--init-checkpoint", path(&empty)], "empty.safetensors"),
        (vec!["train", "--workdir", path(&garbage)], "garbage.npz"),
        (vec!["train", "--set", "data.dataset=cifar100", "--data-dir", path(dir.path())], "cifar-100"),
        (vec!["train", "--device", "cuda"], "cuda"),
        (vec!["eval", "--workdir", "nowhere"], "nowhere"),
        (vec!["predict", "--workdir", "nowhere", "a.png"], "nowhere"),
        (vec!["leakcheck", "--workdir", "nowhere"], "nowhere"),
        (vec!["report", "--workdir", "nowhere"], "nowhere"),
        (vec!["report", "--workdir", path(dir.path())], "seeds.json"),
        (vec!["inspect", "nowhere.npz"], "nowhere.npz"),
        (vec!["inspect", path(&garbage)], "garbage.npz"),
        (vec!["inspect", path(dir.path())], "garbage.npz"),
    ] {
        let mut command = with(&args);
        command.current_dir(dir.path());
        if args[0] == "train" && !args.contains(&"--workdir") {
            command.args(["--workdir", path(&work)]);
        }
        let said = expect(command, 1);
        assert!(said.contains(named), "{args:?} does not name `{named}`: {said}");
    }
    let half_written: Vec<_> = walk(dir.path())
        .into_iter()
        .filter(|p| p.file_name().is_some_and(|n| path(Path::new(n)).contains(".tmp")))
        .collect();
    assert!(half_written.is_empty(), "{half_written:?}");
}

#[test]
fn a_configuration_prints_and_reads_back() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("c.toml");
    let text = expect(with(&["train", "--print-config", "--quiet", "--set", "prompt_pool.length=3"]), 0);
    std::fs::write(&file, &text).expect("a file");
    assert_eq!(text, expect(with(&["train", "--print-config", "--quiet", "--config", path(&file)]), 0));
    assert!(text.contains("length = 3"));
}

#[test]
fn shipped_configurations_are_valid() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for entry in std::fs::read_dir(root.join("configs")).expect("configs") {
        let file = entry.expect("an entry").path();
        if file.is_file() {
            expect(with(&["train", "--print-config", "--config", path(&file)]), 0);
        }
    }
}

/// A published configuration needs neither its images nor its backbone, nor the GPU that it is planned for.
#[test]
fn a_dry_run_plans_for_a_gpu_that_is_not_there() {
    let dir = tempfile::tempdir().expect("a folder");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let plan = |more: &[&str], code: i32| {
        let mut command = with(&["train", "--dry-run", "--config"]);
        command.arg(root.join("configs/cifar100_l2p.toml")).args(more).current_dir(dir.path());
        expect(command, code)
    };
    let total = |said: &str| -> f64 {
        let row = said.lines().find(|line| line.contains("total")).expect("the total of the memory");
        row.split(['|', '│', '┆']).filter_map(|cell| cell.trim().parse().ok()).next_back().expect("a number")
    };
    let (cpu, h200) = (plan(&["--device", "cpu"], 0), plan(&["--gpu", "h200", "--device", "cuda"], 0));
    // 16 bits, no packed weights; but a copy of the weights in 16 bits.
    assert!(total(&h200) < 0.8 * total(&cpu), "{h200}\n{cpu}");
    for word in ["GB of memory of h200", "nothing was measured on a GPU", "395600 to 98900 GFLOP/s"] {
        assert!(h200.contains(word), "no `{word}` in {h200}");
    }
    assert!(plan(&["--gpu", "h200", "--device", "cuda:0,1"], 0).contains("791200 to 197800 GFLOP/s"));
    let whole = ["--gpu", "12GB", "--set", "train.eval_batch_size=4096", "--set", "train.micro_batch=128"];
    let small = plan(&whole, 1);
    assert!(small.contains("a GPU has 11.40 GB free") && small.contains("train.eval_batch_size"), "{small}");
    // Unless steps must be whole, smaller test batches and then smaller parts of steps make it fit.
    let fits = plan(&whole[..4], 0);
    assert!(!fits.contains("parts of") && total(&fits) * 1.048_576e-3 < 11.4, "{fits}");
    let divided = plan(&["--gpu", "4GB"], 0);
    assert!(divided.contains("parts of") && total(&divided) * 1.048_576e-3 < 3.4, "{divided}");
    assert!(plan(&["--gpu", "12GB"], 0).contains("the rate of this GPU is not known"));
    let unknown = plan(&["--gpu", "voodoo2"], 2);
    assert!(unknown.contains("rtx4090") && unknown.contains("found `voodoo2`"), "{unknown}");
    // A run that fits, with a baseline beside it that does not.
    let close = plan(&["--gpu", "7GB", "--set", "baselines.single_prompt=true"], 1);
    assert!(close.contains("baselines.single_prompt") && close.contains("has 6.40 GB free"), "{close}");
    assert!(plan(&["--gpu", "7GB", "--set", "baselines.single_prompt=false"], 0).contains("of 6.40 GB"));
    // A step of one image reads the weights for it alone: slower than its products are.
    let hours = |more: &[&str]| -> String {
        let said = plan(more, 0);
        said.lines().find(|line| line.starts_with("about ")).expect("a time").to_string()
    };
    let one = ["--gpu", "l40s", "--set", "train.per_device_batch_size=1"];
    assert_ne!(hours(&one), hours(&["--gpu", "l40s"]));
    for device in ["cpu", "cuda:all"] {
        assert!(plan(&["--gpu", "h200", "--device", device], 2).contains("with --gpu, wanted"), "{device}");
    }
    expect(with(&["train", "--gpu", "h200"]), 2);
}

#[test]
fn a_dry_run_plans_and_writes_nothing() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut command = with(&["train", "--dry-run"]);
    command.current_dir(dir.path());
    let said = expect(command, 0);
    for word in
        ["task 4", "steps", "learning rate", "MiB", "total", "evaluation batches of", "with them: work at"]
    {
        assert!(said.contains(word), "no `{word}` in {said}");
    }
    assert!(walk(dir.path()).is_empty());
}

#[test]
fn a_run_leaves_what_is_promised_and_eval_agrees_for_any_batch() {
    let (_dir, workdir) = finished(&["--set", "baselines.single_prompt=true"]);
    let text = std::fs::read_to_string(workdir.join("results.json")).expect("results.json");
    let results: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    for key in [
        "per_image",
        "per_batch",
        "baselines",
        "images_per_second",
        "seconds",
        "device",
        "seed",
        "config_hash",
        "checkpoint_sha256",
        "engine_version",
    ] {
        assert!(!results[key].is_null(), "results.json has no `{key}`");
    }
    for selection in ["per_image", "per_batch"] {
        for key in ["accuracy_matrix", "avg_acc", "forgetting", "backward", "learning_acc"] {
            assert!(!results[selection][key].is_null(), "results.json has no `{selection}.{key}`");
        }
        assert_eq!(results[selection]["accuracy_matrix"].as_array().expect("rows").len(), 5);
    }
    for baseline in ["ncm", "linear_probe", "naive_head", "single_prompt"] {
        assert!(results["baselines"][baseline]["avg_acc"].is_number(), "no baseline `{baseline}`");
    }
    for file in ["config.toml", "accuracy_matrix.csv", "log.jsonl"] {
        assert!(workdir.join(file).is_file(), "no {file}");
    }
    assert!(walk(&workdir).iter().any(|p| path(p).contains("tfevents")), "no TensorBoard events");
    let moved = workdir.with_file_name("moved");
    std::fs::rename(&workdir, &moved).expect("a move");
    for batch in ["1", "7", "64"] {
        let said = expect(with(&["eval", "--json", "--workdir", path(&moved), "--batch-size", batch]), 0);
        let now: serde_json::Value = serde_json::from_str(&said).expect("JSON");
        for selection in ["per_image", "per_batch"] {
            assert_eq!(now[selection], results[selection], "{selection} with batches of {batch}");
        }
    }
    let file = moved.with_file_name("images.csv");
    let said =
        expect(with(&["eval", "--workdir", path(&moved), "--per-class", "--per-image", path(&file)]), 0);
    let text = std::fs::read_to_string(&file).expect("a table");
    let rows: Vec<Vec<&str>> = text.lines().skip(1).map(|line| line.split(',').collect()).collect();
    assert_eq!(text.lines().next(), Some("task,image,label,answer,right,prompts"));
    let each = small("data.test_per_class");
    assert_eq!(rows.len(), 10 * each);
    let last = results["per_image"]["accuracy_matrix"][4].as_array().expect("a row");
    for (task, accuracy) in last.iter().enumerate() {
        let of: Vec<_> = rows.iter().filter(|row| row[0] == (task + 1).to_string()).collect();
        let right = of.iter().filter(|row| row[4] == "true").count();
        assert!(of.iter().all(|row| (row[2] == row[3]) == (row[4] == "true")));
        assert!(of.iter().all(|row| row[5].split(' ').count() == 2), "two prompts each");
        assert_eq!(right as f64 / of.len() as f64, accuracy.as_f64().expect("a number"));
    }
    for class in 0..10 {
        let of = |row: &&Vec<&str>| row[2] == class.to_string();
        let right = rows.iter().filter(of).filter(|row| row[4] == "true").count();
        let line = format!("{class}: {:.2} % ({right} of {each})", 100.0 * right as f64 / each as f64);
        assert!(said.contains(&line), "no `{line}` in {said}");
    }
    let tests = moved.with_file_name("tests");
    std::fs::create_dir_all(tests.join("Test/0")).expect("a folder");
    let said = expect(with(&["eval", "--workdir", path(&moved), "--data-dir", path(&tests)]), 1);
    assert!(said.contains("without training images"), "{said}");
    let said = expect(with(&["inspect", path(&moved)]), 0);
    assert!(said.contains("5 tasks finished"), "{said}");
    // A second start in the same folder is refused, another configuration too.
    assert!(expect(train(&moved, &[]), 2).contains("--resume"));
    let other = expect(train(&moved, &["--resume", "--seed", "7"]), 2);
    assert!(other.contains("seed") && other.contains('7'), "{other}");
}

#[test]
fn predict_names_classes_and_survives_a_broken_image() {
    let (dir, workdir) = finished(&[]);
    let good = dir.path().join("digit.png");
    let image = image::RgbImage::from_fn(40, 30, |x, y| image::Rgb([(x * 6) as u8, (y * 8) as u8, 128]));
    image.save(&good).expect("a PNG");
    let jpeg = dir.path().join("digit.jpg");
    image.save(&jpeg).expect("a JPEG");
    let broken = dir.path().join("broken.png");
    let bytes = std::fs::read(&good).expect("bytes");
    std::fs::write(&broken, &bytes[..bytes.len() / 2]).expect("half a PNG");
    let output =
        with(&["predict", "--json", "--workdir", path(&workdir), path(&good), path(&broken), path(&jpeg)])
            .output()
            .expect("a run");
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("broken.png") && !stderr(&output).contains("panicked"),
        "{}",
        stderr(&output)
    );
    let answers = stdout(&output);
    assert_eq!(answers.lines().count(), 2, "{answers}");
    for line in answers.lines() {
        let answer: serde_json::Value = serde_json::from_str(line).expect("JSON");
        let classes = answer["classes"].as_array().expect("classes");
        assert_eq!(classes.len(), 10);
        let sum: f64 = classes.iter().map(|c| c["probability"].as_f64().expect("a number")).sum();
        assert!(abs_diff_eq!(sum, 1.0, epsilon = 1e-9), "{sum}");
    }
    let said = expect(with(&["predict", "--workdir", path(&workdir), path(&good)]), 0);
    assert!(said.contains("digit.png") && said.contains('%'), "{said}");
}

fn answers(output: &std::process::Output) -> Vec<serde_json::Value> {
    stdout(output).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

/// Folders with all images below them, paths from standard input, and a name that is no UTF-8; the order is that of
/// the command line, and within a folder that of the paths. Any batch size gives the same answers.
#[test]
fn predict_takes_folders_lists_and_any_name() {
    let (dir, workdir) = finished(&["--set", "train.eval_batch_size=3"]);
    let images = dir.path().join("images");
    std::fs::create_dir_all(images.join("a/b")).expect("a folder");
    let mut names: Vec<std::ffi::OsString> =
        ["0.png", "1.PNG", "a/2.jpg", "a/b/3.jpeg"].map(Into::into).to_vec();
    #[cfg(unix)]
    names.push(std::os::unix::ffi::OsStringExt::from_vec(b"caf\xe9.png".to_vec()));
    for (i, name) in names.iter().enumerate() {
        let pixel =
            |x: u32, y: u32| image::Rgb([(x * 6) as u8, (y * 8) as u8 ^ (i as u8 * 50), i as u8 * 40]);
        let format = if name.to_string_lossy().contains("jp") {
            image::ImageFormat::Jpeg
        } else {
            image::ImageFormat::Png
        };
        let image = image::RgbImage::from_fn(30, 28, pixel);
        image.save_with_format(images.join(name), format).expect("an image");
    }
    std::fs::write(images.join("notes.txt"), "no image").expect("a file");
    let output = with(&["predict", "--json", "--workdir", path(&workdir), path(&images)]).output();
    let output = output.expect("a run");
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let all = answers(&output);
    let mut sorted: Vec<PathBuf> = names.iter().map(|name| images.join(name)).collect();
    sorted.sort();
    let said: Vec<&str> = all.iter().map(|answer| answer["image"].as_str().expect("a name")).collect();
    assert_eq!(said, sorted.iter().map(|path| path.to_string_lossy()).collect::<Vec<_>>());
    for (answer, path) in all.iter().zip(&sorted) {
        let hex: String = path.as_os_str().as_encoded_bytes().iter().map(|b| format!("{b:02x}")).collect();
        let bytes = answer.get("image_bytes").and_then(|bytes| bytes.as_str());
        assert_eq!(bytes, path.to_str().is_none().then_some(hex.as_str()));
    }
    // One at a time, from standard input, ended by lines and by zeros.
    for (flag, end) in [(None, b"\n"), (Some("-0"), b"\0")] {
        let list: Vec<u8> =
            sorted.iter().rev().flat_map(|p| [p.as_os_str().as_encoded_bytes(), end].concat()).collect();
        let mut child = with(&["predict", "--json", "--workdir", path(&workdir)])
            .args(flag)
            .arg("-")
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .expect("a start");
        std::io::Write::write_all(&mut child.stdin.take().expect("a pipe"), &list).expect("paths");
        let output = child.wait_with_output().expect("an end");
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        assert_eq!(answers(&output), all.iter().rev().cloned().collect::<Vec<_>>());
    }
    let mut one = with(&["predict", "--json", "--workdir", path(&workdir)]);
    let output = one.arg(&sorted[4]).output().expect("a run");
    assert_eq!(answers(&output), all[4..]);
    std::fs::create_dir(dir.path().join("empty")).expect("a folder");
    let said = expect(with(&["predict", "--workdir", path(&workdir), path(&dir.path().join("empty"))]), 1);
    assert!(said.contains("holds no image file"), "{said}");
    // An image instead of paths, an address instead of a file.
    let mut image_given = with(&["predict", "--workdir", path(&workdir), "-"]);
    image_given.stdin(std::fs::File::open(&sorted[4]).expect("an image"));
    let said = expect(image_given, 1);
    assert!(said.contains("found a PNG image: save it and give its path"), "{said}");
    let said = expect(with(&["predict", "--workdir", path(&workdir), "https://example.invalid/x.png"]), 1);
    assert!(said.contains("https://example.invalid/x.png: nothing is downloaded"), "{said}");
}

/// Peak of resident memory of the command in bytes.
#[cfg(target_os = "linux")]
fn peak(mut command: Command) -> f64 {
    use std::io::Read;
    let mut child = command.stdout(std::process::Stdio::piped()).spawn().expect("a start");
    let mut stdout = child.stdout.take().expect("a pipe");
    let (mut peak, mut said) = (0.0f64, String::new());
    let status = format!("/proc/{}/status", child.id());
    while child.try_wait().expect("a child").is_none() {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kb = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok());
        peak = peak.max(1024.0 * kb.unwrap_or(0.0));
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    stdout.read_to_string(&mut said).expect("an answer");
    assert!(said.contains('%'), "no answer: {said}");
    peak
}

/// One image on a backbone of 86 MB takes little more memory than its weights: they are there once, and nothing is
/// planned for training. On ViT-B/16 the peak was 1.28 times the weights.
#[cfg(target_os = "linux")]
#[test]
fn predict_holds_the_weights_once() {
    let dir = tempfile::tempdir().expect("a folder");
    let backbone = dir.path().join("wide.safetensors");
    let sets = |command: &mut Command, sets: &[&str]| {
        sets.iter().for_each(|set| {
            command.args(["--set", set]);
        });
    };
    let mut pretrain = with(&["pretrain", "--quiet", "--workdir", path(&dir.path().join("pretrain"))]);
    pretrain.args(["--out", path(&backbone)]);
    sets(
        &mut pretrain,
        &[
            "data.train_per_class=1",
            "data.test_per_class=1",
            "train.per_device_batch_size=2",
            "train.num_epochs=1",
            "pretrain.embed_dim=768",
            "pretrain.heads=12",
            "pretrain.mlp_dim=3072",
            "pretrain.layers=3",
            "pretrain.patch_size=14",
        ],
    );
    expect(pretrain, 0);
    let weights = std::fs::metadata(&backbone).expect("a backbone").len() as f64;
    assert!(weights > 80e6, "{weights}");
    let workdir = dir.path().join("run");
    let mut train = train(&workdir, &["--init-checkpoint", path(&backbone)]);
    sets(
        &mut train,
        &[
            "data.train_per_class=2",
            "data.test_per_class=1",
            "train.per_device_batch_size=4",
            "train.num_epochs=1",
        ],
    );
    sets(&mut train, &["baselines.ncm=false", "baselines.linear_probe=false", "baselines.naive_head=false"]);
    sets(&mut train, &["baselines.single_prompt=false", "prompt_pool.vote_group=4"]);
    expect(train, 0);
    let image = dir.path().join("image.png");
    image::RgbImage::from_pixel(28, 28, image::Rgb([9, 200, 90])).save(&image).expect("a PNG");
    let measured = peak(with(&["predict", "--workdir", path(&workdir), path(&image)]));
    // What comes on top does not grow with the depth: the program, one group of tensors on its way, the activations of
    // one image. On ViT-B/16, whose weights are 343 MB, 120 MB are 0.35 of them.
    let bound = weights + 120e6;
    println!("{measured} bytes for {weights} bytes of weights");
    assert!(measured < bound, "{measured} bytes for {weights} bytes of weights, wanted below {bound}");
}

#[test]
fn an_absurd_learning_rate_ends_with_a_sentence() {
    let dir = tempfile::tempdir().expect("a folder");
    let more = [
        "--set",
        "method=finetune",
        "--set",
        "optim.optim=sgd",
        "--set",
        "optim.learning_rate=1e30",
        "--set",
        "optim.grad_clip_max_norm=0.0",
    ];
    let said = expect(train(&dir.path().join("run"), &more), 1);
    assert!(said.contains("learning_rate"), "{said}");
}

#[test]
fn two_runs_in_one_folder_are_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let workdir = dir.path().join("run");
    let mut first = train(&workdir, &["--set", "data.train_per_class=400"]).spawn().expect("a start");
    while !workdir.join("config.toml").exists() {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let said = expect(train(&workdir, &["--resume", "--set", "data.train_per_class=400"]), 1);
    first.kill().expect("a kill");
    first.wait().expect("an end");
    assert!(said.contains("running"), "{said}");
}

#[test]
fn a_closed_pipe_is_no_panic() {
    let mut child = with(&["train", "--print-config"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("a start");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("an end");
    assert!(!stderr(&output).contains("panicked"), "{}", stderr(&output));
}

#[test]
fn a_closed_stderr_loses_nothing() {
    let dir = tempfile::tempdir().expect("a folder");
    let workdir = dir.path().join("run");
    let plain = train(&workdir, &[]);
    let mut closed = Command::new("sh");
    closed.args(["-c", "exec \"$0\" \"$@\" 2>&-"]).arg(plain.get_program()).args(plain.get_args());
    assert_eq!(closed.output().expect("a start").status.code(), Some(0));
    assert!(workdir.join("results.json").is_file());
}

#[test]
fn runs_without_a_workdir_get_folders_of_their_own() {
    let dir = tempfile::tempdir().expect("a folder");
    for folder in ["runs/default", "runs/default-2"] {
        let mut command = with(&["train", "--quiet"]);
        common::process::SMALL.iter().for_each(|set| {
            command.args(["--set", set]);
        });
        command.current_dir(dir.path());
        expect(command, 0);
        assert!(dir.path().join(folder).join("results.json").is_file(), "{folder}");
    }
}

/// Of jobs that start at the same instant each gets a folder; one that fails leaves none.
#[test]
fn jobs_started_together_get_folders_of_their_own() {
    let dir = tempfile::tempdir().expect("a folder");
    let job = |more: &[&str]| {
        let mut command = with(&["train", "--quiet", "--set", "train.num_epochs=1"]);
        common::process::SMALL.iter().filter(|set| !set.contains("num_epochs")).for_each(|set| {
            command.args(["--set", set]);
        });
        command.args(more).current_dir(dir.path());
        command
    };
    let jobs: Vec<_> = (0..3).map(|_| job(&[]).spawn().expect("a start")).collect();
    for mut job in jobs {
        assert_eq!(job.wait().expect("an end").code(), Some(0));
    }
    for folder in ["runs/default", "runs/default-2", "runs/default-3"] {
        assert!(dir.path().join(folder).join("results.json").is_file(), "{folder}");
    }
    expect(job(&["--init-checkpoint", "no.npz"]), 1);
    assert!(!dir.path().join("runs/default-4").exists());
}

/// Where every image chooses the same prompts no vote can change anything, and that is said.
#[test]
fn leakcheck_says_why_all_rows_are_equal() {
    let (_dir, workdir) = finished(&["--set", "prompt_pool.pool_size=2", "--set", "train.num_epochs=1"]);
    let said = expect(with(&["leakcheck", "--workdir", path(&workdir), "--shuffles", "1"]), 0);
    assert!(said.contains("every image chose the same prompts"), "{said}");
}

/// Values that are valid and end like a success get a warning with both values.
#[test]
fn traps_are_pointed_out() {
    for (sets, named) in [
        (&["data.resize_size=128"][..], &["data.resize_size = 128", "data.input_size = 28", "22 %"][..]),
        (
            &["model.gelu=erf", "model.input_norm=imagenet"],
            &["model.gelu = \"erf\"", "tanh", "model.input_norm"],
        ),
        (&["method=dualprompt"], &["g_prompt.g_prompt_length = 0", "no general prompt"]),
    ] {
        let mut command = with(&["train", "--dry-run"]);
        sets.iter().for_each(|set| {
            command.args(["--set", set]);
        });
        let said = expect(command, 0);
        let named = [&["warning: "], named].concat();
        assert!(named.iter().all(|word| said.contains(word)), "{sets:?}: {said}");
    }
    assert!(!expect(with(&["train", "--dry-run"]), 0).contains("warning: "));
}

#[test]
fn a_full_disk_is_a_sentence_and_loses_nothing() {
    let dir = tempfile::tempdir().expect("a folder");
    let small = dir.path().join("small");
    std::fs::create_dir(&small).expect("a folder");
    let mount = Command::new("mount").args(["-t", "tmpfs", "-o", "size=700k", "none", path(&small)]).status();
    if !mount.is_ok_and(|s| s.success()) {
        println!("skipped: a full disk (a small file system cannot be mounted here)");
        return;
    }
    let workdir = small.join("run");
    let output =
        train(&workdir, &["--set", "train.checkpoint_every_steps=1", "--set", "prompt_pool.length=60"])
            .output()
            .expect("a run");
    let said = stderr(&output);
    let manifests = workdir.join("checkpoints").read_dir().map(|d| d.count()).unwrap_or(0);
    Command::new("umount").arg(&small).status().expect("umount");
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(!said.contains("panicked") && (said.contains("full") || said.contains("space")), "{said}");
    println!("{manifests} checkpoint files were left");
}

#[test]
fn arbitrary_arguments_never_panic() {
    use l2p_engine::rng::{Rng, Stream};
    let words = [
        "train",
        "eval",
        "predict",
        "inspect",
        "--set",
        "--config",
        "--workdir",
        "=",
        "a.b=c",
        "seed=1e99",
        "data=1",
        "--resume",
        "",
        "\u{fffd}",
        "[",
        "method=[]",
        "--quiet",
        "--json",
        "/dev/null",
        "/",
        "--print-config",
    ];
    let dir = tempfile::tempdir().expect("a folder");
    let mut rng = Rng::new(5, Stream::Test, 0);
    for _ in 0..60 {
        let n = 1 + rng.below(5);
        let args: Vec<&str> = (0..n).map(|_| words[rng.below(words.len() as u32) as usize]).collect();
        if args[0] == "train" && !args.contains(&"--print-config") {
            continue;
        }
        let mut command = with(&args);
        let output = command.current_dir(dir.path()).output().expect("a run");
        assert!(!stderr(&output).contains("panicked"), "{args:?}: {}", stderr(&output));
        assert!(output.status.code().is_some_and(|c| c <= 2), "{args:?}: {:?}", output.status);
    }
}

/// [37] Validation images are reported beside the test images, and change nothing else.
#[test]
fn validation_images_are_reported() {
    let dir = tempfile::tempdir().expect("a folder");
    let images = dir.path().join("pets");
    for (part, per) in [("train", 12u8), ("test", 4), ("val", 3)] {
        for class in 0..4u8 {
            let folder = images.join(format!("{part}/kind {class}"));
            std::fs::create_dir_all(&folder).expect("a folder");
            for i in 0..per {
                let shade = part.len() as u8 * 20 + i;
                let pixel = |x: u32, y: u32| image::Rgb([class * 60, (x * 9) as u8 ^ shade, (y * 5) as u8]);
                let image = image::RgbImage::from_fn(20, 24, pixel);
                image.save(folder.join(format!("{i}.png"))).expect("a picture");
            }
        }
    }
    let cache = format!("data.cache_dir={}", path(&dir.path().join("cache")));
    let run = |workdir: &str| {
        let mut args = vec!["--data-dir", path(&images), "--set", &cache];
        for set in [
            "data.dataset=images",
            "continual.num_tasks=2",
            "continual.num_classes_per_task=2",
            "train.per_device_batch_size=8",
        ] {
            args.extend(["--set", set]);
        }
        train(&dir.path().join(workdir), &args)
    };
    let said = expect(run("with"), 0);
    assert!(said.contains("validation images: accuracy "), "{said}");
    let with = common::process::outcome(&dir.path().join("with"));
    let rows = with.2["validation"]["accuracy_matrix"].as_array().expect("rows").clone();
    assert_eq!(rows.iter().map(|row| row.as_array().expect("a row").len()).collect::<Vec<_>>(), [1, 2]);
    let log = with.3.iter().filter(|line| line.contains("\"validation\":[")).count();
    assert_eq!(log, 2, "{:?}", with.3);
    // The second task has none.
    for class in ["val/kind 2", "val/kind 3"] {
        std::fs::remove_dir_all(images.join(class)).expect("a class less");
    }
    let some = expect(run("some"), 0);
    assert!(!some.contains("validation images: accuracy "), "{some}");
    std::fs::remove_dir_all(images.join("val")).expect("no validation");
    expect(run("without"), 0);
    let without = common::process::outcome(&dir.path().join("without"));
    assert_eq!(with.1, without.1, "validation changed the tests");
    assert!(without.2.get("validation").is_none());
}

/// A run on a user's own images keeps how it split them, can be repeated from that, and notices other
/// images when it is resumed.
#[test]
fn own_images_are_split_once() {
    let dir = tempfile::tempdir().expect("a folder");
    let (images, cache) = (dir.path().join("pets"), dir.path().join("cache"));
    for class in 0..4u8 {
        std::fs::create_dir_all(images.join(format!("kind {class}"))).expect("a folder");
        for i in 0..12u8 {
            let pixel = |x: u32, y: u32| image::Rgb([class * 60, (x * 9) as u8 ^ i, (y * 5) as u8]);
            let path = images.join(format!("kind {class}/{i}.png"));
            image::RgbImage::from_fn(20, 24, pixel).save(path).expect("a picture");
        }
    }
    let cache = format!("data.cache_dir={}", path(&cache));
    let run = |workdir: &str, data: &Path, more: &[&str]| {
        let mut args = vec!["--data-dir", path(data), "--set", &cache];
        for set in [
            "data.dataset=images",
            "continual.num_tasks=2",
            "continual.num_classes_per_task=2",
            "train.per_device_batch_size=8",
        ] {
            args.extend(["--set", set]);
        }
        args.extend(more);
        train(&dir.path().join(workdir), &args)
    };
    let mut dry = run("dry", &images, &["--dry-run"]);
    let said = stdout(&dry.output().expect("the program starts"));
    assert!(said.contains("40 training and 8 test images"), "{said}");
    assert!(said.contains("note: ") && said.contains("80 % are for training"), "{said}");

    expect(run("a", &images, &[]), 0);
    let split = dir.path().join("a/split");
    let lines = |name: &str| std::fs::read_to_string(split.join(name)).expect(name).lines().count();
    assert_eq!((lines("train.txt"), lines("test.txt"), lines("classes.txt")), (40, 8, 4));
    expect(run("b", &split, &[]), 0);
    let (a, b) =
        (common::process::outcome(&dir.path().join("a")), common::process::outcome(&dir.path().join("b")));
    assert!(a.0 == b.0 && a.1 == b.1, "the lists are another data set than the folder they were made from");

    std::fs::copy(images.join("kind 0/0.png"), images.join("kind 0/another.png")).expect("a copy");
    let said = expect(run("a", &images, &["--resume"]), 1);
    assert!(said.contains("started with other images"), "{said}");
}

/// Output that cannot be written is a failure in every command; a pipe that its reader has closed is not.
#[test]
fn output_that_cannot_be_written_fails() {
    if !Path::new("/dev/full").exists() {
        println!("skipped: this system has no /dev/full");
        return;
    }
    let (_dir, workdir) = finished(&[]);
    let image = workdir.join("image.png");
    image::RgbImage::from_pixel(8, 8, image::Rgb([9, 9, 9])).save(&image).expect("an image");
    let run = path(&workdir);
    let commands: [&[&str]; 7] = [
        &["--help"],
        &["train", "--print-config"],
        &["train", "--dry-run"],
        &["devices"],
        &["inspect", run],
        &["eval", "--workdir", run, "--device", "cpu"],
        &["predict", "--workdir", run, "--device", "cpu", path(&image)],
    ];
    for args in commands {
        let full = std::fs::File::options().write(true).open("/dev/full").expect("a full disk");
        let output = with(args).stdout(full).output().expect("the program starts");
        assert_eq!(output.status.code(), Some(1), "{args:?}: {}", stderr(&output));
        assert!(
            stderr(&output).contains("standard output: cannot be written"),
            "{args:?}: {}",
            stderr(&output)
        );

        let mut child = with(args).stdout(std::process::Stdio::piped()).spawn().expect("the program starts");
        drop(child.stdout.take());
        assert_eq!(child.wait().expect("an end").code(), Some(0), "{args:?} into a closed pipe");
    }
    let output =
        with(&["report", "--workdir", run, "--out", "/dev/full"]).output().expect("the program starts");
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(!Path::new("/dev/full").is_file(), "the device was replaced by a file");
}

/// A table of rates and a suggestion, the same at every call, and nothing on the disk.
#[test]
fn find_lr_suggests_a_rate_and_writes_nothing() {
    let dir = tempfile::tempdir().expect("a folder");
    let find = |more: &[&str]| {
        let mut command = engine();
        command.current_dir(dir.path()).args(["train", "--find-lr", "--quiet"]);
        for set in SMALL.iter().chain(more) {
            command.args(["--set", set]);
        }
        command
    };
    let said = expect(find(&[]), 0);
    assert_eq!(said.lines().filter(|line| line.starts_with("| 0.")).count(), 7, "{said}");
    let guessing = "guessing among";
    assert!(said.contains(guessing) && said.contains("training images kept from them"), "{said}");
    assert!(
        said.contains("suggestion: --set optim.learning_rate=") || said.contains("is the best of them"),
        "{said}"
    );
    assert_eq!(said, expect(find(&[]), 0));
    let said = expect(find(&["optim.learning_rate=1e38", "optim.optim=sgd"]), 0);
    assert!(said.contains("failed"), "a rate of 1e38 learns: {said}");
    let said = expect(find(&["method=ncm"]), 2);
    assert!(said.contains("--find-lr") && said.contains("ncm"), "{said}");
    assert!(walk(dir.path()).is_empty(), "files were left");
}
