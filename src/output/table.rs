//! Tables for the terminal: accuracies, baselines, memory plan.

use super::metrics::METRICS;
use super::results::{Baselines, CONTROLS, Score};
use super::seeds::{FinalMetrics, Seeds};
use super::spread::Spread;
pub use super::spread::percent;
use super::times::{self, TimeRow};
use crate::tensor::plan::Plan;
use comfy_table::{CellAlignment, Table, presets};
use std::io::IsTerminal;

/// How tables are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Style {
    /// Lines from Unicode instead of + - |.
    pub unicode: bool,
    /// Columns of the terminal; two tables stand side by side when they fit.
    pub width: usize,
}

impl Style {
    /// For standard output: Unicode only on a terminal with a UTF-8 locale.
    pub fn detect() -> Style {
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"]
            .into_iter()
            .filter_map(|name| std::env::var(name).ok())
            .find(|value| !value.is_empty())
            .unwrap_or_default()
            .to_lowercase();
        let utf8 = locale.contains("utf-8") || locale.contains("utf8");
        let width = std::env::var("COLUMNS").ok().and_then(|c| c.parse().ok()).unwrap_or(100);
        Style { unicode: utf8 && std::io::stdout().is_terminal(), width }
    }

    /// For files and pipes.
    pub fn plain() -> Style {
        Style { unicode: false, width: 100 }
    }
}

fn percent_or_dash(fraction: Option<f64>) -> String {
    fraction.map_or("-".into(), percent)
}

/// The accuracy matrices of both selections in percent: rows after task t, columns task i, numbered from 1,
/// each row with its average and forgetting; side by side if they fit.
pub fn accuracy(per_image: &Score, per_batch: Option<&Score>, style: Style) -> String {
    let left = matrix("each image selects", per_image, style);
    match per_batch {
        Some(score) => beside(&left, &matrix("batch vote", score, style), style.width),
        None => left,
    }
}

fn matrix(title: &str, score: &Score, style: Style) -> String {
    let tasks = score.accuracy_matrix.iter().map(Vec::len).max().unwrap_or(0);
    let mut header = vec!["after task".to_string()];
    header.extend((1..=tasks).map(|t| t.to_string()));
    header.extend(["avg".to_string(), "forgetting".to_string()]);
    let rows = score.accuracy_matrix.iter().enumerate().map(|(t, row)| {
        let metrics = score.after_each_task.get(t);
        let mut cells = vec![(score.task_of(t) + 1).to_string()];
        cells.extend((0..tasks).map(|i| row.get(i).map_or(String::new(), |a| percent(*a))));
        cells.push(metrics.map_or("-".into(), |m| percent(m.avg_acc)));
        cells.push(percent_or_dash(metrics.and_then(|m| m.forgetting)));
        cells
    });
    format!("accuracy in %, {title}\n{}", draw(header, rows, style))
}

/// The metrics of [`METRICS`] that the official code has.
const SUMMARY: std::ops::Range<usize> = 0..4;

/// They after the last task, in percent.
pub fn summary(per_image: &Score, per_batch: Option<&Score>, style: Style) -> String {
    let mut columns = vec![("each image selects", per_image)];
    columns.extend(per_batch.map(|score| ("batch vote", score)));
    let mut header = vec!["%".to_string()];
    header.extend(columns.iter().map(|(name, _)| name.to_string()));
    let rows = METRICS[SUMMARY].iter().map(|metric| {
        let mut cells = vec![metric.name.to_string()];
        let values = columns.iter().map(|(_, score)| FinalMetrics::from(*score).get(metric.key));
        cells.extend(values.map(percent_or_dash));
        cells
    });
    draw(header, rows, style)
}

/// Every metric beside those of [`summary`] that is defined, in percent by the keys that files have; a line, or more
/// where they do not fit. `None` if there is none.
pub fn further(per_image: &Score, style: Style) -> Option<String> {
    let last = FinalMetrics::from(per_image);
    let found =
        METRICS[SUMMARY.len()..].iter().filter_map(|metric| Some((metric.key, last.get(metric.key)?)));
    let mut words = found.map(|(key, value)| format!("{key} {}", percent(value))).peekable();
    words.peek()?;
    let mut lines = vec!["further metrics in % (docs/metrics.md):".to_string()];
    let mut separator = " ";
    for word in words {
        match lines.last_mut() {
            Some(line) if line.chars().count() + separator.len() + word.chars().count() < style.width => {
                *line += &format!("{separator}{word}");
            }
            _ => lines.push(format!("  {word}")),
        }
        separator = ", ";
    }
    Some(lines.join("\n"))
}

