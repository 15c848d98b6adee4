//! Sums over several GPUs, of threads and of processes: what they give, what they wait for, and what happens when a
//! rank is gone. Without GPUs they are the emulated ones, and `tests/emulation/nccl.cpp` stands in for NCCL;
//! `L2P_REQUIRE_GPU=1` asks for real ones and the real library, and leaves out what takes more GPUs than there are.

#[path = "../common/mod.rs"]
mod common;
#[path = "../emulation/mod.rs"]
mod emulation;
mod faults;
mod library;
mod processes;
mod threads;

use l2p_engine::device::{Device, Gpu, NcclComm, NcclId, StreamKind, Watch, embedded, probe};
use l2p_engine::error::Result;
use l2p_engine::tensor::{DType, Tensor};
use std::io::Write as _;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

/// Emulated GPUs of a process.
const GPUS: usize = 4;
/// After this a test that hangs is ended.
const PATIENCE: Duration = Duration::from_secs(30);

fn real() -> bool {
    std::env::var_os("L2P_REQUIRE_GPU").is_some_and(|v| v == "1")
}

fn skip(test: &str, why: &str) {
    let _ = writeln!(std::io::stderr(), "skipped: 1 test of several GPUs ({test}): {why}");
}

/// The machine with `gpus` GPUs, for one test at a time; or `None`, said and counted.
fn machine(test: &str, gpus: usize) -> Option<MutexGuard<'static, ()>> {
    static ALONE: Mutex<()> = Mutex::new(());
    static READY: OnceLock<()> = OnceLock::new();
    let alone = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if !real() {
        if let Err(why) = emulation::compiler() {
            skip(test, &why);
            return None;
        }
        READY.get_or_init(|| {
            let nccl = emulation::nccl(None).expect("the stand-in for NCCL compiles");
            let devices = std::env::var("L2P_EMU_DEVICES").unwrap_or(GPUS.to_string());
            // SAFETY: the tests' other threads wait for the lock above.
            unsafe {
                std::env::set_var("L2P_EMU_DEVICES", devices);
                std::env::set_var("L2P_NCCL_LIBRARY", nccl);
            }
            emulation::install().expect("the kernels compile for the host");
        });
    }
    let there = probe::gpus().expect("a driver").len();
    if there < gpus {
        skip(test, &format!("it takes {gpus} GPUs, and there are {there}"));
        return None;
    }
    emulation::set_seed(0);
    Some(alone)
}

fn open(index: usize) -> Arc<Gpu> {
    // The emulated driver finds kernels by name and does not look at images.
    let gpu = if real() { Gpu::open(index, embedded::image) } else { Gpu::open(index, |_| Some(&[0u8; 64])) };
    gpu.expect("a GPU")
}

/// One rank of a test.
struct Rank {
    rank: usize,
    size: usize,
    gpu: Arc<Gpu>,
    id: NcclId,
    all: Arc<All>,
}

#[derive(Default)]
struct All {
    watches: Mutex<Vec<Watch>>,
    /// A rank has panicked, or time is up: all waits end.
    over: AtomicBool,
}

impl All {
    fn end(&self, why: &str) {
        self.over.store(true, Ordering::SeqCst);
        self.watches.lock().expect("watches").iter().for_each(|watch| watch.abort(why));
    }
}

impl Rank {
    fn dev(&self) -> Device {
        Device::Cuda(self.gpu.clone())
    }

    fn join(&self) -> NcclComm {
        let clique = NcclComm::join(&self.gpu, &self.id, self.rank, self.size, || {
            match self.all.over.load(Ordering::SeqCst) {
                false => Ok(()),
                true => Err(l2p_engine::error::Error::failed("the test is over")),
            }
        });
        let clique = clique.expect("a clique");
        self.all.watches.lock().expect("watches").push(clique.watch());
        clique
    }

    /// A tensor on this rank's GPU.
    fn tensor(&self, values: &[f64]) -> Tensor {
        Tensor::from_f64(values, [values.len()], DType::F32).to(&self.dev()).expect("an upload")
    }

    /// Numbers of this rank that are exact in f32, and so are their sums in any order.
    fn numbers(&self, n: usize, salt: usize) -> Vec<f64> {
        numbers(self.rank, n, salt)
    }
}

fn numbers(rank: usize, n: usize, salt: usize) -> Vec<f64> {
    (0..n).map(|i| ((i * 7919 + rank * 104_729 + salt * 1_299_709) % 4001) as f64 / 8.0 - 250.0).collect()
}

/// Their sum over all ranks.
fn sums(size: usize, n: usize, salt: usize) -> Vec<f64> {
    (0..n).map(|i| (0..size).map(|rank| numbers(rank, n, salt)[i]).sum()).collect()
}

/// `f` on a thread for each rank, on a GPU of its own. A rank that panics ends the others.
fn ranks<R: Send>(size: usize, f: impl Fn(&Rank) -> R + Sync) -> Vec<R> {
    let (id, all) = (NcclId::new().expect("an id"), Arc::new(All::default()));
    let done = AtomicBool::new(false);
    let results = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..size)
            .map(|rank| {
                let (all, f) = (all.clone(), &f);
                scope.spawn(move || {
                    let here = Rank { rank, size, gpu: open(rank), id, all: all.clone() };
                    let result = std::panic::catch_unwind(AssertUnwindSafe(|| f(&here)));
                    if result.is_err() {
                        all.end("another rank's test failed");
                    }
                    result
                })
            })
            .collect();
        let begun = Instant::now();
        let (all, done) = (&all, &done);
        let watchdog = scope.spawn(move || {
            while !done.load(Ordering::SeqCst) {
                if begun.elapsed() > PATIENCE {
                    all.end("the test takes too long");
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        let results: Vec<_> = threads.into_iter().map(|t| t.join().expect("caught")).collect();
        done.store(true, Ordering::SeqCst);
        watchdog.join().expect("no panic");
        results
    });
    let mut failed = None;
    let mut all = Vec::new();
    for result in results {
        match result {
            Ok(result) => all.push(result),
            Err(why) => failed = Some(failed.unwrap_or(why)),
        }
    }
    if let Some(why) = failed {
        std::panic::resume_unwind(why);
    }
    all
}

fn read(tensor: &Tensor) -> Result<Vec<f64>> {
    tensor.view().read_f64()
}

/// Whether what a stream waits for is passed over from now on, as if the engine had forgotten it.
fn forget_waits(gpu: &Gpu, lane: StreamKind, forget: bool) {
    emulation::forget_waits(gpu.raw_stream(lane).expect("a stream"), forget);
}
