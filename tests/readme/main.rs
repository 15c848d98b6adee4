//! The README and the documents keep their promises: paths exist, commands parse, keys are known.

use std::path::Path;

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
    let tops = ["src/", "tests/", "docs/", "configs/", "benches/", "assets/", "scripts/", ".ci/"];
    let mut seen = 0;
    for (document, text) in documents() {
        for word in quoted(&text) {
            let path = word.split([' ', ':']).next().unwrap_or("");
            if tops.iter().any(|t| path.starts_with(t)) && !path.contains(['<', '*', '…']) {
                seen += 1;
                assert!(root().join(path).exists(), "{document} names `{path}`, which does not exist");
            }
        }
    }
    assert!(seen > 20, "only {seen} paths were found");
}

#[test]
fn commands_parse_and_cheap_ones_run() {
    let mut seen = 0;
    for (document, text) in documents() {
        for line in commands(&text) {
            let line = line.replace("cargo run --release -- ", "l2p-engine ");
            let Some(rest) = line.strip_prefix("l2p-engine ") else { continue };
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
            if tables.contains(&table) && rest.chars().all(|c| c.is_ascii_lowercase() || c == '_') {
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
