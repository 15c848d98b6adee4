//! Pre-trained checkpoints of other programs: `.npz` and `.safetensors` files to one backbone.
