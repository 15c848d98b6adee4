//! Metrics of small matrices, beside numbers computed by hand.

use approx::assert_abs_diff_eq;
use l2p_engine::output::answers::{Answers, Tally};
use l2p_engine::output::metrics::METRICS;
use l2p_engine::output::results::{Results, Score, TestSets};

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
