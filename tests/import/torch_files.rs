//! Files of `torch.save`: read as PyTorch reads them, and nothing in them is executed.

use super::support::*;
use super::{refusal, tiny};
use l2p_engine::import::{list, load, load_bytes};
use proptest::prelude::*;
use std::time::Instant;

#[test]
fn a_state_dict_is_the_safetensors_file_of_the_same_model() {
    let wanted = tiny("timm_small");
    let plain = load(&fixture("import/torch_plain.pth"), &OPTIONS).unwrap();
    assert_eq!((&plain.tensors, plain.dims), (&wanted.tensors, wanted.dims));
    assert!(plain.source.contains("in a PyTorch file"), "{}", plain.source);
    let listed = list(&fixture("import/torch_plain.pth")).unwrap();
    assert!(listed.contains(&("cls_token".to_string(), vec![1, 1, 16], "float32".to_string())), "{listed:?}");
}

/// Protocol 4, Lightning's `state_dict`, parameters, views of one storage with offsets, transposed matrices.
#[test]
fn views_of_a_shared_storage_are_gathered() {
    let nested = load(&fixture("import/torch_nested.pt"), &OPTIONS).unwrap();
    assert_eq!(nested.tensors, tiny("timm_small").tensors);
    for word in ["its `state_dict`", "without the prefix `model.backbone.`"] {
        assert!(nested.source.contains(word), "{}", nested.source);
    }
}

/// The teacher of DINO, in float16, bfloat16 and float64.
#[test]
fn every_float_type_is_read() {
    let mixed = load(&fixture("import/torch_mixed.bin"), &OPTIONS).unwrap();
    assert!(mixed.source.contains("its `teacher`"), "{}", mixed.source);
    let kinds: Vec<String> =
        list(&fixture("import/torch_mixed.bin")).unwrap().into_iter().map(|(_, _, kind)| kind).collect();
    for kind in ["float16", "bfloat16", "float64"] {
        assert!(kinds.iter().any(|k| k == kind), "{kinds:?}");
    }
    for (name, tensor) in &tiny("timm_small").tensors {
        let found = &mixed.tensors[name].data;
        let rounded =
            |v: f32| [v, half::f16::from_f32(v).to_f32(), half::bf16::from_f32(v).to_f32()].map(f32::to_bits);
        let fits = found.iter().zip(&tensor.data).all(|(f, &v)| rounded(v).contains(&f.to_bits()));
        assert!(fits, "{name}");
    }
}

#[test]
fn what_is_no_state_dict_is_refused_by_name() {
    for (file, words) in [
        ("torch_legacy.pth", &["before version 1.6", "torch.save(torch.load("][..]),
        ("torch_with_an_object.pth", &["`__main__.NotAStateDict`", "model.state_dict()"]),
        ("torch_sparse.pth", &["`torch._utils._rebuild_sparse_tensor`"]),
        ("torch_script.pt", &["TorchScript", "state_dict()"]),
        ("torch_expanded.pth", &["`cls_token`", "expanded view", ".contiguous()"]),
    ] {
        let text = refusal(file, &fixture_bytes(&format!("import/{file}")), &OPTIONS);
        assert!(words.iter().all(|word| text.contains(word)), "{file}: {text}");
        assert_eq!(text.lines().count(), 1, "{text}");
    }
}

/// A file of `torch.save` with this `data.pkl` and one storage `0` of 64 bytes.
fn with_pickle(pickle: &[u8]) -> Vec<u8> {
    zip_of(
        [
            ("archive/data.pkl", pickle.to_vec()),
            ("archive/data/0", vec![0; 64]),
            ("archive/version", b"3\n".to_vec()),
        ],
        false,
    )
}

fn global(module: &str, name: &str) -> Vec<u8> {
    format!("c{module}\n{name}\n").into_bytes()
}

fn text(value: &str) -> Vec<u8> {
    [b"X".as_slice(), &(value.len() as u32).to_le_bytes(), value.as_bytes()].concat()
}

fn int(value: i64) -> Vec<u8> {
    [&[0x8a, 8][..], &value.to_le_bytes()].concat()
}

fn tuple(items: &[Vec<u8>]) -> Vec<u8> {
    [b"(".to_vec(), items.concat(), b"t".to_vec()].concat()
}

/// `{"cls_token": tensor}` of a storage of `len` floats.
fn one_tensor(len: i64, offset: i64, shape: &[i64], strides: &[i64]) -> Vec<u8> {
    let extents = |list: &[i64]| tuple(&list.iter().map(|&n| int(n)).collect::<Vec<_>>());
    let storage =
        tuple(&[text("storage"), global("torch", "FloatStorage"), text("0"), text("cpu"), int(len)]);
    let storage = [storage, b"Q".to_vec()].concat();
    let arguments = [storage, int(offset), extents(shape), extents(strides), vec![0x89], b"N".to_vec()];
    let tensor = [global("torch._utils", "_rebuild_tensor_v2"), tuple(&arguments), b"R".to_vec()].concat();
    [b"\x80\x02}".to_vec(), text("cls_token"), tensor, b"s.".to_vec()].concat()
}

