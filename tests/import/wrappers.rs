//! Names that training programs put around those of a model (case 16).

use super::support::*;
use super::{refusal, tiny};
use l2p_engine::import::{LoadOptions, load_bytes};
use std::collections::BTreeMap;

/// A fixture with every name changed.
fn renamed(name: &str, rename: impl Fn(&str) -> String) -> Vec<u8> {
    edited(name, |all| {
        *all = std::mem::take(all).into_iter().map(|(n, tensor)| (rename(&n), tensor)).collect()
    })
}

/// Case 16: any common prefix is taken off, and the source sentence says which.
#[test]
fn a_common_prefix_is_taken_off_and_said() {
    for prefix in [
        "module.",
        "model.",
        "backbone.",
        "encoder.",
        "teacher.backbone.",
        "student.backbone.",
        "base_model.",
        "_orig_mod.",
        "visual.trunk.",
        "module._orig_mod.model.",
        "net.0.",
        "a.name.nobody.has.thought.of.",
    ] {
        let found = load_bytes("x", &renamed("timm_vit", |name| format!("{prefix}{name}")), &OPTIONS)
            .unwrap_or_else(|e| panic!("{prefix}: {e}"));
        assert_eq!(found.tensors, tiny("timm_vit").tensors, "{prefix}");
        let said = if prefix.contains("_orig_mod") { "`_orig_mod`" } else { prefix };
        assert!(found.source.contains(said), "{prefix}: {}", found.source);
    }
    for prefix in ["model.vit.", "backbone.", "vit.", "dinov2.", "module.model.dinov2."] {
        let bytes = renamed("hf_dinov2", |name| format!("{prefix}{name}"));
        let found = load_bytes("x", &bytes, &LoadOptions { heads: 4, ..OPTIONS }).unwrap();
        assert_eq!(found.tensors, tiny("hf_dinov2").tensors, "{prefix}");
        assert!(found.source.contains(&format!("without the prefix `{prefix}`")), "{}", found.source);
    }
    // The names of JAX have slashes.
    let stored = read_npz("golden/loader_checkpoint.npz");
    for prefix in ["params/", "opt/target/"] {
        let arrays = stored.iter().map(|(name, array)| (format!("{prefix}{name}"), array.clone())).collect();
        let found = load_bytes("x", &npz(&arrays, Store::F32, false), &LoadOptions::default()).unwrap();
        assert_eq!(found.tensors, super::loader().tensors, "{prefix}");
        assert!(found.source.contains(prefix), "{}", found.source);
    }
}

/// Case 16: modules that stand inside the names, where blocks are compiled or sharded one by one.
#[test]
fn modules_between_the_names_are_taken_off() {
    for module in ["_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"] {
        let bytes = renamed("timm_vit", |name| match name.split_once(".1.") {
            Some((before, after)) => format!("{before}.1.{module}.{after}"),
            None => name.to_string(),
        });
        let found = load_bytes("x", &bytes, &OPTIONS).unwrap();
        assert_eq!(found.tensors, tiny("timm_vit").tensors, "{module}");
        assert!(found.source.contains(module), "{}", found.source);
    }
    let twice = edited("timm_vit", |all| {
        let norm = all["norm.weight"].clone();
        all.insert("_orig_mod.norm.weight".to_string(), norm);
    });
    let text = refusal("x", &twice, &OPTIONS);
    assert!(text.contains("`_orig_mod.norm.weight`") && text.contains("both `norm.weight`"), "{text}");
}

/// Case 16: a larger model with one vision transformer in it, and files with several.
#[test]
fn what_is_outside_the_prefix_is_counted() {
    let with_head = edited("timm_vit", |all| {
        *all = std::mem::take(all).into_iter().map(|(n, t)| (format!("student.backbone.{n}"), t)).collect();
        all.insert("student.head.mlp.0.weight".to_string(), (vec![1], vec![0; 4]));
        all.insert("loss.center".to_string(), (vec![1], vec![0; 4]));
    });
    let found = load_bytes("x", &with_head, &OPTIONS).unwrap();
    assert_eq!(found.tensors, tiny("timm_vit").tensors);
    assert!(
        found.source.contains("2 tensors outside it are not read, the first `loss.center`"),
        "{}",
        found.source
    );

    let both = |one: &str, two: &str| {
        edited("timm_vit", |all| {
            let mut second = all.clone();
            second.values_mut().for_each(|(_, data)| data.fill(0));
            let named = |prefix: &str, all: &BTreeMap<_, _>| -> BTreeMap<String, (Vec<usize>, Vec<u8>)> {
                all.iter()
                    .map(|(n, t): (&String, &(Vec<usize>, Vec<u8>))| (format!("{prefix}{n}"), t.clone()))
                    .collect()
            };
            let mut merged = named(one, all);
            merged.extend(named(two, &second));
            *all = merged;
        })
    };
    // DINO's authors evaluate the teacher.
    let found = load_bytes("x", &both("teacher.backbone.", "student.backbone."), &OPTIONS).unwrap();
    assert_eq!(found.tensors, tiny("timm_vit").tensors);
    let text = refusal("x", &both("left.", "right."), &OPTIONS);
    assert!(text.contains("2 vision transformers") && text.contains("`left.`, `right.`"), "{text}");
}