/// The run's own result above its baselines, in percent.
pub fn baselines(
    per_image: &Score,
    per_batch: Option<&Score>,
    baselines: &Baselines,
    style: Style,
) -> String {
    let mut rows = vec![("each image selects", per_image)];
    rows.extend(per_batch.map(|score| ("batch vote", score)));
    rows.extend(baselines.named());
    let header = ["", "avg accuracy %", "forgetting %"].map(String::from).to_vec();
    let rows = rows.into_iter().map(|(name, score)| {
        vec![name.to_string(), percent(score.avg_acc), percent_or_dash(score.forgetting)]
    });
    let table = draw(header, rows, style);
    if baselines.have_controls() { format!("{table}\n{CONTROLS}") } else { table }
}

/// Several seeds, a row each, in percent; below them mean and deviation.
pub fn seeds(seeds: &Seeds, with_vote: bool, style: Style) -> String {
    let mut header = ["seed", "avg accuracy %", "forgetting %"].map(String::from).to_vec();
    if with_vote {
        header.extend(["batch vote: avg %", "forgetting %"].map(String::from));
    }
    let mut rows: Vec<Vec<String>> = Vec::new();
    for run in &seeds.runs {
        let cells = |m: &FinalMetrics| ["avg_acc", "forgetting"].map(|key| percent_or_dash(m.get(key)));
        let mut row = vec![run.seed.to_string()];
        row.extend(cells(&run.per_image));
        row.extend(with_vote.then(|| cells(&run.per_batch)).into_iter().flatten());
        rows.push(row);
    }
    let spreads =
        || [&seeds.per_image, &seeds.per_batch].into_iter().take(1 + usize::from(with_vote)).flatten();
    let columns = || spreads().flat_map(|s| ["avg_acc", "forgetting"].map(|key| s.get(key)));
    let last = |name: &str, of: fn(Spread) -> Option<f64>| {
        std::iter::once(name.to_string()).chain(columns().map(|s| percent_or_dash(s.and_then(of)))).collect()
    };
    rows.push(last("mean", |s| Some(s.mean)));
    rows.push(last("deviation", |s| s.deviation));
    draw(header, rows.into_iter(), style)
}

/// What the composition of test batches does, in percent and points.
pub fn leak(rows: &[(&str, Spread, f64)], style: Style) -> String {
    let own = rows.first().map_or(f64::NAN, |(_, s, _)| s.mean);
    let header = ["", "avg accuracy %", "points", "images moved %"].map(String::from).to_vec();
    let rows = rows.iter().map(|(name, accuracy, moved)| {
        let points = format!("{:+.2}", 100.0 * (accuracy.mean - own));
        vec![name.to_string(), accuracy.percent(), points, percent(*moved)]
    });
    draw(header, rows, style)
}

/// The memory plan: MiB per group and in total.
pub fn memory(plan: &Plan, style: Style) -> String {
    let mib = |bytes: usize| format!("{:.2}", bytes as f64 / f64::from(1 << 20));
    let tensors = |group: &str| plan.rows().iter().filter(|r| r.group == group).count().to_string();
    let mut rows: Vec<Vec<String>> = plan
        .by_group()
        .into_iter()
        .map(|(group, bytes)| vec![group.to_string(), tensors(group), mib(bytes)])
        .collect();
    rows.push(vec!["total".into(), plan.rows().len().to_string(), mib(plan.total_bytes())]);
    draw(["memory", "tensors", "MiB"].map(String::from).to_vec(), rows.into_iter(), style)
}

/// Where the time of a run went: phases, their ops indented.
pub fn times(rows: &[TimeRow], all: f64, style: Style) -> String {
    let rows = times::table(rows, all).into_iter().map(|line| {
        let name = if line.is_phase { line.name } else { format!("  {}", line.name) };
        let calls = line.calls.map_or_else(String::new, |n| n.to_string());
        vec![name, calls, format!("{:.2}", line.seconds), percent(line.share)]
    });
    draw(["time", "calls", "seconds", "%"].map(String::from).to_vec(), rows, style)
}

/// First column to the left, numbers to the right.
/// A table; all columns but the first are set to the right.
pub fn draw(header: Vec<String>, rows: impl Iterator<Item = Vec<String>>, style: Style) -> String {
    let mut table = Table::new();
    table.load_preset(if style.unicode {
        presets::UTF8_FULL_CONDENSED
    } else {
        presets::ASCII_FULL_CONDENSED
    });
    table.set_header(header);
    table.add_rows(rows);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.to_string()
}

/// Two texts next to each other if both fit, else one below the other.
fn beside(left: &str, right: &str, width: usize) -> String {
    let columns = |text: &str| text.lines().map(|l| l.chars().count()).max().unwrap_or(0);
    let (l, r) = (columns(left), columns(right));
    if l + 3 + r > width {
        return format!("{left}\n\n{right}");
    }
    let rows = left.lines().count().max(right.lines().count());
    let (mut lefts, mut rights) = (left.lines(), right.lines());
    let join = |_| {
        let (a, b) = (lefts.next().unwrap_or(""), rights.next().unwrap_or(""));
        format!("{a}{}   {b}", " ".repeat(l - a.chars().count())).trim_end().to_string()
    };
    (0..rows).map(join).collect::<Vec<_>>().join("\n")
}
