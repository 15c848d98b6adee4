//! Classes that are taught to a server, and its versions.

use super::common::http::JSON;
use super::common::pictures::files;
use super::common::process::{engine, expect};
use super::common::server::Server;
use super::{base64, run, start};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Every file below a folder with its bytes.
fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir(dir).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            all.extend(contents(&path));
        } else {
            all.insert(path.clone(), std::fs::read(&path).expect("a file"));
        }
    }
    all
}

/// Teaches a class and returns its job when it is over.
fn taught(server: &Server, name: &str, kind: &str) -> Value {
    let started = server.teach(name, &files(kind, 10));
    assert_eq!(started.status, 202, "{}", started.text());
    let job = started.json();
    assert_eq!(started.header("location"), Some(format!("/v1/jobs/{}", job["job"]).as_str()));
    let events = server.events(job["job"].as_u64().expect("a number"));
    let (last, progress) = events.split_last().expect("events");
    assert!(progress.iter().all(|(name, _)| name == "progress"), "{events:?}");
    for phase in ["learning", "testing"] {
        let of_phase = events.iter().filter(|(_, job)| job["phase"] == phase);
        let steps: Vec<u64> = of_phase.map(|(_, job)| job["step"].as_u64().expect("a number")).collect();
        // Of states that come faster than they are read, the last is sent.
        assert!(steps.is_sorted(), "{phase}: {events:?}");
        assert!(phase == "testing" || steps.last() > Some(&0), "{events:?}");
    }
    assert_eq!(last.0, "done", "{events:?}");
    assert_eq!(server.get(&format!("/v1/jobs/{}", job["job"])).json(), last.1);
    last.1.clone()
}

fn versions(server: &Server) -> Vec<(u64, bool)> {
    let all = server.get("/v1/versions").json();
    let of = |v: &Value| (v["number"].as_u64().expect("a number"), v["active"] == true);
    all.as_array().expect("a list").iter().map(of).collect()
}

fn best(server: &Server, kind: &str) -> Vec<String> {
    let answers = server.predict(&files(kind, 10));
    let answers = answers["answers"].as_array().expect("answers").clone();
    answers.iter().map(|a| a["classes"][0]["class"].as_str().expect("a name").to_string()).collect()
}

#[test]
fn a_taught_class_is_a_version_that_can_be_undone_and_survives_a_kill() {
    let dir = tempfile::tempdir().expect("a folder");
    let before = contents(run());
    let mut server = start(dir.path(), &[]);
    let names: Vec<Value> = server.get("/v1/model").json()["classes"].as_array().expect("names").clone();
    let of_first = server.predict(&files("ring", 10));
    // A name is text: of a path, of HTML, of a list.
    let hostile = "../../<img src=x onerror=alert(1)>, \"ring\"\t0";
    let refused = server.teach(hostile, &files("ring", 10));
    assert_eq!(refused.status, 422, "a tab is no visible character: {}", refused.text());
    let hostile = "../../<img src=x onerror=alert(1)>, \"ring\" #0";
    let job = taught(&server, hostile, "ring");
    assert_eq!((&job["class"], &job["version"], &job["images"]), (&json!(hostile), &json!(2), &json!(10)));
    assert_eq!(versions(&server), [(1, false), (2, true)]);
    assert_eq!(best(&server, "ring"), vec![hostile; 10]);
    let again = server.teach(hostile, &files("ring", 10));
    assert_eq!(again.status, 409, "{}", again.text());
    // A number is a name like any other.
    assert_eq!(taught(&server, "70", "cross")["version"], 3);
    let now: Vec<Value> = server.get("/v1/model").json()["classes"].as_array().expect("names").clone();
    assert_eq!(now, [&names[..], &[json!(hostile), json!("70")]].concat());
    let all = server.get("/v1/versions").json();
    assert_eq!(
        (&all[2]["parent"], &all[2]["class"], &all[2]["classes"]),
        (&json!(2), &json!("70"), &json!(6))
    );
    for version in all.as_array().expect("a list") {
        let mean = version["average_accuracy"].as_f64().expect("an accuracy");
        let tasks = version["task_accuracy"].as_array().expect("a list");
        assert!(
            (0.0..=1.0).contains(&mean)
                && tasks.len() as u64 == version["number"].as_u64().expect("a number") + 1
        );
    }
    let of_third = server.predict(&files("cross", 10));
    // Back to the original run: the same bits as in the beginning.
    assert_eq!(server.post("/v1/versions/1/activate", &[], b"").status, 200);
    assert_eq!(server.predict(&files("ring", 10)), of_first);
    assert_eq!(server.post("/v1/versions/4/activate", &[], b"").status, 404);
    assert_eq!(server.post("/v1/versions/3/activate", &[], b"").status, 200);
    server.signal("-KILL");
    server.wait();
    let server = start(dir.path(), &[]);
    assert!(server.says.contains("version 3, 6 classes"), "{}", server.says);
    assert_eq!(server.predict(&files("cross", 10)), of_third);
    assert_eq!(versions(&server), [(1, false), (2, false), (3, true)]);
    assert_eq!(contents(run()), before, "the original run is never changed");
    // The folder is in use.
    let mut second = engine();
    second.args(["serve", "--listen", "127.0.0.1:0", "--workdir"]).arg(run());
    second.arg("--versions").arg(dir.path().join("versions"));
    assert!(expect(second, 1).contains("another server uses these versions"));
}

