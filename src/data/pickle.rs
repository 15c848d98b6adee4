//! The part of Python's pickle format, protocols 2 to 5, that CIFAR's files use. Source: CPython `Lib/pickletools.py`.
//!
//! Own code instead of a general crate, because the input is a download: values live in one arena and
//! refer to each other by position, so shared, cyclic or deeply nested values cost neither copies nor
//! recursion, and nothing in the file is ever called. Byte strings are ranges of the file.

use std::collections::HashMap;
use std::ops::Range;

/// CIFAR-100's training file has about 150,000 values.
const VALUES_MAX: usize = 500_000;

/// Position of a value in the arena.
type Id = u32;

/// The functions and classes that CIFAR's files name. None is called: `Object` records that it would be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Global {
    /// `numpy.core.multiarray._reconstruct`, an array to be filled by its state.
    Reconstruct,
    /// `numpy.core.numeric._frombuffer`, an array of bytes, which protocol 5 writes.
    FromBuffer,
    /// `numpy.dtype`.
    Dtype,
    /// `_codecs.encode`.
    Encode,
    Other,
}

impl Global {
    fn named(module: &[u8], name: &[u8]) -> Global {
        match (module, name) {
            (b"numpy.core.multiarray" | b"numpy._core.multiarray", b"_reconstruct") => Global::Reconstruct,
            (b"numpy.core.numeric" | b"numpy._core.numeric", b"_frombuffer") => Global::FromBuffer,
            (b"numpy", b"dtype") => Global::Dtype,
            (b"_codecs", b"encode") => Global::Encode,
            _ => Global::Other,
        }
    }
}

enum Node {
    None,
    Int(i64),
    /// A byte string or a text.
    Bytes(Range<usize>),
    Sequence(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Global(Global),
    /// The result of calling a global, with what `__setstate__` received.
    Object {
        callable: Id,
        args: Id,
        state: Option<Id>,
    },
}

/// A parsed file.
pub struct Pickle<'a> {
    file: &'a [u8],
    nodes: Vec<Node>,
    root: Id,
}

/// A two-dimensional array of unsigned bytes in C order.
pub struct ByteArray {
    pub rows: usize,
    pub columns: usize,
    pub data: Vec<u8>,
}

struct Machine<'a> {
    file: &'a [u8],
    at: usize,
    nodes: Vec<Node>,
    stack: Vec<Id>,
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
}

type Parsed<T> = std::result::Result<T, String>;

