//! The program itself on a GPU: training, evaluation, prediction and pre-training with `--device cuda`, beside
//! the CPU, killed and resumed. Without a GPU the driver is the emulated one; `L2P_REQUIRE_GPU=1` asks for a
//! real one.

#[path = "../common/mod.rs"]
mod common;
#[path = "../emulation/mod.rs"]
mod emulation;

use common::process::{engine, expect, outcome, split_mnist, stderr};
use l2p_engine::device::embedded;
use l2p_engine::import::{self, LoadOptions};
use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A network of three narrow blocks on 16 x 16 pixels, in TOML values.
const TOY: &[&str] = &[
    "data.dataset=\"synthetic\"",
    "data.input_size=16",
    "data.resize_size=18",
    "train.num_epochs=1",
    "train.per_device_batch_size=8",
    "train.eval_batch_size=20",
];

/// Two tasks that learn something in ten steps each.
const RUN: &[&str] = &[
    "data.augment=\"crop_flip\"",
    "data.train_per_class=40",
    "data.test_per_class=10",
    "continual.num_tasks=2",
    "prompt_pool.length=2",
    "prompt_pool.top_k=2",
    "prompt_pool.pool_size=6",
    "model.vit_classifier=\"prompt\"",
    "train.checkpoint_every_steps=3",
    "baselines.single_prompt=false",
    "baselines.linear_probe=false",
    "baselines.naive_head=false",
];

/// Two components for each of two tasks, and one that is never used, with a penalty.
const COMPONENTS: &[&str] = &[
    "model.vit_classifier=\"token\"",
    "prompt_pool.pool_size=0",
    "coda.components=5",
    "coda.length=4",
    "coda.layers=[0,2]",
    "coda.ortho_mu=0.1",
];

/// One task of a few steps.
const SHORT: &[&str] = &[
    "data.train_per_class=16",
    "data.test_per_class=2",
    "continual.num_tasks=1",
    "train.checkpoint_every_steps=0",
    "baselines.ncm=false",
];

const PRETRAIN: &[&str] = &[
    "method=\"finetune\"",
    "data.augment=\"none\"",
    "continual.num_tasks=1",
    "continual.num_classes_per_task=10",
    "model.input_norm=\"unit\"",
    "model.vit_classifier=\"token\"",
    "model.freeze_part=[]",
    "prompt_pool.pool_size=0",
    "optim.learning_rate=0.003",
    "optim.lr_batch=0",
    "baselines.ncm=false",
    "baselines.linear_probe=false",
    "baselines.naive_head=false",
    "baselines.single_prompt=false",
    "pretrain.patch_size=8",
    "pretrain.embed_dim=32",
    "pretrain.layers=3",
    "pretrain.heads=2",
    "pretrain.mlp_dim=64",
];

#[path = "faults.rs"]
mod faults;

/// Where the program finds its driver; `None` where there is nothing to run on, which is said and counted.
struct Gpu {
    library: Option<PathBuf>,
}

impl Gpu {
    fn find(test: &str) -> Option<Gpu> {
        let skip = |why: &str| {
            let _ = writeln!(std::io::stderr(), "skipped: 1 test of runs on a device ({test}): {why}");
        };
        if std::env::var_os("L2P_REQUIRE_GPU").is_some_and(|v| v == "1") {
            return Some(Gpu { library: None });
        }
        if embedded::TOOLKIT.is_none() {
            skip("the program holds no kernels, because there was no nvcc");
            return None;
        }
        if let Err(why) = emulation::compiler() {
            skip(&why);
            return None;
        }
        Some(Gpu { library: Some(emulation::library().expect("the kernels compile for the host")) })
    }

    fn engine(&self) -> Command {
        let mut command = engine();
        if let Some(library) = &self.library {
            command.env("LD_LIBRARY_PATH", library.parent().expect("a folder"));
        }
        command
    }

    fn train(&self, device: &str, backbone: &Path, workdir: &Path, more: &[&str]) -> Command {
        let mut command = self.engine();
        command.args(["train", "--quiet", "--device", device, "--workdir"]).arg(workdir);
        command.arg("--config").arg(split_mnist()).arg("--init-checkpoint").arg(backbone);
        sets(&mut command, TOY);
        sets(&mut command, RUN);
        sets(&mut command, more);
        command
    }

