//! `adopt`: models of other programs as runs. The fixtures are made by these programs, `scripts/make_adopt_fixtures.py`.

#[path = "../common/mod.rs"]
mod common;

use common::absolute_error;
use common::npz::Npz;
use common::process::{engine, expect};
use l2p_engine::device::{Choice, Device};
use l2p_engine::learner::{SavedRun, ready};
use l2p_engine::ops::match_prompts::Select;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Fixture, program, configuration, what differs from it in the fixture's small network, and the tasks learned.
struct Model {
    fixture: &'static str,
    from: &'static str,
    config: &'static str,
    sets: &'static [&'static str],
    tasks: usize,
}

const L2P: &[&str] = &["prompt_pool.pool_size=6", "prompt_pool.length=2", "prompt_pool.top_k=3"];
const DUAL: &[&str] = &["prompt_pool.pool_size=5", "prompt_pool.length=2", "g_prompt.g_prompt_length=3"];
const CODA: &[&str] = &["coda.components=10", "coda.length=4"];

const fn model(
    fixture: &'static str,
    from: &'static str,
    config: &'static str,
    sets: &'static [&'static str],
    tasks: usize,
) -> Model {
    Model { fixture, from, config, sets, tasks }
}

const MODELS: &[Model] = &[
    model("l2p_pytorch", "l2p-pytorch", "cifar100_l2p_pytorch", L2P, 5),
    model("dualprompt_pytorch", "dualprompt-pytorch", "cifar100_dualprompt_pytorch", DUAL, 5),
    model("coda_prompt", "coda-prompt", "cifar100_coda", CODA, 4),
    model("pilot_l2p", "pilot", "cifar100_l2p_pytorch", L2P, 5),
    model("pilot_dualprompt", "pilot", "cifar100_dualprompt_pytorch", DUAL, 5),
    model("pilot_coda", "pilot", "cifar100_coda", CODA, 4),
];

/// Data and network of all fixtures: ten digits in five tasks.
const SMALL: &[&str] = &[
    "data.dataset=mnist_subset",
    "data.input_size=28",
    "data.resize_size=32",
    "data.train_per_class=16",
    "data.test_per_class=4",
    "continual.num_tasks=5",
    "continual.num_classes_per_task=2",
    "model.heads=2",
    "model.blocks=5",
    "train.num_epochs=2",
    "train.per_device_batch_size=8",
];

fn file(fixture: &str, ending: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/adopt/{fixture}.{ending}"))
}

fn path(p: &Path) -> &str {
    p.to_str().expect("a UTF-8 path")
}

fn adopt(checkpoint: &Path, model: &Model, workdir: &Path, more: &[&str]) -> Command {
    let config = format!("{}/configs/{}.toml", env!("CARGO_MANIFEST_DIR"), model.config);
    let mut command = engine();
    command.args(["adopt", path(checkpoint), "--from", model.from, "--config", &config]);
    command.args(["--device", "cpu", "--workdir", path(workdir)]);
    for set in SMALL.iter().chain(model.sets) {
        command.args(["--set", set]);
    }
    if !more.contains(&"--tasks") {
        command.args(["--tasks", &model.tasks.to_string()]);
    }
    command.args(more);
    command
}

fn run_on(command: &str, workdir: &Path, more: &[&str]) -> String {
    let mut engine = engine();
    engine.args([command, "--workdir", path(workdir)]).args(more);
    expect(engine, 0)
}

/// Logits of a run for the fixture's images, which its program read between 0 and 1, in f64.
fn logits(run: &Path, images: &[f64]) -> Vec<f64> {
    let mut saved = SavedRun::read(run).expect("a run");
    saved.locate_backbone(None).expect("its backbone");
    let mut learner = saved.learner(Choice { device: Device::Cpu, auto: false }, 8).expect("a learner");
    let pixels: Vec<f32> = images.iter().map(|&v| (v / 255.0) as f32).collect();
    let (dev, method) = (&learner.dev, &mut learner.method);
    let images = ready(method.model().dtype(), learner.preprocess.input_size(), &pixels);
    let query = method.query(dev, images.view().into()).expect("queries");
    let choice = method.select(dev, query.view(), Select::PerImage).expect("a choice");
    method.logits(dev, images.view().into(), query.view(), &choice).expect("logits").to_f64()
}

fn head_bias(run: &Path) -> Vec<u32> {
    use l2p_engine::output::TensorData;
    let saved = SavedRun::read(run).expect("a run");
    let bias = saved.tensors.iter().find(|(name, ..)| name == "params/head/bias").expect("a head");
    match &bias.2 {
        TensorData::F32(values) => values.iter().map(|v| v.to_bits()).collect(),
        other => panic!("f32 was wanted, found {other:?}"),
    }
}