#[test]
fn a_server_that_is_killed_while_it_learns_comes_back_with_the_last_whole_version() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut server = start(dir.path(), &[]);
    taught(&server, "ring", "ring");
    let body = json!({ "name": "cross", "images": files("cross", 10).iter().map(|i| base64(i)).collect::<Vec<_>>() });
    let started = server.post("/v1/classes", &[JSON], body.to_string().as_bytes());
    assert_eq!(started.status, 202, "{}", started.text());
    let busy = server.teach("bars", &files("bars", 10));
    assert_eq!(busy.status, 409, "one at a time: {}", busy.text());
    // Answers go on meanwhile.
    assert_eq!(server.predict(&files("ring", 1))["version"], 2);
    let half = dir.path().join("versions/3/run");
    let began = Instant::now();
    while !half.exists() && began.elapsed() < Duration::from_secs(300) {
        std::thread::sleep(Duration::from_millis(2));
    }
    server.signal("-KILL");
    server.wait();
    assert!(half.exists(), "the new run was begun");
    let mut server = start(dir.path(), &[]);
    assert_eq!(versions(&server), [(1, false), (2, true)]);
    assert!(!dir.path().join("versions/3").exists(), "the half version is gone");
    assert_eq!(best(&server, "ring"), vec!["ring"; 10]);
    // Of a server that is stopped in order as well.
    let started = server.teach("cross", &files("cross", 10));
    assert_eq!(started.status, 202, "{}", started.text());
    server.signal("-TERM");
    assert_eq!(server.wait().code(), Some(0));
    let server = start(dir.path(), &[]);
    let now = versions(&server);
    assert!(now == [(1, false), (2, true)] || now == [(1, false), (2, false), (3, true)], "{now:?}");
    assert_eq!(dir.path().join("versions/3").exists(), now.len() == 3);
}

#[test]
fn a_damaged_version_is_left_out_and_its_parent_answers() {
    let dir = tempfile::tempdir().expect("a folder");
    let server = start(dir.path(), &["--max-versions", "1", "--max-classes", "5"]);
    taught(&server, "ring", "ring");
    let more = server.teach("cross", &files("cross", 10));
    assert_eq!(more.status, 409);
    assert!(more.text().contains("--max-versions"), "{}", more.text());
    drop(server);
    let server = start(dir.path(), &["--max-classes", "5"]);
    let more = server.teach("cross", &files("cross", 10));
    assert!(more.status == 409 && more.text().contains("--max-classes"), "{}", more.text());
    drop(server);
    let checkpoints = dir.path().join("versions/2/run/checkpoints");
    for path in contents(&checkpoints).into_keys() {
        std::fs::write(path, b"damaged").expect("a file");
    }
    let server = start(dir.path(), &[]);
    assert_eq!(versions(&server), [(1, true)]);
    assert!(checkpoints.exists(), "what is in the index is not removed");
}

#[test]
fn lessons_that_fail_leave_nothing_behind() {
    let dir = tempfile::tempdir().expect("a folder");
    let server = start(dir.path(), &[]);
    let few = server.teach("ring", &files("ring", 4));
    assert!(few.status == 422 && few.text().contains("at least 5 images"), "{}", few.text());
    let mut damaged = files("ring", 6);
    damaged[3].truncate(40);
    let answer = server.teach("ring", &damaged);
    assert!(answer.status == 422 && answer.text().contains("image 4"), "{}", answer.text());
    for name in ["", " ", "a\u{202e}b", &"x".repeat(101)] {
        assert_eq!(server.teach(name, &files("ring", 6)).status, 422, "{name:?}");
    }
    let update = json!({ "name": "digit", "images": [base64(&files("ring", 1)[0])], "update": true });
    assert_eq!(server.post("/v1/classes", &[JSON], update.to_string().as_bytes()).status, 422);
    let left: Vec<_> = contents(&dir.path().join("versions")).into_keys().collect();
    assert_eq!(left, [dir.path().join("versions/lock")]);
    assert_eq!(versions(&server), [(1, true)]);
    assert_eq!(taught(&server, "ring", "ring")["version"], 2, "and the next lesson is learned");
}
