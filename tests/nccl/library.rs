//! Libraries that are missing, too old, or something else; and the words for several devices.

use super::common::process::{engine, expect};
use super::{embedded, emulation, machine, real, skip};
use l2p_engine::device::Device;
use std::path::Path;

/// What `l2p-engine devices` says about several GPUs.
fn said(nccl: Option<&Path>, more: &[(&str, &str)]) -> String {
    let mut command = engine();
    command.arg("devices").env_remove("L2P_NCCL_LIBRARY");
    if let Some(nccl) = nccl {
        command.env("L2P_NCCL_LIBRARY", nccl);
    }
    command.envs(more.iter().copied());
    let text = expect(command, 0);
    let line = text.lines().find_map(|line| line.strip_prefix("several GPUs: "));
    line.unwrap_or_else(|| panic!("no line about several GPUs in:\n{text}")).to_string()
}

#[test]
fn a_library_is_named_with_its_version_or_with_what_is_wrong() {
    if real() {
        return skip("libraries", "they are made here");
    }
    if let Err(why) = emulation::compiler() {
        return skip("libraries", &why);
    }
    let whole = emulation::nccl(None).expect("it compiles");
    assert_eq!(said(Some(&whole), &[]), format!("NCCL 2.27.5 ({})", whole.display()));
    assert!(said(Some(&whole), &[("L2P_EMU_NCCL_VERSION", "21400")]).starts_with("NCCL 2.14.0 ("));
    for (number, version) in [("21304", "2.13.4"), ("2804", "2.8.4")] {
        let old = said(Some(&whole), &[("L2P_EMU_NCCL_VERSION", number)]);
        assert!(old.starts_with("L2P_NCCL_LIBRARY=") && old.contains(&format!("NCCL {version} (")), "{old}");
        assert!(old.contains("too old, 2.14.0 or newer is needed") && old.contains("pip install"), "{old}");
    }
    let less = emulation::nccl(Some("ncclCommFinalize")).expect("it compiles");
    let text = said(Some(&less), &[]);
    assert!(text.ends_with("has no ncclCommFinalize: it is not NCCL, or not a whole one"), "{text}");
    let text = said(Some(Path::new("/nowhere/libnccl.so.2")), &[]);
    assert!(
        text.starts_with("L2P_NCCL_LIBRARY=/nowhere/libnccl.so.2: ") && text.contains("No such file"),
        "{text}"
    );
    let dir = tempfile::tempdir().expect("a folder");
    let text_file = dir.path().join("libnccl.so.2");
    std::fs::write(&text_file, "no library").expect("written");
    assert!(said(Some(&text_file), &[]).contains("file too short"), "{}", said(Some(&text_file), &[]));
}

/// As pip installs it, in the environment that is active and in that of the first `python3`.
#[test]
fn a_library_of_a_python_environment_is_found() {
    if real() {
        return skip("wheels", "they are made here");
    }
    if let Err(why) = emulation::compiler() {
        return skip("wheels", &why);
    }
    let home = tempfile::tempdir().expect("a folder");
    let nowhere = [("HOME", "/nowhere"), ("PATH", "/nowhere"), ("CONDA_PREFIX", "/nowhere")];
    let missing = said(None, &nowhere);
    if missing.starts_with("NCCL ") {
        return skip("wheels", &format!("the system has a library: {missing}"));
    }
    assert!(missing.starts_with("no NCCL: libnccl.so.2: cannot open shared object file"), "{missing}");
    assert!(
        missing.contains("/usr/local/cuda/lib64") && missing.contains("pip install nvidia-nccl"),
        "{missing}"
    );
    let packages = home.path().join("lib/python3.12/site-packages");
    let folder = packages.join("nvidia/nccl/lib");
    std::fs::create_dir_all(&packages).expect("a folder");
    let active = home.path().to_str().expect("UTF-8").to_string();
    let with = [&nowhere[..], &[("VIRTUAL_ENV", &*active)]].concat();
    assert!(said(None, &with).contains(&folder.display().to_string()), "it says where it has looked");
    std::fs::create_dir_all(&folder).expect("a folder");
    std::fs::copy(emulation::nccl(None).expect("it compiles"), folder.join("libnccl.so.2")).expect("a copy");
    let found = format!("NCCL 2.27.5 ({}/libnccl.so.2)", folder.display());
    assert_eq!(said(None, &with), found);
    let bin = home.path().join("bin");
    std::fs::create_dir_all(&bin).expect("a folder");
    std::fs::write(bin.join("python3"), "").expect("written");
    let path = bin.to_str().expect("UTF-8").to_string();
    assert_eq!(said(None, &[("HOME", "/nowhere"), ("PATH", &path)]), found);
    let old = [&with[..], &[("L2P_EMU_NCCL_VERSION", "21304")]].concat();
    assert!(said(None, &old).starts_with("no NCCL that can be used: "), "{}", said(None, &old));
}

#[test]
fn several_devices_are_named_in_one_word() {
    let wrong = |word: &str| match Device::choose_all(word) {
        Ok(_) => panic!("{word} was accepted"),
        Err(e) => (e.exit_code(), e.to_string()),
    };
    for word in ["gpu", "cuda:", "cuda:x", "cuda:0,", "cuda:,1", "cuda:0;1", "cuda:-1", "cuda:0..3", ""] {
        let (code, said) = wrong(word);
        assert!(
            code == 2 && said.contains("`cuda:all`") && said.ends_with(&format!("found `{word}`")),
            "{said}"
        );
    }
    assert_eq!(wrong("cuda:0,2,0"), (2, "--device cuda:0,2,0: cuda:0 is named twice".into()));
    assert!(matches!(Device::choose_all("cpu").expect("the CPU").0[..], [ref c] if c.device.gpu().is_none()));
    for word in ["cuda:0,1", "cuda:all"] {
        let said = Device::choose(word).expect_err("several").to_string();
        assert!(said.contains("this command uses one device"), "{said}");
    }
    if real() {
        return skip("words for four GPUs", "the real ones are counted differently");
    }
    if embedded::TOOLKIT.is_none() {
        return skip("words for four GPUs", "the program holds no kernels, because there was no nvcc");
    }
    let Some(_alone) = machine("words for four GPUs", 4) else { return };
    let names = |word: &str| -> Vec<String> {
        let (choices, note) = Device::choose_all(word).expect("devices");
        assert!(note.is_none());
        choices.iter().map(|c| c.device.name()).collect()
    };
    assert_eq!(names("cuda:all"), ["cuda:0", "cuda:1", "cuda:2", "cuda:3"]);
    assert_eq!(names("cuda:2,0"), ["cuda:2", "cuda:0"]);
    assert_eq!(names("cuda: 3"), ["cuda:3"]);
    assert_eq!(names("auto"), ["cuda:0"]);
    let (code, said) = wrong("cuda:1,4");
    assert!(
        code == 1 && said.contains("there is no cuda:4: this machine has 4 GPUs, cuda:0 to cuda:3"),
        "{said}"
    );
}
