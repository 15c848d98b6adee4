//! What a run leaves behind: metrics, tables, work directory, log, atomic files.
//! Checkpoints: `tests/checkpoint/main.rs`. Event files: `tests/tensorboard/main.rs`.

mod metrics;
#[path = "../common/signals.rs"]
mod signals;

use approx::assert_abs_diff_eq;
use l2p_engine::config::Config;
use l2p_engine::device::Device;
use l2p_engine::output::log::Log;
use l2p_engine::output::progress::{Clock, span};
use l2p_engine::output::results::{Baselines, Results, Score, Speed};
use l2p_engine::output::table::{self, Style};
use l2p_engine::output::{Workdir, atomic, signal};
use l2p_engine::tensor::{DType, plan::Plan};
use serde_json::{Value, json};
use signals::is_ignored;
use std::io::{self, BufRead};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

fn score() -> Score {
    Score::from_matrix(vec![vec![0.9], vec![0.75, 0.5]]).unwrap()
}

#[test]
fn results_survive_and_hide_what_is_not_finite() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("results.json");
    let mut results = Results {
        num_tasks: 3,
        seed: 42,
        per_image: score(),
        per_batch: Score::from_matrix(vec![vec![1.0 / 3.0], vec![0.0, f64::NAN]]).unwrap(),
        baselines: Baselines { ncm: Some(score()), ..Baselines::default() },
        images_per_second: Speed { train: 100.5, eval: f64::INFINITY },
        seconds: 1.25,
        ..Results::default()
    };
    results.write(&path).unwrap();
    let raw: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    for key in [
        "per_image",
        "per_batch",
        "baselines",
        "images_per_second",
        "seconds",
        "device",
        "seed",
        "config_hash",
        "checkpoint_sha256",
        "engine_version",
    ] {
        assert!(raw.get(key).is_some(), "{key}");
    }
    assert_eq!(raw["per_image"]["accuracy_matrix"], json!([[0.9], [0.75, 0.5]]));
    assert_eq!(raw["per_image"]["avg_acc"], json!(0.625));
    assert_abs_diff_eq!(raw["per_image"]["forgetting"].as_f64().unwrap(), 0.15, epsilon = 1e-15);
    assert_eq!(raw["per_batch"]["accuracy_matrix"], json!([[1.0 / 3.0], [0.0, null]]));
    assert_eq!(raw["per_batch"]["avg_acc"], Value::Null);
    assert_eq!(raw["images_per_second"]["eval"], Value::Null);
    // For one version the baselines are there under their earlier name, too; either name is read.
    assert_eq!(raw["floors"], raw["baselines"]);
    assert!(raw["baselines"]["ncm"]["avg_acc"].is_number());
    for name in ["floors", "baselines"] {
        let mut older = raw.clone();
        let gone = if name == "floors" { "baselines" } else { "floors" };
        older.as_object_mut().unwrap().remove(gone);
        let older_path = dir.path().join(format!("{name}.json"));
        std::fs::write(&older_path, older.to_string()).unwrap();
        assert_eq!(Results::read(&older_path).unwrap().baselines, results.baselines, "{name}");
    }
    let again = Results::read(&path).unwrap();
    assert_eq!(again.per_image, results.per_image);
    assert!(again.per_batch.accuracy_matrix[1][1].is_nan());
    results.per_batch = score();
    results.images_per_second.eval = 5.0;
    results.write(&path).unwrap();
    assert_eq!(Results::read(&path).unwrap(), results);
    assert_eq!(
        results.csv(),
        "selection,after_task,task_1,task_2,task_3\nper_image,1,0.9,,\nper_image,2,0.75,0.5,\n\
         per_batch,1,0.9,,\nper_batch,2,0.75,0.5,\n"
    );
    results.write_csv(&dir.path().join("accuracy_matrix.csv")).unwrap();
    std::fs::write(&path, "{\"seed\": \"x\"}").unwrap();
    assert!(Results::read(&path).unwrap_err().to_string().contains("is not a results.json"));
}

