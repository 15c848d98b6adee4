//! The resources of the compiled kernels, for both targets: registers, shared memory, blocks per multiprocessor, no spills
//! but outside of the main loops of products, tensor cores where the source uses them. No GPU is needed.
//!
//! The table of `docs/kernel_resources.md` is compared with the report of the compiler: always the names of the kernels,
//! the numbers only with the version of nvcc that it was written with. `L2P_WRITE_REPORT=1` writes it again.

use super::emulation;
use super::machine_code::{self, MachineCode};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const TARGETS: [&str; 2] = ["80", "90a"];

/// Products of 16-bit matrices run on tensor cores; their f32 forms must not, which would round.
const ON_TENSOR_CORES: [&str; 5] = ["matmul", "attention", HOPPER[0], HOPPER[1], HOPPER[2]];

/// Files with code for 9.0 alone.
const HOPPER: [&str; 3] = ["matmul_hopper", "attention_hopper", "attention_hopper_backward"];

/// Bytes that a kernel of products may spill outside of its main loop, stores and loads together.
const MOST_SPILLED: u32 = 64;

/// Shared memory that is asked for at the launch, as the headers of the kernels say it.
fn shared_at_launch(kernel: &str) -> u32 {
    if kernel.ends_with("_f32") {
        return if kernel.starts_with("matmul_") && !kernel.contains("add_slices") { 16384 } else { 0 };
    }
    if kernel.starts_with("matmul_hopper") {
        return match kernel {
            _ if kernel.contains("_n256_") => 229_440,
            _ if kernel.contains("_n192_") => 196_672,
            _ => 229_472,
        };
    }
    if let Some(pass) = kernel.strip_prefix("attention_hopper_") {
        let rows = pass.split_once("_n").and_then(|(_, rest)| rest.split('_').next()?.parse::<u32>().ok());
        let rows = rows.expect("a number of keys or queries");
        return match pass {
            _ if pass.starts_with("forward_") => 2 * (32_768 + 256 * rows) + 32,
            _ if pass.starts_with("backward_q_") => 65_536 + 512 * rows + 96,
            _ => 65_536 + (512 + 16) * rows + 96,
        };
    }
    if kernel.starts_with("matmul_") {
        return if kernel.contains("_few_rows_") { 24576 } else { 49152 };
    }
    if !kernel.starts_with("attention_") {
        return 0;
    }
    let (width, step) = match kernel {
        _ if kernel.contains("_narrow_") => (32, 64),
        _ if kernel.contains("_wide_") => (128, 32),
        _ => (64, 64),
    };
    let kept = if kernel.contains("_forward_") { 1 } else { 2 };
    2 * width * (128 * kept + 4 * step) + if kept == 2 { 16 * step } else { 0 }
}

/// What a multiprocessor has.
struct Multiprocessor {
    capability: &'static str,
    shared_bytes: u32,
    threads: u32,
    blocks: u32,
}

/// CUDA C++ Programming Guide 13.0, "Technical Specifications per Compute Capability". 8.6 and 8.9 run the code for 8.0;
/// 12.0 runs what its driver makes of the PTX, for which the registers of 8.0 stand here.
const MULTIPROCESSORS: [Multiprocessor; 5] = [
    Multiprocessor { capability: "8.0", shared_bytes: 164 << 10, threads: 2048, blocks: 32 },
    Multiprocessor { capability: "8.6", shared_bytes: 100 << 10, threads: 1536, blocks: 16 },
    Multiprocessor { capability: "8.9", shared_bytes: 100 << 10, threads: 1536, blocks: 24 },
    Multiprocessor { capability: "9.0", shared_bytes: 228 << 10, threads: 2048, blocks: 32 },
    Multiprocessor { capability: "12.0", shared_bytes: 100 << 10, threads: 1536, blocks: 24 },
];

impl Multiprocessor {
    /// Blocks that fit: registers are given to warps by 256, and each block takes 1 KiB of shared memory more.
    fn fit(&self, threads: u32, registers: u32, shared_bytes: u32) -> u32 {
        let warps = threads.div_ceil(32).max(1);
        let by_registers = 65536 / (registers.max(1).next_multiple_of(8) * 32 * warps);
        let by_shared = self.shared_bytes / (shared_bytes + 1024).next_multiple_of(128);
        by_registers.min(by_shared).min(self.threads / (warps * 32)).min(self.blocks)
    }
}

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

