//! Bad requests: each gets its status code and a sentence, and the server answers on.

use super::common::http::{self, JSON, MULTIPART, form};
use super::common::lanes::{deep, fuzz_cases};
use super::common::pictures::files;
use super::common::process::{engine, expect};
use super::common::server::Server;
use super::mutate::Mutator;
use super::{base64, run, start};
use serde_json::json;
use std::io::Write;

fn sentence(answer: &http::Answer) -> String {
    assert_eq!(answer.header("content-type"), Some("application/json"), "{answer:?}");
    let text = answer.json()["error"].as_str().expect("a sentence").to_string();
    assert!(text.len() > 10 && !text.contains("panicked") && !text.contains("/tmp"), "{text}");
    text
}

/// A PNG of one colour whose head says that it has these extents.
fn announced(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = files("ring", 1).remove(0);
    bytes[16..20].copy_from_slice(&width.to_be_bytes());
    bytes[20..24].copy_from_slice(&height.to_be_bytes());
    bytes
}

/// What is wrong, the status, method and path, headers, body.
type Case<'a> = (&'a str, u16, &'a str, &'a str, Vec<(&'a str, &'a str)>, Vec<u8>);

#[test]
fn every_bad_request_has_its_status_and_a_sentence() {
    let dir = tempfile::tempdir().expect("a folder");
    let server = start(dir.path(), &["--max-pixels", "1000000", "--max-batch", "4", "--max-queue", "8"]);
    let image = &files("ring", 1)[0];
    let one = form(&[], [image]);
    let as_json = |value: serde_json::Value| value.to_string().into_bytes();
    let mut big = std::io::Cursor::new(Vec::new());
    image::GrayImage::new(1001, 1000).write_to(&mut big, image::ImageFormat::Png).expect("a PNG");
    let big = big.into_inner();
    let cases: Vec<Case> = vec![
        ("no such path", 404, "GET", "/v1/nothing", vec![], vec![]),
        ("a path that climbs", 404, "GET", "/../../etc/passwd", vec![], vec![]),
        ("another method", 405, "GET", "/v1/predict", vec![], vec![]),
        ("another method", 405, "POST", "/v1/model", vec![], vec![]),
        ("no content type", 415, "POST", "/v1/predict", vec![], one.clone()),
        (
            "a form that a page of another site can send",
            415,
            "POST",
            "/v1/predict",
            vec![("content-type", "text/plain")],
            one.clone(),
        ),
        (
            "no boundary",
            400,
            "POST",
            "/v1/predict",
            vec![("content-type", "multipart/form-data")],
            one.clone(),
        ),
        (
            "another boundary",
            400,
            "POST",
            "/v1/predict",
            vec![("content-type", "multipart/form-data; boundary=x")],
            one.clone(),
        ),
        ("no parts", 422, "POST", "/v1/predict", vec![MULTIPART], form(&[], [])),
        ("an empty body", 400, "POST", "/v1/predict", vec![MULTIPART], vec![]),
        (
            "a body that ends early",
            400,
            "POST",
            "/v1/predict",
            vec![MULTIPART],
            one[..one.len() - 30].to_vec(),
        ),
        (
            "another part",
            422,
            "POST",
            "/v1/predict",
            vec![MULTIPART],
            form(&[("path", "/etc/passwd")], [image]),
        ),
        ("text for an image", 422, "POST", "/v1/predict", vec![MULTIPART], form(&[], [&b"hello".to_vec()])),
        ("an empty image", 422, "POST", "/v1/predict", vec![MULTIPART], form(&[], [&vec![]])),
        ("a damaged image", 422, "POST", "/v1/predict", vec![MULTIPART], form(&[], [&image[..60].to_vec()])),
        ("many pixels", 413, "POST", "/v1/predict", vec![MULTIPART], form(&[], [&big])),
        (
            "more pixels than bytes can hold",
            422,
            "POST",
            "/v1/predict",
            vec![MULTIPART],
            form(&[], [&announced(60000, 60000)]),
        ),
        ("many images", 413, "POST", "/v1/predict", vec![MULTIPART], form(&[], &files("ring", 5))),
        (
            "many images",
            413,
            "POST",
            "/v1/predict",
            vec![JSON],
            as_json(json!({ "images": vec![base64(image); 5] })),
        ),
        ("no JSON", 400, "POST", "/v1/predict", vec![JSON], b"{".to_vec()),
        ("other JSON", 422, "POST", "/v1/predict", vec![JSON], as_json(json!({ "images": 3 }))),
        (
            "an unknown key",
            422,
            "POST",
            "/v1/predict",
            vec![JSON],
            as_json(json!({ "images": [], "path": "x" })),
        ),
        ("no images", 422, "POST", "/v1/predict", vec![JSON], as_json(json!({ "images": [] }))),
        ("no base64", 422, "POST", "/v1/predict", vec![JSON], as_json(json!({ "images": ["!"] }))),
        ("no number", 400, "POST", "/v1/predict?top=x", vec![MULTIPART], one.clone()),
        ("none", 400, "POST", "/v1/predict?top=0", vec![MULTIPART], one.clone()),
        ("an unknown option", 400, "POST", "/v1/predict?path=/etc", vec![MULTIPART], one.clone()),
        ("no name", 422, "POST", "/v1/classes", vec![MULTIPART], form(&[], &files("ring", 6))),
        (
            "two names",
            422,
            "POST",
            "/v1/classes",
            vec![MULTIPART],
            form(&[("name", "a"), ("name", "b")], &files("ring", 6)),
        ),
        (
            "no truth",
            422,
            "POST",
            "/v1/classes",
            vec![MULTIPART],
            form(&[("name", "a"), ("update", "yes")], &files("ring", 6)),
        ),
        ("no class", 415, "POST", "/v1/classes", vec![], vec![]),
        ("no number", 400, "POST", "/v1/versions/x/activate", vec![], vec![]),
        ("a large number", 400, "POST", "/v1/versions/99999999999/activate", vec![], vec![]),
        ("no such version", 404, "POST", "/v1/versions/7/activate", vec![], vec![]),
        ("no such job", 404, "GET", "/v1/jobs/7", vec![], vec![]),
        ("no such job", 404, "GET", "/v1/jobs/7/events", vec![], vec![]),
        ("a name that leads here", 403, "GET", "/v1/model", vec![("host", "evil.example")], vec![]),
        ("a name that leads here", 403, "GET", "/", vec![("host", "evil.example:80")], vec![]),
        (
            "another site",
            403,
            "POST",
            "/v1/predict",
            vec![MULTIPART, ("origin", "http://evil.example")],
            one.clone(),
        ),
        ("another site", 403, "POST", "/v1/versions/1/activate", vec![("origin", "null")], vec![]),
        (
            "another site",
            403,
            "POST",
            "/v1/classes",
            vec![MULTIPART, ("sec-fetch-site", "cross-site")],
            one.clone(),
        ),
    ];
    for (what, status, method, path, headers, body) in cases {
        let answer = http::send(server.address, method, path, &headers, &body);
        assert_eq!(answer.status, status, "{what} ({method} {path}): {}", answer.text());
        sentence(&answer);
        assert_eq!(answer.header("access-control-allow-origin"), None, "{what}");
    }
    // A length that is too large is refused before anything is read.
    let mut client = server.client();
    let headers = [MULTIPART, ("content-length", "99999999999"), ("expect", "100-continue")];
    client.write("POST", "/v1/predict", &headers, b"").expect("a head");
    let answer = client.read().expect("an answer");
    assert_eq!(answer.status, 413, "{}", answer.text());
    // So is a body in chunks that does not end.
    let mut client = server.client();
    client
        .write(
            "POST",
            "/v1/predict",
            &[MULTIPART, ("transfer-encoding", "chunked"), ("content-length", "0")],
            b"",
        )
        .expect("a head");
    drop(client);
    let mut client = server.client();
    let head = format!(
        "POST /v1/predict HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n",
        server.address
    );
    let stream = client.stream.get_mut();
    stream.write_all(head.as_bytes()).expect("a head");
    let chunk = [b"100000\r\n".to_vec(), vec![b' '; 0x10_0000], b"\r\n".to_vec()].concat();
    for _ in 0..40 {
        if stream.write_all(&chunk).is_err() {
            break;
        }
    }
    assert_eq!(client.read().expect("an answer").status, 413);
    // No HTTP at all.
    let mut client = server.client();
    client
        .stream
        .get_mut()
        .write_all(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n")
        .expect("bytes");
    assert!(client.read().map_or(true, |answer| answer.status == 400));
    assert_eq!(server.predict(std::slice::from_ref(image))["version"], 1, "and it answers on");
}

#[test]
fn an_address_that_others_reach_wants_a_token() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut open = engine();
    open.args(["serve", "--listen", "0.0.0.0:0", "--workdir"]).arg(run());
    assert!(expect(open, 2).contains("--token-file"));
    let file = dir.path().join("token");
    std::fs::write(&file, "short\n").expect("a file");
    let path = file.to_str().expect("UTF-8");
    let mut weak = engine();
    weak.args(["serve", "--listen", "0.0.0.0:0", "--token-file", path, "--workdir"]).arg(run());
    assert!(expect(weak, 2).contains("16 or more"));
    std::fs::write(&file, "0123456789abcdef0123\n").expect("a file");
    let server = start(dir.path(), &["--token-file", path]);
    for (path, with) in
        [("/v1/model", 401), ("/metrics", 401), ("/healthz", 200), ("/", 200), ("/openapi.json", 200)]
    {
        assert_eq!(server.get(path).status, with, "{path}");
    }
    let get = |value: &str| http::send(server.address, "GET", "/v1/model", &[("authorization", value)], b"");
    let refused = get("Bearer 0123456789abcdef0124");
    assert_eq!((refused.status, refused.header("www-authenticate")), (401, Some("Bearer")));
    assert!(sentence(&refused).contains("Authorization"));
    assert_eq!(get("Bearer 0123456789abcdef0123").status, 200);
}

