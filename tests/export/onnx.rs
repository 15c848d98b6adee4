//! `export --format onnx` and `--format timm`, read by ONNX Runtime and timm themselves.

use crate::common::process::{expect, train};
use crate::common::python::{example, python_with, run as run_python};
use crate::{answer, command, path};
use l2p_engine::device::{Choice, Device};
use l2p_engine::learner::{SavedRun, ready};
use l2p_engine::ops::match_prompts::Select;
use l2p_engine::tensor::DType;
use std::path::Path;

/// Images of the largest batch; smaller ones are parts of it.
const IMAGES: usize = 17;

const KINDS: &[(&str, &[&str])] = &[
    ("l2p", &[]),
    (
        "l2p",
        &[
            "prompt_pool.embedding_key=mean_max",
            "prompt_pool.prompt_key=false",
            "prompt_pool.e_prompt_layer_idx=[0,2]",
            "model.norm_pre_logits=true",
            "model.temperature=0.5",
        ],
    ),
    ("l2p", &["model.token_order=cls_first", "model.vit_classifier=token+prompt", "model.gelu=erf"]),
    (
        "l2p",
        &[
            "prompt_pool.selection=fixed",
            "prompt_pool.pull_constraint_coeff=0",
            "model.vit_classifier=gap",
            "prompt_pool.e_prompt_layer_idx=[1]",
        ],
    ),
    ("l2p", &["model.freeze_part=[]", "optim.learning_rate=0.003"]),
    (
        "dualprompt",
        &[
            "model.vit_classifier=token",
            "prompt_pool.pool_size=2",
            "prompt_pool.top_k=1",
            "prompt_pool.use_prefix_tune_for_e_prompt=true",
            "prompt_pool.e_prompt_layer_idx=[1,2]",
            "g_prompt.g_prompt_length=3",
            "g_prompt.g_prompt_layer_idx=[0,1]",
            "g_prompt.use_prefix_tune_for_g_prompt=true",
        ],
    ),
    ("coda_prompt", &["coda.components=5", "coda.length=4", "coda.layers=[0,2]"]),
    ("s_prompts", &["continual.train_mask=false", "s_prompts.length=2", "s_prompts.centres=2"]),
    ("linear", &[]),
    ("finetune", &["optim.learning_rate=0.003"]),
    ("ncm", &[]),
    ("ranpac", &["ranpac.random_features=64"]),
    (
        "ranpac",
        &[
            "ranpac.random_features=50",
            "ranpac.adapter_width=3",
            "ranpac.adapter_epochs=2",
            "optim.optim=sgd",
        ],
    ),
];

/// A small run of two tasks, whose head has columns for classes that it never met.
pub fn small_run(run: &Path, method: &str, more: &[&str]) {
    let method_set = format!("method={method}");
    let sets = [&[method_set.as_str(), "continual.num_tasks=2"], more].concat();
    expect(train(run, &sets.iter().flat_map(|set| ["--set", *set]).collect::<Vec<_>>()), 0);
}

fn bytes(values: &[f64]) -> Vec<u8> {
    values.iter().flat_map(|&v| (v as f32).to_le_bytes()).collect()
}

/// Pixels between 0 and 1 (n, S, S, 3), the engine's logits and features for them, as files beside the run.
fn write_answers(run: &Path) {
    let mut saved = SavedRun::read(run).expect("a run");
    saved.locate_backbone(None).expect("its backbone");
    let mut learner = saved.learner(Choice { device: Device::Cpu, auto: false }, IMAGES).expect("a learner");
    let side = learner.preprocess.input_size();
    let pixels: Vec<f32> = (0..IMAGES * side * side * 3)
        .map(|i| (((i * 2_654_435_761) >> 7) % 256) as f32 / 255.0 * ((i / 9 % 5) as f32 / 4.0))
        .collect();
    let about = &learner.backbone;
    let normal: Vec<f32> =
        pixels.iter().enumerate().map(|(i, v)| (v - about.mean[i % 3]) / about.std[i % 3]).collect();
    let images = ready(DType::F32, side, &normal);
    let (dev, method) = (&learner.dev, &mut learner.method);
    let query = method.query(dev, images.view().into()).expect("queries");
    let choice = method.select(dev, query.view(), Select::PerImage).expect("a choice");
    let logits = method.logits(dev, images.view().into(), query.view(), &choice).expect("logits");
    let features = method.features(dev, images.view().into()).expect("features");
    let chosen = serde_json::to_string(&choice).expect("a list");
    let pixels: Vec<f64> = pixels.into_iter().map(f64::from).collect();
    for (name, content) in [
        ("pixels", bytes(&pixels)),
        ("normal", bytes(&images.to_f64())),
        ("logits", bytes(&logits.to_f64())),
        ("features", bytes(&features.to_f64())),
        ("chosen", chosen.into_bytes()),
    ] {
        std::fs::write(run.with_extension(name), content).expect(name);
    }
}

