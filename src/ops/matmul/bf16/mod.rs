//! Products on the CPU whose operands are rounded to bf16 and whose sums are f32: `precision = "bf16"`.
//!
//! y = start + Σ_p (x[2p+1] w[2p+1] then x[2p] w[2p]), p ascending, each product added by a fused multiply-add: the order
//! of `vdpbf16ps` in Intel's Software Developer's Manual, volume 2, where products of bf16 are exact in f32. A row of y
//! depends on its own row of x alone, and a column on its own column of w, so that batches, threads and ranges of
//! columns change no bit. Numbers below 2^-126 count as zero in `vdpbf16ps` and not in the other forms.
//!
//! `vdpbf16ps` does twice the multiplications of an f32 fused multiply-add. A core of an AMD EPYC reached 500 GFLOP/s with it
//! and 250 with f32, a core of Intel's Emerald Rapids 84 and 172 (`docs/results.md`), which is why
//! [`Arithmetic::Avx512Bf16`] is chosen by default on AMD only.

#[cfg(target_arch = "x86_64")]
pub mod amx;
pub mod cpu;
mod tile;

use crate::error::{Error, Result};
use std::sync::OnceLock;
use tile::PANEL;

/// What multiplies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arithmetic {
    /// Plain loops: what the others are compared with.
    Reference,
    /// Operands of 16 bits are widened in registers and multiplied by the f32 units: the bits of `Reference`.
    Widened,
    /// `vdpbf16ps` of AVX512-BF16.
    Avx512Bf16,
    /// `tdpbf16ps` of AMX, which adds in another order: see [`amx`].
    Amx,
}

impl Arithmetic {
    const ALL: [Arithmetic; 4] =
        [Arithmetic::Reference, Arithmetic::Widened, Arithmetic::Avx512Bf16, Arithmetic::Amx];

    /// The word of `L2P_CPU_BF16`, of `results.json` and of `l2p-engine devices`.
    pub fn word(self) -> &'static str {
        match self {
            Arithmetic::Reference => "reference",
            Arithmetic::Widened => "widened",
            Arithmetic::Avx512Bf16 => "avx512_bf16",
            Arithmetic::Amx => "amx",
        }
    }

    /// Whether this machine has it.
    pub fn is_here(self) -> bool {
        match self {
            Arithmetic::Reference | Arithmetic::Widened => true,
            #[cfg(target_arch = "x86_64")]
            Arithmetic::Avx512Bf16 => tile::cpu::has_avx512_bf16(),
            #[cfg(target_arch = "x86_64")]
            Arithmetic::Amx => amx::cpu::is_here(),
            #[cfg(not(target_arch = "x86_64"))]
            Arithmetic::Avx512Bf16 | Arithmetic::Amx => false,
        }
    }

    /// All that this machine has.
    pub fn here() -> impl Iterator<Item = Arithmetic> {
        Arithmetic::ALL.into_iter().filter(|a| a.is_here())
    }

    /// The one that products of this process use: what `L2P_CPU_BF16` says, or the fastest here.
    ///
    /// # Errors
    /// `Error::Config` for an unknown word, and for one that this machine has not.
    pub fn of_process() -> Result<Arithmetic> {
        static CHOSEN: OnceLock<std::result::Result<Arithmetic, String>> = OnceLock::new();
        let chosen = CHOSEN.get_or_init(|| match std::env::var_os("L2P_CPU_BF16") {
            None => Ok(Arithmetic::fastest()),
            Some(word) => Arithmetic::named(&word.to_string_lossy()),
        });
        chosen.clone().map_err(Error::config)
    }

    fn named(word: &str) -> std::result::Result<Arithmetic, String> {
        let words = || Arithmetic::here().map(Arithmetic::word).collect::<Vec<_>>().join("`, `");
        let known = Arithmetic::ALL.into_iter().find(|a| a.word() == word);
        known.filter(|a| a.is_here()).ok_or_else(|| {
            let why = if known.is_some() { ", which this processor has not" } else { "" };
            format!("L2P_CPU_BF16: wanted one of `{}`, found `{word}`{why}", words())
        })
    }

    fn fastest() -> Arithmetic {
        #[cfg(target_arch = "x86_64")]
        if amx::cpu::is_here() {
            return Arithmetic::Amx;
        } else if tile::cpu::has_avx512_bf16() && tile::cpu::is_amd() {
            return Arithmetic::Avx512Bf16;
        }
        Arithmetic::Widened
    }
}

/// Elements of a packed matrix (k, n): whole panels of pairs of rows.
pub fn packed_len(k: usize, n: usize) -> usize {
    n.div_ceil(PANEL) * PANEL * k.next_multiple_of(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_name_nothing_here_are_refused() {
        assert_eq!(Arithmetic::named("reference"), Ok(Arithmetic::Reference));
        let refusal = Arithmetic::named("avx1024").expect_err("unknown");
        assert!(refusal.contains("wanted one of `reference`, `widened`") && refusal.contains("`avx1024`"));
        for missing in Arithmetic::ALL.into_iter().filter(|a| !a.is_here()) {
            let refusal = Arithmetic::named(missing.word()).expect_err("not here");
            assert!(refusal.contains("which this processor has not"), "{refusal}");
        }
        assert!(Arithmetic::fastest().is_here());
    }
}
