//! Several seeds, the page about runs, and what batch composition does.

#[path = "../common/mod.rs"]
mod common;

use approx::{abs_diff_eq, assert_abs_diff_eq};
use common::lanes::deep;
use common::process::{engine, expect, outcome, small, split_mnist, stderr, stdout, train};
use l2p_engine::output::report::{self, entropy};
use l2p_engine::output::spread::Spread;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Prompts that differ from image to image, so that a vote changes something.
const VARIED: &[&str] = &[
    "--set",
    "prompt_pool.prompt_key_init=uniform_symmetric",
    "--set",
    "prompt_pool.pull_constraint_coeff=0.0",
    "--set",
    "baselines.single_prompt=false",
];

fn json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).expect("a file")).expect("JSON")
}

fn command(name: &str, workdirs: &[&Path], more: &[&str]) -> std::process::Command {
    let mut command = engine();
    command.arg(name).arg("--workdir").args(workdirs).args(more);
    if name == "train" {
        command.arg("--config").arg(split_mnist());
    }
    command
}

fn number(value: &Value) -> f64 {
    value.as_f64().expect("a number")
}

/// What of `seeds.json` does not depend on the clock.
fn without_times(path: &Path) -> Value {
    let mut value = json(path);
    for run in value["runs"].as_array_mut().expect("runs") {
        run.as_object_mut().expect("a run").remove("seconds");
    }
    value
}

#[test]
fn spreads_and_entropies() {
    let spread = Spread::of(&[1.0, 2.0, 4.0, 9.0]);
    assert_eq!((spread.mean, spread.n), (4.0, 4));
    // (9 + 4 + 0 + 25) / 3
    assert_abs_diff_eq!(spread.deviation.expect("four values"), (38.0f64 / 3.0).sqrt(), epsilon = 1e-12);
    assert_eq!(Spread::of(&[0.5]).deviation, None);
    assert_eq!(Spread::of_some([None, None]), None);
    assert_eq!(Spread::of(&[0.8, 0.9]).percent(), "85.00 ± 7.07");
    assert_eq!(entropy(&[3, 3, 3, 3]), 2.0);
    assert_eq!(entropy(&[0, 7, 0]), 0.0);
    assert_eq!(entropy(&[]), 0.0);
    // -(1/4 log2 1/4 + 3/4 log2 3/4)
    assert_abs_diff_eq!(entropy(&[1, 3]), 0.811_278_124_459_132_8, epsilon = 1e-12);
}

