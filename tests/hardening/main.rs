//! Every reader is given damaged files by the thousand: each is a value or an error within a second, without a panic,
//! and without more memory than a file of its length can justify.
//!
//! Input `n` of a reader depends on the reader and `n` alone. `L2P_FUZZ_INPUTS=1000000` says how many there are, and
//! `L2P_FUZZ_FIRST=N` where they begin: to see one again, `L2P_FUZZ_FIRST=N L2P_FUZZ_INPUTS=1`.

#[path = "../common/files.rs"]
mod files;
#[path = "../common/lanes.rs"]
mod lanes;
mod mutate;
mod readers;
#[path = "../import/support.rs"]
#[allow(dead_code)]
mod support;

use mutate::Mutator;
use readers::Reader;
use rustix::time::{ClockId, clock_gettime};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

const LONGEST: Duration = Duration::from_secs(1);
const INPUTS: u32 = 2000;

thread_local! {
    static LIVE: Cell<usize> = const { Cell::new(0) };
    static PEAK: Cell<usize> = const { Cell::new(0) };
}

/// The system's allocator, which counts what this thread holds.
struct Counting;

fn grown(by: usize) {
    let live = LIVE.get().wrapping_add(by);
    LIVE.set(live);
    PEAK.set(PEAK.get().max(live));
}

// SAFETY: every call goes to the system's allocator as it came; counting takes no memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        grown(layout.size());
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        grown(layout.size());
        // SAFETY: the caller's promise.
        unsafe { System.alloc_zeroed(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // What another thread has allocated would count as negative.
        LIVE.set(LIVE.get().saturating_sub(layout.size()));
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(at, layout) }
    }
    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        LIVE.set(LIVE.get().saturating_sub(layout.size()));
        grown(size);
        // SAFETY: the caller's promise.
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What this thread has computed so far: a busy machine does not count against a reader.
fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn number(name: &str, otherwise: u32) -> u32 {
    std::env::var(name)
        .map_or(otherwise, |text| text.parse().unwrap_or_else(|e| panic!("{name}={text}: {e}")))
}

fn harden(reader: Reader) {
    let Reader { name, seeds, read, ratio, announced } = reader;
    assert!(!seeds.is_empty() && seeds.iter().all(|seed| !seed.is_empty()), "{name}: no files to damage");
    for (i, seed) in seeds.iter().enumerate() {
        assert!(read(seed), "{name}: file {i} is refused before it is damaged");
    }
    let first = number("L2P_FUZZ_FIRST", 0);
    let inputs = number("L2P_FUZZ_INPUTS", lanes::fuzz_cases(INPUTS));
    let (clock, mut taken, mut slowest, mut most) = (Instant::now(), 0u32, Duration::ZERO, 0usize);
    for n in first..first + inputs {
        let input = Mutator::new(name, n).input(&seeds);
        let before = LIVE.get();
        PEAK.set(before);
        let start = thread_time();
        let read = catch_unwind(AssertUnwindSafe(|| read(&input)));
        let (time, memory) = (thread_time() - start, PEAK.get() - before);
        let again =
            format!("{name}: input {n} of {} bytes (L2P_FUZZ_FIRST={n} L2P_FUZZ_INPUTS=1)", input.len());
        taken += u32::from(read.unwrap_or_else(|_| panic!("{again} panicked")));
        assert!(time <= LONGEST, "{again} took {time:?}");
        let justified = ratio * input.len() + announced(&input) + (8 << 20);
        assert!(memory <= justified, "{again} took {memory} bytes of memory, more than {justified}");
        (slowest, most) = (slowest.max(time), most.max(memory));
    }
    println!(
        "{name}: {inputs} inputs in {:.1} s, {taken} taken, the others refused; slowest {slowest:.1?}, most memory {most} bytes",
        clock.elapsed().as_secs_f64()
    );
}

/// The name of the module is what the deep lane of `.ci/run` looks for.
mod damaged {
    use super::{harden, readers};

    #[test]
    fn every_reader_has_a_test_and_a_target() {
        let manifest = std::fs::read_to_string(super::support::repository().join("fuzz/Cargo.toml"));
        let manifest = manifest.expect("the targets of cargo-fuzz");
        for (name, _) in readers::ALL {
            assert!(manifest.contains(&format!("name = \"{name}\"")), "no target {name}");
            assert!(TESTS.contains(&name), "no test {name}");
        }
        assert_eq!(TESTS.len(), readers::ALL.len());
    }

    macro_rules! readers {
        ($($name:ident)*) => {
            const TESTS: &[&str] = &[$(stringify!($name)),*];
            $(
            #[test]
            fn $name() {
                harden(readers::$name());
            }
        )*};
    }

    readers! {
        npz safetensors torch ports idx cifar_pickle cifar_binary mat archives packed_archives png jpeg other_images lists
        toml checkpoint frames
    }
}
