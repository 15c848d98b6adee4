//! Ranks as processes, each with a driver of its own.

use super::{machine, numbers, open, read, real, skip, sums};
use l2p_engine::device::{Device, Graph, NcclComm, NcclId};
use l2p_engine::error::{Error, Result};
use l2p_engine::tensor::{DType, Tensor, all_reduce};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const N: usize = 2049;

fn hex(id: &NcclId) -> String {
    id.bytes().iter().map(|b| format!("{b:02x}")).collect()
}

fn of_hex(text: &str) -> NcclId {
    let byte = |i: usize| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).expect("two digits");
    NcclId::from(std::array::from_fn::<u8, { NcclId::BYTES }, _>(byte))
}

fn join(id: &NcclId, rank: usize, gpu: usize) -> Result<NcclComm> {
    let begun = Instant::now();
    NcclComm::join(&open(gpu), id, rank, 2, || match begun.elapsed().as_secs() {
        0..20 => Ok(()),
        _ => Err(Error::failed("the other rank does not come")),
    })
}

/// Ten sums, of which the last eight are one graph.
fn work(clique: &NcclComm, rank: usize) {
    let gpu = clique.gpu();
    let dev = Device::Cuda(gpu.clone());
    let mut g = Tensor::zeros_on(&dev, [N], DType::F32).expect("memory");
    let set = |g: &mut Tensor, salt: usize| {
        let values: Vec<f32> = numbers(rank, N, salt).iter().map(|&v| v as f32).collect();
        g.view_mut().write(&values).expect("set");
    };
    let sum = |g: &mut Tensor| {
        all_reduce::start(clique, &mut [g.view_mut()])?;
        clique.finish()
    };
    for salt in 0..2 {
        set(&mut g, salt);
        sum(&mut g).expect("queued");
        assert_eq!(read(&g).expect("numbers"), sums(2, N, salt));
    }
    let graph = Graph::capture(gpu, || sum(&mut g)).expect("a graph");
    for salt in 2..10 {
        set(&mut g, salt);
        graph.launch().expect("queued");
        assert_eq!(read(&g).expect("numbers"), sums(2, N, salt));
    }
}

/// This test program as the other rank.
fn other(id: &NcclId, how: &str, gpu: usize) -> Child {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["--exact", "--ignored", "processes::other_rank", "--nocapture"]);
    command.env("L2P_TEST_NCCL", format!("{how} {gpu} {}", hex(id)));
    // What it says when it ends is a sentence among others.
    command.env("RUST_BACKTRACE", "0");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("it starts")
}

/// Rank 1 of the tests below.
#[test]
#[ignore = "started by the other tests"]
fn other_rank() {
    let Ok(text) = std::env::var("L2P_TEST_NCCL") else { return };
    let words: Vec<&str> = text.split(' ').collect();
    let gpu = words[1].parse().expect("a number");
    let Some(_alone) = machine("another process", gpu + 1) else { return };
    let joined = join(&of_hex(words[2]), 1, gpu);
    if words[0] == "refused" {
        eprintln!("{}", joined.expect_err("refused"));
        return;
    }
    let clique = joined.expect("a clique");
    work(&clique, 1);
    if words[0] == "dies" {
        std::process::abort();
    }
}

fn ended(child: Child, well: bool) -> String {
    let output = child.wait_with_output().expect("an end");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.success(), well, "{said}");
    said
}

#[test]
fn two_processes_sum() {
    let Some(_alone) = machine("two processes", 2) else { return };
    let id = NcclId::new().expect("an id");
    let child = other(&id, "works", 1);
    let clique = join(&id, 0, 0).expect("a clique");
    work(&clique, 0);
    let begun = Instant::now();
    drop(clique);
    assert!(begun.elapsed() < Duration::from_secs(5), "leaving takes {:?}", begun.elapsed());
    ended(child, true);
}

#[test]
fn a_process_that_dies_does_not_hold_the_other() {
    let Some(_alone) = machine("a process that dies", 2) else { return };
    let id = NcclId::new().expect("an id");
    let child = other(&id, "dies", 1);
    let clique = join(&id, 0, 0).expect("a clique");
    work(&clique, 0);
    let mut g = Tensor::zeros_on(&Device::Cuda(clique.gpu().clone()), [N], DType::F32).expect("memory");
    let said = ended(child, false);
    assert!(!said.contains("panicked"), "{said}");
    all_reduce::start(&clique, &mut [g.view_mut()]).expect("queued");
    clique.finish().expect("queued");
    let watch = clique.watch();
    let killer = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(100));
        watch.abort("rank 1 ended with signal 6");
    });
    let said = read(&g).expect_err("no sums").to_string();
    assert!(said.ends_with("aborted: rank 1 ended with signal 6"), "{said}");
    killer.join().expect("no panic");
}

/// As far as NCCL allows it: usually not at all, and what it says then is what one wants to know.
#[test]
fn two_processes_share_a_gpu() {
    let Some(_alone) = machine("two processes on one GPU", 1) else { return };
    let id = NcclId::new().expect("an id");
    let child = other(&id, if real() { "works" } else { "refused" }, 0);
    match join(&id, 0, 0) {
        Ok(clique) => {
            assert!(real(), "the stand-in refuses");
            work(&clique, 0);
            drop(clique);
            ended(child, true);
            eprintln!("two processes on one GPU: they sum");
        }
        Err(why) => {
            let output = child.wait_with_output().expect("an end");
            let other = String::from_utf8_lossy(&output.stderr).into_owned();
            eprintln!("two processes on one GPU: rank 0: {why}; rank 1: {}", other.trim());
            if real() {
                return skip("two processes on one GPU", &why.to_string());
            }
            assert!(why.to_string().contains("Duplicate GPU detected"), "{why}");
            assert!(other.contains("Duplicate GPU detected"), "{other}");
        }
    }
}
