//! What a run may use of a GPU.

use super::child::Check;
use super::found::Stage;
use super::verdict::{Key, Row, Verdict};
use super::works::STEP;
use super::{SWITCH, shapes};
use crate::config::Config;
use crate::config::schema::{Method, Precision};
use crate::device::{Choice, Device, Gpu, probe};
use crate::error::{Error, Result};
use crate::output::say;
use std::sync::Arc;

/// Devices that have been checked.
#[derive(Debug, Clone)]
pub struct Checked {
    pub choices: Vec<Choice>,
    /// What to compute in instead of `precision = "auto"`.
    pub precision: Option<Precision>,
}

/// Lets a run of `config` use what its GPUs have been found to compute right, and nothing else; what is not on file is
/// checked now. A kernel that failed is refused wherever it is launched. Where the run needs it, a run whose precision is
/// `auto` computes in f32 if these kernels are right, one whose device is `auto` goes to the CPU, and any other is refused.
///
/// # Errors
/// `Error::Failed` with the kernel and what was found, where nothing else may be used.
pub fn checked(choices: Vec<Choice>, config: &Config) -> Result<Checked> {
    let mut all = Checked { choices: Vec::new(), precision: None };
    if choices.iter().all(|choice| choice.device.gpu().is_none()) {
        return Ok(Checked { choices, ..all });
    }
    if std::env::var_os(SWITCH).is_some_and(|value| value == "off") {
        let gpus = choices.iter().filter_map(|choice| choice.device.gpu());
        gpus.for_each(|gpu| gpu.set_verdict(&format!("not checked, {SWITCH}=off")));
        return Ok(Checked { choices, ..all });
    }
    let shapes = shapes(config);
    for choice in choices {
        let Some(gpu) = choice.device.gpu().cloned() else {
            all.choices.push(choice);
            continue;
        };
        let verdict = match verdict(&gpu, shapes.as_ref()) {
            Ok(verdict) => verdict,
            Err(why) => {
                say(&format!("warning: the kernels are not checked: {why}"));
                gpu.set_verdict("not checked");
                all.choices.push(choice);
                continue;
            }
        };
        gpu.set_verdict(&verdict.words());
        // What is wrong only within a graph is used without.
        for row in verdict.failed().filter(|row| row.failed != Some(Stage::Graph)) {
            gpu.refuse(&row.kernel, &row.text);
        }
        match fallback(&verdict.rows, config, choice.auto) {
            Fallback::None => all.choices.push(choice),
            Fallback::NoGraphs(row) => {
                gpu.refuse_graphs(&because(&row));
                all.choices.push(choice);
            }
            Fallback::F32(row) => {
                let in_f32 = Config { precision: Precision::F32, ..config.clone() };
                if let Fallback::NoGraphs(row) = fallback(&verdict.rows, &in_f32, choice.auto) {
                    gpu.refuse_graphs(&because(&row));
                }
                say(&format!("warning: {}: this run computes in f32: {}", gpu.name(), because(&row)));
                all.precision = Some(Precision::F32);
                all.choices.push(choice);
            }
            Fallback::Cpu(row) => {
                say(&format!("the GPU is not used: {}", because(&row)));
                all.choices.push(Choice { device: Device::Cpu, ..choice });
            }
            Fallback::Refused(row) => {
                return Err(Error::failed(format!(
                    "{} is not used: {}; use --device cpu, or after a change of driver or GPU `l2p-engine check-device \
                     --again`",
                    gpu.name(),
                    because(&row)
                )));
            }
        }
    }
    Ok(all)
}

/// The verdict on file, or a new one.
fn verdict(gpu: &Arc<Gpu>, shapes: Option<&super::StepShapes>) -> Result<Verdict> {
    let found = probe::gpus().map_err(Error::failed)?;
    let index = found.iter().position(|found| format!("cuda:{}", found.index) == gpu.name());
    let Some(index) = index else {
        return Err(Error::failed(format!("{} is not listed any more", gpu.name())));
    };
    let quick = std::env::var_os(SWITCH).is_some_and(|value| value == "quick");
    let key = Key::new(&found[index], shapes.cloned(), quick);
    let (shapes, repeats, timeout) = (shapes.cloned(), Check::REPEATS, Check::TIMEOUT);
    let check = Check { index, shapes, quick, repeats, timeout };
    let (verdict, is_new) = check.verdict(key, false, || {
        say(&format!(
            "{} ({}): checking every kernel, once for this GPU, driver, program and network",
            gpu.name(),
            found[index].name
        ));
    })?;
    if is_new {
        say(&format!("{}: {} ({:.1} s)", gpu.name(), verdict.sentence(), verdict.seconds));
    }
    Ok(verdict)
}

