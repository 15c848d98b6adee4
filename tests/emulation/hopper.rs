//! What Hopper kernels are made of: right ones are computed right under every schedule, and each planted fault is found.

use super::{emulation, gpu};
use cudarc::driver::sys;
use half::{bf16, f16};
use std::ffi::c_void;

/// Late, early and drawn schedules of what is under way are among them.
const SEEDS: [u64; 8] = [0, 1, 2, 3, 4, 5, 6, 7];
/// For what every schedule shows.
const FEW_SEEDS: [u64; 4] = [0, 1, 2, 3];

/// A tensor map as kernels take it.
#[repr(C, align(128))]
#[derive(Clone, Copy)]
struct Map([u64; 16]);

/// What cuTensorMapEncodeTiled is given for a tensor of two dimensions, the contiguous one first.
#[derive(Clone, Copy)]
struct Tensor {
    address: u64,
    dtype: i32,
    sizes: [u64; 2],
    stride: u64,
    bounds: [u32; 2],
    steps: [u32; 2],
    rank: u32,
    swizzle: i32,
}

const F16: i32 = 6;
const F32: i32 = 7;
const BF16: i32 = 9;

impl Tensor {
    fn encode(&self) -> Result<Map, sys::CUresult> {
        let mut map = Map([0; 16]);
        // SAFETY: enumerations of the driver without gaps here; all arrays have `rank` entries or more.
        let status = unsafe {
            sys::cuTensorMapEncodeTiled(
                (&raw mut map).cast(),
                std::mem::transmute::<i32, sys::CUtensorMapDataType>(self.dtype),
                self.rank,
                self.address as *mut c_void,
                self.sizes.as_ptr(),
                &raw const self.stride,
                self.bounds.as_ptr(),
                self.steps.as_ptr(),
                sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
                std::mem::transmute::<i32, sys::CUtensorMapSwizzle>(self.swizzle),
                sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_NONE,
                sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
            )
        };
        if status == sys::CUresult::CUDA_SUCCESS { Ok(map) } else { Err(status) }
    }
}

/// A dense matrix (rows, cols) in boxes of `wide` columns x 64 rows.
fn matrix(address: u64, dtype: i32, rows: u64, cols: u64, wide: u32, swizzle: i32) -> Tensor {
    let bytes = if dtype == F32 { 4 } else { 2 };
    let (sizes, bounds) = ([cols, rows], [wide, 64]);
    Tensor { address, dtype, sizes, stride: cols * bytes, bounds, steps: [1, 1], rank: 2, swizzle }
}

/// Small whole numbers, exact in all types and in any order of sums.
fn numbers(n: usize, step: usize) -> Vec<f32> {
    (0..n).map(|i| (i * step % 13) as f32 - 6.0).collect()
}

fn narrow(dtype: i32, x: &[f32]) -> Vec<u16> {
    let bits =
        |&x: &f32| if dtype == BF16 { bf16::from_f32(x).to_bits() } else { f16::from_f32(x).to_bits() };
    x.iter().map(bits).collect()
}

fn transposed(x: &[f32], rows: usize) -> Vec<f32> {
    let cols = x.len() / rows;
    (0..x.len()).map(|i| x[i % rows * cols + i / rows]).collect()
}

/// d (64, 64) = a (64, depth) b (64, depth)^T.
fn product(a: &[f32], b: &[f32]) -> Vec<f32> {
    let depth = a.len() / 64;
    let row = |x: &[f32], i: usize| x[i * depth..(i + 1) * depth].to_vec();
    let sum = |i: usize| row(a, i / 64).iter().zip(row(b, i % 64)).map(|(a, b)| a * b).sum();
    (0..64 * 64).map(sum).collect()
}

fn address(value: &mut impl Sized) -> *mut c_void {
    std::ptr::from_mut(value).cast()
}

