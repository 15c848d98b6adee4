//! Where the time of runs with `train --profile` went.

use super::parts::{heading, section};
use super::runs::{Group, Run};
use super::svg::escape;
use crate::output::table::percent;
use crate::output::times;

/// A table for the first run of each group that was timed; empty if none was.
pub fn of_groups(groups: &[Group]) -> String {
    let mut body = String::new();
    for (g, group) in groups.iter().enumerate() {
        if let Some(run) = group.runs.iter().find(|run| run.history.timed > 0.0) {
            if groups.len() > 1 {
                body += &heading(g, &group.label);
            }
            body += &table(run);
        }
    }
    if body.is_empty() {
        return body;
    }
    section(
        "Where the time goes",
        "Seconds of the phases of a run, and of the ops within them without what these call themselves, as `train \
         --profile` recorded them.",
        &body,
    )
}

fn table(run: &Run) -> String {
    let rows: String = times::table(&run.history.times, run.history.timed)
        .into_iter()
        .map(|line| {
            let name = escape(&line.name);
            let name = if line.is_phase { format!("<b>{name}</b>") } else { format!("&#8195;{name}") };
            let calls = line.calls.map_or_else(String::new, |n| n.to_string());
            let (seconds, share) = (line.seconds, percent(line.share));
            format!("<tr><td>{name}</td><td>{calls}</td><td>{seconds:.2}</td><td>{share}</td></tr>")
        })
        .collect();
    format!(
        "<div class=\"card\"><table><tr><th>seed {}, {}</th><th>calls</th><th>seconds</th><th>%</th></tr>{rows}</table></div>",
        run.config.seed,
        escape(&run.results.device)
    )
}