#[test]
fn deep_seeds_are_runs_of_their_own_and_go_on_after_a_kill() {
    if !deep("runs of several seeds, one of them killed") {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let (all, alone, killed) = (dir.path().join("all"), dir.path().join("alone"), dir.path().join("killed"));
    let more = ["--set", "baselines.single_prompt=false"];
    let seeds = |workdir: &Path, which: &str, resume: bool| {
        let mut command = train(workdir, &more);
        command.args(["--seeds", which]).args(resume.then_some("--resume"));
        command
    };
    let said = expect(seeds(&all, "3..6", false), 0);
    assert!(said.contains("deviation"), "{said}");
    let found = json(&all.join("seeds.json"));
    assert_eq!(found["seeds"], serde_json::json!([3, 4, 5]));
    assert_eq!(found["complete"], true);
    // The numbers are those of the runs.
    for (selection, metric) in
        [("per_image", "avg_acc"), ("per_image", "forgetting"), ("per_batch", "avg_acc")]
    {
        let each: Vec<f64> = (3..6)
            .map(|seed| number(&json(&all.join(format!("seed_{seed}/results.json")))[selection][metric]))
            .collect();
        let mean = each.iter().sum::<f64>() / 3.0;
        let deviation = (each.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / 2.0).sqrt();
        let spread = &found[selection][metric];
        assert!(
            abs_diff_eq!(number(&spread["mean"]), mean, epsilon = 1e-12),
            "{selection}.{metric}: {spread}"
        );
        assert!(
            abs_diff_eq!(number(&spread["deviation"]), deviation, epsilon = 1e-12),
            "{selection}.{metric}: {spread}"
        );
        let wanted = format!("{:.2}", 100.0 * mean);
        assert!(said.contains(&wanted), "no {wanted} in {said}");
    }
    let mut one = train(&alone, &more);
    one.args(["--seed", "4"]);
    expect(one, 0);
    assert!(outcome(&alone) == outcome(&all.join("seed_4")), "seed 4 alone is another run");
    // Killed in the second run, then resumed.
    let mut child = seeds(&killed, "3,4,5", false).spawn().expect("a start");
    while !killed.join("seed_4/log.jsonl").exists() {
        assert!(child.try_wait().expect("a status").is_none(), "it ended before its second run");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    child.kill().expect("a kill");
    child.wait().expect("an end");
    let stopped = json(&killed.join("seeds.json"));
    assert_eq!(
        (&stopped["complete"], stopped["runs"].as_array().expect("runs").len()),
        (&Value::Bool(false), 1)
    );
    assert!(expect(seeds(&killed, "3..6", false), 2).contains("--resume"));
    expect(seeds(&killed, "3..=5", true), 0);
    assert_eq!(without_times(&killed.join("seeds.json")), without_times(&all.join("seeds.json")));
    // A folder is of one run or of several.
    assert!(expect(seeds(&alone, "0..2", true), 2).contains("single run"));
    assert!(expect(train(&all, &more), 2).contains("seeds.json"));
}

/// Every element that is opened is closed, in order; what stands between tags has no stray `<` or `&`.
fn assert_well_formed(page: &str, what: &str) {
    let mut open: Vec<&str> = Vec::new();
    let mut rest = page;
    while let Some(at) = rest.find('<') {
        let style = open.last() == Some(&"style");
        let text = &rest[..at];
        assert!(style || !text.contains('>'), "{what}: a stray `>` in {text}");
        for (i, _) in text.match_indices('&') {
            let entity = text[i..].split_once(';').map_or("", |(e, _)| e);
            assert!(["&amp", "&lt", "&gt", "&quot"].contains(&entity), "{what}: `&` in {text}");
        }
        let end = at + rest[at..].find('>').unwrap_or_else(|| panic!("{what}: a tag without end"));
        let tag = &rest[at + 1..end];
        let name = tag.trim_start_matches('/').split([' ', '/']).next().unwrap_or("");
        assert!(tag.matches('"').count().is_multiple_of(2), "{what}: quotes in <{tag}>");
        if let Some(closed) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(closed), "{what}: </{closed}> closes another");
        } else if !tag.ends_with('/') && !["!doctype", "meta"].contains(&name) {
            open.push(name);
        }
        rest = &rest[end + 1..];
    }
    assert!(open.is_empty(), "{what}: {open:?} stay open");
}

