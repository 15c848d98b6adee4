//! Metrics of small matrices, beside numbers computed by hand.

use approx::assert_abs_diff_eq;
use l2p_engine::output::answers::{Answers, Tally};
use l2p_engine::output::metrics::METRICS;
use l2p_engine::output::results::{Results, Score, TestSets};
use l2p_engine::output::seeds::Seeds;
use l2p_engine::output::spread::Spread;
use l2p_engine::output::table::{self, Style};

fn metric(score: &Score, row: usize, key: &str) -> Option<f64> {
    let metric = METRICS.iter().find(|m| m.key == key).unwrap_or_else(|| panic!("no metric {key}"));
    (metric.of)(&score.after_each_task[row]).filter(|value| value.is_finite())
}

fn assert_metrics(score: &Score, row: usize, wanted: &[(&str, Option<f64>)]) {
    for (key, wanted) in wanted {
        match (metric(score, row, key), wanted) {
            (Some(found), Some(wanted)) => {
                println!("row {row}, {key}: {found} for {wanted}");
                assert_abs_diff_eq!(found, wanted, epsilon = 1e-12);
            }
            (found, wanted) => assert_eq!(found, *wanted, "row {row}, {key}"),
        }
    }
}

fn three_tasks() -> Vec<Vec<f64>> {
    vec![vec![0.9], vec![0.6, 0.8], vec![0.5, 0.7, 0.6]]
}

#[test]
fn every_metric_of_a_matrix_is_that_of_its_formula() {
    let sets = TestSets {
        images: vec![10, 20, 30],
        new_classes: true,
        forward: (&[0.3, 0.4], &[0.1, 0.5]),
        ..TestSets::default()
    };
    let score = Score::from_matrix(three_tasks()).unwrap().with_tests(&sets);
    assert_metrics(
        &score,
        0,
        &[
            ("avg_acc", Some(0.9)),
            ("seen_acc", Some(0.9)),
            ("incremental_acc", Some(0.9)),
            ("anytime_acc", Some(0.9)),
            ("learning_acc", Some(0.9)),
            ("base_acc", Some(0.9)),
            ("novel_acc", None),
            ("harmonic_acc", None),
            ("forgetting", None),
            ("forgetting_all_tasks", None),
            ("forgetting_stepwise", None),
            ("backward", None),
            ("forward", None),
            ("macro_acc", None),
        ],
    );
    assert_metrics(
        &score,
        1,
        &[
            ("avg_acc", Some(0.7)),
            // 6 of 10 and 16 of 20.
            ("seen_acc", Some(22.0 / 30.0)),
            ("incremental_acc", Some((0.9 + 22.0 / 30.0) / 2.0)),
            ("anytime_acc", Some(0.8)),
            ("forgetting", Some(0.3)),
            ("forgetting_all_tasks", Some(0.15)),
            ("forgetting_stepwise", Some(0.3)),
            ("novel_acc", Some(0.8)),
            ("forward", Some(0.2)),
        ],
    );
    assert_metrics(
        &score,
        2,
        &[
            ("avg_acc", Some(0.6)),
            // 5 of 10, 14 of 20, 18 of 30.
            ("seen_acc", Some(37.0 / 60.0)),
            ("incremental_acc", Some(0.75)),
            ("anytime_acc", Some(2.2 / 3.0)),
            ("learning_acc", Some(2.3 / 3.0)),
            ("base_acc", Some(0.5)),
            ("novel_acc", Some(0.64)),
            ("harmonic_acc", Some(0.64 / 1.14)),
            ("forgetting", Some(0.25)),
            ("forgetting_all_tasks", Some(0.5 / 3.0)),
            // After task 2: 0.3. After task 3: the mean of 0.1 and 0.1.
            ("forgetting_stepwise", Some(0.2)),
            ("backward", Some(-0.25)),
            ("forward", Some((0.2 - 0.1) / 2.0)),
        ],
    );
    assert_eq!(score.further, score.after_each_task[2].further, "the last row is that of the score");
}

