//! Memory of this machine beside its GPUs.

/// Bytes of host memory that can be given out without swapping, as Linux estimates them; `None` where that is not known.
pub fn available_memory() -> Option<usize> {
    [of_machine(), of_group()].into_iter().flatten().min()
}

/// What a container may still take (cgroup v2), where it has a limit.
fn of_group() -> Option<usize> {
    let read = |name: &str| {
        let text = std::fs::read_to_string(format!("/sys/fs/cgroup/memory.{name}")).ok()?;
        text.trim().parse::<usize>().ok()
    };
    read("max")?.checked_sub(read("current")?)
}

fn of_machine() -> Option<usize> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<usize>().ok()?.checked_mul(1024)
}
