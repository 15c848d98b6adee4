//! The drawings of a report, from what its runs found.

use super::charts::{self, Axis, Dot, Heat, Line, Standing};
use super::metrics;
use super::parts::{Figure, colour};
use super::runs::{Choices, Group, Run, comparable, entropy, together, with_baselines};
use crate::output::results::{PROMPT_BASELINES, Results, Score};
use crate::output::spread::Spread;

/// Panels of [`each_task`]; there may be hundreds of tasks.
const MOST_PANELS: usize = 24;

/// Every drawing of the page, in its order.
pub fn all(groups: &[Group]) -> Vec<Figure> {
    let mut all = standings(groups);
    all.extend(cost(groups));
    all.extend(over_tasks(groups));
    all.extend(each_task(groups));
    all.extend(learned_and_left(groups));
    for (g, group) in groups.iter().enumerate() {
        all.extend(matrices(g, group));
    }
    for (g, group) in groups.iter().enumerate() {
        all.extend(metrics::figures(g, group));
    }
    for (g, group) in groups.iter().enumerate() {
        for run in &group.runs {
            all.extend(prompts(g, run));
        }
    }
    all.extend(training(groups));
    all
}

fn own(results: &Results) -> &Score {
    &results.per_image
}

fn vote(results: &Results) -> &Score {
    &results.per_batch
}

type Selection = fn(&Results) -> &Score;
type ReadMetric = fn(&Score) -> Option<f64>;

fn accuracy(score: &Score) -> Option<f64> {
    Some(score.avg_acc).filter(|v| v.is_finite())
}

fn forgetting(score: &Score) -> Option<f64> {
    score.forgetting
}

/// Baselines that hold for all groups, and the group to read them from.
fn shared_baselines(groups: &[Group]) -> Vec<(&'static str, &Group)> {
    let several = comparable(groups).len() > 1;
    let Some(group) = with_baselines(groups.iter()).filter(|_| !several) else { return Vec::new() };
    let named = group.first().results.baselines.named().into_iter().map(|(name, _)| (name, group));
    named.filter(|(name, _)| groups.len() == 1 || !PROMPT_BASELINES.contains(name)).collect()
}

/// Accuracy beside what it took; nothing for one configuration.
fn cost(groups: &[Group]) -> Option<Figure> {
    let points = groups.iter().enumerate().filter_map(|(g, group)| {
        let minutes = group.runs.iter().map(|run| run.results.seconds / 60.0).collect::<Vec<_>>();
        let accuracy = group.spread(|run| accuracy(own(&run.results)))?;
        let point = (Spread::of(&minutes).mean, 100.0 * accuracy.mean);
        Some(Line { class: colour(g), name: group.label.clone(), points: vec![point], band: Vec::new() })
    });
    let points: Vec<Line> = points.filter(|line| line.points[0].0.is_finite()).collect();
    let axis = Axis { name: "minutes of a run, baselines included".into(), ..Axis::default() };
    (points.len() > 1).then(|| {
        let caption = "Average accuracy after the last task in %, beside the time of a run; up and left is better. Runs on \
                       other machines do not compare.";
        Figure::new("cost", "Accuracy and cost", caption, charts::lines(&axis, &points, None))
    })
}