impl<'a> Pickle<'a> {
    /// # Errors
    /// Text with the offset, what was wanted and what was found.
    pub fn parse(file: &'a [u8]) -> Parsed<Pickle<'a>> {
        let mut machine = Machine {
            file,
            at: 0,
            nodes: Vec::new(),
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
        };
        loop {
            let start = machine.at;
            match machine.step() {
                Ok(None) => {}
                Ok(Some(root)) => return Ok(Pickle { file, nodes: machine.nodes, root }),
                Err(what) => return Err(format!("offset {start}: {what}")),
            }
            if machine.nodes.len().max(machine.stack.len()) > VALUES_MAX {
                return Err(format!("offset {start}: more than {VALUES_MAX} values"));
            }
        }
    }

    fn node(&self, id: Id) -> &Node {
        &self.nodes[id as usize]
    }

    /// The entry `key` of the dictionary that the file consists of.
    pub fn get(&self, key: &str) -> Parsed<Id> {
        let Node::Dict(items) = self.node(self.root) else {
            return Err("a pickled dictionary was wanted, found another value".into());
        };
        // Keys are ASCII, where UTF-8 and Latin-1 agree.
        let is_key =
            |id: Id| matches!(self.text(id), Some((r, _)) if &self.file[r.clone()] == key.as_bytes());
        // As in Python, the last of equal keys counts.
        match items.iter().rev().find(|item| is_key(item.0)) {
            Some(item) => Ok(item.1),
            None => Err(format!("the dictionary has no entry `{key}`")),
        }
    }

    fn sequence(&self, id: Id, what: &str) -> Parsed<&[Id]> {
        match self.node(id) {
            Node::Sequence(items) => Ok(items),
            _ => Err(format!("`{what}`: a list or tuple was wanted, found another value")),
        }
    }

    fn int(&self, id: Id, what: &str) -> Parsed<i64> {
        match self.node(id) {
            Node::Int(value) => Ok(*value),
            _ => Err(format!("`{what}`: an integer was wanted, found another value")),
        }
    }

    /// A list of integers.
    pub fn ints(&self, id: Id, what: &str) -> Parsed<Vec<i64>> {
        self.sequence(id, what)?.iter().map(|&item| self.int(item, what)).collect()
    }

    /// A list of byte strings or texts.
    pub fn texts(&self, id: Id, what: &str) -> Parsed<Vec<String>> {
        let text = |&item: &Id| match self.text(item) {
            Some((range, _)) if range.len() <= 200 => {
                Ok(String::from_utf8_lossy(&self.file[range.clone()]).into_owned())
            }
            _ => Err(format!("`{what}`: names of at most 200 bytes were wanted, found another value")),
        };
        self.sequence(id, what)?.iter().map(text).collect()
    }

    /// A two-dimensional numpy array of `uint8`.
    pub fn byte_array(&self, id: Id, what: &str) -> Parsed<ByteArray> {
        let wanted =
            |part: &str| format!("`{what}`: a numpy array of uint8 with two axes was wanted, {part}");
        let Node::Object { callable, args, state } = self.node(id) else {
            return Err(wanted("found another value"));
        };
        let (shape, dtype, fortran, data) = match (self.node(*callable), state) {
            (Node::Global(Global::Reconstruct), Some(state)) => {
                let &[_, shape, dtype, fortran, data] = self.sequence(*state, what)? else {
                    return Err(wanted("found an array state without 5 parts"));
                };
                (shape, dtype, self.int(fortran, what)? != 0, data)
            }
            (Node::Global(Global::FromBuffer), _) => {
                let &[data, dtype, shape, order] = self.sequence(*args, what)? else {
                    return Err(wanted("found an array without 4 parts"));
                };
                let fortran = self.text(order).is_some_and(|(range, _)| &self.file[range.clone()] == b"F");
                (shape, dtype, fortran, data)
            }
            _ => return Err(wanted("found another object")),
        };
        let Node::Object { callable, args, .. } = self.node(dtype) else {
            return Err(wanted("found no element type"));
        };
        let name = self.sequence(*args, what)?.first().map(|&first| self.node(first));
        let is_u1 = matches!(name, Some(Node::Bytes(r)) if matches!(&self.file[r.clone()], b"u1" | b"|u1"));
        if !matches!(self.node(*callable), Node::Global(Global::Dtype)) || !is_u1 {
            return Err(wanted("found another element type"));
        }
        let shape = self.ints(shape, what)?;
        let &[rows, columns] = shape.as_slice() else {
            return Err(wanted(&format!("found {} axes", shape.len())));
        };
        let (Ok(rows), Ok(columns)) = (usize::try_from(rows), usize::try_from(columns)) else {
            return Err(wanted("found a negative length"));
        };
        let mut data = self.raw(data, what)?;
        if rows.checked_mul(columns) != Some(data.len()) {
            return Err(wanted(&format!("found {} bytes for {rows}x{columns}", data.len())));
        }
        if fortran {
            let stored = data;
            data = (0..stored.len()).map(|i| stored[i % columns * rows + i / columns]).collect();
        }
        Ok(ByteArray { rows, columns, data })
    }

    /// Where a byte string or text lies, and whether it is `_codecs.encode(text, 'latin1')`, which is how
    /// Python 3 writes bytes in protocol 2.
    fn text(&self, id: Id) -> Option<(&Range<usize>, bool)> {
        let Node::Object { callable, args, .. } = self.node(id) else {
            return match self.node(id) {
                Node::Bytes(range) => Some((range, false)),
                _ => None,
            };
        };
        let (Node::Global(Global::Encode), Node::Sequence(args)) = (self.node(*callable), self.node(*args))
        else {
            return None;
        };
        match self.node(*args.first()?) {
            Node::Bytes(range) => Some((range, true)),
            _ => None,
        }
    }

    fn raw(&self, id: Id, what: &str) -> Parsed<Vec<u8>> {
        let bad = || format!("`{what}`: the bytes of the array were wanted, found another value");
        let (range, encoded) = self.text(id).ok_or_else(bad)?;
        let bytes = &self.file[range.clone()];
        if !encoded {
            return Ok(bytes.to_vec());
        }
        let text = std::str::from_utf8(bytes).map_err(|_| bad())?;
        text.chars().map(|c| u8::try_from(u32::from(c)).map_err(|_| bad())).collect()
    }
}

impl Machine<'_> {
    /// Runs one instruction; the value of the file after the last one.
    fn step(&mut self) -> Parsed<Option<Id>> {
        match self.byte()? {
            b'.' => return self.pop().map(Some),
            0x80 => {
                self.byte()?;
            }
            0x95 => {
                self.bytes(8)?;
            }
            b'(' => self.marks.push(self.stack.len()),
            b'0' => {
                self.pop()?;
            }
            b'N' => self.push(Node::None),
            0x88 => self.push(Node::Int(1)),
            0x89 => self.push(Node::Int(0)),
            b'K' => self.push_int(1)?,
            b'M' => self.push_int(2)?,
            b'J' => {
                let value = self.number(4)? as u32 as i32;
                self.push(Node::Int(i64::from(value)));
            }
            0x8a => {
                let n = self.byte()? as usize;
                if n > 8 {
                    return Err(format!("an integer of at most 8 bytes was wanted, found {n} bytes"));
                }
                let unused = 64 - 8 * n as u32;
                let value = self.number(n)?;
                self.push(Node::Int(if n == 0 { 0 } else { ((value << unused) as i64) >> unused }));
            }
            b'U' | b'C' | 0x8c => self.push_bytes(1)?,
            b'T' | b'X' | b'B' => self.push_bytes(4)?,
            0x8d | 0x8e | 0x96 => self.push_bytes(8)?,
            b']' | b')' => self.push(Node::Sequence(Vec::new())),
            b'}' => self.push(Node::Dict(Vec::new())),
            b'l' | b't' => {
                let items = self.pop_to_mark()?;
                self.push(Node::Sequence(items));
            }
            0x85 => self.tuple(1)?,
            0x86 => self.tuple(2)?,
            0x87 => self.tuple(3)?,
            b'd' => {
                let items = self.pop_to_mark()?;
                self.push(Node::Dict(Vec::new()));
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
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                let global = Global::named(&self.file[module], &self.file[name]);
                self.push(Node::Global(global));
            }
            0x93 => {
                let name = self.pop()?;
                let module = self.pop()?;
                let (Node::Bytes(m), Node::Bytes(n)) =
                    (&self.nodes[module as usize], &self.nodes[name as usize])
                else {
                    return Err("the name of a global was wanted, found another value".into());
                };
                let global = Global::named(&self.file[m.clone()], &self.file[n.clone()]);
                self.push(Node::Global(global));
            }
            b'R' => {
                let args = self.pop()?;
                let callable = self.pop()?;
                self.push(Node::Object { callable, args, state: None });
            }
            b'b' => {
                let new_state = self.pop()?;
                match self.top()? {
                    Node::Object { state, .. } => *state = Some(new_state),
                    _ => return Err("an object was wanted before its state".into()),
                }
            }
            b'q' => self.remember(1)?,
            b'r' => self.remember(4)?,
            0x94 => {
                let slot = self.memo.len() as u32;
                let id = *self.stack.last().ok_or("the stack is empty")?;
                self.memo.insert(slot, id);
            }
            b'h' => self.recall(1)?,
            b'j' => self.recall(4)?,
            code => {
                return Err(format!("an instruction that CIFAR's files use was wanted, found {code:#04x}"));
            }
        }
        Ok(None)
    }

