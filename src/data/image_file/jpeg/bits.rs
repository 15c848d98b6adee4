//! The bits of a JPEG scan and the Huffman codes in them. Source: ITU-T T.81 (1992), annexes C and F.2.2.

/// What was read, or what is wrong with it.
pub type Checked<T> = std::result::Result<T, String>;

/// Bits that are looked up at once.
const FAST: u32 = 9;

/// Canonical Huffman codes of up to 16 bits.
pub struct Huffman {
    /// By the next [`FAST`] bits: length and symbol; length 0: longer.
    fast: [(u8, u8); 1 << FAST],
    /// By length: one past the last code, shifted to 16 bits.
    end: [u32; 17],
    /// By length: first code minus first position.
    offset: [i32; 17],
    values: Vec<u8>,
}

impl Huffman {
    pub fn new(counts: &[u8], values: &[u8]) -> Checked<Huffman> {
        let mut table =
            Huffman { fast: [(0, 0); 1 << FAST], end: [0; 17], offset: [0; 17], values: values.to_vec() };
        let (mut code, mut place) = (0u32, 0usize);
        for length in 1..=16u32 {
            let n = usize::from(counts[length as usize - 1]);
            table.offset[length as usize] = code as i32 - place as i32;
            for &value in &values[place..place + n] {
                if code >= 1 << length {
                    return Err("a JPEG code table has more codes than bits".into());
                }
                if length <= FAST {
                    let (from, count) = ((code << (FAST - length)) as usize, 1 << (FAST - length));
                    table.fast[from..from + count].fill((length as u8, value));
                }
                code += 1;
            }
            place += n;
            table.end[length as usize] = code << (16 - length);
            code <<= 1;
        }
        Ok(table)
    }
}

/// The bits of a scan, without stuffed bytes, up to the next marker.
pub struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
    /// The lowest `n` bits are the next ones.
    held: u64,
    n: u32,
}

impl<'a> Bits<'a> {
    /// The bits that begin at byte `at`.
    pub fn new(bytes: &'a [u8], at: usize) -> Bits<'a> {
        Bits { bytes, at, held: 0, n: 0 }
    }

    fn fill(&mut self) {
        while self.n <= 56 {
            let Some(&byte) = self.bytes.get(self.at) else { return };
            if byte == 0xff {
                if self.bytes.get(self.at + 1) != Some(&0) {
                    return;
                }
                self.at += 1;
            }
            self.at += 1;
            self.held = self.held << 8 | u64::from(byte);
            self.n += 8;
        }
    }

    /// At most 16 bits.
    pub fn take(&mut self, n: u32) -> Option<u32> {
        if self.n < n {
            self.fill();
        }
        self.n = self.n.checked_sub(n)?;
        Some((self.held >> self.n) as u32 & ((1 << n) - 1))
    }

    pub fn skip(&mut self, n: u32) -> Option<()> {
        self.take(n).map(|_| ())
    }

    pub fn symbol(&mut self, table: &Huffman) -> Option<u8> {
        if self.n < 16 {
            self.fill();
        }
        let next = if self.n >= 16 { self.held >> (self.n - 16) } else { self.held << (16 - self.n) } as u32
            & 0xffff;
        let (mut length, mut value) = table.fast[(next >> (16 - FAST)) as usize];
        if length == 0 {
            let found = (FAST + 1..=16).find(|&l| next < table.end[l as usize])?;
            let place = (next >> (16 - found)) as i32 - table.offset[found as usize];
            (length, value) = (found as u8, *table.values.get(usize::try_from(place).ok()?)?);
        }
        self.n = self.n.checked_sub(u32::from(length))?;
        Some(value)
    }

    /// The code of a DC difference and its bits.
    pub fn value(&mut self, table: &Huffman) -> Option<()> {
        let size = u32::from(self.symbol(table)?);
        if size > 16 {
            return None;
        }
        self.skip(size)
    }

    /// Where the byte after the last one that was used lies.
    pub fn position(&self) -> usize {
        let mut at = self.at;
        // Whole bytes that were read ahead.
        for _ in 0..self.n / 8 {
            at -= 1;
            if self.bytes[at] == 0 && at > 0 && self.bytes[at - 1] == 0xff {
                at -= 1;
            }
        }
        at
    }

    /// Goes on behind the next marker, if that is a restart marker.
    pub fn restart(&mut self) -> bool {
        let mut at = self.position();
        (self.held, self.n) = (0, 0);
        loop {
            match self.bytes.get(at..at + 2) {
                Some(&[0xff, 0xd0..=0xd7]) => {
                    self.at = at + 2;
                    return true;
                }
                Some(&[0xff, 0 | 0xff] | &[0..=0xfe, _]) => at += 1,
                _ => {
                    self.at = at;
                    return false;
                }
            }
        }
    }

    /// Why there is no code for MCU `done` of `all`.
    pub fn stopped(&self, done: usize, all: usize) -> String {
        let percent = 100 * done / all.max(1);
        if self.n < 16 {
            format!("the JPEG data end early: {percent} % of a scan are there")
        } else {
            format!("the JPEG data are damaged: a wrong code after {percent} % of a scan")
        }
    }
}
