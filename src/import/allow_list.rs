//! The functions and classes that a pickled state dict may name.
//!
//! Source: PyTorch `torch/_weights_only_unpickler.py`, less what no checkpoint of weights has, and with the
//! settings that are saved beside them.

use super::stored::StoredType;

/// A name of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Allowed {
    OrderedDict,
    Set,
    Size,
    Device,
    Encode,
    /// `argparse.Namespace`: settings that training programs save beside the weights. They are not looked at.
    Settings,
    RebuildTensor,
    RebuildTensorOfType,
    RebuildParameter,
    /// `torch.FloatStorage` and its like; `None` for a storage of bytes without a type.
    Storage(Option<StoredType>),
    ElementType(StoredType),
}

impl Allowed {
    pub(super) fn named(module: &str, name: &str) -> Option<Allowed> {
        Some(match (module, name) {
            ("collections", "OrderedDict") => Allowed::OrderedDict,
            ("builtins" | "__builtin__", "set" | "frozenset") => Allowed::Set,
            ("argparse", "Namespace") => Allowed::Settings,
            ("torch", "Size") => Allowed::Size,
            ("torch", "device") => Allowed::Device,
            ("_codecs", "encode") => Allowed::Encode,
            ("torch._utils", "_rebuild_tensor_v2") => Allowed::RebuildTensor,
            ("torch._utils", "_rebuild_tensor_v3") => Allowed::RebuildTensorOfType,
            ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => {
                Allowed::RebuildParameter
            }
            ("torch.storage", "UntypedStorage") => Allowed::Storage(None),
            ("torch", storage) if storage.ends_with("Storage") => {
                let stored = match storage {
                    "UntypedStorage" => return Some(Allowed::Storage(None)),
                    "HalfStorage" => StoredType::F16,
                    "BFloat16Storage" => StoredType::Bf16,
                    "FloatStorage" => StoredType::F32,
                    "DoubleStorage" => StoredType::F64,
                    "LongStorage"
                    | "IntStorage"
                    | "ShortStorage"
                    | "CharStorage"
                    | "ByteStorage"
                    | "BoolStorage"
                    | "ComplexFloatStorage"
                    | "ComplexDoubleStorage"
                    | "QInt8Storage"
                    | "QUInt8Storage"
                    | "QInt32Storage" => StoredType::Other(format!("torch.{storage}")),
                    _ => return None,
                };
                Allowed::Storage(Some(stored))
            }
            ("torch", element) => Allowed::ElementType(match element {
                "float16" | "half" => StoredType::F16,
                "bfloat16" => StoredType::Bf16,
                "float32" | "float" => StoredType::F32,
                "float64" | "double" => StoredType::F64,
                "int8" | "int16" | "int32" | "int64" | "uint8" | "uint16" | "uint32" | "uint64" | "bool"
                | "complex32" | "complex64" | "complex128" | "float8_e4m3fn" | "float8_e5m2"
                | "float8_e4m3fnuz" | "float8_e5m2fnuz" | "float8_e8m0fnu" => {
                    StoredType::Other(format!("torch.{element}"))
                }
                _ => return None,
            }),
            _ => return None,
        })
    }
}
