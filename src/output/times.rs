//! Where the time of a run goes, as `train --profile` records it.

use serde::{Deserialize, Serialize};

/// Seconds of an op within a phase, without the ops that it calls.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TimeRow {
    pub phase: String,
    /// Empty for what a phase does besides its ops.
    pub op: String,
    pub calls: u64,
    pub seconds: f64,
}

/// What is below this share of the whole is one row with the rest of its phase.
const SHOWN: f64 = 0.005;

/// Adds times to those of the same phase and op.
pub fn add(all: &mut Vec<TimeRow>, more: impl IntoIterator<Item = TimeRow>) {
    for row in more {
        match all.iter_mut().find(|known| known.phase == row.phase && known.op == row.op) {
            Some(known) => {
                known.calls += row.calls;
                known.seconds += row.seconds;
            }
            None => all.push(row),
        }
    }
}

/// One row of the table: a phase, or an op of the phase above it.
#[derive(Debug, Clone, PartialEq)]
pub struct TimeLine {
    pub name: String,
    pub is_phase: bool,
    /// Of an op.
    pub calls: Option<u64>,
    pub seconds: f64,
    /// Of all seconds.
    pub share: f64,
}

/// The table of `rows`: phases, the longest first, each with its ops, and what `all` seconds have besides.
pub fn table(rows: &[TimeRow], all: f64) -> Vec<TimeLine> {
    let line = |name: &str, calls, seconds: f64, is_phase| TimeLine {
        name: name.to_string(),
        is_phase,
        calls,
        seconds,
        share: if all > 0.0 { seconds / all } else { 0.0 },
    };
    let mut phases: Vec<(&str, f64)> = Vec::new();
    for row in rows {
        match phases.iter_mut().find(|(name, _)| *name == row.phase) {
            Some((_, seconds)) => *seconds += row.seconds,
            None => phases.push((&row.phase, row.seconds)),
        }
    }
    phases.sort_by(|a, b| b.1.total_cmp(&a.1));
    let mut lines = Vec::new();
    for (phase, seconds) in &phases {
        lines.push(line(phase, None, *seconds, true));
        let mut ops: Vec<&TimeRow> =
            rows.iter().filter(|row| row.phase == *phase && !row.op.is_empty()).collect();
        ops.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        ops.retain(|op| op.seconds >= SHOWN * all);
        lines.extend(ops.iter().map(|op| line(&op.op, Some(op.calls), op.seconds, false)));
        let rest = seconds - ops.iter().map(|op| op.seconds).sum::<f64>();
        if !ops.is_empty() && rest >= SHOWN * all {
            lines.push(line("the rest", None, rest, false));
        }
    }
    let besides = all - phases.iter().map(|(_, seconds)| seconds).sum::<f64>();
    lines.push(line("besides", None, besides.max(0.0), true));
    lines.push(line("all", None, all, true));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(phase: &str, op: &str, calls: u64, seconds: f64) -> TimeRow {
        TimeRow { phase: phase.into(), op: op.into(), calls, seconds }
    }

    #[test]
    fn phases_come_in_order_and_small_ops_together() {
        let mut rows = vec![row("files", "", 1, 1.0), row("query pass", "matmul", 3, 5.0)];
        add(&mut rows, [row("query pass", "", 2, 0.5), row("query pass", "gelu", 4, 0.03)]);
        add(&mut rows, [row("query pass", "matmul", 1, 1.0)]);
        let lines = table(&rows, 10.0);
        let found: Vec<(&str, bool, Option<u64>, f64)> = lines
            .iter()
            .map(|l| (l.name.as_str(), l.is_phase, l.calls, (l.seconds * 100.0).round() / 100.0))
            .collect();
        let wanted = [
            ("query pass", true, None, 6.53),
            ("matmul", false, Some(4), 6.0),
            ("the rest", false, None, 0.53),
            ("files", true, None, 1.0),
            ("besides", true, None, 2.47),
            ("all", true, None, 10.0),
        ];
        assert_eq!(found, wanted);
        assert!((lines[0].share - 0.653).abs() < 1e-12);
    }
}
