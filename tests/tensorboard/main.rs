//! Event files: the framing against literals, the contents against TensorBoard itself where it is
//! installed (`L2P_PYTHON` names the interpreter; default `python3`).

#[path = "../common/mod.rs"]
mod common;

use common::python::{python_with, run as run_python};
use l2p_engine::output::tensorboard::{HParam, Writer, frame, tags};
use std::path::Path;

/// CRC-32C bit by bit, from its polynomial.
fn crc(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |c, b| {
        (0..8).fold(c ^ u32::from(*b), |c, _| if c & 1 == 1 { c >> 1 ^ 0x82f6_3b78 } else { c >> 1 })
    })
}

fn masked(bytes: &[u8]) -> u32 {
    crc(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// The payloads of a file, each checksum verified.
fn records(path: &Path) -> Vec<Vec<u8>> {
    let bytes = std::fs::read(path).unwrap();
    let mut rest = bytes.as_slice();
    let mut out = Vec::new();
    while !rest.is_empty() {
        let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
        assert_eq!(u32::from_le_bytes(rest[8..12].try_into().unwrap()), masked(&rest[..8]));
        let payload = &rest[12..12 + length];
        assert_eq!(u32::from_le_bytes(rest[12 + length..16 + length].try_into().unwrap()), masked(payload));
        out.push(payload.to_vec());
        rest = &rest[16 + length..];
    }
    out
}

#[test]
fn framing_is_tfrecord() {
    // The check value of CRC-32C (RFC 3720), then a record as TensorBoard 2.21's own writer makes it.
    assert_eq!(crc(b"123456789"), 0xe306_9283);
    let wanted = [
        0x0d, 0, 0, 0, 0, 0, 0, 0, 0x3c, 0x37, 0xb8, 0x34, b'b', b'r', b'a', b'i', b'n', b'.', b'E', b'v',
        b'e', b'n', b't', b':', b'2', 0xee, 0x01, 0x06, 0x7c,
    ];
    assert_eq!(frame(b"brain.Event:2"), wanted);
}

#[test]
fn events_are_encoded_as_protocol_buffers() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Writer::create(dir.path(), Some(300)).unwrap();
    writer.scalar(tags::LOSS, 300, 1.5).unwrap();
    writer.flush().unwrap();
    let records = records(writer.path());
    assert_eq!(records.len(), 3);
    // After 1: double wall_time (9 bytes). 3: file_version.
    assert_eq!(records[0][9..], *b"\x1a\x0dbrain.Event:2");
    // 2: step 300 as a varint, 7: SessionLog { 1: START }.
    assert_eq!(records[1][9..], *b"\x10\xac\x02\x3a\x02\x08\x01");
    // 5: Summary { 1: Value { 1: tag, 2: float 1.5 } }.
    assert_eq!(records[2][9..], *b"\x10\xac\x02\x2a\x0d\x0a\x0b\x0a\x04loss\x15\x00\x00\xc0\x3f");
}

#[test]
fn tags_are_the_official_ones() {
    assert_eq!((tags::accuracy(3), tags::eval_loss(0)), ("accuracy_3".into(), "eval_loss_0".into()));
    assert_eq!((tags::histogram(9), tags::ours("x/y")), ("histogram_9".into(), "l2p_engine/x/y".into()));
    let fixed = [
        tags::AVG_ACC,
        tags::FORGETTING,
        tags::BACKWARD,
        tags::LEARNING_ACC,
        tags::TRAIN_ACCURACY,
        tags::LOSS,
        tags::LOSS_STD,
        tags::LEARNING_RATE,
        tags::L2_GRADS,
        tags::TASK_ID,
    ];
    assert_eq!(
        fixed.join(" "),
        "avg_acc forgetting backward learning_acc train_accuracy loss loss_std learning_rate l2_grads task_id"
    );
}

#[test]
fn event_files_of_a_folder_are_read_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let names: Vec<_> =
        (0..3).map(|_| Writer::create(dir.path(), None).unwrap().path().to_path_buf()).collect();
    assert!(names.is_sorted() && names[0] != names[1] && names[1] != names[2], "{names:?}");
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    assert!(Writer::create(&file, None).unwrap_err().to_string().contains("cannot be made"));
}

const READ_BACK: &str = r##"
import sys, math
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2
acc = EventAccumulator(sys.argv[1], size_guidance={k: 0 for k in ("scalars", "histograms", "tensors")},
                       purge_orphaned_data=True)
