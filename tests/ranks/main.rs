//! The ranks of a run: threads, threads that stand for processes, and processes. Nothing here waits for
//! a time to pass in the hope that something has happened; where a limit is to pass, it is a short one.

use hmac::{Hmac, Mac};
use l2p_engine::comm::{Comm, Launch, run};
use l2p_engine::rng::{Rng, Stream};
use l2p_engine::{Error, Result};
use sha2::Sha256;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Barrier, Mutex};
use std::time::{Duration, Instant};

/// Long enough that nothing runs into it.
const LONG: Duration = Duration::from_secs(60);

/// A launch of `processes`, one for each, on a port of this host that is open already.
fn launches(processes: usize) -> Vec<Launch> {
    let listener = Arc::new(TcpListener::bind("127.0.0.1:0").expect("a port"));
    let port = listener.local_addr().expect("an address").port();
    let one = |process| Launch {
        process,
        processes,
        port,
        token: "secret".into(),
        fingerprint: "configuration".into(),
        join_timeout: LONG,
        rank_timeout: LONG,
        listener: (process == 0).then(|| listener.clone()),
        ..Launch::single()
    };
    (0..processes).map(one).collect()
}

/// Threads that stand for processes with so many ranks each; what each process returned.
fn together<T: Send>(
    launches: &[Launch],
    ranks: &[usize],
    work: impl Fn(Comm) -> Result<T> + Sync,
) -> Vec<Result<T>> {
    std::thread::scope(|scope| {
        let work = &work;
        let all: Vec<_> = launches
            .iter()
            .zip(ranks)
            .map(|(launch, local)| scope.spawn(move || run(launch, *local, work)))
            .collect();
        all.into_iter().map(|p| p.join().expect("no panic")).collect()
    })
}

/// Every way to spread four ranks that matters.
const SPREADS: [&[usize]; 5] = [&[4], &[2, 2], &[1, 1, 1, 1], &[1, 2, 1], &[3, 1]];

fn spread<T: Send>(ranks: &[usize], work: impl Fn(Comm) -> Result<T> + Sync) -> Vec<Result<T>> {
    together(&launches(ranks.len()), ranks, work)
}

fn ok<T>(results: Vec<Result<T>>) -> Vec<T> {
    results.into_iter().map(|r| r.unwrap_or_else(|e| panic!("{e}"))).collect()
}

/// The one sentence that all processes returned.
fn sentence<T>(results: Vec<Result<T>>) -> String {
    let all: Vec<String> = results.into_iter().map(|r| r.err().expect("a failure").to_string()).collect();
    assert!(all.iter().all(|s| *s == all[0]), "{all:#?}");
    all[0].clone()
}

fn contains(text: &str, wanted: &[&str]) {
    for wanted in wanted {
        assert!(text.contains(wanted), "`{wanted}` is not in: {text}");
    }
}

#[test]
fn one_rank_is_alone_and_on_this_thread() {
    let here = std::thread::current().id();
    let sum = run(&Launch::single(), 1, |comm| {
        assert_eq!(std::thread::current().id(), here);
        assert!(comm.is_alone() && comm.is_first());
        assert_eq!((comm.rank(), comm.size(), comm.local_rank(), comm.local_size()), (0, 1, 0, 1));
        let mut values = [1.5f32, -0.0];
        comm.sum_f32("values", &mut values)?;
        assert_eq!(values.map(f32::to_bits), [1.5f32, -0.0].map(f32::to_bits));
        assert_eq!(*comm.all_gather("bytes", vec![7])?, vec![vec![7]]);
        assert_eq!(comm.broadcast("bytes", vec![8])?, vec![8]);
        assert!(comm.any("flag", true)? && !comm.any("flag", false)?);
        comm.expect_same("parameters", &[1])?;
        comm.check()?;
        comm.barrier("end")
    });
    sum.expect("nothing to fail");
    let error = run(&Launch::single(), 1, |_| Err::<(), _>(Error::Interrupted("saved".into())));
    assert!(matches!(error, Err(Error::Interrupted(why)) if why == "saved"));
    assert_eq!(run(&Launch::single(), 0, |_| Ok(())).expect_err("no ranks").exit_code(), 2);
}

/// What does not fit into one message is sent in several, of ranks with different amounts.
#[test]
fn large_gatherings_travel_in_pieces() {
    let part = |rank: usize| -> Vec<u8> {
        (0..1000 * rank + 5 * (rank % 2)).map(|i| (i * 7 + rank) as u8).collect()
    };
    for ranks in SPREADS {
        for piece in [1000, 999, 64, 1 << 20] {
            ok(spread(ranks, |comm| {
                let all = comm.all_gather_in_pieces("features", &part(comm.rank()), piece)?;
                assert_eq!(all, (0..4).map(part).collect::<Vec<_>>(), "pieces of {piece}");
                let none = comm.all_gather_in_pieces("nothing", &[], piece)?;
                assert_eq!(none, vec![Vec::<u8>::new(); 4]);
                Ok(())
            }));
        }
    }
}

