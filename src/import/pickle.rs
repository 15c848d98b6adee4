//! The part of Python's pickle format that a PyTorch state dict needs. Nothing is executed: the names of
//! functions and classes come from a list, and what they would build is built here. Any other name is an
//! error.
//!
//! Sources: CPython `Lib/pickletools.py`; PyTorch `torch/_weights_only_unpickler.py`, `torch/_utils.py`.
//!
//! CIFAR's reader (`data::pickle`) is apart: it takes raw bytes out of pickled NumPy arrays and passes
//! over names that it does not know, where this one has to stop at them.

use super::allow_list::Allowed;
use super::stored::{StoredType, StridedView};
use std::collections::HashMap;
use std::ops::Range;

/// A state dict of a thousand tensors with its optimizer has about 100,000 values.
const VALUES_MAX: usize = 2_000_000;
const AXES_MAX: usize = 16;
/// Longest name of a module or class.
const NAME_MAX: usize = 200;

/// Position of a value in the arena: shared, cyclic and deeply nested values cost neither copies nor
/// recursion.
pub(super) type Id = u32;

#[derive(Debug, Clone)]
struct Storage {
    key: String,
    /// `None`: the tensor says it.
    stored: Option<StoredType>,
    len: usize,
}

enum Node {
    /// A value that no tensor needs: None, a float, bytes, a set, a device, a large integer.
    Opaque,
    Int(i64),
    Text(Range<usize>),
    Sequence(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Allowed(Allowed),
    Storage(Storage),
    Tensor(StridedView),
}

/// A parsed file.
pub(super) struct Pickle<'a> {
    file: &'a [u8],
    nodes: Vec<Node>,
    pub root: Id,
}

/// One entry of a dictionary, as far as it matters.
pub(super) enum Entry<'p> {
    Tensor(&'p StridedView),
    Dict(Id),
    Other,
}

type Parsed<T> = std::result::Result<T, String>;

struct Machine<'a> {
    file: &'a [u8],
    at: usize,
    nodes: Vec<Node>,
    stack: Vec<Id>,
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
}

