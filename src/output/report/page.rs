//! The page: HTML around the drawings.

use super::figures;
use super::metrics;
use super::parts::{Figure, SORT, colour, heading, section, sortable};
use super::profile;
use super::runs::{Group, Run, comparable, entropy, together, with_baselines};
use super::svg::{escape, page_style};
use crate::config::schema::Scenario;
use crate::output::results::{CONTROLS, PROMPT_BASELINES, Results, Score};
use crate::output::spread::Spread;
use crate::output::table;
use std::fmt::Write;
use std::path::Path;

/// The whole page as text.
pub fn html(groups: &[Group]) -> String {
    html_with(groups, "")
}

/// The page with `front`, HTML, below its head; without groups it holds nothing else.
pub fn html_with(groups: &[Group], front: &str) -> String {
    if groups.is_empty() {
        return format!(
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>l2p-engine</title>\
             <style>{}{}</style></head><body><main>{front}</main></body></html>\n",
            page_style(),
            include_str!("page.css")
        );
    }
    let figures = figures::all(groups);
    let mut page = String::new();
    let title = title(groups);
    let _ = write!(
        page,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <title>{}</title><style>{}{}</style></head><body><main>",
        escape(&title),
        page_style(),
        include_str!("page.css")
    );
    page += &header(groups, &title);
    page += front;
    page += &results(groups, &figures);
    page += &metrics::table(groups);
    page += &tasks(groups, &figures);
    page += &metrics::of_classes(groups, |start| shown(&figures, |name| name.starts_with(start)));
    page += &prompts(groups, &figures);
    page += &section(
        "Training",
        "Loss and accuracy on training batches, means of ten steps; of several seeds, the first.",
        &shown(&figures, |name| name == "loss" || name == "training_accuracy"),
    );
    page += &profile::of_groups(groups);
    page += &runs(groups);
    page += FOOTER;
    page += SORT;
    page += "</main></body></html>\n";
    page
}

const FOOTER: &str = "<footer>\
<p><b>Each image selects</b>: every test image chooses its own prompts and does not depend on its batch. \
<b>Batch vote</b>: the images of a batch vote on one set of prompts, as the official evaluation does, which reveals \
that they belong to one task; published numbers are usually of this kind.</p>\
<p>With a(t, i) the accuracy on task i after task t, of T tasks: average accuracy is the mean of a(T, i); forgetting \
the mean over i &lt; T of max over t of a(t, i) minus a(T, i); backward transfer the mean over i &lt; T of a(T, i) \
minus a(i, i); learning accuracy the mean of a(i, i). Deviations over seeds divide by n - 1.</p></footer>";

fn title(groups: &[Group]) -> String {
    let of = |g: &Group| (g.first().results.dataset.clone(), g.first().results.num_tasks);
    let (dataset, tasks) = of(&groups[0]);
    let same = groups.iter().all(|g| of(g) == (dataset.clone(), tasks));
    let runs: usize = groups.iter().map(|g| g.runs.len()).sum();
    match (same, groups.len()) {
        (true, 1) => format!("{} on {dataset}, {tasks} tasks", groups[0].first().results.method),
        (true, n) => format!("{dataset}, {tasks} tasks: {n} configurations"),
        (false, n) => format!("{n} configurations, {runs} runs"),
    }
}

fn header(groups: &[Group], title: &str) -> String {
    let first = &groups[0].first().results;
    let mut facts = String::new();
    let mut fact = |name: &str, value: String| {
        if !value.is_empty() {
            let _ = write!(facts, "<li>{name} <b>{}</b></li>", escape(&value));
        }
    };
    // What all runs share.
    let mut shared = |name: &str, of: &dyn Fn(&Run) -> String| {
        let value = of(groups[0].first());
        if groups.iter().flat_map(|g| &g.runs).all(|run| of(run) == value) {
            fact(name, value);
        }
    };
    shared("method", &|r| r.results.method.clone());
    shared("rule set", &|r| r.results.rule_set.clone());
    shared("backbone", &|r| r.results.checkpoint.clone());
    shared("classes", &classes);
    shared("scenario", &|r| r.config.continual.scenario.to_string());
    shared("class order", &|r| r.config.continual.class_order.clone());
    shared("precision", &|r| r.results.precision.clone());
    shared("device", &|r| r.results.device.clone());
    let seeds: Vec<String> = groups[0].runs.iter().map(|r| r.config.seed.to_string()).collect();
    if groups.len() == 1 {
        fact(if seeds.len() > 1 { "seeds" } else { "seed" }, seeds.join(", "));
    }
    let unfinished = groups.iter().flat_map(|g| &g.runs).filter(|r| !r.results.complete).count();
    let warning = match unfinished {
        0 => String::new(),
        n => format!(
            "<p class=\"warn\">{n} of the runs are not finished: their numbers are of the tasks so far.</p>"
        ),
    };
    format!(
        "<header><p class=\"eyebrow\">l2p-engine {}</p><h1>{}</h1>{warning}<ul class=\"facts\">{facts}</ul></header>",
        escape(&first.engine_version),
        escape(title)
    )
}

