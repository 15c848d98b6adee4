//! Products of large matrices with seven multiplications of half-size blocks where eight are usual.
//! Source: Strassen 1969, "Gaussian elimination is not optimal"; without extra matrices as in Huang et
//! al. 2016, "Strassen's algorithm reloaded": sums of blocks of x and w are formed while they are packed,
//! and a tile of a product is added to the blocks of y it belongs to straight from the registers.
//!
//! x is cut into its rows 2i and 2i + 1 and into two halves of its columns, so that only rows of one
//! image meet: a row's bits depend on its image, and on no other (with an odd number of rows, the last
//! one meets zeros). The bound on the rounding error is that of a plain product times a small constant,
//! relative to the norms of the matrices and not to each element (Higham 2002, section 23.2.2).

pub mod cpu;

use std::ops::Range;

/// A block or the sum or difference of two: 0, 1, 2, 3 are the blocks 11, 12, 21, 22.
#[derive(Clone, Copy)]
enum Blocks {
    One(usize),
    Sum(usize, usize),
    Difference(usize, usize),
}
use Blocks::{Difference, One, Sum};

impl Blocks {
    /// The blocks it is made of; a single one twice.
    #[inline(always)]
    fn both(self) -> (usize, usize) {
        match self {
            One(a) => (a, a),
            Sum(a, b) | Difference(a, b) => (a, b),
        }
    }
}

/// A product of half-size matrices.
struct Product {
    /// Of x.
    left: Blocks,
    /// Of w.
    right: Blocks,
}

/// Products that are added up in the registers, one after the other.
struct Chain {
    /// By their number in [`PRODUCTS`].
    products: Range<usize>,
    /// Once each of them is added: the blocks of y to which the sum so far is added or, where that is
    /// false, from which it is taken.
    into: &'static [&'static [(usize, bool)]],
}

const fn times(left: Blocks, right: Blocks) -> Product {
    Product { left, right }
}

/// The seven products, in the order of the chains.
const PRODUCTS: [Product; 7] = [
    times(Sum(0, 3), Sum(0, 3)),
    times(Difference(1, 3), Sum(2, 3)),
    times(One(0), Difference(1, 3)),
    times(Difference(2, 0), Sum(0, 1)),
    times(Sum(2, 3), One(0)),
    times(One(3), Difference(2, 0)),
    times(Sum(0, 1), One(3)),
];

/// y11 = P0 + P1 + P5 - P6, y12 = P2 + P6, y21 = P4 + P5, y22 = P0 + P2 + P3 - P4. A product that reaches
/// one block only joins one that reaches it, too: y is written ten times, not twelve.
const CHAINS: [Chain; 5] = [
    Chain { products: 0..2, into: &[&[(3, true)], &[(0, true)]] },
    Chain { products: 2..4, into: &[&[(1, true)], &[(3, true)]] },
    Chain { products: 4..5, into: &[&[(2, true), (3, false)]] },
    Chain { products: 5..6, into: &[&[(0, true), (2, true)]] },
    Chain { products: 6..7, into: &[&[(0, false), (1, true)]] },
];

/// By product and block: whether no product before reaches the block. A table, because it is asked for each tile.
const IS_FIRST: [[bool; 4]; 7] = {
    let (mut first, mut reached) = ([[false; 4]; 7], [false; 4]);
    let mut chain = 0;
    while chain < CHAINS.len() {
        let Chain { products, into } = &CHAINS[chain];
        let mut step = 0;
        while step < into.len() {
            let mut place = 0;
            while place < into[step].len() {
                let block = into[step][place].0;
                first[products.start + step][block] = !reached[block];
                reached[block] = true;
                place += 1;
            }
            step += 1;
        }
        chain += 1;
    }
    first
};

/// Columns of half a matrix are a multiple of this: of two vectors of every machine.
const COLUMNS: usize = 32;

/// From here on half-size blocks are large enough to be worth the additions.
const LARGE: usize = 384;

/// Whether [`cpu::product`] can take a matrix w (k, n) and is the faster way, for images of `rows` rows each.
/// It does not depend on the number of images.
pub fn suits(rows: usize, k: usize, n: usize) -> bool {
    let pairs_well = rows.is_multiple_of(2) || rows > 32;
    rows > 1 && pairs_well && k >= LARGE && n >= LARGE && k.is_multiple_of(2) && n.is_multiple_of(2 * COLUMNS)
}

/// Elements of a packed matrix of (k, n): seven sums of blocks.
pub fn packed_len(k: usize, n: usize) -> usize {
    7 * (k / 2) * (n / 2)
}

/// Images of `rows` rows each, and the extents of w.
#[derive(Debug, Clone, Copy)]
pub struct ProductDims {
    pub rows: usize,
    pub k: usize,
    pub n: usize,
}

/// In place of a pair's second row where there is none.
const ABSENT: usize = usize::MAX;

/// The rows of all images, two by two.
#[derive(Clone, Copy)]
struct Pairs {
    images: usize,
    rows: usize,
}

impl Pairs {
    fn per_image(&self) -> usize {
        self.rows.div_ceil(2)
    }

    fn len(&self) -> usize {
        self.images * self.per_image()
    }

    /// The rows of a pair.
    fn rows(&self, pair: usize) -> [usize; 2] {
        let (image, i) = (pair / self.per_image(), pair % self.per_image());
        let first = image * self.rows + 2 * i;
        [first, if 2 * i + 1 < self.rows { first + 1 } else { ABSENT }]
    }

    /// All rows of consecutive pairs.
    fn range(pairs: &[[usize; 2]]) -> Range<usize> {
        let ends = |pair: &[usize; 2]| if pair[1] == ABSENT { pair[0] + 1 } else { pair[1] + 1 };
        pairs.first().map_or(0, |pair| pair[0])..pairs.last().map_or(0, ends)
    }
}
