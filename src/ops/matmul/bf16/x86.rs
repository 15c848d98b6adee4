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
        for (inside, sums) in inside.iter_mut().zip(&*sums) {
            *inside = [_mm512_loadu_ps(sums.as_ptr()), _mm512_loadu_ps(sums.as_ptr().add(PANEL / 2))];
        }
        let (mut at, mut w) = (x.as_ptr(), panel.as_ptr());
        for _ in 0..pairs {
            let columns =
                [w, w.add(PANEL / 2)].map(|w| transmute::<_, __m512bh>(_mm512_loadu_si512(w.cast())));
            for (i, inside) in inside.iter_mut().enumerate() {
                let pair: __m512bh = transmute(_mm512_set1_epi32((*at.add(i * stride)).cast_signed()));
                for (sum, &w) in inside.iter_mut().zip(&columns) {
                    *sum = _mm512_dpbf16_ps(*sum, pair, w);
                }
            }
            at = at.add(1);
            w = w.add(PANEL);
        }
        for (inside, sums) in inside.iter().zip(sums) {
            _mm512_storeu_ps(sums.as_mut_ptr(), inside[0]);
            _mm512_storeu_ps(sums.as_mut_ptr().add(PANEL / 2), inside[1]);
        }
    }
}