#[test]
fn everyone_gets_everything_in_rank_order() {
    for ranks in SPREADS {
        let first = ok(spread(ranks, |comm| {
            assert_eq!(comm.size(), 4);
            for turn in 0..20u8 {
                let mine = vec![turn; comm.rank() + 1];
                let all = comm.all_gather("bytes", mine)?;
                assert_eq!(*all, (1..5).map(|n| vec![turn; n]).collect::<Vec<_>>());
                let from_first = comm.broadcast("word", vec![comm.rank() as u8, turn])?;
                assert_eq!(from_first, [0, turn]);
                for said in 0..4 {
                    assert!(comm.any("stop", comm.rank() == said)?);
                }
                assert!(!comm.any("stop", false)?);
                comm.barrier("end of a turn")?;
            }
            Ok((comm.rank(), comm.local_rank(), comm.local_size()))
        }));
        // Each process returns what its first rank returned.
        let mut next = 0;
        for (process, (rank, local, size)) in first.into_iter().enumerate() {
            assert_eq!((rank, local, size), (next, 0, ranks[process]));
            next += size;
        }
    }
}

/// Numbers of very different sizes: any other order of adding gives other bits.
fn numbers(rank: usize, length: usize) -> Vec<f64> {
    let mut rng = Rng::new(rank as u64, Stream::Test, 0);
    (0..length).map(|_| f64::from(rng.uniform() - 0.5) * 2f64.powi((60.0 * rng.uniform()) as i32)).collect()
}

#[test]
fn sums_have_the_same_bits_however_ranks_are_spread() {
    for length in [0, 1, 3, 1000, 300_001] {
        let one: Vec<Vec<f64>> = (0..4).map(|rank| numbers(rank, length)).collect();
        let (mut wide, mut narrow) = (one[0].clone(), one[0].iter().map(|v| *v as f32).collect::<Vec<_>>());
        for other in &one[1..] {
            wide.iter_mut().zip(other).for_each(|(s, v)| *s += v);
            narrow.iter_mut().zip(other).for_each(|(s, v)| *s += *v as f32);
        }
        let mut backwards: Vec<f64> = one[3].clone();
        for other in [2, 1, 0] {
            backwards.iter_mut().zip(&one[other]).for_each(|(s, v)| *s += v);
        }
        assert!(length < 1000 || backwards != wide, "the order must matter");
        for ranks in SPREADS {
            ok(spread(ranks, |comm| {
                let mut doubles = one[comm.rank()].clone();
                let mut floats: Vec<f32> = doubles.iter().map(|v| *v as f32).collect();
                comm.sum_f64("doubles", &mut doubles)?;
                comm.sum_f32("floats", &mut floats)?;
                let same = |(a, b): (&f64, &f64)| a.to_bits() == b.to_bits();
                assert!(doubles.iter().zip(&wide).all(same), "{length} doubles, {ranks:?}");
                let same = |(a, b): (&f32, &f32)| a.to_bits() == b.to_bits();
                assert!(floats.iter().zip(&narrow).all(same), "{length} floats, {ranks:?}");
                Ok(())
            }));
        }
    }
}

#[test]
fn negative_zero_and_nan_survive_a_sum() {
    for ranks in [&[2][..], &[1, 1]] {
        ok(spread(ranks, |comm| {
            let mut values = [-0.0f32, f32::NAN, f32::INFINITY, comm.rank() as f32];
            comm.sum_f32("values", &mut values)?;
            assert_eq!(values[0].to_bits(), (-0.0f32).to_bits());
            assert!(values[1].is_nan() && values[2] == f32::INFINITY && values[3] == 1.0);
            Ok(())
        }));
    }
}

/// All orders in which three ranks can come to a call, forced by letting each wait for the one before.
#[test]
fn ranks_may_arrive_in_any_order() {
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        for ranks in [&[3][..], &[2, 1], &[1, 2], &[1, 1, 1]] {
            let turn = Mutex::new(0);
            let changed = std::sync::Condvar::new();
            ok(spread(ranks, |comm| {
                let mine = order.iter().position(|r| *r == comm.rank()).expect("in the order");
                let mut now = turn.lock().expect("a lock");
                while *now < mine {
                    now = changed.wait(now).expect("a lock");
                }
                *now += 1;
                changed.notify_all();
                drop(now);
                let all = comm.all_gather("rank", vec![comm.rank() as u8])?;
                assert_eq!(*all, vec![vec![0], vec![1], vec![2]]);
                Ok(())
            }));
        }
    }
}

#[test]
fn processes_may_come_in_any_order() {
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        // The port is not open before process 0 comes: the others have to try again.
        let mut all = launches(3);
        let port = free_port();
        all.iter_mut().for_each(|l| (l.port, l.listener) = (port, None));
        std::thread::scope(|scope| {
            for process in order {
                let launch = &all[process];
                scope.spawn(move || run(launch, 1, |comm| comm.barrier("start")).expect("a run"));
                std::thread::yield_now();
            }
        });
    }
}

#[test]
fn different_purposes_are_named() {
    for ranks in [&[3][..], &[2, 1], &[1, 1, 1], &[1, 2]] {
        let said = sentence(spread(ranks, |comm| {
            comm.barrier("start")?;
            match comm.rank() {
                2 => comm.any("stop", false).map(|_| ()),
                _ => comm.sum_f32("gradients", &mut [0.0; 5]),
            }
        }));
        contains(&said, &["rank 2", "any `stop`", "5 f32 values of `gradients`", "the same order"]);
    }
    let said = sentence(spread(&[1, 1], |comm| comm.sum_f32("g", &mut vec![0.0; 3 + comm.rank()])));
    contains(&said, &["3 f32 values", "4 f32 values", "rank 0", "rank 1"]);
    let said = sentence(spread(&[2], |comm| match comm.rank() {
        0 => comm.sum_f32("g", &mut [0.0]),
        _ => comm.sum_f64("g", &mut [0.0]),
    }));
    contains(&said, &["1 f32", "1 f64"]);
}

