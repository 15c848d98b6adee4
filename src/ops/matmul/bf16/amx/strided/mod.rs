//! A product of strided f32 matrices on the calling thread, operands rounded to bf16 on the way into tiles: what
//! attention multiplies.

pub mod cpu;
