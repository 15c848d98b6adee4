//! Load on a server: `cargo bench --bench serve -- --workdir runs/default --seconds 60`.
//!
//! Starts `serve` on the run and lets clients send its test images as PNG files, each client one request after the other on
//! a connection of its own, for so many seconds. Beside it: what `eval` answers per second on the same images, timed right
//! before in this process. With `--teach N` a class of N drawn pictures is taught meanwhile. Prints one JSON object.

#[path = "../../tests/common/http.rs"]
#[allow(dead_code)]
mod http;

use clap::Parser;
use http::{Client, MULTIPART, form};
use l2p_engine::data::Subset;
use l2p_engine::device::Device;
use l2p_engine::learner::SavedRun;
use l2p_engine::train::Session;
use l2p_engine::train::evaluate::{self, QueryCache};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Cursor};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

#[derive(Debug, Parser)]
struct Args {
    #[arg(long, default_value = "runs/default")]
    workdir: PathBuf,
    /// At most ten minutes.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u64).range(1..=256))]
    clients: u64,
    /// Images of a class to teach while the clients send; 0: none.
    #[arg(long, default_value_t = 0)]
    teach: usize,
    /// Where the raw data set lies now, if it has moved.
    #[arg(long)]
    data_dir: Option<String>,
    /// More words for `serve`.
    #[arg(long, value_delimiter = ' ', allow_hyphen_values = true)]
    serve: Vec<String>,
    /// Passed by `cargo bench`; ignored.
    #[arg(long, hide = true)]
    bench: bool,
}

/// Most test images that are sent.
const IMAGES: usize = 512;

/// Images per second of `eval`, and test images as PNG files.
fn eval(args: &Args) -> (f64, Vec<Vec<u8>>) {
    let mut saved = SavedRun::read(&args.workdir).expect("a run");
    saved.locate_backbone(None).expect("its backbone");
    let mut config = saved.config.clone();
    if let Some(dir) = &args.data_dir {
        config.data.dir.clone_from(dir);
    }
    let (choice, _) = Device::choose("cpu").expect("a CPU");
    let mut session = Session::of_run(&saved, config, choice).expect("a session");
    let tasks = session.split.tests_after(saved.at.per_image.len() - 1);
    // The first time finds cold caches; the faster of two counts.
    let mut speed = 0.0f64;
    for _ in 0..2 {
        let mut cache = QueryCache::new(Subset::Test, session.split.tasks.len());
        let (began, mut images) = (Instant::now(), 0);
        for task in 0..tasks {
            images += evaluate::task(&mut session, &mut cache, task).expect("a score").images;
        }
        speed = speed.max(images as f64 / began.elapsed().as_secs_f64());
    }
    let all: Vec<u32> = session.split.tasks.iter().flat_map(|task| task.test.iter().copied()).collect();
    let step = all.len().div_ceil(IMAGES).max(1);
    let png = |&i: &u32| {
        let image = session.data.test.image(i as usize).expect("an image");
        let color = if image.channels == 1 { image::ColorType::L8 } else { image::ColorType::Rgb8 };
        let (mut bytes, width, height) = (Cursor::new(Vec::new()), image.width as u32, image.height as u32);
        image::write_buffer_with_format(
            &mut bytes,
            &image.pixels,
            width,
            height,
            color,
            image::ImageFormat::Png,
        )
        .expect("a PNG");
        bytes.into_inner()
    };
    (speed, all.iter().step_by(step).map(png).collect())
}

/// A server that ends with this program.
struct Server(Child, SocketAddr);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Server {
    fn start(args: &Args, versions: &std::path::Path) -> Server {
        let mut command = Command::new(env!("CARGO_BIN_EXE_l2p-engine"));
        command.args(["serve", "--device", "cpu", "--listen", "127.0.0.1:0", "--workdir"]).arg(&args.workdir);
        command.arg("--versions").arg(versions).args(&args.serve);
        if let Some(dir) = &args.data_dir {
            command.args(["--run-data-dir", dir]);
        }
        let mut child = command.stdout(Stdio::piped()).spawn().expect("the program starts");
        let mut says = String::new();
        BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut says).expect("a line");
        let address =
            says.split("http://").nth(1).and_then(|rest| rest.split('/').next()).expect("an address");
        Server(child, address.parse().expect("an address"))
    }

    fn resident_mib(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("0 kB");
        line.trim().trim_end_matches("kB").trim().parse::<f64>().unwrap_or(0.0) / 1024.0
    }
}

/// A request that was answered: when, counted from the start, and in how many seconds.
#[derive(Clone, Copy)]
struct Answered {
    at: f64,
    seconds: f64,
}