#[test]
fn tables_are_ascii_when_asked_and_stand_side_by_side() {
    let ascii = table::accuracy(&score(), Some(&score()), Style { unicode: false, width: 120 });
    assert!(ascii.is_ascii(), "{ascii}");
    assert!(ascii.lines().next().unwrap().contains("each image selects"));
    assert!(ascii.lines().next().unwrap().contains("batch vote"));
    assert!(ascii.contains("62.50") && ascii.contains("15.00"), "{ascii}");
    // Tasks are numbered from 1.
    let first: Vec<&str> = ascii.lines().nth(2).unwrap().split('|').map(str::trim).collect();
    assert_eq!(first[1..5], ["after task", "1", "2", "avg"], "{ascii}");
    assert!(ascii.lines().nth(4).unwrap().starts_with("| 1 "), "{ascii}");
    let narrow = table::accuracy(&score(), Some(&score()), Style { unicode: true, width: 50 });
    assert!(narrow.lines().count() > ascii.lines().count());
    assert!(!narrow.is_ascii());
    let baselines = Baselines { linear_probe: Some(score()), ..Baselines::default() };
    let baselines = table::baselines(&score(), Some(&score()), &baselines, Style::plain());
    assert!(baselines.contains("linear probe") && !baselines.contains("nearest"), "{baselines}");
    let mut plan = Plan::dry(&Device::Cpu);
    plan.group("weights");
    plan.tensor("a", [1024, 1024], DType::F32);
    plan.tensor("b", [1024, 256], DType::F32);
    plan.group("activations");
    plan.tensor("c", [512, 1024], DType::F64);
    let memory = table::memory(&plan, Style::plain());
    for wanted in ["weights", "5.00", "4.00", "total", "9.00"] {
        assert!(memory.contains(wanted), "{wanted}: {memory}");
    }
}

#[test]
fn progress_says_where_the_run_is() {
    let mut clock = Clock::new(5, 400, 100);
    assert_eq!(clock.line(Duration::ZERO), "task 1/5  step 100/400");
    clock.task(1);
    for step in 101..=110 {
        clock.step(step, 0.5, 16);
    }
    assert_eq!(
        clock.line(Duration::from_secs(2)),
        "task 2/5  step 110/400  loss 0.5000  80 images/s  58s left"
    );
    assert_eq!((span(65.0), span(7380.0), span(0.2)), ("1m 05s".into(), "2h 03m".into(), "0s".into()));
}

#[test]
fn atomic_writes_replace_or_leave_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.txt");
    atomic::write(&path, b"one").unwrap();
    atomic::write(&path, b"two").unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"two");
    // A disk that is full half-way.
    let full = atomic::write_with(&path, |out| {
        out.write_all(b"thr")?;
        Err(io::Error::from(io::ErrorKind::StorageFull))
    });
    let said = full.unwrap_err().to_string();
    assert!(said.contains("a.txt: cannot be written: the disk is full"), "{said}");
    assert_eq!(std::fs::read(&path).unwrap(), b"two");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file stays");
    let said = |p: &Path| atomic::write(p, b"x").unwrap_err().to_string();
    assert!(said(&dir.path().join("none/a.txt")).contains("does not exist"));
    assert!(said(&path.join("b.txt")).contains("a part of the path is a file"));
    std::fs::create_dir(dir.path().join("folder")).unwrap();
    assert!(said(&dir.path().join("folder")).contains("it is a folder"));
    std::fs::write(dir.path().join(".a.txt.1.2.tmp"), "half").unwrap();
    atomic::sweep(dir.path());
    assert!(!dir.path().join(".a.txt.1.2.tmp").exists());
    assert!(path.exists());
}

