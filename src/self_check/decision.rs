//! What a run may use of a GPU.

use super::child::Check;
use super::found::Stage;
use super::verdict::{Key, Row, Verdict};
use super::works::{NARROW, STEP};
use super::{SWITCH, shapes};
use crate::config::Config;
use crate::config::schema::{Kernels, Method, Precision};
use crate::device::{Choice, Device, Gpu, probe};
use crate::error::{Error, Result};
use crate::ops::attention;
use crate::ops::matmul::hopper;
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
/// checked now. The portable kernel takes the place of a Hopper kernel that failed. Any other kernel that failed is refused
/// wherever it is launched. Where the run needs it, a run whose precision is `auto` computes in f32 if these kernels are right,
/// one whose device is `auto` goes to the CPU, and any other is refused.
///
/// # Errors
/// `Error::Failed` with the kernel and what was found, where nothing else may be used. `Error::Config` for `train.kernels =
/// "hopper"` on a GPU that has no such kernels.
pub fn checked(choices: Vec<Choice>, config: &Config) -> Result<Checked> {
    let mut all = Checked { choices: Vec::new(), precision: None };
    let kernels = config.train.kernels;
    if choices.iter().all(|choice| choice.device.gpu().is_none()) {
        if kernels == Kernels::Hopper {
            say(
                "note: train.kernels = \"hopper\" is for a GPU of compute capability 9.0; the CPU ignores it",
            );
        }
        return Ok(Checked { choices, ..all });
    }
    if kernels == Kernels::Hopper {
        choices.iter().filter_map(|choice| choice.device.gpu()).try_for_each(|gpu| use_hopper(gpu))?;
    }
    if std::env::var_os(SWITCH).is_some_and(|value| value == "off") {
        let gpus = choices.iter().filter_map(|choice| choice.device.gpu());
        let words = match kernels {
            Kernels::Portable => format!("not checked, {SWITCH}=off"),
            Kernels::Hopper => format!("{kernels}, not checked, {SWITCH}=off"),
        };
        gpus.for_each(|gpu| gpu.set_verdict(&words));
        return Ok(Checked { choices, ..all });
    }
    let shapes = shapes(config);
    for choice in choices {
        let Some(gpu) = choice.device.gpu().cloned() else {
            all.choices.push(choice);
            continue;
        };
        let verdict = match verdict(&gpu, shapes.as_ref(), kernels) {
            Ok(verdict) => verdict,
            Err(why) => {
                say(&format!("warning: the kernels are not checked: {why}"));
                if kernels == Kernels::Hopper {
                    say(&format!(
                        "warning: {}: portable kernels are used instead of Hopper kernels",
                        gpu.name()
                    ));
                    gpu.use_hopper(false)?;
                }
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
        for (kernels, row) in without_hopper(&verdict.rows) {
            kernels.iter().for_each(|kernel| gpu.refuse(kernel, &row.text));
            if row.form == narrow(config) {
                let because = because(row);
                say(&format!("warning: {}: portable kernels take the place of {because}", gpu.name()));
            }
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

fn use_hopper(gpu: &Gpu) -> Result<()> {
    let failed = |why: &Error| {
        Error::config(format!(
            "train.kernels: wanted a GPU of compute capability 9.0 for `hopper`, found another: {why}; use \
             --device cpu, or train with train.kernels = \"portable\""
        ))
    };
    gpu.use_hopper(true).map_err(|why| failed(&why))
}

/// The Hopper kernels that must not be used, each with the reason. With a kernel go those that do the same in tiles of
/// another width: which of them a product takes depends on its rows, and a row's bits must not. Where whole steps failed
/// and none of their kernels alone, all of this form go.
fn without_hopper(rows: &[Row]) -> Vec<(Vec<String>, &Row)> {
    let failed = |row: &&Row| row.failed.is_some() && row.generation == Kernels::Hopper.word();
    let (steps, kernels): (Vec<&Row>, Vec<&Row>) = rows.iter().filter(failed).partition(|row| row.op == STEP);
    let mut all: Vec<(Vec<String>, &Row)> =
        kernels.iter().map(|row| (taken_together(&row.kernel), *row)).collect();
    let alone = |step: &&&Row| !kernels.iter().any(|row| row.form == step.form);
    for step in steps.iter().filter(alone) {
        let of_form = NARROW.into_iter().filter(|form| form.name() == step.form);
        let each = of_form.flat_map(|form| {
            let products = hopper::TILE_COLS.into_iter().flat_map(move |cols| hopper::of_width(cols, form));
            products.chain(attention::hopper::symbols(form))
        });
        all.push((each.collect(), step));
    }
    all
}

/// The kernels that a failure of this one takes away: of a product those of all widths, else itself.
fn taken_together(kernel: &str) -> Vec<String> {
    let widths = hopper::widths_of(kernel);
    if widths.is_empty() { vec![kernel.into()] } else { widths }
}

/// The verdict on file, or a new one.
fn verdict(gpu: &Arc<Gpu>, shapes: Option<&super::StepShapes>, kernels: Kernels) -> Result<Verdict> {
    let found = probe::gpus().map_err(Error::failed)?;
    let index = found.iter().position(|found| format!("cuda:{}", found.index) == gpu.name());
    let Some(index) = index else {
        return Err(Error::failed(format!("{} is not listed any more", gpu.name())));
    };
    let quick = std::env::var_os(SWITCH).is_some_and(|value| value == "quick");
    let key = Key::new(&found[index], shapes.cloned(), quick, kernels);
    let (shapes, repeats, timeout) = (shapes.cloned(), Check::REPEATS, Check::TIMEOUT);
    let check = Check { index, shapes, quick, kernels, repeats, timeout };
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

/// The form of the kernels that a run of `config` launches beside those in f32.
fn narrow(config: &Config) -> &'static str {
    match config.precision {
        Precision::Auto | Precision::Bf16 => "bf16",
        Precision::F16 => "f16",
        Precision::F32 | Precision::F64 => "f32",
    }
}

/// What is done about portable kernels.
fn fallback(rows: &[Row], config: &Config, auto: bool) -> Fallback {
    let narrow = narrow(config);
    let needed = |row: &&Row| {
        row.failed.is_some()
            && row.generation == Kernels::Portable.word()
            && needs(config, &row.op)
            && (row.form == "f32" || row.form == narrow)
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
    use crate::device::ElementType;

    fn failed(kernel: &str, op: &str, form: &str, stage: Option<Stage>) -> Row {
        let generation = if kernel.contains("hopper") { "hopper" } else { "portable" };
        Row {
            kernel: format!("{kernel}_{form}"),
            form: form.into(),
            generation: generation.into(),
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
    fn hopper_kernels_go_with_their_widths() {
        let op = "matmul_hopper";
        let kernel = failed("matmul_hopper_forward_n192", op, "bf16", Some(Stage::Hang));
        let right = failed("matmul_hopper_forward_n128", op, "bf16", None);
        let portable = failed("matmul_forward", "matmul", "bf16", Some(Stage::Values));
        let step = |form| failed("training_step_hopper", STEP, form, Some(Stage::Values));
        let gone = |rows: &[Row]| {
            let mut names: Vec<String> =
                without_hopper(rows).into_iter().flat_map(|(names, _)| names).collect();
            names.sort();
            names
        };
        let widths = |pass: &str, form: &str| {
            [128, 192, 256].map(|cols| format!("matmul_hopper_{pass}_n{cols}_{form}")).to_vec()
        };
        let forward = widths("forward", "bf16");
        assert_eq!(gone(&[right.clone(), portable]), Vec::<String>::new());
        assert_eq!(gone(&[kernel.clone(), right.clone(), step("bf16")]), forward);
        // Steps alone do not say which kernel it is.
        let mut all = attention::hopper::symbols(ElementType::F16);
        all.extend([widths("backward_input", "f16"), widths("forward", "f16")].concat());
        all.sort();
        assert_eq!(gone(&[right, step("f16")]), all);
        let one = failed("attention_hopper_forward_n240", "attention", "bf16", Some(Stage::Values));
        assert_eq!(gone(std::slice::from_ref(&one)), [one.kernel]);
        for precision in [Precision::Bf16, Precision::Auto] {
            let config = Config { precision, ..Config::default() };
            assert_eq!(fallback(&[kernel.clone(), step("bf16")], &config, true), Fallback::None);
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
