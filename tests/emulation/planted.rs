//! Right kernels are computed right, and each planted bug is found.

use super::{emulation, gpu, races};
use half::{bf16, f16};
use l2p_engine::rng::{Rng, Stream};
use std::process::Command;

const SEEDS: [u64; 4] = [0, 1, 2, 3];

fn pattern(n: usize, step: usize, modulus: usize) -> Vec<f32> {
    (0..n).map(|i| (i * step % modulus) as f32 - (modulus / 2) as f32).collect()
}

#[test]
fn rows_are_reduced() {
    for seed in SEEDS {
        let Some(mut gpu) = gpu::open(seed) else { return };
        let (rows, c) = (5, 197);
        let x = pattern(rows * c, 37, 101);
        let (device_x, sum, most) = (gpu.upload(&x), gpu.alloc(rows * 4), gpu.alloc(rows * 4));
        let args = [sum.into(), most.into(), device_x.into(), (c as u32).into()];
        gpu.launch("reduce_rows", rows as u32, 128, 0, 0, &args);
        // Small whole numbers: exact in any order.
        let wanted: Vec<f32> = x.chunks(c).map(|row| row.iter().sum()).collect();
        assert_eq!(gpu.download::<f32>(sum, rows), wanted, "seed {seed}");
        let wanted: Vec<f32> = x.chunks(c).map(|row| row.iter().copied().fold(f32::MIN, f32::max)).collect();
        assert_eq!(gpu.download::<f32>(most, rows), wanted, "seed {seed}");
    }
}

/// ldmatrix, its transposed form and mma.sync against loops, with numbers that are exact in both types.
#[test]
fn matrices_are_multiplied() {
    for (seed, transposed) in [(0, 0u32), (0, 1), (7, 0), (7, 1)] {
        let Some(mut gpu) = gpu::open(seed) else { return };
        let (a, b) = (pattern(256, 37, 61), pattern(128, 29, 53));
        let d = gpu.alloc(512);
        let mut wanted = vec![0f32; 128];
        for (m, n, k) in (0..16 * 8 * 16).map(|i| (i / 128, i / 16 % 8, i % 16)) {
            wanted[m * 8 + n] += a[m * 16 + k] * if transposed == 1 { b[n * 16 + k] } else { b[k * 8 + n] };
        }
        let narrow = |x: &[f32]| x.iter().map(|&x| bf16::from_f32(x)).collect::<Vec<_>>();
        let args = [d, gpu.upload(&narrow(&a)), gpu.upload(&narrow(&b))].map(gpu::Arg::from);
        gpu.launch("product_bf16", 1, 32, 0, 0, &[args[0], args[1], args[2], transposed.into()]);
        assert_eq!(gpu.download::<f32>(d, 128), wanted, "bf16, seed {seed}");
        let narrow = |x: &[f32]| x.iter().map(|&x| f16::from_f32(x)).collect::<Vec<_>>();
        let args = [d, gpu.upload(&narrow(&a)), gpu.upload(&narrow(&b))].map(gpu::Arg::from);
        gpu.launch("product_f16", 1, 32, 0, 0, &[args[0], args[1], args[2], transposed.into()]);
        assert_eq!(gpu.download::<f32>(d, 128), wanted, "f16, seed {seed}");
    }
}

#[test]
fn random_numbers_are_those_of_the_host() {
    let Some(mut gpu) = gpu::open(1) else { return };
    let (seed, index, n) = (0x1234_5678_9abc_def0u64, (1u64 << 33) - 2, 70usize);
    let [words, uniforms, wide, below] = [4, 4, 8, 4].map(|size| gpu.alloc(size * n));
    let outputs = [words, uniforms, wide, below, seed, index].map(gpu::Arg::from);
    gpu.launch("draw", 3, 32, 0, 0, &[&outputs[..], &[(n as u32).into()]].concat());
    let words = gpu.download::<u32>(words, n);
    let uniforms = gpu.download::<f32>(uniforms, n);
    let wide = gpu.download::<f64>(wide, n);
    let below = gpu.download::<u32>(below, n);
    for i in 0..n {
        let mut rng = Rng::new(seed, Stream::Test, index + i as u64);
        assert_eq!(words[i], rng.next_u32());
        assert_eq!(uniforms[i].to_bits(), rng.uniform().to_bits());
        assert_eq!(wide[i].to_bits(), rng.uniform_f64().to_bits());
        assert_eq!(below[i], rng.below(1000 + i as u32));
    }
}

