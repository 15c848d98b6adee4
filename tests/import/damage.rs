//! Damaged and hostile files: an error or, where nothing that counts was hit, a backbone; never a panic.

use super::support::*;
use l2p_engine::import::{load, load_bytes, write_native};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::LazyLock;

const FILES: usize = 8;

/// Name and bytes of one intact file of every kind.
static CORPUS: LazyLock<Vec<(&str, Vec<u8>)>> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    let native = folder.path().join("native");
    let timm = load(&fixture("import/timm_vit.safetensors"), &OPTIONS).unwrap();
    write_native(&native, &timm, &BTreeMap::new()).unwrap();
    let mut small = read_npz("golden/loader_checkpoint.npz");
    small.retain(|name, _| !name.contains("encoderblock") || name.contains("encoderblock_0/"));
    vec![
        ("stored npz", npz(&small, Store::F32, false)),
        ("deflated npz", npz(&small, Store::F16, true)),
        ("timm", fixture_bytes("import/timm_vit.safetensors")),
        ("hugging face", fixture_bytes("import/hf_dinov2.safetensors")),
        ("native", std::fs::read(&native).unwrap()),
        ("torch", fixture_bytes("import/torch_plain.pth")),
        ("nested torch", fixture_bytes("import/torch_nested.pt")),
        ("registers", fixture_bytes("import/timm_reg3_positions.safetensors")),
    ]
});

#[test]
fn the_corpus_is_intact() {
    assert_eq!(CORPUS.len(), FILES);
    for (name, bytes) in CORPUS.iter() {
        load_bytes(name, bytes, &OPTIONS).unwrap_or_else(|e| panic!("{name}: {e}"));
    }
}

