//! The emulated GPU of the tests: `libcuda.so.1` made of `tests/emulation/*.cpp` and `kernels/*.cu` by the
//! host compiler (`CXX`, g++ or clang++), and loaded before anything asks for a driver.

// Each test program uses a part of this.
#![allow(dead_code)]

use sha2::{Digest, Sha256};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};

/// The main file of the replay of launches.
const REPLAY: &str = "race.cpp";

const COMMON_FLAGS: &[&str] =
    &["-std=c++17", "-O1", "-g1", "-fPIC", "-fvisibility=hidden", "-DL2P_EMU", "-pthread"];

/// A product and a sum stay two operations; vectors at wrong addresses, indices outside of local arrays
/// and stacks that overflow end in an error.
const KERNEL_FLAGS: &[&str] = &[
    "-xc++",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-Wno-unknown-pragmas",
    "-fstack-clash-protection",
    "-fsanitize=alignment,bounds",
    "-fno-sanitize-recover=all",
];

/// Jobs at a time.
const JOBS: usize = 2;

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Where everything is built: `target/emulation`.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("target").join("emulation")
}

/// The emulated driver with the kernels of this tree.
///
/// # Errors
/// A sentence when there is no host compiler; the compiler's own words when a kernel does not compile.
pub fn library() -> Result<PathBuf, String> {
    match std::env::var_os("L2P_EMU_LIBRARY") {
        Some(path) => Ok(path.into()),
        None => library_of(&root().join("kernels")),
    }
}

/// The same with the kernels of another folder.
pub fn library_of(kernels: &Path) -> Result<PathBuf, String> {
    let mut jobs = Vec::new();
    for source in files(&root().join("tests/emulation"), "cpp")? {
        if source.file_name() != Some(OsStr::new(REPLAY)) {
            jobs.push((source, COMMON_FLAGS.to_vec()));
        }
    }
    for source in files(kernels, "cu")? {
        jobs.push((source, [COMMON_FLAGS, KERNEL_FLAGS].concat()));
    }
    build(kernels, &jobs, &["-shared", "-Wl,-soname,libcuda.so.1"], "libcuda.so.1")
}

/// The program that replays recorded launches of the kernels of a folder under ThreadSanitizer. Only the
/// kernels are seen by it; the emulation tells it what barriers order.
pub fn replay_of(kernels: &Path) -> Result<PathBuf, String> {
    let common = [COMMON_FLAGS, &["-DEMU_TSAN", "-g"]].concat();
    let of = |name: &str| (root().join("tests/emulation").join(name), common.clone());
    let mut jobs = [REPLAY, "emu.cpp", "memory.cpp", "record.cpp"].map(of).to_vec();
    for source in files(kernels, "cu")? {
        let kernel = ["-xc++", "-ffp-contract=off", "-Wno-unknown-pragmas", "-fsanitize=thread"];
        jobs.push((source, [&common[..], &kernel].concat()));
    }
    build(kernels, &jobs, &["-fsanitize=thread"], "race")
}

/// Compiles the sources that have changed and links them to `name`, in a folder named by what is in it.
fn build(
    kernels: &Path,
    jobs: &[(PathBuf, Vec<&str>)],
    link: &[&str],
    name: &str,
) -> Result<PathBuf, String> {
    let compiler = &compiler()?;
    let objects = folder().join("objects");
    fs::create_dir_all(&objects).map_err(|e| format!("{}: {e}", objects.display()))?;
    // Test programs run side by side; the second finds everything done.
    let lock = File::create(folder().join("lock")).map_err(|e| format!("{}: {e}", folder().display()))?;
    lock.lock().map_err(|e| format!("the lock of {}: {e}", folder().display()))?;

    let headers = hash_of_headers(kernels)?;
    let (next, failure) = (AtomicUsize::new(0), Mutex::new(None));
    let done: Vec<OnceLock<PathBuf>> = jobs.iter().map(|_| OnceLock::new()).collect();
    std::thread::scope(|scope| {
        for _ in 0..JOBS {
            scope.spawn(|| {
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    let Some((source, flags)) = jobs.get(i) else { break };
                    match compile(compiler, source, flags, kernels, &headers, &objects) {
                        Ok(object) => drop(done[i].set(object)),
                        Err(why) => *failure.lock().expect("no panic") = Some(why),
                    }
                }
            });
        }
    });
    if let Some(why) = failure.into_inner().expect("no panic") {
        return Err(why);
    }
    let objects: Vec<PathBuf> = done.into_iter().filter_map(OnceLock::into_inner).collect();
    let mut hash = Sha256::new();
    link.iter().for_each(|flag| hash.update(flag));
    objects.iter().for_each(|object| hash.update(object.as_os_str().as_encoded_bytes()));
    let built = folder().join(short(hash)).join(name);
    if !built.exists() {
        fs::create_dir_all(built.parent().expect("a folder")).map_err(|e| e.to_string())?;
        let mut command = compiler.command();
        command.args(&objects).args(link).args(["-pthread", "-ldl"]);
        produce(command, &built)?;
    }
    Ok(built)
}

