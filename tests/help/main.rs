//! What the program says of itself: `--help` with examples that parse, completions, manual pages.

use l2p_engine::cli::check_command_line;
use std::process::{Command, Output};

fn run(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_l2p-engine")).args(args).output().expect("the program starts")
}

fn stdout(args: &[&str]) -> String {
    let output = run(args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// Names of the commands, from the list in `--help`.
fn commands() -> Vec<String> {
    let help = stdout(&["--help"]);
    let list = help.split("Commands:").nth(1).expect("a list of commands");
    let list = list.split("\n\n").next().expect("its end");
    // Names stand two columns in; further lines of a description stand deeper.
    let names = list.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    names.filter_map(|line| line.split_whitespace().next()).map(String::from).collect()
}

#[test]
fn every_command_has_examples_that_parse() {
    let commands = commands();
    assert!(commands.len() >= 10 && commands.contains(&"completions".to_string()), "{commands:?}");
    let pages: Vec<String> =
        commands.iter().filter(|name| *name != "help").map(|name| stdout(&[name, "--help"])).collect();
    for (page, name) in pages.iter().zip(&commands).chain([(&stdout(&["--help"]), &"main".to_string())]) {
        let (_, examples) = page.split_once("Example").unwrap_or_else(|| panic!("{name} has no example"));
        let lines: Vec<&str> = examples.lines().filter_map(|l| l.strip_prefix("  l2p-engine ")).collect();
        assert!(!lines.is_empty(), "{name} has no example");
        for line in lines {
            let words: Vec<&str> = line.split(" > ").next().expect("words").split_whitespace().collect();
            if words[0] != "help" {
                check_command_line(&words).unwrap_or_else(|e| panic!("{name}: `{line}`: {e}"));
            }
            let here = name == "main" || words[0] == name;
            assert!(here, "{name}: `{line}` is an example of another command");
        }
    }
}

#[test]
fn every_option_has_a_description() {
    for name in commands().iter().filter(|name| *name != "help") {
        let page = stdout(&[name, "--help"]);
        let lines: Vec<&str> = page.lines().collect();
        for (n, line) in lines.iter().enumerate() {
            let option = line.trim_start();
            // Wrapped lines of a description stand deeper.
            let indent = line.len() - option.len();
            if indent <= 6 && (option.starts_with("--") || option.starts_with("-h")) {
                // In the same line behind two spaces, or in the next one.
                let beside = option.contains("  ");
                let below = lines.get(n + 1).is_some_and(|next| next.starts_with("          "));
                assert!(beside || below, "{name}: `{option}` has no description:\n{page}");
                let next = lines.get(n + 1).map_or("", |next| next.trim_start());
                assert!(beside || !next.starts_with('['), "{name}: `{option}` has no description");
            }
        }
    }
}

#[test]
fn completions_know_commands_and_options() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = stdout(&["completions", shell]);
        for word in ["l2p-engine", "leakcheck", "init-checkpoint"] {
            assert!(script.contains(word), "{shell}: no `{word}`");
        }
    }
    assert_eq!(run(&["completions", "csh"]).status.code(), Some(2));
    // A shell that is here reads its script without an error.
    if let Ok(version) = Command::new("bash").arg("--version").output()
        && version.status.success()
    {
        let dir = tempfile::tempdir().expect("a folder");
        let script = dir.path().join("completions");
        std::fs::write(&script, stdout(&["completions", "bash"])).expect("a file");
        let read = Command::new("bash").arg("-n").arg(&script).output().expect("bash starts");
        assert!(read.status.success(), "{}", String::from_utf8_lossy(&read.stderr));
    }
}

#[test]
fn manual_pages_are_printed_or_written() {
    let page = stdout(&["man"]);
    assert!(page.contains(".TH l2p-engine 1") && page.contains("130 interrupted"), "{page}");
    let dir = tempfile::tempdir().expect("a folder");
    let folder = dir.path().join("share/man/man1");
    let said = stdout(&["man", folder.to_str().expect("UTF-8")]);
    let mut names: Vec<String> = std::fs::read_dir(&folder)
        .expect("pages")
        .map(|e| e.expect("an entry").file_name().into_string().expect("UTF-8"))
        .collect();
    names.sort();
    let mut wanted: Vec<String> = commands()
        .iter()
        .filter(|name| *name != "help")
        .map(|name| format!("l2p-engine-{name}.1"))
        .chain(["l2p-engine.1".to_string()])
        .collect();
    wanted.sort();
    assert_eq!(names, wanted);
    assert!(said.contains(&format!("{} pages", wanted.len())), "{said}");
    let train = std::fs::read_to_string(folder.join("l2p-engine-train.1")).expect("a page");
    for word in ["SYNOPSIS", "checkpoint", "short_prompts"] {
        assert!(train.contains(word), "no `{word}` in {train}");
    }
    // A file where the folder should be is an error that names it.
    let file = dir.path().join("taken");
    std::fs::write(&file, "x").expect("a file");
    let output = run(&["man", file.to_str().expect("UTF-8")]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("taken"));
}
