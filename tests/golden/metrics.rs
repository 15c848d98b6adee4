//! Accuracy, forgetting, backward transfer and learning accuracy as the official code computes them.

use super::*;
use approx::assert_abs_diff_eq;
use l2p_engine::output::Metrics;

fn close(found: Option<f64>, wanted: &Value, what: &str) {
    match (found, wanted.as_f64()) {
        (Some(found), Some(wanted)) => {
            println!("{what}: {found} for {wanted}");
            assert_abs_diff_eq!(found, wanted, epsilon = 1e-12);
        }
        (found, wanted) => assert_eq!(found, wanted, "{what}"),
    }
}

#[test]
fn metrics_agree_with_the_golden_ones() {
    let golden: Vec<Value> = serde_json::from_value(json("metrics.json")).unwrap();
    let mut kinds = [0usize; 2];
    for case in &golden {
        // Golden matrices: row evaluation set, column after task. Ours: row after task.
        let m: Vec<Vec<f64>> = serde_json::from_value(case["acc_matrix"].clone()).unwrap();
        let shared = case["kind"].as_str().unwrap().contains("shared");
        kinds[usize::from(shared)] += 1;
        let metrics = if shared {
            Metrics::from_shared(&m[0])
        } else {
            let rows: Vec<Vec<f64>> = (0..m.len()).map(|t| (0..=t).map(|i| m[i][t]).collect()).collect();
            Metrics::from_matrix(&rows).unwrap()
        };
        let wanted = case["after_each_task"].as_array().unwrap();
        assert_eq!(metrics.len(), wanted.len());
        for (found, wanted) in metrics.iter().zip(wanted) {
            assert_eq!(found.task as u64, wanted["task_id"].as_u64().unwrap());
            close(Some(found.avg_acc), &wanted["avg_acc"], "avg_acc");
            close(Some(found.learning_acc), &wanted["learning_acc"], "learning_acc");
            close(found.forgetting, &wanted["forgetting"], "forgetting");
            close(found.backward, &wanted["backward"], "backward");
        }
    }
    assert!(!own_golden() || kinds[0] >= 3 && kinds[1] >= 1, "{kinds:?}");
    assert!(kinds.iter().sum::<usize>() > 0);
    assert!(Metrics::from_matrix(&[vec![0.5, 0.5]]).unwrap_err().to_string().contains("row 0"));
    assert!(Metrics::from_matrix(&[]).unwrap().is_empty());
}