/// All four orientations of operands with all four permutations of their chunks, A in shared memory and in registers.
#[test]
fn wgmma_reads_every_layout() {
    for seed in SEEDS {
        let Some(mut gpu) = gpu::open(seed) else { return };
        let (a, b) = (numbers(64 * 64, 5), numbers(64 * 64, 7));
        let wanted = product(&a, &b);
        for swizzle in 0..4 {
            for (name, dtype) in [("dd", BF16), ("do", F16), ("od", F16), ("oo", BF16)] {
                for in_registers in [false, true] {
                    let lies =
                        |x: &[f32], inner: &str| if inner == "d" { x.to_vec() } else { transposed(x, 64) };
                    let own_a = gpu.upload(&narrow(dtype, &lies(&a, &name[..1])));
                    let own_b = gpu.upload(&narrow(dtype, &lies(&b, &name[1..])));
                    let map = |at| matrix(at, dtype, 64, 64, 8 << swizzle, swizzle).encode().expect("a map");
                    let (mut map_a, mut map_b) = (map(own_a), map(own_b));
                    let mut d = gpu.alloc(64 * 64 * 4);
                    let mut rows = if in_registers { gpu.upload(&narrow(dtype, &a)) } else { 0 };
                    let mut args =
                        [address(&mut d), address(&mut map_a), address(&mut map_b), address(&mut rows)];
                    gpu.launch_at(&format!("layout_{name}_{swizzle}"), 1, 128, 16400, 0, &mut args);
                    let got = gpu.download::<f32>(d, 64 * 64);
                    assert_eq!(got, wanted, "{name}, swizzle {swizzle}, {in_registers}, seed {seed}");
                }
            }
        }
    }
}

/// Runs a variant of the ring of two stages over a depth of 64 x 5.
fn ring(name: &str, seed: u64) -> Option<Result<bool, String>> {
    let mut gpu = gpu::open(seed)?;
    let (a, b) = (numbers(64 * 320, 5), numbers(64 * 320, 7));
    let (own_a, own_b) = (gpu.upload(&narrow(BF16, &a)), gpu.upload(&narrow(BF16, &b)));
    let map = |at| matrix(at, BF16, 64, 320, 64, 3).encode().expect("a map");
    let (mut map_a, mut map_b, mut n) = (map(own_a), map(own_b), 5u32);
    let mut d = gpu.upload(&[f32::NAN; 64 * 64]);
    let mut args = [address(&mut d), address(&mut map_a), address(&mut map_b), address(&mut n)];
    gpu.launch_at(&format!("ring_{name}"), 1, 384, 2 * 16384 + 1024 + 64, 0, &mut args);
    Some(gpu.synchronize().map(|()| gpu.download::<f32>(d, 64 * 64) == product(&a, &b)))
}

/// Runs a variant of the clusters that share an operand: four blocks, in clusters of two.
fn shared(name: &str, seed: u64) -> Option<Result<bool, String>> {
    let mut gpu = gpu::open(seed)?;
    let (a, b) = (numbers(4 * 64 * 320, 5), numbers(64 * 320, 7));
    let (own_a, own_b) = (gpu.upload(&narrow(BF16, &a)), gpu.upload(&narrow(BF16, &b)));
    let mut map_a = matrix(own_a, BF16, 4 * 64, 320, 64, 3).encode().expect("a map");
    let halves = Tensor { bounds: [64, 32], ..matrix(own_b, BF16, 64, 320, 64, 3) };
    let (mut map_b, mut n) = (halves.encode().expect("a map"), 5u32);
    let mut d = gpu.upload(&[f32::NAN; 4 * 64 * 64]);
    let mut args = [address(&mut d), address(&mut map_a), address(&mut map_b), address(&mut n)];
    let status = gpu.launch_clusters(&format!("shared_{name}"), (4, 2), 160, 2 * 16384 + 64, &mut args);
    assert_eq!(status, sys::CUresult::CUDA_SUCCESS);
    let wanted: Vec<f32> = a.chunks(64 * 320).flat_map(|a| product(a, &b)).collect();
    Some(gpu.synchronize().map(|()| gpu.download::<f32>(d, 4 * 64 * 64) == wanted))
}

