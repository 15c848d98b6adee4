//! The table of all metrics, and what a run answers by class and by task.

use super::charts::{self, Heat};
use super::parts::{Figure, colour, heading, section};
use super::runs::Group;
use super::svg::escape;
use crate::output::metrics::METRICS;
use crate::output::results::{Results, Score};
use crate::output::spread::Spread;
use std::fmt::Write;

/// Classes in a row of the drawing where tasks have none of their own.
const ROW: usize = 10;

type Selection = (&'static str, &'static str, fn(&Results) -> &Score);

/// A file name, words and the score of each selection of a group.
fn selections(group: &Group) -> Vec<Selection> {
    let mut all: Vec<Selection> = vec![("own", "each image selects", |r| &r.per_image)];
    if group.votes() {
        all.push(("vote", "batch vote", |r| &r.per_batch));
    }
    all
}

fn shown(spread: Option<Spread>) -> String {
    spread.map_or("–".into(), |s| s.percent().replace('-', "−"))
}

/// Every metric after the last task, a row each, of every configuration; nothing of runs of a version that had four.
pub fn table(groups: &[Group]) -> String {
    let columns: Vec<(usize, &Group, Selection)> = groups
        .iter()
        .enumerate()
        .flat_map(|(g, group)| selections(group).into_iter().map(move |selection| (g, group, selection)))
        .collect();
    let mut rows = String::from("<tr><th></th>");
    for (g, group, (_, words, _)) in &columns {
        let _ = write!(
            rows,
            "<th><span class=\"key {}\"></span>{}: {words}</th>",
            colour(*g),
            escape(&group.label)
        );
    }
    rows += "</tr>";
    let mut found = false;
    for metric in &METRICS {
        let spreads: Vec<Option<Spread>> = columns
            .iter()
            .map(|(_, group, (.., of))| group.spread(|run| metric.last(&of(&run.results).after_each_task)))
            .collect();
        if spreads.iter().all(Option::is_none) {
            continue;
        }
        found |= METRICS.iter().position(|m| m.key == metric.key) > Some(3);
        let cells: String = spreads.into_iter().map(|spread| format!("<td>{}</td>", shown(spread))).collect();
        let _ = write!(rows, "<tr><td>{}</td>{cells}</tr>", metric.name);
    }
    if !found {
        return String::new();
    }
    let text = "After the last task, in percent; docs/metrics.md has the formula of each. A dash: not defined in this scenario.";
    section("All metrics", text, &format!("<div class=\"card\"><table>{rows}</table></div>"))
}

/// Name, task and mean accuracy over the runs of each class of the first run that was tested.
fn classes(group: &Group, of: fn(&Results) -> &Score) -> Vec<(String, Option<usize>, f64)> {
    let first = &group.first().results;
    let in_run = |results: &Results, name: &str| {
        let class = results.classes.iter().position(|class| class.name == name)?;
        of(results).class_accuracy.get(class).copied().flatten()
    };
    let class = |class: &crate::output::results::ClassOfRun| {
        let spread = group.spread(|run| in_run(&run.results, &class.name))?;
        Some((class.name.clone(), class.task, spread.mean))
    };
    first.classes.iter().filter_map(class).collect()
}

/// The accuracy of each class and the confusion between tasks, as drawings.
pub fn figures(g: usize, group: &Group) -> Vec<Figure> {
    let mut all = Vec::new();
    for (short, words, of) in selections(group) {
        all.extend(class_figure(g, group, (short, words, of)));
    }
    for (short, words, of) in selections(group) {
        all.extend(confusion_figure(g, group, (short, words, of)));
    }
    all
}

