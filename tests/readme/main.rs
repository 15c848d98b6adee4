//! The README and the documents are true: paths and links exist, commands parse, keys and environment variables are
//! those of the sources, and the table of the default run is the one that is printed.

#[path = "../common/lanes.rs"]
mod lanes;

use lanes::deep;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn documents() -> Vec<(String, String)> {
    let mut all = vec!["README.md".to_string(), "assets/README.md".into(), "src/ops/README.md".into()];
    for entry in std::fs::read_dir(root().join("docs")).expect("docs") {
        let name = entry.expect("an entry").file_name().into_string().expect("UTF-8");
        if name.ends_with(".md") {
            all.push(format!("docs/{name}"));
        }
    }
    all.into_iter()
        .map(|p| (std::fs::read_to_string(root().join(&p)).expect("a document"), p))
        .map(|(t, p)| (p, t))
        .collect()
}

/// Text between single backticks, outside of code blocks.
fn quoted(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (i, part) in text.split("```").enumerate() {
        if i % 2 == 0 {
            found.extend(part.split('`').skip(1).step_by(2).map(String::from));
        }
    }
    found
}

/// Lines of code blocks.
fn commands(text: &str) -> Vec<String> {
    let blocks = text.split("```").skip(1).step_by(2);
    blocks
        .flat_map(|b| b.lines().map(|l| l.trim().to_string()).collect::<Vec<_>>())
        .filter(|l| !l.is_empty())
        .collect()
}

#[test]
fn paths_exist() {
    let tops = ["src", "tests", "docs", "configs", "benches", "assets", "scripts", "kernels", ".ci"];
    let mut seen = 0;
    for (document, text) in documents() {
        for word in quoted(&text) {
            let path = word.split([' ', ':']).next().unwrap_or("");
            let top = path.split('/').next().unwrap_or("");
            let is_path = path.contains('/') || root().join(path).is_dir();
            if tops.contains(&top) && is_path && !path.contains(['<', '*', '…']) {
                seen += 1;
                assert!(root().join(path).exists(), "{document} names `{path}`, which does not exist");
            }
        }
    }
    assert!(seen > 20, "only {seen} paths were found");
}

/// Targets of Markdown links, relative to the folder of the document.
#[test]
fn links_lead_somewhere() {
    let mut seen = 0;
    for (document, text) in documents() {
        let folder = root().join(&document);
        let folder = folder.parent().expect("a folder");
        for part in text.split("](").skip(1) {
            let target = part.split([')', '#']).next().unwrap_or("");
            if !target.is_empty() && !target.starts_with("http") {
                seen += 1;
                assert!(folder.join(target).exists(), "{document} links to `{target}`, which does not exist");
            }
        }
    }
    assert!(seen > 5, "only {seen} links were found");
}

/// Ten minutes of reading. Lines of tables are no prose.
#[test]
fn the_readme_is_short() {
    let text = std::fs::read_to_string(root().join("README.md")).expect("the README");
    let words = text
        .lines()
        .filter(|line| !line.starts_with(['|', '+']))
        .map(|line| line.split_whitespace().count())
        .sum::<usize>();
    assert!(words <= 900, "the README has {words} words; 900 are enough");
    let start: Vec<&str> = text.lines().take(24).collect();
    assert!(start.join(" ").contains("No GPU has been seen yet"), "say so in the first screen");
}

/// A row of a table as its cells.
fn cells(line: &str) -> Vec<&str> {
    line.trim().trim_matches('|').split('|').map(str::trim).collect()
}

/// Rows have the names and the order of what is printed. Other processors round in another way, which may move the
/// answer to a few of the 1,000 test images.
#[test]
fn deep_the_table_is_what_the_default_run_prints() {
    if !deep("the README's table beside the default run") {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_l2p-engine"))
        .args(["train", "--quiet", "--device", "cpu", "--workdir"])
        .arg(dir.path().join("run"))
        .output()
        .expect("a run");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let text = std::fs::read_to_string(root().join("README.md")).expect("the README");
    let shown = text.split("```").find(|block| block.contains("| average accuracy")).expect("the table");
    let shown: Vec<&str> = shown.lines().filter(|line| !line.is_empty()).collect();
    let printed: Vec<&str> = printed.lines().collect();
    let start = printed.iter().position(|line| *line == shown[1]).expect("the first row of the table") - 1;
    let mut moved = 0.0f64;
    for (shown, printed) in shown.iter().zip(&printed[start..]) {
        let (shown_cells, printed_cells) = (cells(shown), cells(printed));
        assert_eq!(shown_cells.len(), printed_cells.len(), "{shown} and {printed}");
        for (a, b) in shown_cells.iter().zip(printed_cells) {
            match (a.parse::<f64>(), b.parse::<f64>()) {
                (Ok(a), Ok(b)) => moved = moved.max((a - b).abs()),
                _ => assert_eq!(*a, b, "{shown} and {printed}"),
            }
        }
    }
    println!("the README's table: at most {moved:.2} points from what this machine prints");
    assert!(moved <= 1.0, "the numbers of the README are {moved:.2} points away:\n{}", printed.join("\n"));
}

/// Files that may read the environment.
fn sources() -> Vec<PathBuf> {
    fn walk(dir: &Path, into: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(dir).expect("a folder") {
            let path = entry.expect("an entry").path();
            let endings = ["rs", "cpp", "h", "cu", "cuh", "sh", "py"];
            if path.is_dir() {
                walk(&path, into);
            } else if path.extension().is_some_and(|e| endings.iter().any(|known| e == *known)) {
                into.push(path);
            }
        }
    }
    let mut all = vec![root().join("build.rs"), root().join(".ci/run")];
    for folder in ["src", "tests", "benches", "scripts", "kernels"] {
        walk(&root().join(folder), &mut all);
    }
    all
}

/// Words of letters, digits and `_` that begin with a capital.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|w| w.starts_with(|c: char| c.is_ascii_uppercase()))
}

