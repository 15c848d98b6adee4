//! Streams run late and in any order that events allow, graphs replay what was captured, and the calls that
//! a capture forbids are refused.

use super::gpu::{self, Gpu};
use cudarc::driver::{result, sys};

const N: u32 = 100;

fn event() -> sys::CUevent {
    result::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING).expect("an event")
}

/// Stream `to` goes on after what stream `from` has now.
fn join(gpu: &Gpu, from: usize, to: usize) {
    let event = event();
    let flags = sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
    // SAFETY: all handles are alive.
    unsafe {
        result::event::record(event, gpu.streams[from]).expect("a record");
        result::stream::wait_event(gpu.streams[to], event, flags).expect("a wait");
        result::event::destroy(event).expect("destroyed");
    }
}

#[test]
fn a_stream_keeps_its_order() {
    for seed in 0..6 {
        let Some(mut gpu) = gpu::open(seed) else { return };
        let x = gpu.upload(&[1f32; N as usize]);
        for i in 0..5 {
            gpu.twice_plus(0, x, x, N, i as f32);
        }
        // ((((1·2 + 0)·2 + 1)·2 + 2)·2 + 3)·2 + 4
        assert_eq!(gpu.download::<f32>(x, N as usize), [58f32; N as usize]);
    }
}

#[test]
fn an_event_orders_streams_and_a_missing_one_shows() {
    let (mut wrong, seeds) = (0, 0..12);
    for seed in seeds.clone() {
        for with_event in [true, false] {
            let Some(mut gpu) = gpu::open(seed) else { return };
            let (x, y, z) = (gpu.upload(&[1f32; N as usize]), gpu.alloc(400), gpu.alloc(400));
            gpu.twice_plus(0, y, x, N, 1.0);
            if with_event {
                join(&gpu, 0, 1);
            }
            gpu.twice_plus(1, z, y, N, 2.0);
            // SAFETY: the stream is alive.
            unsafe { result::stream::synchronize(gpu.streams[1]) }.expect("no error");
            let z = gpu.download::<f32>(z, N as usize);
            if with_event {
                assert_eq!(z, [8f32; N as usize], "seed {seed}");
            } else {
                wrong += usize::from(z != [8f32; N as usize]);
            }
        }
    }
    assert!(wrong > 3, "a missing event shows under {wrong} of {seeds:?}");
}

/// What was pinned is read and written when the stream gets there, not before.
#[test]
fn copies_of_pinned_memory_are_late() {
    let Some(mut gpu) = gpu::open(0) else { return };
    let (device, n) = (gpu.alloc(400), N as usize);
    let stream = gpu.streams[0];
    // SAFETY: pinned memory of N floats, freed at the end; no other reference exists.
    unsafe {
        let start = result::malloc_host(400, 0).expect("pinned").cast::<f32>();
        let pinned = std::slice::from_raw_parts_mut(start, n);
        pinned.fill(1.0);
        result::memcpy_htod_async(device, pinned, stream).expect("a copy");
        pinned.fill(2.0);
        assert_eq!(gpu.download::<f32>(device, n), vec![2.0; n], "the host was too early, and it shows");
        pinned.fill(0.0);
        gpu.twice_plus(0, device, device, N, 1.0);
        result::memcpy_dtoh_async(pinned, device, stream).expect("a copy");
        assert_eq!(pinned[0], 0.0, "nothing has waited yet");
        result::stream::synchronize(stream).expect("no error");
        assert_eq!(pinned[0], 5.0);
        // A program that polls gets there, too.
        gpu.twice_plus(0, device, device, N, 1.0);
        let event = event();
        result::event::record(event, stream).expect("a record");
        let mut polls = 0;
        while result::event::query(event).is_err() {
            polls += 1;
        }
        assert!(polls > 0);
        result::event::destroy(event).expect("destroyed");
        result::free_host(start.cast()).expect("freed");
    }
}

#[test]
fn fresh_memory_is_not_zero_and_ranges_are_checked() {
    let Some(mut gpu) = gpu::open(0) else { return };
    let x = gpu.alloc(400);
    assert!(gpu.download::<f32>(x, 100).iter().all(|v| v.is_nan()));
    let mut host = [0f32; 101];
    // SAFETY: refused, nothing is written.
    assert!(unsafe { result::memcpy_dtoh_sync(&mut host, x) }.is_err());
    // SAFETY: as above.
    assert!(unsafe { result::memcpy_dtoh_sync(&mut host[..1], x + 400) }.is_err());
}

