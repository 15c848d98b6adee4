//! `libnccl.so.2`, found at run time: where it is looked for, and the part of its interface that is used.
//! Source: NVIDIA, `nccl.h` of 2.14 and newer, whose interface has only grown since.

use crate::error::{Error, Result};
use libloading::os::unix::{Library as Shared, RTLD_LOCAL, RTLD_NOW};
use std::ffi::{CStr, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::{env, fs};

/// Names the file, past any search.
const VARIABLE: &str = "L2P_NCCL_LIBRARY";
const NAME: &str = "libnccl.so.2";
/// The first with communicators that do not block and can be left without the others.
const OLDEST: c_int = 21_400;
const HOW: &str = "`pip install nvidia-nccl-cu13`, or the package libnccl2 of NVIDIA's repository for your \
                   system, brings it; L2P_NCCL_LIBRARY names the file where it lies elsewhere";

/// `ncclComm_t`.
pub(super) type RawComm = *mut c_void;
/// `ncclResult_t`.
pub(super) type Code = c_int;
pub(super) const SUCCESS: Code = 0;
pub(super) const IN_PROGRESS: Code = 7;
/// `ncclFloat32` and `ncclSum`.
pub(super) const FLOAT32: c_int = 7;
pub(super) const SUM: c_int = 0;
/// `NCCL_UNIQUE_ID_BYTES`.
pub(super) const ID_BYTES: usize = 128;

/// `ncclUniqueId`, which is passed by value.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct UniqueId(pub [u8; ID_BYTES]);

/// `ncclConfig_t` as it was in 2.14; a newer library sees the version and takes its defaults for the rest.
#[repr(C)]
pub(super) struct Config {
    size: usize,
    magic: u32,
    version: u32,
    blocking: c_int,
    /// `NCCL_CONFIG_UNDEF_INT`, where the structure had its padding.
    rest: c_int,
}

impl Config {
    pub const NOT_BLOCKING: Config = Config {
        size: size_of::<Config>(),
        magic: 0xcafe_beef,
        version: OLDEST.cast_unsigned(),
        blocking: 0,
        rest: c_int::MIN,
    };
}

/// The functions of a library that has been loaded, and stays.
pub(super) struct Nccl {
    /// `2.27.5 (libnccl.so.2)`.
    name: String,
    pub get_unique_id: unsafe extern "C" fn(*mut UniqueId) -> Code,
    pub comm_init: unsafe extern "C" fn(*mut RawComm, c_int, UniqueId, c_int, *mut Config) -> Code,
    pub all_reduce: unsafe extern "C" fn(
        *const c_void,
        *mut c_void,
        usize,
        c_int,
        c_int,
        RawComm,
        *mut c_void, // cudaStream_t, which is a CUstream
    ) -> Code,
    pub group_start: unsafe extern "C" fn() -> Code,
    pub group_end: unsafe extern "C" fn() -> Code,
    pub comm_get_async_error: unsafe extern "C" fn(RawComm, *mut Code) -> Code,
    pub comm_finalize: unsafe extern "C" fn(RawComm) -> Code,
    pub comm_destroy: unsafe extern "C" fn(RawComm) -> Code,
    pub comm_abort: unsafe extern "C" fn(RawComm) -> Code,
    get_error_string: unsafe extern "C" fn(Code) -> *const c_char,
    get_last_error: unsafe extern "C" fn(RawComm) -> *const c_char,
    /// The functions are its.
    _library: Shared,
}

static NCCL: OnceLock<std::result::Result<Nccl, String>> = OnceLock::new();

/// The library, looked for once in the life of the program.
pub(super) fn nccl() -> Result<&'static Nccl> {
    NCCL.get_or_init(find).as_ref().map_err(Error::failed)
}

/// Version and file of the NCCL that sums over several GPUs would use: `2.27.5 (libnccl.so.2)`.
///
/// # Errors
/// `Error::Failed`: not there, too old, or not NCCL; what to install, and where it was looked for.
pub fn nccl_version() -> Result<String> {
    nccl().map(|nccl| nccl.name.clone())
}

impl Nccl {
    /// What a code means, and what the library has noted about it last.
    pub fn describe(&self, code: Code) -> String {
        let text = |start: *const c_char| {
            if start.is_null() {
                return String::new();
            }
            // SAFETY: the library's own text, which ends with a zero and stays.
            unsafe { CStr::from_ptr(start) }.to_string_lossy().trim().to_string()
        };
        // SAFETY: takes any code.
        let what = text(unsafe { (self.get_error_string)(code) });
        // SAFETY: the argument is not used.
        let last = text(unsafe { (self.get_last_error)(std::ptr::null_mut()) });
        if last.is_empty() { what } else { format!("{what} ({last})") }
    }