/// Where the runs stand: beside their baselines and what others report.
fn standings(groups: &[Group]) -> Vec<Figure> {
    let metrics: [(&str, &str, &str, ReadMetric); 2] = [
        ("average_accuracy", "Average accuracy", "%, after the last task; right is better", accuracy),
        ("forgetting", "Forgetting", "points, after the last task; left is better", forgetting),
    ];
    let draw = |(name, title, axis, metric): (&str, &str, &str, ReadMetric)| {
        let mut rows = Vec::new();
        for (g, group) in groups.iter().enumerate() {
            let colour = colour(g);
            let dots = |class: &str, of: fn(&Results) -> &Score| {
                let spread = group.spread(|run| metric(of(&run.results)))?;
                let each = group.runs.iter().filter_map(|run| metric(of(&run.results)));
                let mut dots: Vec<Dot> = Vec::new();
                if spread.n > 1 {
                    dots.extend(each.map(|v| dot(100.0 * v, 0.0, &format!("dot faint {colour}"))));
                }
                dots.push(spread_dot(&spread, &format!("{class} {colour}")));
                Some((format!("{:.1}", 100.0 * spread.mean), dots))
            };
            let (voted, chosen) = (dots("ring", vote).filter(|_| group.votes()), dots("dot", own));
            // Several configurations have a row each.
            if groups.len() > 1 {
                let Some((text, chosen)) = chosen else { continue };
                let mark = voted.and_then(|(_, dots)| dots.last().cloned());
                let dots = mark.into_iter().map(|d| Dot { deviation: 0.0, ..d }).chain(chosen).collect();
                rows.push(Standing { name: group.label.clone(), text, dots });
                continue;
            }
            for (name, found) in [("each image selects", chosen), ("batch vote", voted)] {
                rows.extend(found.map(|(text, dots)| Standing { name: name.into(), text, dots }));
            }
        }
        for (baseline, of) in shared_baselines(groups) {
            if let Some(spread) = of.baseline(baseline, metric) {
                let (text, dots) =
                    (format!("{:.1}", 100.0 * spread.mean), vec![spread_dot(&spread, "dot baseline")]);
                rows.push(Standing { name: baseline.to_string(), text, dots });
            }
        }
        let mut told = Vec::new();
        for published in groups.iter().flat_map(Group::published) {
            let number = if name == "forgetting" { published.forgetting } else { Some(published.avg_acc) };
            let Some(number) = number.filter(|_| !told.contains(&published.source)) else { continue };
            let dots = vec![dot(number.value, number.deviation.unwrap_or(0.0), "ring said")];
            rows.push(Standing {
                name: published.source.clone(),
                text: format!("{:.1}", number.value),
                dots,
            });
            told.push(published.source);
        }
        Figure::new(name, title, standing_caption(groups), charts::standing(&rows, axis))
    };
    metrics.map(draw).into_iter().collect()
}

fn standing_caption(groups: &[Group]) -> String {
    let mut parts = vec!["Filled: each image selects its own prompts."];
    if groups.iter().any(Group::votes) {
        parts.push("Ring: the images of a batch vote.");
    }
    if groups.iter().any(|g| g.runs.len() > 1) {
        parts.push("Bar: deviation over seeds; pale dots: the seeds.");
    }
    if !shared_baselines(groups).is_empty() {
        parts.push("Grey: baselines, computed from the same data in the same run.");
    }
    if groups.iter().any(|g| !g.published().is_empty()) {
        parts.push("Ring without colour: published.");
    }
    parts.join(" ")
}

fn dot(value: f64, deviation: f64, class: &str) -> Dot {
    Dot { value, deviation, class: class.to_string() }
}

fn spread_dot(spread: &Spread, class: &str) -> Dot {
    dot(100.0 * spread.mean, 100.0 * spread.deviation.unwrap_or(0.0), class)
}

fn task_axis(groups: &[Group]) -> Axis {
    let tasks = groups.iter().map(|g| g.first().tasks()).max().unwrap_or(0);
    Axis {
        name: "tasks learned".into(),
        // At most so many numbers stand beside each other.
        ticks: (1..=tasks).step_by(tasks.div_ceil(40).max(1)).map(|t| (t as f64, t.to_string())).collect(),
        cuts: Vec::new(),
    }
}

/// How many tasks were learned when row `row` was taken.
fn learned(group: &Group, row: usize) -> f64 {
    group.first().results.per_image.task_of(row) as f64 + 1.0
}

/// Average accuracy or forgetting in row `row`.
fn at(score: &Score, row: usize, forgetting: bool) -> Option<f64> {
    let after = score.after_each_task.get(row)?;
    if forgetting { after.forgetting } else { Some(after.avg_acc).filter(|v| v.is_finite()) }
}

