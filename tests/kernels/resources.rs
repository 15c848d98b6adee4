//! The resources of the compiled kernels, for both targets: registers, shared memory, no spills, no stack, tensor cores
//! where the source uses them. No GPU is needed.
//!
//! The table of `docs/kernel_resources.md` is compared with the report of the compiler: always the names of the kernels,
//! the numbers only with the version of nvcc that it was written with. `L2P_WRITE_REPORT=1` writes it again.

use super::emulation;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const TARGETS: [&str; 2] = ["80", "90a"];

/// Products of 16-bit matrices run on tensor cores; their f32 forms must not, which would round.
const ON_TENSOR_CORES: [&str; 2] = ["matmul", "attention"];

/// What ptxas says about a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Resources {
    registers: u32,
    smem_bytes: u32,
    stack_bytes: u32,
    spilled_bytes: u32,
}

/// The numbers before `unit` in a line of ptxas, added up.
fn number_before(line: &str, unit: &str) -> u32 {
    let parts = line.split(',').filter_map(|part| part.trim().strip_suffix(unit));
    parts.filter_map(|n| n.trim().rsplit(' ').next()?.parse::<u32>().ok()).sum()
}

/// The report of `-Xptxas -v`.
fn parse(report: &str) -> BTreeMap<String, Resources> {
    let mut kernels = BTreeMap::new();
    let mut current: Option<(String, Resources)> = None;
    for line in report.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            let name = rest.split('\'').next().expect("a name").to_string();
            current = Some((name, Resources::default()));
        } else if let Some((_, r)) = &mut current {
            if line.contains("bytes stack frame") {
                r.stack_bytes = number_before(line, "bytes stack frame");
                r.spilled_bytes =
                    number_before(line, "bytes spill stores") + number_before(line, "bytes spill loads");
            } else if line.contains(" registers") {
                r.registers = number_before(line, "registers");
                r.smem_bytes = number_before(line, "bytes smem");
                kernels.extend(current.take());
            }
        }
    }
    kernels
}

fn said_of_version(nvcc: &Path) -> Vec<u8> {
    Command::new(nvcc).arg("--version").output().expect("nvcc starts").stdout
}

/// The last line of `nvcc --version` but one: "Cuda compilation tools, release 13.0, V13.0.88".
fn version(nvcc: &Path) -> String {
    let said = String::from_utf8_lossy(&said_of_version(nvcc)).into_owned();
    said.lines().find(|line| line.contains("release")).unwrap_or("unknown").trim().to_string()
}

/// The kept table: who compiled, and a kernel's row by its name.
fn kept(text: &str) -> (String, BTreeMap<String, String>) {
    let version = text.lines().find_map(|line| line.strip_prefix("Compiler: ")).unwrap_or("none");
    let rows = text.lines().filter(|line| line.starts_with("| `"));
    let rows = rows.map(|line| (line.split('`').nth(1).expect("a name").to_string(), line.to_string()));
    (version.to_string(), rows.collect())
}

/// How the compiler's rows differ from those that are kept.
fn differences(
    kept: &(String, BTreeMap<String, String>),
    version: &str,
    rows: &BTreeMap<String, String>,
) -> Vec<String> {
    let mut found = Vec::new();
    for name in kept.1.keys().filter(|name| !rows.contains_key(*name)) {
        found.push(format!("{name} is in the table, and no kernel"));
    }
    for (name, row) in rows {
        match kept.1.get(name) {
            None => found.push(format!("{name} is not in the table")),
            Some(old) if old != row && kept.0 == version => {
                found.push(format!("{name}:\n    kept     {old}\n    compiler {row}"));
            }
            Some(_) => {}
        }
    }
    found
}

/// Compiles a kernel file for one target, unless it was before: the report, and the code's file.
fn compile(nvcc: &Path, source: &Path, target: &str) -> (String, PathBuf) {
    let headers = emulation::files(&emulation::root().join("kernels/include"), "cuh").expect("headers");
    let mut hash = Sha256::new();
    for path in headers.iter().chain([&source.to_path_buf()]) {
        hash.update(fs::read(path).expect("a kernel file"));
    }
    hash.update(said_of_version(nvcc));
    let hash: String = hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let folder = emulation::folder().join("cubin");
    fs::create_dir_all(&folder).expect("a folder");
    let stem = source.file_stem().and_then(|s| s.to_str()).expect("a name");
    let code = folder.join(format!("{stem}-{target}-{hash}.cubin"));
    let report = code.with_extension("txt");
    if let Ok(text) = fs::read_to_string(&report) {
        return (text, code);
    }
    let gencode = format!("-gencode=arch=compute_{target},code=sm_{target}");
    let mut command = Command::new(nvcc);
    command.args([
        "-cubin",
        "-std=c++17",
        "-O3",
        "-lineinfo",
        "-Werror",
        "all-warnings",
        "-Ikernels",
        "-Xptxas=-v",
    ]);
    let output =
        command.current_dir(emulation::root()).arg(gencode).arg(source).arg("-o").arg(&code).output();
    let output = output.expect("nvcc starts");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{command:?}\n{text}");
    fs::write(&report, &text).expect("the report");
    (text, code)
}

/// The kernels of a compiled file that use tensor cores; `None` without cuobjdump and nvdisasm.
fn with_tensor_cores(nvcc: &Path, code: &Path) -> Option<Vec<String>> {
    let folder = nvcc.parent()?;
    let path = std::env::join_paths([folder]).ok()?;
    let output =
        Command::new(folder.join("cuobjdump")).arg("-sass").arg(code).env("PATH", path).output().ok()?;
    if !output.status.success() {
        return None;
    }
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let functions = text.split("Function : ").skip(1).filter(|function| function.contains("HMMA"));
    Some(functions.map(|f| f.lines().next().expect("a name").trim().to_string()).collect())
}

