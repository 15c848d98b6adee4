//! Times every kernel of a training step at the step's shapes: `cargo bench --bench kernels`.
//!
//! A row gives the median and the 10th and 90th percentile of a launch within a replayed graph, by events on
//! the compute stream; its rate; its share of what the machine reaches in the same run (a large product
//! through cuBLASLt, a large copy); the same work by cuBLASLt, or a copy of as many bytes; its error against
//! the same kernel in f32; and what is predicted of it (`forecast.rs`), so that a surprise is seen.
//!
//! On a GPU of compute capability 9.0 products and attention in 16 bits have two rows where Hopper kernels have a part in them, one
//! with portable kernels and one with those.
//!
//! cuBLASLt is looked for when the benchmark runs (`L2P_CUBLASLT`: its file); without it those columns are empty.
//! Without a GPU the rows are listed with their predictions.

#[path = "run.rs"]
mod run;

use clap::Parser;
use l2p_engine::device::{ElementType, Gpu, embedded};
use l2p_engine::{Error, Result};
use run::Args;
use std::process::ExitCode;

fn main() -> ExitCode {
    match measured(&Args::parse()) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(n) => {
            eprintln!("{n} results are wrong or missing");
            ExitCode::FAILURE
        }
        Err(e) => {
            eprintln!("{e}");
            ExitCode::FAILURE
        }
    }
}

/// How many rows failed. Without a GPU the rows are listed, unless one is required.
fn measured(args: &Args) -> Result<u64> {
    let forms = run::forms(args)?;
    if args.list {
        list(args, &forms)?;
        return Ok(0);
    }
    match Gpu::open(0, embedded::image) {
        Ok(gpu) => run::run(args, &forms, &gpu).map(|report| report["failures"].as_u64().unwrap_or(u64::MAX)),
        Err(why) if std::env::var_os("L2P_REQUIRE_GPU").is_some_and(|v| v == "1") => {
            Err(Error::failed(format!("no GPU: {why}")))
        }
        Err(why) => {
            println!("Nothing is measured without a GPU: {why}.");
            list(args, &forms)?;
            Ok(0)
        }
    }
}

fn list(args: &Args, forms: &[ElementType]) -> Result<()> {
    let chip = args.chip("")?;
    println!("Predicted for {}:", chip.name);
    for size in run::sizes(args) {
        println!("\nbatch {}", size.batch);
        println!(
            "{:<24} {:<28} {:>5} {:>9} {:>9} {:>5} {:>9} {:>12}",
            "stage", "shape", "times", "GFLOP", "MB", "form", "floor us", "predicted us"
        );
        let mut sums = vec![(0.0, 0.0); forms.len()];
        for row in run::wanted(args, &size) {
            for (i, &form) in run::forms_of(&row, forms).iter().enumerate() {
                let (floor, predicted) = (row.floor_us(form, chip), row.predicted_us(form, chip));
                sums[i].0 += row.times as f64 * floor;
                sums[i].1 += row.times as f64 * predicted.unwrap_or(0.0);
                println!(
                    "{:<24} {:<28} {:>5} {:>9.2} {:>9.1} {:>5} {:>9.1} {:>12}",
                    row.stage,
                    row.shape,
                    row.times,
                    row.flops as f64 / 1e9,
                    row.bytes(form) as f64 / 1e6,
                    form.name(),
                    floor,
                    predicted.map_or("-".into(), |p| format!("{p:.1}"))
                );
            }
        }
        for (form, (floor, predicted)) in forms.iter().zip(sums) {
            println!(
                "a step in {}: floor {:.2} ms, predicted {:.2} ms = {:.0} images/s",
                form.name(),
                floor / 1e3,
                predicted / 1e3,
                size.batch as f64 / predicted * 1e6
            );
        }
    }
    Ok(())
}
