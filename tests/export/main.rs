//! `export`: one file that answers as the run does.

#[path = "../common/mod.rs"]
mod common;
mod onnx;
mod python;

use common::process::{engine, expect, train};
use std::path::Path;
use std::process::Command;

fn path(p: &Path) -> &str {
    p.to_str().expect("a UTF-8 path")
}

fn command(args: &[&str]) -> Command {
    let mut command = engine();
    command.args(args);
    command
}

/// What `predict` says of an image, with every prompt and probability.
fn answer(run: &Path, image: &Path) -> String {
    expect(command(&["predict", "--device", "cpu", "--json", "--workdir", path(run), path(image)]), 0)
}

#[test]
fn one_file_answers_as_the_run_does_and_needs_nothing_else() {
    let dir = tempfile::tempdir().expect("a folder");
    let image = dir.path().join("image.png");
    let picture = image::GrayImage::from_fn(28, 28, |x, y| image::Luma([(x * y) as u8]));
    picture.save(&image).expect("a picture");
    for (method, more) in [
        ("l2p", &["prompt_pool.diversified_selection=true"][..]),
        ("coda_prompt", &["coda.components=5", "coda.length=2", "coda.layers=[0,1]"]),
        ("s_prompts", &["continual.train_mask=false", "s_prompts.length=2", "s_prompts.centres=2"]),
        ("finetune", &["optim.learning_rate=0.003"]),
        ("ewc", &[]),
        ("lwf", &["lwf.warmup_epochs=1"]),
        ("ncm", &[]),
        ("ranpac", &["ranpac.random_features=64"]),
    ] {
        let (run, moved) = (dir.path().join(method), dir.path().join("moved").join(method));
        let file = dir.path().join(format!("{method}.safetensors"));
        let method_set = format!("method={method}");
        let sets = [&[method_set.as_str(), "continual.num_tasks=2"], more].concat();
        expect(train(&run, &sets.iter().flat_map(|set| ["--set", *set]).collect::<Vec<_>>()), 0);
        let wanted = answer(&run, &image);
        let said = expect(command(&["export", "--workdir", path(&run)]), 0);
        assert!(said.contains(path(&file)) && said.contains("4 classes"), "{said}");
        let bytes = std::fs::read(&file).expect("a file");
        let again = dir.path().join("again.safetensors");
        expect(command(&["export", "--workdir", path(&run), "--out", path(&again)]), 0);
        assert!(std::fs::read(&again).expect("a file") == bytes, "{method}: equal runs give equal bytes");
        std::fs::create_dir_all(&moved).expect("a folder");
        std::fs::remove_dir_all(&run).expect("a run less");
        let file = moved.join("model.safetensors");
        std::fs::write(&file, &bytes).expect("a file");
        assert_eq!(answer(&file, &image), wanted, "{method}");
        assert!(expect(command(&["inspect", path(&file)]), 0).contains("l2p-engine run 1"), "{method}");
    }
}

#[test]
fn bad_input_is_a_sentence() {
    let dir = tempfile::tempdir().expect("a folder");
    let (run, file) = (dir.path().join("run"), dir.path().join("run.safetensors"));
    let nowhere = dir.path().join("nowhere");
    expect(train(&run, &["--set", "continual.num_tasks=1"]), 0);
    let said = expect(command(&["export", "--workdir", path(&nowhere)]), 1);
    assert!(said.contains("holds no run"), "{said}");
    let said = expect(command(&["export", "--workdir", path(&run), "--format", "word"]), 2);
    assert!(said.contains("safetensors"), "{said}");
    let out = nowhere.join("file.safetensors");
    let said = expect(command(&["export", "--workdir", path(&run), "--out", path(&out)]), 1);
    assert!(said.contains("cannot be written"), "{said}");
    expect(command(&["export", "--workdir", path(&run)]), 0);
    let bytes = std::fs::read(&file).expect("a file");
    let predict = || command(&["predict", "--device", "cpu", "--workdir", path(&file), "image.png"]);
    for args in [&["eval"][..], &["export"], &["add-classes", "--data-dir", path(&nowhere)]] {
        let said = expect(command(&[args, &["--workdir", path(&file)]].concat()), 1);
        assert!(said.contains("wanted the work directory"), "{args:?}: {said}");
    }
    // Cut, of another version, no run at all.
    std::fs::write(&file, &bytes[..bytes.len() - 100]).expect("a file");
    assert!(expect(predict(), 1).contains("truncated"));
    let format = b"l2p-engine run 1";
    let at = bytes.windows(format.len()).position(|window| window == format).expect("a format");
    let mut other = bytes.clone();
    other[at + format.len() - 1] = b'9';
    std::fs::write(&file, &other).expect("a file");
    assert!(expect(predict(), 1).contains("must say format"));
    std::fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/micro.safetensors"), &file)
        .expect("a file");
    assert!(expect(predict(), 1).contains("no exported run"));
}
