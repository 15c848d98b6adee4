//! Whether a JPEG file holds all of its image. Source: ITU-T T.81 (1992), annexes B, F and G.
//!
//! Decoders fill what is missing with grey and say nothing. Here the Huffman codes of every scan, sequential or
//! progressive, are read and counted without computing a pixel. A file is whole if each scan has a code for each
//! of its blocks; a missing end marker alone is no damage, nor is anything behind the end marker.

mod bits;

use bits::{Bits, Checked, Huffman};

const SCANS_MAX: usize = 1000;
/// Bytes between the last block of a scan and the next marker; encoders pad with a few.
const LEFT_OVER_MAX: usize = 16;

/// Reads `bytes` up to the end marker or the end. `nothing_left`: data behind the last block of a scan are damage too,
/// as a hole in the middle leaves them; decoders only warn of them.
///
/// # Errors
/// Text that says what is missing. Kinds that no decoder here reads (arithmetic, lossless, 12 bits) are not looked
/// into.
pub fn check(bytes: &[u8], nothing_left: bool) -> Checked<()> {
    let mut walk = Walk { bytes, at: 2, nothing_left, ..Walk::default() };
    while let Some(marker) = walk.next_marker() {
        match marker {
            0xd9 => {
                walk.ended = true;
                break;
            }
            0x01 | 0xd0..=0xd8 => {}
            0xc0..=0xc2 => {
                let segment = walk.segment()?;
                if !walk.frame(marker, segment) {
                    return Ok(());
                }
            }
            0xc3 | 0xc5..=0xc7 | 0xc9..=0xcb | 0xcd..=0xcf => return Ok(()),
            0xc4 => {
                let segment = walk.segment()?;
                walk.tables(segment)?;
            }
            0xdd => {
                let segment = walk.segment()?;
                walk.restart = segment.get(..2).map_or(0, |b| usize::from(b[0]) << 8 | usize::from(b[1]));
            }
            0xda => {
                let segment = walk.segment()?;
                if walk.scans == SCANS_MAX {
                    return Err(format!("the JPEG file has more than {SCANS_MAX} scans"));
                }
                walk.scans += 1;
                walk.scan(segment)?;
            }
            _ => {
                walk.segment()?;
            }
        }
    }
    walk.complete()
}

#[derive(Default)]
struct Walk<'a> {
    bytes: &'a [u8],
    at: usize,
    /// By class (DC, AC) and number.
    huffman: [[Option<Box<Huffman>>; 4]; 2],
    components: Vec<Component>,
    progressive: bool,
    /// In pixels.
    width: usize,
    height: usize,
    /// MCUs between restart markers; 0: none.
    restart: usize,
    scans: usize,
    /// The end marker was found.
    ended: bool,
    nothing_left: bool,
}

#[derive(Default)]
struct Component {
    id: u8,
    /// Sampling factors.
    h: usize,
    v: usize,
    /// Blocks per row in whole MCUs.
    stride: usize,
    /// Progressive: the coefficients that are not zero so far, a bit each, per block.
    filled: Vec<u64>,
    /// Progressive: the lowest bit that is known of each coefficient.
    known: Option<[Option<u8>; 64]>,
    seen: bool,
}

/// What a scan says of itself.
struct Scan {
    /// Component, DC table, AC table.
    parts: Vec<(usize, usize, usize)>,
    /// Coefficients, first and last.
    start: usize,
    end: usize,
    /// Bits: known before, known after.
    high: u8,
    low: u8,
}

impl<'a> Walk<'a> {
    /// The next marker; what stands before it is skipped, as decoders do.
    fn next_marker(&mut self) -> Option<u8> {
        loop {
            let left = self.bytes.get(self.at..)?;
            self.at += left.iter().position(|&b| b == 0xff)?;
            while *self.bytes.get(self.at)? == 0xff {
                self.at += 1;
            }
            let marker = self.bytes[self.at];
            self.at += 1;
            if marker != 0 {
                return Some(marker);
            }
        }
    }