impl<'a> Pickle<'a> {
    /// # Errors
    /// Text with the offset, what was wanted and what was found.
    pub(super) fn parse(file: &'a [u8]) -> Parsed<Pickle<'a>> {
        let (nodes, stack, marks) = (Vec::new(), Vec::new(), Vec::new());
        let mut machine = Machine { file, at: 0, nodes, stack, marks, memo: HashMap::new() };
        loop {
            let start = machine.at;
            match machine.step() {
                Ok(None) => {}
                Ok(Some(root)) => return Ok(Pickle { file, nodes: machine.nodes, root }),
                Err(what) => return Err(format!("{what} (offset {start} of data.pkl)")),
            }
            if machine.nodes.len().max(machine.stack.len()) > VALUES_MAX {
                return Err(format!("more than {VALUES_MAX} values (offset {start} of data.pkl)"));
            }
        }
    }

    /// The entries of a dictionary with text keys; `None` for any other value.
    pub(super) fn entries(&self, id: Id) -> Option<impl Iterator<Item = (String, Entry<'_>)>> {
        let Node::Dict(items) = &self.nodes[id as usize] else { return None };
        Some(items.iter().filter_map(|&(key, value)| {
            let Node::Text(range) = &self.nodes[key as usize] else { return None };
            let key = String::from_utf8_lossy(&self.file[range.clone()]).into_owned();
            let entry = match &self.nodes[value as usize] {
                Node::Tensor(view) => Entry::Tensor(view),
                Node::Dict(_) => Entry::Dict(value),
                _ => Entry::Other,
            };
            Some((key, entry))
        }))
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
            // The length of a frame: only a hint for buffers.
            0x95 => {
                self.bytes(8)?;
            }
            b'(' => self.marks.push(self.stack.len()),
            b'0' => {
                self.pop()?;
            }
            b'1' => drop(self.pop_to_mark()?),
            b'2' => {
                let id = *self.stack.last().ok_or("the stack is empty")?;
                self.stack.push(id);
            }
            b'N' => self.push(Node::Opaque),
            0x88 => self.push(Node::Int(1)),
            0x89 => self.push(Node::Int(0)),
            b'K' => self.push_unsigned(1)?,
            b'M' => self.push_unsigned(2)?,
            b'J' => {
                let value = self.number(4)? as u32 as i32;
                self.push(Node::Int(i64::from(value)));
            }
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
                self.push(Node::Opaque);
            }
            b'X' => self.push_text(4)?,
            0x8c => self.push_text(1)?,
            0x8d => self.push_text(8)?,
            b'U' | b'C' => self.skip_bytes(1)?,
            b'T' | b'B' => self.skip_bytes(4)?,
            0x8e | 0x96 => self.skip_bytes(8)?,
            b']' | b')' => self.push(Node::Sequence(Vec::new())),
            0x8f => self.push(Node::Opaque),
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
            // The items of a set, which is opaque.
            0x90 => drop(self.pop_to_mark()?),
            0x91 => {
                self.pop_to_mark()?;
                self.push(Node::Opaque);
            }
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.push_allowed(module, name)?;
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let (module, name) = (self.text(module)?, self.text(name)?);
                self.push_allowed(module, name)?;
            }
            b'R' | 0x81 => {
                let args = self.pop()?;
                let callable = self.pop()?;
                self.build(callable, args)?;
            }
            b'b' => self.set_state()?,
            b'Q' => {
                let id = self.pop()?;
                let storage = self.storage(id)?;
                self.push(Node::Storage(storage));
            }
            b'q' => self.remember(1)?,
            b'r' => self.remember(4)?,
            0x94 => {
                let slot = self.memo.len() as u32;
                self.remember_as(slot)?;
            }
            b'h' => self.recall(1)?,
            b'j' => self.recall(4)?,
            code => return Err(format!("an instruction of a state dict was wanted, found {code:#04x}")),
        }
        Ok(None)
    }

    /// What calling a name of the list would return.
    fn build(&mut self, callable: Id, args: Id) -> Parsed<()> {
        let Node::Allowed(callable) = &self.nodes[callable as usize] else {
            return Err("a function or class was wanted to be called, found another value".into());
        };
        let callable = callable.clone();
        // No callable of the list looks at more.
        let args: Vec<Id> = self.sequence(args)?.iter().copied().take(7).collect();
        let node = match callable {
            // PyTorch's are called without arguments and filled afterwards.
            Allowed::OrderedDict if args.is_empty() => Node::Dict(Vec::new()),
            Allowed::OrderedDict => return Err("an empty OrderedDict was wanted, found one of pairs".into()),
            Allowed::Size => {
                let &list = args.first().ok_or("a size without extents")?;
                self.sequence(list)?;
                self.stack.push(list);
                return Ok(());
            }
            Allowed::Set | Allowed::Device | Allowed::Encode => Node::Opaque,
            Allowed::RebuildTensor => Node::Tensor(self.tensor(&args, None)?),
            Allowed::RebuildTensorOfType => {
                let stored = args.get(6).map(|&id| &self.nodes[id as usize]);
                let Some(Node::Allowed(Allowed::ElementType(stored))) = stored else {
                    return Err("a tensor's element type was wanted, found another value".into());
                };
                let stored = stored.clone();
                Node::Tensor(self.tensor(&args, Some(stored))?)
            }
            Allowed::RebuildParameter => {
                let &tensor = args.first().ok_or("a parameter without a tensor")?;
                if !matches!(self.nodes[tensor as usize], Node::Tensor(_)) {
                    return Err("a parameter's tensor was wanted, found another value".into());
                }
                self.stack.push(tensor);
                return Ok(());
            }
            Allowed::Storage(_) | Allowed::ElementType(_) => {
                return Err("a storage or an element type cannot be called".into());
            }
        };
        self.push(node);
        Ok(())
    }

    /// (storage, offset, size, stride, …) of `_rebuild_tensor_v2` and `_v3`.
    fn tensor(&self, args: &[Id], stored: Option<StoredType>) -> Parsed<StridedView> {
        let &[storage, offset, shape, strides, ..] = args else {
            return Err("a tensor's storage, offset, size and stride were wanted, found less".into());
        };
        let Node::Storage(storage) = &self.nodes[storage as usize] else {
            return Err("a tensor's storage was wanted, found another value".into());
        };
        let is_typed = storage.stored.is_some();
        let stored = storage.stored.clone().or(stored);
        let stored = stored.ok_or("a storage of bytes without an element type")?;
        let storage_len = is_typed.then_some(storage.len);
        let (shape, strides) = (self.extents(shape)?, self.extents(strides)?);
        if shape.len() != strides.len() {
            return Err(format!("a tensor has {} axes and {} strides", shape.len(), strides.len()));
        }
        Ok(StridedView {
            key: storage.key.clone(),
            stored,
            storage_len,
            offset: self.extent(offset)?,
            shape,
            strides,
        })
    }

    /// ('storage', type, key, location, length): the only persistent id that PyTorch writes.
    fn storage(&self, id: Id) -> Parsed<Storage> {
        let wanted = || "a storage was wanted, found another persistent id".to_string();
        let &[tag, stored, key, _, len] = self.sequence(id)? else { return Err(wanted()) };
        let Node::Allowed(Allowed::Storage(stored)) = &self.nodes[stored as usize] else {
            return Err(wanted());
        };
        if &self.file[self.text(tag)?] != b"storage" {
            return Err(wanted());
        }
        let key = self.file[self.text(key)?].to_vec();
        let key = String::from_utf8(key).ok().filter(|key| key.len() <= NAME_MAX).ok_or_else(wanted)?;
        Ok(Storage { key, stored: stored.clone(), len: self.extent(len)? })
    }

    /// The `__setstate__` of an OrderedDict or a parameter, which says nothing about the weights.
    fn set_state(&mut self) -> Parsed<()> {
        self.pop()?;
        match self.top()? {
            Node::Dict(_) | Node::Tensor(_) => Ok(()),
            _ => Err("a dictionary was wanted before its state, found another value".into()),
        }
    }

    fn push_allowed(&mut self, module: Range<usize>, name: Range<usize>) -> Parsed<()> {
        let text = |range: Range<usize>| String::from_utf8_lossy(&self.file[range]).into_owned();
        let (module, name) = (text(module), text(name));
        let Some(allowed) = Allowed::named(&module, &name) else {
            return Err(format!(
                "it names `{module}.{name}`, which no state dict needs and nothing here executes; save the weights \
                 alone, with `torch.save(model.state_dict(), FILE)` or with safetensors"
            ));
        };
        self.push(Node::Allowed(allowed));
        Ok(())
    }

    fn sequence(&self, id: Id) -> Parsed<&[Id]> {
        match &self.nodes[id as usize] {
            Node::Sequence(items) => Ok(items),
            _ => Err("a list or tuple was wanted, found another value".into()),
        }
    }

    fn extent(&self, id: Id) -> Parsed<usize> {
        match &self.nodes[id as usize] {
            Node::Int(value) => {
                usize::try_from(*value).map_err(|_| format!("a length was wanted, found {value}"))
            }
            _ => Err("a length was wanted, found another value".into()),
        }
    }

    fn extents(&self, id: Id) -> Parsed<Vec<usize>> {
        let items = self.sequence(id)?;
        if items.len() > AXES_MAX {
            return Err(format!("a tensor of at most {AXES_MAX} axes was wanted, found {}", items.len()));
        }
        items.iter().map(|&item| self.extent(item)).collect()
    }

    fn text(&self, id: Id) -> Parsed<Range<usize>> {
        match &self.nodes[id as usize] {
            Node::Text(range) => Ok(range.clone()),
            _ => Err("a text was wanted, found another value".into()),
        }
    }

    fn bytes(&mut self, n: usize) -> Parsed<Range<usize>> {
        let left = self.file.len() - self.at;
        if n > left {
            return Err(format!("{n} bytes were wanted, {left} are left"));
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
        let Some(n) = self.file[self.at..].iter().take(NAME_MAX + 1).position(|&b| b == b'\n') else {
            return Err(format!("a line of at most {NAME_MAX} bytes was wanted"));
        };
        let line = self.bytes(n)?;
        self.at += 1;
        Ok(line)
    }

    fn push(&mut self, node: Node) {
        self.stack.push(self.nodes.len() as Id);
        self.nodes.push(node);
    }

    fn push_unsigned(&mut self, n: usize) -> Parsed<()> {
        let value = self.number(n)?;
        self.push(Node::Int(value as i64));
        Ok(())
    }

    /// A two's complement integer of `n` bytes; one of more than 8 (a random seed) is no length.
    fn push_long(&mut self, n: usize) -> Parsed<()> {
        if n > 8 {
            self.bytes(n)?;
            self.push(Node::Opaque);
            return Ok(());
        }
        let unused = 64 - 8 * n as u32;
        let value = self.number(n)?;
        self.push(Node::Int(if n == 0 { 0 } else { ((value << unused) as i64) >> unused }));
        Ok(())
    }

    fn push_text(&mut self, length_bytes: usize) -> Parsed<()> {
        let range = self.counted(length_bytes)?;
        self.push(Node::Text(range));
        Ok(())
    }

    /// Python 2 writes texts as bytes, too.
    fn skip_bytes(&mut self, length_bytes: usize) -> Parsed<()> {
        let range = self.counted(length_bytes)?;
        let is_text = length_bytes < 8 && self.file[range.clone()].is_ascii();
        self.push(if is_text { Node::Text(range) } else { Node::Opaque });
        Ok(())
    }

    fn counted(&mut self, length_bytes: usize) -> Parsed<Range<usize>> {
        let n = self.number(length_bytes)?;
        self.bytes(usize::try_from(n).unwrap_or(usize::MAX))
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
        self.remember_as(slot)
    }

    fn remember_as(&mut self, slot: u32) -> Parsed<()> {
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
