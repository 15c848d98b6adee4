//! The emulated GPU of the tests: `libcuda.so.1` made of `tests/emulation/*.cpp` and `kernels/*.cu` by the
//! host compiler (`CXX`, g++ or clang++), and loaded before anything asks for a driver.

// Each test program uses a part of this.
#![allow(dead_code)]

use sha2::{Digest, Sha256};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The main file of the replay of launches.
const REPLAY: &str = "race.cpp";
/// What stands in for `libnccl.so.2`.
const NCCL: &str = "nccl.cpp";

const COMMON_FLAGS: &[&str] =
    &["-std=c++17", "-O1", "-g1", "-fPIC", "-fvisibility=hidden", "-DL2P_EMU", "-pthread"];

/// The emulation itself.
const RUNTIME_FLAGS: &[&str] = &["-O3", "-fno-math-errno"];

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

/// g++ calls a function of `checks.cpp` before each access to memory. With clang++, what leaves an allocation is
/// found by the guards beside it only.
const CHECKED_BY_GCC: &[&str] = &[
    "-fsanitize=kernel-address",
    "--param=asan-instrumentation-with-call-threshold=0",
    "--param=asan-stack=0",
    "--param=asan-globals=0",
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
    link(&objects_of(&[runtime()?, kernels_of(kernels, &[])?].concat())?, LIBRARY, "libcuda.so.1")
}

/// The same with the kernels of this tree, but for the files that another folder has as well, which are compiled
/// quickly and run slowly.
pub fn library_with(folder: &Path) -> Result<PathBuf, String> {
    let mut jobs = [runtime()?, kernels_of(&root().join("kernels"), &[])?].concat();
    let replaced = kernels_of(folder, &["-O0"])?;
    jobs.retain(|job| replaced.iter().all(|other| other.source.file_name() != job.source.file_name()));
    let objects = objects_of(&jobs)?;
    // In front: of inline functions that are not inlined the linker takes the first.
    let replaced = objects_of(&replaced)?;
    link(&[&replaced[..], &objects[..]].concat(), LIBRARY, "libcuda.so.1")
}

/// `libnccl.so.2` on top of the emulated driver. `without`: a function that it does not have.
pub fn nccl(without: Option<&'static str>) -> Result<PathBuf, String> {
    let kernels = root().join("kernels");
    let hidden: Option<&'static str> = without.map(|name| &*format!("-D{name}={name}_missing").leak());
    let flags = [COMMON_FLAGS, RUNTIME_FLAGS, hidden.as_slice()].concat();
    // It includes no header of the emulation.
    let job = Job { source: root().join("tests/emulation").join(NCCL), flags, kernels, headers: [0; 32] };
    link(&objects_of(&[job])?, &["-shared", "-Wl,-soname,libnccl.so.2"], "libnccl.so.2")
}

const LIBRARY: &[&str] = &["-shared", "-Wl,-soname,libcuda.so.1"];

/// The program that replays recorded launches of the kernels of a folder under ThreadSanitizer. Only the
/// kernels are seen by it; the emulation tells it what barriers order.
pub fn replay_of(kernels: &Path) -> Result<PathBuf, String> {
    let common = [COMMON_FLAGS, &["-DEMU_TSAN", "-g"]].concat();
    let own = root().join("tests/emulation");
    let headers = hash_of_headers(kernels)?;
    let of =
        |name: &str| Job { source: own.join(name), flags: common.clone(), kernels: kernels.into(), headers };
    let mut jobs = [REPLAY, "emu.cpp", "hopper_emu.cpp", "memory.cpp", "record.cpp"].map(of).to_vec();
    for source in files(kernels, "cu")? {
        let kernel = ["-xc++", "-ffp-contract=off", "-Wno-unknown-pragmas", "-fsanitize=thread"];
        let flags = [&common[..], &kernel].concat();
        jobs.push(Job { source, flags, kernels: kernels.into(), headers });
    }
    link(&objects_of(&jobs)?, &["-fsanitize=thread"], "race")
}

/// One file to compile.
#[derive(Debug, Clone)]
struct Job {
    source: PathBuf,
    flags: Vec<&'static str>,
    /// Where its headers are looked for first.
    kernels: PathBuf,
    headers: [u8; 32],
}

/// The emulation itself.
fn runtime() -> Result<Vec<Job>, String> {
    let (mut jobs, kernels) = (Vec::new(), root().join("kernels"));
    let headers = hash_of_headers(&kernels)?;
    for source in files(&root().join("tests/emulation"), "cpp")? {
        if ![REPLAY, NCCL].iter().any(|other| source.file_name() == Some(OsStr::new(other))) {
            let flags = [COMMON_FLAGS, RUNTIME_FLAGS].concat();
            jobs.push(Job { source, flags, kernels: kernels.clone(), headers });
        }
    }
    Ok(jobs)
}

