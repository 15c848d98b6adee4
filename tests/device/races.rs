//! Every kernel under ThreadSanitizer: launches of the cases, recorded and replayed.

use super::common::lanes::deep;
use super::mutations::selected;
use super::{DType, On, SEED, cases, device, edges, emulation, hopper, races, tensors};
use l2p_engine::device::Device;
use std::process::Command;

/// Between equal types a cast is a copy, which needs no kernel.
const NOT_LAUNCHED: [&str; 2] = ["axpy_from_f32_f32", "axpy_to_f32_f32"];

/// The files of kernels for compute capability 9.0, with the ops whose cases launch them.
const HOPPER: [(&str, &[&str]); 3] = [
    ("matmul_hopper", &["matmul", "linear"]),
    ("attention_hopper", &["attention"]),
    ("attention_hopper_backward", &["attention"]),
];

/// Started by `deep_no_kernel_has_a_race`, with a folder for the launches: of each kernel the first few that differ in
/// their extents, those of the largest small cases.
#[test]
#[ignore = "started by deep_no_kernel_has_a_race"]
fn launches_are_recorded() {
    let Some(gpu) = device() else { return };
    let hopper = |file: &String| HOPPER.iter().any(|(name, _)| name == file);
    let portable = stems().iter().any(|file| !hopper(file) && selected(file));
    if portable {
        portable_launches(&Device::Cuda(gpu));
    }
    for (_, ops) in HOPPER.iter().filter(|(file, _)| selected(file)) {
        let gpu = hopper::device().expect("an emulated device");
        assert_eq!(hopper::first_failure(&gpu, ops, &[(0, 64), (0, 67)]), None);
    }
}

/// Those of all portable kernels: an op launches kernels of others.
fn portable_launches(dev: &Device) {
    let mut small = cases::small_on_gpu();
    small.sort_by_key(|case| std::cmp::Reverse(case.inputs.iter().map(|a| a.shape.len()).sum::<usize>()));
    for case in small.iter().chain(&cases::medium_on_gpu()) {
        for dtype in [DType::F32, DType::BF16, DType::F16] {
            if dtype != DType::F32 && !case.has_narrow_form() {
                continue;
            }
            for band in [64, 67] {
                let on = On { dev: dev.clone(), band };
                let data = case.data(SEED, dtype).to(dev, dtype).expect("an upload");
                case.everything(&on, &data).expect("forward and backward");
            }
        }
    }
    edges::all(dev);
    tensors::rounding(dev);
}

/// The kernel files.
fn stems() -> Vec<String> {
    let files = emulation::files(&emulation::root().join("kernels"), "cu").expect("kernels");
    files.iter().filter_map(|path| Some(path.file_stem()?.to_str()?.to_string())).collect()
}

/// The file that a kernel is of: the longest name that its own begins with.
fn file_of<'a>(kernel: &str, stems: &'a [String]) -> &'a str {
    let own = stems.iter().filter(|stem| kernel.starts_with(&format!("{stem}_")));
    own.max_by_key(|stem| stem.len()).expect("a file")
}

#[test]
fn deep_no_kernel_has_a_race() {
    if !deep("races within every kernel") {
        return;
    }
    if std::env::var_os("L2P_REQUIRE_GPU").is_some_and(|v| v == "1") {
        return eprintln!("skipped: 1 test of races: it is for emulated kernels");
    }
    if let Some(why) = races::unavailable() {
        return eprintln!("skipped: 1 test of races: {why}");
    }
    let folder = tempfile::tempdir().expect("a folder");
    let child = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "--ignored", "every_kernel::launches_are_recorded"])
        .env("L2P_EMU_RECORD", folder.path())
        .output()
        .expect("this program starts");
    assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stdout));
    let kernels = emulation::root().join("kernels");
    let found = races::replay(&kernels, folder.path()).expect("a replay");
    assert!(found.reports.is_empty(), "{}", found.reports.join("\n"));
    let stems = stems();
    let never: Vec<&String> = found.never.iter().filter(|kernel| selected(file_of(kernel, &stems))).collect();
    let allowed: Vec<&str> =
        NOT_LAUNCHED.into_iter().filter(|kernel| selected(file_of(kernel, &stems))).collect();
    assert_eq!(never, allowed, "the kernels of which no launch was replayed");
    eprintln!("kernels: {} launches without a race", found.launches);
}