/// Two by two where there is room; empty without any.
fn shown(figures: &[Figure], wanted: impl Fn(&str) -> bool) -> String {
    let cards: String = figures.iter().filter(|f| wanted(&f.name)).map(card).collect();
    if cards.is_empty() { cards } else { format!("<div class=\"grid2\">{cards}</div>") }
}

fn card(figure: &Figure) -> String {
    format!(
        "<figure><h4>{}</h4>{}<figcaption>{}</figcaption></figure>",
        escape(&figure.title),
        figure.inline(),
        escape(&figure.caption)
    )
}

/// In percent, with a true minus.
fn percent(fraction: f64) -> String {
    table::percent(fraction).replace('-', "−")
}

fn shown_spread(spread: &Spread) -> String {
    spread.percent().replace('-', "−")
}

/// A metric: its name, what it is of a score, and of what others published.
struct PageMetric {
    name: &'static str,
    of: fn(&Score) -> Option<f64>,
}

const METRICS: [PageMetric; 4] = [
    PageMetric { name: "average accuracy", of: |s| Some(s.avg_acc).filter(|v| v.is_finite()) },
    PageMetric { name: "forgetting", of: |s| s.forgetting },
    PageMetric { name: "backward transfer", of: |s| s.backward },
    PageMetric { name: "learning accuracy", of: |s| Some(s.learning_acc).filter(|v| v.is_finite()) },
];

fn own(results: &Results) -> &Score {
    &results.per_image
}

fn vote(results: &Results) -> &Score {
    &results.per_batch
}

fn results(groups: &[Group], figures: &[Figure]) -> String {
    let mut body = String::new();
    if let [group] = groups {
        body += &tiles(group);
    }
    body += &comparison(groups);
    body += &shown(figures, |name| ["average_accuracy", "forgetting", "cost"].contains(&name));
    section("Results", "After the last task, over all classes learned; percent.", &body)
}

/// The numbers of a single configuration, large.
fn tiles(group: &Group) -> String {
    let tile = |metric: &PageMetric| {
        let find = |of: fn(&Results) -> &Score| group.spread(|run| (metric.of)(of(&run.results)));
        let (value, deviation) = match find(own) {
            Some(Spread { mean, deviation, .. }) => (percent(mean), deviation),
            None => ("–".into(), None),
        };
        let deviation = deviation.map_or(String::new(), |d| format!(" <small>± {}</small>", percent(d)));
        let vote = find(vote).filter(|_| group.votes());
        let vote = vote.map_or(String::new(), |s| format!("batch vote {}", shown_spread(&s)));
        format!(
            "<div class=\"tile\"><h3>{}</h3><p class=\"big\">{value}{deviation}</p><p class=\"beside\">{vote}</p></div>",
            metric.name
        )
    };
    format!("<div class=\"tiles\">{}</div>", METRICS.iter().map(tile).collect::<String>())
}

/// Every configuration with its baselines, and what others published: a table for each set of comparable ones.
fn comparison(groups: &[Group]) -> String {
    let sets = comparable(groups);
    let mut body = String::new();
    for set in &sets {
        if sets.len() > 1 {
            let first = &groups[set[0]].first().results;
            let file = Path::new(&first.checkpoint).file_name();
            let backbone = file.map_or(first.checkpoint.clone(), |name| name.to_string_lossy().into_owned());
            let title = format!("{}, {} tasks, {backbone}", first.dataset, first.num_tasks);
            body += &format!("<h3>{}</h3>", escape(&title));
        }
        body += &comparison_of(groups, set);
    }
    let controls = groups.iter().any(|group| group.first().results.baselines.have_controls());
    if controls {
        body += &format!("<p class=\"muted\">{CONTROLS}.</p>");
    }
    body
}

