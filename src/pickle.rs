//! Python's pickle format, protocols 2 to 5, as far as files of numbers use it. Source: CPython `Lib/pickletools.py`.
//!
//! Own code instead of a general crate, because the input is a download: values live in one arena and refer to each
//! other by position, so shared, cyclic or deeply nested values cost neither copies nor recursion, and nothing in the
//! file is ever called. What names of functions and classes stand for, and what a call of one leaves behind, says a
//! [`Vocabulary`]: that of CIFAR's files is in `data::pickle`, that of PyTorch's state dicts in `import::pickle`.

use std::collections::HashMap;
use std::ops::Range;

/// Longest name of a module or class.
pub const NAME_MAX: usize = 200;

/// Position of a value in the arena.
pub type Id = u32;

/// An error is text: what was wanted and what was found.
pub type Parsed<T> = std::result::Result<T, String>;

/// A value. Strings are ranges of the file.
#[derive(Debug)]
pub enum PickledValue<V> {
    /// A value that nobody asks for: None, a float, a set, an integer of more than 8 bytes.
    Opaque,
    Int(i64),
    /// A text in UTF-8.
    Text(Range<usize>),
    /// A byte string; Python 2 writes texts like this.
    Bytes(Range<usize>),
    Sequence(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    /// A function or class, or what a call of one leaves behind.
    Named(V),
}

/// What a call leaves on the stack.
pub enum Called<V> {
    New(PickledValue<V>),
    /// A value that is there already.
    Known(Id),
}

/// What the functions and classes that a file names stand for. Nothing is ever executed.
pub trait Vocabulary: Sized {
    /// Most values that a file may have.
    const VALUES_MAX: usize;
    /// The files that this is for, in error messages.
    const FILES: &'static str;

    /// # Errors
    /// A name that such files do not need.
    fn named(module: &[u8], name: &[u8]) -> Parsed<Self>;
    /// `callable(*args)`.
    fn call(values: &Values<Self>, callable: Id, args: Id) -> Parsed<Called<Self>>;
    /// `object.__setstate__(state)`.
    fn set_state(object: &mut PickledValue<Self>, state: Id) -> Parsed<()>;
    /// A value that the file keeps elsewhere.
    fn persistent(values: &Values<Self>, id: Id) -> Parsed<Self>;
}

/// The values of a file.
#[derive(Debug)]
pub struct Values<'a, V> {
    pub file: &'a [u8],
    arena: Vec<PickledValue<V>>,
}

impl<V> Values<'_, V> {
    pub fn get(&self, id: Id) -> &PickledValue<V> {
        &self.arena[id as usize]
    }

    /// A list or a tuple.
    pub fn sequence(&self, id: Id) -> Option<&[Id]> {
        match self.get(id) {
            PickledValue::Sequence(items) => Some(items),
            _ => None,
        }
    }

    pub fn int(&self, id: Id) -> Option<i64> {
        match self.get(id) {
            PickledValue::Int(value) => Some(*value),
            _ => None,
        }
    }

    /// The bytes of a text, or of a byte string.
    pub fn string(&self, id: Id) -> Option<&[u8]> {
        match self.get(id) {
            PickledValue::Text(range) | PickledValue::Bytes(range) => Some(&self.file[range.clone()]),
            _ => None,
        }
    }
}

/// A file that could not be read.
#[derive(Debug)]
pub struct Fault {
    /// Where the instruction begins that failed.
    pub offset: usize,
    /// What was wanted and what was found.
    pub what: String,
}

/// The values of a file, and which of them it consists of.
///
/// # Errors
/// The first instruction that is wrong, or more than [`Vocabulary::VALUES_MAX`] values.
pub fn parse<V: Vocabulary>(file: &[u8]) -> Result<(Values<'_, V>, Id), Fault> {
    let values = Values { file, arena: Vec::new() };
    let mut machine = Machine { values, at: 0, stack: Vec::new(), marks: Vec::new(), memo: HashMap::new() };
    loop {
        let offset = machine.at;
        match machine.step() {
            Ok(None) => {}
            Ok(Some(root)) => return Ok((machine.values, root)),
            Err(what) => return Err(Fault { offset, what }),
        }
        if machine.values.arena.len().max(machine.stack.len()) > V::VALUES_MAX {
            return Err(Fault { offset, what: format!("more than {} values", V::VALUES_MAX) });
        }
    }
}

struct Machine<'a, V> {
    values: Values<'a, V>,
    at: usize,
    stack: Vec<Id>,
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
}

