//! That `cargo bench --bench kernels` runs: all rows at tiny shapes, on the emulated device of
//! `tests/emulation`, or with `L2P_REQUIRE_GPU=1` on a real one. Times of an emulation say nothing; that every row
//! is there, near its f32 form and written as JSON can be checked.

#[path = "../emulation/mod.rs"]
mod emulation;
#[path = "../../benches/kernels/run.rs"]
mod run;

use clap::Parser;
use l2p_engine::device::{Gpu, embedded};
use serde_json::Value;
use std::io::Write as _;

#[test]
fn every_row_runs_at_tiny_shapes() {
    let real = std::env::var_os("L2P_REQUIRE_GPU").is_some_and(|v| v == "1");
    if !real && let Err(why) = emulation::compiler() {
        let _ = writeln!(std::io::stderr(), "skipped: 1 test of the kernels' benchmark: {why}");
        return;
    }
    if !real {
        // SAFETY: read by the driver, which nothing has called before; the other test does not.
        unsafe { std::env::set_var("L2P_EMU_CAPABILITY", "90") };
    }
    emulation::install().expect("the kernels compile for the host");
    let gpu = if real { Gpu::open(0, embedded::image) } else { Gpu::open(0, |_| Some(&[0u8; 64])) };
    let gpu = gpu.expect("a device");
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("kernels.json");
    let json = path.to_str().expect("a path");
    let args = run::Args::parse_from(["kernels", "--smoke", "--forms", "f32,bf16,f16", "--json", json]);
    let forms = run::forms(&args).expect("three forms");
    let report = run::run(&args, &forms, &gpu).expect("a run");
    let text = std::fs::read_to_string(&path).expect("the file");
    let written: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(written, report);
    let rows = report["rows"].as_array().expect("rows");
    assert!(rows.len() > 120, "{} rows", rows.len());
    let bad: Vec<&Value> = rows.iter().filter(|row| row["ok"] != true).collect();
    assert!(bad.is_empty(), "{bad:#?}");
    let narrow = rows.iter().filter(|r| r["form"] != "f32" && r["relative_error"].as_f64() > Some(1e-6));
    assert!(narrow.count() > 60, "16-bit forms differ from f32 by their rounding");
    assert!(rows.iter().all(|r| r["us"].as_f64() > Some(0.0) && r["bytes"].as_u64() > Some(0)), "{rows:#?}");
    let of = |kernels: &'static str| rows.iter().filter(move |row| row["kernels"] == kernels);
    let hopper: Vec<&Value> = of("hopper").collect();
    assert_eq!(of("portable").count() + hopper.len(), rows.len(), "each row names its kernels");
    let both = |row: &&&Value| {
        let same = |other: &&Value| ["stage", "shape", "form"].iter().all(|key| other[*key] == row[*key]);
        of("portable").any(|other| same(&other)) && row["predicted_us"].is_null()
    };
    assert_eq!(hopper.iter().filter(both).count(), hopper.len(), "beside portable kernels");
    let (wanted, sums) = if gpu.has_hopper() { (20, 5) } else { (0, 3) };
    assert!(hopper.len() >= wanted, "{} rows of Hopper kernels", hopper.len());
    let stage = |word: &str| {
        hopper.iter().any(|row| {
            row["stage"].as_str().is_some_and(|stage| stage.starts_with(word) && stage.contains("attn"))
        })
    };
    assert!(stage("P") == gpu.has_hopper() && stage("B") == gpu.has_hopper(), "both passes of attention");
    assert_eq!(report["steps"].as_array().map(Vec::len), Some(sums), "a sum for each form and generation");
}

/// Of every chip: known by its name, faster in large products than half of what cuBLASLt reaches there and slower than it.
#[test]
fn every_chip_has_predictions() {
    for chip in &run::forecast::CHIPS {
        let args = run::Args::parse_from(["kernels", "--chip", chip.word]);
        assert_eq!(args.chip("any").expect("a chip"), chip);
        let none = run::Args::parse_from(["kernels"]);
        assert_eq!(none.chip(&format!("{} 80GB", chip.name)).expect("a chip"), chip);
        for back in [false, true] {
            let (large, few) = (chip.product_rate(30336, 3072, back), chip.product_rate(64, 768, back));
            assert!(0.5 * chip.product < large && large < chip.product, "{}: {large:e}", chip.name);
            assert!(few < 0.2 * large, "{}: a few rows do not fill it: {few:e}", chip.name);
        }
        let (forward, backward) = (chip.attention_forward_rate(), chip.attention_backward_rate());
        assert!(backward < forward && forward < chip.product, "{}: {forward:e}, {backward:e}", chip.name);
    }
    let args = run::Args::parse_from(["kernels", "--chip", "h100"]);
    let said = args.chip("any").expect_err("no such chip").to_string();
    assert!(said.contains("h200, a100, rtx4090, rtx5090") && said.contains("h100"), "{said}");
}