#[test]
fn what_should_be_the_same_is_compared() {
    for ranks in SPREADS {
        let said = sentence(spread(ranks, |comm| {
            comm.expect_same("the parameters after task 1", &[3; 32])?;
            let digest = [if comm.rank() % 2 == 1 { 9 } else { 3 }; 32];
            comm.expect_same("the parameters after task 2", &digest)
        }));
        contains(
            &said,
            &["the parameters after task 2", "rank", "1", "3", "differ from rank 0's", "0909", "0303"],
        );
        // All ranks found it, and none failed alone.
        assert!(said.starts_with("the parameters"), "{said}");
    }
}

#[test]
fn an_error_of_one_rank_reaches_all() {
    for ranks in SPREADS {
        for culprit in 0..4 {
            let echoes = AtomicUsize::new(0);
            let results = spread(ranks, |comm| {
                comm.barrier("start")?;
                if comm.rank() == culprit {
                    return Err(Error::config("there is no such file"));
                }
                let echo = comm.sum_f32("gradients", &mut [1.0]).expect_err("a failure");
                assert_eq!(comm.check().expect_err("a failure").to_string(), echo.to_string());
                assert_eq!(comm.barrier("later").expect_err("a failure").to_string(), echo.to_string());
                echoes.fetch_add(1, Ordering::Relaxed);
                // What follows from a failure is not its cause.
                Err::<(), _>(Error::failed("the sum did not work"))
            });
            assert!(results.iter().all(|r| r.as_ref().is_err_and(|e| e.exit_code() == 2)), "{results:?}");
            let said = sentence(results);
            contains(&said, &[&format!("rank {culprit}"), ": there is no such file"]);
            assert_eq!(echoes.into_inner(), 3);
            assert_eq!(said.contains(" on "), ranks.len() > 1, "the host, where there are several: {said}");
        }
    }
}

/// Which of several failures at once was the first, process 0 decides for all.
#[test]
fn there_is_only_one_failure() {
    for ranks in SPREADS {
        for _ in 0..20 {
            let said = sentence(spread(ranks, |comm| {
                comm.barrier("start")?;
                Err::<(), _>(Error::failed(format!("failure of {}", comm.rank())))
            }));
            contains(&said, &["rank ", ": failure of "]);
        }
    }
}

#[test]
fn a_failure_that_a_rank_announces() {
    for ranks in [&[3][..], &[1, 2]] {
        let said = sentence(spread(ranks, |comm| {
            if comm.rank() == 1 {
                comm.fail(&Error::failed("no memory"));
                comm.fail(&Error::failed("something else"));
            }
            while comm.check().is_ok() {
                std::thread::yield_now();
            }
            comm.barrier("after it")
        }));
        contains(&said, &["rank 1", "no memory"]);
    }
}

#[test]
fn an_error_that_all_ranks_have_names_none_of_them() {
    let said = sentence(spread(&[4], |_| Err::<(), _>(Error::config("no such task"))));
    assert_eq!(said, "no such task");
    // A process that sees only its own ranks cannot tell.
    let said = sentence(spread(&[2, 2], |_| Err::<(), _>(Error::config("no such task"))));
    contains(&said, &["rank ", " on ", ": no such task"]);
}

#[test]
fn a_panic_is_a_failure() {
    for ranks in SPREADS {
        let said = sentence(spread(ranks, |comm| {
            if comm.rank() == 3 {
                std::panic::resume_unwind(Box::new(format!("index {} out of range", 7)));
            }
            comm.barrier("start")
        }));
        contains(&said, &["rank 3", "panicked: index 7 out of range"]);
    }
}

#[test]
fn an_interruption_of_all_stays_one() {
    for ranks in SPREADS {
        let results = spread(ranks, |comm| {
            assert!(comm.any("stop", comm.rank() == 2)?);
            Err::<(), _>(Error::Interrupted("saved after step 4".into()))
        });
        for result in results {
            let error = result.expect_err("an interruption");
            assert_eq!(error.exit_code(), 130);
            assert_eq!(error.to_string(), "interrupted: saved after step 4");
        }
    }
}

#[test]
fn a_rank_that_ends_early_is_not_waited_for() {
    for ranks in SPREADS {
        for interrupted in [false, true] {
            let said = sentence(spread(ranks, |comm| {
                comm.barrier("start")?;
                match comm.rank() {
                    2 if interrupted => Err(Error::Interrupted("by hand".into())),
                    2 => Ok(()),
                    _ => comm.barrier("end of the task"),
                }
            }));
            contains(&said, &["rank 2", "has ended", "waits for it", "end of the task"]);
            assert_eq!(said.contains("by hand"), interrupted, "{said}");
        }
    }
}

