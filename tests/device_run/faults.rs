//! Drivers that fail: what is said of it, and what goes on without. The numbers in brackets are rows of the review that
//! found them.

use super::*;

/// The emulated driver, on which faults can be planted; a real one is left alone.
fn emulated(test: &str) -> Option<Gpu> {
    Gpu::find(test).filter(|gpu| gpu.library.is_some())
}

/// A short run with what `planted` says of the driver: what it printed, its losses, and the bytes of
/// its last checkpoint.
fn run(
    gpu: &Gpu,
    dir: &Path,
    device: &str,
    planted: &[(&str, &str)],
    more: &[&str],
) -> (String, Vec<f64>, Vec<u8>) {
    let backbone = dir.join("cpu.safetensors");
    if !backbone.exists() {
        gpu.pretrain("cpu", dir, &["data.train_per_class=8"]);
    }
    let workdir = tempfile::tempdir_in(dir).expect("a folder");
    let mut command = gpu.train(device, &backbone, workdir.path(), &[SHORT, more].concat());
    command.envs(planted.iter().copied());
    let said = expect(command, 0);
    let (bytes, ..) = outcome(workdir.path());
    (said, losses(workdir.path()), bytes)
}

/// [2, 3] `auto` goes on on the CPU and says why; who asks for a GPU gets the reason as an error.
#[test]
fn a_gpu_that_cannot_be_used_leaves_auto_on_the_cpu_with_its_reason() {
    let Some(gpu) = emulated("faults at the start") else { return };
    for (name, value, reason) in [
        ("L2P_EMU_FAULT", "load", "CUDA_ERROR_INVALID_PTX"),
        ("L2P_EMU_DRIVER", "12090", "the NVIDIA driver knows CUDA 12.9"),
        ("L2P_EMU_CAPABILITY", "75", "compute capability 7.5"),
        ("L2P_EMU_DEVICES", "0", "lists no GPU"),
    ] {
        let plan = |device: &str, code: i32| {
            let mut command = gpu.engine();
            command.args(["train", "--dry-run", "--device", device]).env(name, value);
            expect(command, code)
        };
        let said = plan("auto", 0);
        let note =
            said.lines().find(|line| line.contains("GPU is")).unwrap_or_else(|| panic!("no note in {said}"));
        assert!(note.contains(reason) && note.contains("used"), "{name}={value}: {note}");
        assert!(plan("cuda", 1).contains(reason) || value == "0", "{name}={value}");
    }
}

/// [1, 6] No image is loaded once work is under way, where it may wait for another GPU, and no stream waits for an event
/// that was never recorded.
#[test]
fn nothing_is_loaded_late_and_no_event_is_forgotten() {
    let Some(gpu) = emulated("late loads and events") else { return };
    let dir = tempfile::tempdir().expect("a folder");
    let nccl = emulation::nccl(None).expect("the stand-in for NCCL compiles");
    let planted = [
        ("L2P_EMU_FAULT", "late-load,unrecorded"),
        ("L2P_EMU_DEVICES", "2"),
        ("L2P_NCCL_LIBRARY", nccl.to_str().expect("UTF-8")),
    ];
    let (_, one, _) = run(&gpu, dir.path(), "cuda", &planted, &[]);
    let (_, two, _) = run(&gpu, dir.path(), "cuda:0,1", &planted, &["train.per_device_batch_size=4"]);
    let error = off_by(&one, &two);
    assert!(error < 1e-3, "losses of one and two GPUs are off by {error:.1e}");
}

/// [4] A step that cannot become a graph is queued piece by piece: said once, with the same bits.
#[test]
fn a_step_that_cannot_be_captured_goes_on_without_a_graph() {
    let Some(gpu) = emulated("graphs that cannot be made") else { return };
    let dir = tempfile::tempdir().expect("a folder");
    let (said, _, wanted) = run(&gpu, dir.path(), "cuda", &[], &[]);
    assert!(!said.contains("without a graph"), "{said}");
    for fault in ["capture", "end-capture", "instantiate"] {
        let (said, _, bytes) = run(&gpu, dir.path(), "cuda", &[("L2P_EMU_FAULT", fault)], &[]);
        assert_eq!(said.matches("without a graph").count(), 1, "{fault}: {said}");
        assert!(bytes == wanted, "{fault}: other bits");
    }
}

/// What has no kernels is refused on a GPU; `auto` takes the CPU and says why.
#[test]
fn what_has_no_kernels_computes_on_the_cpu() {
    let Some(gpu) = emulated("what has no kernels") else { return };
    let plan = |device: &str, code: i32| {
        let mut command = gpu.engine();
        command.args(["train", "--dry-run", "--device", device]);
        sets(&mut command, &["method=\"ranpac\"", "ranpac.adapter_width=4"]);
        expect(command, code)
    };
    assert!(plan("cuda", 2).contains("ranpac.adapter_width > 0 has no kernels yet"));
    assert!(plan("auto", 0).contains("the GPU is not used: ranpac.adapter_width > 0 has no kernels yet"));
}