#[test]
fn the_last_block_sees_all_blocks() {
    for seed in SEEDS {
        let Some(mut gpu) = gpu::open(seed) else { return };
        let (n, tickets) = (gpu.alloc(4), gpu.upload(&[0u32, 0]));
        gpu.launch("count_threads", 7, 50, 0, 0, &[n.into(), tickets.into()]);
        assert_eq!(gpu.download::<u32>(n, 1), [350], "seed {seed}");
    }
}

/// Runs `broken_<name>`: the error, or what it wrote.
fn run_broken(name: &str, seed: u64) -> Option<Result<Vec<f32>, String>> {
    let mut gpu = gpu::open(seed)?;
    let y = gpu.upload(&[5f32; 96]);
    gpu.launch(&format!("broken_{name}"), 2, 96, 256, 0, &[y.into(), 96u32.into()]);
    Some(gpu.synchronize().map(|()| gpu.download(y, 96)))
}

/// The lines of `broken_<name>` in its file.
fn lines_of(name: &str) -> std::ops::Range<usize> {
    let source = emulation::root().join("tests/emulation/planted/broken.cu");
    let source = std::fs::read_to_string(source).expect("the planted kernels");
    let starts: Vec<(usize, &str)> =
        source.lines().enumerate().filter(|(_, line)| line.starts_with("BROKEN(")).collect();
    let own = format!("BROKEN({name})");
    let at = starts.iter().position(|(_, line)| line.starts_with(&own)).expect("a planted kernel");
    starts[at].0 + 1..starts.get(at + 1).map_or(usize::MAX, |(next, _)| next + 1)
}

#[test]
fn bugs_end_in_an_error_that_names_kernel_and_line() {
    let gcc = emulation::compiler().is_ok_and(|compiler| compiler.is_gcc());
    for (name, words) in [
        ("write_far_behind", "illegal write of 4 bytes at byte"),
        ("write_just_behind", "illegal write of 4 bytes at byte 384 of an allocation of 384 bytes"),
        ("write_just_before", "illegal write of 4 bytes at byte -4 of an allocation of 384 bytes"),
        ("read_far_behind", "illegal read of 4 bytes at byte"),
        ("read_just_behind", "illegal read of 4 bytes at byte 384 of an allocation of 384 bytes"),
        ("read_just_before", "illegal read of 4 bytes at byte -4 of an allocation of 384 bytes"),
        ("vector_behind", "at byte 384 of an allocation of 384 bytes"),
        ("copy_from_outside", "cp_async16 from an address outside of all allocations"),
        ("null", "illegal access"),
        ("barrier_in_a_branch", "at different barriers"),
        ("shuffle_in_a_branch", "a shuffle"),
        ("vote_against_barrier", "deadlock"),
        ("shuffle_from_outside", "reads lane 20"),
        ("static_overrun", "behind its array in static shared memory"),
        ("dynamic_overrun", "behind its dynamic shared memory"),
        ("stack_overflow", "illegal access"),
        ("local_index", "index 4 of a 'float [4]'"),
        ("misaligned_vector", "is no multiple of 16 bytes"),
        ("misaligned_copy", "no multiple of 16 bytes"),
        ("ends_while_copying", "while its cp.async copies are under way"),
    ] {
        for seed in SEEDS {
            let Some(outcome) = run_broken(name, seed) else { return };
            // Without the checks of g++ what lies beside an allocation is guarded, by pages and a pattern: writes
            // end in an error without a line, and reads in NaN.
            if !gcc && (name.contains("read_just") || name == "vector_behind") {
                continue;
            }
            let error = outcome.expect_err(name);
            assert!(error.contains(&format!("kernel broken_{name}")), "{error}");
            if gcc || !name.contains("write_") {
                assert!(error.contains(words), "{name}, seed {seed}: {error}");
            }
            // What a thread has not waited for is known when it has ended, and has no line.
            if gcc && name != "ends_while_copying" {
                let numbers = error.split("broken.cu:").skip(1).map(|rest| {
                    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
                    digits.parse::<usize>().expect("a line")
                });
                let numbers: Vec<usize> = numbers.collect();
                let lines = lines_of(name);
                assert!(
                    !numbers.is_empty() && numbers.iter().all(|n| lines.contains(n)),
                    "{name}, seed {seed}: {error} is not in {lines:?}"
                );
            }
        }
    }
}