fn class_figure(g: usize, group: &Group, (short, words, of): Selection) -> Option<Figure> {
    let classes = classes(group, of);
    let has_tasks = classes.iter().all(|(_, task, _)| task.is_some());
    let (mut rows, mut values): (Vec<String>, Vec<Vec<f64>>) = Default::default();
    for (n, (_, task, accuracy)) in classes.iter().enumerate() {
        let name = match task.filter(|_| has_tasks) {
            Some(task) => format!("task {}", task + 1),
            None => format!("from class {}", n / ROW * ROW + 1),
        };
        if rows.last() != Some(&name) {
            rows.push(name);
            values.push(Vec::new());
        }
        values.last_mut()?.push(100.0 * accuracy);
    }
    let widest = values.iter().map(Vec::len).max()?;
    let mean = |row: &Vec<f64>| format!("{:.1}", row.iter().sum::<f64>() / row.len() as f64);
    let map = Heat {
        columns: (1..=widest).map(|class| class.to_string()).collect(),
        column_name: if has_tasks { "class of the task".into() } else { "class".into() },
        range: (0.0, 100.0),
        decimals: 1,
        beside: Some(("mean".into(), values.iter().map(mean).collect())),
        rows,
        values,
        ..Heat::default()
    };
    Some(Figure::new(
        &format!("classes_{}_{short}", g + 1),
        format!("Accuracy of each class: {words}"),
        "After the last task, in %, in the order of learning; the table below has the names.",
        charts::heat(&map),
    ))
}

fn confusion_figure(g: usize, group: &Group, (short, words, of): Selection) -> Option<Figure> {
    let tasks = group.first().results.num_tasks;
    let size = of(&group.first().results).task_confusion.len();
    let columns = of(&group.first().results).task_confusion.first()?.len();
    if size < 2 {
        return None;
    }
    let count = |i: usize, j: usize| -> f64 {
        let of_run = |run: &super::runs::Run| {
            of(&run.results).task_confusion.get(i).and_then(|row| row.get(j)).map_or(0.0, |n| *n as f64)
        };
        group.runs.iter().map(of_run).sum()
    };
    let share = |i: usize| -> Vec<f64> {
        let all: f64 = (0..columns).map(|j| count(i, j)).sum();
        (0..columns).map(|j| 100.0 * count(i, j) / all.max(1.0)).collect()
    };
    let values: Vec<Vec<f64>> = (0..size).map(share).collect();
    let name = |j: usize| if j < tasks { (j + 1).to_string() } else { "none".into() };
    let map = Heat {
        rows: (1..=size).map(|i| format!("of task {i}")).collect(),
        columns: (0..columns).map(name).collect(),
        column_name: "answered with a class of task".into(),
        range: (0.0, 100.0),
        decimals: 1,
        hide_zeros: true,
        values,
        ..Heat::default()
    };
    Some(Figure::new(
        &format!("confusion_{}_{short}", g + 1),
        format!("Confusion between tasks: {words}"),
        "After the last task: share of the test images of a task that are answered with a class of each task, in %.",
        charts::heat(&map),
    ))
}

/// The drawings of all groups, and a table of the classes of each.
pub fn of_classes(groups: &[Group], shown: impl Fn(&str) -> String) -> String {
    let mut body = String::new();
    for (g, group) in groups.iter().enumerate() {
        let drawn = shown(&format!("classes_{}_", g + 1)) + &shown(&format!("confusion_{}_", g + 1));
        if drawn.is_empty() {
            continue;
        }
        if groups.len() > 1 {
            body += &heading(g, &group.label);
        }
        body += &drawn;
        body += &class_table(group);
    }
    let text =
        "Which classes are known after the last task, and for which task the images of each are taken.";
    section("Classes and tasks", text, &body)
}

fn class_table(group: &Group) -> String {
    let each: Vec<_> =
        selections(group).into_iter().map(|(_, words, of)| (words, classes(group, of))).collect();
    let mut rows = String::from("<tr><th>class</th><th>task</th>");
    each.iter().for_each(|(words, _)| rows.extend(["<th>", words, "</th>"]));
    rows += "</tr>";
    for (n, (name, task, _)) in each[0].1.iter().enumerate() {
        let task = task.map_or("–".into(), |task| (task + 1).to_string());
        let _ = write!(rows, "<tr><td>{}</td><td>{task}</td>", escape(name));
        for (_, classes) in &each {
            let accuracy = classes.get(n).map_or("–".into(), |(.., a)| format!("{:.2}", 100.0 * a));
            let _ = write!(rows, "<td>{accuracy}</td>");
        }
        rows += "</tr>";
    }
    format!(
        "<details><summary>every class by name, accuracy in %</summary><div class=\"card\"><table>{rows}</table></div></details>"
    )
}