#[test]
fn no_spills_no_stack_and_tensor_cores_where_they_are_meant() {
    let Some(nvcc) = option_env!("L2P_NVCC_USED").map(Path::new).filter(|path| path.is_file()) else {
        return eprintln!("skipped: this was built without nvcc");
    };
    let (mut failures, mut rows, mut looked_at) = (Vec::new(), BTreeMap::new(), 0);
    for source in emulation::files(&emulation::root().join("kernels"), "cu").expect("kernels") {
        let op = source.file_stem().and_then(|s| s.to_str()).expect("a name").to_string();
        for (i, target) in TARGETS.into_iter().enumerate() {
            let (report, code) = compile(nvcc, &source, target);
            let kernels = parse(&report);
            if kernels.is_empty() {
                failures.push(format!("{op}: no kernels for sm_{target}"));
            }
            for (name, r) in &kernels {
                if r.spilled_bytes > 0 || r.stack_bytes > 0 {
                    let Resources { stack_bytes, spilled_bytes, .. } = r;
                    failures.push(format!(
                        "{name} sm_{target}: {stack_bytes} bytes of stack, {spilled_bytes} spilled"
                    ));
                }
                rows.entry(name.clone()).or_insert([Resources::default(); 2])[i] = *r;
            }
            if !ON_TENSOR_CORES.contains(&op.as_str()) {
                continue;
            }
            let Some(found) = with_tensor_cores(nvcc, &code) else { continue };
            for name in kernels.keys() {
                let wanted = !name.ends_with("_f32");
                if found.contains(name) != wanted {
                    let verb = if wanted { "does not use" } else { "uses" };
                    failures.push(format!("{name} sm_{target} {verb} tensor cores"));
                }
                looked_at += 1;
            }
        }
    }
    let version = version(nvcc);
    let rows: BTreeMap<String, String> = rows
        .into_iter()
        .map(|(name, [old, new])| {
            let smem = old.smem_bytes.max(new.smem_bytes);
            let row = format!("| `{name}` | {} | {} | {smem} |", old.registers, new.registers);
            (name, row)
        })
        .collect();
    let mut table = format!(
        "# Registers and shared memory\n\nWhat ptxas reports for each kernel; no kernel spills or has a stack. \
         Products of 16-bit matrices (attention,\nmatmul, but for their f32 forms) run on tensor cores. Written by \
         `L2P_WRITE_REPORT=1 cargo test --release --test\nkernels`, which also compares; not measured on a GPU.\n\n\
         Compiler: {version}\n\n\
         | kernel | registers sm_80 | registers sm_90a | static shared memory, bytes |\n|---|---:|---:|---:|\n"
    );
    rows.values().for_each(|row| writeln!(table, "{row}").expect("a string"));
    let path = emulation::root().join("docs/kernel_resources.md");
    if std::env::var_os("L2P_WRITE_REPORT").is_some_and(|v| v == "1") {
        fs::write(&path, &table).expect("the report");
    }
    let kept = kept(&fs::read_to_string(&path).unwrap_or_default());
    if kept.0 != version {
        eprintln!(
            "skipped: {} comparisons of registers: {} wrote the table, this is {version}",
            rows.len(),
            kept.0
        );
    }
    for difference in differences(&kept, &version, &rows) {
        failures.push(format!("docs/kernel_resources.md: {difference}; L2P_WRITE_REPORT=1 writes it again"));
    }
    eprintln!("kernels: {} without spills, {looked_at} looked at for tensor cores", rows.len());
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(rows.len() > 20, "{} kernels", rows.len());
}

#[test]
fn the_table_is_compared() {
    let text =
        "# T\n\nCompiler: release 1.0\n\n| kernel | a |\n|---|---:|\n| `x_f32` | 3 |\n| `y_f32` | 4 |\n";
    let kept = kept(text);
    let rows = |lines: &[(&str, &str)]| lines.iter().map(|(n, r)| (n.to_string(), r.to_string())).collect();
    let same = rows(&[("x_f32", "| `x_f32` | 3 |"), ("y_f32", "| `y_f32` | 4 |")]);
    assert_eq!(differences(&kept, "release 1.0", &same), Vec::<String>::new());
    let other = rows(&[("x_f32", "| `x_f32` | 3 |"), ("y_f32", "| `y_f32` | 5 |")]);
    assert_eq!(differences(&kept, "release 1.0", &other).len(), 1);
    assert_eq!(differences(&kept, "release 2.0", &other).len(), 0, "of another compiler numbers may differ");
    let renamed = rows(&[("x_f32", "| `x_f32` | 3 |"), ("z_f32", "| `z_f32` | 4 |")]);
    assert_eq!(differences(&kept, "release 2.0", &renamed).len(), 2, "names may not");
}

#[test]
fn the_report_of_ptxas_is_understood() {
    let report = "\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'a_f32' for 'sm_80'
ptxas info    : Function properties for a_f32
    8 bytes stack frame, 4 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 25 registers, used 1 barriers, 8 bytes cumulative stack size, 1536 bytes smem, 388 bytes cmem[0]
ptxas info    : Compiling entry function 'b_bf16' for 'sm_80'
ptxas info    : Function properties for b_bf16
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 14 registers, used 0 barriers, 372 bytes cmem[0]
";
    let a = Resources { registers: 25, smem_bytes: 1536, stack_bytes: 8, spilled_bytes: 16 };
    let b = Resources { registers: 14, smem_bytes: 0, stack_bytes: 0, spilled_bytes: 0 };
    assert_eq!(parse(report), BTreeMap::from([("a_f32".to_string(), a), ("b_bf16".to_string(), b)]));
}
