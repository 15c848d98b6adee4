//! Where the backbone of a run is looked for after either has moved (case 24).

use super::support::*;
use l2p_engine::import::checksum;
use l2p_engine::learner::locate_backbone;
use std::path::Path;

#[test]
fn the_backbone_of_a_moved_run_is_found_by_path_and_checksum() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    for dir in ["here/runs/one", "there/run", "sub"] {
        std::fs::create_dir_all(at(dir)).unwrap();
    }
    let copy = |to: &str| std::fs::copy(fixture("import/timm_vit.safetensors"), at(to)).unwrap();
    copy("here/vit.safetensors");
    let wanted = checksum(&at("here/vit.safetensors")).unwrap();
    let locate = |recorded: &str, given: Option<&Path>, run: &str| {
        let given = given.map(|path| path.to_str().unwrap());
        locate_backbone(recorded, given, &at(run), Some(&wanted)).map_err(|e| e.to_string())
    };
    let found = |path: &str| Ok(at(path).to_str().unwrap().to_string());

    // `train` was started in `here` with a relative path; the current folder is another one.
    assert_eq!(locate("vit.safetensors", None, "here/runs/one"), found("here/vit.safetensors"));
    assert_eq!(locate("bundled:micro", None, "there/run"), Ok("bundled:micro".to_string()));
    // Of two files the one with the run's checksum counts.
    std::fs::copy(fixture("import/timm_reg4.safetensors"), at("here/runs/one/vit.safetensors")).unwrap();
    assert_eq!(locate("vit.safetensors", None, "here/runs/one"), found("here/vit.safetensors"));
    // Neither the relative nor an absolute path leads anywhere now.
    for recorded in ["vit.safetensors", "/gone/vit.safetensors"] {
        let text = locate(recorded, None, "there/run").unwrap_err();
        assert!(text.contains("--init-checkpoint FILE") && text.contains(&wanted), "{text}");
    }
    // Moved into the run itself.
    copy("there/run/vit.safetensors");
    assert_eq!(locate("/gone/vit.safetensors", None, "there/run"), found("there/run/vit.safetensors"));
    // The user says where it is; another file is refused with both checksums.
    copy("sub/renamed.safetensors");
    let given = at("sub/renamed.safetensors");
    assert_eq!(locate("/gone/vit.safetensors", Some(&given), "there/run"), found("sub/renamed.safetensors"));
    std::fs::copy(fixture("import/timm_reg4.safetensors"), &given).unwrap();
    let text = locate("/gone/vit.safetensors", Some(&given), "there/run").unwrap_err();
    assert!(text.contains(&wanted) && text.contains(&checksum(&given).unwrap()), "{text}");
    let text = locate("vit.safetensors", Some(&at("sub/absent")), "there/run").unwrap_err();
    assert!(text.contains("sub/absent") && text.contains("opened"), "{text}");
}
