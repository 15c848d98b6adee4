//! `l2p-engine reproduce`: rows of a table beside published numbers.

use super::common::lanes::deep;
use super::common::process::{SMALL, engine, expect};
use std::path::{Path, PathBuf};
use std::process::Command;

fn reproduce(recipe: &Path, workdir: &Path, more: &[&str]) -> Command {
    let mut command = engine();
    command.arg("reproduce").arg(recipe).arg("--workdir").arg(workdir).args(more);
    command
}

/// A file of rows of small runs in `dir`: a name, lines of TOML, and `--set` beside those of a small run.
fn recipe(dir: &Path, rows: &[(&str, &str, &[&str])]) -> PathBuf {
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/default.toml");
    let mut text = "title = \"small <rows>\"\n".to_string();
    for (name, lines, more) in rows {
        let sets: Vec<String> = SMALL.iter().chain(*more).map(|set| format!("{set:?}")).collect();
        text += &format!(
            "[[row]]\nname = \"{name}\"\nconfig = {config:?}\nset = [{}]\n{lines}\n",
            sets.join(", ")
        );
    }
    let file = dir.join("rows.toml");
    std::fs::write(&file, text).expect("a file");
    file
}

fn verdicts(workdir: &Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(workdir.join("reproduction.json")).expect("reproduction.json");
    let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    json["rows"].as_array().expect("rows").iter().map(|row| row["verdict"].clone()).collect()
}

#[test]
fn rows_are_run_judged_and_not_run_again() {
    let dir = tempfile::tempdir().expect("a folder");
    let ncm: &[&str] = &["method=ncm"];
    let rows = [
        ("above", "seeds = \"1,2\"\npublished = \"Somebody 2022: 1.0 ± 0.1, 2\"", ncm),
        ("below", "seeds = \"1\"\npublished = \"Somebody 2022: 100\"", ncm),
        ("other", "seeds = \"1\"\ncompared = \"batch vote\"\nnot_comparable = \"other <images>\"", &[]),
        ("absent", "seeds = \"1\"", &["data.dataset=cifar100", "data.dir=nowhere"]),
    ];
    let (file, workdir) = (recipe(dir.path(), &rows), dir.path().join("out"));
    let said = expect(reproduce(&file, &workdir, &[]), 1);
    assert!(said.contains("1 of 4 rows could not be run"), "{said}");
    let found = verdicts(&workdir);
    assert_eq!((&found[0], &found[1]), (&"above".into(), &"below".into()));
    assert_eq!(found[2]["not_comparable"], "other <images>");
    assert!(found[3]["not_run"].as_str().is_some_and(|why| why.contains("nowhere")), "{}", found[3]);
    let page = std::fs::read_to_string(workdir.join("report.html")).expect("a page");
    assert!(
        page.contains("small &lt;rows&gt;") && page.contains("other &lt;images&gt;"),
        "the page lacks the verdicts"
    );
    // What is done is left alone, and what was stopped goes on.
    let results = workdir.join("above/seed_1/results.json");
    let before = std::fs::read(&results).expect("results");
    std::fs::remove_dir_all(workdir.join("below")).expect("a folder");
    let said = expect(reproduce(&file, &workdir, &["--only", "above,below,other"]), 0);
    assert_eq!(said.matches("done before").count(), 2, "{said}");
    assert!(said.contains("above: above; published: 1.00 ± 0.10, 2.00 (Somebody 2022)"), "{said}");
    assert_eq!(std::fs::read(&results).expect("results"), before);
    assert_eq!(verdicts(&workdir)[1], "below");
    // Other settings are no reproduction, and do not mix with the runs that are there.
    let said = expect(reproduce(&file, &workdir, &["--only", "above", "--set", "ncm.no_such_key=1"]), 2);
    assert!(said.contains("row `above`"), "{said}");
    let changed = ["--only", "above", "--set", "data.test_per_class=3"];
    let said = expect(reproduce(&file, &workdir, &changed), 1);
    assert!(said.contains("data.test_per_class"), "{said}");
    let said = expect(reproduce(&file, &dir.path().join("changed"), &changed), 0);
    assert!(
        said.contains("not comparable: the command line changed settings: --set data.test_per_class=3"),
        "{said}"
    );
}

#[test]
fn a_file_of_rows_that_makes_no_sense_is_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let (file, out) = (dir.path().join("rows.toml"), dir.path().join("out"));
    let row = "[[row]]\nname = \"a\"\nconfig = \"no.toml\"\nseeds = \"1\"\n";
    for (text, code, named) in [
        (String::new(), 1, "title"),
        ("title = \"none\"".into(), 2, "at least one [[row]]"),
        (format!("title = \"x\"\n{row}"), 1, "no.toml"),
        (format!("title = \"x\"\n{row}{row}"), 2, "a name of its own"),
        (format!("title = \"x\"\n{}", row.replace("\"a\"", "\"../a\"")), 2, "../a"),
        (format!("title = \"x\"\n{row}lenght = 1"), 1, "lenght"),
    ] {
        std::fs::write(&file, &text).expect("a file");
        let said = expect(reproduce(&file, &out, &[]), code);
        assert!(said.contains(named), "`{text}` does not name `{named}`: {said}");
    }
    let said = expect(reproduce(&dir.path().join("nowhere.toml"), &out, &[]), 1);
    assert!(said.contains("nowhere.toml"), "{said}");
    assert!(!out.exists(), "a refused file leaves a folder");
}

fn plan(name: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/reproduce").join(name);
    let rows = std::fs::read_to_string(&file).expect("a file").matches("[[row]]").count();
    let dir = tempfile::tempdir().expect("a folder");
    let mut command = engine();
    command.current_dir(dir.path()).arg("reproduce").arg(&file).args(["--dry-run", "--gpu", "h200"]);
    let said = expect(command, 0);
    let shown = said.lines().filter(|line| line.starts_with("| ") && line.contains(" to ")).count();
    assert_eq!(shown, rows, "{name}: {said}");
    assert!(said.contains("in all") && said.contains("days"), "{name}: {said}");
    assert!(dir.path().read_dir().expect("a folder").next().is_none(), "{name} left something");
}

#[test]
fn a_table_is_planned_without_images_and_weights() {
    plan("core50.toml");
}

#[test]
fn deep_all_tables_are_planned() {
    if !deep("the plans of all tables that can be reproduced") {
        return;
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/reproduce");
    for file in std::fs::read_dir(folder).expect("configs/reproduce") {
        plan(file.expect("an entry").file_name().to_str().expect("UTF-8"));
    }
}

#[test]
fn deep_the_table_of_this_repository_is_reproduced() {
    if !deep("all rows of configs/reproduce/here.toml, on few images") {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/reproduce/here.toml");
    let few = ["--set", "data.train_per_class=12", "--set", "data.test_per_class=4"];
    let said = expect(reproduce(&file, dir.path(), &few), 0);
    assert!(verdicts(dir.path()).iter().all(|v| v["not_comparable"].is_string()), "{said}");
}
