//! What the machine code of a compiled kernel says, as cuobjdump prints it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

/// Bytes that `ldmatrix.x4` brings to a warp, and operations of its `mma.m16n8k16`.
const LDSM_BYTES: usize = 512;
const MMA_FLOP: usize = 2 * 16 * 8 * 16;

/// Operations of a matrix instruction and bytes of shared memory that it reads by itself: `HMMA.16816.F32` none, what `LDSM`
/// loads; `HGMMA.64x192x16.F32.BF16 R24, gdesc[UR16], R24` both operands, (64 + 192) x 16 numbers of 16 bits, once for four warps;
/// the second one alone if the first is in registers: `R24, R56, gdesc[UR16], R24`.
fn product(text: &str) -> Option<(usize, usize)> {
    let name = word(text);
    if name.starts_with("HMMA.") {
        return Some((MMA_FLOP, 0));
    }
    let extents = name.strip_prefix("HGMMA.")?.split('.').next()?;
    let mut extents = extents.split('x').map(|n| n.parse::<usize>().ok());
    let (m, n, k) = (extents.next()??, extents.next()??, extents.next()??);
    let first_in_registers = !text.split(',').nth(1)?.contains("gdesc");
    let rows = if first_in_registers { n } else { m + n };
    Some((2 * m * n * k, rows * k * 2))
}

/// The loop in which a kernel spends its time: the one with the fewest instructions per matrix instruction, which leaves
/// the loop for unaligned operands aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MainLoop {
    pub instructions: usize,
    pub products: usize,
    /// Their operations, and the bytes of shared memory that their operands are read from.
    pub flop: usize,
    pub shared_bytes: usize,
    /// Spilled registers that are stored or loaded.
    pub spills: usize,
}

impl MainLoop {
    /// Instructions per `products` matrix instructions, rounded up.
    pub fn per(&self, products: usize) -> usize {
        (self.instructions * products).div_ceil(self.products)
    }

