//! `serve` as a process: answers beside those of `predict`, classes that are taught, versions, kills, and requests of
//! every bad kind.

#[path = "../common/mod.rs"]
mod common;
mod documents;
mod refusals;
mod teaching;

#[path = "../hardening/mutate.rs"]
mod mutate;

use common::http::{Client, JSON, MULTIPART, form};
use common::pictures::files;
use common::process::{engine, expect, train};
use common::server::Server;
use serde_json::{Value, json};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

/// A run of two tasks of two digits that all tests read: each with versions of its own.
pub fn run() -> &'static Path {
    static RUN: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let (_, run) = RUN.get_or_init(|| {
        let dir = tempfile::tempdir().expect("a folder");
        let run = dir.path().join("digits");
        expect(train(&run, &["--set", "continual.num_tasks=2"]), 0);
        (dir, run)
    });
    run
}

/// A server of [`run`] with versions in `dir`.
pub fn start(dir: &Path, more: &[&str]) -> Server {
    let versions = dir.join("versions");
    let own = ["--versions", versions.to_str().expect("UTF-8")];
    Server::start(run(), &[&own, more].concat())
}

pub fn base64(bytes: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// The answers of `predict` for these images, in the form of the server's.
fn predicted(workdir: &Path, images: &[Vec<u8>]) -> Vec<Value> {
    let dir = tempfile::tempdir().expect("a folder");
    let mut command = engine();
    command.args(["predict", "--device", "cpu", "--json", "--workdir"]).arg(workdir);
    for (i, image) in images.iter().enumerate() {
        let path = dir.path().join(format!("{i:03}.png"));
        std::fs::write(&path, image).expect("an image");
        command.arg(path);
    }
    let lines = expect(command, 0);
    let answer = |line: &str| {
        let line: Value = serde_json::from_str(line).expect("JSON");
        json!({ "prompts": line["prompts"], "classes": line["classes"] })
    };
    lines.lines().filter(|line| line.starts_with('{')).map(answer).collect()
}

/// Some images of several kinds.
fn images() -> Vec<Vec<u8>> {
    ["ring", "cross", "bars", "frame"].into_iter().flat_map(|kind| files(kind, 3)).collect()
}

#[test]
fn answers_have_the_bits_of_predict_in_any_company() {
    let dir = tempfile::tempdir().expect("a folder");
    let server = start(dir.path(), &["--max-wait", "20"]);
    let images = images();
    // JSON has every digit, so equal text is equal bits.
    let wanted = predicted(run(), &images);
    assert_eq!(wanted.len(), images.len());
    let whole = server.predict(&images);
    assert_eq!(whole["version"], 1);
    assert_eq!(whole["answers"].as_array().expect("answers"), &wanted, "all in one request");
    let body = json!({ "images": images.iter().map(|image| base64(image)).collect::<Vec<_>>() });
    let answer = server.post("/v1/predict?top=1000", &[JSON], body.to_string().as_bytes());
    assert_eq!(answer.json()["answers"].as_array().expect("answers"), &wanted, "as JSON");
    for (image, wanted) in images.iter().zip(&wanted) {
        assert_eq!(&server.predict(std::slice::from_ref(image))["answers"][0], wanted, "alone");
    }
    std::thread::scope(|scope| {
        for client in 0..32 {
            let (server, images, wanted) = (&server, &images, &wanted);
            scope.spawn(move || {
                let mut connection = server.client();
                for turn in 0..6 {
                    let i = (client + turn) % images.len();
                    let body = form(&[], [&images[i]]);
                    let answer = connection.send("POST", "/v1/predict?top=1000", &[MULTIPART], &body);
                    let answer = answer.expect("an answer");
                    assert_eq!(answer.status, 200, "{}", answer.text());
                    assert_eq!(answer.json()["answers"][0], wanted[i], "beside 31 others");
                }
            });
        }
    });
    let metrics = server.get("/metrics").text();
    let line = |name: &str| {
        let value = metrics.lines().find_map(|line| line.strip_prefix(name)).expect(name);
        value.trim().parse::<f64>().expect("a number")
    };
    let (answered, batches) = (line("l2p_batch_images_sum"), line("l2p_batch_images_count"));
    assert_eq!(answered, (3 * images.len() + 32 * 6) as f64);
    assert!(
        batches < answered / 1.5,
        "{batches} batches for {answered} images: they were not answered together"
    );
}

#[test]
fn an_exported_file_answers_the_same_and_is_not_taught() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("digits.safetensors");
    let mut export = engine();
    export.args(["export", "--workdir"]).arg(run()).arg("--out").arg(&file);
    expect(export, 0);
    let server = Server::start(&file, &[]);
    let images = images();
    assert_eq!(server.predict(&images)["answers"].as_array().expect("answers"), &predicted(run(), &images));
    let refused = server.teach("ring", &files("ring", 6));
    assert_eq!(refused.status, 409);
    assert!(
        refused.text().contains("start the server with the work directory of the run"),
        "{}",
        refused.text()
    );
    assert!(server.get("/v1/model").json()["not_taught"].is_string());
    let left: Vec<_> = std::fs::read_dir(dir.path()).expect("the folder").collect();
    assert_eq!(left.len(), 1, "nothing is written beside the file: {left:?}");
}

