//! Checkpoints: exact, whole or refused, and never the reason to lose an older one.

#[path = "../common/mod.rs"]
mod common;
mod grow;
mod saved_runs;
#[path = "../model/support.rs"]
#[allow(dead_code)]
mod support;

use l2p_engine::config::Config;
use l2p_engine::output::{State, Store, TensorData, atomic};
use proptest::prelude::*;
use serde_json::json;
use std::fs;
use std::path::Path;

fn state(step: u64) -> State {
    State {
        step,
        meta: json!({"task": 1, "accuracy": [0.1, 1.0 / 3.0, 5e-324], "text": "\"manifest_sha256\": \"ü"}),
        tensors: vec![
            // A signalling NaN, a quiet one with a payload, both infinities, minus zero, a denormal.
            (
                "z".into(),
                vec![2, 3],
                TensorData::F32(
                    [0x7f80_0001, 0x7fc1_2345, 0x7f80_0000, 0xff80_0000, 0x8000_0000, 1]
                        .map(f32::from_bits)
                        .to_vec(),
                ),
            ),
            ("empty".into(), vec![0, 7], TensorData::F32(vec![])),
            (
                "a".into(),
                vec![2],
                TensorData::F64([0x7ff0_0000_0000_0001, 0xfff8_dead_beef_0001].map(f64::from_bits).to_vec()),
            ),
            ("scalar".into(), vec![], TensorData::U32(vec![u32::MAX - step as u32])),
        ],
    }
}

/// Every bit of every element, which `==` does not compare for NaN.
fn bits(state: &State) -> Vec<(String, Vec<usize>, Vec<u64>)> {
    let all = |data: &TensorData| match data {
        TensorData::F32(v) => v.iter().map(|x| u64::from(x.to_bits())).collect(),
        TensorData::F64(v) => v.iter().map(|x| x.to_bits()).collect(),
        TensorData::U32(v) => v.iter().map(|x| u64::from(*x)).collect(),
    };
    state.tensors.iter().map(|(n, s, d)| (n.clone(), s.clone(), all(d))).collect()
}

fn same(found: &State, wanted: &State) {
    assert_eq!((found.step, &found.meta), (wanted.step, &wanted.meta));
    assert_eq!(bits(found), bits(wanted));
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn store(dir: &Path) -> Store {
    Store::open(dir, &Config::default()).unwrap()
}

#[test]
fn what_is_saved_comes_back_bit_for_bit() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let mut warnings = Vec::new();
    assert!(store.load_latest(&mut warnings).unwrap().is_none());
    let path = store.save(&state(7)).unwrap();
    same(&store.load_latest(&mut warnings).unwrap().unwrap(), &state(7));
    assert!(warnings.is_empty());
    // Any reader of safetensors can open it, and the data starts at a multiple of eight.
    let bytes = fs::read(&path).unwrap();
    assert_eq!(u64::from_le_bytes(bytes[..8].try_into().unwrap()) % 8, 0);
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(file.tensor("z").unwrap().shape(), [2, 3]);
    let manifest: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(path.with_extension("json")).unwrap()).unwrap();
    assert_eq!(manifest["bytes"], bytes.len());
    for (key, value) in Config::default().identity_pairs() {
        assert_eq!(manifest["config"][&key], value, "{key}");
    }
    assert_eq!(manifest["engine_version"], env!("CARGO_PKG_VERSION"));
}

#[test]
fn a_checkpoint_of_another_configuration_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    store(dir.path()).save(&state(1)).unwrap();
    // What a run may change is none of the checkpoint's business.
    let mut config = Config::default();
    (config.data.dir, config.train.eval_batch_size) = ("elsewhere".into(), 7);
    let load = |config: &Config| Store::open(dir.path(), config).unwrap().load_latest(&mut Vec::new());
    same(&load(&config).unwrap().unwrap(), &state(1));
    config.prompt_pool.length = 3;
    config.seed = 5;
    let said = load(&config).unwrap_err().to_string();
    let length = Config::default().prompt_pool.length;
    for wanted in [
        "seed: the checkpoint has 42, asked for 5".to_string(),
        format!("prompt_pool.length: the checkpoint has {length}, asked for 3"),
    ] {
        assert!(said.contains(&wanted), "{said}");
    }
    assert_eq!(said.matches("the checkpoint has").count(), 2, "{said}");
}

/// Key by key: a key that is missing there had its default, one with an old name has the value of the new one, and
/// one that no longer exists is refused.
#[test]
fn configurations_of_other_versions_are_compared_by_key() {
    let config = Config::default();
    let mut saved = config.identity_pairs();
    assert!(config.differences_to(&saved).is_empty());
    saved.remove("prompt_pool.length");
    saved.remove("train.graph");
    // A run may be resumed with other baselines, by whatever name.
    saved.insert("floors.pool_of_one".into(), "false".into());
    assert!(config.differences_to(&saved).is_empty());
    let mut longer = config.clone();
    longer.prompt_pool.length = 9;
    let (key, default) = ("prompt_pool.length".to_string(), config.prompt_pool.length.to_string());
    assert_eq!(longer.differences_to(&saved), [(key, default, Some("9".into()))]);
    saved.insert("prompt_pool.colour".into(), "\"red\"".into());
    assert_eq!(config.differences_to(&saved), [("prompt_pool.colour".into(), "\"red\"".into(), None)]);
}

