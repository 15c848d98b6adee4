//! The state dict in a pickled file of PyTorch. Nothing is executed: the names of functions and classes come from a
//! list, and what they would build is built here. Any other name is an error.
//!
//! Sources: PyTorch `torch/_weights_only_unpickler.py`, `torch/_utils.py`.

use super::allow_list::Allowed;
use super::stored::{StoredType, StridedView};
pub(super) use crate::pickle::Id;
use crate::pickle::{self, Called, NAME_MAX, Parsed, PickledValue, Values, Vocabulary};

const AXES_MAX: usize = 16;

#[derive(Debug, Clone)]
struct Storage {
    key: String,
    /// `None`: the tensor says it.
    stored: Option<StoredType>,
    len: usize,
}

/// What a state dict names, and what is built with it.
#[derive(Debug)]
enum TorchValue {
    Allowed(Allowed),
    Storage(Storage),
    Tensor(StridedView),
    Settings,
}

use PickledValue::{Dict, Named, Opaque};

impl Vocabulary for TorchValue {
    /// A state dict of a thousand tensors with its optimizer has about 100,000.
    const VALUES_MAX: usize = 2_000_000;
    const FILES: &'static str = "a state dict";

    fn named(module: &[u8], name: &[u8]) -> Parsed<TorchValue> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (module, name) = (text(module), text(name));
        Allowed::named(&module, &name).map(TorchValue::Allowed).ok_or_else(|| {
            format!(
                "it names `{module}.{name}`, which no state dict needs and nothing here executes; save the weights \
                 alone, with `torch.save(model.state_dict(), FILE)` or with safetensors"
            )
        })
    }

    /// What calling a name of the list would return.
    fn call(values: &Values<TorchValue>, callable: Id, args: Id) -> Parsed<Called<TorchValue>> {
        let Named(TorchValue::Allowed(callable)) = values.get(callable) else {
            return Err("a function or class was wanted to be called, found another value".into());
        };
        // No callable of the list looks at more.
        let args = sequence(values, args)?;
        let args = &args[..args.len().min(7)];
        Ok(Called::New(match callable {
            // PyTorch's are called without arguments and filled afterwards.
            Allowed::OrderedDict if args.is_empty() => Dict(Vec::new()),
            Allowed::OrderedDict => return Err("an empty OrderedDict was wanted, found one of pairs".into()),
            Allowed::Size => {
                let &list = args.first().ok_or("a size without extents")?;
                sequence(values, list)?;
                return Ok(Called::Known(list));
            }
            Allowed::Settings => Named(TorchValue::Settings),
            Allowed::Set | Allowed::Device | Allowed::Encode => Opaque,
            Allowed::RebuildTensor => Named(TorchValue::Tensor(tensor(values, args, None)?)),
            Allowed::RebuildTensorOfType => {
                let stored = args.get(6).map(|&id| values.get(id));
                let Some(Named(TorchValue::Allowed(Allowed::ElementType(stored)))) = stored else {
                    return Err("a tensor's element type was wanted, found another value".into());
                };
                Named(TorchValue::Tensor(tensor(values, args, Some(stored.clone()))?))
            }
            Allowed::RebuildParameter => {
                let &tensor = args.first().ok_or("a parameter without a tensor")?;
                if !matches!(values.get(tensor), Named(TorchValue::Tensor(_))) {
                    return Err("a parameter's tensor was wanted, found another value".into());
                }
                return Ok(Called::Known(tensor));
            }
            Allowed::Storage(_) | Allowed::ElementType(_) => {
                return Err("a storage or an element type cannot be called".into());
            }
        }))
    }

    /// The state of an OrderedDict, a parameter or settings says nothing about the weights.
    fn set_state(object: &mut PickledValue<TorchValue>, _: Id) -> Parsed<()> {
        match object {
            Dict(_) | Named(TorchValue::Tensor(_) | TorchValue::Settings) => Ok(()),
            _ => Err("a dictionary was wanted before its state, found another value".into()),
        }
    }

    /// ('storage', type, key, location, length): the only persistent id that PyTorch writes.
    fn persistent(values: &Values<TorchValue>, id: Id) -> Parsed<TorchValue> {
        let wanted = || "a storage was wanted, found another persistent id".to_string();
        let &[tag, stored, key, _, len] = sequence(values, id)? else { return Err(wanted()) };
        let Named(TorchValue::Allowed(Allowed::Storage(stored))) = values.get(stored) else {
            return Err(wanted());
        };
        if values.string(tag) != Some(b"storage") {
            return Err(wanted());
        }
        let key = values.string(key).filter(|key| key.len() <= NAME_MAX).ok_or_else(wanted)?;
        let key = String::from_utf8(key.to_vec()).map_err(|_| wanted())?;
        Ok(TorchValue::Storage(Storage { key, stored: stored.clone(), len: extent(values, len)? }))
    }
}