#[test]
fn sigterm_ends_after_open_requests_are_answered() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut server = start(dir.path(), &[]);
    let body = form(&[], &files("ring", 1));
    let length = body.len().to_string();
    let mut slow = server.client();
    let headers = [MULTIPART, ("content-length", length.as_str())];
    slow.write("POST", "/v1/predict", &headers, &body[..body.len() / 2]).expect("half a request");
    let mut idle = server.client();
    assert_eq!(idle.send("GET", "/healthz", &[], b"").expect("an answer").status, 200);
    server.signal("-TERM");
    // The idle connection is closed when the server has heard of the signal.
    assert!(idle.read().is_err());
    slow.stream.get_mut().write_all(&body[body.len() / 2..]).expect("the other half");
    assert_eq!(slow.read().expect("an answer").status, 200);
    assert_eq!(server.wait().code(), Some(0));
    assert!(Client::connect(server.address).is_err());
}

#[test]
fn a_full_queue_refuses_and_says_when_to_come_back() {
    let dir = tempfile::tempdir().expect("a folder");
    let server = start(dir.path(), &["--max-batch", "1", "--max-queue", "1"]);
    let mut large = std::io::Cursor::new(Vec::new());
    image::GrayImage::from_fn(2000, 2000, |x, y| image::Luma([(x * y % 251) as u8]))
        .write_to(&mut large, image::ImageFormat::Png)
        .expect("a PNG");
    let body = form(&[], [&large.into_inner()]);
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let ask = || {
            let answer = server.post("/v1/predict", &[MULTIPART], &body);
            if answer.status == 503 {
                assert_eq!(answer.header("retry-after"), Some("1"));
                assert!(answer.json()["error"].as_str().expect("a sentence").contains("later"));
            }
            answer.status
        };
        let all: Vec<_> = (0..12).map(|_| scope.spawn(ask)).collect();
        all.into_iter().map(|thread| thread.join().expect("a client")).collect()
    });
    assert!(statuses.iter().all(|status| [200, 503].contains(status)), "{statuses:?}");
    assert!(statuses.contains(&200) && statuses.contains(&503), "{statuses:?}");
    // Places of refused requests are given back.
    assert_eq!(server.predict(&files("ring", 1))["version"], 1);
}

#[test]
fn connections_that_send_nothing_are_closed() {
    let dir = tempfile::tempdir().expect("a folder");
    let server = start(dir.path(), &[]);
    let mut slow = server.client();
    slow.stream.get_mut().write_all(b"GET /v1/model HTTP/1.1\r\nhost").expect("a part of a head");
    slow.stream.get_mut().set_read_timeout(Some(Duration::from_secs(120))).expect("a timeout");
    let closed = match slow.read() {
        Ok(answer) => answer.status == 408,
        Err(e) => e.kind() != std::io::ErrorKind::WouldBlock,
    };
    assert!(closed, "the connection stays open");
}
