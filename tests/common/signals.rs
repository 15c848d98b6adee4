//! Signals that whoever started the tests has turned off.

/// Whether this process was started with a signal ignored, as `nohup` does with SIGHUP and a shell script with SIGINT
/// for what it starts with `&`: its children are, too. Then a line says that nothing is tested.
pub fn is_ignored(name: &str) -> bool {
    let number = match name {
        "HUP" => 1,
        "INT" => 2,
        _ => return false,
    };
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = mask
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask >> (number - 1) & 1 == 1);
    if ignored {
        eprintln!("skipped: SIG{name} is ignored by whoever started the tests, and stays so");
    }
    ignored
}