/// What a client saw: answers in time, and what went wrong.
fn client(
    address: SocketAddr,
    bodies: &[Vec<u8>],
    first: usize,
    began: Instant,
    end: f64,
) -> (Vec<Answered>, Vec<String>) {
    let (mut answers, mut errors) = (Vec::new(), Vec::new());
    let mut connection = Client::connect(address).expect("a connection");
    let mut next = first;
    while began.elapsed().as_secs_f64() < end && errors.len() < 10 {
        let sent = Instant::now();
        match connection.send("POST", "/v1/predict", &[MULTIPART], &bodies[next % bodies.len()]) {
            Ok(answer) if answer.status == 200 => answers
                .push(Answered { at: began.elapsed().as_secs_f64(), seconds: sent.elapsed().as_secs_f64() }),
            Ok(answer) => errors.push(format!("{} {}", answer.status, answer.text())),
            Err(e) => {
                errors.push(e.to_string());
                connection = Client::connect(address).expect("a connection");
            }
        }
        next += 7;
    }
    (answers, errors)
}

/// Images per second and latencies in milliseconds of the answers between two moments.
fn summary(answers: &[Answered], from: f64, to: f64) -> Value {
    let mut times: Vec<f64> =
        answers.iter().filter(|a| (from..to).contains(&a.at)).map(|a| 1e3 * a.seconds).collect();
    times.sort_by(f64::total_cmp);
    let at = |part: f64| times.get(((times.len() as f64 * part) as usize).min(times.len().saturating_sub(1)));
    let round = |value: f64| (10.0 * value).round() / 10.0;
    json!({
        "seconds": round(to - from), "images": times.len(), "images_per_second": round(times.len() as f64 / (to - from)),
        "p50_ms": at(0.5).map(|ms| round(*ms)), "p99_ms": at(0.99).map(|ms| round(*ms)),
    })
}

/// Teaches a class of stripes after a quarter of the time, and returns when it began and ended.
fn teach(address: SocketAddr, images: usize, began: Instant, seconds: f64) -> Value {
    std::thread::sleep(Duration::from_secs_f64(seconds / 4.0));
    let stripes = |i: usize| {
        let mut bytes = Cursor::new(Vec::new());
        let picture = image::GrayImage::from_fn(32, 32, |x, y| {
            image::Luma([if (x + y + i as u32).is_multiple_of(5) { 220 - i as u8 % 32 } else { 20 }])
        });
        picture.write_to(&mut bytes, image::ImageFormat::Png).expect("a PNG");
        bytes.into_inner()
    };
    let files: Vec<Vec<u8>> = (0..images).map(stripes).collect();
    let from = began.elapsed().as_secs_f64();
    let job = http::send(address, "POST", "/v1/classes", &[MULTIPART], &form(&[("name", "stripes")], &files));
    assert_eq!(job.status, 202, "{}", job.text());
    loop {
        let job = http::send(address, "GET", "/v1/jobs/1", &[], b"").json();
        if ["done", "failed"].iter().any(|phase| job["phase"] == *phase) {
            return json!({ "from": from, "to": began.elapsed().as_secs_f64(), "job": job });
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn main() {
    let args = Args::parse();
    let (eval, images) = eval(&args);
    let bodies: Vec<Vec<u8>> = images.iter().map(|image| form(&[], [image])).collect();
    let versions = tempfile::tempdir().expect("a folder");
    let server = Server::start(&args, &versions.path().join("versions"));
    let (address, seconds) = (server.1, args.seconds as f64);
    // The first answers find cold caches and are not counted.
    client(address, &bodies, 0, Instant::now(), 1.0);
    let began = Instant::now();
    let (mut answers, mut errors, mut memory, mut lesson) = (Vec::new(), Vec::new(), Vec::new(), None);
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..args.clients as usize)
            .map(|first| {
                scope.spawn({
                    let bodies = &bodies;
                    move || client(address, bodies, first, began, seconds)
                })
            })
            .collect();
        let teacher = (args.teach > 0).then(|| scope.spawn(|| teach(address, args.teach, began, seconds)));
        while began.elapsed().as_secs_f64() < seconds {
            memory.push(server.resident_mib().round());
            std::thread::sleep(Duration::from_secs_f64((seconds / 12.0).min(5.0)));
        }
        for client in clients {
            let (more, wrong) = client.join().expect("a client");
            answers.extend(more);
            errors.extend(wrong);
        }
        lesson = teacher.map(|teacher| teacher.join().expect("a teacher"));
    });
    let all = summary(&answers, 0.0, seconds);
    let speed = all["images_per_second"].as_f64().unwrap_or(0.0);
    let mut report = json!({
        "clients": args.clients, "all": all, "eval_images_per_second": (10.0 * eval).round() / 10.0,
        "ratio": (1000.0 * speed / eval).round() / 1000.0,
        "resident_mib_after": server.resident_mib().round(), "errors": errors.len(), "first_errors": errors.iter().take(3).collect::<Vec<_>>(), "resident_mib": memory,
    });
    if let Some(lesson) = lesson {
        let moment = |key: &str| lesson[key].as_f64().unwrap_or(0.0);
        report["while_teaching"] = summary(&answers, moment("from"), moment("to").min(seconds));
        report["taught"] = lesson;
    }
    println!("{report:#}");
}