#[test]
fn the_last_two_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    for step in [1, 2, 999_999, 1_000_000, 10_000_000] {
        store.save(&state(step)).unwrap();
    }
    let kept =
        ["step_1000000.json", "step_1000000.safetensors", "step_10000000.json", "step_10000000.safetensors"];
    assert_eq!(names(dir.path()), kept);
    assert_eq!(store.load_latest(&mut Vec::new()).unwrap().unwrap().step, 10_000_000);
    // Going on from an earlier step gives the later ones up.
    store.save(&state(1_000_050)).unwrap();
    assert_eq!(store.load_latest(&mut Vec::new()).unwrap().unwrap().step, 1_000_050);
    assert_eq!(names(dir.path()).len(), 4);
}

#[test]
fn damage_is_noticed_and_the_one_before_is_used() {
    type Damage = fn(&Path);
    let damage: [(&str, Damage); 7] = [
        ("was changed: its checksum does not match", |p| {
            let mut bytes = fs::read(p).unwrap();
            *bytes.last_mut().unwrap() ^= 1;
            fs::write(p, bytes).unwrap();
        }),
        ("must have", |p| fs::write(p, &fs::read(p).unwrap()[..40]).unwrap()),
        ("does not exist", |p| fs::remove_file(p).unwrap()),
        ("is missing, so it was not saved to the end", |p| {
            fs::remove_file(p.with_extension("json")).unwrap()
        }),
        ("is cut off", |p| fs::write(p.with_extension("json"), "").unwrap()),
        ("another checkpoint", |p| {
            fs::copy(p.with_file_name("step_000001.json"), p.with_extension("json")).unwrap();
        }),
        ("its checksum does not match", |p| {
            let text = fs::read_to_string(p.with_extension("json")).unwrap();
            fs::write(p.with_extension("json"), text.replace("\"task\": 1", "\"task\": 2")).unwrap();
        }),
    ];
    for (wanted, damage) in damage {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        store.save(&state(1)).unwrap();
        damage(&store.save(&state(2)).unwrap());
        let mut warnings = Vec::new();
        same(&store.load_latest(&mut warnings).unwrap().unwrap(), &state(1));
        assert!(warnings.len() == 1 && warnings[0].contains(wanted), "{wanted}: {warnings:?}");
        // The next save keeps the whole one and lets the damaged one go.
        store.save(&state(3)).unwrap();
        let mut warnings = Vec::new();
        assert_eq!(store.load_latest(&mut warnings).unwrap().unwrap().step, 3);
        assert!(warnings.is_empty());
    }
}

#[test]
fn no_whole_checkpoint_is_an_error_unless_none_was_finished() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let path = store.save(&state(1)).unwrap();
    fs::write(&path, "x").unwrap();
    let said = store.load_latest(&mut Vec::new()).unwrap_err().to_string();
    assert!(said.contains("none of the 1 checkpoints can be used") && said.contains("--workdir"), "{said}");
    fs::remove_file(path.with_extension("json")).unwrap();
    let mut warnings = Vec::new();
    assert!(store.load_latest(&mut warnings).unwrap().is_none());
    assert_eq!(warnings.len(), 1);
}

#[test]
fn a_failed_save_leaves_the_one_before() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    store.save(&state(1)).unwrap();
    // The name of the data, then of the description, is taken by a folder that cannot be replaced.
    for (name, step) in [("step_000002.safetensors", 2), ("step_000003.json", 3)] {
        fs::create_dir_all(dir.path().join(name).join("in the way")).unwrap();
        let said = store.save(&state(step)).unwrap_err().to_string();
        assert!(said.contains(name) && said.contains("cannot be written: it is a folder"), "{said}");
        same(&store.load_latest(&mut Vec::new()).unwrap().unwrap(), &state(1));
        assert!(!names(dir.path()).iter().any(|n| n.ends_with(".tmp")));
        fs::remove_dir_all(dir.path().join(name)).unwrap();
    }
    let mut twice = state(4);
    twice.tensors.push(twice.tensors[0].clone());
    assert!(store.save(&twice).unwrap_err().to_string().contains("two tensors named `z`"));
    let mut wrong = state(4);
    wrong.tensors[0].1 = vec![5];
    assert!(store.save(&wrong).unwrap_err().to_string().contains("has shape [5] and 6 elements"));
    // The folder is gone altogether.
    fs::remove_dir_all(dir.path()).unwrap();
    assert!(store.save(&state(5)).unwrap_err().to_string().contains("does not exist"));
}