/// Average accuracy and forgetting after each task.
fn over_tasks(groups: &[Group]) -> Vec<Figure> {
    let series = |group: &Group, of: fn(&Results) -> &Score, forgetting: bool| {
        let mut line = Line::default();
        for row in usize::from(forgetting)..group.first().rows() {
            if let Some(spread) = group.spread(|run| at(of(&run.results), row, forgetting)) {
                line.points.push((learned(group, row), 100.0 * spread.mean));
                line.band.push(100.0 * spread.deviation.unwrap_or(0.0));
            }
        }
        line
    };
    let figure = |name: &str, title: &str, what: &str, forgetting: bool| {
        let mut lines = Vec::new();
        for (baseline, of) in shared_baselines(groups) {
            let at = |row: usize| of.baseline(baseline, |score| at(score, row, forgetting));
            let points = (0..of.first().rows()).filter_map(|t| Some((learned(of, t), 100.0 * at(t)?.mean)));
            let (class, name) = ("baseline".into(), baseline.into());
            lines.push(Line { class, name, points: points.collect(), band: Vec::new() });
        }
        for (g, group) in groups.iter().enumerate() {
            let alone = groups.len() == 1;
            if group.votes() {
                let name = if alone { "batch vote".into() } else { String::new() };
                let class = format!("dash {}", colour(g));
                lines.push(Line { class, name, ..series(group, vote, forgetting) });
            }
            let name = if alone { "each image selects".into() } else { group.label.clone() };
            lines.push(Line { class: colour(g), name, ..series(group, own, forgetting) });
        }
        let mut caption = format!("{what} Solid: each image selects.");
        if groups.iter().any(Group::votes) {
            caption += " Dotted: batch vote.";
        }
        if groups.iter().any(|g| g.runs.len() > 1) {
            caption += " Mean over seeds, band: one deviation.";
        }
        let mut axis = task_axis(groups);
        if forgetting {
            axis.ticks.retain(|t| t.0 > 1.0);
        }
        Figure::new(name, title, caption, charts::lines(&axis, &lines, None))
    };
    let accuracy = "Mean accuracy on the tasks learned so far, in %.";
    let forgetting = "Mean loss from the best accuracy a task ever had, in points.";
    vec![
        figure("accuracy_over_tasks", "Average accuracy over tasks", accuracy, false),
        figure("forgetting_over_tasks", "Forgetting over tasks", forgetting, true),
    ]
}

/// A small chart per task: its accuracy from when it is learned to the end.
fn each_task(groups: &[Group]) -> Option<Figure> {
    let tasks = groups.iter().map(|g| g.first().tasks()).max().unwrap_or(0);
    let matrices: Vec<Vec<Vec<f64>>> = groups.iter().map(|g| g.matrix(own)).collect();
    let panel = |i: usize| {
        let lines = matrices.iter().zip(groups).enumerate().map(|(g, (matrix, group))| {
            let after = matrix.iter().enumerate();
            let points =
                after.filter_map(|(t, row)| Some((learned(group, t), 100.0 * row.get(i)?))).collect();
            Line { class: colour(g), name: group.label.clone(), points, band: Vec::new() }
        });
        (format!("task {}", i + 1), lines.collect::<Vec<_>>())
    };
    let panels: Vec<_> = (0..tasks.min(MOST_PANELS)).map(panel).collect();
    if tasks < 2 {
        return None;
    }
    let first = if tasks > MOST_PANELS {
        format!(" The first {MOST_PANELS} of {tasks} tasks.")
    } else {
        String::new()
    };
    Some(Figure::new(
        "each_task",
        "Each task, from when it is learned",
        format!(
            "Accuracy in % on the test images of one task over the number of tasks learned; each image selects.{first}"
        ),
        charts::panels(&panels, (1.0, tasks as f64)),
    ))
}

/// Per task: its accuracy when it was learned, and at the end.
fn learned_and_left(groups: &[Group]) -> Option<Figure> {
    let matrices: Vec<Vec<Vec<f64>>> = groups.iter().map(|g| g.matrix(own)).collect();
    let tasks = matrices.iter().map(Vec::len).max().unwrap_or(0);
    let row = |i: usize| {
        let mut row = Standing { name: format!("task {}", i + 1), ..Standing::default() };
        for (g, matrix) in matrices.iter().enumerate() {
            let value = |t: usize| matrix.get(t).and_then(|r| r.get(i)).map_or(f64::NAN, |v| 100.0 * v);
            let (learned, left) = (value(i), value(matrix.len().saturating_sub(1)));
            row.dots.push(dot(learned, 0.0, &format!("ring {}", colour(g))));
            row.dots.push(dot(left, 0.0, &format!("dot {}", colour(g))));
            if groups.len() == 1 {
                row.text = format!("{:+.1}", left - learned).replace('-', "−");
            }
        }
        row
    };
    let rows: Vec<Standing> = (0..tasks.min(MOST_PANELS)).map(row).collect();
    (tasks > 1).then(|| {
        let caption = "Accuracy in %; ring: right after the task was learned, filled: after the last task.";
        let svg = charts::standing(&rows, "%, each image selects");
        Figure::new("learned_and_left", "What was learned, and what is left", caption, svg)
    })
}

