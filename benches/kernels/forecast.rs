//! How long a launch should take on a GPU: counted instructions and bytes at the rates of its data sheet.
//!
//! A multiprocessor works on a product no faster than its tensor cores multiply, its four schedulers issue what the main
//! loop has, and its shared memory delivers operands and takes the next tiles. The counts are those of
//! `docs/kernel_resources.md`, which `--test kernels` compares with the compiled code. Of the slowest of the three a kernel is
//! taken to reach [`PRODUCT_SHARE`] or [`ATTENTION_SHARE`]; those two numbers are assumptions until a GPU has run them.

use std::sync::OnceLock;

/// A GPU: what its data sheet says, and for an H200 what was measured there through PyTorch.
#[derive(Debug, PartialEq)]
pub struct Chip {
    pub name: &'static str,
    pub word: &'static str,
    pub multiprocessors: f64,
    /// Clocks per second under load.
    hz: f64,
    /// Operations of `mma.sync` in 16 bits with f32 sums per clock and multiprocessor. 9.0: about 0.62 of the 4,096 that
    /// `wgmma` reaches (Luo et al. 2024, arXiv:2402.13499, on `mma`).
    mma: f64,
    /// Bytes per second of a large copy, read and written.
    pub copy: f64,
    /// Operations per second of a large product in 16 bits through cuBLASLt.
    pub product: f64,
    /// Whether it runs the code for 9.0.
    hopper: bool,
}

pub const CHIPS: [Chip; 4] = [
    Chip {
        name: "NVIDIA H200",
        word: "h200",
        multiprocessors: 132.0,
        hz: 1.755e9,
        mma: 0.62 * 4096.0,
        copy: 4.3e12,
        product: 790e12,
        hopper: true,
    },
    Chip {
        name: "NVIDIA A100",
        word: "a100",
        multiprocessors: 108.0,
        hz: 1.41e9,
        mma: 2048.0,
        copy: 0.9 * 2.039e12,
        product: 0.9 * 312e12,
        hopper: false,
    },
    Chip {
        name: "NVIDIA GeForce RTX 4090",
        word: "rtx4090",
        multiprocessors: 128.0,
        hz: 2.52e9,
        mma: 512.0,
        copy: 0.9 * 1.008e12,
        product: 0.95 * 165.2e12,
        hopper: false,
    },
    Chip {
        name: "NVIDIA GeForce RTX 5090",
        word: "rtx5090",
        multiprocessors: 170.0,
        hz: 2.41e9,
        mma: 512.0,
        copy: 0.9 * 1.792e12,
        product: 0.95 * 209.5e12,
        hopper: false,
    },
];

/// Share of the slowest of the three rates that the main loops of products and of attention reach. In attention a warp's
/// exponentials wait for its products.
const PRODUCT_SHARE: f64 = 0.85;
const ATTENTION_SHARE: f64 = 0.6;
/// Bytes of new tiles that `cp.async` writes to shared memory per 1,000 operations.
const PRODUCT_COPIES: f64 = 16.0;
const ATTENTION_COPIES: f64 = 8.0;
/// Of a multiprocessor, per clock.
const SCHEDULERS: f64 = 4.0;
const SHARED_BYTES: f64 = 128.0;
/// Operations of 32 matrix instructions.
const OF_32: f64 = 32.0 * 4096.0;
/// Share of the copy rate that a simple kernel reaches, and the least microseconds of a launch within a graph.
pub const MEMORY_SHARE: f64 = 0.85;
pub const LAUNCH_US: f64 = 2.5;

/// Of a kernel's main loop: instructions per 32 matrix instructions for 8.0 and 9.0, bytes of operands per 1,000 operations.
struct Counts {
    kernel: &'static str,
    per_32: [f64; 2],
    bytes: f64,
}

fn counts(kernel: &str) -> &'static Counts {
    static TABLE: OnceLock<Vec<Counts>> = OnceLock::new();
    let row = |line: &'static str| {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let number = |i: usize| cells.get(i).and_then(|cell| cell.parse().ok());
        Some(Counts {
            kernel: cells.get(1)?.trim_matches('`'),
            per_32: [number(8)?, number(9)?],
            bytes: number(10)?,
        })
    };
    let table = TABLE
        .get_or_init(|| include_str!("../../docs/kernel_resources.md").lines().filter_map(row).collect());
    table
        .iter()
        .find(|c| c.kernel == kernel)
        .unwrap_or_else(|| panic!("{kernel} is not in docs/kernel_resources.md"))
}

impl Chip {
    /// Operations per second of a kernel's main loop on all multiprocessors.
    fn rate(&self, kernel: &str, copies: f64, share: f64) -> f64 {
        let counts = counts(kernel);
        let issued = SCHEDULERS * OF_32 / counts.per_32[usize::from(self.hopper)];
        let delivered = SHARED_BYTES * 1000.0 / (counts.bytes + copies);
        share * self.multiprocessors * self.hz * self.mma.min(issued).min(delivered)
    }

    /// Of a product of (rows, depth) and (depth, columns): with the useful share of its waves of tiles, one per multiprocessor at
    /// a time.
    pub fn product_rate(&self, rows: usize, columns: usize, back: bool) -> f64 {
        let tiles = |side: usize| rows.div_ceil(side) * columns.div_ceil(side);
        let few = tiles(128) < 128;
        let side = if few { 64 } else { 128 };
        let waves = (tiles(side) as f64 / self.multiprocessors).ceil();
        let whole = (rows * columns) as f64 / (waves * self.multiprocessors * (side * side) as f64);
        let kernel = match (back, few) {
            (false, false) => "matmul_forward_bf16",
            (false, true) => "matmul_forward_few_rows_bf16",
            (true, false) => "matmul_backward_input_bf16",
            (true, true) => "matmul_backward_input_few_rows_bf16",
        };
        // A small tile copies twice as much.
        let copies = if few { 2.0 * PRODUCT_COPIES } else { PRODUCT_COPIES };
        whole * self.rate(kernel, copies, PRODUCT_SHARE)
    }

    pub fn attention_forward_rate(&self) -> f64 {
        self.rate("attention_forward_bf16", ATTENTION_COPIES, ATTENTION_SHARE)
    }

    /// Of the five products that a backward pass needs; its three kernels compute two, three and four.
    pub fn attention_backward_rate(&self) -> f64 {
        let passes = [("delta", 2.0), ("q", 3.0), ("kv", 4.0)];
        let clocks = passes.map(|(pass, products)| {
            let kernel = format!("attention_backward_{pass}_bf16");
            products / self.rate(&kernel, ATTENTION_COPIES, ATTENTION_SHARE)
        });
        5.0 / clocks.iter().sum::<f64>()
    }
}