/// Runs a variant of the product of stored operands.
fn stored(name: &str, seed: u64) -> Option<Result<bool, String>> {
    let mut gpu = gpu::open(seed)?;
    let (a, b) = (numbers(64 * 16, 5), numbers(64 * 16, 7));
    let (mut own_a, mut own_b) = (gpu.upload(&narrow(BF16, &a)), gpu.upload(&narrow(BF16, &b)));
    let d = gpu.upload(&[f32::NAN; 64 * 32]);
    let mut map = matrix(d, F32, 64, 32, 32, 0).encode().expect("a map");
    let mut args = [address(&mut map), address(&mut own_a), address(&mut own_b)];
    gpu.launch_at(&format!("stored_{name}"), 1, 128, 16384 + 64, 0, &mut args);
    let wanted: Vec<f32> = product(&a, &b).chunks(64).flat_map(|row| row[..32].to_vec()).collect();
    Some(gpu.synchronize().map(|()| gpu.download::<f32>(d, 64 * 32) == wanted))
}

#[test]
fn right_kernels_pass_under_every_schedule() {
    for seed in 0..24 {
        for run in [ring, stored, shared] {
            let Some(outcome) = run("right", seed) else { return };
            assert_eq!(outcome, Ok(true), "seed {seed}");
        }
    }
}

/// The lines of the planted kernels that hold `text`.
fn lines_with(text: &str) -> Vec<usize> {
    let path = emulation::root().join("tests/emulation/planted/hopper.cu");
    let source = std::fs::read_to_string(path).expect("the planted kernels");
    source.lines().enumerate().filter(|(_, line)| line.contains(text)).map(|(i, _)| i + 1).collect()
}

/// What is found under every schedule: the words of the error, and the text of a line that it names.
const FOUND_ALWAYS: &[(&str, &str, &str)] = &[
    ("ring_too_few_bytes", "deadlock: no thread can go on", "mbarrier_wait(full"),
    ("ring_too_many_bytes", "0 of 1 arrivals and 128 bytes are missing", "mbarrier_wait(full"),
    ("ring_more_bytes_than_counted", "is to expect 1048576 bytes", "mbarrier_arrive_expect_tx("),
    ("ring_no_empty_arrive", "4 of 4 arrivals and 0 bytes are missing", "mbarrier_wait(empty"),
    ("ring_one_arrival_more", "has all of its 1 arrivals, and one more", "mbarrier_arrive(full + s);"),
    ("ring_no_wgmma_fence", "without wgmma_fence", "acc, da, db, true"),
    ("ring_zeroed_after_fence", "were changed after wgmma_fence", "acc, da, db, true"),
    ("ring_written_early", "accumulator 3 of lane 0 was changed while the wgmma", "acc, da, db, true"),
    ("ring_never_waited", "ends while the wgmma", "acc, da, db, true"),
    ("ring_three_warps", "warpgroup", "acc, da, db, true"),
    ("ring_other_line", "warps of a warpgroup differ", "F == OTHER_LINE && warp == 1"),
    ("ring_lanes_apart", "a warp diverges", "F == LANES_APART && lane == 7"),
    ("too_few_threads", "takes a warpgroup of 128 threads", "    wgmma_fence();"),
    ("ring_place_not_aligned", "a shared address that is no multiple of 1024 bytes", "tma_load_2d("),
    ("ring_descriptor_not_aligned", "128 bytes into a pattern of 1024", "acc, da, db, true"),
    ("ring_operand_outside", "of shared memory, the block has 33856", "acc, da, db, true"),
    ("ring_no_init", "is not initialised", "mbarrier_"),
    ("ring_barrier_not_aligned", "no multiple of 8 bytes", "mbarrier_init("),
    ("ring_no_init_fence", "before fence_mbarrier_init", "tma_load_2d("),
    ("ring_barrier_overwritten", "was overwritten", "mbarrier_"),
    ("ring_registers_44", "set_max_registers of 44", "set_max_registers_dec<44>"),
    ("ring_registers_of_one_warp", "not all warps of warpgroup 0", "set_max_registers_dec<40>"),
    ("ring_registers_not_given", "waits in set_max_registers", "set_max_registers_inc<"),
    ("ring_threads_40", "a named barrier of 40 threads", "named_barrier_sync(1, 40)"),
    ("ring_other_counts", "named barrier 1 of", "named_barrier_sync("),
    ("ring_no_map", "no tensor map", "tma_load_2d("),
    ("ring_wrong_rank", "of 3 dimensions with a tensor map of 2", "tma_load_3d("),
    ("shared_ends_early", "of the cluster, which has ended", "mbarrier_arrive_at("),
    ("shared_outside_of_cluster", "to blocks 5 of a cluster of 2", "tma_load_2d_multicast("),
    ("shared_arrives_outside", "block 2 of a cluster of 2", "mbarrier_arrive_at("),
    ("shared_no_cluster_fence", "before fence_mbarrier_init", "tma_load_2d("),
    ("stored_no_proxy_fence", "stored without fence_proxy_async", "wgmma<bf16, 64, Inner::Depth>(acc, fa"),
    (
        "stored_fence_before_stores",
        "stored without fence_proxy_async",
        "wgmma<bf16, 64, Inner::Depth>(acc, fa",
    ),
    (
        "stored_a_changed",
        "registers of A of lane 0 were changed while",
        "wgmma<bf16, 64, Inner::Depth>(acc, fa",
    ),
    ("stored_sums_not_fenced", "stored without fence_proxy_async", "tma_store_2d("),
    ("stored_store_not_waited", "ends while its tensor store", "tma_store_2d("),
    ("stored_store_not_committed", "ends without a commit of its tensor store", "tma_store_2d("),
    ("stored_store_not_aligned", "a shared address that is no multiple of 128 bytes", "tma_store_2d("),
];