/// The accuracy matrix of a group under both selections.
fn matrices(g: usize, group: &Group) -> Vec<Figure> {
    let mut selections: Vec<(&str, &str, Selection)> = vec![("own", "each image selects", own)];
    if group.votes() {
        selections.push(("vote", "batch vote", vote));
    }
    // One scale for both, wide enough to see differences.
    let cells = || selections.iter().flat_map(|(.., of)| group.matrix(*of)).flatten();
    let lowest =
        (cells().filter(|v| v.is_finite()).fold(1.0, f64::min) * 10.0).floor().clamp(0.0, 9.0) * 10.0;
    let figure = |(short, words, of): (&str, &str, Selection)| {
        let values: Vec<Vec<f64>> =
            group.matrix(of).iter().map(|row| row.iter().map(|v| 100.0 * v).collect()).collect();
        let mean = |row: &Vec<f64>| format!("{:.1}", row.iter().sum::<f64>() / row.len().max(1) as f64);
        let map = Heat {
            rows: (0..values.len()).map(|t| format!("after {}", learned(group, t))).collect(),
            columns: (1..=values.iter().map(Vec::len).max().unwrap_or(0)).map(|t| t.to_string()).collect(),
            column_name: "task".into(),
            range: (lowest, 100.0),
            decimals: 1,
            beside: Some(("average".into(), values.iter().map(mean).collect())),
            values,
            ..Heat::default()
        };
        let seeds =
            if group.runs.len() > 1 { format!(", mean of {} runs", group.runs.len()) } else { String::new() };
        Figure::new(
            &format!("matrix_{}_{short}", g + 1),
            format!("Accuracy matrix: {words}"),
            format!(
                "{}: accuracy in % on each task after each task{seeds}; colours from {lowest:.0} to 100.",
                group.label
            ),
            charts::heat(&map),
        )
    };
    selections.iter().copied().map(figure).collect()
}

/// Who uses which prompts in one run. `g`: its group.
pub fn prompts(g: usize, run: &Run) -> Vec<Figure> {
    let Some(last) = run.history.tasks.last().filter(|c| c.prompt_usage.iter().any(|t| !t.is_empty())) else {
        return Vec::new();
    };
    let n = run.config.prompt_pool.top_k.max(1) as f64;
    let pool = last.prompt_usage.iter().map(Vec::len).max().unwrap_or(0);
    let (rows, columns): (Vec<String>, Vec<String>) = (
        (1..=last.prompt_usage.len()).map(|t| format!("task {t}")).collect(),
        (0..pool).map(|p| p.to_string()).collect(),
    );
    let tag = format!("{}_seed_{}", g + 1, run.config.seed);
    let map = Heat { rows, columns, column_name: "prompt".into(), ..Heat::default() };
    let usage = |usage: &[Vec<u64>], marked: Vec<usize>| {
        let share = |task: &Vec<u64>| {
            let images = (task.iter().map(|c| *c as f64).sum::<f64>() / n).max(1.0);
            task.iter().map(|c| 100.0 * *c as f64 / images).collect()
        };
        let bits = usage.iter().map(|task| format!("{:.2}", entropy(task))).collect();
        charts::heat(&Heat {
            values: usage.iter().map(share).collect(),
            range: (0.0, 100.0),
            beside: Some(("bits".into(), bits)),
            hide_zeros: true,
            marked,
            ..map.clone()
        })
    };
    let what = "share of a task's test images that use a prompt, in %; right: entropy of the selection.";
    let mut all = vec![Figure::new(
        &format!("usage_{tag}"),
        "Prompt usage: each image selects",
        format!("After the last task: {what} Red: dead prompts."),
        usage(&last.prompt_usage, last.dead()),
    )];
    if last.vote_usage.iter().any(|t| !t.is_empty()) {
        all.push(Figure::new(
            &format!("vote_usage_{tag}"),
            "Prompt usage: batch vote",
            format!("The same when the images of a batch vote: {what}"),
            usage(&last.vote_usage, Vec::new()),
        ));
    }
    let cosines: Vec<Vec<f64>> =
        last.similarity.iter().map(|t| t.iter().map(|v| v.unwrap_or(f64::NAN)).collect()).collect();
    let finite = || cosines.iter().flatten().copied().filter(|v| v.is_finite());
    if finite().next().is_some() {
        let range = (finite().fold(f64::INFINITY, f64::min), finite().fold(f64::NEG_INFINITY, f64::max));
        all.push(Figure::new(
            &format!("similarity_{tag}"),
            "Similarity of queries and keys",
            format!("Mean cosine of a task's queries to each key, after the last task; colours from {:.2} to {:.2}.", range.0, range.1),
            charts::heat(&Heat { values: cosines.clone(), range, decimals: 2, ..map }),
        ));
    }
    all.extend(spread_of_choices(g, run, &tag));
    all
}