#[test]
fn a_metric_without_a_meaning_is_null() {
    let images = vec![10, 20, 30];
    // Tasks that share their classes, as domains do.
    let domains = TestSets { images: images.clone(), ..TestSets::default() };
    let score = Score::from_matrix(three_tasks()).unwrap().with_tests(&domains);
    assert_metrics(&score, 2, &[("seen_acc", Some(37.0 / 60.0)), ("base_acc", None), ("harmonic_acc", None)]);
    assert_metrics(&score, 2, &[("forward", None), ("macro_acc", None)]);
    // One test set for all tasks.
    let shared = Score::from_matrix(vec![vec![0.25], vec![0.75]]).unwrap().with_tests(&TestSets::default());
    assert_metrics(&shared, 1, &[("avg_acc", Some(0.75)), ("anytime_acc", Some(0.5)), ("seen_acc", None)]);
    assert_metrics(&shared, 1, &[("incremental_acc", None), ("forgetting_stepwise", None)]);
    // All tasks at once.
    let once = TestSets { images, new_classes: true, at_once: true, ..TestSets::default() };
    let score = Score::from_matrix(three_tasks()).unwrap().with_tests(&once);
    assert_metrics(
        &score,
        2,
        &[("seen_acc", Some(37.0 / 60.0)), ("incremental_acc", None), ("anytime_acc", None)],
    );
    // Nothing is right: no division by zero.
    let none = TestSets { images: vec![5, 5], new_classes: true, ..TestSets::default() };
    let score = Score::from_matrix(vec![vec![0.0], vec![0.0, 0.0]]).unwrap().with_tests(&none);
    assert_metrics(&score, 1, &[("harmonic_acc", Some(0.0)), ("seen_acc", Some(0.0))]);
    let empty = Score::from_matrix(Vec::new()).unwrap().with_tests(&TestSets::default());
    assert_eq!(empty, Score::default());
}

#[test]
fn answers_are_counted_by_class_and_by_task() {
    // Classes 0 and 1 are of task 0, class 2 is of task 1, class 3 of none.
    let task_of = [0, 0, 1, 2];
    let answers = |pairs: &[(u32, u32)]| {
        let mut answers = Answers::new(4);
        pairs.iter().for_each(|&(label, class)| answers.add(label, class));
        answers
    };
    let first = answers(&[(0, 0), (0, 1), (0, 2), (1, 1)]);
    let second = answers(&[(2, 2), (2, 2), (2, 0), (2, 3)]);
    assert_eq!((first.accuracy(), second.accuracy(), Answers::new(4).accuracy()), (0.5, 0.5, 0.0));
    let counts: Vec<f64> = first.counts().collect();
    assert_eq!(Answers::from_counts(&counts), first);
    let mut tally = Tally::default();
    tally.add_row(0, std::slice::from_ref(&first), &task_of);
    // 1/3 and 1/1.
    assert_abs_diff_eq!(tally.macro_acc[0].unwrap(), 2.0 / 3.0, epsilon = 1e-15);
    assert_eq!(tally.confusion, [[3, 1, 0]]);
    tally.add_row(1, &[first, second], &task_of);
    assert_abs_diff_eq!(tally.macro_acc[1].unwrap(), (1.0 / 3.0 + 1.0 + 0.5) / 3.0, epsilon = 1e-15);
    assert_eq!(tally.class_accuracy(), [Some(1.0 / 3.0), Some(1.0), Some(0.5), None]);
    assert_eq!(tally.confusion, [[3, 1, 0], [1, 2, 1]]);
    let sets = TestSets { tally: Some(&tally), ..TestSets::default() };
    let score = Score::from_matrix(vec![vec![0.5], vec![0.5, 0.5]]).unwrap().with_tests(&sets);
    assert_metrics(&score, 0, &[("macro_acc", Some(2.0 / 3.0))]);
    assert_eq!(score.task_confusion, tally.confusion);
    // Classes of several tasks have no confusion between tasks; rows that were not counted have no mean.
    let mut later = Tally::default();
    later.add_row(2, &[Answers::new(4)], &[]);
    assert_eq!((later.macro_acc, later.confusion), (vec![None, None, None], Vec::new()));
}