/// Captures a fork and a join over three streams, replays it on other data.
#[test]
fn graphs_keep_the_order_across_streams() {
    for seed in 0..8 {
        let Some(mut gpu) = gpu::open(seed) else { return };
        let x = gpu.upload(&[0f32; N as usize]);
        let [a, b, c, y] = [(); 4].map(|()| gpu.alloc(400));
        let mode = sys::CUstreamCaptureMode_enum::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: handles are alive; the graph uses memory that outlives it.
        unsafe {
            result::stream::begin_capture(gpu.streams[0], mode).expect("a capture");
            gpu.twice_plus(0, a, x, N, 1.0);
            join(&gpu, 0, 1);
            join(&gpu, 0, 2);
            gpu.twice_plus(1, b, a, N, 2.0);
            gpu.twice_plus(2, c, a, N, 3.0);
            join(&gpu, 1, 2);
            gpu.twice_plus(2, b, b, N, 0.0);
            join(&gpu, 2, 0);
            gpu.twice_plus(0, y, b, N, 0.0);
            gpu.twice_plus(0, y, y, N, 0.0);
            let graph = result::stream::end_capture(gpu.streams[0]).expect("a graph");
            let mut nodes = 0;
            sys::cuGraphGetNodes(graph, std::ptr::null_mut(), &raw mut nodes).result().expect("a count");
            assert_eq!(nodes, 6);
            assert!(gpu.download::<f32>(a, 1)[0].is_nan(), "a capture runs nothing");
            let exec = result::graph::instantiate(
                graph,
                sys::CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH,
            )
            .expect("an executable graph");
            for start in [0f32, 3.0, -1.0] {
                sys::cuMemsetD32Async(x, start.to_bits(), N as usize, gpu.streams[0]).result().expect("set");
                result::graph::launch(exec, gpu.streams[0]).expect("a launch");
                gpu.twice_plus(0, y, y, N, 1.0);
                let wanted = ((2.0 * start + 1.0) * 2.0 + 2.0) * 16.0 + 1.0;
                assert_eq!(gpu.download::<f32>(y, N as usize), vec![wanted; N as usize], "seed {seed}");
            }
            result::graph::exec_destroy(exec).expect("destroyed");
            result::graph::destroy(graph).expect("destroyed");
        }
    }
}

#[test]
fn a_capture_refuses_what_it_cannot_hold() {
    use sys::cudaError_enum as E;
    let mode = sys::CUstreamCaptureMode_enum::CU_STREAM_CAPTURE_MODE_GLOBAL;
    let Some(mut gpu) = gpu::open(0) else { return };
    let x = gpu.upload(&[1f32; N as usize]);
    let before = event();
    let [s0, s1, _] = gpu.streams;
    let capture = |during: &mut dyn FnMut(&Gpu) -> Result<(), result::DriverError>, code: E, end: E| {
        // SAFETY: handles are alive.
        unsafe {
            result::stream::begin_capture(s0, mode).expect("a capture");
            gpu.twice_plus(0, x, x, N, 0.0);
            let got = during(&gpu).map_or_else(|e| e.0, |()| E::CUDA_SUCCESS);
            assert_eq!(got, code);
            let ended = result::stream::end_capture(s0).map_or_else(|e| e.0, |_| E::CUDA_SUCCESS);
            assert_eq!(ended, end);
        }
    };
    let refused = E::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    let invalid = E::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    // SAFETY: refused, or of handles that are alive.
    unsafe {
        result::event::record(before, s1).expect("a record");
        capture(&mut |_| Ok(()), E::CUDA_SUCCESS, E::CUDA_SUCCESS);
        capture(&mut |_| result::stream::synchronize(s0), refused, invalid);
        capture(&mut |_| result::malloc_sync(16).map(|_| ()), refused, invalid);
        capture(&mut |_| result::memcpy_dtoh_sync(&mut [0f32], x), refused, invalid);
        capture(&mut |_| result::memcpy_htod_async(x, &[0f32], s0), refused, invalid);
        let flags = sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
        let isolation = E::CUDA_ERROR_STREAM_CAPTURE_ISOLATION;
        capture(&mut |_| result::stream::wait_event(s0, before, flags), isolation, invalid);
        let forked = &mut |gpu: &Gpu| {
            join(gpu, 0, 1);
            gpu.twice_plus(1, x, x, N, 0.0);
            Ok(())
        };
        capture(forked, E::CUDA_SUCCESS, E::CUDA_ERROR_STREAM_CAPTURE_UNJOINED);
        result::event::destroy(before).expect("destroyed");
    }
    assert_eq!(gpu.download::<f32>(x, N as usize), [1f32; N as usize], "nothing of it has run");
}