/// What shows under some schedules: an error with one of these words, or wrong numbers where there are none.
const FOUND_SOMETIMES: &[(&str, &[&str])] = &[
    ("ring_no_expect", &["used while the tensor load", "deadlock"]),
    ("ring_wrong_parity", &["used while the tensor load", "has noticed", "deadlock", "has not waited for"]),
    ("ring_no_full_wait", &["used while the tensor load", "has noticed", "has not waited for", "deadlock"]),
    ("ring_no_empty_wait", &["has not waited for", "one more", "to the same place", "has noticed"]),
    ("ring_early_release", &["has not waited for", "used while the tensor load", "has noticed"]),
    ("ring_release_by_one_warp", &["has not waited for", "used while the tensor load", "has noticed"]),
    ("ring_load_at_end", &["the block ends while the tensor load"]),
    ("ring_same_place", &["under way to the same place"]),
    ("ring_read_early", &[]),
    ("ring_wrong_stride", &[]),
    ("missed_phase", &["completes phase 1 before a thread has noticed", "deadlock"]),
    ("shared_no_first_sync", &["is not initialised", "without fence_mbarrier_init and cluster_sync"]),
    ("shared_released_here_only", &["to the same place", "has not waited for"]),
    ("stored_no_barrier", &["stored without fence_proxy_async"]),
    ("stored_sums_overwritten", &["stored without fence_proxy_async"]),
];

fn run(kernel: &str, seed: u64) -> Option<Result<bool, String>> {
    if let Some(name) = kernel.strip_prefix("ring_") {
        return ring(name, seed);
    }
    if let Some(name) = kernel.strip_prefix("shared_") {
        return shared(name, seed);
    }
    if let Some(name) = kernel.strip_prefix("stored_") {
        return stored(name, seed);
    }
    let mut gpu = gpu::open(seed)?;
    let d = gpu.alloc(64 * 64 * 4);
    gpu.launch(kernel, 1, 64, 16384, 0, &[d.into()]);
    Some(gpu.synchronize().map(|()| true))
}

/// Whether the faults of the asynchronous proxy are found: the compiler calls a function before each store.
fn sees_stores() -> bool {
    emulation::compiler().is_ok_and(|compiler| compiler.is_gcc())
}

