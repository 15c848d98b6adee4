//! Files that people give as checkpoints and that are something else, by their first bytes.

use std::path::Path;

pub(super) const CONTAINERS: &str =
    "wanted a `.npz` of JAX names, a `.safetensors` file or a PyTorch state dict (`.pth`, `.pt`, `.bin`)";

/// The magic number of PyTorch's format before version 1.6, as a pickled integer.
const LEGACY_TORCH: &[u8] = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.";

/// What the file is, with what to do about it; `None` if it may be a checkpoint.
pub(super) fn kind(path: &Path, bytes: &[u8]) -> Option<&'static str> {
    let head = &bytes[..bytes.len().min(512)];
    let ending = path.extension().map(|e| e.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
    let is_pickle = head.first() == Some(&0x80) && head.get(1).is_some_and(|v| (2..=5).contains(v));
    // The length in front of a safetensors header may begin with any byte, but has zeros.
    let text = if head.iter().take(8).any(|&b| b == 0) { &[] } else { head };
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text).trim_ascii_start();
    Some(if head.starts_with(b"version https://git-lfs") {
        "a Git LFS pointer, not the file itself (fetch it with `git lfs pull`)"
    } else if head.starts_with(b"\x89HDF") {
        "an HDF5 file (Keras or TensorFlow), which is not supported"
    } else if is_pickle && head[2..].starts_with(LEGACY_TORCH) {
        "a PyTorch checkpoint of the format before version 1.6 (no zip archive), which is not read; convert it with \
         `python -c \"import torch; torch.save(torch.load('OLD', map_location='cpu', weights_only=True), 'NEW')\"`"
    } else if is_pickle {
        "a Python pickle, which is not read (save a state dict with `torch.save` or safetensors instead)"
    } else if head.starts_with(b"\x93NUMPY") {
        "a single `.npy` array"
    } else if head.starts_with(&[0x1f, 0x8b]) {
        "a gzip file (unpack it first)"
    } else if head.get(257..262) == Some(b"ustar") {
        "a tar archive (unpack it first)"
    } else if head.starts_with(b"GGUF") || head.starts_with(b"lmgg") || head.starts_with(b"ggml") {
        "a GGUF or GGML file of llama.cpp, which is not supported"
    } else if head.get(4..8) == Some(b"TFL3") {
        "a TensorFlow Lite model, which is not supported"
    } else if is_onnx(&ending, head) {
        "an ONNX model, which is not supported (save the state dict of the model it was exported from)"
    } else if ending == "pb" {
        "a TensorFlow graph, which is not supported"
    } else if is_msgpack(&ending, head) {
        "a Flax msgpack file, which is not supported (save the parameters as `.npz` or safetensors)"
    } else if text.starts_with(b"<") {
        "a web page or XML, perhaps a failed download"
    } else if text.starts_with(b"{") || text.starts_with(b"[") {
        "JSON text, not weights"
    } else {
        return None;
    })
}

/// A protobuf message that begins with the version of its format and the name of the exporter.
fn is_onnx(ending: &str, head: &[u8]) -> bool {
    let message = |head: &[u8]| head.first() == Some(&0x08) && head.get(2) == Some(&0x12);
    // A safetensors header of 8 bytes has zeros there.
    message(head) && (ending == "onnx" || head.get(4).is_some_and(u8::is_ascii_lowercase))
}

/// A map of at most 15 entries whose first key is a short text.
fn is_msgpack(ending: &str, head: &[u8]) -> bool {
    let is_map = head.first().is_some_and(|b| (0x81..=0x8f).contains(b));
    let is_text = head.get(1).is_some_and(|b| (0xa1..=0xbf).contains(b));
    ending == "msgpack" || (is_map && is_text && head.get(2).is_some_and(u8::is_ascii_lowercase))
}