#[test]
fn ranks_may_end_at_different_times() {
    for ranks in SPREADS {
        let gate = Barrier::new(2);
        let values = ok(spread(ranks, |comm| {
            comm.barrier("last call")?;
            match comm.rank() {
                // The first leaves only after the last has been let go, and is not disturbed by its end.
                0 => {
                    gate.wait();
                    comm.check()?;
                }
                3 => drop(gate.wait()),
                _ => {}
            }
            Ok(comm.rank())
        }));
        assert_eq!(values[0], 0);
    }
}

/// A rank that says nothing. It hangs until the failure that this is has been announced.
#[test]
fn a_rank_that_hangs_is_named() {
    for ranks in [&[4][..], &[2, 2], &[1, 2]] {
        let mut all = launches(ranks.len());
        all.iter_mut().for_each(|l| l.rank_timeout = Duration::from_millis(800));
        let said = sentence(together(&all, ranks, |comm| {
            let (tell, told) = channel();
            comm.on_failure(move || tell.send(()).expect("the receiver waits"));
            comm.barrier("start")?;
            if comm.rank() == 2 {
                told.recv_timeout(LONG).expect("an alarm");
                return Ok(());
            }
            let echo = comm.sum_f32("gradients", &mut [0.0]);
            told.recv_timeout(LONG).expect("an alarm");
            echo
        }));
        contains(&said, &["nothing has been heard of rank 2", "0.8 s", "L2P_RANK_TIMEOUT_S"]);
    }
}

/// All ranks wait for their devices and make no call.
#[test]
fn silence_of_all_is_noticed() {
    for ranks in [&[2][..], &[1, 1]] {
        let mut all = launches(ranks.len());
        all.iter_mut().for_each(|l| l.rank_timeout = Duration::from_millis(300));
        let said = sentence(together(&all, ranks, |comm| {
            let (tell, told) = channel();
            comm.on_failure(move || tell.send(()).expect("the receiver waits"));
            told.recv_timeout(LONG).expect("an alarm");
            Err::<(), _>(Error::failed("the device was told to stop"))
        }));
        contains(&said, &["nothing has been heard of rank"]);
    }
}

/// Longer than the limit, but not silent.
#[test]
fn a_rank_that_says_that_it_is_alive_does_not_hang() {
    for ranks in [&[2][..], &[1, 1]] {
        let mut all = launches(ranks.len());
        all.iter_mut().for_each(|l| l.rank_timeout = Duration::from_millis(900));
        ok(together(&all, ranks, |comm| {
            let clock = Instant::now();
            while comm.rank() == 1 && clock.elapsed() < Duration::from_millis(1800) {
                comm.check()?;
                std::thread::sleep(Duration::from_millis(5));
            }
            comm.barrier("end")
        }));
    }
}

#[test]
fn alarms_ring_once_also_for_late_comers() {
    let rung = Arc::new(AtomicUsize::new(0));
    let counted = |comm: &Comm| {
        let rung = rung.clone();
        comm.on_failure(move || {
            rung.fetch_add(1, Ordering::SeqCst);
        });
    };
    let _ = sentence(spread(&[2, 1], |comm| {
        counted(&comm);
        if comm.rank() == 2 {
            return Err(Error::failed("broken"));
        }
        let echo = comm.barrier("start");
        counted(&comm);
        echo
    }));
    // `run` waits for them.
    assert_eq!(rung.load(Ordering::SeqCst), 5);
    ok(spread(&[2, 1], |comm| {
        counted(&comm);
        comm.barrier("start")
    }));
    assert_eq!(rung.load(Ordering::SeqCst), 5, "nothing has failed");
}

#[test]
fn two_calls_at_once_are_refused() {
    let said = sentence(spread(&[2], |comm| {
        if comm.rank() == 1 {
            while comm.check().is_ok() {
                std::thread::yield_now();
            }
            return comm.barrier("one");
        }
        let other = comm.clone();
        let beside = std::thread::spawn(move || other.barrier("one"));
        let own = comm.barrier("one");
        beside.join().expect("no panic").and(own)
    }));
    contains(&said, &["rank 0", "two calls at once"]);
}

// Finding each other.

#[test]
fn missing_processes_are_named() {
    let mut all = launches(5);
    all.iter_mut().for_each(|l| l.join_timeout = Duration::from_millis(700));
    all.remove(3);
    all.remove(1);
    let said = sentence(together(&all, &[1; 3], |comm| comm.barrier("start")));
    contains(&said, &["processes 1 and 3 of 5 have not joined 127.0.0.1", "0.7 s", "L2P_JOIN_TIMEOUT_S"]);
}

#[test]
fn a_missing_process_0_is_looked_for() {
    let mut launch = launches(2).remove(1);
    launch.port = free_port();
    launch.join_timeout = Duration::from_millis(300);
    let said = run(&launch, 1, |_| Ok(())).expect_err("no other process").to_string();
    contains(&said, &["process 1 of 2 could not join", "0.3 s", "is process 0 running"]);
}

/// Runs process 0 of two, and in place of process 1 a process that differs in one thing; what both say.
fn odd_one(change: impl Fn(&mut Launch)) -> (String, String) {
    let mut all = launches(2);
    // The odd one gives up first, and so names what process 0 did and not that it is gone.
    all[0].join_timeout = Duration::from_millis(2500);
    all[1].join_timeout = Duration::from_millis(1000);
    change(&mut all[1]);
    let mut both = together(&all, &[1, 1], |comm| comm.barrier("start")).into_iter();
    let mut next = || both.next().expect("two").expect_err("a failure").to_string();
    (next(), next())
}

