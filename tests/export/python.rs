//! The scripts of `docs/from_python.md`.

use crate::common::process::expect;
use crate::common::python::{example, python_with, run as run_python};
use crate::common::server::Server;
use crate::onnx::small_run;
use crate::{answer, command, path};

const PAGE: &str = "docs/from_python.md";

#[test]
fn the_scripts_of_the_page_print_what_the_run_holds() {
    let Some(python) = python_with(&["safetensors", "numpy"]) else { return };
    let dir = tempfile::tempdir().expect("a folder");
    let run = dir.path().join("run");
    small_run(&run, "l2p", &[]);
    let results = std::fs::read_to_string(run.join("results.json")).expect("results");
    let results: serde_json::Value = serde_json::from_str(&results).expect("JSON");
    let said = run_python(&python, &example(PAGE, "## Results"), &[path(&run)]);
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines[0], "l2p mnist_subset 2 tasks");
    let average = results["per_image"]["avg_acc"].as_f64().expect("a number");
    assert!(lines[1].starts_with(&format!("average accuracy {average}")), "{said}");
    assert!(lines[4].starts_with("after task 2 [") && lines.len() == 5, "{said}");
    expect(command(&["export", "--workdir", path(&run)]), 0);
    let said = run_python(&python, &example(PAGE, "## Exports"), &[path(&run.with_extension("safetensors"))]);
    assert!(said.starts_with("['0', '1', "), "{said}");
    let kernel = said.lines().find(|line| line.starts_with("params/head/kernel "));
    assert_eq!(kernel, Some("params/head/kernel (128, 10)"), "{said}");
}

#[test]
fn the_script_of_the_page_asks_a_server() {
    // It needs nothing but Python.
    let Some(python) = python_with(&["json"]) else { return };
    let dir = tempfile::tempdir().expect("a folder");
    let run = dir.path().join("run");
    small_run(&run, "l2p", &[]);
    let images = ["a.png", "b.png"].map(|name| dir.path().join(name));
    for (step, image) in (1..).zip(&images) {
        let picture = image::GrayImage::from_fn(28, 28, |x, y| image::Luma([(x * y * step) as u8]));
        picture.save(image).expect("a picture");
    }
    let server = Server::start(&run, &[]);
    let address = format!("http://{}", server.address);
    let args = [address.as_str(), path(&images[0]), path(&images[1])];
    let said = run_python(&python, &example(PAGE, "## A server"), &args);
    for (line, image) in said.lines().zip(&images) {
        let wanted: serde_json::Value = serde_json::from_str(&answer(&run, image)).expect("an answer");
        let best = &wanted["classes"][0];
        let (name, probability) = (best["class"].as_str().expect("a name"), &best["probability"]);
        assert_eq!(line, format!("{} {name} {probability}", path(image)));
    }
    assert_eq!(said.lines().count(), 2, "{said}");
}
