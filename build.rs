//! Compiles `kernels/*.cu` with nvcc, if there is one, and writes `kernels.rs`: every kernel file by name
//! with its image. Without nvcc the images are missing and the program computes on the CPU. It never asks
//! which GPU this machine has.
//!
//! - `L2P_NVCC`: the compiler; `none`: do without
//! - `L2P_REQUIRE_KERNELS=1`: no nvcc is an error, and so is a warning of nvcc

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{env, fs};

/// The oldest nvcc that the kernels are compiled with.
const OLDEST: (u32, u32) = (12, 0);

/// Code for 8.0 that newer devices translate, and finished code for what is at hand most often.
const TARGETS: &[&str] =
    &["-gencode=arch=compute_80,code=[compute_80,sm_80]", "-gencode=arch=compute_90a,code=sm_90a"];
const TARGET_NAMES: &str = "sm_80, sm_90a, and PTX for 8.0 and newer";

const FLAGS: &[&str] = &["-fatbin", "-std=c++17", "-O3", "-lineinfo", "-I", "kernels"];
/// Newer compilers have new warnings, which must not fail the build of a user.
const STRICT_FLAGS: &[&str] = &["-Werror", "all-warnings"];

fn required() -> bool {
    env::var("L2P_REQUIRE_KERNELS").is_ok_and(|v| v == "1")
}

fn main() {
    for variable in [
        "L2P_NVCC",
        "L2P_REQUIRE_KERNELS",
        "NVCC",
        "CUDA_HOME",
        "CUDA_PATH",
        "CUDA_ROOT",
        "PATH",
        "VIRTUAL_ENV",
    ] {
        println!("cargo:rerun-if-env-changed={variable}");
    }
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=kernels");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let sources = sources();
    let mut images: Vec<Option<PathBuf>> = vec![None; sources.len()];
    let mut toolkit = None;
    match usable_nvcc() {
        Ok((nvcc, (major, minor))) => {
            println!("cargo:rerun-if-changed={}", nvcc.display());
            println!("cargo:rustc-env=L2P_NVCC_USED={}", nvcc.display()); // for tests/kernels/main.rs
            for (image, source) in images.iter_mut().zip(compile(&nvcc, &sources, &out)) {
                *image = Some(source);
            }
            toolkit = Some(format!("{major}.{minor}"));
        }
        Err(why) if required() => {
            panic!("L2P_REQUIRE_KERNELS=1, but {why}");
        }
        Err(why) => {
            println!("cargo:warning={why}: the program will hold no CUDA kernels and compute on the CPU");
        }
    }
    let mut table = format!(
        "pub const TOOLKIT: Option<&str> = {toolkit:?};\npub const TARGETS: &str = {TARGET_NAMES:?};\n\
         pub static IMAGES: &[(&str, Option<&[u8]>)] = &[\n"
    );
    for (source, image) in sources.iter().zip(images) {
        let bytes = image.map(|path| format!("aligned!({:?})", path.display().to_string()));
        let value = bytes.map_or("None".to_string(), |bytes| format!("Some({bytes})"));
        table += &format!("    ({:?}, {value}),\n", stem(source));
    }
    table += "];\n";
    fs::write(out.join("kernels.rs"), table).expect("OUT_DIR can be written");
}

fn stem(path: &Path) -> &str {
    path.file_stem().and_then(|s| s.to_str()).expect("kernel files have plain names")
}

fn sources() -> Vec<PathBuf> {
    let entries = fs::read_dir("kernels").expect("the folder kernels");
    let paths = entries.map(|entry| entry.expect("an entry of kernels").path());
    let mut sources: Vec<PathBuf> = paths.filter(|p| p.extension().is_some_and(|e| e == "cu")).collect();
    sources.sort();
    sources
}