#[test]
fn the_log_is_cut_where_the_checkpoint_was() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log.jsonl");
    let mut warnings = Vec::new();
    let mut log = Log::open(&path, None, &mut warnings).unwrap();
    assert!(log.is_empty());
    log.append("step", 1, json!({"loss": 0.5, "step": 99})).unwrap();
    let kept = log.len();
    log.append("step", 2, Value::Null).unwrap();
    drop(log);
    assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 2);
    let mut log = Log::open(&path, Some(kept), &mut warnings).unwrap();
    log.append("resume", 1, Value::Null).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    assert_eq!(text, "{\"event\":\"step\",\"step\":1,\"loss\":0.5}\n{\"event\":\"resume\",\"step\":1}\n");
    assert!(warnings.is_empty());
    // Shorter than recorded, and cut within a line.
    std::fs::write(&path, &text[..text.len() - 3]).unwrap();
    let log = Log::open(&path, Some(1000), &mut warnings).unwrap();
    assert_eq!(log.len(), kept);
    assert!(warnings[0].contains("lines are missing"), "{warnings:?}");
    assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 1);
}

#[test]
fn a_work_directory_belongs_to_one_run() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("deep/run");
    let config = Config::default();
    let work = Workdir::create(&path, false, &config).unwrap();
    assert!(!work.resumed());
    assert_eq!(Workdir::saved_config(&path).unwrap().unwrap(), config);
    let said = Workdir::create(&path, true, &config).unwrap_err().to_string();
    assert!(said.contains(&format!("process {} is running", std::process::id())), "{said}");
    drop(work);
    assert!(!path.join("run.lock").exists());

    let error = Workdir::create(&path, false, &config).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    let said = error.to_string();
    assert!(said.contains("already holds a run (config.toml); add `--resume`"), "{said}");
    assert!(Workdir::create(&path, true, &config).unwrap().resumed());

    let mut other = config.clone();
    other.seed = 7;
    other.prompt_pool.pull_constraint_coeff = 0.25;
    let said = Workdir::create(&path, true, &other).unwrap_err().to_string();
    assert!(said.contains("seed: the run has 42, asked for 7"), "{said}");
    let key = "prompt_pool.pull_constraint_coeff";
    let ours = config.prompt_pool.pull_constraint_coeff;
    assert!(said.contains(&format!("{key}: the run has {ours:?}, asked for 0.25")), "{said}");
    assert!(!path.join("run.lock").exists(), "a refused run leaves no lock");

    std::fs::create_dir(path.join("checkpoints")).unwrap();
    std::fs::write(path.join("checkpoints/step_000010.json"), "").unwrap();
    std::fs::remove_file(path.join("config.toml")).unwrap();
    let said = Workdir::create(&path, true, &config).unwrap_err().to_string();
    assert!(said.contains("is missing, but there is checkpoints/step_000010.json"), "{said}");
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    assert!(Workdir::create(&file, false, &config).unwrap_err().to_string().contains("this is a file"));
    assert!(
        Workdir::create(&file.join("x"), false, &config).unwrap_err().to_string().contains("cannot be made")
    );
    // `--resume` where nothing is starts a run.
    let new = Workdir::create(&dir.path().join("new"), true, &config).unwrap();
    assert!(!new.resumed());
    new.write_config(&config, &[("checkpoint_sha256", "abc\nseed = 3")]).unwrap();
    let text = std::fs::read_to_string(new.config_toml()).unwrap();
    assert!(text.starts_with("# checkpoint_sha256: abc seed = 3\n"), "{text}");
    assert_eq!(Workdir::saved_config(new.path()).unwrap().unwrap(), config);
}