    fn pretrain(&self, device: &str, dir: &Path, more: &[&str]) -> PathBuf {
        let mut command = self.engine();
        let out = dir.join(format!("{device}.safetensors"));
        command
            .args(["pretrain", "--quiet", "--device", device, "--workdir"])
            .arg(dir.join(format!("pretrain {device}")));
        command.arg("--out").arg(&out).arg("--config").arg(split_mnist());
        sets(&mut command, TOY);
        sets(&mut command, PRETRAIN);
        sets(&mut command, more);
        expect(command, 0);
        out
    }
}

fn sets(command: &mut Command, values: &[&str]) {
    for set in values {
        command.args(["--set", set]);
    }
}

/// Losses of the lines of the log.
fn losses(workdir: &Path) -> Vec<f64> {
    let text = std::fs::read_to_string(workdir.join("log.jsonl")).expect("a log");
    let lines = text.lines().map(|l| serde_json::from_str::<serde_json::Value>(l).expect("JSON"));
    lines.filter(|l| l["event"] == "train").map(|l| l["loss"].as_f64().expect("a loss")).collect()
}

fn accuracies(workdir: &Path, selection: &str) -> Vec<f64> {
    let text = std::fs::read_to_string(workdir.join("results.json")).expect("results");
    let results: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let rows = results[selection]["accuracy_matrix"].as_array().expect("rows").clone();
    rows.iter().flat_map(|r| r.as_array().expect("a row")).filter_map(serde_json::Value::as_f64).collect()
}

fn off_by(a: &[f64], b: &[f64]) -> f64 {
    assert!(a.len() == b.len() && !a.is_empty(), "{} and {} numbers", a.len(), b.len());
    common::relative_error(a, b)
}

#[test]
fn a_backbone_is_trained_as_on_the_cpu() {
    let Some(gpu) = Gpu::find("pretrain") else { return };
    let dir = tempfile::tempdir().expect("a folder");
    let few = ["data.train_per_class=8", "precision=\"f32\"", "pretrain.layer_decay=0.8"];
    let [here, there] = ["cuda", "cpu"].map(|device| gpu.pretrain(device, dir.path(), &few));
    let [here, there] =
        [here, there].map(|f| import::load(&f, &LoadOptions { heads: 2, ..LoadOptions::default() }));
    let (here, there) = (here.expect("a backbone"), there.expect("a backbone"));
    for ((name, a), (_, b)) in here.tensors.iter().zip(&there.tensors) {
        let wide = |t: &[f32]| t.iter().map(|&v| f64::from(v)).collect::<Vec<f64>>();
        let error = off_by(&wide(&a.data), &wide(&b.data));
        // Adam turns gradients of rounding noise (key biases have no others) into whole steps.
        assert!(error < 1e-2 || name.ends_with("qkv/bias"), "{name}: off by {error:.1e}");
    }
}

#[test]
fn a_run_is_that_of_the_cpu_and_survives_kills() {
    let Some(gpu) = Gpu::find("train") else { return };
    let dir = tempfile::tempdir().expect("a folder");
    let backbone = gpu.pretrain("cpu", dir.path(), &["train.num_epochs=30"]);
    let at = |name: &str| dir.path().join(name);
    let clock = Instant::now();
    expect(gpu.train("cuda", &backbone, &at("cuda"), &["precision=\"f32\""]), 0);
    let whole = clock.elapsed();
    expect(gpu.train("cpu", &backbone, &at("cpu"), &["precision=\"f64\""]), 0);
    let error = off_by(&losses(&at("cuda")), &losses(&at("cpu")));
    assert!(error < 1e-4, "losses are off by {error:.1e}");
    // Three of twenty test images: those whose two best classes are about equal.
    for selection in ["per_image", "per_batch"] {
        let (a, b) = (accuracies(&at("cuda"), selection), accuracies(&at("cpu"), selection));
        let error = a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(a.len() == b.len() && error <= 0.151, "{selection}: {a:?}, {b:?}");
    }

    // Killed three times and resumed, launch by launch instead of as a graph: the same bits.
    let killed = || {
        let mut command =
            gpu.train("cuda", &backbone, &at("killed"), &["precision=\"f32\"", "train.graph=false"]);
        command.arg("--resume");
        command
    };
    for part in [0.3, 0.5, 0.7] {
        let mut child = killed().stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the program");
        std::thread::sleep(whole.mul_f32(part));
        child.kill().expect("a kill");
        let output = child.wait_with_output().expect("an end");
        assert!(!stderr(&output).contains("panicked"), "{}", stderr(&output));
    }
    expect(killed(), 0);
    let (a, b) = (outcome(&at("cuda")), outcome(&at("killed")));
    assert!(a.0 == b.0, "the parameters differ");
    assert_eq!((a.1, a.3), (b.1, b.3), "matrices and logs");

    // What was learned in 16 bits is read on either device.
    expect(gpu.train("cuda", &backbone, &at("bf16"), &["precision=\"bf16\""]), 0);
    let error = off_by(&losses(&at("bf16")), &losses(&at("cpu")));
    assert!(error < 5e-2, "losses in bf16 are off by {error:.1e}");
    let image = at("image.png");
    let pixels: Vec<u8> = (0..20 * 20 * 3).map(|i| (i * 7 % 251) as u8).collect();
    image::save_buffer(&image, &pixels, 20, 20, image::ColorType::Rgb8).expect("an image");
    for device in ["cuda", "cpu"] {
        let mut command = gpu.engine();
        command.args(["eval", "--json", "--device", device, "--workdir"]).arg(at("bf16"));
        let said = expect(command, 0);
        let read: serde_json::Value = serde_json::from_str(&said).expect("JSON");
        let last = read["per_image"]["accuracy_matrix"].as_array().expect("rows").last().cloned();
        let last: Vec<f64> = serde_json::from_value(last.expect("a row")).expect("numbers");
        let wanted = accuracies(&at("bf16"), "per_image");
        let error = last.iter().zip(&wanted[1..]).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(if device == "cuda" { error == 0.0 } else { error <= 0.1 }, "{device}: {last:?}, {wanted:?}");
        let mut command = gpu.engine();
        command.args(["predict", "--device", device, "--workdir"]).arg(at("bf16")).arg(&image);
        assert!(expect(command, 0).contains('%'));
    }
}

