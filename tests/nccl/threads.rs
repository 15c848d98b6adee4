//! Ranks as threads of one process, each with a GPU of its own.

use super::{Rank, emulation, forget_waits, machine, numbers, ranks, read, real, skip, sums};
use l2p_engine::device::{Device, Event, Graph, StreamKind};
use l2p_engine::ops::axpy;
use l2p_engine::tensor::{DType, Tensor, all_reduce};
use l2p_engine::testing::cases::{self, On};
use std::sync::Barrier;

/// Odd ones, one number, none, more than a block.
const SIZES: [usize; 6] = [1, 7, 1000, 0, 33, 4099];

/// g = 2 x, by two kernels from NaN, then the sums of g over the ranks, then y = g - x, by kernels again; what is
/// wrong with y and g, if anything.
fn round(rank: &Rank, clique: &l2p_engine::device::NcclComm, salt: usize) -> Option<String> {
    let dev = rank.dev();
    let x: Vec<Tensor> = SIZES.iter().map(|&n| rank.tensor(&rank.numbers(n, salt))).collect();
    let mut g: Vec<Tensor> = SIZES.iter().map(|&n| rank.tensor(&vec![f64::NAN; n])).collect();
    let mut y: Vec<Tensor> = SIZES.iter().map(|&n| rank.tensor(&vec![f64::NAN; n])).collect();
    for (g, x) in g.iter_mut().zip(&x) {
        g.view_mut().copy_from(x.view()).expect("a copy");
        axpy::axpy(&dev, g.view_mut(), x.view(), 1.0).expect("a launch");
    }
    let mut views: Vec<_> = g.iter_mut().map(Tensor::view_mut).collect();
    all_reduce::start(clique, &mut views).expect("started");
    drop(views);
    clique.finish().expect("finished");
    for ((y, g), x) in y.iter_mut().zip(&g).zip(&x) {
        y.view_mut().copy_from(g.view()).expect("a copy");
        axpy::axpy(&dev, y.view_mut(), x.view(), -1.0).expect("a launch");
    }
    for (i, &n) in SIZES.iter().enumerate() {
        let sum: Vec<f64> = sums(rank.size, n, salt).iter().map(|s| 2.0 * s).collect();
        let rest: Vec<f64> = sum.iter().zip(rank.numbers(n, salt)).map(|(s, x)| s - x).collect();
        // y first: reading g waits only for sums that were waited for before.
        if read(&y[i]).expect("numbers") != rest || read(&g[i]).expect("numbers") != sum {
            return Some(format!("rank {} of {}, {n} numbers", rank.rank, rank.size));
        }
    }
    None
}

#[test]
fn every_rank_gets_the_sums_of_all() {
    for size in [1, 2, 4] {
        let Some(_alone) = machine(&format!("sums over {size}"), size) else { continue };
        for seed in [0, 1, 2] {
            emulation::set_seed(seed);
            ranks(size, |rank| {
                let clique = rank.join();
                for salt in 0..3 {
                    assert_eq!(round(rank, &clique, salt), None, "seed {seed}, round {salt}");
                }
                clique.watch().check().expect("no error");
            });
        }
    }
}

/// The test above, with the first or the second wait forgotten: it must fail.
#[test]
fn a_forgotten_wait_shows() {
    if real() {
        return skip("forgotten waits", "they are forgotten by the emulated driver only");
    }
    let Some(_alone) = machine("forgotten waits", 2) else { return };
    for (lane, seeds) in [(StreamKind::Communication, 1..9), (StreamKind::Compute, 0..1)] {
        let mut wrong = 0;
        for seed in seeds.clone() {
            emulation::set_seed(seed);
            let found = ranks(2, |rank| {
                let clique = rank.join();
                forget_waits(&rank.gpu, lane, true);
                let found = round(rank, &clique, 5);
                forget_waits(&rank.gpu, lane, false);
                rank.gpu.synchronize(StreamKind::Communication).expect("no error");
                found
            });
            wrong += usize::from(found.iter().any(Option::is_some));
        }
        assert!(wrong > 0, "no test notices that the stream for {lane:?} does not wait ({seeds:?})");
    }
}

/// Gradients are made, summed while something else is computed, and used, in one graph.
#[test]
fn sums_are_captured_and_replayed() {
    for size in [1, 2, 4] {
        let Some(_alone) = machine(&format!("graphs of {size}"), size) else { continue };
        for seed in [0, 3, 4] {
            emulation::set_seed(seed);
            ranks(size, |rank| {
                let (dev, n, clique) = (rank.dev(), 517, rank.join());
                let mut x = rank.tensor(&vec![0.0; n]);
                let [mut g, mut counts, mut y, mut other] =
                    [n, 3, n, n].map(|n| rank.tensor(&vec![f64::NAN; n]));
                let one = rank.tensor(&[1.0; 3]);
                let mut work = |x: &Tensor| {
                    g.view_mut().copy_from(x.view())?;
                    counts.view_mut().copy_from(one.view())?;
                    all_reduce::start(&clique, &mut [g.view_mut(), counts.view_mut()])?;
                    // A second one in the same graph follows the first.
                    other.view_mut().copy_from(x.view())?;
                    for _ in 0..4 {
                        axpy::axpy(&dev, other.view_mut(), x.view(), 1.0)?;
                    }
                    all_reduce::start(&clique, &mut [counts.view_mut()])?;
                    clique.finish()?;
                    y.view_mut().copy_from(g.view())?;
                    axpy::axpy(&dev, y.view_mut(), other.view(), 1.0)
                };
                work(&x).expect("a first run");
                let graph = Graph::capture(&rank.gpu, || work(&x)).expect("a graph");
                for salt in 10..14 {
                    x.view_mut()
                        .write(&rank.numbers(n, salt).iter().map(|&v| v as f32).collect::<Vec<_>>())
                        .expect("set");
                    graph.launch().expect("a launch");
                    let sum = sums(size, n, salt);
                    let wanted: Vec<f64> =
                        sum.iter().zip(rank.numbers(n, salt)).map(|(s, x)| s + 5.0 * x).collect();
                    assert_eq!(read(&y).expect("numbers"), wanted, "seed {seed}, {salt}");
                    assert_eq!(read(&counts).expect("numbers"), [(size * size) as f64; 3]);
                }
                drop(graph);
                let begun = std::time::Instant::now();
                drop(clique);
                assert!(begun.elapsed().as_secs() < 5, "a clique whose graphs are gone is left at once");
            });
        }
    }
}

