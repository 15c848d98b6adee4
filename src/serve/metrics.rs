//! Counters in the text format of Prometheus (version 0.0.4).

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Upper ends of the buckets: images of a batch, and seconds of a request.
const BATCH_ENDS: [f64; 8] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0];
const SECOND_ENDS: [f64; 12] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

#[derive(Debug, Default)]
struct Histogram {
    counts: Vec<u64>,
    sum: f64,
    count: u64,
}

impl Histogram {
    fn add(&mut self, value: f64, ends: &[f64]) {
        self.counts.resize(ends.len(), 0);
        self.counts.iter_mut().zip(ends).filter(|(_, end)| value <= **end).for_each(|(n, _)| *n += 1);
        self.sum += value;
        self.count += 1;
    }

    fn write(&self, text: &mut String, name: &str, labels: &str, ends: &[f64]) {
        let comma = if labels.is_empty() { "" } else { "," };
        for (i, end) in ends.iter().enumerate() {
            let n = self.counts.get(i).copied().unwrap_or(0);
            let _ = writeln!(text, "{name}_bucket{{{labels}{comma}le=\"{end}\"}} {n}");
        }
        let _ = writeln!(text, "{name}_bucket{{{labels}{comma}le=\"+Inf\"}} {}", self.count);
        let braces = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
        let _ = writeln!(text, "{name}_sum{braces} {}\n{name}_count{braces} {}", self.sum, self.count);
    }
}

#[derive(Debug, Default)]
struct Counts {
    requests: BTreeMap<(&'static str, u16), u64>,
    seconds: BTreeMap<&'static str, Histogram>,
    batches: Histogram,
}

/// What a server has done so far.
#[derive(Debug, Default)]
pub struct Metrics(Mutex<Counts>);

/// What a server is doing now.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    pub waiting: usize,
    pub connections: usize,
    pub version: u32,
    pub versions: usize,
    pub teaching: bool,
}

impl Metrics {
    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request to `route` was answered with `status`.
    pub fn request(&self, route: &'static str, status: u16, time: Duration) {
        let mut counts = self.lock();
        *counts.requests.entry((route, status)).or_default() += 1;
        counts.seconds.entry(route).or_default().add(time.as_secs_f64(), &SECOND_ENDS);
    }

    /// The network answered for `images` at once.
    pub fn batch(&self, images: usize) {
        self.lock().batches.add(images as f64, &BATCH_ENDS);
    }

    /// The document that Prometheus reads.
    pub fn text(&self, now: Now) -> String {
        let counts = self.lock();
        let mut text = String::new();
        let head = |text: &mut String, name: &str, kind: &str, help: &str| {
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        };
        head(&mut text, "l2p_requests_total", "counter", "Requests answered, by route and status code.");
        for ((route, status), n) in &counts.requests {
            let _ = writeln!(text, "l2p_requests_total{{route=\"{route}\",status=\"{status}\"}} {n}");
        }
        head(&mut text, "l2p_request_seconds", "histogram", "Time from a request's head to its answer.");
        for (route, seconds) in &counts.seconds {
            seconds.write(&mut text, "l2p_request_seconds", &format!("route=\"{route}\""), &SECOND_ENDS);
        }
        head(&mut text, "l2p_batch_images", "histogram", "Images that the network answered for at once.");
        counts.batches.write(&mut text, "l2p_batch_images", "", &BATCH_ENDS);
        let memory = resident_bytes().unwrap_or(0);
        for (name, help, value) in [
            (
                "l2p_waiting_images",
                "Images that wait for the network or are being decoded.",
                now.waiting as u64,
            ),
            ("l2p_open_connections", "Open connections.", now.connections as u64),
            ("l2p_active_version", "The version that answers.", u64::from(now.version)),
            ("l2p_versions", "Versions that could answer.", now.versions as u64),
            ("l2p_teaching", "Whether a class is being taught, 0 or 1.", u64::from(now.teaching)),
            ("process_resident_memory_bytes", "Resident memory.", memory),
        ] {
            head(&mut text, name, "gauge", help);
            let _ = writeln!(text, "{name} {value}");
        }
        text
    }
}

/// Resident memory of this process; `None` where `/proc` does not say.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}