const COMPARE: &str = r##"
import json, sys, numpy, onnx, onnxruntime
for run in sys.argv[1:]:
    onnx.checker.check_model(onnx.load(run + ".onnx"), full_check=True)
    session = onnxruntime.InferenceSession(run + ".onnx", providers=["CPUExecutionProvider"])
    side = session.get_inputs()[0].shape[1]
    pixels = numpy.fromfile(run + ".pixels", "f4").reshape(17, side, side, 3)
    wanted = numpy.fromfile(run + ".logits", "f4").reshape(17, -1)
    about = session.get_modelmeta().custom_metadata_map
    seen, names = json.loads(about["classes_seen"]), json.loads(about["class_names"])
    assert len(names) == wanted.shape[1] and seen == [0, 1, 2, 3], (names, seen)
    assert len({tuple(row) for row in wanted.round(4).tolist()}) == 17, "the images must differ"
    outputs = [output.name for output in session.get_outputs()]
    chosen = numpy.array(json.load(open(run + ".chosen")))
    worst = 0
    for first, last in [(0, 17), (0, 1), (5, 8)]:
        found = dict(zip(outputs, session.run(None, {"images": pixels[first:last]})))
        logits = wanted[first:last]
        worst = max(worst, abs(found["logits"] - logits).max() / max(1, abs(wanted).max()))
        known = numpy.exp(logits[:, seen].astype("f8") - logits[:, seen].max(1, keepdims=True))
        known /= known.sum(1, keepdims=True)
        assert abs(found["probabilities"][:, seen] - known).max() < 1e-4
        assert abs(numpy.delete(found["probabilities"], seen, 1)).max(initial=0) == 0
        if "prompts" in found:
            assert (found["prompts"] == chosen.reshape(17, -1)[first:last]).all()
        if "component_weights" in found:
            assert abs(found["component_weights"] - chosen.reshape(17, -1)[first:last]).max() < 1e-5
    assert ("prompts" in outputs or "component_weights" in outputs) == (len(chosen) > 0), outputs
    assert worst < 1e-4, (run, worst)
    print(f"onnx {run.split('/')[-1]}: {worst:.1e}")
"##;

#[test]
fn onnx_runtime_gives_the_logits_of_every_method() {
    let Some(python) = python_with(&["onnx", "onnxruntime", "numpy"]) else { return };
    let dir = tempfile::tempdir().expect("a folder");
    let mut runs = Vec::new();
    for (i, (method, more)) in KINDS.iter().enumerate() {
        let run = dir.path().join(format!("{i}-{method}"));
        small_run(&run, method, more);
        expect(command(&["export", "--format", "onnx", "--workdir", path(&run)]), 0);
        write_answers(&run);
        runs.push(path(&run).to_string());
    }
    print!("{}", run_python(&python, COMPARE, &runs.iter().map(String::as_str).collect::<Vec<_>>()));
    let (file, again) = (dir.path().join("0-l2p.onnx"), dir.path().join("again.onnx"));
    expect(command(&["export", "--format", "onnx", "--workdir", &runs[0], "--out", path(&again)]), 0);
    let same = std::fs::read(file).expect("a file") == std::fs::read(again).expect("a file");
    assert!(same, "equal runs give equal bytes");
}

#[test]
fn the_onnx_example_of_the_document_says_what_predict_says() {
    let Some(python) = python_with(&["onnxruntime", "numpy", "PIL"]) else { return };
    let dir = tempfile::tempdir().expect("a folder");
    let (run, image) = (dir.path().join("run"), dir.path().join("image.png"));
    small_run(&run, "l2p", &[]);
    expect(command(&["export", "--format", "onnx", "--workdir", path(&run)]), 0);
    image::GrayImage::from_fn(28, 28, |x, y| image::Luma([(x * y) as u8])).save(&image).expect("a picture");
    let wanted: serde_json::Value = serde_json::from_str(&answer(&run, &image)).expect("an answer");
    let best = &wanted["classes"][0];
    let said = run_python(
        &python,
        &example("docs/export.md", "## ONNX"),
        &[path(&run.with_extension("onnx")), path(&image)],
    );
    let (name, probability) = said.trim().rsplit_once(' ').expect("a class and a probability");
    assert_eq!(name, best["class"].as_str().expect("a name"));
    let probability: f64 = probability.parse().expect("a number");
    assert!((probability - best["probability"].as_f64().expect("a number")).abs() < 1e-4, "{said} {best}");
}

