//! `l2p-engine check-device`.

use super::print;
use crate::config;
use crate::config::schema::Kernels;
use crate::device::{NO_GPU, embedded, probe};
use crate::error::{Error, Result};
use crate::output::table::{self, Style};
use crate::self_check::{self, Check, Key, Stage, StepShapes, Verdict};
use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug, Args)]
pub struct CheckDevice {
    /// The GPU: `cuda:N`.
    #[arg(long, default_value = "cuda:0")]
    device: String,
    /// Also at the shapes of this configuration; by default at those of the built-in one.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Set one configuration key, such as `--set prompt_pool.length=5`. Repeatable.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// `portable` kernels alone, or `hopper` kernels as well; by default what the configuration says in `train.kernels`.
    #[arg(long, value_name = "WORD", value_parser = PossibleValuesParser::new(Kernels::WORDS).try_map(|word| Kernels::named(&word).ok_or("no such kernels")))]
    kernels: Option<Kernels>,
    /// Check even if a verdict is on file.
    #[arg(long)]
    again: bool,
    /// Leave out the kernels that only large shapes take.
    #[arg(long)]
    quick: bool,
    /// How often each pass is repeated, at most; a pass that takes long is repeated three times.
    #[arg(long, value_name = "N", default_value_t = Check::REPEATS)]
    repeat: usize,
    /// Seconds that one op may take before its process is ended.
    #[arg(long, value_name = "SECONDS", default_value_t = Check::TIMEOUT.as_secs())]
    timeout: u64,
    /// Print one JSON object instead of a table.
    #[arg(long)]
    json: bool,
    /// This process is the child of a check, and begins with this piece of work.
    #[arg(long, hide = true, requires = "shapes")]
    child: Option<usize>,
    /// Pieces of work that a child leaves out.
    #[arg(long, hide = true, value_delimiter = ',')]
    skip: Vec<String>,
    /// The shapes of a step as JSON.
    #[arg(long, hide = true)]
    shapes: Option<String>,
}

impl CheckDevice {
    pub fn run(self) -> Result<()> {
        let index = self.index()?;
        if let (Some(first), Some(shapes)) = (self.child, &self.shapes) {
            let shapes: Option<StepShapes> =
                serde_json::from_str(shapes).map_err(|e| Error::config(format!("--shapes: {e}")))?;
            let skip: Vec<usize> = self.skip.iter().filter_map(|word| word.parse().ok()).collect();
            let kernels = self.kernels.unwrap_or_default();
            return self_check::child(index, shapes.as_ref(), self.quick, kernels, self.repeat, first, &skip);
        }
        if self.timeout == 0 || self.repeat == 0 {
            return Err(Error::config("--timeout and --repeat: wanted at least 1, found 0"));
        }
        let failed = |why: &str| Error::failed(format!("--device {}: {why}", self.device));
        let gpus = probe::gpus().map_err(|why| failed(&why))?;
        let Some(found) = gpus.get(index) else {
            return Err(match gpus.len() {
                0 => failed(NO_GPU),
                n => failed(&format!("there is no such GPU; this machine has {n}, counted from 0")),
            });
        };
        if let Some(why) = found.unusable() {
            return Err(failed(&format!("{}: {why}", found.name)));
        }
        if embedded::TOOLKIT.is_none() {
            return Err(failed("this program holds no CUDA kernels: there was no nvcc when it was built"));
        }
        let given = self.kernels.iter().map(|word| format!("train.kernels={word}"));
        let set: Vec<String> = self.set.iter().cloned().chain(given).collect();
        let loaded = config::load_with_notes(self.config.as_deref(), &set, None, None, None)?;
        let kernels = loaded.config.train.kernels;
        let (major, minor) = found.compute_capability;
        if kernels == Kernels::Hopper && (major, minor) != (9, 0) {
            return Err(failed(&format!(
                "{} has compute capability {major}.{minor}, the Hopper kernels are for 9.0; use --kernels portable",
                found.name
            )));
        }
        let shapes = self_check::shapes(&loaded.config);
        let key = Key::new(found, shapes.clone(), self.quick, kernels);
        let (quick, repeats, timeout) = (self.quick, self.repeat, Duration::from_secs(self.timeout));
        let check = Check { index, shapes, quick, kernels, repeats, timeout };
        let (verdict, is_new) = check.verdict(key, self.again, || ())?;
        let sentence = verdict.sentence();
        if self.json {
            let ok = verdict.failed().next().is_none();
            let (key, rows, seconds) = (&verdict.key, &verdict.rows, verdict.seconds);
            print(&format!(
                "{:#}",
                serde_json::json!({ "ok": ok, "sentence": sentence, "new": is_new, "seconds": seconds,
                    "key": key, "kernels": rows, "file": key.file() })
            ));
        } else {
            print(&text(&verdict));
            let when = if is_new { format!("checked in {:.1} s", verdict.seconds) } else { "on file".into() };
            print(&format!("{sentence} ({when})"));
        }
        match verdict.failed().count() {
            0 => Ok(()),
            n => Err(Error::failed(format!(
                "{}: {n} kernels failed the check; runs that need them go on with portable kernels, without graphs, in f32 \
                 or on the CPU, or are refused",
                self.device
            ))),
        }
    }

    /// The number of the GPU.
    fn index(&self) -> Result<usize> {
        let number = match self.device.as_str() {
            "cuda" => Some(0),
            word => word.strip_prefix("cuda:").and_then(|number| number.parse().ok()),
        };
        number.ok_or_else(|| {
            let found = &self.device;
            Error::config(format!("--device: wanted one GPU, `cuda` or `cuda:N`, found `{found}`"))
        })
    }
}

/// A line per kernel, and below them a sentence for each that failed.
fn text(verdict: &Verdict) -> String {
    let header = ["kernel", "passes", "repeated", "as graph", "us", "verdict"].map(String::from).to_vec();
    let rows = verdict.rows.iter().map(|row| {
        vec![
            row.kernel.clone(),
            row.passes.to_string(),
            row.repeats.to_string(),
            row.graphs.to_string(),
            if row.us > 0.0 { format!("{:.0}", row.us) } else { "-".into() },
            row.failed.map_or("right", Stage::word).into(),
        ]
    });
    let mut text = table::draw(header, rows, Style::detect());
    for row in verdict.failed() {
        text += &format!("\n{}: {}", row.kernel, row.text);
    }
    text
}