#[test]
fn runs_that_cannot_be_served_are_refused_with_a_sentence() {
    let dir = tempfile::tempdir().expect("a folder");
    let refused = |args: &[&str], code: i32| {
        let mut command = engine();
        command.args(["serve", "--listen", "127.0.0.1:0"]).args(args);
        expect(command, code)
    };
    let nothing = dir.path().join("nothing");
    assert!(refused(&["--workdir", nothing.to_str().expect("UTF-8")], 1).contains("holds no run"));
    let path = run().to_str().expect("UTF-8");
    assert!(refused(&["--workdir", path, "--max-batch", "0"], 2).contains("--max-batch"));
    let server = start(dir.path(), &[]);
    let taken = server.address.to_string();
    let other = dir.path().join("other");
    let other = other.to_str().expect("UTF-8");
    let mut command = engine();
    command.args(["serve", "--workdir", path, "--versions", other, "--listen", &taken]);
    assert!(expect(command, 1).contains("--listen"));
}

/// Statuses that a body may get.
const REFUSED: [u16; 5] = [400, 409, 413, 415, 422];

#[test]
fn deep_damaged_bodies_are_answered_or_refused() {
    if !deep("damaged request bodies") {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let server = start(dir.path(), &[]);
    let images = files("ring", 3);
    let encoded: Vec<String> = images.iter().map(|image| base64(image)).collect();
    let forms = vec![form(&[], &images), form(&[("name", "ring"), ("update", "false")], &images)];
    let jsons = vec![
        json!({ "images": encoded }).to_string().into_bytes(),
        json!({ "name": "ring", "images": encoded, "update": false }).to_string().into_bytes(),
    ];
    let right = server.predict(&images);
    for path in ["/v1/predict", "/v1/classes"] {
        for (kind, seeds) in [(MULTIPART, &forms), (JSON, &jsons)] {
            for input in 0..fuzz_cases(100) {
                let body = Mutator::new(&format!("{path} {}", kind.1), input).input(seeds);
                let answer = server.post(path, &[kind], &body);
                // Three images are too few to teach a class.
                let fine = path == "/v1/predict" && answer.status == 200;
                assert!(fine || REFUSED.contains(&answer.status), "{path} {input}: {answer:?}");
                if !fine {
                    sentence(&answer);
                }
            }
        }
    }
    assert_eq!(server.predict(&images), right);
    // Damage to the head of a request.
    let head = format!(
        "POST /v1/predict?top=3 HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{{}}",
        server.address
    );
    for input in 0..fuzz_cases(100) {
        let bytes = Mutator::new("head", input).input(&[head.clone().into_bytes()]);
        let mut client = server.client();
        let _ = client.stream.get_mut().write_all(&bytes);
        let _ = client.stream.get_mut().shutdown(std::net::Shutdown::Write);
        // An answer, or the end of the connection.
        let _ = client.read();
    }
    assert_eq!(server.predict(&images), right);
    let left = std::fs::read_dir(dir.path().join("versions")).expect("the folder").count();
    assert_eq!(left, 1, "refused lessons leave nothing but the lock");
}

#[test]
fn a_client_that_goes_away_gives_its_place_back() {
    let dir = tempfile::tempdir().expect("a folder");
    let server = Server::start(run(), &["--versions", dir.path().to_str().expect("UTF-8")]);
    let body = form(&[("name", "ring")], &files("ring", 6));
    let length = body.len().to_string();
    let mut client = server.client();
    client
        .write("POST", "/v1/classes", &[MULTIPART, ("content-length", &length)], &body[..900])
        .expect("a part");
    while server.get("/metrics").text().contains("l2p_teaching 0") {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    assert_eq!(server.teach("cross", &files("cross", 6)).status, 409);
    drop(client);
    while server.get("/metrics").text().contains("l2p_teaching 1") {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    assert!(!dir.path().join("2").exists());
    assert_eq!(server.teach("cross", &files("cross", 6)).status, 202);
}
