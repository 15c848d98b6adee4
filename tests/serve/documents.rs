//! What the server says of itself: OpenAPI, the page, `docs/serve.md`.

use super::common::lanes::deep;
use super::common::pictures::files;
use super::start;
use std::path::Path;
use std::process::Command;

#[test]
fn every_route_is_described() {
    let dir = tempfile::tempdir().expect("a folder");
    let server = start(dir.path(), &[]);
    let document = server.get("/openapi.json").json();
    assert_eq!(document["openapi"], "3.1.0");
    let paths: Vec<&String> = document["paths"].as_object().expect("paths").keys().collect();
    let wanted = [
        "/healthz",
        "/metrics",
        "/v1/classes",
        "/v1/jobs/{job}",
        "/v1/jobs/{job}/events",
        "/v1/model",
        "/v1/predict",
        "/v1/versions",
        "/v1/versions/{number}/activate",
    ];
    assert_eq!(paths, wanted);
    for reference in document.to_string().split("\"#/components/schemas/").skip(1) {
        let name = reference.split('"').next().expect("a name");
        assert!(document["components"]["schemas"][name].is_object(), "{name} is not described");
    }
}

#[test]
fn the_page_may_run_its_own_script_and_nothing_else() {
    let dir = tempfile::tempdir().expect("a folder");
    let server = start(dir.path(), &[]);
    let page = server.get("/");
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    let policy = page.header("content-security-policy").expect("a policy");
    assert!(policy.starts_with("default-src 'none'; script-src 'sha256-"), "{policy}");
    assert!(!policy.contains("unsafe"), "{policy}");
    for (name, value) in
        [("x-content-type-options", "nosniff"), ("x-frame-options", "DENY"), ("cache-control", "no-store")]
    {
        assert_eq!(page.header(name), Some(value));
    }
    let text = page.text();
    for bad in [
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "http://",
        "https://",
        "onclick=",
        "style=\"",
    ] {
        let found = text.replace("http://www.w3.org/2000/svg", "").contains(bad);
        assert!(!found, "the page has {bad}");
    }
}

#[test]
fn commands_of_the_document_work() {
    if Command::new("curl").arg("--version").output().is_err() {
        eprintln!("skipped: the commands of docs/serve.md (no curl)");
        return;
    }
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/serve.md"))
        .expect("the document");
    let commands: Vec<&str> = text.lines().filter(|line| line.starts_with("curl ")).collect();
    assert!(commands.len() >= 6, "{commands:?}");
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(dir.path().join("ring")).expect("a folder");
    for (i, file) in files("ring", 8).iter().enumerate() {
        std::fs::write(dir.path().join(format!("ring/{}.png", i + 1)), file).expect("an image");
        std::fs::write(dir.path().join(if i == 0 { "image.png" } else { "other.png" }), file)
            .expect("an image");
    }
    let server = start(dir.path(), &[]);
    for command in commands {
        let here = command.replace("127.0.0.1:7860", &server.address.to_string()).replacen(
            "curl ",
            "curl --fail-with-body -sS ",
            1,
        );
        let output =
            Command::new("sh").args(["-c", &here]).current_dir(dir.path()).output().expect("a shell");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{command}: {said}{}", String::from_utf8_lossy(&output.stderr));
        assert!(!said.is_empty(), "{command} says nothing");
    }
}

#[test]
fn deep_schemathesis_finds_nothing() {
    if !deep("requests that schemathesis makes of the OpenAPI document") {
        return;
    }
    if Command::new("schemathesis").arg("--version").output().is_err() {
        eprintln!(
            "skipped: requests made of the OpenAPI document (no schemathesis; pip install schemathesis)"
        );
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let server = start(dir.path(), &[]);
    let mut command = Command::new("schemathesis");
    command.arg("run").arg(format!("http://{}/openapi.json", server.address)).current_dir(dir.path());
    // Text that a schema allows is seldom an image, so that requests it means to be right are refused with 422.
    command.args(["--exclude-checks", "positive_data_acceptance", "--max-examples", "40", "--seed", "1"]);
    let output = command.output().expect("schemathesis starts");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(server.get("/v1/versions").json().as_array().expect("a list").len(), 1);
}