/// What a run does about the kernels that failed.
#[derive(Debug, PartialEq)]
enum Fallback {
    None,
    NoGraphs(Row),
    F32(Row),
    Cpu(Row),
    Refused(Row),
}

fn because(row: &Row) -> String {
    let what = row.failed.map_or("", Stage::word);
    format!("{} ({what}): {}", row.kernel, row.text)
}

/// Whether a run of `config` launches kernels of this op. Those that belong to other methods alone do not matter.
fn needs(config: &Config, op: &str) -> bool {
    match op {
        "anchor" => config.method == Method::Ewc,
        "distill" => config.method == Method::Lwf,
        "component_weights" => config.method == Method::CodaPrompt,
        _ => true,
    }
}

fn fallback(rows: &[Row], config: &Config, auto: bool) -> Fallback {
    let narrow = match config.precision {
        Precision::Auto | Precision::Bf16 => "bf16",
        Precision::F16 => "f16",
        Precision::F32 | Precision::F64 => "f32",
    };
    let needed = |row: &&Row| {
        row.failed.is_some() && needs(config, &row.op) && (row.form == "f32" || row.form == narrow)
    };
    // Without a graph, what is wrong only within one is right.
    let (in_graphs, plain): (Vec<&Row>, Vec<&Row>) =
        rows.iter().filter(needed).partition(|row| row.failed == Some(Stage::Graph));
    // A kernel says more than a whole step.
    let first = |rows: &[&Row]| rows.iter().min_by_key(|row| row.op == STEP).map(|row| (*row).clone());
    let wide: Vec<&Row> = plain.iter().copied().filter(|row| row.form == "f32").collect();
    match (first(&wide), first(&plain), first(&in_graphs)) {
        (None, Some(row), _) if config.precision == Precision::Auto => Fallback::F32(row),
        (Some(row), _, _) | (None, Some(row), _) if auto => Fallback::Cpu(row),
        (Some(row), _, _) | (None, Some(row), _) => Fallback::Refused(row),
        (None, None, Some(row)) => Fallback::NoGraphs(row),
        (None, None, None) => Fallback::None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(kernel: &str, op: &str, form: &str, stage: Option<Stage>) -> Row {
        Row {
            kernel: format!("{kernel}_{form}"),
            form: form.into(),
            generation: "portable".into(),
            op: op.into(),
            passes: 1,
            repeats: 3,
            graphs: 1,
            us: 1.0,
            failed: stage,
            text: "wanted 1, found 2".into(),
        }
    }

    #[test]
    fn a_run_uses_what_is_left() {
        let with = |precision| Config { precision, ..Config::default() };
        let wide = failed("gelu_forward", "gelu", "f32", Some(Stage::Values));
        let narrow = failed("gelu_forward", "gelu", "bf16", Some(Stage::Slow));
        let graph = failed("gelu_forward", "gelu", "bf16", Some(Stage::Graph));
        let step = failed("training_step", STEP, "bf16", Some(Stage::Values));
        let other = failed("distill_loss", "distill", "f32", Some(Stage::Fault));
        let right = failed("gelu_backward", "gelu", "bf16", None);
        let (auto, bf16, f16) = (Precision::Auto, Precision::Bf16, Precision::F16);
        for (rows, precision, auto_device, wanted) in [
            (vec![&right, &other], auto, false, Fallback::None),
            (vec![&narrow], auto, false, Fallback::F32(narrow.clone())),
            (vec![&step, &narrow], auto, true, Fallback::F32(narrow.clone())),
            (vec![&narrow], bf16, true, Fallback::Cpu(narrow.clone())),
            (vec![&narrow], bf16, false, Fallback::Refused(narrow.clone())),
            (vec![&narrow], f16, false, Fallback::None),
            (vec![&narrow], Precision::F32, false, Fallback::None),
            (vec![&narrow, &wide], auto, true, Fallback::Cpu(wide.clone())),
            (vec![&narrow, &wide], auto, false, Fallback::Refused(wide.clone())),
            (vec![&graph, &right], auto, false, Fallback::NoGraphs(graph.clone())),
            (vec![&graph, &narrow], auto, false, Fallback::F32(narrow.clone())),
        ] {
            let rows: Vec<Row> = rows.into_iter().cloned().collect();
            let names: Vec<&str> = rows.iter().map(|row| row.kernel.as_str()).collect();
            assert_eq!(fallback(&rows, &with(precision), auto_device), wanted, "{names:?}, {precision}");
        }
        let mut config = with(auto);
        config.method = Method::Lwf;
        assert_eq!(fallback(std::slice::from_ref(&other), &config, true), Fallback::Cpu(other));
    }
}