/// A file system of 256 KiB, unmounted when dropped.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> Option<SmallDisk> {
        let dir = tempfile::tempdir().unwrap();
        let mut command = std::process::Command::new("mount");
        command.args(["-t", "tmpfs", "-o", "size=256k", "l2p-test"]).arg(dir.path());
        let mounted = command.output().is_ok_and(|o| o.status.success());
        mounted.then(|| SmallDisk(dir))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(self.0.path()).output();
    }
}

#[test]
fn a_full_disk_is_a_sentence_and_costs_nothing() {
    let Some(disk) = SmallDisk::mount() else {
        println!("skipped: a file system cannot be mounted here");
        return;
    };
    let store = store(disk.0.path());
    store.save(&state(1)).unwrap();
    let mut large = state(2);
    large.tensors.push(("large".into(), vec![100_000], TensorData::F32(vec![1.0; 100_000])));
    let said = store.save(&large).unwrap_err().to_string();
    assert!(said.contains("step_000002.safetensors: cannot be written: the disk is full"), "{said}");
    assert_eq!(names(disk.0.path()), ["step_000001.json", "step_000001.safetensors"]);
    same(&store.load_latest(&mut Vec::new()).unwrap().unwrap(), &state(1));
    // The data fits, its description does not.
    let mut large = state(3);
    large.meta = json!("x".repeat(400_000));
    let said = store.save(&large).unwrap_err().to_string();
    assert!(said.contains("step_000003.json: cannot be written: the disk is full"), "{said}");
    assert_eq!(names(disk.0.path()), ["step_000001.json", "step_000001.safetensors"]);
}

/// 350 MB, the size of a whole ViT-B/16 in f32: `cargo test --release -- --ignored --nocapture`.
#[test]
#[ignore = "writes 350 MB"]
fn a_large_checkpoint_is_quick() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let n = 87_500_000;
    let tensors = vec![("w".into(), vec![n], TensorData::F32((0..n).map(|i| i as f32).collect()))];
    let large = State { step: 1, meta: json!(null), tensors };
    let start = std::time::Instant::now();
    store.save(&large).unwrap();
    let saved = start.elapsed();
    assert_eq!(store.load_latest(&mut Vec::new()).unwrap().unwrap(), large);
    eprintln!("350 MB: saved in {saved:?}, loaded in {:?}", start.elapsed() - saved);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: common::lanes::fuzz_cases(120), failure_persistence: None, ..ProptestConfig::default() })]

    /// Any cut or bit flip, in either file: the older checkpoint, a warning, no panic.
    #[test]
    fn any_damage_falls_back(of_data in any::<bool>(), cut in any::<bool>(), at in any::<prop::sample::Index>(), bit in 0u32..8) {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        store.save(&state(1)).unwrap();
        let mut path = store.save(&state(2)).unwrap();
        if !of_data {
            path.set_extension("json");
        }
        let mut bytes = fs::read(&path).unwrap();
        let at = at.index(bytes.len());
        if cut {
            bytes.truncate(at);
        } else {
            bytes[at] ^= 1 << bit;
        }
        fs::write(&path, bytes).unwrap();
        let mut warnings = Vec::new();
        let found = store.load_latest(&mut warnings).unwrap().unwrap();
        prop_assert_eq!(found.step, 1);
        prop_assert_eq!(bits(&found), bits(&state(1)));
        prop_assert_eq!(warnings.len(), 1);
    }

    /// Rubbish under both names: an error sentence.
    #[test]
    fn any_rubbish_is_refused(data in prop::collection::vec(any::<u8>(), 0..200), text in prop::collection::vec(any::<u8>(), 0..200)) {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("step_000001.safetensors"), &data).unwrap();
        fs::write(dir.path().join("step_000001.json"), &text).unwrap();
        fs::write(dir.path().join("step_x.json"), &text).unwrap();
        prop_assert!(store(dir.path()).load_latest(&mut Vec::new()).is_err());
    }
}

/// A second save at the same step whose description cannot be written leaves the first save as it was.
#[test]
fn a_failed_save_at_the_same_step_keeps_the_earlier_one() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    store.save(&state(3)).unwrap();
    let before = names(dir.path());
    // Temporary files of these names exist already, so that none can be made for the description.
    let taken = |n: u32| {
        dir.path().join(format!(".step_000003.json.{}.{n}{}", std::process::id(), atomic::TEMPORARY))
    };
    (0..2000).for_each(|n| fs::write(taken(n), "").unwrap());
    let mut other = state(3);
    other.tensors[3].2 = TensorData::U32(vec![1]);
    store.save(&other).unwrap_err();
    // The save has removed the one that it ran into.
    (0..2000).for_each(|n| drop(fs::remove_file(taken(n))));
    assert_eq!(names(dir.path()), before, "a temporary file is left");
    let mut warnings = Vec::new();
    same(&store.load_latest(&mut warnings).unwrap().unwrap(), &state(3));
    assert!(warnings.is_empty(), "{warnings:?}");
}