/// One image per source, as many compilers at a time as cargo allows. Panics with nvcc's own words.
fn compile(nvcc: &Path, sources: &[PathBuf], out: &Path) -> Vec<PathBuf> {
    let jobs: usize = env::var("NUM_JOBS").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    let (next, failures) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let image = |source: &Path| out.join(format!("{}.fatbin", stem(source)));
    std::thread::scope(|scope| {
        for _ in 0..jobs.min(sources.len()) {
            scope.spawn(|| {
                while let Some(source) = sources.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let mut command = Command::new(nvcc);
                    command
                        .args(FLAGS)
                        .args(if required() { STRICT_FLAGS } else { &[] })
                        .args(TARGETS)
                        .arg("-o")
                        .arg(image(source))
                        .arg(source);
                    let output = command.output().expect("nvcc starts: its version was just read");
                    if !output.status.success() {
                        let said = String::from_utf8_lossy(&output.stderr).into_owned();
                        failures.lock().expect("no panic").push(format!("{command:?}\n{said}"));
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().expect("no panic");
    assert!(failures.is_empty(), "nvcc refuses a kernel:\n{}", failures.join("\n"));
    sources.iter().map(|source| image(source)).collect()
}

/// nvcc and its version, or why there is none.
fn usable_nvcc() -> Result<(PathBuf, (u32, u32)), String> {
    if env::var("L2P_NVCC").is_ok_and(|v| v == "none") {
        return Err("L2P_NVCC=none".into());
    }
    // A compiler that was named is used or complained about, never passed over.
    let nvcc = match named_nvcc() {
        Some((_, path)) if path.is_file() => path,
        Some((variable, path)) => return Err(format!("{variable}={} is no file", path.display())),
        None => {
            candidates().into_iter().find(|path| path.is_file()).ok_or("nvcc was not found (set L2P_NVCC)")?
        }
    };
    let version = version(&nvcc).ok_or_else(|| format!("{} does not tell its version", nvcc.display()))?;
    if version < OLDEST {
        let ((major, minor), (least, _)) = (version, OLDEST);
        return Err(format!("{} is of CUDA {major}.{minor}, at least {least} is needed", nvcc.display()));
    }
    Ok((nvcc, version))
}

fn named_nvcc() -> Option<(&'static str, PathBuf)> {
    ["L2P_NVCC", "NVCC"].into_iter().find_map(|v| env::var_os(v).map(|path| (v, path.into())))
}

/// Where nvcc may be: the folders of the usual variables, `PATH`, `/usr/local`, Python wheels.
fn candidates() -> Vec<PathBuf> {
    let mut all = Vec::new();
    for variable in ["CUDA_HOME", "CUDA_PATH", "CUDA_ROOT"] {
        all.extend(env::var_os(variable).map(|folder| Path::new(&folder).join("bin/nvcc")));
    }
    let path: Vec<PathBuf> = env::var_os("PATH").iter().flat_map(env::split_paths).collect();
    all.extend(path.iter().map(|folder| folder.join("nvcc")));
    all.push("/usr/local/cuda/bin/nvcc".into());
    let mut versions = folders_in(Path::new("/usr/local"), "cuda-");
    versions.sort();
    all.extend(versions.iter().rev().map(|folder| folder.join("bin/nvcc")));

    let mut prefixes: Vec<PathBuf> = env::var_os("VIRTUAL_ENV").into_iter().map(PathBuf::from).collect();
    prefixes.extend([".venv", "venv", ".cuda"].map(PathBuf::from));
    let with_python = path.iter().filter(|folder| folder.join("python3").exists());
    prefixes.extend(with_python.filter_map(|folder| folder.parent().map(Path::to_path_buf)));
    for library in prefixes.iter().flat_map(|p| [p.join("lib"), p.join("local/lib")]) {
        for python in folders_in(&library, "python3") {
            for packages in ["site-packages", "dist-packages"] {
                all.push(python.join(packages).join("nvidia/cu13/bin/nvcc"));
            }
        }
    }
    all
}

fn folders_in(folder: &Path, prefix: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter(|e| e.file_name().to_string_lossy().starts_with(prefix)).map(|e| e.path()).collect()
}

/// From "Cuda compilation tools, release 13.0, V13.0.88".
fn version(nvcc: &Path) -> Option<(u32, u32)> {
    let output = Command::new(nvcc).arg("--version").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (major, minor) = text.split("release ").nth(1)?.split(',').next()?.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}
