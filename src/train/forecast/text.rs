//! A plan in words.

use super::{Forecast, TimeRange};
use crate::output::table::{self, Style};
use crate::train::report;

/// The plan of a run: what it opens with, its tasks, memory, work and time.
pub fn of(plan: &Forecast, style: Style) -> String {
    const SHOWN: usize = 20;
    let steps: usize = plan.tasks.iter().map(|(_, steps)| steps).sum();
    let mut text = report::opening(&report::Opening {
        config: &plan.config,
        data: &plan.data,
        split: &plan.split,
        source: &plan.source,
        params: plan.params,
        steps: steps as u64,
        batch: plan.config.train.per_device_batch_size * plan.ranks,
        ranks: plan.ranks,
    });
    plan.notes.iter().for_each(|note| text += &format!("\nnote: {note}"));
    for (task, steps) in plan.tasks.iter().take(SHOWN) {
        let (n, tests) = (task.train.len(), task.test.len());
        let name = &task.name;
        text += &format!(
            "\ntask {}: {name}: {n} training and {tests} test images, {steps} steps",
            task.index + 1
        );
    }
    if plan.tasks.len() > SHOWN {
        text += &format!("\nand {} more tasks", plan.tasks.len() - SHOWN);
    }
    text += &format!("\n{}\n", table::memory(&plan.plan, style));
    let work = plan.work;
    text += &format!(
        "work without baselines: {:.3} PFLOP; per training image {:.2} GFLOP, per test image {:.2} and once {:.2}",
        work.total / 1e15,
        work.train_image / 1e9,
        work.test_image / 1e9,
        work.query / 1e9,
    );
    if plan.eval_batch_bytes > 0 {
        text += &format!(
            "\n{:.2} MiB of the memory are for evaluation batches of {}, which are larger than training batches of {}",
            plan.eval_batch_bytes as f64 / f64::from(1 << 20),
            plan.config.train.eval_batch_size,
            plan.config.train.per_device_batch_size,
        );
    }
    let mib = |bytes: usize| format!("{:.2} MiB", bytes as f64 / f64::from(1 << 20));
    if let Some((key, bytes)) = plan.baselines.run {
        text += &format!("\nthe baseline {key}, a run of its own, takes {} beside them", mib(bytes));
    }
    if plan.baselines.features > 0 {
        let features = mib(plan.baselines.features);
        text += &format!(
            "\nthe other baselines take {features} of the host's memory for the features of all images"
        );
    }
    if let Some(gpu) = plan.elsewhere {
        let needed =
            (plan.plan.total_bytes() + plan.baselines.run.map_or(0, |(_, bytes)| bytes)) as f64 / 1e9;
        let usable = gpu.usable() as f64 / 1e9;
        text += &format!("\n{needed:.2} of {usable:.2} GB of memory of {}", gpu.name);
    }
    let Some(TimeRange { rates, run, with_baselines }) = plan.duration else {
        return text + "\nno estimate of the time: the rate of this GPU is not known (`--gpu` has names)";
    };
    let range = |seconds: [f64; 2]| format!("{} to {}", duration(seconds[0]), duration(seconds[1]));
    text += &format!("\nabout {} without baselines, {} with them", range(run), range(with_baselines));
    let [high, low] = rates.map(|rate| rate / 1e9);
    let whose = match plan.elsewhere {
        None => "this machine's matrix product, and half of the lowest that was measured".to_string(),
        Some(gpu) => {
            format!("0.4 and 0.1 of what the maker says of {}; nothing was measured on a GPU", gpu.name)
        }
    };
    text + &format!(": work at {high:.0} to {low:.0} GFLOP/s, {whose}")
}

/// Seconds for people.
fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 100.0 => format!("{s:.1} s"),
        s if s < 6_000.0 => format!("{:.0} min", s / 60.0),
        s if s < 360_000.0 => format!("{:.0} h", s / 3_600.0),
        s => format!("{:.0} days", s / 86_400.0),
    }
}