    /// The content of the segment that starts here.
    fn segment(&mut self) -> Checked<&'a [u8]> {
        let length = self.bytes.get(self.at..self.at + 2).map(|b| usize::from(b[0]) << 8 | usize::from(b[1]));
        let segment = length
            .and_then(|length| self.bytes.get(self.at + 2..self.at.checked_add(length.max(2))?))
            .ok_or("the JPEG data end early, within a header")?;
        self.at += 2 + segment.len();
        Ok(segment)
    }

    /// The frame header; false where the check does not apply.
    fn frame(&mut self, marker: u8, segment: &[u8]) -> bool {
        let &[8, y0, y1, x0, x1, n, ref rest @ ..] = segment else { return false };
        if !self.components.is_empty() || !(1..=4).contains(&n) || rest.len() < 3 * usize::from(n) {
            return false;
        }
        (self.height, self.width) =
            (usize::from(y0) << 8 | usize::from(y1), usize::from(x0) << 8 | usize::from(x1));
        self.progressive = marker == 0xc2;
        let parts: Vec<Component> = rest
            .chunks_exact(3)
            .take(usize::from(n))
            .map(|c| Component {
                id: c[0],
                h: usize::from(c[1] >> 4),
                v: usize::from(c[1] & 15),
                ..Component::default()
            })
            .collect();
        let factors = parts.iter().all(|c| (1..=4).contains(&c.h) && (1..=4).contains(&c.v));
        if !factors || self.height == 0 || self.width == 0 {
            return false;
        }
        self.components = parts;
        let (rows, columns) = self.mcus();
        for part in &mut self.components {
            part.stride = columns * part.h;
            if self.progressive {
                part.filled = vec![0; part.stride * rows * part.v];
                part.known = Some([None; 64]);
            }
        }
        true
    }

    fn largest(&self) -> (usize, usize) {
        let h = self.components.iter().map(|c| c.h).max().unwrap_or(1);
        (h, self.components.iter().map(|c| c.v).max().unwrap_or(1))
    }

    /// Rows and columns of MCUs with all components.
    fn mcus(&self) -> (usize, usize) {
        let (h, v) = self.largest();
        (self.height.div_ceil(8 * v), self.width.div_ceil(8 * h))
    }

    fn tables(&mut self, mut segment: &[u8]) -> Checked<()> {
        while let [which, rest @ ..] = segment {
            let (class, number) = (usize::from(which >> 4), usize::from(which & 15));
            let counts = rest.get(..16).ok_or("the JPEG data end early, within a code table")?;
            let n: usize = counts.iter().map(|&c| usize::from(c)).sum();
            let values = rest.get(16..16 + n).ok_or("the JPEG data end early, within a code table")?;
            let place = self.huffman.get_mut(class).and_then(|tables| tables.get_mut(number));
            *place.ok_or("a JPEG code table has a wrong number")? =
                Some(Huffman::new(counts, values)?.into());
            segment = &rest[16 + n..];
        }
        Ok(())
    }

    fn scan_header(&self, segment: &[u8]) -> Option<Scan> {
        let n = usize::from(*segment.first()?);
        let (parts, tail) = (segment.get(1..1 + 2 * n)?, segment.get(1 + 2 * n..4 + 2 * n)?);
        let part = |c: &[u8]| {
            let at = self.components.iter().position(|component| component.id == c[0])?;
            Some((at, usize::from(c[1] >> 4), usize::from(c[1] & 15)))
        };
        let parts = parts.chunks_exact(2).map(part).collect::<Option<Vec<_>>>()?;
        let (start, end, high, low) =
            (usize::from(tail[0]), usize::from(tail[1]), tail[2] >> 4, tail[2] & 15);
        let scan = match self.progressive {
            true => Scan { parts, start, end, high, low },
            false => Scan { parts, start: 0, end: 63, high: 0, low: 0 },
        };
        let order = scan.start <= scan.end && scan.end < 64 && low < 14;
        let alone = !self.progressive || (start == 0) == (end == 0) && (start == 0 || n == 1);
        let different = (0..n).all(|i| (0..i).all(|j| scan.parts[i].0 != scan.parts[j].0));
        ((1..=4).contains(&n) && order && alone && different).then_some(scan)
    }

    /// Reads the codes of one scan.
    fn scan(&mut self, segment: &[u8]) -> Checked<()> {
        if self.components.is_empty() {
            return Err("the JPEG file has image data before a frame header".into());
        }
        let scan = self.scan_header(segment).ok_or("the JPEG file has a damaged scan header")?;
        let (rows, columns) = if let [(only, ..)] = *scan.parts {
            // Its own blocks, without those that fill up MCUs.
            let (c, (h, v)) = (&self.components[only], self.largest());
            ((self.height * c.v).div_ceil(8 * v), (self.width * c.h).div_ceil(8 * h))
        } else {
            self.mcus()
        };
        let (mcus, mut run, mut done) = (rows * columns, 0, 0);
        let mut bits = Bits::new(self.bytes, self.at);
        while done < mcus {
            let last = if self.restart == 0 { mcus } else { mcus.min(done + self.restart) };
            run = 0;
            while done < last {
                if self.mcu(&scan, done, columns, &mut bits, &mut run).is_none() {
                    return Err(bits.stopped(done, mcus));
                }
                done += 1;
            }
            if done < mcus && !bits.restart() {
                return Err(bits.stopped(done, mcus));
            }
        }
        self.at = bits.position();
        let left = &self.bytes[self.at..];
        let marker = left.windows(2).position(|pair| pair[0] == 0xff && pair[1] != 0);
        let next = marker.unwrap_or(left.len());
        let codes = left[..next].iter().filter(|b| ![0, 0xff].contains(b)).count();
        // A file that was never written to its end has zeros there, which may read as codes.
        let unwritten = marker.is_none() && next > LEFT_OVER_MAX;
        if unwritten || self.nothing_left && (run > 0 || codes > LEFT_OVER_MAX) {
            return Err(format!(
                "the JPEG data are damaged: {next} bytes are left after the last block of a scan"
            ));
        }
        for &(part, ..) in &scan.parts {
            let component = &mut self.components[part];
            component.seen = true;
            if let Some(known) = &mut component.known {
                known[scan.start..=scan.end].fill(Some(scan.low));
            }
        }
        Ok(())
    }

    /// The codes of one MCU. `None`: there are no more bits, or a code that is none.
    fn mcu(&mut self, scan: &Scan, mcu: usize, columns: usize, bits: &mut Bits, run: &mut u32) -> Option<()> {
        let (row, column) = (mcu / columns, mcu % columns);
        let alone = scan.parts.len() == 1;
        for &(part, dc, ac) in &scan.parts {
            let component = &mut self.components[part];
            let (h, v) = if alone { (1, 1) } else { (component.h, component.v) };
            for (y, x) in (0..v).flat_map(|y| (0..h).map(move |x| (y, x))) {
                let [dc, ac] = [&self.huffman[0].get(dc)?, &self.huffman[1].get(ac)?];
                if !self.progressive {
                    sequential(bits, dc.as_deref()?, ac.as_deref()?)?;
                    continue;
                }
                if scan.start == 0 {
                    match scan.high {
                        0 => bits.value(dc.as_deref()?)?,
                        _ => bits.skip(1)?,
                    }
                    continue;
                }
                let block = (row * v + y) * component.stride + column * h + x;
                let filled = component.filled.get_mut(block)?;
                match scan.high {
                    0 => first(bits, ac.as_deref()?, (scan.start, scan.end), filled, run)?,
                    _ => refine(bits, ac.as_deref()?, (scan.start, scan.end), filled, run)?,
                }
            }
        }
        Some(())
    }

    /// Whether all components came; where the end marker is missing, in all their bits.
    fn complete(&self) -> Checked<()> {
        if self.scans == 0 {
            return Err("the JPEG data end early, before the image".into());
        }
        let whole = |known: &[Option<u8>; 64]| known.iter().all(|&low| low == Some(0));
        let missing = |c: &&Component| {
            let coarse = c.known.is_some_and(|known| known[0].is_none() || !self.ended && !whole(&known));
            !c.seen || coarse
        };
        match self.components.iter().filter(missing).count() {
            0 => Ok(()),
            n => Err(format!(
                "the JPEG data end early: {n} of {} colour components are not complete",
                self.components.len()
            )),
        }
    }
}