/// 2^H of all selections after each task: the effective number of prompts in use.
fn spread_of_choices(g: usize, run: &Run, tag: &str) -> Option<Figure> {
    let line = |name: &str, class: String, of: fn(&Choices) -> &Vec<Vec<u64>>| {
        let after = run.history.tasks.iter().enumerate();
        let points = after
            .filter(|(_, c)| !of(c).is_empty())
            .map(|(t, c)| (t as f64 + 1.0, entropy(&together(of(c))).exp2()))
            .collect();
        Line { class, name: name.into(), points, band: Vec::new() }
    };
    let mut lines = vec![line("batch vote", format!("dash {}", colour(g)), |c| &c.vote_usage)];
    lines.push(line("each image", colour(g), |c| &c.prompt_usage));
    if lines.iter().all(|l| l.points.len() < 2) {
        return None;
    }
    let pool = &run.config.prompt_pool;
    let ticks = (1..=run.history.tasks.len()).map(|t| (t as f64, t.to_string())).collect();
    let axis = Axis { name: "tasks learned".into(), ticks, cuts: Vec::new() };
    Some(Figure::new(
        &format!("effective_{tag}"),
        "Prompts in use, effectively",
        format!(
            "Two to the entropy of all selections: {} if all images take the same {}, {} if all {} are used alike.",
            pool.top_k, pool.top_k, pool.pool_size, pool.pool_size
        ),
        charts::lines(&axis, &lines, Some((0.0, pool.pool_size as f64))),
    ))
}

/// Loss and accuracy on the training batches, first run of each group.
fn training(groups: &[Group]) -> Vec<Figure> {
    let figure = |name: &str, title: &str, caption: &str, percent: bool| {
        let mut lines = Vec::new();
        for (g, group) in groups.iter().enumerate() {
            let steps = group.first().history.steps.iter();
            let value = |s: &super::runs::LoggedSteps| {
                if percent { s.accuracy.map(|a| 100.0 * a) } else { s.ce_loss }
            };
            let points: Vec<(f64, f64)> =
                steps.map(|s| (s.step as f64, value(s).unwrap_or(f64::NAN))).collect();
            if points.len() > 1 {
                let name = if groups.len() == 1 { String::new() } else { group.label.clone() };
                lines.push(Line { class: colour(g), name, points, band: Vec::new() });
            }
        }
        if lines.is_empty() {
            return None;
        }
        let cuts = if groups.len() == 1 { switches(groups[0].first()) } else { Vec::new() };
        let axis = Axis { name: "steps".into(), ticks: Vec::new(), cuts };
        let y = percent.then_some((0.0, 100.0));
        Some(Figure::new(name, title, caption, charts::lines(&axis, &lines, y)))
    };
    let loss = match groups {
        [_] => "Cross-entropy of a batch, without the pull term; dotted lines: a new task begins.",
        _ => "Cross-entropy of a batch, without the pull term.",
    };
    let accuracy = "Share of the images of a batch answered right among the classes of their task, in %.";
    [
        figure("loss", "Training loss", loss, false),
        figure("training_accuracy", "Training accuracy", accuracy, true),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Steps at which a new task begins.
fn switches(run: &Run) -> Vec<f64> {
    let steps = &run.history.steps;
    steps.windows(2).filter(|w| w[0].task != w[1].task).map(|w| w[0].step as f64).collect()
}