/// In quotes, in a file that reads the environment: names such as `MASTER_ADDR`.
fn names_in_quotes(text: &str) -> impl Iterator<Item = &str> {
    let inside = text.lines().flat_map(|line| line.split('"').skip(1).step_by(2));
    inside.filter(|w| {
        w.len() > 1 && w.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
    })
}

#[test]
fn environment_variables_are_those_of_the_sources() {
    // Set by cargo for every build; a macro of the kernels; marks of files and names of options.
    let others = [
        "OUT_DIR",
        "NUM_JOBS",
        "CARGO_PKG_VERSION",
        "L2P_EMU",
        "L2PPACK1",
        "DIR",
        "FILE",
        "NAME",
        "SEEDS",
        "L2P_",
        "EAGER",
    ];
    let mut read = BTreeSet::new();
    for path in sources() {
        let text = std::fs::read_to_string(&path).expect("a source");
        read.extend(words(&text).filter(|w| w.starts_with("L2P_")).map(String::from));
        let program = path.starts_with(root().join("src")) || path.ends_with("build.rs");
        if program && ["env::var", "var_os", "Variables"].iter().any(|call| text.contains(call)) {
            read.extend(names_in_quotes(&text).map(String::from));
        }
    }
    others.iter().for_each(|other| {
        read.remove(*other);
    });
    let document = std::fs::read_to_string(root().join("docs/environment.md")).expect("the table");
    let rows = document.lines().filter(|line| line.starts_with("| `"));
    let named: BTreeSet<String> = rows.flat_map(|row| quoted(cells(row)[0])).collect();
    let missing: Vec<&String> = read.difference(&named).collect();
    assert!(missing.is_empty(), "docs/environment.md has no row for {missing:?}");
    // `CXX` and Open MPI's job, which is not in capitals, are looked for as they are.
    let all: String = sources()
        .iter()
        .map(|p| std::fs::read_to_string(p).expect("a source"))
        .collect::<Vec<_>>()
        .join("\n");
    let unread: Vec<&String> = named.iter().filter(|name| !all.contains(&format!("\"{name}\""))).collect();
    let unread: Vec<&&String> = unread.iter().filter(|name| !read.contains(**name)).collect();
    assert!(unread.is_empty(), "docs/environment.md names {unread:?}, which nothing reads");
    assert!(named.len() > 40, "only {} variables were found", named.len());
}

#[test]
fn commands_parse_and_cheap_ones_run() {
    let mut seen = 0;
    for (document, text) in documents() {
        for line in commands(&text) {
            let line = line.replace("cargo run --release -- ", "l2p-engine ");
            // Behind a launcher or variables, too.
            let Some((before, rest)) = line.split_once("l2p-engine ") else { continue };
            if !before.is_empty() && !before.ends_with(' ') {
                continue;
            }
            let args: Vec<&str> = rest.split_whitespace().collect();
            seen += 1;
            l2p_engine::cli::check_command_line(&args)
                .unwrap_or_else(|e| panic!("{document}: `{line}`: {e}"));
        }
    }
    assert!(seen > 5, "only {seen} commands were found");
    for args in [
        &["devices"][..],
        &["inspect", "assets/micro.safetensors"],
        &["train", "--print-config"],
        &["train", "--dry-run"],
    ] {
        let status =
            std::process::Command::new(env!("CARGO_BIN_EXE_l2p-engine")).args(args).output().expect("a run");
        assert!(status.status.success(), "{args:?}");
    }
}

#[test]
fn configuration_keys_are_known() {
    let tables =
        ["data", "continual", "model", "prompt_pool", "g_prompt", "optim", "train", "baselines", "pretrain"];
    let mut seen = 0;
    for (document, text) in documents() {
        for word in quoted(&text) {
            let key = word.split([' ', '=']).next().unwrap_or("");
            let Some((table, rest)) = key.split_once('.') else { continue };
            let is_file = ["csv", "txt"].contains(&rest);
            if !is_file && tables.contains(&table) && rest.chars().all(|c| c.is_ascii_lowercase() || c == '_')
            {
                seen += 1;
                assert!(
                    l2p_engine::config::keys::find(key).is_some(),
                    "{document} names the key `{key}`, which is none"
                );
            }
        }
    }
    assert!(seen > 3, "only {seen} keys were found");
}