#[test]
fn views_outside_their_storage_are_refused_before_memory_is_taken() {
    let start = Instant::now();
    let fine = refusal("x", &with_pickle(&one_tensor(16, 0, &[1, 1, 16], &[16, 16, 1])), &OPTIONS);
    assert!(fine.contains("names of no ViT format known here"), "{fine}");
    let huge = i64::MAX;
    for (len, offset, shape, strides, word) in [
        (17, 0, &[16][..], &[1][..], "64 bytes are stored"),
        (16, 1, &[16], &[1], "outside its storage"),
        (16, 0, &[4, 4], &[5, 1], "outside its storage"),
        (16, 0, &[2, 2], &[huge, 1], "outside its storage"),
        (16, huge, &[1], &[1], "outside its storage"),
        (16, 0, &[huge, huge], &[0, 0], "outside its storage"),
        (16, 0, &[1 << 40], &[0], "expanded view"),
        (16, 0, &[17], &[0], "expanded view"),
        (16, 0, &[4, 4], &[1], "2 axes and 1 strides"),
        (16, 0, &[-1], &[1], "a length was wanted, found -1"),
        (16, -1, &[1], &[1], "a length was wanted, found -1"),
        (16, 0, &[1; 17], &[1; 17], "at most 16 axes"),
    ] {
        let text = refusal("x", &with_pickle(&one_tensor(len, offset, shape, strides)), &OPTIONS);
        assert!(text.contains(word), "{shape:?} {strides:?}: {text}");
    }
    println!("{:.1?}", start.elapsed());
}

#[test]
fn names_outside_the_list_stop_the_reader() {
    for (module, name) in [
        ("os", "system"),
        ("builtins", "eval"),
        ("builtins", "getattr"),
        ("__builtin__", "exec"),
        ("torch", "load"),
        ("torch.hub", "load"),
        ("torch", "EvilStorage"),
        ("collections", "defaultdict"),
        ("argparse", "Action"),
        ("numpy.core.multiarray", "scalar"),
        ("torch._utils", "_rebuild_device_tensor_from_numpy"),
        ("timm.models.vision_transformer", "VisionTransformer"),
    ] {
        let called =
            [b"\x80\x02".to_vec(), global(module, name), tuple(&[text("id")]), b"R.".to_vec()].concat();
        let named = [
            b"\x80\x04\x8c".to_vec(),
            vec![module.len() as u8],
            module.as_bytes().to_vec(),
            vec![0x8c, name.len() as u8],
            name.as_bytes().to_vec(),
            b"\x93.".to_vec(),
        ];
        for pickle in [called, named.concat()] {
            let text = refusal("x", &with_pickle(&pickle), &OPTIONS);
            assert!(text.contains(&format!("`{module}.{name}`")), "{text}");
        }
    }
    // Instructions that import or call in other ways are not known.
    for code in [b'i', b'o', 0x82, 0x83, 0x84, b'P', b'I', b'\xff'] {
        let text = refusal("x", &with_pickle(&[0x80, 2, code]), &OPTIONS);
        assert!(text.contains(&format!("{code:#04x}")), "{text}");
    }
}

#[test]
fn nesting_sharing_and_cycles_cost_nothing() {
    let start = Instant::now();
    // Ten dictionaries, each with a hundred references to the next: 100^10 paths.
    let mut shared = b"\x80\x02".to_vec();
    for level in 0..10u8 {
        shared.extend(b"}q");
        shared.push(level);
        shared.extend(b"(");
        for i in 0..100 {
            shared.extend(text(&format!("k{i}")));
            shared.extend(if level == 0 { b"N".to_vec() } else { vec![b'h', level - 1] });
        }
        shared.extend(b"u");
    }
    shared.push(b'.');
    let own = [b"\x80\x02}q\x00".to_vec(), text("state_dict"), b"h\x00s.".to_vec()].concat();
    let deep_lists =
        [b"\x80\x02".to_vec(), b"](".repeat(600_000), b"e".repeat(600_000), b".".to_vec()].concat();
    let mut deep_dicts = b"\x80\x02}".to_vec();
    for _ in 0..100_000 {
        deep_dicts.extend(text("model"));
        deep_dicts.push(b'}');
    }
    deep_dicts.extend(b"s".repeat(100_000));
    deep_dicts.push(b'.');
    let doubling = [b"\x80\x02]".to_vec(), b"q\x00(h\x00h\x00e".repeat(100_000), b".".to_vec()].concat();
    let tuples = [b"\x80\x02N".to_vec(), b"2\x86".repeat(900_000), b".".to_vec()].concat();
    let marks = [b"\x80\x02".to_vec(), b"(".repeat(5_000_000), b".".to_vec()].concat();
    let many = [b"\x80\x02".to_vec(), b"N".repeat(3_000_000), b".".to_vec()].concat();
    for (name, pickle) in [
        ("shared", shared),
        ("own", own),
        ("deep lists", deep_lists),
        ("deep dicts", deep_dicts),
        ("doubling", doubling),
        ("tuples", tuples),
        ("marks", marks),
        ("many", many),
        ("empty", Vec::new()),
    ] {
        println!("{name}: {}", refusal(name, &with_pickle(&pickle), &OPTIONS));
    }
    assert!(start.elapsed().as_secs() < 20, "{:.1?}", start.elapsed());
}

