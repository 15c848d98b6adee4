//! How files are damaged: a few changes of the kinds that make parsers fail.

use l2p_engine::rng::{Rng, Stream};

/// Changes for one input of one reader.
pub struct Mutator {
    rng: Rng,
}

const BYTES: [u8; 8] = [0, 1, 0x7f, 0x80, 0xff, b'0', b'9', b'-'];
const WORDS: [u64; 10] =
    [0, 1, 8, 0x7fff, 0xffff, 0x7fff_ffff, 0xffff_ffff, 1 << 40, i64::MAX as u64, u64::MAX];

impl Mutator {
    pub fn new(reader: &str, input: u32) -> Mutator {
        let name = reader.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        Mutator { rng: Rng::new(name, Stream::Test, input.into()) }
    }

    fn below(&mut self, n: usize) -> usize {
        self.rng.below(n as u32) as usize
    }

    /// Mostly in the first and last kilobytes, where headers and directories are.
    fn position(&mut self, len: usize) -> usize {
        match self.below(4) {
            0 => self.below(len.min(64)),
            1 => self.below(len.min(4096)),
            2 => len - 1 - self.below(len.min(4096)),
            _ => self.below(len),
        }
    }

    /// One of the files with one to six changes.
    pub fn input(mut self, seeds: &[Vec<u8>]) -> Vec<u8> {
        let chosen = self.below(seeds.len());
        let mut bytes = seeds[chosen].clone();
        for _ in 0..1 + self.below(6) {
            if bytes.is_empty() {
                break;
            }
            self.change(&mut bytes, seeds);
        }
        bytes
    }

    fn change(&mut self, bytes: &mut Vec<u8>, seeds: &[Vec<u8>]) {
        let at = self.position(bytes.len());
        let length = 1 + self.below(64);
        let end = bytes.len().min(at + length);
        match self.below(10) {
            0..=2 => bytes[at] ^= 1 << self.below(8),
            3 => bytes[at] = self.rng.next_u32() as u8,
            4 => bytes[at] = BYTES[self.below(BYTES.len())],
            5 => {
                let width = 1 << self.below(4);
                let word = WORDS[self.below(WORDS.len())].to_le_bytes();
                for (to, from) in bytes[at..].iter_mut().zip(&word[..width]) {
                    *to = *from;
                }
            }
            6 => drop(bytes.drain(at..end)),
            7 => {
                let twice = bytes[at..end].to_vec();
                bytes.splice(end..end, twice);
            }
            8 => {
                let other = &seeds[self.below(seeds.len())];
                let from = self.position(other.len());
                let piece = &other[from..other.len().min(from + length)];
                bytes.splice(at..end, piece.iter().copied());
            }
            _ => bytes.truncate(at),
        }
    }
}