#[test]
fn odd_processes_are_sent_away_with_a_sentence() {
    let (first, odd) = odd_one(|l| l.processes = 4);
    contains(&first, &["process 1 of 2 has not joined", "process 1 of 4 on", "tried to join this run of 2"]);
    contains(&odd, &["process 1 of 4 on", "tried to join this run of 2 processes"]);

    let (first, odd) = odd_one(|l| l.token = "another".into());
    contains(&first, &["process 1 of 2 has not joined", "127.0.0.1 has another L2P_TOKEN"]);
    contains(&odd, &["process 1 of 2 could not join", "L2P_TOKEN", "belongs to another launch"]);

    let (first, odd) = odd_one(|l| l.fingerprint = "other".into());
    contains(&first, &["process 1 of 2 on", "another configuration (other) than process 0 (configuration)"]);
    assert_eq!(first, odd);

    let (first, odd) = odd_one(|l| l.process = 7);
    contains(&first, &["process 1 of 2 has not joined", "process 7 of 2"]);
    contains(&odd, &["process 7 of 2"]);
}

#[test]
fn a_process_that_joins_twice_is_named() {
    let mut all = launches(3);
    all[2].process = 1;
    let said = sentence(together(&all, &[1, 1, 1], |comm| comm.barrier("start")));
    contains(&said, &["process 1 has joined", "twice: from", "(127.0.0.1:"]);
}

/// A process that comes when all have joined is neither told anything nor disturbs the run.
#[test]
fn a_late_process_tries_again_until_its_limit() {
    let all = launches(2);
    let late = Launch { join_timeout: Duration::from_millis(400), ..all[1].clone() };
    let said = Mutex::new(None);
    ok(together(&all, &[1, 1], |comm| {
        comm.barrier("start")?;
        if comm.rank() == 0 {
            *said.lock().expect("a lock") =
                Some(run(&late, 1, |_| Ok(())).expect_err("too late").to_string());
        }
        comm.barrier("end")
    }));
    contains(
        &said.into_inner().expect("a lock").expect("a sentence"),
        &["process 1 of 2 could not join", "0.4 s"],
    );
}

/// Runs that follow each other on one port, as with `--seeds`: a process that has finished the first comes
/// while process 0 still listens for it, and joins the second all the same.
#[test]
fn a_fast_process_joins_the_next_run_on_the_same_port() {
    for processes in [2, 4, 8] {
        let mut all = launches(processes);
        let port = free_port();
        all.iter_mut().for_each(|l| (l.port, l.listener) = (port, None));
        std::thread::scope(|scope| {
            for launch in &all {
                scope.spawn(move || {
                    for seed in 0..6 {
                        let launch = Launch { fingerprint: format!("seed {seed}"), ..launch.clone() };
                        let sum = run(&launch, 1, |comm| {
                            let mut values = [1.0];
                            comm.sum_f64("values", &mut values)?;
                            Ok(values[0])
                        });
                        assert_eq!(sum.unwrap_or_else(|e| panic!("seed {seed}: {e}")), processes as f64);
                    }
                });
            }
        });
    }
}

/// Process 0 is held in the first run while a process that left it early asks for the second.
#[test]
fn process_0_may_be_late_for_the_next_run() {
    let mut all = launches(2);
    let port = free_port();
    all.iter_mut().for_each(|l| (l.port, l.listener) = (port, None));
    let next: Vec<Launch> = all.iter().map(|l| Launch { fingerprint: "next".into(), ..l.clone() }).collect();
    std::thread::scope(|scope| {
        let (begun, wait) = channel();
        let wait = Mutex::new(wait);
        let (all, next) = (&all, &next);
        scope.spawn(move || {
            run(&all[0], 1, |comm| {
                comm.barrier("start")?;
                let wait = wait.lock().expect("a lock");
                wait.recv_timeout(LONG).expect("the other process begins its next run");
                // Long enough that it meets the listener of this run.
                std::thread::sleep(Duration::from_millis(300));
                Ok(())
            })
            .expect("the first run");
            run(&next[0], 1, |comm| comm.barrier("second")).expect("the second run");
        });
        // Process 1 goes on without waiting for the end of the first run to be announced.
        let (started, first_run) = channel();
        let first = scope.spawn(move || {
            run(&all[1], 1, |comm| {
                comm.barrier("start")?;
                started.send(()).expect("the second run waits for this");
                Ok(())
            })
        });
        first_run.recv_timeout(LONG).expect("the first run");
        begun.send(()).expect("process 0 waits");
        run(&next[1], 1, |comm| comm.barrier("second")).expect("the second run");
        first.join().expect("no panic").expect("the first run");
    });
}

/// A connection that sends `bytes` and stays open.
fn other_client(port: u16, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("a listener");
    stream.write_all(bytes).expect("a few bytes");
    stream
}

const GREETING: &[u8] = b"l2pcomm2";

/// What the other side sends until it closes the connection.
fn answer(mut stream: TcpStream) -> Vec<u8> {
    stream.set_read_timeout(Some(LONG)).expect("a limit");
    let mut said = Vec::new();
    let _ = stream.read_to_end(&mut said);
    said
}

