//! Ranks that are gone, that never come, that do something else.

use super::{All, machine, open, ranks, read, real, skip};
use l2p_engine::device::{Event, Graph, NcclComm, NcclId, Pinned, StreamKind};
use l2p_engine::error::Error;
use l2p_engine::tensor::all_reduce;
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

/// Rank 1 goes away after it has joined. Rank 0 waits until it is aborted; from then on every wait says why.
#[test]
fn a_rank_that_is_gone_does_not_hold_the_others() {
    for captured in [false, true] {
        let Some(_alone) = machine("a rank that is gone", 2) else { return };
        let gone = Barrier::new(2);
        ranks(2, |rank| {
            let clique = rank.join();
            let mut g = rank.tensor(&[1.0; 50]);
            // Once in peace: connections are made by the first one.
            all_reduce::start(&clique, &mut [g.view_mut()]).expect("started");
            clique.finish().expect("finished");
            assert_eq!(read(&g).expect("numbers"), [2.0; 50]);
            gone.wait();
            if rank.rank == 1 {
                // As if its process had died: it leaves nothing in order.
                clique.watch().abort("it is dead");
                return;
            }
            let mut pinned = Pinned::new(&rank.gpu, 200).expect("memory");
            let event = Event::new(&rank.gpu).expect("an event");
            let mut sum = || {
                all_reduce::start(&clique, &mut [g.view_mut()])?;
                clique.finish()
            };
            let graph = captured.then(|| Graph::capture(&rank.gpu, &mut sum).expect("a graph"));
            match &graph {
                Some(graph) => graph.launch().expect("launched"),
                None => sum().expect("queued"),
            }
            g.view().download(&mut pinned, StreamKind::Compute).expect("queued");
            event.record(StreamKind::Compute).expect("recorded");
            let watch = clique.watch();
            let killer = std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(150));
                watch.check().expect("no failure is known yet");
                watch.abort("rank 1 on node-b does not answer");
                watch.abort("a second reason");
                watch.check().expect_err("it is over").to_string()
            });
            let begun = Instant::now();
            let said = event.wait().expect_err("not what was asked for").to_string();
            let waited = begun.elapsed();
            assert!(waited > Duration::from_millis(100) && waited < Duration::from_secs(5), "{waited:?}");
            let why = "the exchange with the other GPUs was aborted: rank 1 on node-b does not answer";
            assert_eq!(said, format!("cuda:0, rank 0 of 2: {why}"));
            assert_eq!(killer.join().expect("no panic"), said);
            for (what, result) in [
                ("numbers", read(&g).map(|_| ())),
                ("pinned memory", pinned.bytes_mut().map(|_| ())),
                ("an event", event.wait()),
                ("a stream", rank.gpu.synchronize(StreamKind::Copy)),
                ("a start", all_reduce::start(&clique, &mut [g.view_mut()])),
                ("a finish", clique.finish()),
            ] {
                assert_eq!(result.expect_err(what).to_string(), said, "{what}");
            }
            let begun = Instant::now();
            drop((graph, clique, pinned, event));
            assert!(begun.elapsed() < Duration::from_secs(2), "leaving takes {:?}", begun.elapsed());
        });
    }
}

/// Rank 1 never comes. Rank 0 stops waiting when it is told to, and its GPU is as good as before.
#[test]
fn a_rank_that_never_comes_is_not_waited_for() {
    let Some(_alone) = machine("a rank that never comes", 1) else { return };
    let (gpu, begun) = (open(0), Instant::now());
    let mut asked = 0;
    let joined = NcclComm::join(&gpu, &NcclId::new().expect("an id"), 0, 2, || {
        asked += 1;
        if begun.elapsed() < Duration::from_millis(100) {
            Ok(())
        } else {
            Err(Error::failed("rank 1 did not come"))
        }
    });
    assert_eq!(joined.expect_err("alone").to_string(), "rank 1 did not come");
    assert!(
        asked > 5 && begun.elapsed() < Duration::from_secs(10),
        "asked {asked} times, {:?}",
        begun.elapsed()
    );
    gpu.synchronize(StreamKind::Compute).expect("as good as before");
    for (rank, size) in [(2, 2), (0, 0)] {
        let id = NcclId::new().expect("an id");
        let said = NcclComm::join(&gpu, &id, rank, size, || Ok(())).expect_err("no such rank").to_string();
        assert_eq!(said, format!("cuda:0: there is no rank {rank} of {size}"));
    }
}

/// Where a library hangs, the stand-in says what is wrong.
#[test]
fn ranks_that_sum_different_things_are_found() {
    if real() {
        return skip("different sums", "NCCL would hang");
    }
    let Some(_alone) = machine("different sums", 2) else { return };
    for (sizes, wanted) in [
        ([&[3, 5][..], &[5, 3]], "numbers in buffer 0"),
        ([&[3, 5], &[3]], "buffers"),
        ([&[8], &[3, 5]], "buffers"),
    ] {
        let all = Arc::new(All::default());
        ranks(2, |rank| {
            let clique = rank.join();
            all.watches.lock().expect("watches").push(clique.watch());
            let mut g: Vec<_> = sizes[rank.rank].iter().map(|&n| rank.tensor(&vec![1.0; n])).collect();
            let mut views: Vec<_> = g.iter_mut().map(|g| g.view_mut()).collect();
            all_reduce::start(&clique, &mut views).expect("no failure is known yet");
            drop(views);
            clique.finish().expect("queued");
            let watch = clique.watch();
            let watcher = std::thread::spawn(move || {
                loop {
                    if let Err(why) = watch.check() {
                        watch.abort(&why.to_string());
                        return why.to_string();
                    }
                    std::thread::sleep(Duration::from_millis(2));
                }
            });
            let said = read(&g[0]).expect_err("no sums").to_string();
            assert!(said.contains("the exchange with the other GPUs failed: invalid usage"), "{said}");
            assert!(said.contains(wanted), "{said}");
            assert!(said.contains(&watcher.join().expect("no panic")), "{said}");
        });
    }
}

#[test]
fn one_gpu_cannot_be_two_ranks() {
    let Some(_alone) = machine("a GPU twice", 1) else { return };
    let id = NcclId::new().expect("an id");
    let begun = Instant::now();
    let said: Vec<String> = std::thread::scope(|scope| {
        let join = |rank| {
            move || {
                let late = || {
                    let over = begun.elapsed() > Duration::from_secs(20);
                    if over { Err(Error::failed("NCCL says nothing")) } else { Ok(()) }
                };
                NcclComm::join(&open(0), &id, rank, 2, late).expect_err("refused").to_string()
            }
        };
        let both = [scope.spawn(join(0)), scope.spawn(join(1))];
        both.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    // On a real one the library's words are what one wants to know.
    let _ = std::io::Write::write_all(
        &mut std::io::stderr(),
        format!("one GPU as two ranks: {said:?}\n").as_bytes(),
    );
    if !real() {
        assert!(said.iter().all(|s| s.contains("Duplicate GPU detected")), "{said:?}");
        assert!(said[0].starts_with("cuda:0, rank 0 of 2: "), "{said:?}");
    }
}