#[test]
fn adopted_models_have_the_logits_of_their_programs() {
    let dir = tempfile::tempdir().expect("a folder");
    for model in MODELS {
        let wanted = Npz::read(&file(model.fixture, "npz"));
        let (images, wanted) = (&wanted.get("images").data, &wanted.get("logits").data);
        for (precision, limit) in [("f64", 2e-7), ("f32", 1e-5)] {
            let run = dir.path().join(format!("{}_{precision}", model.fixture));
            let set = format!("precision={precision}");
            expect(adopt(&file(model.fixture, "pth"), model, &run, &["--set", &set]), 0);
            let error = absolute_error(&logits(&run, images), wanted);
            println!("adopt {} in {precision}: {error:.1e}", model.fixture);
            assert!(error < limit, "{} in {precision}: {error:e}", model.fixture);
        }
    }
}

#[test]
fn an_adopted_run_is_tested_checked_moved_and_taught_on() {
    let dir = tempfile::tempdir().expect("a folder");
    let image = dir.path().join("image.png");
    image::GrayImage::from_fn(28, 28, |x, y| image::Luma([(x * y) as u8])).save(&image).expect("a picture");
    for model in MODELS.iter().take(3) {
        let (first, run) = (dir.path().join("first"), dir.path().join(model.fixture));
        let said = expect(adopt(&file(model.fixture, "pth"), model, &first, &["--tasks", "3"]), 0);
        assert!(said.contains("learned 3 of 5 tasks") && said.contains("task 3: "), "{said}");
        assert_eq!(said.contains("by batch vote"), model.config != "cifar100_coda", "{said}");
        // A run that has moved finds its backbone again.
        std::fs::rename(&first, &run).expect("a place");
        let eval: serde_json::Value =
            serde_json::from_str(&run_on("eval", &run, &["--json", "--device", "cpu"])).expect("JSON");
        let last = &eval["per_image"]["accuracy_matrix"][2];
        assert_eq!(last.as_array().map(Vec::len), Some(3), "{eval}");
        let accuracy = 100.0 * last[0].as_f64().expect("an accuracy");
        assert!(said.contains(&format!("task 1: {accuracy:.2} %")), "{said} {accuracy}");
        assert!(eval["per_image"]["accuracy_matrix"][0][0].is_null(), "{eval}");
        // Nothing votes on components.
        if !model.fixture.starts_with("coda") {
            assert!(run_on("leakcheck", &run, &["--device", "cpu"]).contains("test images of 3 tasks"));
        }
        let mut predict = engine();
        predict.args(["predict", "--device", "cpu", "--workdir", path(&run), path(&image), "--json"]);
        let answer: serde_json::Value = serde_json::from_str(&expect(predict, 0)).expect("JSON");
        assert_eq!(answer["classes"].as_array().map(Vec::len), Some(6), "{answer}");
        // The other tasks.
        let before = head_bias(&run);
        run_on("train", &run, &["--resume", "--quiet", "--device", "cpu"]);
        let results = std::fs::read_to_string(run.join("results.json")).expect("results");
        let results: serde_json::Value = serde_json::from_str(&results).expect("JSON");
        assert_eq!(results["complete"], true);
        assert_eq!(results["classes_seen"], 10);
        let matrix = &results["per_image"]["accuracy_matrix"];
        assert_eq!(matrix[2], *last);
        assert!((0..5).all(|task| matrix[4][task].is_f64()), "{matrix}");
        // Random backbones learn little; the head of the new classes has moved, and that of the others has not.
        let after = head_bias(&run);
        assert_eq!(after[..6], before[..6], "{}", model.fixture);
        assert!((6..10).all(|class| after[class] != before[class]), "{}", model.fixture);
    }
}

#[test]
fn a_head_is_put_into_the_order_of_the_classes() {
    let dir = tempfile::tempdir().expect("a folder");
    let list = dir.path().join("order.txt");
    std::fs::write(&list, "9\n8\n7\n6\n5\n4\n3\n2\n1\n0\n").expect("a list");
    let listed = format!("continual.class_order=\"{}\"", path(&list));
    let wanted = Npz::read(&file("l2p_pytorch", "npz"));
    let (images, logits_of) = (&wanted.get("images").data, &wanted.get("logits").data);
    // Columns of l2p-pytorch are labels of the data set, those of PILOT stand in the order of learning.
    for (model, turned) in [(&MODELS[0], true), (&MODELS[3], false)] {
        let run = dir.path().join(model.fixture);
        expect(adopt(&file(model.fixture, "pth"), model, &run, &["--set", &listed]), 0);
        let wanted: Vec<f64> = match turned {
            true => logits_of.chunks(10).flat_map(|row| row.iter().rev().copied()).collect(),
            false => logits_of.clone(),
        };
        assert!(absolute_error(&logits(&run, images), &wanted) < 1e-5, "{}", model.fixture);
    }
}