const FEATURES: &str = r##"
import numpy
side = model.patch_embed.img_size[0]
for wanted, found in [("features", model.forward_features), ("logits", model)]:
    if wanted == "logits" and model.num_classes == 0:
        continue
    images = torch.tensor(numpy.fromfile(sys.argv[2] + ".normal", "f4").reshape(17, side, side, 3))
    with torch.no_grad():
        found = found(images.permute(0, 3, 1, 2)).numpy()
    found = found[:, 0] if wanted == "features" else found
    # Of a backbone that has learned, the features of the file are not those that queries have.
    if wanted == "logits" or sys.argv[3] == "frozen":
        expected = numpy.fromfile(sys.argv[2] + "." + wanted, "f4").reshape(17, -1)
        worst = abs(found - expected).max() / max(1, abs(expected).max())
        assert worst < 1e-4, (wanted, worst)
        print(f"timm {wanted}: {worst:.1e}")
assert (model.num_classes > 0) == (sys.argv[4] == "head")
"##;

#[test]
fn timm_loads_the_backbone_and_finds_the_same_features() {
    let Some(python) = python_with(&["timm", "torch", "safetensors", "numpy"]) else { return };
    let dir = tempfile::tempdir().expect("a folder");
    let script = example("docs/export.md", "## timm") + FEATURES;
    for (method, more, learned, head) in [
        ("l2p", &[][..], "frozen", "none"),
        ("linear", &["model.gelu=erf"], "frozen", "head"),
        ("finetune", &["optim.learning_rate=0.003"], "learned", "head"),
        ("ncm", &[], "frozen", "none"),
    ] {
        let run = dir.path().join(method);
        small_run(&run, method, more);
        expect(command(&["export", "--format", "timm", "--workdir", path(&run)]), 0);
        write_answers(&run);
        let file = dir.path().join(format!("{method}.timm.safetensors"));
        print!("{}", run_python(&python, &script, &[path(&file), path(&run), learned, head]));
    }
}

#[test]
fn prompts_that_are_drawn_have_no_onnx_form() {
    let dir = tempfile::tempdir().expect("a folder");
    let run = dir.path().join("run");
    small_run(&run, "l2p", &["prompt_pool.selection=random", "prompt_pool.pull_constraint_coeff=0"]);
    let said = expect(command(&["export", "--format", "onnx", "--workdir", path(&run)]), 2);
    assert!(said.contains("wanted `key` or `fixed`") && said.contains("safetensors"), "{said}");
    assert!(!run.with_extension("onnx").exists());
    let nowhere = dir.path().join("nowhere").join("file");
    for format in ["onnx", "timm"] {
        small_run(&dir.path().join(format), "ncm", &[]);
        let run = dir.path().join(format);
        let args = ["export", "--format", format, "--workdir", path(&run), "--out", path(&nowhere)];
        let said = expect(command(&args), 1);
        assert!(said.contains("nowhere"), "{said}");
    }
}

#[test]
fn a_graph_above_two_gigabytes_is_refused() {
    use l2p_engine::onnx::{Element, Graph, MOST_BYTES};
    let mut g = Graph::default();
    let x = g.input("x", &[1]);
    let doubled = g.add(&x, &x);
    g.output("y", &doubled, Element::F32, &[1]);
    let mut file = Vec::new();
    let entry = [("k", "v".repeat(1000))];
    g.finish("small", &entry).expect("a small graph").write(&mut file).expect("bytes");
    assert!(file.len() > 1000 && file.len() < 2000);
    let mut g = Graph::default();
    let entry = [("k", "v".repeat(MOST_BYTES))];
    g.input("x", &[1]);
    let said = g.finish("large", &entry).expect_err("too large").to_string();
    assert!(said.contains("2 GiB") && said.contains("safetensors"), "{said}");
}