/// Ten thousand tensors that are all of one storage would take ten thousand times its memory.
#[test]
fn many_views_of_one_storage_are_refused() {
    let one = one_tensor(16, 0, &[16], &[1]);
    let (start, end) = (text("cls_token").len() + 3, one.len() - 2);
    let tensor = &one[start..end];
    let mut pickle = b"\x80\x02}".to_vec();
    for i in 0..10_000 {
        pickle.extend(text(&format!("t{i}")));
        pickle.extend(tensor);
        pickle.extend(b"s");
    }
    pickle.push(b'.');
    let text = refusal("x", &with_pickle(&pickle), &OPTIONS);
    assert!(text.contains("views of 640000 bytes in all, its storages have 64"), "{text}");
}

#[test]
fn containers_that_torch_does_not_write_are_refused() {
    let pickle = one_tensor(16, 0, &[16], &[1]);
    let compressed = zip_of([("a/data.pkl", pickle.clone()), ("a/data/0", vec![0; 64])], true);
    assert!(refusal("x", &compressed, &OPTIONS).contains("compressed"));
    let order = |word: &[u8]| {
        zip_of(
            [("a/data.pkl", pickle.clone()), ("a/byteorder", word.to_vec()), ("a/data/0", vec![0; 64])],
            false,
        )
    };
    assert!(refusal("x", &order(b"big"), &OPTIONS).contains("big-endian"));
    assert!(refusal("x", &order(b"little"), &OPTIONS).contains("no ViT format"));
    let missing = zip_of([("a/data.pkl", pickle)], false);
    assert!(refusal("x", &missing, &OPTIONS).contains("the file has no `data/0`"));
    let list = refusal("x", &with_pickle(b"\x80\x02]."), &OPTIONS);
    assert!(list.contains("no dictionary of tensors"), "{list}");
    let empty = refusal("x", &with_pickle(b"\x80\x02}q\0."), &OPTIONS);
    assert!(empty.contains("its dictionary is empty"), "{empty}");
    let nothing = [b"\x80\x02}".to_vec(), text("epoch"), int(3), b"s.".to_vec()].concat();
    let text = refusal("x", &with_pickle(&nothing), &OPTIONS);
    assert!(text.contains("no state dict is among its entries (epoch)"), "{text}");
}

#[test]
fn a_flipped_bit_in_a_storage_is_noticed() {
    let mut bytes = fixture_bytes("import/torch_plain.pth");
    let weights = tiny("timm_small").tensors["norm/bias"].data.clone();
    let stored: Vec<u8> = weights.iter().flat_map(|v| v.to_le_bytes()).collect();
    let at = bytes.windows(stored.len()).position(|window| window == stored).unwrap();
    bytes[at] ^= 1;
    let text = load_bytes("x", &bytes, &OPTIONS).unwrap_err().to_string();
    assert!(text.contains("`norm.bias`") && text.to_lowercase().contains("checksum"), "{text}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_pickles_do_not_panic(
        codes in prop::collection::vec(
            prop_oneof![
                prop::sample::select(&b"(.012NKMJGXUTBC])}lt\x85\x86\x87daesuRbQqrhj\x81\x88\x89\x8a\x8b\x8c\x8d\x8e\x8f\x90\x91\x93\x94\x95\x96"[..])
                    .prop_map(|code| vec![code]),
                any::<u8>().prop_map(|byte| vec![byte]),
                prop::sample::select(vec![
                    global("collections", "OrderedDict"), global("torch._utils", "_rebuild_tensor_v2"),
                    global("torch._utils", "_rebuild_parameter"), global("torch", "Size"),
                    global("torch", "FloatStorage"), global("torch", "float32"), text("storage"), text("0"), int(16),
                    b"]".to_vec(), b")R".to_vec(), b"\x86R".to_vec(),
                ]),
            ],
            0..60,
        )
    ) {
        let pickle = [b"\x80\x02".to_vec(), codes.concat(), b".".to_vec()].concat();
        prop_assert!(load_bytes("x", &with_pickle(&pickle), &OPTIONS).is_err());
    }

    #[test]
    fn damaged_pickles_do_not_panic(flips in prop::collection::vec((any::<u32>(), any::<u8>()), 1..5), cut in any::<u32>()) {
        let mut pickle = one_tensor(16, 0, &[1, 1, 16], &[16, 16, 1]);
        for (at, value) in flips {
            let at = at as usize % pickle.len();
            pickle[at] = value;
        }
        let _ = load_bytes("x", &with_pickle(&pickle), &OPTIONS);
        pickle.truncate(cut as usize % pickle.len());
        prop_assert!(load_bytes("x", &with_pickle(&pickle), &OPTIONS).is_err());
    }
}