/// (storage, offset, size, stride, …) of `_rebuild_tensor_v2` and `_v3`.
fn tensor(values: &Values<TorchValue>, args: &[Id], stored: Option<StoredType>) -> Parsed<StridedView> {
    let &[storage, offset, shape, strides, ..] = args else {
        return Err("a tensor's storage, offset, size and stride were wanted, found less".into());
    };
    let Named(TorchValue::Storage(storage)) = values.get(storage) else {
        return Err("a tensor's storage was wanted, found another value".into());
    };
    let is_typed = storage.stored.is_some();
    let stored = storage.stored.clone().or(stored);
    let stored = stored.ok_or("a storage of bytes without an element type")?;
    let storage_len = is_typed.then_some(storage.len);
    let (shape, strides) = (extents(values, shape)?, extents(values, strides)?);
    if shape.len() != strides.len() {
        return Err(format!("a tensor has {} axes and {} strides", shape.len(), strides.len()));
    }
    let (key, offset) = (storage.key.clone(), extent(values, offset)?);
    Ok(StridedView { key, stored, storage_len, offset, shape, strides })
}

fn sequence<'v>(values: &'v Values<TorchValue>, id: Id) -> Parsed<&'v [Id]> {
    values.sequence(id).ok_or_else(|| "a list or tuple was wanted, found another value".into())
}

fn extent(values: &Values<TorchValue>, id: Id) -> Parsed<usize> {
    let value = values.int(id).ok_or("a length was wanted, found another value")?;
    usize::try_from(value).map_err(|_| format!("a length was wanted, found {value}"))
}

fn extents(values: &Values<TorchValue>, id: Id) -> Parsed<Vec<usize>> {
    let items = sequence(values, id)?;
    if items.len() > AXES_MAX {
        return Err(format!("a tensor of at most {AXES_MAX} axes was wanted, found {}", items.len()));
    }
    items.iter().map(|&item| extent(values, item)).collect()
}

/// One entry of a dictionary, as far as it matters.
pub(super) enum Entry<'p> {
    Tensor(&'p StridedView),
    Dict(Id),
    Other,
}

/// A parsed file.
pub(super) struct PickledWeights<'a> {
    values: Values<'a, TorchValue>,
    pub root: Id,
}

impl<'a> PickledWeights<'a> {
    /// # Errors
    /// Text with the offset, what was wanted and what was found.
    pub(super) fn parse(file: &'a [u8]) -> Parsed<PickledWeights<'a>> {
        let (values, root) = pickle::parse(file)
            .map_err(|fault| format!("{} (offset {} of data.pkl)", fault.what, fault.offset))?;
        Ok(PickledWeights { values, root })
    }

    /// The entries of a dictionary with text keys; `None` for any other value.
    pub(super) fn entries(&self, id: Id) -> Option<impl Iterator<Item = (String, Entry<'_>)>> {
        let Dict(items) = self.values.get(id) else { return None };
        Some(items.iter().filter_map(|&(key, value)| {
            let key = String::from_utf8_lossy(self.values.string(key)?).into_owned();
            let entry = match self.values.get(value) {
                Named(TorchValue::Tensor(view)) => Entry::Tensor(view),
                Dict(_) => Entry::Dict(value),
                _ => Entry::Other,
            };
            Some((key, entry))
        }))
    }
}
