//! NumPy's arrays and lists of numbers and names in pickled files, as CIFAR's batches have them.
//!
//! Names that are not known are passed over: what they would build is never asked for.

use crate::pickle::{self, Called, Id, Parsed, PickledValue, Values, Vocabulary};

/// What CIFAR's files name, and what a call of it leaves behind.
#[derive(Debug)]
enum NumpyValue {
    /// `numpy.core.multiarray._reconstruct`, an array to be filled by its state.
    Reconstruct,
    /// `numpy.core.numeric._frombuffer`, an array of bytes, which protocol 5 writes.
    FromBuffer,
    /// `numpy.dtype`.
    Dtype,
    /// `_codecs.encode`.
    Encode,
    OtherName,
    /// The result of a call, with what `__setstate__` received.
    Object {
        callable: Id,
        args: Id,
        state: Option<Id>,
    },
}

use NumpyValue::{Dtype, Encode, FromBuffer, Object, Reconstruct};
use PickledValue::{Dict, Named};

impl Vocabulary for NumpyValue {
    /// CIFAR-100's training file has about 150,000.
    const VALUES_MAX: usize = 500_000;
    const FILES: &'static str = "CIFAR's files";

    fn named(module: &[u8], name: &[u8]) -> Parsed<NumpyValue> {
        Ok(match (module, name) {
            (b"numpy.core.multiarray" | b"numpy._core.multiarray", b"_reconstruct") => Reconstruct,
            (b"numpy.core.numeric" | b"numpy._core.numeric", b"_frombuffer") => FromBuffer,
            (b"numpy", b"dtype") => Dtype,
            (b"_codecs", b"encode") => Encode,
            _ => NumpyValue::OtherName,
        })
    }

    fn call(_: &Values<NumpyValue>, callable: Id, args: Id) -> Parsed<Called<NumpyValue>> {
        Ok(Called::New(Named(Object { callable, args, state: None })))
    }

    fn set_state(object: &mut PickledValue<NumpyValue>, new_state: Id) -> Parsed<()> {
        match object {
            Named(Object { state, .. }) => *state = Some(new_state),
            _ => return Err("an object was wanted before its state".into()),
        }
        Ok(())
    }

    fn persistent(_: &Values<NumpyValue>, _: Id) -> Parsed<NumpyValue> {
        Err("values in the file itself were wanted, found one that is kept elsewhere".into())
    }
}

/// A parsed file.
pub struct PickledArrays<'a> {
    values: Values<'a, NumpyValue>,
    root: Id,
}

/// A two-dimensional array of unsigned bytes in C order.
pub struct ByteArray {
    pub rows: usize,
    pub columns: usize,
    pub data: Vec<u8>,
}

impl<'a> PickledArrays<'a> {
    /// # Errors
    /// Text with the offset, what was wanted and what was found.
    pub fn parse(file: &'a [u8]) -> Parsed<PickledArrays<'a>> {
        let (values, root) =
            pickle::parse(file).map_err(|fault| format!("offset {}: {}", fault.offset, fault.what))?;
        Ok(PickledArrays { values, root })
    }

    /// The entry `key` of the dictionary that the file consists of.
    pub fn get(&self, key: &str) -> Parsed<Id> {
        let Dict(items) = self.values.get(self.root) else {
            return Err("a pickled dictionary was wanted, found another value".into());
        };
        // Keys are ASCII, where UTF-8 and Latin-1 agree.
        let is_key = |id: Id| self.text(id).is_some_and(|(text, _)| text == key.as_bytes());
        // As in Python, the last of equal keys counts.
        match items.iter().rev().find(|item| is_key(item.0)) {
            Some(item) => Ok(item.1),
            None => Err(format!("the dictionary has no entry `{key}`")),
        }
    }

    fn sequence(&self, id: Id, what: &str) -> Parsed<&[Id]> {
        let items = self.values.sequence(id);
        items.ok_or_else(|| format!("`{what}`: a list or tuple was wanted, found another value"))
    }

    fn int(&self, id: Id, what: &str) -> Parsed<i64> {
        let value = self.values.int(id);
        value.ok_or_else(|| format!("`{what}`: an integer was wanted, found another value"))
    }

    /// A list of integers.
    pub fn ints(&self, id: Id, what: &str) -> Parsed<Vec<i64>> {
        self.sequence(id, what)?.iter().map(|&item| self.int(item, what)).collect()
    }

    /// A list of byte strings or texts.
    pub fn texts(&self, id: Id, what: &str) -> Parsed<Vec<String>> {
        let text = |&item: &Id| match self.text(item) {
            Some((text, _)) if text.len() <= pickle::NAME_MAX => {
                Ok(String::from_utf8_lossy(text).into_owned())
            }
            _ => Err(format!(
                "`{what}`: names of at most {} bytes were wanted, found another value",
                pickle::NAME_MAX
            )),
        };
        self.sequence(id, what)?.iter().map(text).collect()
    }

    /// A two-dimensional numpy array of `uint8`.
    pub fn byte_array(&self, id: Id, what: &str) -> Parsed<ByteArray> {
        let wanted =
            |part: &str| format!("`{what}`: a numpy array of uint8 with two axes was wanted, {part}");
        let Named(Object { callable, args, state }) = self.values.get(id) else {
            return Err(wanted("found another value"));
        };
        let (shape, dtype, fortran, data) = match (self.values.get(*callable), state) {
            (Named(Reconstruct), Some(state)) => {
                let &[_, shape, dtype, fortran, data] = self.sequence(*state, what)? else {
                    return Err(wanted("found an array state without 5 parts"));
                };
                (shape, dtype, self.int(fortran, what)? != 0, data)
            }
            (Named(FromBuffer), _) => {
                let &[data, dtype, shape, order] = self.sequence(*args, what)? else {
                    return Err(wanted("found an array without 4 parts"));
                };
                let fortran = self.text(order).is_some_and(|(text, _)| text == b"F");
                (shape, dtype, fortran, data)
            }
            _ => return Err(wanted("found another object")),
        };
        let Named(Object { callable, args, .. }) = self.values.get(dtype) else {
            return Err(wanted("found no element type"));
        };
        let name = self.sequence(*args, what)?.first().and_then(|&first| self.values.string(first));
        if !matches!(self.values.get(*callable), Named(Dtype)) || !matches!(name, Some(b"u1" | b"|u1")) {
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

    /// The bytes of a string, and whether it is `_codecs.encode(text, 'latin1')`, which is how Python 3 writes bytes in
    /// protocol 2.
    fn text(&self, id: Id) -> Option<(&[u8], bool)> {
        let Named(Object { callable, args, .. }) = self.values.get(id) else {
            return self.values.string(id).map(|text| (text, false));
        };
        let Named(Encode) = self.values.get(*callable) else { return None };
        self.values.string(*self.values.sequence(*args)?.first()?).map(|text| (text, true))
    }

    fn raw(&self, id: Id, what: &str) -> Parsed<Vec<u8>> {
        let bad = || format!("`{what}`: the bytes of the array were wanted, found another value");
        let (bytes, encoded) = self.text(id).ok_or_else(bad)?;
        if !encoded {
            return Ok(bytes.to_vec());
        }
        let text = std::str::from_utf8(bytes).map_err(|_| bad())?;
        text.chars().map(|c| u8::try_from(u32::from(c)).map_err(|_| bad())).collect()
    }
}
