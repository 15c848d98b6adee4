//! What is said of a row once its runs are done.

use super::recipe::{Compared, Row};
use crate::config::published::Number;
use crate::output::seeds::{Seeds, Spreads};
use crate::output::spread::Spread;
use serde::Serialize;

/// A difference of so many points or less is none.
const LEAST: f64 = 0.5;
/// Deviations that a difference may have.
const DEVIATIONS: f64 = 2.0;

/// Our number beside the published one.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// They differ by at most two deviations of both together, or half a point.
    Within,
    Above,
    Below,
    /// They are of different things, or nothing was published.
    NotComparable(String),
    /// Some seeds are still to be run.
    Unfinished,
    /// The row could not be run.
    NotRun(String),
}

impl Verdict {
    /// In words for a table.
    pub fn words(&self) -> String {
        match self {
            Verdict::Within => "within".into(),
            Verdict::Above => "above".into(),
            Verdict::Below => "below".into(),
            Verdict::NotComparable(why) => format!("not comparable: {why}"),
            Verdict::Unfinished => "unfinished".into(),
            Verdict::NotRun(why) => format!("not run: {why}"),
        }
    }
}

/// A row and what came of it; accuracies are fractions.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    pub name: String,
    pub method: String,
    pub rule_set: String,
    pub dataset: String,
    /// Seeds that are done, and that are wanted.
    pub seeds: (usize, usize),
    pub compared: &'static str,
    pub average_accuracy: Option<Spread>,
    pub forgetting: Option<Spread>,
    pub published: Option<String>,
    pub verdict: Verdict,
    pub hours: f64,
}

impl Outcome {
    /// What the finished runs of a row say, or why there are none.
    pub fn of(row: &Row, done: Result<&Seeds, String>) -> Outcome {
        let mut outcome = Outcome {
            name: row.name.clone(),
            method: row.config.method.to_string(),
            rule_set: row.config.rule_set.to_string(),
            dataset: row.config.data.dataset.to_string(),
            seeds: (0, row.seeds.len()),
            compared: row.compared.words(),
            average_accuracy: None,
            forgetting: None,
            published: row.published.as_ref().map(|p| {
                let forgetting = p.forgetting.map_or(String::new(), |f| format!(", {f}"));
                format!("{}{forgetting} ({})", p.avg_acc, p.source)
            }),
            verdict: Verdict::Unfinished,
            hours: 0.0,
        };
        let seeds = match done {
            Ok(seeds) => seeds,
            Err(why) => return Outcome { verdict: Verdict::NotRun(why), ..outcome },
        };
        let spreads: Option<&Spreads> = match row.compared {
            Compared::EachImage => seeds.per_image.as_ref(),
            Compared::BatchVote => seeds.per_batch.as_ref(),
        };
        outcome.seeds.0 = seeds.runs.len();
        outcome.hours = seeds.runs.iter().map(|run| run.seconds).sum::<f64>() / 3600.0;
        outcome.average_accuracy = spreads.and_then(|s| s.get("avg_acc"));
        outcome.forgetting = spreads.and_then(|s| s.get("forgetting"));
        if let Some(ours) = outcome.average_accuracy.filter(|_| seeds.complete) {
            outcome.verdict = match (&row.not_comparable, &row.published) {
                (Some(why), _) => Verdict::NotComparable(why.clone()),
                (None, None) => Verdict::NotComparable("nothing is published for it".into()),
                (None, Some(published)) => judge(&ours, published.avg_acc),
            };
        }
        outcome
    }
}

/// `ours` as a fraction, the other in percent.
fn judge(ours: &Spread, published: Number) -> Verdict {
    let deviation = (100.0 * ours.deviation.unwrap_or(0.0)).hypot(published.deviation.unwrap_or(0.0));
    let (by, room) = (100.0 * ours.mean - published.value, LEAST.max(DEVIATIONS * deviation));
    match by {
        by if by.abs() <= room => Verdict::Within,
        by if by > room => Verdict::Above,
        _ => Verdict::Below,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_needs_more_than_two_deviations() {
        let judged = |mean: f64, deviation: Option<f64>, value: f64, published: Option<f64>| {
            judge(&Spread { mean, deviation, n: 3 }, Number { value, deviation: published })
        };
        assert_eq!(judged(0.8, None, 80.4, None), Verdict::Within);
        assert_eq!(judged(0.8, None, 80.6, None), Verdict::Below);
        assert_eq!(judged(0.8, None, 79.4, None), Verdict::Above);
        // sqrt(3² + 4²) = 5 points.
        assert_eq!(judged(0.8, Some(0.03), 89.9, Some(4.0)), Verdict::Within);
        assert_eq!(judged(0.8, Some(0.03), 90.1, Some(4.0)), Verdict::Below);
    }
}