/// The table of the groups `set`.
fn comparison_of(all: &[Group], set: &[usize]) -> String {
    let groups: Vec<(usize, &Group)> = set.iter().map(|&g| (g, &all[g])).collect();
    let votes = groups.iter().any(|(_, group)| group.votes());
    let mut head = vec!["", "runs", "average accuracy", "forgetting"];
    if votes {
        head.extend(["batch vote: average accuracy", "forgetting"]);
    }
    head.push("learning accuracy");
    let mut rows = String::new();
    let cell =
        |spread: Option<Spread>| format!("<td>{}</td>", spread.map_or("–".into(), |s| shown_spread(&s)));
    let blank = if votes { "<td></td><td></td>" } else { "" };
    for &(g, group) in &groups {
        let find = |of: fn(&Results) -> &Score, metric: usize| {
            cell(group.spread(|run| (METRICS[metric].of)(of(&run.results))))
        };
        let _ = write!(
            rows,
            "<tr><td><span class=\"key {}\"></span>{}</td><td>{}</td>{}{}",
            colour(g),
            escape(&group.label),
            group.runs.len(),
            find(own, 0),
            find(own, 1)
        );
        if votes {
            rows += &if group.votes() {
                find(vote, 0) + &find(vote, 1)
            } else {
                "<td>–</td><td>–</td>".into()
            };
        }
        let _ = write!(rows, "{}</tr>", find(own, 3));
    }
    let mut row = |group: &Group, name: &str, label: &str| {
        let find = |metric: usize| cell(group.baseline(name, METRICS[metric].of));
        let (n, a, b, c) = (group.runs.len(), find(0), find(1), find(3));
        let label = escape(label);
        let _ =
            write!(rows, "<tr class=\"aside\"><td>baseline: {label}</td><td>{n}</td>{a}{b}{blank}{c}</tr>");
    };
    if let Some(from) = with_baselines(groups.iter().map(|(_, group)| *group)) {
        for (_, group) in &groups {
            for (name, _) in group.first().results.baselines.named() {
                // Those of prompts depend on the configuration, the others on data and backbone alone.
                let own = PROMPT_BASELINES.contains(&name);
                match groups.len() {
                    1 => row(group, name, name),
                    _ if own => row(group, name, &format!("{name}, {}", group.label)),
                    _ if std::ptr::eq(from, *group) => row(group, name, name),
                    _ => {}
                }
            }
        }
    }
    let mut told = Vec::new();
    for published in groups.iter().flat_map(|(_, group)| group.published()).filter(|p| {
        let new = !told.contains(&p.source);
        told.push(p.source.clone());
        new
    }) {
        let (a, f) = (published.avg_acc, published.forgetting.map_or("–".into(), |f| f.to_string()));
        let source = escape(&published.source);
        let _ = write!(
            rows,
            "<tr class=\"aside\"><td>published: {source}</td><td></td><td>{a}</td><td>{f}</td>{blank}<td></td></tr>"
        );
    }
    sortable(&head, &rows)
}

fn tasks(groups: &[Group], figures: &[Figure]) -> String {
    let over_all = ["accuracy_over_tasks", "forgetting_over_tasks", "each_task", "learned_and_left"];
    let mut body = shown(figures, |name| over_all.contains(&name));
    if groups.len() == 1 {
        body += &shown(figures, |name| name.starts_with("matrix_"));
    } else {
        for (g, group) in groups.iter().enumerate() {
            let figures = shown(figures, |name| name.starts_with(&format!("matrix_{}_", g + 1)));
            body += &format!("{}{figures}", heading(g, &group.label));
        }
    }
    section("Task after task", "What is learned, and what of it is left later.", &body)
}

fn prompts(groups: &[Group], figures: &[Figure]) -> String {
    let mut body = String::new();
    for (g, group) in groups.iter().enumerate() {
        let mut parts = Vec::new();
        for run in &group.runs {
            let of_run = format!("_{}_seed_{}", g + 1, run.config.seed);
            let drawn = shown(figures, |name| name.ends_with(&of_run));
            if !drawn.is_empty() {
                parts.push((run.config.seed, format!("{}{drawn}", choices(run))));
            }
        }
        for (n, (seed, part)) in parts.iter().enumerate() {
            if n == 0 && groups.len() > 1 {
                body += &heading(g, &group.label);
            }
            match n {
                0 => body += part,
                _ => {
                    let _ = write!(
                        body,
                        "<details><summary>the prompts of seed {seed}</summary>{part}</details>"
                    );
                }
            }
        }
    }
    section(
        "Prompts",
        "Which prompts the test images use. Numbers of prompts mean nothing across seeds.",
        &body,
    )
}

