//! `vdpbf16ps`.

use super::{PANEL, Sums, TILE};
use std::arch::x86_64::{
    __cpuid, __m512bh, _mm512_dpbf16_ps, _mm512_loadu_ps, _mm512_loadu_si512, _mm512_set1_epi32,
    _mm512_setzero_ps, _mm512_storeu_ps,
};
use std::mem::transmute;

pub fn has_avx512_bf16() -> bool {
    is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bf16")
}

pub fn is_amd() -> bool {
    let leaf = __cpuid(0);
    [leaf.ebx, leaf.edx, leaf.ecx].map(u32::to_le_bytes).concat() == b"AuthenticAMD"
}

/// Adds TILE rows of x, `stride` pairs apart, times a panel (pairs, PANEL) to `sums`.
///
/// # Safety
/// The machine has AVX512-BF16.
#[target_feature(enable = "avx512f,avx512bf16")]
pub unsafe fn tile(sums: &mut Sums, x: &[u32], stride: usize, panel: &[u32]) {
    let pairs = panel.len() / PANEL;
    assert!(x.len() >= (TILE - 1) * stride + pairs);
    let mut inside = [[_mm512_setzero_ps(); 2]; TILE];
    // SAFETY: vectors of a row of sums, pairs of the panel and of the rows of x, as asserted; vectors of f32 and of
    // bf16 have the same 64 bytes.
    unsafe {
        for i in 0..TILE {
            let from = sums[i].as_ptr();
            inside[i] = [_mm512_loadu_ps(from), _mm512_loadu_ps(from.add(PANEL / 2))];
        }
        let (mut at, mut w) = (x.as_ptr(), panel.as_ptr());
        for _ in 0..pairs {
            let first: __m512bh = transmute(_mm512_loadu_si512(w.cast()));
            let second: __m512bh = transmute(_mm512_loadu_si512(w.add(PANEL / 2).cast()));
            // Without closures, which would be functions for every processor, and be called.
            for i in 0..TILE {
                let pair: __m512bh = transmute(_mm512_set1_epi32((*at.add(i * stride)).cast_signed()));
                inside[i][0] = _mm512_dpbf16_ps(inside[i][0], pair, first);
                inside[i][1] = _mm512_dpbf16_ps(inside[i][1], pair, second);
            }
            at = at.add(1);
            w = w.add(PANEL);
        }
        for i in 0..TILE {
            let to = sums[i].as_mut_ptr();
            _mm512_storeu_ps(to, inside[i][0]);
            _mm512_storeu_ps(to.add(PANEL / 2), inside[i][1]);
        }
    }
}
