//! Counter-based random numbers: `(seed, stream, index)` to numbers, with no state to save or share.
//! Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", Philox4x32-10.
//!
//! The same triple gives the same numbers on every device, for any number of devices and after a
//! resume. `kernels/include/philox.cuh` computes the same on a GPU.

/// What a random number is for. Each purpose has its own stream, so that additional draws in one do not change
/// the numbers of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Stream {
    /// Order of the training images within an epoch.
    Shuffle = 1,
    /// Random crop, flip and the like, per image.
    Augment = 2,
    /// Initial values of trainable parameters.
    Init = 3,
    /// The order of the classes over the tasks.
    ClassOrder = 4,
    /// Numbers that only tests draw.
    Test = 5,
    /// Patterns and noise of the synthetic data set.
    Synthetic = 6,
    /// Mixing of the images of a batch.
    Mix = 7,
    /// Label sets and moments of the Gaussian scenarios.
    Schedule = 8,
    /// The images of a class that are in the replay set.
    Replay = 9,
    /// The order in which replayed images are added to the batches of later tasks.
    Rehearse = 10,
    /// Components that a task adds (CODA-Prompt).
    Components = 11,
    /// The random matrix of RanPAC.
    Projection = 12,
    /// The centres that k-means starts from (S-Prompts).
    Centres = 13,
    /// Prompts of an image that chooses at random.
    Selection = 15,
    /// The images of a class that a few-shot task has.
    Shots = 16,
    /// Initial values of adapters and of the head that they are learned with (RanPAC).
    Adapters = 17,
    /// Units of adapters that a step drops.
    Dropout = 18,
}

const MUL: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const KEY_STEP: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];

/// Ten rounds of Philox4x32.
pub fn philox4x32(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let p0 = u64::from(MUL[0]) * u64::from(counter[0]);
        let p1 = u64::from(MUL[1]) * u64::from(counter[2]);
        counter = [
            (p1 >> 32) as u32 ^ counter[1] ^ key[0],
            p1 as u32,
            (p0 >> 32) as u32 ^ counter[3] ^ key[1],
            p0 as u32,
        ];
        key = [key[0].wrapping_add(KEY_STEP[0]), key[1].wrapping_add(KEY_STEP[1])];
    }
    counter
}

/// The numbers of one `(seed, stream, index)`; draws are counted from zero for each new `Rng`.
#[derive(Debug, Clone)]
pub struct Rng {
    key: [u32; 2],
    stream: u32,
    index: u64,
    drawn: u32,
    block: [u32; 4],
}

impl Rng {
    pub fn new(seed: u64, stream: Stream, index: u64) -> Rng {
        Rng { key: [seed as u32, (seed >> 32) as u32], stream: stream as u32, index, drawn: 0, block: [0; 4] }
    }

    pub fn next_u32(&mut self) -> u32 {
        let lane = (self.drawn % 4) as usize;
        if lane == 0 {
            let counter = [self.drawn / 4, self.stream, self.index as u32, (self.index >> 32) as u32];
            self.block = philox4x32(counter, self.key);
        }
        self.drawn += 1;
        self.block[lane]
    }

    /// Uniform in [0, 1) with 24 bits: exact in f32.
    pub fn uniform(&mut self) -> f32 {
        (self.next_u32() >> 8) as f32 * (1.0 / 16_777_216.0)
    }

    /// Uniform in [0, 1) with 53 bits.
    pub fn uniform_f64(&mut self) -> f64 {
        let high = u64::from(self.next_u32() >> 5);
        let low = u64::from(self.next_u32() >> 6);
        (high * 67_108_864 + low) as f64 * (1.0 / 9_007_199_254_740_992.0)
    }

    /// Uniform integer in [0, n), without bias (Lemire 2019, arXiv:1805.10941). `n` must not be 0.
    pub fn below(&mut self, n: u32) -> u32 {
        let threshold = n.wrapping_neg() % n;
        loop {
            let product = u64::from(self.next_u32()) * u64::from(n);
            if product as u32 >= threshold {
                return (product >> 32) as u32;
            }
        }
    }

    /// Standard normal (Box & Muller 1958).
    pub fn normal(&mut self) -> f64 {
        let u = 1.0 - self.uniform_f64();
        let v = self.uniform_f64();
        (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
    }

    /// Fisher-Yates.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i as u32 + 1) as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers of the Random123 distribution (`kat_vectors`, philox4x32 10).
    #[test]
    fn known_answers() {
        assert_eq!(philox4x32([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(
            philox4x32([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        assert_eq!(
            philox4x32([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn below_is_uniform_and_shuffle_is_a_permutation() {
        let mut rng = Rng::new(7, Stream::Test, 3);
        let mut counts = [0u32; 7];
        for _ in 0..70_000 {
            counts[rng.below(7) as usize] += 1;
        }
        assert!(counts.iter().all(|&c| (9_500..10_500).contains(&c)), "{counts:?}");
        let mut items: Vec<u32> = (0..100).collect();
        rng.shuffle(&mut items);
        let mut sorted = items.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..100).collect::<Vec<_>>());
        assert_ne!(items, sorted);
    }
}
