//! The instructions, in assembly: their intrinsics are not in stable Rust.

use super::{BLOCK, OPERANDS, STEP, Sums};
use crate::ops::matmul::bf16::tile::cpu::has_avx512_bf16;
use std::arch::asm;
use std::arch::x86_64::{
    __cpuid, __cpuid_count, __m512i, _mm512_cvtne2ps_pbh, _mm512_loadu_ps, _mm512_storeu_si512,
};
use std::marker::PhantomData;
use std::mem::transmute;
use std::sync::OnceLock;

/// Whether the processor has AMX for bf16 (and AVX512-BF16, as every such one) and the operating system lets this process keep tiles. The first call asks
/// for that: Linux saves tiles between tasks only in processes that asked (`arch_prctl`, since Linux 5.16).
pub fn is_here() -> bool {
    static HERE: OnceLock<bool> = OnceLock::new();
    *HERE.get_or_init(|| has_avx512_bf16() && has_amx_bf16() && tiles_are_granted())
}

/// CPUID leaf 7: bit 22 of EDX is AMX-BF16, bit 24 AMX-TILE. XCR0: bits 17 and 18 are the state of tiles.
fn has_amx_bf16() -> bool {
    const WANTED: u32 = 1 << 22 | 1 << 24;
    const TILE_STATE: u32 = 0b11 << 17;
    if __cpuid(0).eax < 7 || __cpuid(1).ecx & 1 << 27 == 0 || __cpuid_count(7, 0).edx & WANTED != WANTED {
        return false;
    }
    let enabled: u32;
    // SAFETY: bit 27 of leaf 1 says that the instruction may be used.
    unsafe {
        asm!("xgetbv", in("ecx") 0, out("eax") enabled, out("edx") _, options(nomem, nostack, preserves_flags));
    }
    enabled & TILE_STATE == TILE_STATE
}

#[cfg(target_os = "linux")]
fn tiles_are_granted() -> bool {
    const ARCH_PRCTL: isize = 158;
    const REQUEST_PERMISSION: usize = 0x1023;
    const TILE_DATA: usize = 18;
    let answer: isize;
    // SAFETY: the call takes two numbers and touches no memory of this process. It refuses where a thread's signal
    // stack is too small for tiles.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL => answer,
            in("rdi") REQUEST_PERMISSION,
            in("rsi") TILE_DATA,
            out("rcx") _,
            out("r11") _,
            options(nostack)
        );
    }
    answer == 0
}

#[cfg(not(target_os = "linux"))]
fn tiles_are_granted() -> bool {
    false
}

/// A row of x in its line of the tiles (steps, 16, 32): `odd` zeros, x, and zeros. `left` begins with that line.
///
/// # Panics
/// Where [`is_here`] says no.
pub fn round_row(left: &mut [u16], x: &[f32], odd: usize) {
    assert!(is_here(), "tiles without AMX");
    // SAFETY: as asserted.
    unsafe { round_steps(left, x, odd) }
}

#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn round_steps(left: &mut [u16], x: &[f32], odd: usize) {
    for (step, left) in left.chunks_mut(OPERANDS).enumerate() {
        let (line, first) = (&mut left[..STEP], step * STEP);
        let mut values = [0.0; STEP];
        let whole = odd == 0 && first + STEP <= x.len();
        if !whole {
            for i in 0..STEP {
                values[i] = (first + i).checked_sub(odd).and_then(|at| x.get(at)).map_or(0.0, |&x| x);
            }
        }
        let from = if whole { &x[first..][..STEP] } else { &values };
        // SAFETY: 32 values; both types of 32 bf16 have 64 bytes.
        unsafe {
            let [low, high] = [_mm512_loadu_ps(from.as_ptr()), _mm512_loadu_ps(from.as_ptr().add(STEP / 2))];
            let both: __m512i = transmute(_mm512_cvtne2ps_pbh(high, low));
            _mm512_storeu_si512(line.as_mut_ptr().cast(), both);
        }
    }
}

/// What `LDTILECFG` reads.
#[repr(C, align(64))]
struct Shapes {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    bytes_per_row: [u16; 16],
    rows: [u8; 16],
}

/// All eight tiles are used, each with 16 rows of 64 bytes.
static SHAPES: Shapes = Shapes {
    palette: 1,
    start_row: 0,
    reserved: [0; 14],
    bytes_per_row: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
    rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
};

/// The tiles of this thread, until it is dropped: a thread without tiles is saved and restored faster.
pub struct Tiles(PhantomData<*const ()>);

impl Tiles {
    /// # Panics
    /// Where [`is_here`] says no.
    pub fn of_this_thread() -> Tiles {
        assert!(is_here(), "tiles without AMX");
        // SAFETY: the processor and the system have tiles; SHAPES has the form of the manual.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const SHAPES, options(nostack, readonly)) };
        Tiles(PhantomData)
    }

    /// `sums` = a block of rows of x times a panel of w, or += with `add`. x: (2, steps, 16, 32) by `top` and `bottom`;
    /// panel: (steps, 16, 32, 2).
    #[inline(always)]
    pub fn multiply(&self, sums: &mut Sums, [top, bottom]: [&[u16]; 2], panel: &[u16], add: bool) {
        let steps = top.len() / OPERANDS;
        assert!(top.len() == steps * OPERANDS && bottom.len() == top.len() && panel.len() == 2 * top.len());
        if steps == 0 {
            if !add {
                *sums = [[0.0; BLOCK]; BLOCK];
            }
            return;
        }
        // SAFETY: `self` says that the tiles of this thread have their shapes. Each step reads 1024 bytes of either
        // half of x and 2048 of the panel, which are there, and the sums have 32 rows of 128 bytes.
        unsafe {
            asm!(
                "test {add}, {add}",
                "jnz 3f",
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                "jmp 2f",
                "3:",
                "tileloadd tmm0, [{sums} + {line}]",
                "tileloadd tmm1, [{sums} + {line} + 64]",
                "tileloadd tmm2, [{sums} + {line} + 2048]",
                "tileloadd tmm3, [{sums} + {line} + 2112]",
                "2:",
                "tileloadd tmm4, [{top} + {half_line}]",
                "tileloadd tmm6, [{panel} + {line}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{panel} + {line} + 64]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{bottom} + {half_line}]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "add {top}, 1024",
                "add {bottom}, 1024",
                "add {panel}, 2048",
                "dec {steps}",
                "jnz 2b",
                "tilestored [{sums} + {line}], tmm0",
                "tilestored [{sums} + {line} + 64], tmm1",
                "tilestored [{sums} + {line} + 2048], tmm2",
                "tilestored [{sums} + {line} + 2112], tmm3",
                add = in(reg) usize::from(add),
                sums = in(reg) sums.as_mut_ptr(),
                top = inout(reg) top.as_ptr() => _,
                bottom = inout(reg) bottom.as_ptr() => _,
                panel = inout(reg) panel.as_ptr() => _,
                steps = inout(reg) steps => _,
                line = in(reg) 4 * BLOCK,
                half_line = in(reg) 2 * STEP,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack)
            );
        }
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: `of_this_thread` has configured them on this thread, which a value that is not `Send` stays on.
        unsafe { asm!("tilerelease", options(nomem, nostack, preserves_flags)) };
    }
}
