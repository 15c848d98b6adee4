//! The check of a GPU before it is trusted, as a user meets it: `check-device`, and unasked before a run. The GPU is the
//! emulated one, in whose kernels faults are planted; without a host compiler nothing is run.

#[path = "../common/mod.rs"]
mod common;
#[path = "../emulation/mod.rs"]
mod emulation;

use common::process::{engine, expect, outcome, split_mnist, stderr, stdout};
use l2p_engine::device::embedded;
use serde_json::Value;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A narrow network on small images.
const TOY: &[&str] = &[
    "data.dataset=\"synthetic\"",
    "data.input_size=16",
    "data.resize_size=18",
    "data.train_per_class=16",
    "data.test_per_class=2",
    "continual.num_tasks=1",
    "train.num_epochs=1",
    "train.per_device_batch_size=8",
    "prompt_pool.length=2",
    "prompt_pool.top_k=2",
    "prompt_pool.pool_size=6",
    "baselines.ncm=false",
    "baselines.single_prompt=false",
    "baselines.linear_probe=false",
    "baselines.naive_head=false",
];

/// One change of the kernels: the file, a piece of its text that occurs once, and what stands there instead.
type Fault = (&'static str, &'static str, &'static str);

/// One element of many gets another value, in the 16-bit forms alone.
const WRONG_ELEMENT: Fault = (
    "pool_tokens",
    "    const float mean = sum * mean_weight(n, kind);",
    "    const float mean = sum * mean_weight(n, kind) + (sizeof(T) == 2 && j == 1 ? 3.f : 0.f);",
);
/// The sums of other warps are read before they are written.
const RACE: Fault = ("row_norm", "    __syncthreads();\n    sum = 0.f;", "    sum = 0.f;");
const HANG: Fault = (
    "axpy",
    "    if (i < n) x[i] = from_f32<T>(a * to_f32(x[i]));",
    "    volatile unsigned never = 0;\n    while (sizeof(T) == 2 && never == 0) {}\n    \
     if (i < n) x[i] = from_f32<T>(a * to_f32(x[i]));",
);
const ILLEGAL_ADDRESS: Fault = (
    "patches",
    "    store_chunk(rows + size_t(blockIdx.x) * width, j, width, v, vectors);",
    "    store_chunk(rows + (size_t(blockIdx.x) + (sizeof(T) == 2 ? size_t(1) << 36 : 0)) * width, j, width, v, vectors);",
);
/// A wait in the first thread of every launch.
const SLOW: Fault = (
    "gelu",
    "    if (j >= n) return;\n    Vec<T> v = load_chunk(x, j, n, vectors);",
    "    if (sizeof(T) == 2 && j == 0) usleep(80000);\n    if (j >= n) return;\n    \
     Vec<T> v = load_chunk(x, j, n, vectors);",
);

/// Of Hopper kernels: one element of the products with tiles of 128 columns is wrong in bf16, those of 192 columns hang in f16,
/// which holds this number and bf16 does not.
const HOPPER: Fault = (
    "matmul_hopper",
    "            wgmma_wait<0>();\n",
    "            wgmma_wait<0>();\n            const bool half = to_f32(from_f32<T>(1.0009765625f)) != 1.f;\n            \
     volatile unsigned never = 0;\n            \
     while (half && B == Inner::Outer && BN == 192 && never == 0) {}\n            \
     if (!half && B == Inner::Outer && BN == 128 && thread == 0) acc[0] += 3.f;\n",
);

/// The emulated driver with faults in its kernels; `None` where there is nothing to run on, which is said and counted.
fn driver(test: &str, faults: &[Fault]) -> Option<PathBuf> {
    let skip = |why: &str| {
        let _ = writeln!(std::io::stderr(), "skipped: 1 test of the check of a GPU ({test}): {why}");
    };
    if embedded::TOOLKIT.is_none() {
        skip("the program holds no kernels, because there was no nvcc");
        return None;
    }
    if let Err(why) = emulation::compiler() {
        skip(&why);
        return None;
    }
    if faults.is_empty() {
        return Some(emulation::library().expect("the kernels compile for the host"));
    }
    let folder = emulation::folder().join("planted").join(test.replace(' ', "-"));
    fs::create_dir_all(folder.join("include")).expect("a folder");
    let kernels = emulation::root().join("kernels");
    for path in emulation::files(&kernels.join("include"), "cuh").expect("headers") {
        fs::copy(&path, folder.join("include").join(path.file_name().expect("a name"))).expect("a copy");
    }
    for (file, from, to) in faults {
        let text = fs::read_to_string(kernels.join(format!("{file}.cu"))).expect("a kernel");
        assert_eq!(text.matches(from).count(), 1, "{file}: {from:?}");
        let text = format!("extern \"C\" int usleep(unsigned);\n{}", text.replacen(from, to, 1));
        fs::write(folder.join(format!("{file}.cu")), text).expect("a kernel");
    }
    Some(emulation::library_with(&folder).expect("the kernels compile for the host"))
}

/// The program on this driver with a cache folder of its own, the check switched on.
fn on(driver: &Path, cache: &Path) -> Command {
    let mut command = engine();
    command.env("LD_LIBRARY_PATH", driver.parent().expect("a folder"));
    command.env("L2P_CHECK_DEVICE", "quick").env("XDG_CACHE_HOME", cache);
    command
}

fn check(driver: &Path, cache: &Path, more: &[&str]) -> Command {
    let mut command = on(driver, cache);
    // No backbone, no shapes of a step: the emulated GPU is slow.
    command
        .args(["check-device", "--quick", "--repeat", "3", "--set", "model.init_checkpoint=\"absent.npz\""])
        .args(more);
    command
}

/// The one object that `--json` prints, and the exit code.
fn checked(mut command: Command) -> (Value, i32) {
    let output = command.arg("--json").output().expect("the program");
    let said = stdout(&output);
    let value = serde_json::from_str(&said).unwrap_or_else(|e| panic!("{e}: {said}\n{}", stderr(&output)));
    (value, output.status.code().expect("a code"))
}

fn failed(verdict: &Value) -> Vec<(String, String, String)> {
    let text = |row: &Value, key: &str| row[key].as_str().expect("text").to_string();
    let rows = verdict["kernels"].as_array().expect("rows").iter().filter(|row| !row["failed"].is_null());
    rows.map(|row| (text(row, "kernel"), text(row, "failed"), text(row, "text"))).collect()
}

#[test]
fn every_kernel_is_checked_once() {
    let Some(driver) = driver("sound kernels", &[]) else { return };
    let cache = tempfile::tempdir().expect("a folder");
    let listed = || {
        let mut command = on(&driver, cache.path());
        command.arg("devices");
        expect(command, 0)
    };
    assert!(listed().contains("not checked yet with this driver and program"), "{}", listed());
    let (verdict, code) = checked(check(&driver, cache.path(), &[]));
    assert_eq!((code, &verdict["new"], failed(&verdict)), (0, &Value::Bool(true), vec![]));
    let rows = verdict["kernels"].as_array().expect("rows");
    let names: Vec<&str> = rows.iter().filter_map(|row| row["kernel"].as_str()).collect();
    for path in emulation::files(&emulation::root().join("kernels"), "cu").expect("kernels") {
        let op = path.file_stem().and_then(|stem| stem.to_str()).expect("a name").to_string();
        if op.contains("_hopper") {
            assert!(names.iter().all(|name| !name.starts_with(&op)), "unasked: {names:?}");
            continue;
        }
        assert!(names.iter().any(|name| name.starts_with(&op)), "no kernel of {op} in {names:?}");
    }
    assert!(names.len() > 100, "{} kernels", names.len());
    for row in rows.iter().filter(|row| row["op"] != "training_step" && row["us"].as_f64() > Some(0.0)) {
        assert!(row["repeats"].as_u64() >= Some(2), "{row}");
    }
    let replayed = rows.iter().filter(|row| row["graphs"].as_u64() > Some(0)).count();
    assert!(replayed > names.len() / 2, "{replayed} of {} kernels were replayed", names.len());

    assert!(listed().contains("kernels compute what they should"), "{}", listed());

    // The second time it is read, also as a table; of another driver or damaged it is made anew.
    let said = expect(check(&driver, cache.path(), &[]), 0);
    assert!(said.contains("on file") && said.contains("matmul_forward") && said.contains("right"), "{said}");
    let file = PathBuf::from(verdict["file"].as_str().expect("a file"));
    let whole = fs::read(&file).expect("the verdict");
    fs::write(&file, &whole[..whole.len() / 2]).expect("a damaged file");
    assert_eq!(checked(check(&driver, cache.path(), &[])).0["new"], true);
    let mut later = check(&driver, cache.path(), &[]);
    later.env("L2P_EMU_DRIVER", "13020");
    let (later, code) = checked(later);
    assert_eq!(
        (code, &later["new"], later["key"]["driver"].as_i64()),
        (0, &Value::Bool(true), Some(13020)),
        "{later}"
    );
}

/// Of the kernels that nvcc lists, none is left out.
#[test]
fn deep_large_shapes_take_every_other_kernel() {
    if !common::lanes::deep("the check of a GPU with large shapes") {
        return;
    }
    let Some(driver) = driver("large shapes", &[]) else { return };
    let cache = tempfile::tempdir().expect("a folder");
    let mut command = on(&driver, cache.path());
    command.args(["check-device", "--repeat", "1", "--set", "model.init_checkpoint=\"absent.npz\""]);
    command.args(["--kernels", "hopper"]).env("L2P_EMU_CAPABILITY", "90");
    let (verdict, code) = checked(command);
    assert_eq!((code, failed(&verdict)), (0, vec![]));
    let rows = verdict["kernels"].as_array().expect("rows");
    let names: Vec<&str> = rows.iter().filter_map(|row| row["kernel"].as_str()).collect();
    let listed = fs::read_to_string(emulation::root().join("docs/kernel_resources.md")).expect("the list");
    let listed: Vec<&str> =
        listed.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
    // Exported and never launched: casts from f32 to itself, and gathers from tables of 16 bits, which no network has.
    let never = |kernel: &str| {
        kernel.starts_with("axpy_") && kernel.ends_with("_f32_f32")
            || kernel.starts_with("gather_") && kernel.contains("_narrow_")
    };
    let needed = listed.iter().filter(|kernel| !never(kernel));
    let missing: Vec<_> = needed.filter(|kernel| !names.contains(kernel)).collect();
    assert!(listed.len() > 100 && missing.is_empty(), "of {} kernels not checked: {missing:?}", listed.len());
}

/// What each fault is found as, by which kernel it is blamed on.
#[test]
fn each_fault_is_found_and_blamed() {
    let faults = [WRONG_ELEMENT, RACE, HANG, ILLEGAL_ADDRESS, SLOW];
    let Some(driver) = driver("all faults", &faults) else { return };
    let cache = tempfile::tempdir().expect("a folder");
    let mut command = check(&driver, cache.path(), &["--timeout", "8"]);
    // An order of threads in which a race shows.
    command.env("L2P_EMU_SEED", "1");
    let (verdict, code) = checked(command);
    let found = failed(&verdict);
    assert_eq!((code, &verdict["ok"]), (1, &Value::Bool(false)), "{found:#?}");
    for (kernel, stage, words) in [
        ("pool_tokens_forward_bf16", "values", "wanted"),
        ("row_norm_columns_f32", "", "`y`["),
        ("axpy_scale_bf16", "hang", "did not end within 8 s"),
        ("patches_forward_bf16", "fault", "illegal"),
        ("gelu_forward_bf16", "slow", "the same in f32 takes"),
    ] {
        let row = found.iter().find(|(name, ..)| name == kernel);
        let (_, by, text) = row.unwrap_or_else(|| panic!("{kernel} is not found: {found:#?}"));
        assert!(stage.is_empty() || by == stage, "{kernel}: {by}: {text}");
        assert!(text.contains(words), "{kernel}: {text}");
    }
    // What has no fault is not blamed, though it was launched beside one that has.
    for sound in
        ["matmul_forward_f32", "matmul_forward_bf16", "attention_forward_bf16", "layer_norm_forward_bf16"]
    {
        assert!(found.iter().all(|(name, ..)| name != sound), "{sound}: {found:#?}");
    }
}

/// The names of all Hopper kernels.
fn hopper_kernels() -> Vec<String> {
    let passes = ["backward_input", "forward"].into_iter();
    let widths = passes.flat_map(|pass| [128, 192, 256].map(|cols| format!("matmul_hopper_{pass}_n{cols}")));
    widths.flat_map(|name| ["bf16", "f16"].map(|form| format!("{name}_{form}"))).collect()
}

/// Where they are asked for, and on a GPU that has them; beside the verdict of the portable kernels.
#[test]
fn hopper_kernels_are_checked_on_request() {
    let Some(driver) = driver("sound Hopper kernels", &[]) else { return };
    let cache = tempfile::tempdir().expect("a folder");
    let said = expect(check(&driver, cache.path(), &["--kernels", "hopper"]), 1);
    assert!(said.contains("compute capability 8.0, the Hopper kernels are for 9.0"), "{said}");
    let mut command = check(&driver, cache.path(), &["--set", "train.kernels=hopper"]);
    command.env("L2P_EMU_CAPABILITY", "90");
    let (verdict, code) = checked(command);
    assert_eq!((code, failed(&verdict), &verdict["key"]["kernels"]), (0, vec![], &"hopper".into()));
    let rows = verdict["kernels"].as_array().expect("rows");
    let number = |row: &Value, key: &str| row[key].as_u64().expect("a number");
    for name in hopper_kernels() {
        let row =
            rows.iter().find(|row| row["kernel"] == *name).unwrap_or_else(|| panic!("no row of {name}"));
        assert_eq!(row["generation"], "hopper", "{row}");
        assert!(
            number(row, "passes") > 5 && number(row, "repeats") > 10 && number(row, "graphs") > 3,
            "{row}"
        );
    }
    for name in ["training_step_bf16", "training_step_hopper_bf16", "training_step_hopper_f16"] {
        assert!(rows.iter().any(|row| row["kernel"] == name), "no row of {name}");
    }
    let mut again = check(&driver, cache.path(), &["--kernels", "hopper"]);
    again.env("L2P_EMU_CAPABILITY", "90");
    assert!(expect(again, 0).contains("on file"));
}

/// In the place of a Hopper kernel that failed the run takes the portable one, in tiles of all widths; sound ones stay.
#[test]
fn a_run_without_a_hopper_kernel_takes_the_portable_one() {
    let Some(driver) = driver("wrong Hopper kernels", &[HOPPER]) else { return };
    let dir = folder();
    // For the shapes of the run below, which finds this verdict.
    let mut command = on(&driver, &dir.path().join("cache"));
    command.args([
        "check-device",
        "--quick",
        "--repeat",
        "3",
        "--kernels",
        "hopper",
        "--timeout",
        "20",
        "--config",
    ]);
    let backbone = format!("model.init_checkpoint={:?}", dir.path().join("backbone.safetensors"));
    command.arg(split_mnist()).args(TOY.iter().chain(&[&*backbone]).flat_map(|set| ["--set", set]));
    command.env("L2P_EMU_CAPABILITY", "90");
    let (verdict, code) = checked(command);
    let found = failed(&verdict);
    assert_eq!(code, 1, "{found:#?}");
    let stage = |kernel: &str| found.iter().find(|(name, ..)| name == kernel).map(|(_, by, _)| by.as_str());
    for (kernel, wanted) in [
        ("matmul_hopper_forward_n128_bf16", Some("values")),
        ("matmul_hopper_forward_n192_bf16", None),
        ("matmul_hopper_forward_n256_bf16", None),
        ("matmul_hopper_backward_input_n128_bf16", None),
        ("matmul_hopper_forward_n256_f16", None),
        ("matmul_hopper_forward_n192_f16", Some("hang")),
        ("matmul_hopper_forward_n128_f16", Some("hang")),
    ] {
        assert_eq!(stage(kernel), wanted, "{kernel}: {found:#?}");
    }
    assert!(found.iter().all(|(name, ..)| name.contains("_hopper_")), "{found:#?}");

    let hopper = |name: &str, word: &str| {
        let mut command = train(&driver, dir.path(), "cuda", name, &["train.kernels=\"hopper\""]);
        command.env("L2P_EMU_CAPABILITY", "90").env("L2P_CHECK_DEVICE", word);
        command
    };
    // f16 is not its form.
    let said = expect(hopper("checked", "quick"), 0);
    assert!(!said.contains("checking"), "{said}");
    let sentence = "portable kernels take the place of matmul_hopper_forward_n128_bf16 (wrong values)";
    assert!(said.contains(sentence) && !said.contains("_f16 ("), "{said}");
    let results_of = |name: &str| results(dir.path(), name);
    let words = results_of("checked")["kernels"].as_str().expect("words").to_string();
    // By name; after the hang, what is left of f16 counts as failed.
    assert!(words.starts_with("hopper, checked; failed: attention_hopper_backward_kv_n256_f16, "), "{words}");
    assert_eq!(results_of("checked")["precision"], "bf16");
    let config = fs::read_to_string(dir.path().join("checked/config.toml")).expect("a configuration");
    assert!(config.contains("kernels = \"hopper\""), "{config}");
    // The fault is one that changes what is learned, and without that kernel it is not there.
    expect(hopper("unchecked", "off"), 0);
    assert_eq!(results_of("unchecked")["kernels"], "hopper, not checked, L2P_CHECK_DEVICE=off");
    let learned = |name: &str| outcome(&dir.path().join(name)).0;
    assert!(learned("checked") != learned("unchecked"), "the same bits");
}

/// The choice is the run's: `eval` takes its kernels where the GPU has them, and says so where it has none.
#[test]
fn a_run_keeps_its_kernels() {
    // The fault shows whether Hopper kernels were used: in small products the emulated ones have the portable kernels' bits.
    let Some(driver) = driver("kept kernels", &[HOPPER]) else { return };
    let dir = folder();
    let run = |name: &str, device: &str, capability: &str, more: &[&str]| {
        let mut command = train(&driver, dir.path(), device, name, more);
        command.env("L2P_EMU_CAPABILITY", capability).env("L2P_CHECK_DEVICE", "off");
        command
    };
    let hopper = ["train.kernels=\"hopper\""];
    expect(run("hopper", "cuda", "90", &hopper), 0);
    expect(run("portable", "cuda", "90", &[]), 0);
    assert_eq!(results(dir.path(), "hopper")["kernels"], "hopper, not checked, L2P_CHECK_DEVICE=off");
    let learned = |name: &str| outcome(&dir.path().join(name)).0;
    assert!(learned("hopper") != learned("portable"), "no Hopper kernel was used");
    let said = expect(run("refused", "cuda", "80", &hopper), 2);
    assert!(said.contains("train.kernels: wanted a GPU of compute capability 9.0 for `hopper`"), "{said}");
    assert!(said.contains("cuda:0 (") && said.contains("has compute capability 8.0"), "{said}");
    let said = expect(run("on_cpu", "cpu", "90", &hopper), 0);
    assert!(said.contains("the CPU ignores it"), "{said}");
    // Resumed with another word it would learn other bits.
    let mut other = run("hopper", "cuda", "90", &["train.kernels=\"portable\""]);
    other.arg("--resume");
    let said = expect(other, 2);
    assert!(said.contains("train.kernels: the run has \"hopper\", asked for \"portable\""), "{said}");

    let eval = |capability: &str| {
        let mut command = on(&driver, &dir.path().join("cache"));
        command.env("L2P_EMU_CAPABILITY", capability).env("L2P_CHECK_DEVICE", "off");
        command.args(["eval", "--device", "cuda", "--workdir"]).arg(dir.path().join("hopper"));
        expect(command, 0)
    };
    let note = "the run has train.kernels = \"hopper\"; cuda:0 has no such kernels";
    let (there, elsewhere) = (eval("90"), eval("80"));
    assert!(!there.contains(note) && elsewhere.contains(note), "{there}\n{elsewhere}");
}

/// A driver whose graphs leave something out: a run starts its kernels one by one, with the bits of a sound driver.
#[test]
fn a_driver_without_right_graphs_runs_without_them() {
    let Some(driver) = driver("wrong graphs", &[]) else { return };
    let dir = folder();
    let planted = |name: &str, word: &str| {
        let mut command = train(&driver, dir.path(), "cuda", name, &[]);
        command.env("L2P_EMU_FAULT", "replay").env("L2P_CHECK_DEVICE", word);
        expect(command, 0)
    };
    let said = planted("checked", "quick");
    assert!(said.contains("wrong in a graph") && said.contains("training goes on without a graph"), "{said}");
    let mut sound = train(&driver, dir.path(), "cuda", "sound", &[]);
    sound.env("L2P_CHECK_DEVICE", "off");
    expect(sound, 0);
    assert!(outcome(&dir.path().join("checked")).0 == outcome(&dir.path().join("sound")).0, "other bits");
    // The fault is one that changes what is learned.
    planted("unchecked", "off");
    assert!(
        outcome(&dir.path().join("unchecked")).0 != outcome(&dir.path().join("sound")).0,
        "the same bits"
    );
}

/// A run on a GPU with these arguments, without a checkpoint of its own to begin with.
fn train(driver: &Path, dir: &Path, device: &str, name: &str, more: &[&str]) -> Command {
    let mut command = on(driver, &dir.join("cache"));
    command.args(["train", "--quiet", "--device", device, "--workdir"]).arg(dir.join(name));
    command.arg("--config").arg(split_mnist()).arg("--init-checkpoint").arg(dir.join("backbone.safetensors"));
    command.args(TOY.iter().chain(more).flat_map(|set| ["--set", set]));
    command
}

/// A folder with a backbone for [`train`].
fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    let mut command = engine();
    command.args(["pretrain", "--quiet", "--device", "cpu", "--workdir"]).arg(dir.path().join("pretrain"));
    command.arg("--out").arg(dir.path().join("backbone.safetensors")).arg("--config").arg(split_mnist());
    let own = [
        "method=\"finetune\"",
        "data.augment=\"none\"",
        "continual.num_classes_per_task=10",
        "model.input_norm=\"unit\"",
        "model.vit_classifier=\"token\"",
        "model.freeze_part=[]",
        "prompt_pool.pool_size=0",
        "optim.lr_batch=0",
        "pretrain.patch_size=8",
        "pretrain.embed_dim=32",
        "pretrain.layers=2",
        "pretrain.heads=2",
        "pretrain.mlp_dim=64",
    ];
    let toy = TOY.iter().filter(|set| !set.starts_with("prompt_pool"));
    command.args(toy.chain(&own).flat_map(|set| ["--set", set]));
    expect(command, 0);
    dir
}