/// Also where the address is only computed in the kernel.
#[test]
fn memory_of_another_device_is_out_of_reach() {
    if !emulation::compiler().is_ok_and(|compiler| compiler.is_gcc()) {
        return eprintln!("skipped: 1 test of several devices: it takes g++");
    }
    for name in ["read_far_behind", "write_far_behind"] {
        let Some(mut gpu) = gpu::open(0) else { return };
        let y = gpu.upload(&[5f32; 96]);
        let far = gpu.alloc_elsewhere(4096);
        let n = u32::try_from((far - y) / 4 - 1000).expect("behind y, not far");
        gpu.launch(&format!("broken_{name}"), 1, 96, 256, 0, &[y.into(), n.into()]);
        let error = gpu.synchronize().expect_err("device 1 is not reachable");
        assert!(error.contains("byte 0 of an allocation of 4096 bytes of device 1"), "{error}");
    }
}

/// What mbarriers and named barriers order.
#[test]
fn values_are_handed_over() {
    for seed in SEEDS {
        let Some(mut gpu) = gpu::open(seed) else { return };
        let y = gpu.alloc(384);
        gpu.launch("hand_over", 1, 96, 64, 0, &[y.into(), 5u32.into()]);
        assert_eq!(gpu.download::<f32>(y, 96), [5.0; 96], "seed {seed}");
    }
}

#[test]
fn silent_bugs_show_in_what_is_written() {
    for name in [
        "uninitialized",
        "copy_not_waited_for",
        "missing_barrier",
        "missing_second_barrier",
        "missing_mbarrier_wait",
    ] {
        let mut found = 0;
        for seed in SEEDS {
            let Some(outcome) = run_broken(&format!("silent_{name}"), seed) else { return };
            found += usize::from(outcome.expect(name).iter().any(|&v| v != 96.0));
        }
        assert!(found > 0, "{name} is not found");
    }
}

/// Launches for `races_are_reported`, which starts this in a process of its own.
#[test]
#[ignore = "started by races_are_reported"]
fn launches_are_recorded() {
    let Some(mut gpu) = gpu::open(0) else { return };
    let (x, sum, most) = (gpu.upload(&[1f32; 300]), gpu.alloc(12), gpu.alloc(12));
    gpu.launch("reduce_rows", 3, 128, 0, 0, &[sum.into(), most.into(), x.into(), 100u32.into()]);
    let tickets = gpu.upload(&[0u32, 0]);
    gpu.launch("count_threads", 3, 50, 0, 0, &[sum.into(), tickets.into()]);
    for name in ["missing_barrier", "missing_second_barrier", "missing_mbarrier_wait"] {
        let y = gpu.alloc(384);
        gpu.launch(&format!("broken_silent_{name}"), 1, 96, 256, 0, &[y.into(), 5u32.into()]);
    }
    let y = gpu.alloc(384);
    gpu.launch("hand_over", 1, 96, 64, 0, &[y.into(), 5u32.into()]);
    gpu.synchronize().expect("no error");
}

/// ThreadSanitizer names the kernel and the lines, and has nothing to say about what is right.
#[test]
fn races_are_reported() {
    if let Some(why) = races::unavailable() {
        return eprintln!("skipped: 1 test of races: {why}");
    }
    let folder = tempfile::tempdir().expect("a folder");
    let child = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "--ignored", "planted::launches_are_recorded"])
        .env("L2P_EMU_RECORD", folder.path())
        .output()
        .expect("this program starts");
    assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stdout));
    let kernels = emulation::root().join("tests/emulation/planted");
    let found = races::replay(&kernels, folder.path()).expect("a replay");
    assert_eq!(found.launches, 6);
    assert!(found.never.iter().any(|name| name == "twice_plus"), "{:?}", found.never);
    let source = std::fs::read_to_string(kernels.join("broken.cu")).expect("the planted kernels");
    let line = |text: &str| source.lines().position(|l| l.contains(text)).expect("a line") + 1;
    // Both accesses by line.
    let races = [
        (
            "broken_silent_missing_barrier",
            "s[threadIdx.x] = float(n);",
            "y[threadIdx.x] = s[95 - threadIdx.x];",
        ),
        (
            "broken_silent_missing_second_barrier",
            "if (threadIdx.x == 0) s[0] = float(i);",
            "if (i == n) y[threadIdx.x] = s[0];",
        ),
        (
            "broken_silent_missing_mbarrier_wait",
            "s[threadIdx.x] = float(n) * 1.f;",
            "y[threadIdx.x] = s[95 - threadIdx.x] * 1.f;",
        ),
    ];
    assert_eq!(found.reports.len(), races.len(), "{}", found.reports.join("\n"));
    for (kernel, write, read) in races {
        let lines = [write, read].map(|text| format!("broken.cu:{}", line(text)));
        let named = |r: &String| r.contains(kernel) && lines.iter().all(|line| r.contains(line));
        assert!(
            found.reports.iter().any(named),
            "no report about {kernel}, {lines:?}:\n{}",
            found.reports.join("\n")
        );
    }
}