    fn load(file: &Path) -> std::result::Result<Nccl, String> {
        // SAFETY: NCCL's constructors read the environment and do nothing else.
        let library = unsafe { Shared::open(Some(file), RTLD_NOW | RTLD_LOCAL) };
        // The error itself only says that there is one.
        let library = library.map_err(|e| {
            std::error::Error::source(&e).map_or_else(|| e.to_string(), std::string::ToString::to_string)
        })?;
        let shown = file.display();
        macro_rules! function {
            ($name:literal) => {{
                // SAFETY: each of them has the type that nccl.h gives to this name.
                let found = unsafe { library.get(concat!($name, "\0").as_bytes()) };
                *found.map_err(|_| format!("{shown} has no {}: it is not NCCL, or not a whole one", $name))?
            }};
        }
        let mut code = 0;
        let get_version: unsafe extern "C" fn(*mut c_int) -> Code = function!("ncclGetVersion");
        // SAFETY: writes one number.
        if unsafe { get_version(&raw mut code) } != SUCCESS {
            return Err(format!("{shown} does not tell its version"));
        }
        let name = format!("{} ({shown})", version(code));
        if code < OLDEST {
            return Err(format!("NCCL {name} is too old, {} or newer is needed: {HOW}", version(OLDEST)));
        }
        Ok(Nccl {
            name,
            get_unique_id: function!("ncclGetUniqueId"),
            comm_init: function!("ncclCommInitRankConfig"),
            all_reduce: function!("ncclAllReduce"),
            group_start: function!("ncclGroupStart"),
            group_end: function!("ncclGroupEnd"),
            comm_get_async_error: function!("ncclCommGetAsyncError"),
            comm_finalize: function!("ncclCommFinalize"),
            comm_destroy: function!("ncclCommDestroy"),
            comm_abort: function!("ncclCommAbort"),
            get_error_string: function!("ncclGetErrorString"),
            get_last_error: function!("ncclGetLastError"),
            _library: library,
        })
    }
}

/// `ncclGetVersion`'s number: 2804 is 2.8.4, and from 2.9 on 21403 is 2.14.3.
fn version(code: c_int) -> String {
    let (major, rest) =
        if code < 10_000 { (code / 1000, code % 1000) } else { (code / 10_000, code % 10_000) };
    format!("{major}.{}.{}", rest / 100, rest % 100)
}

fn find() -> std::result::Result<Nccl, String> {
    // A library that was named is used or complained about, never passed over.
    if let Some(named) = env::var_os(VARIABLE) {
        let load = Nccl::load(Path::new(&named));
        return load.map_err(|why| format!("{VARIABLE}={}: {why}", named.display()));
    }
    let by_name = match Nccl::load(Path::new(NAME)) {
        Ok(nccl) => return Ok(nccl),
        Err(why) => why,
    };
    let folders = folders();
    let there: Vec<PathBuf> = folders.iter().map(|f| f.join(NAME)).filter(|file| file.is_file()).collect();
    let mut refused = Vec::new();
    for file in &there {
        match Nccl::load(file) {
            Ok(nccl) => return Ok(nccl),
            Err(why) => refused.push(why),
        }
    }
    if refused.is_empty() {
        let looked: Vec<String> = folders.iter().map(|f| f.display().to_string()).collect();
        return Err(format!("no NCCL: {by_name}; nor is it in {}. {HOW}", looked.join(", ")));
    }
    Err(format!("no NCCL that can be used: {by_name}; {}. {HOW}", refused.join("; ")))
}

/// Where the file may be that the loader does not find by itself: Python wheels, conda, the CUDA toolkit,
/// Debian's folders where the loader has no cache.
fn folders() -> Vec<PathBuf> {
    let mut all = Vec::new();
    let mut prefixes: Vec<PathBuf> = env::var_os("VIRTUAL_ENV").into_iter().map(PathBuf::from).collect();
    let path: Vec<PathBuf> = env::var_os("PATH").iter().flat_map(env::split_paths).collect();
    let with_python = path.iter().filter(|folder| folder.join("python3").exists());
    prefixes.extend(with_python.filter_map(|folder| folder.parent().map(Path::to_path_buf)));
    prefixes.extend(env::var_os("HOME").map(|home| Path::new(&home).join(".local")));
    for library in prefixes.iter().flat_map(|p| [p.join("lib"), p.join("local/lib")]) {
        // Debian's Python has its packages in `python3`, beside those of each version.
        for python in folders_in(&library, "python3") {
            for packages in ["site-packages", "dist-packages"] {
                let packages = python.join(packages);
                all.extend(packages.is_dir().then(|| packages.join("nvidia/nccl/lib")));
            }
        }
    }
    all.extend(env::var_os("CONDA_PREFIX").map(|prefix| Path::new(&prefix).join("lib")));
    for variable in ["CUDA_HOME", "CUDA_PATH"] {
        all.extend(env::var_os(variable).map(|folder| Path::new(&folder).join("lib64")));
    }
    all.push("/usr/local/cuda/lib64".into());
    all.push(Path::new("/usr/lib").join(format!("{}-linux-gnu", env::consts::ARCH)));
    let mut seen = std::collections::HashSet::new();
    all.retain(|folder| seen.insert(folder.clone()));
    all
}

fn folders_in(folder: &Path, prefix: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> =
        entries.filter(|e| e.file_name().to_string_lossy().starts_with(prefix)).map(|e| e.path()).collect();
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_versions() {
        for (code, text) in [(2804, "2.8.4"), (21_304, "2.13.4"), (OLDEST, "2.14.0"), (22_705, "2.27.5")] {
            assert_eq!(version(code), text);
        }
    }

    #[test]
    fn the_configuration_is_laid_out_as_in_c() {
        assert_eq!((size_of::<Config>(), size_of::<UniqueId>()), (24, 128));
        assert_eq!(std::mem::offset_of!(Config, blocking), 16);
    }
}