fn results(dir: &Path, name: &str) -> Value {
    let text = fs::read_to_string(dir.join(name).join("results.json")).expect("results");
    serde_json::from_str(&text).expect("JSON")
}

/// Unasked before the first run, not before the second; the run keeps what was known.
#[test]
fn a_run_is_checked_before_its_first_step() {
    let Some(driver) = driver("an unasked check", &[]) else { return };
    let dir = folder();
    let said = expect(train(&driver, dir.path(), "cuda", "first", &[]), 0);
    assert!(said.contains("checking every kernel") && said.contains("what they should"), "{said}");
    let said = expect(train(&driver, dir.path(), "cuda", "second", &[]), 0);
    assert!(!said.contains("checking"), "{said}");
    let mut off = train(&driver, dir.path(), "cuda", "third", &[]);
    off.env("L2P_CHECK_DEVICE", "off");
    expect(off, 0);
    for (name, words) in [("first", "portable, checked"), ("third", "not checked, L2P_CHECK_DEVICE=off")] {
        let results = results(dir.path(), name);
        assert_eq!((&results["kernels"], &results["precision"]), (&words.into(), &"bf16".into()), "{name}");
    }
}

/// No kernel that failed reaches a result: f32 in place of 16 bits where the run may choose, the CPU where the device is
/// open, and otherwise a sentence.
#[test]
fn a_run_falls_back_or_is_refused() {
    let Some(driver) = driver("a wrong 16-bit form", &[WRONG_ELEMENT]) else { return };
    let dir = folder();
    let said = expect(train(&driver, dir.path(), "cuda", "f32", &[]), 0);
    assert!(said.contains("computes in f32: pool_tokens_forward_bf16 (wrong values)"), "{said}");
    let f32 = results(dir.path(), "f32");
    assert_eq!((&f32["precision"], &f32["device"].as_str().map(|d| &d[..4])), (&"f32".into(), &Some("cuda")));
    let said = f32["kernels"].as_str().expect("words");
    assert!(said.contains("checked; failed: pool_tokens_forward_bf16"), "{said}");
    // What it computed in is what it keeps.
    let config = fs::read_to_string(dir.path().join("f32/config.toml")).expect("a configuration");
    assert!(config.contains("precision = \"f32\""), "{config}");

    let explicit = ["precision=\"bf16\""];
    let said = expect(train(&driver, dir.path(), "cuda", "refused", &explicit), 1);
    assert!(said.contains("cuda:0 is not used: pool_tokens_forward_bf16 (wrong values)"), "{said}");
    assert!(!dir.path().join("refused/results.json").exists());
}