#[test]
fn faults_end_in_an_error_that_names_kernel_and_line() {
    let mut wrong = Vec::new();
    for (kernel, words, line) in FOUND_ALWAYS {
        let lines = lines_with(line);
        for seed in FEW_SEEDS {
            let Some(outcome) = run(kernel, seed) else { return };
            if words.contains("fence_proxy_async") && !sees_stores() {
                continue;
            }
            let error = outcome.err().unwrap_or_else(|| "no error".into());
            let name = [",", ":"].iter().any(|end| error.contains(&format!("kernel {kernel}{end}")));
            let line = lines.iter().any(|n| error.contains(&format!("hopper.cu:{n}")));
            if !(name && line && error.contains(words)) {
                wrong.push(format!("{kernel}, seed {seed}: wanted {words:?} and one of {lines:?}: {error}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn faults_that_some_schedules_show_are_found() {
    let mut wrong = Vec::new();
    for (kernel, words) in FOUND_SOMETIMES {
        let mut found = 0;
        for seed in SEEDS {
            match run(kernel, seed) {
                None => return,
                Some(Ok(right)) => found += usize::from(!right),
                Some(Err(error)) => {
                    found += 1;
                    if !words.iter().any(|w| error.contains(w)) {
                        wrong.push(format!("{kernel}, seed {seed}: wanted one of {words:?}: {error}"));
                    }
                }
            }
        }
        eprintln!("{kernel}: found under {found} of {} schedules", SEEDS.len());
        if found == 0 && sees_stores() {
            wrong.push(format!("{kernel} is not found"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn clusters_that_cannot_be_are_refused() {
    let Some(mut gpu) = gpu::open(0) else { return };
    let mut d = gpu.alloc(64 * 64 * 4);
    // No whole clusters of two, no block, more blocks than every device has.
    for (extents, wanted) in [
        ((3, 2), sys::CUresult::CUDA_ERROR_INVALID_VALUE),
        ((2, 0), sys::CUresult::CUDA_ERROR_INVALID_VALUE),
        ((16, 16), sys::CUresult::CUDA_ERROR_INVALID_CLUSTER_SIZE),
    ] {
        let status = gpu.launch_clusters("too_few_threads", extents, 32, 1024, &mut [address(&mut d)]);
        assert_eq!(status, wanted, "{extents:?}");
    }
}

/// Every limit that the driver documents, by one value beyond it.
#[test]
fn tensor_maps_beyond_their_limits_are_refused() {
    let Some(mut gpu) = gpu::open(0) else { return };
    let good = matrix(gpu.alloc(1 << 16), BF16, 64, 320, 64, 3);
    assert!(good.encode().is_ok());
    let largest = Tensor { sizes: [1 << 32, 1 << 32], stride: (1 << 40) - 16, ..good };
    assert!(largest.encode().is_ok());
    let beyond = [
        Tensor { address: good.address + 8, ..good },
        Tensor { sizes: [0, 64], ..good },
        Tensor { sizes: [320, (1 << 32) + 1], ..good },
        Tensor { stride: 648, ..good },
        Tensor { stride: 1 << 40, ..good },
        Tensor { stride: 320, ..good },
        Tensor { bounds: [64, 257], ..good },
        Tensor { bounds: [0, 64], ..good },
        Tensor { bounds: [60, 64], ..good },
        Tensor { bounds: [128, 64], ..good },
        Tensor { bounds: [64, 64], swizzle: 2, ..good },
        Tensor { steps: [1, 9], ..good },
        Tensor { steps: [0, 1], ..good },
        Tensor { rank: 0, ..good },
    ];
    for (i, tensor) in beyond.iter().enumerate() {
        assert_eq!(tensor.encode().err(), Some(sys::CUresult::CUDA_ERROR_INVALID_VALUE), "{i}");
    }
    let misplaced = &mut [Map([0; 16]); 2];
    // SAFETY: as above; the address is within two maps.
    let status = unsafe {
        sys::cuTensorMapEncodeTiled(
            misplaced.as_mut_ptr().cast::<u8>().add(32).cast(),
            sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
            2,
            good.address as *mut c_void,
            good.sizes.as_ptr(),
            &raw const good.stride,
            good.bounds.as_ptr(),
            good.steps.as_ptr(),
            sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
            sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
            sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_NONE,
            sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        )
    };
    assert_eq!(status, sys::CUresult::CUDA_ERROR_INVALID_VALUE);
}
