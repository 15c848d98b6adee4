//! NumPy's legacy permutation, by which other toolboxes order classes: `numpy.random.seed(seed)`, then
//! `numpy.random.permutation(n)`.
//!
//! Source: Matsumoto and Nishimura 1998, "Mersenne Twister", MT19937 (the 2002 initialisation); numpy 1.26,
//! `random/src/mt19937/mt19937.c`, `random/mtrand.pyx` (`shuffle`), `random_interval` in
//! `random/src/distributions/distributions.c`.

const N: usize = 624;
const M: usize = 397;

/// The generator of NumPy's `RandomState`.
struct Mt19937 {
    state: [u32; N],
    next: usize,
}

impl Mt19937 {
    fn new(seed: u32) -> Mt19937 {
        let mut state = [seed; N];
        for i in 1..N {
            let before = state[i - 1];
            state[i] = 1_812_433_253u32.wrapping_mul(before ^ before >> 30).wrapping_add(i as u32);
        }
        Mt19937 { state, next: N }
    }

    fn next_u32(&mut self) -> u32 {
        if self.next == N {
            for i in 0..N {
                let y = self.state[i] & 0x8000_0000 | self.state[(i + 1) % N] & 0x7fff_ffff;
                let odd = if y & 1 == 1 { 0x9908_b0df } else { 0 };
                self.state[i] = self.state[(i + M) % N] ^ y >> 1 ^ odd;
            }
            self.next = 0;
        }
        let mut y = self.state[self.next];
        self.next += 1;
        y ^= y >> 11;
        y ^= y << 7 & 0x9d2c_5680;
        y ^= y << 15 & 0xefc6_0000;
        y ^ y >> 18
    }

    /// Uniform in 0 to `max`: masked draws, until one is not above it.
    fn interval(&mut self, max: u32) -> u32 {
        let mask = u32::MAX.checked_shr(max.leading_zeros()).unwrap_or(0);
        loop {
            let value = self.next_u32() & mask;
            if value <= max {
                return value;
            }
        }
    }
}

/// The permutation of 0 to `n` - 1 with this seed.
pub fn permutation(seed: u32, n: usize) -> Vec<u32> {
    let mut draws = Mt19937::new(seed);
    let mut order: Vec<u32> = (0..n as u32).collect();
    for i in (1..n).rev() {
        order.swap(i, draws.interval(i as u32) as usize);
    }
    order
}

#[cfg(test)]
mod tests {
    use super::permutation;

    /// The order of CIFAR-100's classes with seed 1993, as published with LUCIR, PODNet and others.
    #[test]
    fn seed_1993_gives_the_published_order() {
        let wanted = [
            68, 56, 78, 8, 23, 84, 90, 65, 74, 76, 40, 89, 3, 92, 55, 9, 26, 80, 43, 38, 58, 70, 77, 1, 85,
            19, 17, 50, 28, 53, 13, 81, 45, 82, 6, 59, 83, 16, 15, 44, 91, 41, 72, 60, 79, 52, 20, 10, 31,
            54, 37, 95, 14, 71, 96, 98, 97, 2, 64, 66, 42, 22, 35, 86, 24, 34, 87, 21, 99, 0, 88, 27, 18, 94,
            11, 12, 47, 25, 30, 46, 62, 69, 36, 61, 7, 63, 75, 5, 32, 4, 51, 48, 73, 93, 39, 67, 29, 49, 57,
            33,
        ];
        assert_eq!(permutation(1993, 100), wanted);
        // More draws than the state has numbers, and the smallest cases.
        let mut large = permutation(1993, 1000);
        large.sort_unstable();
        assert_eq!(large, (0..1000).collect::<Vec<u32>>());
        assert_eq!(permutation(0, 10), [2, 8, 4, 9, 1, 6, 7, 3, 0, 5]);
        assert_eq!((permutation(1, 0), permutation(1, 1)), (vec![], vec![0]));
    }
}