    /// Bytes of operands read from shared memory per 1,000 operations.
    pub fn bytes_per_kflop(&self) -> usize {
        (1000 * self.shared_bytes).div_ceil(self.flop)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MachineCode {
    pub tensor_cores: bool,
    /// Whether they are used by warpgroups, `HGMMA`.
    pub warpgroups: bool,
    pub main_loop: Option<MainLoop>,
    /// Bytes that accesses of global memory move per thread.
    pub widths: BTreeSet<usize>,
    pub threads: u32,
}

/// Address and text of an instruction: `        /*0a10*/    @P0 BRA 0x9c0 ;   /* 0x... */`.
fn instruction(line: &str) -> Option<(u64, &str)> {
    let (address, rest) = line.trim_start().strip_prefix("/*")?.split_once("*/")?;
    let (text, _) = rest.split_once(';')?;
    Some((u64::from_str_radix(address, 16).ok()?, text.trim()))
}

/// `LDG.E.128` of `@!P0 LDG.E.128 R4, [R2.64]`.
fn word(text: &str) -> &str {
    text.split(' ').find(|word| !word.is_empty() && !word.starts_with('@')).unwrap_or("")
}

/// Where a branch leads to.
fn target(text: &str) -> Option<u64> {
    let name = word(text);
    if name != "BRA" && !name.starts_with("BRA.") {
        return None;
    }
    u64::from_str_radix(text.rsplit_once("0x")?.1.trim_end_matches([')', '`']), 16).ok()
}

fn width(name: &str) -> Option<usize> {
    let mut parts = name.split('.');
    if !["LDG", "STG", "LDGSTS"].contains(&parts.next()?) {
        return None;
    }
    let bytes = |part| match part {
        "U8" | "S8" => Some(1),
        "U16" | "S16" => Some(2),
        "64" => Some(8),
        "128" => Some(16),
        _ => None,
    };
    Some(parts.find_map(bytes).unwrap_or(4))
}

fn of_function(text: &str) -> MachineCode {
    let code: Vec<(u64, &str)> = text.lines().filter_map(instruction).collect();
    let mut main_loop: Option<MainLoop> = None;
    for (end, &(address, branch)) in code.iter().enumerate() {
        let Some(to) = target(branch).filter(|to| *to < address) else { continue };
        let Ok(start) = code.binary_search_by_key(&to, |(address, _)| *address) else { continue };
        let body = &code[start..=end];
        let count = |words: &[&str]| {
            body.iter()
                .filter(|(_, text)| words.contains(&word(text).split('.').next().unwrap_or("")))
                .count()
        };
        let all: Vec<(usize, usize)> = body.iter().filter_map(|(_, text)| product(text)).collect();
        if all.is_empty() {
            continue;
        }
        let (products, flop) = (all.len(), all.iter().map(|(flop, _)| flop).sum());
        let shared_bytes = count(&["LDSM"]) * LDSM_BYTES + all.iter().map(|(_, bytes)| bytes).sum::<usize>();
        let (instructions, spills) = (body.len(), count(&["LDL", "STL"]));
        let found = MainLoop { instructions, products, flop, shared_bytes, spills };
        if main_loop.is_none_or(|old| instructions * old.products < old.instructions * products) {
            main_loop = Some(found);
        }
    }
    MachineCode {
        tensor_cores: code.iter().any(|(_, text)| product(text).is_some()),
        warpgroups: code.iter().any(|(_, text)| word(text).starts_with("HGMMA")),
        main_loop,
        widths: code.iter().filter_map(|(_, text)| width(word(text))).collect(),
        threads: 0,
    }
}

/// The parts of cuobjdump's output that follow each `mark`, by the name that stands there.
fn parts<'a>(text: &'a str, mark: &str) -> Vec<(&'a str, &'a str)> {
    let parts = text.split(mark).skip(1);
    parts.filter_map(|part| part.split_once('\n')).map(|(name, rest)| (name.trim(), rest)).collect()
}

/// The largest block of each kernel, as `__launch_bounds__` says.
fn threads(elf: &str) -> BTreeMap<&str, u32> {
    let mut found = BTreeMap::new();
    for (name, rest) in parts(elf, "\n.nv.info.") {
        let Some((_, after)) = rest.split_once("EIATTR_MAX_THREADS") else { continue };
        let value = after.split_once("Value:").and_then(|(_, v)| v.trim_start().split(' ').next());
        let value = value.and_then(|v| u32::from_str_radix(v.strip_prefix("0x")?, 16).ok());
        found.extend(value.map(|value| (name, value)));
    }
    found
}

/// The kernels of a compiled file; `None` without cuobjdump and nvdisasm beside nvcc.
pub fn read(nvcc: &Path, code: &Path) -> Option<BTreeMap<String, MachineCode>> {
    let folder = nvcc.parent()?;
    let path = std::env::join_paths([folder]).ok()?;
    let say = |what: &str| {
        let mut command = Command::new(folder.join("cuobjdump"));
        let output = command.arg(what).arg(code).env("PATH", &path).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (sass, elf) = (say("-sass")?, say("-elf")?);
    let threads = threads(&elf);
    let kernels = parts(&sass, "Function : ").into_iter().map(|(name, text)| {
        let threads = threads.get(name).copied().unwrap_or(0);
        (name.to_string(), MachineCode { threads, ..of_function(text) })
    });
    Some(kernels.collect())
}

#[test]
fn loops_and_accesses_are_found() {
    let text = "
        /*0000*/                   LDG.E.U16 R4, [R2.64] ;     /* 0x0 */
                                                               /* 0x1 */
        /*0010*/                   HMMA.16816.F32.BF16 R8, R4, R6, R8 ;  /* 0x0 */
        /*0020*/                   LDSM.16.M88.4 R4, [R1] ;    /* 0x0 */
        /*0030*/              @!P0 LDGSTS.E.BYPASS.128 [R1], [R2.64] ;  /* 0x0 */
        /*0040*/                   HMMA.16816.F32.BF16 R8, R4, R6, R8 ;  /* 0x0 */
        /*0050*/               @P0 BRA 0x20 ;                  /* 0x0 */
        /*0060*/                   STL [R1], R4 ;              /* 0x0 */
        /*0070*/               @P1 BRA `(0x10) ;               /* 0x0 */
        /*0080*/                   STG.E [R2.64], R4 ;         /* 0x0 */
        /*0090*/                   BRA 0xb0 ;                  /* 0x0 */
";
    let code = of_function(text);
    assert!(code.tensor_cores);
    assert_eq!(code.widths, BTreeSet::from([2, 4, 16]));
    // The outer loop has 7 instructions for two products, the inner one 4 for one.
    let main = code.main_loop.expect("a loop");
    assert_eq!(main, MainLoop { instructions: 7, products: 2, flop: 8192, shared_bytes: 512, spills: 1 });
    assert_eq!((main.per(32), main.bytes_per_kflop(), code.warpgroups), (112, 63, false));
    let text = "/*0000*/ HGMMA.64x192x16.F32.BF16 R24, gdesc[UR16].tnspB, R24, UP0 ; /* 0x0 */
                /*0010*/ @P1 BRA 0x0 ; /* 0x0 */";
    let code = of_function(text);
    let main = code.main_loop.expect("a loop");
    assert_eq!((main.flop, main.shared_bytes), (2 * 64 * 192 * 16, 256 * 32));
    assert_eq!((main.per(1), main.bytes_per_kflop(), code.warpgroups), (2, 21, true));
    let in_registers = "HGMMA.64x64x16.F32 R24, R56, gdesc[UR44].tnspB, RZ, !UPT";
    assert_eq!(product(in_registers), Some((2 * 64 * 64 * 16, 64 * 32)));
    assert_eq!(of_function("/*0000*/ EXIT ;").main_loop, None);
}

#[test]
fn launch_bounds_are_found() {
    let elf = "\n.nv.info.a_f32\n\tAttribute:\tEIATTR_MAX_THREADS\n\tFormat:\tEIFMT_SVAL\n\tValue:\t0x100 0x1 0x1 \n\
               \n.nv.info.b_f32\n\tAttribute:\tEIATTR_X\n";
    assert_eq!(threads(elf), BTreeMap::from([("a_f32", 256)]));
}