/// The prompts that no image of any task used after the last task, from the log itself.
fn dead(workdir: &Path) -> Vec<String> {
    let log = std::fs::read_to_string(workdir.join("log.jsonl")).expect("a log");
    let last = log.lines().rfind(|l| l.contains(r#""event":"task""#)).expect("a task");
    let usage: Vec<Vec<u64>> =
        serde_json::from_value(serde_json::from_str::<Value>(last).expect("JSON")["prompt_usage"].take())
            .expect("counts");
    (0..usage[0].len()).filter(|p| usage.iter().all(|task| task[*p] == 0)).map(|p| p.to_string()).collect()
}

#[test]
fn a_page_says_what_the_runs_found() {
    let dir = tempfile::tempdir().expect("a folder");
    // Names that HTML would take for its own.
    let (first, second) = (dir.path().join("a<b>&\"c\""), dir.path().join("tuned"));
    let mut seeds = train(&first, &["--seeds", "0..2"]);
    seeds.args(VARIED).args(["--set", "published=[\"Wang & <others>, arXiv:0000: 83.83 +- 0.04, 7.63\"]"]);
    expect(seeds, 0);
    expect(train(&second, &["--set", "method=finetune"]), 0);
    let [page, drawings] = ["page.html", "svg"].map(|name| dir.path().join(name));
    let [at, svg] = [&page, &drawings].map(|path| path.to_str().expect("UTF-8"));
    let out = ["--out", at, "--svg", svg];
    let said = expect(command("report", &[&first, &second], &out), 0);
    assert!(said.contains("3 runs of 2 configurations"), "{said}");
    let text = std::fs::read_to_string(&page).expect("a page");
    assert_well_formed(&text, "page");
    // Nothing is fetched, and nothing runs but the sorting of tables.
    for word in
        ["src=", "href=", "url(", "@import", "http:", "https:", "fetch(", "eval(", "innerHTML", "onclick"]
    {
        assert!(!text.contains(word), "the page has `{word}`");
    }
    assert_eq!(text.matches("<script").count(), 1);
    assert!(text.contains("table.sortable") && text.contains("<table class=\"sortable\">"));
    assert!(text.contains("Accuracy and cost"), "no drawing of accuracy and cost");
    let percent = |value: &Value| format!("{:.2}", 100.0 * number(value));
    let found = json(&first.join("seeds.json"));
    for metric in ["avg_acc", "forgetting", "learning_acc"] {
        let spread = &found["per_image"][metric];
        let wanted = format!("{} ± {}", percent(&spread["mean"]), percent(&spread["deviation"]));
        assert!(text.contains(&wanted), "no {metric} {wanted}");
    }
    let tuned = json(&second.join("results.json"));
    let baselines = json(&first.join("seed_0/results.json"));
    for wanted in [
        percent(&tuned["per_image"]["avg_acc"]),
        percent(&tuned["per_image"]["forgetting"]),
        percent(&baselines["baselines"]["ncm"]["avg_acc"]),
        "83.83 ± 0.04".into(),
        "7.63".into(),
        "Wang &amp; &lt;others&gt;, arXiv:0000".into(),
        "a&lt;b&gt;&amp;&quot;c&quot;".into(),
        "nearest class mean".into(),
    ] {
        assert!(text.contains(&wanted), "no {wanted}");
    }
    for seed in ["seed_0", "seed_1"] {
        let names = dead(&first.join(seed));
        let sentence = match names.as_slice() {
            [] => "No prompt is dead".to_string(),
            [one] => format!("Prompt {one} is dead"),
            some => format!("uses them: {}.", some.join(", ")),
        };
        assert!(text.contains(&sentence), "{seed}: no `{sentence}`");
    }
    numbers_are_those_of_the_runs(dir.path(), &first, &second);
    let files: Vec<PathBuf> =
        std::fs::read_dir(&drawings).expect("drawings").map(|e| e.expect("an entry").path()).collect();
    assert!(files.len() > 10, "{files:?}");
    for file in files {
        let text = std::fs::read_to_string(&file).expect("a drawing");
        assert_well_formed(&text, &file.display().to_string());
        assert!(text.contains("xmlns=") && !text.contains("var("), "{}", file.display());
    }
}

/// `report --csv | --json | --latex` of a folder above two configurations, beside the files of the runs.
fn numbers_are_those_of_the_runs(parent: &Path, first: &Path, second: &Path) {
    // An unfinished run and a folder without any are passed over; a folder without any run is an error.
    std::fs::create_dir_all(parent.join("empty/deeper")).expect("folders");
    std::fs::create_dir_all(parent.join("begun")).expect("a folder");
    std::fs::copy(second.join("config.toml"), parent.join("begun/config.toml")).expect("a copy");
    let report = |workdirs: &[&Path], more: &[&str]| expect(command("report", workdirs, more), 0);
    let told: Value = serde_json::from_str(&report(&[parent], &["--json"])).expect("JSON");
    let below: Value = serde_json::from_str(&report(&[first, second], &["--json"])).expect("JSON");
    assert_eq!(told, below);
    let configurations = told.as_array().expect("configurations");
    assert_eq!(configurations.len(), 2);
    let seeds = json(&first.join("seeds.json"));
    assert_eq!(configurations[0]["seeds"], serde_json::json!([0, 1]));
    let of = |c: &Value, result: &str| -> Value {
        let all = c["results"].as_array().expect("results");
        all.iter().find(|r| r["result"] == result).unwrap_or_else(|| panic!("no {result} in {c}")).clone()
    };
    for (result, selection) in [("each image selects", "per_image"), ("batch vote", "per_batch")] {
        let entry = of(&configurations[0], result);
        for metric in
            ["avg_acc", "forgetting", "backward", "learning_acc", "seen_acc", "macro_acc", "novel_acc"]
        {
            for part in ["mean", "deviation", "n"] {
                assert_eq!(entry[metric][part], seeds[selection][metric][part], "{result} {metric} {part}");
            }
            let each: Vec<&Value> =
                seeds["runs"].as_array().expect("runs").iter().map(|r| &r[selection][metric]).collect();
            assert_eq!(entry[metric]["values"], serde_json::json!(each), "{result} {metric}");
        }
    }
    let alone = json(&second.join("results.json"));
    let entry = of(&configurations[1], "nearest class mean");
    assert_eq!(entry["avg_acc"]["mean"], alone["baselines"]["ncm"]["avg_acc"]);
    assert_eq!(entry["avg_acc"]["deviation"], Value::Null);

    let text = report(&[parent], &["--csv"]);
    let mut rows = csv::Reader::from_reader(text.as_bytes());
    let header = rows.headers().expect("a header").clone();
    let column = |name: &str| header.iter().position(|h| h == name).unwrap_or_else(|| panic!("no {name}"));
    let rows: Vec<csv::StringRecord> = rows.records().map(|row| row.expect("a row")).collect();
    let entries: usize = configurations.iter().map(|c| c["results"].as_array().expect("results").len()).sum();
    assert_eq!(rows.len(), entries);
    assert_eq!((&rows[0][column("seeds")], &rows[0][column("runs")]), ("0 1", "2"));
    for (name, part) in [("avg_acc_mean", "mean"), ("avg_acc_deviation", "deviation")] {
        let written: f64 = rows[0][column(name)].parse().expect("a number");
        assert_eq!(written, number(&seeds["per_image"]["avg_acc"][part]), "{name}");
    }
    assert_eq!(&rows[rows.len() - 1][column("avg_acc_deviation")], "");

    let latex = report(&[parent], &["--latex"]);
    let spread = &seeds["per_image"]["avg_acc"];
    let percent = |value: &Value| format!("{:.2}", 100.0 * number(value));
    let cell = format!("${} \\pm {}$", percent(&spread["mean"]), percent(&spread["deviation"]));
    assert!(latex.contains(&cell), "no {cell} in {latex}");
    assert_eq!(latex.lines().filter(|l| l.ends_with("\\\\")).count(), entries + 1, "{latex}");

    assert!(expect(command("report", &[&parent.join("empty")], &[]), 1).contains("holds no run"));
    let both = expect(command("report", &[parent], &["--csv", "--json"]), 2);
    assert!(both.contains("cannot be used with"), "{both}");
    assert!(!Path::new("report.html").exists(), "numbers alone write no page");
}

/// Changes one file of a copied run and reads it.
fn damaged(run: &Path, file: &str, change: impl FnOnce(Vec<u8>) -> Vec<u8>) -> Result<String, String> {
    let dir = tempfile::tempdir().expect("a folder");
    for name in ["config.toml", "results.json", "log.jsonl"] {
        std::fs::copy(run.join(name), dir.path().join(name)).expect("a copy");
    }
    let bytes = std::fs::read(run.join(file)).expect("bytes");
    std::fs::write(dir.path().join(file), change(bytes)).expect("a damaged file");
    match report::read(&[dir.path().to_path_buf()]) {
        Ok(groups) => {
            let page = report::html(&groups);
            assert_well_formed(&page, file);
            for figure in report::figures(&groups) {
                assert_well_formed(&figure.file(), &figure.name);
            }
            Ok(page)
        }
        Err(e) => Err(e.to_string()),
    }
}

#[test]
fn damaged_runs_are_a_sentence_or_a_page() {
    let dir = tempfile::tempdir().expect("a folder");
    let run = dir.path().join("run");
    expect(train(&run, VARIED), 0);
    for file in ["results.json", "log.jsonl", "config.toml"] {
        let length = std::fs::metadata(run.join(file)).expect("a file").len() as usize;
        for n in 0..40 {
            let cut = length * n / 40;
            if let Err(e) = damaged(&run, file, |bytes| bytes[..cut].to_vec()) {
                assert!(e.contains(file) && e.len() > 20, "{file} cut at {cut}: {e}");
            }
        }
    }
    // The last line of a log may be unfinished; any other is named.
    damaged(&run, "log.jsonl", |b| [b, b"{\"event\":\"tra".to_vec()].concat()).expect("a page");
    let e = damaged(&run, "log.jsonl", |b| [b"rubbish\n".to_vec(), b].concat()).expect_err("rubbish");
    assert!(e.contains("line 1"), "{e}");
    // Numbers that are none, rows of all lengths, tasks and prompts that do not fit.
    let edit = |change: fn(&mut Value)| {
        damaged(&run, "results.json", move |bytes| {
            let mut value: Value = serde_json::from_slice(&bytes).expect("JSON");
            change(&mut value);
            value.to_string().into_bytes()
        })
    };
    edit(|v| v["per_image"]["accuracy_matrix"][1][0] = Value::Null).expect("a page");
    edit(|v| v["per_image"]["avg_acc"] = Value::Null).expect("a page");
    edit(|v| v["per_image"]["accuracy_matrix"][0] = serde_json::json!([0.5, 0.25, 1e300, -1e300]))
        .expect("a page");
    edit(|v| v["per_image"]["accuracy_matrix"] = serde_json::json!([])).expect("a page");
    edit(|v| v["per_batch"]["after_each_task"] = serde_json::json!([])).expect("a page");
    let unfinished = edit(|v| v["complete"] = false.into()).expect("a page");
    assert!(unfinished.contains("not finished"));
    let usage = r#"{"event":"task","step":1,"task":0,"prompt_usage":[[1],[],[0,0,18446744073709551615,18446744073709551615]],"similarity":[[null]]}"#;
    damaged(&run, "log.jsonl", |b| [b, format!("{usage}\n").into_bytes()].concat()).expect("a page");
}

#[test]
fn leakcheck_agrees_with_the_run() {
    let dir = tempfile::tempdir().expect("a folder");
    let run = dir.path().join("run");
    expect(train(&run, VARIED), 0);
    let results = json(&run.join("results.json"));
    let check = |more: &[&str]| -> Value {
        serde_json::from_str(&expect(command("leakcheck", &[&run], more), 0)).expect("JSON")
    };
    let named = |found: &Value, name: &str| -> Value {
        let all = found["compositions"].as_array().expect("compositions");
        all.iter().find(|c| c["name"] == name).unwrap_or_else(|| panic!("no `{name}` in {found}")).clone()
    };
    let found = check(&["--json"]);
    let images = 10 * small("data.test_per_class");
    assert_eq!((&found["images"], &found["tasks"]), (&images.into(), &5.into()));
    for (name, selection) in [
        ("each image selects", "per_image"),
        ("vote of one image", "per_image"),
        ("vote within a task, in order", "per_batch"),
    ] {
        let now = named(&found, name);
        let (wanted, got) = (&results[selection], &now["avg_acc"]["mean"]);
        assert!((number(&wanted["avg_acc"]) - number(got)).abs() < 1e-12, "{name}: {wanted} and {got}");
        assert_eq!(now["per_task"], wanted["accuracy_matrix"][4], "{name}");
    }
    assert_eq!(named(&found, "vote of one image")["moved"], 0.0);
    let moved = number(&named(&found, "vote over all tasks, shuffled")["moved"]);
    assert!(moved > 0.0, "votes changed nothing: the test says nothing");
    println!("leakcheck: mixed batches move {:.0} % of the images", 100.0 * moved);
    // The same question has the same answer; votes of one are no votes.
    assert_eq!(found, check(&["--json"]));
    let ones = check(&["--json", "--vote-group", "1", "--shuffles", "2"]);
    for composition in ones["compositions"].as_array().expect("compositions") {
        assert_eq!(composition["moved"], 0.0, "{composition}");
        assert!(
            (number(&composition["avg_acc"]["mean"]) - number(&results["per_image"]["avg_acc"])).abs()
                < 1e-12
        );
    }
    let said = expect(command("leakcheck", &[&run], &[]), 0);
    assert!(said.contains("each image selects") && said.contains("points over mixed ones"), "{said}");
    assert!(expect(command("leakcheck", &[&run], &["--vote-group", "1000"]), 2).contains("--vote-group"));
    let plain = dir.path().join("plain");
    expect(train(&plain, &["--set", "method=linear"]), 0);
    assert!(expect(command("leakcheck", &[&plain], &[]), 1).contains("no prompt pool"));
}

/// `--profile` changes no number; its table, its lines in the log and the page agree.
#[test]
fn a_profile_says_where_the_time_goes() {
    let dir = tempfile::tempdir().expect("a folder");
    let (timed, plain) = (dir.path().join("timed"), dir.path().join("plain"));
    let mut command = train(&timed, &["--profile", "--set", "data.train_per_class=60"]);
    let said = {
        let output = command.output().expect("the program starts");
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        format!("{}{}", stdout(&output), stderr(&output))
    };
    expect(train(&plain, &["--set", "data.train_per_class=60"]), 0);
    assert!(outcome(&timed).0 == outcome(&plain).0, "profiling changed what is learned");
    let log = std::fs::read_to_string(timed.join("log.jsonl")).expect("a log");
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let profile: Vec<&Value> = lines.iter().filter(|line| line["event"] == "profile").collect();
    // One for each task, and one for the baselines.
    assert_eq!(profile.len(), 6);
    let rows: Vec<&Value> = profile.iter().flat_map(|line| line["rows"].as_array().expect("rows")).collect();
    let seconds = |phase: &str, op: &str| -> f64 {
        rows.iter()
            .filter(|row| row["phase"] == phase && row["op"] == op)
            .map(|row| number(&row["seconds"]))
            .sum()
    };
    let mut named = 0.0;
    for phase in [
        "start",
        "data",
        "query pass",
        "selection",
        "prompted pass and loss",
        "backward pass",
        "update",
        "evaluation",
        "files",
        "baselines",
    ] {
        let of: f64 =
            rows.iter().filter(|row| row["phase"] == phase).map(|row| number(&row["seconds"])).sum();
        assert!(of > 0.0, "no time in {phase}");
        assert!(said.contains(&format!("| {phase} ")), "no {phase} in {said}");
        named += of;
    }
    let whole: f64 = profile.iter().map(|line| number(&line["seconds"])).sum();
    assert!(named <= whole && named > 0.7 * whole, "{named} of {whole} s have a name");
    for op in ["linear", "attention", "layer norm"] {
        assert!(seconds("query pass", op) > 0.0 && seconds("evaluation", op) > 0.0, "no time in {op}");
        assert!(seconds("backward pass", &format!("{op}, backward")) > 0.0, "no time in {op}, backward");
    }
    let page = dir.path().join("page.html");
    expect(command_on(&timed, &page), 0);
    let text = std::fs::read_to_string(&page).expect("a page");
    assert!(
        text.contains("Where the time goes") && text.contains(&format!("<td>{whole:.2}</td>")),
        "{whole}"
    );
    expect(command_on(&plain, &page), 0);
    assert!(!std::fs::read_to_string(&page).expect("a page").contains("Where the time goes"));
}

fn command_on(workdir: &Path, page: &Path) -> std::process::Command {
    command("report", &[workdir], &["--out", page.to_str().expect("UTF-8")])
}