/// What ptxas says of code that it could not make as it was written: products of warpgroups one after the other, registers that
/// are not handed over, fences that it had to add. These are remarks, not warnings.
fn losses(report: &str) -> Vec<String> {
    report.lines().filter(|line| line.contains("(C75")).map(str::to_string).collect()
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

/// A kernel of both targets: what ptxas says, and what its code says if that could be read.
#[derive(Default)]
struct Compiled {
    resources: [Resources; 2],
    code: [Option<MachineCode>; 2],
}

impl Compiled {
    /// What must hold of the code for one target.
    fn failures(&self, name: &str, op: &str, i: usize) -> Vec<String> {
        let Resources { stack_bytes, spilled_bytes, .. } = self.resources[i];
        let target = TARGETS[i];
        let has_products = ON_TENSOR_CORES.contains(&op) && !name.ends_with("_f32");
        let mut failures = Vec::new();
        // Where the code could not be read, kernels of products may spill, the others still not.
        let in_loop = match &self.code[i] {
            Some(code) => code.main_loop.map(|main| main.spills),
            None => has_products.then_some(0),
        };
        if spilled_bytes.max(stack_bytes) > if in_loop == Some(0) { MOST_SPILLED } else { 0 } {
            failures.push(format!(
                "{name} sm_{target}: {stack_bytes} bytes of stack, {spilled_bytes} spilled, in the main loop {in_loop:?}"
            ));
        }
        if let Some(code) = self.code[i].as_ref().filter(|code| code.tensor_cores != has_products) {
            let verb = if code.tensor_cores { "uses" } else { "does not use" };
            failures.push(format!("{name} sm_{target} {verb} tensor cores"));
        }
        if let Some(code) = self.code[i].as_ref().filter(|code| code.warpgroups != HOPPER.contains(&op)) {
            let verb = if code.warpgroups { "uses" } else { "does not use" };
            failures.push(format!("{name} sm_{target} {verb} products of warpgroups"));
        }
        failures
    }

    /// The row of the table.
    fn row(&self, name: &str) -> Option<String> {
        let [r80, r90] = self.resources;
        if HOPPER.iter().any(|op| name.starts_with(op)) {
            let code = self.code[1].as_ref()?;
            let shared = r90.smem_bytes + shared_at_launch(name);
            let hopper = MULTIPROCESSORS.iter().find(|m| m.capability == "9.0")?;
            let blocks = hopper.fit(code.threads, r90.registers, shared);
            let widths: Vec<String> = code.widths.iter().map(usize::to_string).collect();
            let main = code.main_loop?;
            return Some(format!(
                "| `{name}` | {} | - | {} | {shared} | - - - {blocks} - | {} | - | {} of HGMMA | {} |",
                code.threads,
                r90.registers,
                widths.join(" "),
                main.per(1),
                main.bytes_per_kflop()
            ));
        }
        let [Some(old), Some(new)] = &self.code else { return None };
        let shared = r80.smem_bytes.max(r90.smem_bytes) + shared_at_launch(name);
        let fit = |m: &Multiprocessor| {
            let registers = if m.capability == "9.0" { r90.registers } else { r80.registers };
            m.fit(old.threads, registers, shared).to_string()
        };
        let blocks: Vec<String> = MULTIPROCESSORS.iter().map(fit).collect();
        let widths: Vec<String> = new.widths.iter().map(usize::to_string).collect();
        let main = match (old.main_loop, new.main_loop) {
            (Some(old), Some(new)) => {
                format!("{} | {} | {}", old.per(32), new.per(32), new.bytes_per_kflop())
            }
            _ => " | | ".into(),
        };
        let (blocks, widths) = (blocks.join(" "), widths.join(" "));
        let Resources { registers: new, .. } = r90;
        let (old, threads) = (r80.registers, old.threads);
        Some(format!("| `{name}` | {threads} | {old} | {new} | {shared} | {blocks} | {widths} | {main} |"))
    }
}

const HEAD: &str = "# What the compiled kernels take

What ptxas and cuobjdump report for each kernel. No kernel spills but for a few bytes outside of the main loop of attention.
Products of 16-bit matrices (attention, matmul, but for their f32 forms) run on tensor cores. Written by
`L2P_WRITE_REPORT=1 cargo test --release --test kernels`, which also compares; not measured on a GPU.

- *threads*: the largest block. *shared memory*: bytes of a block, with what is asked for at the launch.
- *blocks*: how many fit on a multiprocessor of 8.0, 8.6, 8.9, 9.0 and 12.0 by registers, shared memory and threads. 8.6 and 8.9 run
  the code for 8.0; for 12.0 the driver compiles, and the registers of 8.0 stand for its own.
- *global*: bytes that loads and stores of global memory move per thread, on sm_90a. Narrow ones beside 16 are for unaligned rows.
- *main loop*: instructions per 32 matrix instructions (`HMMA`, 4,096 operations each), copies and branches
  counted, in the loop for aligned operands; and bytes that `LDSM` reads from shared memory per 1,000 operations.
- `matmul_hopper`, `attention_hopper` and `attention_hopper_backward` are compiled for 9.0 alone. Their computing warps take instructions per one `HGMMA`
  (64 x N x 16, by four warps), which reads what is not in registers from shared memory itself; other warps copy. Of their
  registers, 168 at the start, computing warps take 232 and the others keep 40. The main loop of `attention_hopper` and
  of `attention_hopper_backward_q` is a tile of 64 queries with all keys: softmax and output are counted. That of
  `attention_hopper_backward_kv` is a tile of 64 keys with 64 queries.
";

#[test]
fn no_spills_in_main_loops_and_tensor_cores_where_they_are_meant() {
    let Some(nvcc) = option_env!("L2P_NVCC_USED").map(Path::new).filter(|path| path.is_file()) else {
        return eprintln!("skipped: this was built without nvcc");
    };
    let sources = emulation::files(&emulation::root().join("kernels"), "cu").expect("kernels");
    let (mut failures, mut kernels) = (Vec::new(), BTreeMap::<String, Compiled>::new());
    let jobs = sources.iter().flat_map(|source| (0..TARGETS.len()).map(move |i| (source, i)));
    let jobs: Vec<(&PathBuf, usize)> = jobs.collect();
    let compiled = emulation::in_parallel(&jobs, |&(source, i)| {
        let (report, code) = compile(nvcc, source, TARGETS[i]);
        (parse(&report), losses(&report), machine_code::read(nvcc, &code).unwrap_or_default())
    });
    for (&(source, i), (found, losses, mut code)) in jobs.iter().zip(compiled) {
        failures.extend(losses);
        let op = source.file_stem().and_then(|s| s.to_str()).expect("a name");
        if found.is_empty() != (HOPPER.contains(&op) && TARGETS[i] == "80") {
            let few = if found.is_empty() { "no" } else { "there are" };
            failures.push(format!("{op}: {few} kernels for sm_{}", TARGETS[i]));
        }
        for (name, resources) in found {
            let kernel = kernels.entry(name.clone()).or_default();
            (kernel.resources[i], kernel.code[i]) = (resources, code.remove(&name));
            failures.extend(kernel.failures(&name, op, i));
        }
    }
    let version = version(nvcc);
    let rows = kernels.iter().map(|(name, kernel)| (name.clone(), kernel.row(name)));
    let rows: BTreeMap<String, Option<String>> = rows.collect();
    let is_read = rows.values().all(Option::is_some);
    let rows: BTreeMap<String, String> =
        rows.into_iter().map(|(name, row)| (name, row.unwrap_or_default())).collect();
    let mut table = format!(
        "{HEAD}\nCompiler: {version}\n\n\
         | kernel | threads | registers sm_80 | sm_90a | shared memory | blocks | global | \
         main loop: per 32, sm_80 | sm_90a | bytes per kFLOP |\n|---|---:|---:|---:|---:|---|---|---:|---:|---:|\n"
    );
    rows.values().for_each(|row| writeln!(table, "{row}").expect("a string"));
    let path = emulation::root().join("docs/kernel_resources.md");
    if is_read && std::env::var_os("L2P_WRITE_REPORT").is_some_and(|v| v == "1") {
        fs::write(&path, &table).expect("the report");
    }
    let kept = kept(&fs::read_to_string(&path).unwrap_or_default());
    // Names are compared always.
    let by = if is_read { version.as_str() } else { "code that cannot be read" };
    if kept.0 != by {
        let (n, hint) =
            (rows.len(), if is_read { "" } else { " (cuobjdump and nvdisasm are not beside nvcc)" });
        eprintln!("skipped: {n} comparisons of numbers: {} wrote the table, this is {by}{hint}", kept.0);
    }
    for difference in differences(&kept, by, &rows) {
        failures.push(format!("docs/kernel_resources.md: {difference}; L2P_WRITE_REPORT=1 writes it again"));
    }
    let loops =
        kernels.values().filter(|k| k.code[1].as_ref().is_some_and(|c| c.main_loop.is_some())).count();
    eprintln!("kernels: {}, {loops} with a main loop of products", rows.len());
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(rows.len() > 20 && (loops > 20 || !is_read), "{} kernels, {loops} loops", rows.len());
}

#[test]
fn blocks_per_multiprocessor() {
    let [old, small, .., hopper, _] = &MULTIPROCESSORS;
    // 128 threads of 244 registers in granules of 256 per warp: two blocks take all of 65,536.
    assert_eq!(hopper.fit(128, 244, 49152), 2);
    // 48 KiB and one more each: two blocks in 100 KiB.
    assert_eq!(small.fit(128, 100, 49152), 2);
    assert_eq!((old.fit(256, 32, 0), small.fit(256, 32, 0)), (8, 6));
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
fn losses_are_found() {
    let report = "ptxas info    : (C7508) Potential Performance Loss: 'setmaxnreg' ignored; unable to determine\n\
                  ptxas info    : Used 168 registers, used 16 barriers\n";
    assert_eq!(losses(report).len(), 1);
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