/// One block of a sequential scan.
fn sequential(bits: &mut Bits, dc: &Huffman, ac: &Huffman) -> Option<()> {
    bits.value(dc)?;
    let mut k = 1;
    while k < 64 {
        let code = bits.symbol(ac)?;
        match (usize::from(code >> 4), u32::from(code & 15)) {
            (15, 0) => k += 16,
            (_, 0) => break,
            (zeros, size) => {
                k += zeros + 1;
                bits.skip(size)?;
            }
        }
    }
    (k <= 64).then_some(())
}

/// One block of the first scan of some coefficients; `run` counts the blocks to come without any.
fn first(
    bits: &mut Bits,
    ac: &Huffman,
    (start, end): (usize, usize),
    filled: &mut u64,
    run: &mut u32,
) -> Option<()> {
    if *run > 0 {
        *run -= 1;
        return Some(());
    }
    let mut k = start;
    while k <= end {
        let code = bits.symbol(ac)?;
        match (usize::from(code >> 4), u32::from(code & 15)) {
            (15, 0) => k += 16,
            (r, 0) => {
                *run = (1 << r) - 1 + bits.take(r as u32)?;
                break;
            }
            (zeros, size) => {
                k += zeros;
                if k > end {
                    return None;
                }
                bits.skip(size)?;
                *filled |= 1 << k;
                k += 1;
            }
        }
    }
    Some(())
}

/// One block of a scan that adds a bit to coefficients.
fn refine(
    bits: &mut Bits,
    ac: &Huffman,
    (start, end): (usize, usize),
    filled: &mut u64,
    run: &mut u32,
) -> Option<()> {
    let mut k = start;
    while *run == 0 && k <= end {
        let code = bits.symbol(ac)?;
        let (mut zeros, size) = (code >> 4, code & 15);
        if size == 0 && zeros < 15 {
            *run = (1 << zeros) + bits.take(u32::from(zeros))?;
            break;
        }
        bits.skip(u32::from(size.min(1)))?;
        while k <= end {
            if *filled >> k & 1 == 1 {
                bits.skip(1)?;
            } else if zeros == 0 {
                break;
            } else {
                zeros -= 1;
            }
            k += 1;
        }
        if size > 0 {
            if k > end {
                return None;
            }
            *filled |= 1 << k;
        }
        k += 1;
    }
    if *run > 0 {
        let rest = if k > end { 0 } else { *filled >> k & (u64::MAX >> (63 - (end - k))) };
        (0..rest.count_ones()).try_for_each(|_| bits.skip(1))?;
        *run -= 1;
    }
    Some(())
}