#[test]
fn others_neither_stop_nor_delay_a_run() {
    let all = launches(3);
    let port = all[0].port;
    let huge = [GREETING, &u32::MAX.to_le_bytes(), b"{}"].concat();
    let mut others: Vec<TcpStream> = Vec::new();
    let web = b"GET / HTTP/1.1\r\nHost: here\r\n\r\n";
    for bytes in [b"".as_slice(), b"l2p", web, &[0; 4096], b"l2pcomm1{}{}{}{}{}"] {
        others.extend((0..8).map(|_| other_client(port, bytes)));
    }
    let clock = Instant::now();
    ok(together(&all, &[1, 2, 1], |comm| {
        if comm.rank() == 0 {
            drop(other_client(port, &huge));
            drop(other_client(port, b"GET"));
        }
        comm.barrier("start")
    }));
    assert!(clock.elapsed() < Duration::from_secs(4), "they were waited for: {:?}", clock.elapsed());
    // Those that sent something else than the greeting got nothing back.
    for stream in others.into_iter().skip(16) {
        let said = answer(stream);
        assert!(said.is_empty(), "{said:?}");
    }
}

/// More connections than process 0 keeps: the oldest are dropped, the processes of the launch join.
#[test]
fn many_silent_others_do_not_keep_processes_out() {
    let all = launches(2);
    ok(std::thread::scope(|scope| {
        let first = scope.spawn(|| run(&all[0], 1, |comm| comm.barrier("start")));
        let others: Vec<TcpStream> = (0..600).map(|_| other_client(all[0].port, b"")).collect();
        let second = run(&all[1], 1, |comm| comm.barrier("start"));
        drop(others);
        vec![first.join().expect("no panic"), second]
    }));
}

/// What one side sends as a proof, by the token, the roles and the nonces.
fn proof(token: &str, role: &str, acceptor: &[u8], peer: &[u8]) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(token.as_bytes()).expect("a key");
    [role.as_bytes(), acceptor, peer].iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().to_vec()
}

/// Sends the greeting; returns the connection and the nonce of process 0.
fn greeted(port: u16, nonce: &[u8; 32]) -> (TcpStream, [u8; 32]) {
    let mut stream = other_client(port, &[GREETING, nonce].concat());
    let mut greeting = [0; 8 + 32];
    stream.read_exact(&mut greeting).expect("a greeting");
    assert_eq!(&greeting[..8], GREETING);
    (stream, greeting[8..].try_into().expect("32 bytes"))
}

#[test]
fn who_cannot_prove_the_token_learns_nothing_and_ends_nothing() {
    let all = launches(2);
    let port = all[0].port;
    let hello = frame(
        r#"[{"Hello":{"engine":"0","process":1,"processes":2,"ranks":1,"host":"x","fingerprint":"other"}},[]]"#,
    );
    ok(std::thread::scope(|scope| {
        let first = scope.spawn(|| run(&all[0], 1, |comm| comm.barrier("start")));
        let nonce = [7; 32];
        let (_, acceptor) = greeted(port, &nonce);
        let replayed = proof("secret", "l2p-engine peer", &acceptor, &nonce);
        for (what, token, role) in [
            ("another token", "guess", "l2p-engine peer"),
            ("the token itself", "secre", "l2p-engine peer"),
            ("the other role", "secret", "l2p-engine acceptor"),
        ] {
            let (mut odd, acceptor) = greeted(port, &nonce);
            odd.write_all(&proof(token, role, &acceptor, &nonce)).expect("a proof");
            let _ = odd.write_all(&hello);
            assert!(answer(odd).is_empty(), "{what}");
        }
        // A proof that was valid for another connection.
        let (mut odd, other) = greeted(port, &nonce);
        assert_ne!(other, acceptor, "a nonce is used once");
        odd.write_all(&replayed).expect("a proof");
        let _ = odd.write_all(&hello);
        assert!(answer(odd).is_empty(), "a replayed proof");
        // The greeting without a proof, and a message in its place.
        let (mut odd, _) = greeted(port, &nonce);
        odd.write_all(&hello).expect("a message");
        assert!(answer(odd).is_empty(), "no proof");
        let second = run(&all[1], 1, |comm| comm.barrier("start"));
        vec![first.join().expect("no panic"), second]
    }));
}

/// A process proves itself to process 0, and expects the same of what listens.
#[test]
fn a_listener_without_the_token_is_not_trusted() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let mut launch = launches(2).remove(1);
    launch.port = listener.local_addr().expect("an address").port();
    launch.join_timeout = Duration::from_millis(300);
    std::thread::scope(|scope| {
        let joining = scope.spawn(|| run(&launch, 1, |_| Ok(())).expect_err("a false listener").to_string());
        let (mut stream, _) = listener.accept().expect("a connection");
        let mut greeting = [0; 40];
        stream.read_exact(&mut greeting).expect("a greeting");
        stream.write_all(&[GREETING, &[9; 32]].concat()).expect("a greeting");
        let mut sent = [0; 32];
        stream.read_exact(&mut sent).expect("a proof");
        assert_eq!(sent.to_vec(), proof("secret", "l2p-engine peer", &[9; 32], &greeting[8..]));
        // Its own proof sent back, as one who does not know the token could.
        stream.write_all(&sent).expect("a proof");
        assert!(answer(stream).is_empty(), "it said what it is");
        drop(listener);
        contains(&joining.join().expect("no panic"), &["process 1 of 2 could not join", "L2P_TOKEN"]);
    });
}