fn compile(
    compiler: &Compiler,
    source: &Path,
    flags: &[&str],
    kernels: &Path,
    headers: &[u8],
    objects: &Path,
) -> Result<PathBuf, String> {
    let mut hash = Sha256::new();
    hash.update(&compiler.version);
    flags.iter().for_each(|flag| hash.update(flag));
    hash.update(headers);
    hash.update(read(source)?);
    let stem = source.file_stem().and_then(OsStr::to_str).expect("a name");
    let object = objects.join(format!("{stem}-{}.o", short(hash)));
    if !object.exists() {
        let mut command = compiler.command();
        let relative = |path: &Path| path.strip_prefix(root()).unwrap_or(path).to_path_buf();
        command.current_dir(root()).args(flags).arg("-I").arg(relative(kernels));
        command.args(["-Ikernels", "-Itests/emulation", "-c"]).arg(relative(source));
        produce(command, &object)?;
    }
    Ok(object)
}

/// Runs the compiler; the file appears whole or not at all.
fn produce(mut command: Command, to: &Path) -> Result<(), String> {
    let unfinished = to.with_extension(format!("{}.unfinished", std::process::id()));
    let output = command.arg("-o").arg(&unfinished).output();
    let output = output.map_err(|e| format!("{:?} does not start: {e}", command.get_program()))?;
    if !output.status.success() {
        return Err(format!("{command:?}:\n{}", String::from_utf8_lossy(&output.stderr)));
    }
    fs::rename(&unfinished, to).map_err(|e| format!("{}: {e}", to.display()))
}

pub struct Compiler {
    program: String,
    version: Vec<u8>,
}

impl Compiler {
    pub fn command(&self) -> Command {
        Command::new(&self.program)
    }
}

/// The host's C++ compiler.
pub fn compiler() -> Result<Compiler, String> {
    let named = std::env::var("CXX").ok();
    let candidates = match &named {
        Some(cxx) => vec![cxx.as_str()],
        None => vec!["g++", "clang++"],
    };
    for program in &candidates {
        if let Ok(output) = Command::new(program).arg("--version").output()
            && output.status.success()
        {
            return Ok(Compiler { program: (*program).into(), version: output.stdout });
        }
    }
    Err(format!("no host compiler for the emulated GPU: looked for {}", candidates.join(" and ")))
}

/// The files of a folder with an extension, sorted.
pub fn files(folder: &Path, extension: &str) -> Result<Vec<PathBuf>, String> {
    let entries = fs::read_dir(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let mut found: Vec<PathBuf> = paths.filter(|p| p.extension() == Some(OsStr::new(extension))).collect();
    found.sort();
    Ok(found)
}

fn hash_of_headers(kernels: &Path) -> Result<Vec<u8>, String> {
    let mut hash = Sha256::new();
    let headers = files(&root().join("tests/emulation"), "h")?;
    // Another folder of kernels may do with the headers of this one.
    let own = files(&kernels.join("include"), "cuh").unwrap_or_default();
    for header in headers.into_iter().chain(own).chain(files(&root().join("kernels/include"), "cuh")?) {
        hash.update(read(&header)?);
    }
    Ok(hash.finalize().to_vec())
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|e| format!("{}: {e}", path.display()))
}

fn short(hash: Sha256) -> String {
    hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

static LOADED: OnceLock<Result<Option<libloading::os::unix::Library>, String>> = OnceLock::new();

/// Makes the emulated driver the one that this process finds, unless a real GPU is asked for with
/// `L2P_REQUIRE_GPU=1`. Must come before anything else looks for a driver.
///
/// # Errors
/// As `library`; the caller counts the test as skipped only where `compiler` fails.
pub fn install() -> Result<(), String> {
    install_from(library)
}

/// The same with another library.
pub fn install_from(library: impl FnOnce() -> Result<PathBuf, String>) -> Result<(), String> {
    let load = || {
        if std::env::var_os("L2P_REQUIRE_GPU").is_some_and(|v| v == "1") {
            return Ok(None);
        }
        use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
        let path = library()?;
        // SAFETY: the library's constructors only fill its table of kernels. A later search for
        // libcuda.so.1 finds this one, because it bears that name.
        let loaded = unsafe { Library::open(Some(&path), RTLD_NOW | RTLD_GLOBAL) };
        loaded.map(Some).map_err(|e| format!("{}: {e}", path.display()))
    };
    LOADED.get_or_init(load).as_ref().map(|_| ()).map_err(Clone::clone)
}

/// Chooses the order of streams, blocks and threads; 0 is as submitted. Nothing on a real GPU.
pub fn set_seed(seed: u64) {
    if let Some(Ok(Some(library))) = LOADED.get() {
        // SAFETY: driver.cpp defines it with this type.
        let set: libloading::os::unix::Symbol<unsafe extern "C" fn(u64)> =
            unsafe { library.get(b"emu_set_seed") }.expect("emu_set_seed");
        // SAFETY: takes the driver's own lock.
        unsafe { set(seed) };
    }
}