/// `gpu.train` on several GPUs.
fn on_several(gpu: &Gpu, device: &str, backbone: &Path, workdir: &Path, more: &[&str]) -> Command {
    let per_image = [
        "precision=\"f32\"",
        "prompt_pool.batchwise_prompt=false",
        "data.train_per_class=20",
        "data.test_per_class=6",
    ];
    let mut command = gpu.train(device, backbone, workdir, &[&per_image, more].concat());
    if gpu.library.is_some() {
        let nccl = emulation::nccl(None).expect("the stand-in for NCCL compiles");
        command.env("L2P_EMU_DEVICES", "4").env("L2P_NCCL_LIBRARY", nccl);
    }
    command.env("L2P_RANK_TIMEOUT_S", "60");
    command
}

/// Kills what `resumed` starts after some parts of `whole`, the time of a run, and then lets it go on to its end.
fn killed_twice(resumed: impl Fn() -> Command, whole: Duration) {
    for part in [0.4, 0.7] {
        let mut child = resumed().stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the program");
        std::thread::sleep(whole.mul_f32(part));
        child.kill().expect("a kill");
        let output = child.wait_with_output().expect("an end");
        assert!(!stderr(&output).contains("panicked"), "{}", stderr(&output));
    }
    expect(resumed(), 0);
}