/// A process that joins as it should and then sends `bytes`, its last or not; what the others make of it.
fn after_joining(bytes: &[u8], last: bool) -> String {
    let all = launches(2);
    let engine = env!("CARGO_PKG_VERSION");
    let hello = format!(
        r#"[{{"Hello":{{"engine":"{engine}","process":1,"processes":2,"ranks":2,"host":"elsewhere",
        "fingerprint":"configuration"}}}},[]]"#
    );
    std::thread::scope(|scope| {
        let first = scope.spawn(|| run(&all[0], 1, |comm| comm.barrier("start")));
        let nonce = [7; 32];
        let (mut odd, acceptor) = greeted(all[0].port, &nonce);
        odd.write_all(&proof("secret", "l2p-engine peer", &acceptor, &nonce)).expect("a proof");
        let mut theirs = [0; 32];
        odd.read_exact(&mut theirs).expect("a proof");
        assert_eq!(theirs.to_vec(), proof("secret", "l2p-engine acceptor", &acceptor, &nonce));
        odd.write_all(&frame(&hello)).expect("a hello");
        let mut length = [0; 4];
        odd.read_exact(&mut length).expect("a message");
        let mut head = vec![0; u32::from_le_bytes(length) as usize];
        odd.read_exact(&mut head).expect("a welcome");
        assert_eq!(String::from_utf8_lossy(&head), r#"["Welcome",[]]"#);
        odd.read_exact(&mut [0; 4]).expect("a start");
        odd.write_all(bytes).expect("a few bytes");
        if last {
            odd.shutdown(std::net::Shutdown::Write).expect("an open connection");
        }
        odd.read_to_end(&mut Vec::new()).expect("an end");
        drop(odd);
        first.join().expect("no panic").expect_err("a failure").to_string()
    })
}

fn frame(head: &str) -> Vec<u8> {
    [&(head.len() as u32).to_le_bytes(), head.as_bytes()].concat()
}