#[test]
fn metrics_csv_has_a_row_per_result_and_test() {
    let sets = TestSets { images: vec![10, 20, 30], new_classes: true, ..TestSets::default() };
    let score = Score::from_matrix(three_tasks()).unwrap().with_tests(&sets);
    let results = Results { per_image: score.clone(), per_batch: score, ..Results::default() };
    let text = results.metrics_csv();
    let mut rows = csv::Reader::from_reader(text.as_bytes());
    let header = rows.headers().unwrap().clone();
    assert_eq!(header.iter().skip(2).collect::<Vec<_>>(), METRICS.map(|m| m.key));
    let rows: Vec<csv::StringRecord> = rows.records().map(Result::unwrap).collect();
    let names: Vec<(&str, &str)> = rows.iter().map(|row| (&row[0], &row[1])).collect();
    let wanted = ["per_image", "per_batch"].map(|name| ["1", "2", "3"].map(|task| (name, task)));
    assert_eq!(names, wanted.concat());
    for (i, metric) in METRICS.iter().enumerate() {
        let after = &results.per_image.after_each_task[2];
        let wanted = (metric.of)(after).map_or(String::new(), |value| value.to_string());
        assert_eq!(rows[2][i + 2], wanted, "{}", metric.key);
    }
}

#[test]
fn seeds_have_every_metric_and_read_files_that_have_four() {
    let score = |matrix| {
        let tests = TestSets { images: vec![10, 30, 20], new_classes: true, ..TestSets::default() };
        Score::from_matrix(matrix).expect("a matrix").with_tests(&tests)
    };
    let other = vec![vec![0.7], vec![0.6, 0.8], vec![0.5, 0.7, 0.9]];
    let runs = [three_tasks(), other].map(score);
    let finished = runs.clone().map(|per_image| Results { per_image, ..Results::default() });
    let finished = [3, 4].into_iter().zip(finished).map(|(seed, r)| (seed, format!("seed_{seed}").into(), r));
    let seeds = Seeds::of(&[3, 4], &finished.collect::<Vec<_>>());
    let spreads = seeds.per_image.clone().expect("two runs");
    for metric in METRICS {
        let values: Vec<f64> = runs.iter().filter_map(|score| metric.last(&score.after_each_task)).collect();
        let wanted = (!values.is_empty()).then(|| Spread::of(&values));
        assert_eq!(spreads.get(metric.key), wanted, "{}", metric.key);
    }
    // (0.5 · 10 + 0.7 · 30 + 0.6 · 20) / 60 and 6 / 60 more.
    assert_abs_diff_eq!(spreads.get("seen_acc").expect("a spread").mean, 38.0 / 60.0 + 0.05, epsilon = 1e-12);
    assert_eq!((spreads.get("forward"), spreads.get("no such metric")), (None, None));
    let text = serde_json::to_string(&seeds).expect("JSON");
    assert_eq!(serde_json::from_str::<Seeds>(&text).expect("what was written"), seeds);
    let keys = METRICS.map(|metric| text.find(&format!("\"{}\"", metric.key)).expect(metric.key));
    assert!(keys.is_sorted(), "in the order of tables");
    let old = r#"{"per_image": {"avg_acc": {"mean": 0.9, "deviation": null, "n": 1}, "forgetting": null}}"#;
    let old = serde_json::from_str::<Seeds>(old).expect("an earlier file").per_image.expect("numbers");
    let known = Spread { mean: 0.9, deviation: None, n: 1 };
    assert_eq!((old.get("avg_acc"), old.get("seen_acc")), (Some(known), None));

    let line = table::further(&runs[0], Style { unicode: false, width: 100 }).expect("metrics");
    assert!(line.starts_with("further metrics in % (docs/metrics.md): seen_acc 63.33, "), "{line}");
    assert!(line.lines().all(|l| l.len() <= 100) && !line.contains("forward"), "{line}");
    let alone = Score { further: Default::default(), ..runs[0].clone() };
    assert_eq!(table::further(&alone, Style::plain()), None);
}