#[test]
fn what_does_not_fit_is_a_sentence_and_leaves_nothing_behind() {
    let dir = tempfile::tempdir().expect("a folder");
    let run = dir.path().join("run");
    let [l2p, dual, coda] = [&MODELS[0], &MODELS[1], &MODELS[2]];
    let pth = |model: &Model| file(model.fixture, "pth");
    let refuse = |command: Command, code: i32, words: &[&str]| {
        let said = expect(command, code);
        assert!(words.iter().all(|word| said.contains(word)), "{words:?}: {said}");
        let left: Vec<_> =
            std::fs::read_dir(dir.path()).expect("a folder").flatten().map(|e| e.file_name()).collect();
        assert!(
            left.iter().all(|name| name != "run" && !name.to_string_lossy().starts_with(".adopt")),
            "{left:?}"
        );
    };
    refuse(adopt(&pth(coda), l2p, &run, &[]), 1, &["no checkpoint of this program", "patch_embed"]);
    refuse(adopt(&pth(dual), l2p, &run, &[]), 1, &["`prompt.prompt`"]);
    let pilot = Model { from: "pilot", ..*l2p };
    refuse(adopt(&pth(l2p), &pilot, &run, &[]), 1, &["PILOT", "cannot be adopted"]);
    let other = Model { config: "cifar100_coda", sets: CODA, ..*l2p };
    refuse(adopt(&pth(l2p), &other, &run, &[]), 2, &["method", "`l2p`", "`coda_prompt`"]);
    let more = &["--set", "prompt_pool.pool_size=7"];
    refuse(adopt(&pth(l2p), l2p, &run, more), 2, &["[6, 2, 20]", "prompt_pool.pool_size"]);
    let more = &["--set", "continual.num_classes_per_task=1", "--set", "data.classes=[0,1,2,3,4]"];
    refuse(adopt(&pth(l2p), l2p, &run, more), 2, &["head.", "classes of the data set"]);
    let more = &["--set", "coda.layers=[0,1,2]"];
    refuse(adopt(&pth(coda), coda, &run, more), 2, &["no place for `prompt.e_", "coda.layers"]);
    let more = &["--set", "g_prompt.g_prompt_length=0"];
    refuse(adopt(&pth(dual), dual, &run, more), 2, &["no place for `g_prompt`"]);
    let more = &["--set", "model.freeze_part=[]"];
    refuse(adopt(&pth(l2p), l2p, &run, more), 2, &["frozen backbone"]);
    refuse(adopt(&pth(l2p), l2p, &run, &["--tasks", "6"]), 2, &["--tasks", "between 1 and", "found 6"]);
    refuse(adopt(&pth(l2p), l2p, &run, &["--init-checkpoint", "bundled:micro"]), 2, &["--init-checkpoint"]);
    refuse(adopt(&dir.path().join("none.pth"), l2p, &run, &[]), 1, &["none.pth"]);
    // Damaged, and a pickle that wants to call something.
    let bytes = std::fs::read(pth(l2p)).expect("a file");
    let damaged = dir.path().join("damaged.pth");
    std::fs::write(&damaged, &bytes[..bytes.len() / 2]).expect("a file");
    refuse(adopt(&damaged, l2p, &run, &[]), 1, &["damaged.pth"]);
    let at = bytes.windows(8).position(|word| word == b"argparse").expect("settings");
    let mut evil = bytes.clone();
    evil[at..at + 8].copy_from_slice(b"argparzz");
    std::fs::write(&damaged, &evil).expect("a file");
    let said = expect(adopt(&damaged, l2p, &run, &[]), 1);
    assert!(said.contains("argparzz.Namespace") || said.contains("damaged"), "{said}");
    // Tensors of odd shapes.
    let odd = dir.path().join("odd.safetensors");
    for (rows, words) in [(0, "no table"), (1, "no table"), (4, "square of patches")] {
        let values = vec![0u8; 4 * 4 * rows];
        let of = |shape: &[usize], n: usize| {
            safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.to_vec(), &values[..4 * n])
                .expect("a tensor")
        };
        let names =
            ["prompt.prompt", "prompt.prompt_key", "head.weight", "head.bias", "patch_embed.proj.weight"];
        let mut tensors: Vec<_> = names.iter().map(|name| (*name, of(&[0], 0))).collect();
        tensors.push(("pos_embed", of(&[1, rows, 4], 4 * rows)));
        let bytes = safetensors::serialize(tensors, None).expect("bytes");
        std::fs::write(&odd, bytes).expect("a file");
        refuse(adopt(&odd, l2p, &run, &[]), 1, &["pos_embed", words]);
    }
    // A folder that holds something.
    std::fs::create_dir(&run).expect("a folder");
    std::fs::write(run.join("note.txt"), "mine").expect("a file");
    let said = expect(adopt(&pth(l2p), l2p, &run, &[]), 2);
    assert!(said.contains("not an empty folder"), "{said}");
}