/// What does not need the sums does not wait for them: here the other rank comes only when it is done.
#[test]
fn what_is_launched_meanwhile_runs_meanwhile() {
    let Some(_alone) = machine("overlap", 2) else { return };
    let done = Barrier::new(2);
    ranks(2, |rank| {
        let (dev, clique) = (rank.dev(), rank.join());
        let mut g = rank.tensor(&rank.numbers(100, 1));
        if rank.rank == 1 {
            done.wait();
        }
        all_reduce::start(&clique, &mut [g.view_mut()]).expect("started");
        if rank.rank == 0 {
            let mut other = rank.tensor(&[1.0; 10]);
            axpy::scale_in_place(&dev, other.view_mut(), 3.0).expect("a launch");
            let event = Event::new(&rank.gpu).expect("an event");
            event.record(StreamKind::Compute).expect("recorded");
            event.wait().expect("does not wait for the other rank");
            assert_eq!(read(&other).expect("numbers"), [3.0; 10]);
            done.wait();
        }
        clique.finish().expect("finished");
        assert_eq!(read(&g).expect("numbers"), sums(2, 100, 1));
    });
}

/// The same cases on every GPU at once, from a thread each: scratch memory, caches, kernels and contexts are
/// each GPU's own.
#[test]
fn gpus_of_one_process_do_not_meet() {
    let Some(_alone) = machine("threads", 2) else { return };
    emulation::set_seed(1);
    let ops = ["sum", "layer_norm", "match_prompts", "gather", "axpy"];
    let all: Vec<_> = cases::small().into_iter().filter(|case| ops.contains(&case.op)).collect();
    let results = ranks(2, |rank| {
        let on = On { dev: rank.dev(), band: 64 };
        // Each begins elsewhere in the list.
        let mut found: Vec<(usize, Vec<Vec<f64>>)> = (0..all.len())
            .map(|i| {
                let i = (i + rank.rank * all.len() / 2) % all.len();
                let data = all[i].data(7, DType::F32).to(&on.dev, DType::F32).expect("an upload");
                (i, all[i].everything(&on, &data).expect("results"))
            })
            .collect();
        found.sort_by_key(|(i, _)| *i);
        found
    });
    let bits = |found: &[(usize, Vec<Vec<f64>>)]| -> Vec<u64> {
        found.iter().flat_map(|(_, arrays)| arrays.iter().flatten().map(|v| v.to_bits())).collect()
    };
    assert!(bits(&results[0]) == bits(&results[1]), "two GPUs give different bits");
    assert!(bits(&results[0]).len() > 1000 && all.len() > 10, "{} cases", all.len());
}

#[test]
fn what_cannot_be_summed_is_named() {
    let Some(_alone) = machine("errors", 2) else { return };
    ranks(2, |rank| {
        let clique = rank.join();
        let say = |x: &mut Tensor| {
            all_reduce::start(&clique, &mut [x.view_mut()]).expect_err("must be refused").to_string()
        };
        let mut half = Tensor::zeros_on(&rank.dev(), [3], DType::F16).expect("memory");
        assert_eq!(say(&mut half), "all_reduce: `x` must be F32 in GPU memory, got F16 in GPU memory");
        let mut host = Tensor::zeros([3], DType::F32);
        assert_eq!(say(&mut host), "all_reduce: `x` must be F32 in GPU memory, got F32");
        let other = super::open(1 - rank.rank);
        // Kept to the end: freeing it would wait for what the other rank has started.
        let mut far = Tensor::zeros_on(&Device::Cuda(other), [3], DType::F32).expect("memory");
        let said = say(&mut far);
        let (own, whose) = (rank.rank, 1 - rank.rank);
        assert_eq!(
            said,
            format!("cuda:{own}, rank {own} of 2: memory of cuda:{whose} cannot be summed from here")
        );
        // None of that has been started.
        let mut g = rank.tensor(&numbers(rank.rank, 9, 2));
        all_reduce::start(&clique, &mut [g.view_mut()]).expect("started");
        clique.finish().expect("finished");
        assert_eq!(read(&g).expect("numbers"), sums(2, 9, 2));
    });
}

/// The emulated GPU refuses a kernel that is given another one's memory, as a real one does.
#[test]
fn memory_of_another_gpu_is_out_of_reach() {
    if real() {
        return skip("foreign memory", "the error of a real GPU ends its context");
    }
    let Some(_alone) = machine("foreign memory", 2) else { return };
    let [here, there] = [0, 1].map(|i| Device::Cuda(super::open(i)));
    let mut y = Tensor::zeros_on(&here, [5], DType::F32).expect("memory");
    let x = Tensor::zeros_on(&there, [5], DType::F32).expect("memory");
    let said = axpy::axpy(&here, y.view_mut(), x.view(), 1.0).expect_err("must be refused").to_string();
    assert!(said.contains("cuda:0") && said.contains("illegal memory access"), "{said}");
}