/// Dead prompts by name, and entropy, in a sentence.
fn choices(run: &Run) -> String {
    let Some(last) = run.history.tasks.last() else { return String::new() };
    let pool = &run.config.prompt_pool;
    let dead: Vec<String> = last.dead().iter().map(usize::to_string).collect();
    let dead = match dead.as_slice() {
        [] => format!("No prompt is dead: each of the {} is used by some test image.", pool.pool_size),
        [one] => format!("<b class=\"warn\">Prompt {one} is dead</b>: no test image of any task uses it."),
        some => format!(
            "<b class=\"warn\">{} of {} prompts are dead</b>, no test image of any task uses them: {}.",
            some.len(),
            pool.pool_size,
            some.join(", ")
        ),
    };
    let bits = entropy(&together(&last.prompt_usage));
    format!(
        "<p>Seed {}: {dead} Selection entropy {bits:.2} bits, of {:.2} if all images took the same {} to {:.2} if all \
         prompts were used alike.</p>",
        run.config.seed,
        (pool.top_k.max(1) as f64).log2(),
        pool.top_k,
        (pool.pool_size.max(1) as f64).log2()
    )
}

fn runs(groups: &[Group]) -> String {
    let mut rows = String::from(
        "<tr><th>folder</th><th>seed</th><th>tasks</th><th>average accuracy</th><th>forgetting</th>\
         <th>images/s training</th><th>evaluation</th><th>time</th><th>device</th></tr>",
    );
    for (g, group) in groups.iter().enumerate() {
        for run in &group.runs {
            let r = &run.results;
            let _ = write!(
                rows,
                "<tr><td><span class=\"key {}\"></span><code>{}</code></td><td>{}</td><td>{} of {}</td><td>{}</td>\
                 <td>{}</td><td>{:.0}</td><td>{:.0}</td><td>{}</td><td>{}</td></tr>",
                colour(g),
                escape(&run.workdir.display().to_string()),
                run.config.seed,
                run.tasks(),
                r.num_tasks,
                percent(r.per_image.avg_acc),
                r.per_image.forgetting.map_or("–".into(), percent),
                r.images_per_second.train,
                r.images_per_second.eval,
                time(r.seconds),
                escape(&r.device)
            );
        }
    }
    let mut body = format!("<div class=\"card\"><table>{rows}</table></div>");
    body += &differences(groups);
    for group in groups {
        let _ = write!(
            body,
            "<details><summary>configuration of {}</summary><div class=\"card\"><pre>{}</pre></div></details>",
            escape(&group.label),
            escape(&group.first().config.to_toml())
        );
    }
    section("Runs", "Where each number comes from.", &body)
}

fn time(seconds: f64) -> String {
    match seconds {
        s if !s.is_finite() => "–".into(),
        s if s < 120.0 => format!("{s:.1} s"),
        s if s < 7200.0 => format!("{:.1} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}

/// The keys in which several configurations differ.
fn differences(groups: &[Group]) -> String {
    let all: Vec<Vec<(String, String)>> =
        groups.iter().map(|g| g.first().config.identity().pairs()).collect();
    let mut rows = String::new();
    for (k, (key, value)) in all[0].iter().enumerate() {
        if key == "seed" || all.iter().all(|pairs| pairs.get(k).is_some_and(|(_, v)| v == value)) {
            continue;
        }
        let cells: String = all.iter().map(|pairs| format!("<td>{}</td>", escape(&pairs[k].1))).collect();
        let _ = write!(rows, "<tr><td><code>{}</code></td>{cells}</tr>", escape(key));
    }
    if rows.is_empty() {
        return rows;
    }
    let head = |(g, group): (usize, &Group)| {
        format!("<th><span class=\"key {}\"></span>{}</th>", colour(g), escape(&group.label))
    };
    let heads: String = groups.iter().enumerate().map(head).collect();
    format!(
        "<h3>What differs</h3><div class=\"card\"><table><tr><th>key</th>{heads}</tr>{rows}</table></div>"
    )
}

/// How many classes a run has met. Earlier versions did not write it: then those of its tasks, where tasks bring new
/// classes, and otherwise all.
fn classes(run: &Run) -> String {
    let cl = &run.config.continual;
    match run.results.classes_seen {
        0 if cl.scenario == Scenario::Class => cl.num_classes_per_task.upto(run.tasks()).to_string(),
        0 => "all of the data set".into(),
        seen => seen.to_string(),
    }
}