    fn bytes(&mut self, n: usize) -> Parsed<Range<usize>> {
        let left = self.file.len() - self.at;
        if n > left {
            return Err(format!("{n} bytes were wanted, the file has {left} more"));
        }
        self.at += n;
        Ok(self.at - n..self.at)
    }

    fn byte(&mut self) -> Parsed<u8> {
        let range = self.bytes(1)?;
        Ok(self.file[range.start])
    }

    /// A little-endian number of `n` <= 8 bytes.
    fn number(&mut self, n: usize) -> Parsed<u64> {
        let range = self.bytes(n)?;
        Ok(self.file[range].iter().rev().fold(0, |value, &b| value << 8 | u64::from(b)))
    }

    fn line(&mut self) -> Parsed<Range<usize>> {
        let Some(n) = self.file[self.at..].iter().take(200).position(|&b| b == b'\n') else {
            return Err("a line of at most 200 bytes was wanted".into());
        };
        let line = self.bytes(n)?;
        self.at += 1;
        Ok(line)
    }

    fn push(&mut self, node: Node) {
        self.stack.push(self.nodes.len() as Id);
        self.nodes.push(node);
    }

    fn push_int(&mut self, n: usize) -> Parsed<()> {
        let value = self.number(n)?;
        self.push(Node::Int(value as i64));
        Ok(())
    }

    fn push_bytes(&mut self, length_bytes: usize) -> Parsed<()> {
        let n = self.number(length_bytes)?;
        let range = self.bytes(usize::try_from(n).unwrap_or(usize::MAX))?;
        self.push(Node::Bytes(range));
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

    fn top(&mut self) -> Parsed<&mut Node> {
        let id = *self.stack.last().ok_or("a value was wanted on the stack, found none")?;
        Ok(&mut self.nodes[id as usize])
    }

    fn tuple(&mut self, n: usize) -> Parsed<()> {
        let mut items: Vec<Id> = (0..n).map(|_| self.pop()).collect::<Parsed<_>>()?;
        items.reverse();
        self.push(Node::Sequence(items));
        Ok(())
    }

    fn append(&mut self, items: Vec<Id>) -> Parsed<()> {
        match self.top()? {
            Node::Sequence(list) => list.extend(items),
            _ => return Err("a list was wanted to append to, found another value".into()),
        }
        Ok(())
    }

    fn set_items(&mut self, items: Vec<Id>) -> Parsed<()> {
        match self.top()? {
            Node::Dict(dict) => dict.extend(items.chunks_exact(2).map(|pair| (pair[0], pair[1]))),
            _ => return Err("a dictionary was wanted, found another value".into()),
        }
        Ok(())
    }

    fn remember(&mut self, n: usize) -> Parsed<()> {
        let slot = self.number(n)? as u32;
        let id = *self.stack.last().ok_or("a value was wanted on the stack, found none")?;
        self.memo.insert(slot, id);
        Ok(())
    }

    fn recall(&mut self, n: usize) -> Parsed<()> {
        let slot = self.number(n)? as u32;
        let id = *self.memo.get(&slot).ok_or_else(|| format!("the memo has no entry {slot}"))?;
        self.stack.push(id);
        Ok(())
    }
}
