//! Every kernel of `kernels/<op>.cu` has the arguments that `src/ops/<op>/cuda.rs` declares, and of `kernels/<op>_hopper*.cu` those
//! of `src/ops/<op>/hopper.rs`. The driver takes them by
//! position and size, and does not find a difference.

use super::emulation::{self, Compiler};
use std::collections::BTreeMap;
use std::path::Path;

/// Name and type of each argument.
type Parameters = Vec<(String, String)>;

/// What the host compiler's preprocessor makes of a kernel file: macros are gone.
fn expanded(compiler: &Compiler, source: &Path) -> String {
    let mut command = compiler.command();
    command.args(["-xc++", "-std=c++17", "-E", "-P", "-DL2P_EMU", "-Ikernels", "-Itests/emulation"]);
    let output = command.current_dir(emulation::root()).arg(source).output().expect("the compiler starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("kernels are UTF-8")
}

/// `const float* __restrict__ x` to `("x", "*f32")`.
fn parameter(text: &str) -> (String, String) {
    let spaced = text.replace('*', " * ");
    let words: Vec<&str> =
        spaced.split_whitespace().filter(|w| !matches!(*w, "const" | "__restrict__")).collect();
    let (name, words) = words.split_last().expect("an argument has a name");
    let (stars, words): (Vec<&str>, Vec<&str>) = words.iter().partition(|w| **w == "*");
    let kind = match words.join(" ").as_str() {
        "float" => "f32",
        "unsigned" | "unsigned int" | "uint32_t" => "u32",
        "uint64_t" | "size_t" => "u64",
        "unsigned char" | "uint8_t" => "u8",
        "CUtensorMap" => "map",
        other => other,
    }
    .to_string();
    ((*name).to_string(), format!("{}{kind}", "*".repeat(stars.len())))
}

/// The exported functions of a kernel file whose macros are gone.
fn exported(text: &str) -> BTreeMap<String, Parameters> {
    let mut found = BTreeMap::new();
    for declaration in text.split("extern \"C\"").skip(1) {
        let Some(head) = declaration.split(['{', ';']).next() else { continue };
        let Some((before, arguments)) = head.split_once('(') else { continue };
        let Some(name) = before.split_whitespace().next_back() else { continue };
        if text.contains(&format!("registered_{name}(")) {
            let arguments = arguments.rsplit_once(')').expect("a closed list").0;
            found.insert(name.to_string(), arguments.split(',').map(parameter).collect());
        }
    }
    found
}

/// The `kernel!` declarations of a binding.
fn declared(text: &str, op: &str) -> BTreeMap<String, Parameters> {
    let mut found = BTreeMap::new();
    for declaration in text.split("kernel!(").skip(1) {
        let (names, rest) = declaration.split_once('[').expect("a list");
        let [file, name] = [1, 3].map(|i| names.split('"').nth(i).expect("file and name"));
        if file != op {
            continue;
        }
        let list = rest.split_once(']').expect("a closed list").0;
        let pairs = list.split(',').filter(|p| !p.trim().is_empty()).map(|pair| {
            let (name, kind) = pair.split_once(':').expect("a name and a type");
            (name.trim().to_string(), kind.split_whitespace().collect())
        });
        found.insert(name.to_string(), pairs.collect());
    }
    found
}

fn form_of(symbol: &str) -> (&str, &str) {
    symbol
        .rsplit_once('_')
        .filter(|(_, form)| matches!(*form, "f32" | "bf16" | "f16"))
        .unwrap_or((symbol, ""))
}

/// What does not fit between a kernel file and its binding. A kernel that is compiled in several variants
/// has the name of its declaration at the front: `matmul_forward_few_rows` of `matmul_forward`.
fn misfits(
    op: &str,
    exported: &BTreeMap<String, Parameters>,
    declared: &BTreeMap<String, Parameters>,
) -> Vec<String> {
    let mut misfits = Vec::new();
    let of = |name: &str| {
        let fits =
            |base: &&String| name == *base || name.strip_prefix(*base).is_some_and(|r| r.starts_with('_'));
        declared.keys().filter(fits).max_by_key(|base| base.len())
    };
    for (symbol, parameters) in exported {
        let (name, form) = form_of(symbol);
        if form.is_empty() {
            misfits.push(format!("{symbol} of {op}.cu does not end in a form"));
        }
        let Some(base) = of(name) else {
            misfits.push(format!("{symbol} of {op}.cu is not declared in src/ops/{op}/cuda.rs"));
            continue;
        };
        let wanted: Parameters = declared[base]
            .iter()
            .map(|(name, kind)| (name.clone(), kind.replace("*T", &format!("*{form}"))))
            .collect();
        if wanted != *parameters {
            misfits.push(format!(
                "{symbol}\n    in the kernel:  {parameters:?}\n    in the binding: {wanted:?}"
            ));
        }
    }
    for name in declared.keys() {
        if !exported.keys().any(|symbol| of(form_of(symbol).0) == Some(name)) {
            misfits.push(format!("{name} is declared in src/ops/{op}/cuda.rs but not in {op}.cu"));
        }
    }
    misfits
}

#[test]
fn arguments_are_those_of_the_bindings() {
    let compiler = match emulation::compiler() {
        Ok(compiler) => compiler,
        Err(why) => return eprintln!("skipped: {why}"),
    };
    let (mut all, mut kernels) = (Vec::new(), 0);
    for source in emulation::files(&emulation::root().join("kernels"), "cu").expect("kernels") {
        let op = source.file_stem().and_then(|s| s.to_str()).expect("a name");
        let exported = exported(&expanded(&compiler, &source));
        let binding = match op.split_once("_hopper") {
            Some((op, _)) => format!("src/ops/{op}/hopper.rs"),
            None => format!("src/ops/{op}/cuda.rs"),
        };
        let Ok(text) = std::fs::read_to_string(emulation::root().join(&binding)) else {
            all.push(format!("{op}.cu has no {binding}"));
            continue;
        };
        kernels += exported.len();
        all.extend(misfits(op, &exported, &declared(&text, op)));
    }
    assert!(kernels > 20, "{kernels} kernels");
    assert!(all.is_empty(), "{}", all.join("\n"));
}

#[test]
fn a_difference_is_found() {
    let kernels = |arguments: &str| {
        let text = format!(
            "extern \"C\" {{ void other(int x); }} extern \"C\" void op_pass_bf16({arguments}) {{ }} \
             static const emu::Register registered_op_pass_bf16({{}});"
        );
        exported(&text)
    };
    let binding =
        declared("const A: Kernel = kernel!(\"op\", \"op_pass\", [\n y: *T, x: *f32, n: u32,\n]);", "op");
    let good = "bf16* __restrict__ y, const float *x, unsigned n";
    assert_eq!(misfits("op", &kernels(good), &binding), Vec::<String>::new());
    for wrong in [
        "bf16* __restrict__ y, const float *x, uint64_t n",
        "const float *x, bf16* __restrict__ y, unsigned n",
        "bf16* y, const bf16* x, unsigned n",
        "float* y, const float* x, unsigned n",
        "bf16* y, const float* x",
        "bf16* y, const float* x, unsigned rows",
    ] {
        assert_eq!(misfits("op", &kernels(wrong), &binding).len(), 1, "{wrong}");
    }
    assert_eq!(misfits("op", &BTreeMap::new(), &binding).len(), 1);
    assert_eq!(misfits("op", &kernels(good), &BTreeMap::new()).len(), 1);
}