#[test]
fn a_stale_lock_does_not_block() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config::default();
    // A process that has ended, one of a living number but another start, rubbish.
    let mut ended = std::process::Command::new("true").spawn().unwrap();
    ended.wait().unwrap();
    for (n, text) in
        [format!("{} 5\n", ended.id()), "1 99999999999\n".into(), "\u{0}rubbish".into(), String::new()]
            .into_iter()
            .enumerate()
    {
        let path = dir.path().join(format!("run{n}"));
        std::fs::create_dir(&path).unwrap();
        std::fs::write(path.join("run.lock"), &text).unwrap();
        Workdir::create(&path, false, &config).unwrap_or_else(|e| panic!("{text:?}: {e}"));
    }
    // A living process that only wrote its number.
    let path = dir.path().join("living");
    std::fs::create_dir(&path).unwrap();
    std::fs::write(path.join("run.lock"), "1\n").unwrap();
    assert!(Workdir::create(&path, false, &config).unwrap_err().to_string().contains("process 1 is running"));
}

/// Not a test: the process that the tests of signals send signals to.
#[test]
#[ignore = "run by the tests of signals"]
fn waits_for_signals() {
    signal::install().unwrap();
    signal::install().unwrap();
    assert!(!signal::stop_requested());
    eprintln!("ready");
    while !signal::stop_requested() {
        std::thread::sleep(Duration::from_millis(2));
    }
    eprintln!("saving");
    std::thread::sleep(Duration::from_secs(20));
    std::process::exit(7);
}

type Lines =
    std::iter::Map<io::Lines<io::BufReader<std::process::ChildStderr>>, fn(io::Result<String>) -> String>;

/// Starts `waits_for_signals`, with SIGHUP ignored if `nohup` says so, and waits until it listens.
fn start_waiting(nohup: bool) -> (std::process::Child, Lines) {
    let mut command = Command::new("sh");
    command.args(["-c", if nohup { "trap '' HUP; exec \"$@\"" } else { "exec \"$@\"" }, "sh"]);
    command.arg(std::env::current_exe().unwrap());
    command.args(["--exact", "waits_for_signals", "--ignored", "--nocapture"]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let unwrapped: fn(io::Result<String>) -> String = Result::unwrap;
    let mut lines = io::BufReader::new(child.stderr.take().unwrap()).lines().map(unwrapped);
    assert_eq!(lines.next().unwrap(), "ready");
    (child, lines)
}

fn send(child: &std::process::Child, name: &str) {
    assert!(Command::new("kill").args(["-s", name, &child.id().to_string()]).status().unwrap().success());
}

#[test]
fn every_signal_of_a_batch_system_asks_for_a_save() {
    for name in ["INT", "TERM", "HUP", "USR1", "USR2", "XCPU"] {
        if is_ignored(name) {
            continue;
        }
        let (mut child, mut lines) = start_waiting(false);
        send(&child, name);
        let said: Vec<String> = lines.by_ref().take(2).collect();
        assert!(said.contains(&"saving".to_string()), "{name}: {said:?}");
        assert!(said.iter().any(|l| l.contains("stopping after this step and saving")), "{name}: {said:?}");
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

#[test]
fn only_a_later_sigint_skips_the_save() {
    if is_ignored("INT") {
        return;
    }
    let (mut child, mut lines) = start_waiting(false);
    for name in ["TERM", "TERM", "HUP", "INT", "USR1", "INT"] {
        send(&child, name);
    }
    let said: Vec<String> = lines.by_ref().take(2).collect();
    assert!(said.contains(&"saving".to_string()), "{said:?}");
    std::thread::sleep(Duration::from_millis(2100));
    send(&child, "TERM");
    std::thread::sleep(Duration::from_millis(200));
    assert!(child.try_wait().unwrap().is_none(), "a signal other than SIGINT ended the process");
    send(&child, "INT");
    assert_eq!(child.wait().unwrap().code(), Some(130));
}

#[test]
fn a_signal_that_was_ignored_stays_ignored() {
    let (mut child, mut lines) = start_waiting(true);
    send(&child, "HUP");
    std::thread::sleep(Duration::from_millis(200));
    assert!(child.try_wait().unwrap().is_none());
    send(&child, "TERM");
    let said: Vec<String> = lines.by_ref().take(2).collect();
    assert!(said.contains(&"saving".to_string()), "{said:?}");
    child.kill().unwrap();
    child.wait().unwrap();
}