impl<V: Vocabulary> Machine<'_, V> {
    /// Runs one instruction; the value of the file after the last one.
    fn step(&mut self) -> Parsed<Option<Id>> {
        let code = self.byte()?;
        match code {
            b'.' => return self.pop().map(Some),
            // The protocol, and the length of a frame, which is only a hint for buffers.
            0x80 | 0x95 => {
                self.bytes(if code == 0x80 { 1 } else { 8 })?;
            }
            b'(' => self.marks.push(self.stack.len()),
            b'0' => {
                self.pop()?;
            }
            b'1' => drop(self.pop_to_mark()?),
            b'2' => self.stack.push(self.last()?),
            b'q' | b'r' | 0x94 | b'h' | b'j' => self.remember_or_recall(code)?,
            b'c' | 0x93 | b'R' | 0x81 | b'b' | b'Q' => self.name(code)?,
            _ => self.literal(code)?,
        }
        Ok(None)
    }

    /// Constants and containers.
    fn literal(&mut self, code: u8) -> Parsed<()> {
        match code {
            b'N' => self.push(PickledValue::Opaque),
            0x88 => self.push(PickledValue::Int(1)),
            0x89 => self.push(PickledValue::Int(0)),
            b'K' => self.push_unsigned(1)?,
            b'M' => self.push_unsigned(2)?,
            b'J' => self.push_long(4)?,
            0x8a => {
                let n = self.byte()? as usize;
                self.push_long(n)?;
            }
            0x8b => {
                let n = self.number(4)? as usize;
                self.push_long(n)?;
            }
            b'G' => {
                self.bytes(8)?;
                self.push(PickledValue::Opaque);
            }
            b'X' => self.push_counted(4, PickledValue::Text)?,
            0x8c => self.push_counted(1, PickledValue::Text)?,
            0x8d => self.push_counted(8, PickledValue::Text)?,
            b'U' | b'C' => self.push_counted(1, PickledValue::Bytes)?,
            b'T' | b'B' => self.push_counted(4, PickledValue::Bytes)?,
            0x8e | 0x96 => self.push_counted(8, PickledValue::Bytes)?,
            b']' | b')' => self.push(PickledValue::Sequence(Vec::new())),
            b'}' => self.push(PickledValue::Dict(Vec::new())),
            b'l' | b't' => {
                let items = self.pop_to_mark()?;
                self.push(PickledValue::Sequence(items));
            }
            0x85..=0x87 => self.tuple(usize::from(code - 0x84))?,
            b'd' => {
                let items = self.pop_to_mark()?;
                self.push(PickledValue::Dict(Vec::new()));
                self.set_items(items)?;
            }
            b'a' => {
                let item = self.pop()?;
                self.append(vec![item])?;
            }
            b'e' => {
                let items = self.pop_to_mark()?;
                self.append(items)?;
            }
            b's' => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.set_items(vec![key, value])?;
            }
            b'u' => {
                let items = self.pop_to_mark()?;
                self.set_items(items)?;
            }
            // Sets, and their items.
            0x8f => self.push(PickledValue::Opaque),
            0x90 => drop(self.pop_to_mark()?),
            0x91 => {
                self.pop_to_mark()?;
                self.push(PickledValue::Opaque);
            }
            _ => return Err(format!("an instruction of {} was wanted, found {code:#04x}", V::FILES)),
        }
        Ok(())
    }

    /// Functions, classes, and what is built with them.
    fn name(&mut self, code: u8) -> Parsed<()> {
        match code {
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                let named = V::named(&self.values.file[module], &self.values.file[name])?;
                self.push(PickledValue::Named(named));
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let (Some(module), Some(name)) = (self.values.string(module), self.values.string(name))
                else {
                    return Err("the name of a function or class was wanted, found another value".into());
                };
                let named = V::named(module, name)?;
                self.push(PickledValue::Named(named));
            }
            b'b' => {
                let state = self.pop()?;
                V::set_state(self.top()?, state)?;
            }
            b'Q' => {
                let id = self.pop()?;
                let value = V::persistent(&self.values, id)?;
                self.push(PickledValue::Named(value));
            }
            _ => {
                let args = self.pop()?;
                let callable = self.pop()?;
                match V::call(&self.values, callable, args)? {
                    Called::New(value) => self.push(value),
                    Called::Known(id) => self.stack.push(id),
                }
            }
        }
        Ok(())
    }

    fn remember_or_recall(&mut self, code: u8) -> Parsed<()> {
        let slot = match code {
            0x94 => self.memo.len() as u32,
            b'q' | b'h' => self.number(1)? as u32,
            _ => self.number(4)? as u32,
        };
        if matches!(code, b'h' | b'j') {
            let id = *self.memo.get(&slot).ok_or_else(|| format!("the memo has no entry {slot}"))?;
            self.stack.push(id);
        } else {
            self.memo.insert(slot, self.last()?);
        }
        Ok(())
    }

    fn bytes(&mut self, n: usize) -> Parsed<Range<usize>> {
        let left = self.values.file.len() - self.at;
        if n > left {
            return Err(format!("{n} bytes were wanted, the file has {left} more"));
        }
        self.at += n;
        Ok(self.at - n..self.at)
    }

    fn byte(&mut self) -> Parsed<u8> {
        let range = self.bytes(1)?;
        Ok(self.values.file[range.start])
    }

    /// A little-endian number of `n` <= 8 bytes.
    fn number(&mut self, n: usize) -> Parsed<u64> {
        let range = self.bytes(n)?;
        Ok(self.values.file[range].iter().rev().fold(0, |value, &b| value << 8 | u64::from(b)))
    }

    fn line(&mut self) -> Parsed<Range<usize>> {
        let rest = &self.values.file[self.at..];
        let Some(n) = rest.iter().take(NAME_MAX + 1).position(|&b| b == b'\n') else {
            return Err(format!("a line of at most {NAME_MAX} bytes was wanted"));
        };
        let line = self.bytes(n)?;
        self.at += 1;
        Ok(line)
    }

    fn push(&mut self, value: PickledValue<V>) {
        self.stack.push(self.values.arena.len() as Id);
        self.values.arena.push(value);
    }

    fn push_unsigned(&mut self, n: usize) -> Parsed<()> {
        let value = self.number(n)?;
        self.push(PickledValue::Int(value as i64));
        Ok(())
    }

    /// A two's complement integer of `n` bytes; one of more than 8 (a random seed) is no length.
    fn push_long(&mut self, n: usize) -> Parsed<()> {
        if n > 8 {
            self.bytes(n)?;
            self.push(PickledValue::Opaque);
            return Ok(());
        }
        let unused = 64 - 8 * n as u32;
        let value = self.number(n)?;
        self.push(PickledValue::Int(if n == 0 { 0 } else { ((value << unused) as i64) >> unused }));
        Ok(())
    }

    fn push_counted(
        &mut self,
        length_bytes: usize,
        string: fn(Range<usize>) -> PickledValue<V>,
    ) -> Parsed<()> {
        let n = self.number(length_bytes)?;
        let range = self.bytes(usize::try_from(n).unwrap_or(usize::MAX))?;
        self.push(string(range));
        Ok(())
    }

    fn pop(&mut self) -> Parsed<Id> {
        // Values below a mark belong to what surrounds it.
        if self.stack.len() <= self.marks.last().copied().unwrap_or(0) {
            return Err("a value was wanted on the stack, found none".into());
        }
        self.stack.pop().ok_or_else(|| "the stack is empty".into())
    }

    fn pop_to_mark(&mut self) -> Parsed<Vec<Id>> {
        let mark = self.marks.pop().ok_or("a mark was wanted on the stack, found none")?;
        Ok(self.stack.split_off(mark))
    }

    fn last(&self) -> Parsed<Id> {
        self.stack.last().copied().ok_or_else(|| "a value was wanted on the stack, found none".into())
    }

    fn top(&mut self) -> Parsed<&mut PickledValue<V>> {
        let id = self.last()?;
        Ok(&mut self.values.arena[id as usize])
    }

    fn tuple(&mut self, n: usize) -> Parsed<()> {
        let mut items: Vec<Id> = (0..n).map(|_| self.pop()).collect::<Parsed<_>>()?;
        items.reverse();
        self.push(PickledValue::Sequence(items));
        Ok(())
    }

    fn append(&mut self, items: Vec<Id>) -> Parsed<()> {
        match self.top()? {
            PickledValue::Sequence(list) => list.extend(items),
            _ => return Err("a list was wanted to append to, found another value".into()),
        }
        Ok(())
    }

    fn set_items(&mut self, items: Vec<Id>) -> Parsed<()> {
        match self.top()? {
            PickledValue::Dict(dict) => dict.extend(items.chunks_exact(2).map(|pair| (pair[0], pair[1]))),
            _ => return Err("a dictionary was wanted, found another value".into()),
        }
        Ok(())
    }
}