#[test]
fn several_gpus_learn_as_one_and_survive_kills() {
    let Some(gpu) = Gpu::find("several GPUs") else { return };
    if gpu.library.is_none() {
        let _ =
            writeln!(std::io::stderr(), "skipped: 1 test of runs on a device (several GPUs): it takes four");
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let backbone = gpu.pretrain("cpu", dir.path(), &["train.num_epochs=10"]);
    let at = |name: &str| dir.path().join(name);
    let shared = |n: usize| format!("train.per_device_batch_size={}", 8 / n);
    // Rates at which a rounding does not grow into another course.
    let clock = Instant::now();
    expect(on_several(&gpu, "cuda:0,1", &backbone, &at("two"), &[&shared(2)]), 0);
    let whole = clock.elapsed();
    for (kind, sets) in [
        ("Adam", &["optim.learning_rate=0.001"][..]),
        ("SGD", &["optim.optim=\"sgd\"", "optim.learning_rate=0.03", "optim.weight_decay=0.001"]),
    ] {
        let [one, two] = [1, 2].map(|n| at(&format!("{kind} {n}")));
        expect(on_several(&gpu, "cuda", &backbone, &one, sets), 0);
        expect(on_several(&gpu, "cuda:0,1", &backbone, &two, &[sets, &[&shared(2)]].concat()), 0);
        let error = off_by(&losses(&two), &losses(&one));
        println!("two GPUs beside one, {kind}: losses within {error:.1e}");
        assert!(error < 2e-5, "{kind}: losses are off by {error:.1e}");
        assert_eq!(accuracies(&two, "per_image"), accuracies(&one, "per_image"), "{kind}");
    }

    // Killed and resumed, launch by launch, on other GPUs: the same bits.
    let killed = || {
        let more = [&shared(2), "train.graph=false"];
        let mut command = on_several(&gpu, "cuda:3,2", &backbone, &at("killed"), &more);
        command.arg("--resume");
        command
    };
    killed_twice(killed, whole);
    let (a, b) = (outcome(&at("two")), outcome(&at("killed")));
    assert!(a.0 == b.0, "the parameters differ");
    assert_eq!((a.1, a.3), (b.1, b.3), "matrices and logs");

    // Two processes of two GPUs, and four GPUs of one process.
    expect(on_several(&gpu, "cuda:all", &backbone, &at("four"), &[&shared(4)]), 0);
    let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
    let processes = [0, 1].map(|rank| {
        let workdir = at(if rank == 0 { "processes" } else { "nothing" });
        let device = if rank == 0 { "cuda:0,1" } else { "cuda:2,3" };
        let mut command = on_several(&gpu, device, &backbone, &workdir, &[&shared(4)]);
        command.env("RANK", rank.to_string()).env("LOCAL_RANK", rank.to_string()).env("WORLD_SIZE", "2");
        command.env("MASTER_ADDR", "127.0.0.1").env("MASTER_PORT", port.to_string());
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the program")
    });
    for process in processes {
        let output = process.wait_with_output().expect("an end");
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    }
    let (a, b) = (outcome(&at("four")), outcome(&at("processes")));
    assert!(a.0 == b.0, "the parameters of processes differ from those of threads");
    assert_eq!((a.1, a.3), (b.1, b.3), "matrices and logs");
    assert!(!at("nothing").exists(), "only rank 0 writes");
}

/// CODA-Prompt on two GPUs beside one, killed and resumed.
#[test]
fn deep_components_on_two_gpus_learn_as_on_one_and_survive_kills() {
    if !common::lanes::deep("CODA-Prompt on two GPUs") {
        return;
    }
    let Some(gpu) = Gpu::find("components on two GPUs") else { return };
    if gpu.library.is_none() {
        let _ = writeln!(std::io::stderr(), "skipped: 1 test of runs on a device (components): it takes two");
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let backbone = gpu.pretrain("cpu", dir.path(), &["train.num_epochs=10"]);
    let at = |name: &str| dir.path().join(name);
    let coda = |more: &[&'static str]| [&["method=\"coda_prompt\""], COMPONENTS, more].concat();
    let sgd = ["optim.optim=\"sgd\"", "optim.learning_rate=0.03"];
    let shared = [sgd[0], sgd[1], "train.per_device_batch_size=4"];
    expect(on_several(&gpu, "cuda", &backbone, &at("one"), &coda(&sgd)), 0);
    let clock = Instant::now();
    expect(on_several(&gpu, "cuda:0,1", &backbone, &at("two"), &coda(&shared)), 0);
    let whole = clock.elapsed();
    let error = off_by(&losses(&at("two")), &losses(&at("one")));
    println!("components on two GPUs beside one: losses within {error:.1e}");
    assert!(error < 2e-5, "losses are off by {error:.1e}");

    let killed = || {
        let more = [coda(&shared), vec!["train.graph=false"]].concat();
        let mut command = on_several(&gpu, "cuda:0,1", &backbone, &at("killed"), &more);
        command.arg("--resume");
        command
    };
    killed_twice(killed, whole);
    let (a, b) = (outcome(&at("two")), outcome(&at("killed")));
    assert!(a.0 == b.0, "the parameters differ");
    assert_eq!((a.1, a.3), (b.1, b.3), "matrices and logs");
}

/// EWC and LwF on two GPUs beside one: what they learn from passes beside the steps is summed or gathered, too.
#[test]
fn deep_regularizers_on_two_gpus_learn_as_on_one() {
    if !common::lanes::deep("EWC and LwF on two GPUs") {
        return;
    }
    let Some(gpu) = Gpu::find("regularizers on two GPUs") else { return };
    if gpu.library.is_none() {
        let _ =
            writeln!(std::io::stderr(), "skipped: 1 test of runs on a device (regularizers): it takes two");
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let backbone = gpu.pretrain("cpu", dir.path(), &["train.num_epochs=10"]);
    for method in ["method=\"ewc\"", "method=\"lwf\""] {
        let common = [
            method,
            "model.vit_classifier=\"token\"",
            "model.freeze_part=[]",
            "prompt_pool.pool_size=0",
            "continual.train_mask=false",
            "lwf.warmup_epochs=1",
            "optim.optim=\"sgd\"",
            "optim.learning_rate=0.01",
        ];
        let at = |name: &str| dir.path().join(format!("{name} {method}"));
        let shared = [&common[..], &["train.per_device_batch_size=4"]].concat();
        expect(on_several(&gpu, "cuda", &backbone, &at("one"), &common), 0);
        expect(on_several(&gpu, "cuda:0,1", &backbone, &at("two"), &shared), 0);
        let error = off_by(&losses(&at("two")), &losses(&at("one")));
        println!("{method} on two GPUs beside one: losses within {error:.1e}");
        assert!(error < 2e-5, "{method}: losses are off by {error:.1e}");
    }
}

#[test]
fn every_method_runs() {
    let Some(gpu) = Gpu::find("methods") else { return };
    let dir = tempfile::tempdir().expect("a folder");
    let backbone = gpu.pretrain("cpu", dir.path(), &["train.num_epochs=10"]);
    let dualprompt = [
        "method=\"dualprompt\"",
        "model.vit_classifier=\"token\"",
        "prompt_pool.use_prefix_tune_for_e_prompt=true",
        "prompt_pool.e_prompt_layer_idx=[1,2]",
        "g_prompt.g_prompt_length=2",
        "g_prompt.g_prompt_layer_idx=[0,1]",
    ];
    let components = [&["method=\"coda_prompt\""], COMPONENTS].concat();
    let plain = |method: &'static str| {
        vec![method, "model.vit_classifier=\"token\"", "prompt_pool.pool_size=0", "optim.learning_rate=0.01"]
    };
    let finetune =
        [plain("method=\"finetune\""), vec!["model.freeze_part=[]", "optim.optim=\"sgd\""]].concat();
    let replay = [
        "method=\"l2p\"",
        "continual.replay_per_class=4",
        "continual.replay_batch_size=5",
        "continual.num_review_epochs=1",
        "prompt_pool.diversified_selection=true",
        "model.weight_norm=true",
        "continual.weights_transfer=true",
    ];
    let mixed =
        ["method=\"l2p\"", "data.mixup_alpha=0.8", "data.cutmix_alpha=1.0", "data.mix_probability=0.7"];
    let regularized = |method: &'static str| {
        let all = [
            "model.freeze_part=[]",
            "optim.optim=\"sgd\"",
            "continual.train_mask=false",
            "lwf.warmup_epochs=1",
        ];
        [plain(method), all.to_vec()].concat()
    };
    let all = [
        regularized("method=\"ewc\""),
        regularized("method=\"lwf\""),
        replay.to_vec(),
        mixed.to_vec(),
        dualprompt.to_vec(),
        components,
        finetune,
        plain("method=\"linear\""),
        plain("method=\"ncm\""),
        plain("method=\"joint\""),
    ];
    for (i, method) in all.iter().enumerate() {
        let few = [method, &["data.train_per_class=12", "data.test_per_class=5"][..]].concat();
        let run = |device: &str, precision: &str| {
            let workdir = dir.path().join(format!("{device} {i}"));
            expect(gpu.train(device, &backbone, &workdir, &[&few, &[precision][..]].concat()), 0);
            workdir
        };
        let (here, there) = (run("cuda", "precision=\"f32\""), run("cpu", "precision=\"f64\""));
        let error = off_by(&losses(&here), &losses(&there));
        assert!(error < 1e-3 || method[0].contains("ncm"), "{method:?}: losses are off by {error:.1e}");
        let (a, b) = (accuracies(&here, "per_image"), accuracies(&there, "per_image"));
        let error = a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(a.len() == b.len() && error <= 0.1, "{method:?}: {a:?}, {b:?}");
    }
}

#[test]
fn a_gpu_that_is_too_small_is_named_and_left_alone() {
    let Some(gpu) = Gpu::find("memory") else { return };
    if gpu.library.is_none() {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let backbone = gpu.pretrain("cpu", dir.path(), &["data.train_per_class=8"]);
    let large = ["train.eval_batch_size=60000", "data.input_size=32", "data.resize_size=32"];
    let run = |device: &str| {
        let mut command = gpu.train(device, &backbone, &dir.path().join("a"), &large);
        command.arg("--dry-run");
        command
    };
    let said = expect(run("cuda"), 1);
    assert!(said.contains("of GPU memory, cuda:0 has") && said.contains("train.eval_batch_size"), "{said}");
    let said = expect(run("auto"), 0);
    assert!(said.contains("the GPU is not used: this run needs"), "{said}");
    let mut nowhere = gpu.engine();
    nowhere.args(["train", "--device", "cuda:7", "--dry-run"]);
    assert!(expect(nowhere, 1).contains("there is no cuda:7"));
}