#[test]
fn a_member_that_speaks_nonsense_ends_the_run() {
    let misunderstood = ["the process of ranks 1 and 2 on elsewhere", "cannot be understood"];
    let call = |sizes: &str| frame(&format!(r#"[{{"Call":{{"number":0,"purpose":"x"}}}},{sizes}]"#));
    for bytes in [
        b"\xff\xff\xff\xff{}".to_vec(),
        frame("not JSON"),
        frame(r#"["Nothing",[]]"#),
        // More than can be: 4 TiB, and more than a number can say.
        call("[4398046511104]"),
        call("[18446744073709551615, 18446744073709551615]"),
    ] {
        contains(&after_joining(&bytes, false), &misunderstood);
    }
    let wrong = ["the process of ranks 1 and 2 on elsewhere", "sent a message that is not expected now"];
    for head in [r#"["Welcome",[]]"#, r#"["Over",[]]"#, r#"[{"Ended":{"rank":0,"interrupted":null}},[]]"#] {
        contains(&after_joining(&frame(head), false), &wrong);
    }
    contains(&after_joining(&call("[0]"), false), &wrong);
    contains(&after_joining(&frame(r#"[{"Call":{"number":7,"purpose":"x"}},[0,0]]"#), false), &wrong);
    contains(
        &after_joining(&call("[0,0]"), false),
        &["rank 0", "rank 1 on elsewhere is x", "the same order"],
    );
    // It makes the right call, announces a gigabyte and sends ten bytes.
    let right = r#"[{"Call":{"number":0,"purpose":"waiting at `start`"}},[536870912,536870912]]"#;
    let short = [frame(right), vec![0; 10]].concat();
    contains(&after_joining(&short, true), &["has ended without a word"]);
    contains(&after_joining(b"", true), &["has ended without a word"]);
}

#[test]
fn a_port_in_use_says_what_to_do() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let mut launch = launches(2).remove(0);
    (launch.listener, launch.port) = (None, taken.local_addr().expect("an address").port());
    let said = run(&launch, 1, |_| Ok(())).expect_err("the port is taken").to_string();
    contains(&said, &["process 0 cannot listen on 127.0.0.1:", "in use", "MASTER_PORT"]);
}

#[test]
fn names_and_both_kinds_of_addresses() {
    let v6 = TcpListener::bind("[::1]:0").is_ok();
    for address in ["localhost", "127.0.0.1", "0.0.0.0", "::1"] {
        if address == "::1" && !v6 {
            println!("skipped: this host has no IPv6");
            continue;
        }
        let mut all = launches(2);
        let port = free_port();
        for launch in &mut all {
            (launch.address, launch.port, launch.listener) = (address.into(), port, None);
        }
        ok(together(&all, &[1, 1], |comm| comm.barrier(address)));
    }
    let mut nowhere = launches(2).remove(1);
    (nowhere.address, nowhere.join_timeout) = ("no-such-host.invalid".into(), Duration::from_millis(200));
    let said = run(&nowhere, 1, |_| Ok(())).expect_err("no such host").to_string();
    contains(&said, &["could not join", "no-such-host.invalid"]);
}

// Processes of their own.

/// A port below those that the system gives away, not in use now.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        let number = std::process::id() as u16 % 97 * 113 + NEXT.fetch_add(1, Ordering::Relaxed);
        let port = 18_000 + number % 12_000;
        if TcpListener::bind(("0.0.0.0", port)).is_ok() {
            return port;
        }
    }
}

/// Starts the processes of a launch as torchrun does; each plays `part` in [`child`].
fn children(part: &str, processes: usize, seconds: f64) -> Vec<Child> {
    let port = free_port().to_string();
    let one = |process: usize| {
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command.args(["--exact", "child", "--nocapture", "--test-threads=1"]).env("L2P_TEST_PART", part);
        command.envs([("RANK", process.to_string()), ("LOCAL_RANK", process.to_string())]);
        command.envs([("WORLD_SIZE", processes.to_string()), ("L2P_RANK_TIMEOUT_S", seconds.to_string())]);
        command.env("MASTER_ADDR", "127.0.0.1").env("MASTER_PORT", &port);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("a process")
    };
    (0..processes).map(one).collect()
}

fn ends(children: Vec<Child>) -> Vec<Output> {
    children.into_iter().map(|c| c.wait_with_output().expect("an end")).collect()
}

/// Reads what a child says until it says `word`.
fn hear(child: &mut Child, word: &str) {
    let mut lines = BufReader::new(child.stdout.take().expect("an output")).lines();
    let heard = lines.by_ref().map_while(std::result::Result::ok).any(|line| line.contains(word));
    assert!(heard, "the child did not say {word}");
    // Keep reading, so that it is never stopped by a full pipe.
    std::thread::spawn(move || lines.for_each(drop));
}

fn signal(child: &Child, name: &str) {
    let kill = ["-s", name, &child.id().to_string()].map(String::from);
    assert!(Command::new("kill").args(kill).status().expect("kill").success());
}

/// The part of the child processes that other tests start; by itself it does nothing.
#[test]
fn child() {
    let Ok(part) = std::env::var("L2P_TEST_PART") else { return };
    let mut launch = Launch::from_env(|name| std::env::var(name).ok()).expect("the variables of torchrun");
    launch.grace = launch.rank_timeout.min(launch.grace);
    let ranks = if part == "stuck" { 2 } else { 1 };
    let ended = run(&launch, ranks, |comm| {
        comm.barrier("start")?;
        println!("started");
        let last = comm.size() - 1;
        match part.as_str() {
            "sum" => {
                let mut values = [comm.rank() as f64 + 0.5];
                comm.sum_f64("values", &mut values)?;
                println!("sum {}", values[0]);
                return Ok(());
            }
            // To be killed or stopped from outside.
            "wait 1" | "wait 2" if part.ends_with(&comm.rank().to_string()) => loop {
                comm.check()?;
                std::thread::sleep(Duration::from_millis(5));
            },
            "exit" if comm.rank() == last => std::process::exit(0),
            "first exits" if comm.rank() == 0 => std::process::exit(0),
            "stuck" if comm.rank() == last => loop {
                std::thread::park();
            },
            _ => {}
        }
        comm.barrier("what never comes")
    });
    if let Err(why) = ended {
        println!("failed: {why}");
        std::process::exit(why.exit_code());
    }
}

/// What each of them gave as the reason.
fn reasons(outputs: &[Output]) -> Vec<String> {
    let reason = |output: &Output| {
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let line = said.lines().find_map(|l| l.split("failed: ").nth(1).map(String::from));
        line.unwrap_or_else(|| panic!("no reason in {said}"))
    };
    outputs.iter().map(reason).collect()
}

#[test]
fn processes_of_torchrun_add() {
    for output in ends(children("sum", 3, 60.0)) {
        assert!(output.status.success(), "{output:?}");
        contains(&String::from_utf8_lossy(&output.stdout), &["sum 4.5"]);
    }
}

#[test]
fn a_process_that_is_killed_or_exits_is_named() {
    let mut all = children("wait 2", 3, 60.0);
    hear(&mut all[2], "started");
    all[2].kill().expect("a kill");
    let killed = reasons(&ends(all)[..2]);
    let exited = reasons(&ends(children("exit", 3, 60.0))[..2]);
    for reasons in [killed, exited] {
        assert_eq!(reasons[0], reasons[1]);
        contains(&reasons[0], &["the process of rank 2 on", "has ended without a word"]);
    }
}

#[test]
fn the_end_of_process_0_ends_all() {
    let reasons = reasons(&ends(children("first exits", 3, 60.0))[1..]);
    assert_eq!(reasons[0], reasons[1]);
    contains(&reasons[0], &["the process of rank 0 on", "has ended without a word"]);
}

#[test]
fn a_process_that_is_stopped_is_named() {
    let mut all = children("wait 1", 3, 1.5);
    hear(&mut all[1], "started");
    signal(&all[1], "STOP");
    let stopped = all.remove(1);
    let said = reasons(&ends(all));
    signal(&stopped, "KILL");
    ends(vec![stopped]);
    assert_eq!(said[0], said[1]);
    contains(&said[0], &["nothing has come from the process of rank 1 on", "1.5 s", "it is stopped"]);
}

#[test]
fn a_rank_that_never_comes_back_does_not_keep_its_process() {
    for output in ends(children("stuck", 2, 0.7)) {
        let errors = String::from_utf8_lossy(&output.stderr);
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        contains(&format!("{errors}{said}"), &["nothing has been heard of rank 3 on", "0.7 s"]);
    }
}