fn kernels_of(kernels: &Path, flags: &[&'static str]) -> Result<Vec<Job>, String> {
    let headers = hash_of_headers(kernels)?;
    let checked = if compiler()?.is_gcc() { CHECKED_BY_GCC } else { &[] };
    let flags = [COMMON_FLAGS, KERNEL_FLAGS, checked, flags].concat();
    let job = |source| Job { source, flags: flags.clone(), kernels: kernels.into(), headers };
    Ok(files(kernels, "cu")?.into_iter().map(job).collect())
}

/// Compiles the sources that have changed.
fn objects_of(jobs: &[Job]) -> Result<Vec<PathBuf>, String> {
    let compiler = &compiler()?;
    fs::create_dir_all(folder()).map_err(|e| format!("{}: {e}", folder().display()))?;
    // Test programs run side by side; the second finds everything done.
    let lock = File::create(folder().join("lock")).map_err(|e| format!("{}: {e}", folder().display()))?;
    lock.lock().map_err(|e| format!("the lock of {}: {e}", folder().display()))?;
    in_parallel(jobs, |job| compile(compiler, job)).into_iter().collect()
}

/// `f` of each, as many at a time as there are `JOBS`.
pub fn in_parallel<T: Sync, R: Send + Sync>(of: &[T], f: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let done: Vec<OnceLock<R>> = of.iter().map(|_| OnceLock::new()).collect();
    std::thread::scope(|scope| {
        for _ in 0..JOBS {
            scope.spawn(|| {
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    let Some(one) = of.get(i) else { break };
                    drop(done[i].set(f(one)));
                }
            });
        }
    });
    done.into_iter().map(|r| r.into_inner().expect("each is done once")).collect()
}

/// Links objects to `name`, in a folder named by what is in it.
fn link(objects: &[PathBuf], flags: &[&str], name: &str) -> Result<PathBuf, String> {
    let mut hash = Sha256::new();
    flags.iter().for_each(|flag| hash.update(flag));
    objects.iter().for_each(|object| hash.update(object.as_os_str().as_encoded_bytes()));
    let built = folder().join(short(hash)).join(name);
    if !built.exists() {
        fs::create_dir_all(built.parent().expect("a folder")).map_err(|e| e.to_string())?;
        let mut command = compiler()?.command();
        command.args(objects).args(flags).args(["-pthread", "-ldl"]);
        produce(command, &built)?;
    }
    Ok(built)
}

fn compile(compiler: &Compiler, job: &Job) -> Result<PathBuf, String> {
    let mut hash = Sha256::new();
    hash.update(&compiler.version);
    job.flags.iter().for_each(|flag| hash.update(flag));
    hash.update(job.headers);
    hash.update(read(&job.source)?);
    let stem = job.source.file_stem().and_then(OsStr::to_str).expect("a name");
    let objects = folder().join("objects");
    let object = objects.join(format!("{stem}-{}.o", short(hash)));
    if !object.exists() {
        fs::create_dir_all(&objects).map_err(|e| format!("{}: {e}", objects.display()))?;
        let mut command = compiler.command();
        let relative = |path: &Path| path.strip_prefix(root()).unwrap_or(path).to_path_buf();
        command.current_dir(root()).args(&job.flags).arg("-I").arg(relative(&job.kernels));
        command.args(["-Ikernels", "-Itests/emulation", "-c"]).arg(relative(&job.source));
        produce(command, &object)?;
    }
    Ok(object)
}

/// Runs the compiler; the file appears whole or not at all.
fn produce(mut command: Command, to: &Path) -> Result<(), String> {
    let unfinished =
        to.with_extension(format!("{:?}.{}.unfinished", std::thread::current().id(), std::process::id()));
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

    pub fn is_gcc(&self) -> bool {
        !String::from_utf8_lossy(&self.version).contains("clang")
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

fn hash_of_headers(kernels: &Path) -> Result<[u8; 32], String> {
    let mut hash = Sha256::new();
    let headers = files(&root().join("tests/emulation"), "h")?;
    // Another folder of kernels may do with the headers of this one, or replace one of the emulation.
    let own = |extension| files(&kernels.join("include"), extension).unwrap_or_default();
    for header in headers
        .into_iter()
        .chain(own("h"))
        .chain(own("cuh"))
        .chain(files(&root().join("kernels/include"), "cuh")?)
    {
        hash.update(read(&header)?);
    }
    Ok(hash.finalize().into())
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

/// Makes a stream of the emulated driver pass over what it is told to wait for, or heed it again.
pub fn forget_waits(stream: *mut std::ffi::c_void, forget: bool) {
    if let Some(Ok(Some(library))) = LOADED.get() {
        // SAFETY: driver.cpp defines it with this type.
        let set: libloading::os::unix::Symbol<unsafe extern "C" fn(*mut std::ffi::c_void, i32)> =
            unsafe { library.get(b"emu_forget_waits") }.expect("emu_forget_waits");
        // SAFETY: the stream is the driver's own; takes its lock.
        unsafe { set(stream, i32::from(forget)) };
    }
}
