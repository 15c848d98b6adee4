//! The numbers of a report for other programs: CSV, JSON, a LaTeX table. One entry per configuration and
//! result, over the runs that differ in nothing but their seed.

use super::runs::{Group, Run};
use crate::error::{Error, Result};
use crate::output::metrics::{METRICS, Metric};
use crate::output::results::Score;
use crate::output::spread::Spread;
use crate::output::table::percent;
use serde::{Serialize, Serializer};

/// One configuration.
#[derive(Debug, Clone, Serialize)]
struct Configuration {
    configuration: String,
    method: String,
    rule_set: String,
    dataset: String,
    num_tasks: usize,
    /// In the order of the values of each metric.
    seeds: Vec<u64>,
    workdirs: Vec<String>,
    results: Vec<ExportedResult>,
}

/// One result of a configuration: of a selection, or a baseline.
#[derive(Debug, Clone, Serialize)]
struct ExportedResult {
    result: String,
    /// In the order of [`METRICS`].
    #[serde(flatten, serialize_with = "by_key")]
    metrics: Vec<Option<ExportedMetric>>,
}

fn by_key<S: Serializer>(metrics: &[Option<ExportedMetric>], to: S) -> std::result::Result<S::Ok, S::Error> {
    to.collect_map(METRICS.iter().map(|metric| metric.key).zip(metrics))
}

/// Fractions: mean and deviation over the runs, and the value of each.
#[derive(Debug, Clone, Serialize)]
struct ExportedMetric {
    #[serde(flatten)]
    spread: Spread,
    values: Vec<Option<f64>>,
}

impl ExportedMetric {
    fn of(scores: &[Option<&Score>], metric: &Metric) -> Option<ExportedMetric> {
        let last = |score: &Option<&Score>| score.and_then(|score| metric.last(&score.after_each_task));
        let values: Vec<Option<f64>> = scores.iter().map(last).collect();
        Some(ExportedMetric { spread: Spread::of_some(values.iter().copied())?, values })
    }
}

impl ExportedResult {
    fn of<'a>(result: &str, group: &'a Group, read: impl Fn(&'a Run) -> Option<&'a Score>) -> ExportedResult {
        let scores: Vec<Option<&Score>> = group.runs.iter().map(read).collect();
        let metrics = METRICS.iter().map(|metric| ExportedMetric::of(&scores, metric)).collect();
        ExportedResult { result: result.to_string(), metrics }
    }
}

fn configurations(groups: &[Group]) -> Vec<Configuration> {
    let of = |group: &Group| {
        let first = &group.first().results;
        let mut results =
            vec![ExportedResult::of("each image selects", group, |run| Some(&run.results.per_image))];
        if group.votes() {
            results.push(ExportedResult::of("batch vote", group, |run| Some(&run.results.per_batch)));
        }
        for (name, _) in first.baselines.named() {
            results.push(ExportedResult::of(name, group, |run| {
                let named = run.results.baselines.named();
                named.into_iter().find(|(other, _)| *other == name).map(|(_, score)| score)
            }));
        }
        Configuration {
            configuration: group.label.clone(),
            method: first.method.clone(),
            rule_set: first.rule_set.clone(),
            dataset: first.dataset.clone(),
            num_tasks: first.num_tasks,
            seeds: group.runs.iter().map(|run| run.config.seed).collect(),
            workdirs: group.runs.iter().map(|run| run.workdir.display().to_string()).collect(),
            results,
        }
    };
    groups.iter().map(of).collect()
}

/// A JSON array with an object per configuration; fractions, with the value of each seed.
///
/// # Errors
/// `Error::Failed` if a value cannot be written, which does not happen with finite numbers.
pub fn json(groups: &[Group]) -> Result<String> {
    serde_json::to_string_pretty(&configurations(groups))
        .map_err(|e| Error::failed(format!("the report cannot be written as JSON: {e}")))
}

/// A row per configuration and result: mean and deviation of each metric as fractions; empty where there is
/// no value.
///
/// # Errors
/// `Error::Failed` if a row cannot be written.
pub fn csv(groups: &[Group]) -> Result<String> {
    let failed = |e: String| Error::failed(format!("the report cannot be written as CSV: {e}"));
    let mut out = csv::Writer::from_writer(Vec::new());
    let mut header = ["configuration", "result", "method", "rule_set", "dataset", "tasks", "runs", "seeds"]
        .map(String::from)
        .to_vec();
    for Metric { key, .. } in &METRICS {
        header.extend([format!("{key}_mean"), format!("{key}_deviation")]);
    }
    out.write_record(&header).map_err(|e| failed(e.to_string()))?;
    for c in configurations(groups) {
        let seeds: Vec<String> = c.seeds.iter().map(u64::to_string).collect();
        for entry in &c.results {
            let (tasks, runs) = (c.num_tasks.to_string(), c.seeds.len().to_string());
            let mut row =
                [&c.configuration, &entry.result, &c.method, &c.rule_set, &c.dataset, &tasks, &runs]
                    .map(String::clone)
                    .to_vec();
            row.push(seeds.join(" "));
            for metric in &entry.metrics {
                let number = |value: Option<f64>| value.map_or(String::new(), |v| v.to_string());
                let spread = metric.as_ref().map(|m| m.spread);
                row.extend([number(spread.map(|s| s.mean)), number(spread.and_then(|s| s.deviation))]);
            }
            out.write_record(&row).map_err(|e| failed(e.to_string()))?;
        }
    }
    let bytes = out.into_inner().map_err(|e| failed(e.to_string()))?;
    String::from_utf8(bytes).map_err(|e| failed(e.to_string()))
}

/// A `tabular` in percent that needs no package: a row per configuration and result.
pub fn latex(groups: &[Group]) -> String {
    let mut out = String::from(
        "\\begin{tabular}{llrrr}\n\\hline\nconfiguration & result & runs & average accuracy & forgetting \\\\\n\\hline\n",
    );
    for c in configurations(groups) {
        for entry in &c.results {
            let cell = |metric: &Option<ExportedMetric>| match metric.as_ref().map(|m| m.spread) {
                None => "--".to_string(),
                Some(Spread { mean, deviation: None, .. }) => format!("${}$", percent(mean)),
                Some(Spread { mean, deviation: Some(d), .. }) => {
                    format!("${} \\pm {}$", percent(mean), percent(d))
                }
            };
            out += &format!(
                "{} & {} & {} & {} & {} \\\\\n",
                latex_text(&c.configuration),
                latex_text(&entry.result),
                c.seeds.len(),
                cell(&entry.metrics[0]),
                cell(&entry.metrics[1])
            );
        }
    }
    out + "\\hline\n\\end{tabular}"
}

/// A text with LaTeX's own characters escaped.
fn latex_text(text: &str) -> String {
    let escaped = |c: char| match c {
        '&' | '%' | '$' | '#' | '_' | '{' | '}' => format!("\\{c}"),
        '\\' => "\\textbackslash{}".into(),
        '~' => "\\textasciitilde{}".into(),
        '^' => "\\textasciicircum{}".into(),
        '<' => "\\textless{}".into(),
        '>' => "\\textgreater{}".into(),
        c if c.is_control() => " ".into(),
        c => c.to_string(),
    };
    text.chars().map(escaped).collect()
}