acc.Reload()
loss = acc.Scalars("loss")
# Steps 0..59 of the first file, then the second file from 50 on with other values.
assert [e.step for e in loss] == list(range(100)), [e.step for e in loss]
assert all(e.value == (e.step + 0.5 if e.step < 50 else -e.step) for e in loss), loss
assert math.isnan(acc.Scalars("avg_acc")[0].value)
histogram = acc.Histograms("histogram_0")
assert [h.step for h in histogram] == [7], histogram
h = histogram[0].histogram_value
assert list(h.bucket_limit) == [0.5, 1.5, 2.5, 3.5] and list(h.bucket) == [5, 0, 2, 9], h
assert (h.min, h.max, h.num, h.sum) == (-0.5, 3.5, 16, 31) and h.sum_squares == 89, h
text = acc.Tensors("config/text_summary")[0].tensor_proto
assert text.string_val[0].decode() == "# title\n\nwörds", text
content = acc.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
data = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info
assert data.hparams["lr"].number_value == 0.03
assert data.hparams["method"].string_value == "l2p"
assert data.hparams["mask"].bool_value is True
content = acc.SummaryMetadata("_hparams_/experiment").plugin_data.content
data = plugin_data_pb2.HParamsPluginData.FromString(content).experiment
assert [m.name.tag for m in data.metric_infos] == ["avg_acc"], data
assert {h.name: h.type for h in data.hparam_infos} == {"lr": 3, "method": 1, "mask": 2}, data
content = acc.SummaryMetadata("_hparams_/session_end_info").plugin_data.content
assert plugin_data_pb2.HParamsPluginData.FromString(content).session_end_info.status == 1
print("read back")
"##;

const READ_RUN: &str = r##"
import sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
acc = EventAccumulator(sys.argv[1], size_guidance={"scalars": 0, "histograms": 0}, purge_orphaned_data=True)
acc.Reload()
tags = acc.Tags()
for tag in ["loss", "loss_std", "train_accuracy", "learning_rate", "l2_grads", "task_id", "avg_acc", "forgetting"]:
    steps = [e.step for e in acc.Scalars(tag)]
    assert steps and steps == sorted(set(steps)), (tag, steps)
assert len(acc.Scalars("avg_acc")) == 5, acc.Scalars("avg_acc")
assert len(acc.Scalars("accuracy_0")) == 5 and len(acc.Scalars("accuracy_4")) == 1
assert len(acc.Histograms("histogram_0")) == 5, tags
assert acc.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
"##;

#[test]
fn tensorboard_reads_a_run_that_was_stopped_and_resumed() {
    let Some(python) = python_with(&["tensorboard"]) else { return };
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let mut first = common::process::train(&run, &[]).spawn().unwrap();
    while std::fs::read_dir(run.join("checkpoints")).map_or(0, Iterator::count) < 4 {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    first.kill().unwrap();
    first.wait().unwrap();
    common::process::expect(common::process::train(&run, &["--resume"]), 0);
    run_python(&python, READ_RUN, &[run.to_str().unwrap()]);
}

#[test]
fn tensorboard_reads_it_back() {
    let Some(python) = python_with(&["tensorboard"]) else { return };
    let dir = tempfile::tempdir().unwrap();
    let mut first = Writer::create(dir.path(), None).unwrap();
    let hparams = [
        ("lr".to_string(), HParam::from_toml("0.03")),
        ("method".to_string(), HParam::from_toml("\"l2p\"")),
        ("mask".to_string(), HParam::from_toml("true")),
    ];
    first.hparams(&hparams, &[tags::AVG_ACC]).unwrap();
    first.text("config/text_summary", 0, "# title\n\nwörds").unwrap();
    first.scalar(tags::AVG_ACC, 1, f64::NAN).unwrap();
    first.counts(&tags::histogram(0), 7, &[5, 0, 2, 9]).unwrap();
    for step in 0..60 {
        first.scalar(tags::LOSS, step, step as f64 + 0.5).unwrap();
    }
    // Killed in the middle of a record.
    first.flush().unwrap();
    let path = first.path().to_path_buf();
    drop(first);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes.extend([40, 0, 0, 0, 0]);
    std::fs::write(&path, bytes).unwrap();

    let mut second = Writer::create(dir.path(), Some(50)).unwrap();
    for step in 50..100 {
        second.scalar(tags::LOSS, step, -(step as f64)).unwrap();
    }
    second.hparams_end(true).unwrap();
    second.flush().unwrap();
    run_python(&python, READ_BACK, &[dir.path().to_str().unwrap()]);
}