/// Mostly in the first and last kilobytes, where headers and directories are.
fn position(len: usize, region: u8, at: u32) -> usize {
    let at = at as usize;
    match region {
        0 => at % len.min(64),
        1 => at % len.min(4096),
        2 => len - 1 - at % len.min(4096),
        _ => at % len,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: crate::lanes::fuzz_cases(1500), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn truncated_files_are_errors(file in 0..FILES, region in 0..4u8, at in any::<u32>()) {
        let (name, bytes) = &CORPUS[file];
        let cut = position(bytes.len(), region, at);
        prop_assert!(load_bytes(name, &bytes[..cut], &OPTIONS).is_err());
    }

    #[test]
    fn bit_flips_do_not_panic(file in 0..FILES, flips in prop::collection::vec((0..4u8, any::<u32>(), 0..8u8), 1..6)) {
        let (name, bytes) = &CORPUS[file];
        let mut bytes = bytes.clone();
        for (region, at, bit) in flips {
            let at = position(bytes.len(), region, at);
            bytes[at] ^= 1 << bit;
        }
        if let Ok(backbone) = load_bytes(name, &bytes, &OPTIONS) {
            prop_assert!(backbone.tensors.values().all(|t| t.data.iter().all(|v| v.is_finite())));
        }
    }

    #[test]
    fn overwritten_words_do_not_panic(
        file in 0..FILES, region in 0..4u8, at in any::<u32>(),
        word in prop::sample::select(vec![0u64, 1, 8, 0xffff, 0xffff_ffff, 1 << 40, i64::MAX as u64, u64::MAX]),
    ) {
        let (name, bytes) = &CORPUS[file];
        let mut bytes = bytes.clone();
        let at = position(bytes.len() - 8, region, at);
        bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
        let _ = load_bytes(name, &bytes, &OPTIONS);
    }

    #[test]
    fn digits_of_headers_may_lie(file in 0..FILES, at in any::<u32>(), digit in b'0'..=b'9') {
        let (name, bytes) = &CORPUS[file];
        let mut bytes = bytes.clone();
        let digits: Vec<usize> = (0..bytes.len().min(16 << 10)).filter(|&i| bytes[i].is_ascii_digit()).collect();
        bytes[digits[at as usize % digits.len()]] = digit;
        let _ = load_bytes(name, &bytes, &OPTIONS);
    }

    #[test]
    fn arbitrary_npy_headers_do_not_panic(text in "[ -~]{0,200}", version in 0..5u8, len in any::<u16>()) {
        let mut array = npy_header(&format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({text}"));
        array[6] = version;
        array[8..10].copy_from_slice(&len.to_le_bytes());
        let _ = load_bytes("x", &zip_of([("cls.npy", array)], false), &OPTIONS);
        let array = npy_header(&text);
        prop_assert!(load_bytes("x", &zip_of([("cls.npy", array)], false), &OPTIONS).is_err());
    }

    #[test]
    fn arbitrary_safetensors_headers_do_not_panic(text in "[ -~]{0,200}", dtype in "F32|F16|I64|F4|BOOL|C64",
            shape in prop::collection::vec(prop_oneof![0..4u64, any::<u64>()], 0..4), end in any::<u64>()) {
        let entry = format!(r#"{{"cls_token":{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":[0,{end}]}}}}"#);
        for header in [text, entry] {
            let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
            bytes.extend(header.as_bytes());
            prop_assert!(load_bytes("x", &bytes, &OPTIONS).is_err());
        }
    }
}

#[test]
fn a_flipped_bit_in_a_stored_array_is_noticed() {
    let bytes = &CORPUS[0].1;
    // The last bit of the mantissa of one weight of a middle array.
    let name = b"encoderblock_0/MlpBlock_3/Dense_1/kernel.npy";
    let at = bytes.windows(name.len()).position(|w| w == name).unwrap();
    let mut bytes = bytes.clone();
    bytes[at + 400] ^= 1;
    let text = load_bytes("x", &bytes, &OPTIONS).unwrap_err().to_string();
    assert!(text.contains("Dense_1/kernel") && text.to_lowercase().contains("checksum"), "{text}");
}

#[test]
fn absurd_sizes_are_turned_away_before_memory_is_taken() {
    let start = std::time::Instant::now();
    let header =
        |shape: &str| npy_header(&format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}"));
    for (shape, word) in [
        ("(1000000000000,)", "header says"),
        ("(4294967296, 4294967296)", "not that of an array"),
        ("(99999999999999999999999999,)", "not that of an array"),
        ("(-1,)", "damaged"),
        ("(((((((((((((((((1,)))))))))))))))))", "not that of an array"),
        ("(0, 1000000000000000)", "no tensor"),
    ] {
        let arrays = [("cls.npy", header(shape)), ("Transformer/encoder_norm/scale.npy", header("(0,)"))];
        let text = load_bytes("x", &zip_of(arrays, false), &OPTIONS).unwrap_err().to_string();
        assert!(text.contains(word), "{shape}: {text}");
    }
    // Version 2 with a header of four gigabytes.
    let mut long = b"\x93NUMPY\x02\x00\xff\xff\xff\xff".to_vec();
    long.extend([b' '; 100]);
    let text = load_bytes("x", &zip_of([("cls.npy", long)], true), &OPTIONS).unwrap_err().to_string();
    assert!(text.contains("claims 4294967295 bytes"), "{text}");
    // A hundred megabytes of zeros in a hundred kilobytes.
    let mut zeros = header("(25000000,)");
    zeros.resize(zeros.len() + 100_000_000, 0);
    let bomb = zip_of([("Transformer/encoder_norm/scale.npy", zeros)], true);
    assert!(bomb.len() < 200_000);
    let text = load_bytes("x", &bomb, &OPTIONS).unwrap_err().to_string();
    assert!(text.contains("no checkpoint"), "{text}");
    for len in [0u64, 1, 9, 1 << 20, 99_999_999, 1 << 40, u64::MAX] {
        let mut bytes = len.to_le_bytes().to_vec();
        bytes.extend(b"{}");
        assert!(load_bytes("x", &bytes, &OPTIONS).is_err(), "{len}");
    }
    println!("{:.1?}", start.elapsed());
}
