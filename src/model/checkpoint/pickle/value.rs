// SPDX-License-Identifier: MPL-2.0

//! What the pickle machine handles.

use super::Result;
use crate::model::checkpoint::entry::DType;

/// A tensor as a pickle describes it: a strided view of a storage. Nothing has been checked against the storage yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View<'a> {
    /// Name of the storage's entry under `data/`.
    pub storage: &'a str,
    pub dtype: DType,
    /// Elements of the storage.
    pub storage_len: usize,
    /// First element.
    pub offset: usize,
    pub shape: Vec<usize>,
    /// In elements, one per dimension.
    pub strides: Vec<usize>,
}

/// The callables that are understood.
#[derive(Debug, Clone, Copy)]
pub enum Global {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
    Storage(DType),
}

impl Global {
    pub fn find(module: &str, name: &str) -> Result<Self> {
        Ok(match (module, name) {
            ("collections", "OrderedDict") => Self::OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2") => Self::RebuildTensor,
            ("torch._utils", "_rebuild_parameter") => Self::RebuildParameter,
            ("torch", "FloatStorage") => Self::Storage(DType::F32),
            ("torch", "HalfStorage") => Self::Storage(DType::F16),
            ("torch", "BFloat16Storage") => Self::Storage(DType::BF16),
            ("torch", "DoubleStorage") => Self::Storage(DType::Other("f64")),
            ("torch", "LongStorage") => Self::Storage(DType::Other("i64")),
            ("torch", "IntStorage") => Self::Storage(DType::Other("i32")),
            ("torch", "ShortStorage") => Self::Storage(DType::Other("i16")),
            ("torch", "CharStorage") => Self::Storage(DType::Other("i8")),
            ("torch", "ByteStorage") => Self::Storage(DType::Other("u8")),
            ("torch", "BoolStorage") => Self::Storage(DType::Other("bool")),
            _ => {
                let (module, name) = (excerpt(module), excerpt(name));
                return Err(format!("refused: its pickle calls {module}.{name}, which no checkpoint of weights needs"));
            }
        })
    }
}

/// A value on the machine's stack; what is larger than a word lies in an arena of [`Machine`].
#[derive(Debug, Clone, Copy)]
pub enum Value<'a> {
    Int(i64),
    Str(&'a str),
    Global(Global),
    /// A range of [`super::Machine::items`].
    Tuple(usize, usize),
    /// An index into [`super::Machine::dicts`].
    Dict(usize),
    /// An index into [`super::Machine::storages`].
    Storage(usize),
    /// An index into [`super::Machine::views`].
    Tensor(usize),
    /// Its items are not kept.
    List,
    /// Something that no tensor depends on: None, a truth value, a float, bytes.
    Opaque,
}

impl<'a> Value<'a> {
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Int(_) => "an integer",
            Self::Str(_) => "a string",
            Self::Global(_) => "a name",
            Self::Tuple(..) => "a tuple",
            Self::Dict(_) => "a dictionary",
            Self::Storage(_) => "a storage",
            Self::Tensor(_) => "a tensor",
            Self::List => "a list",
            Self::Opaque => "a constant",
        }
    }

    pub fn size(self) -> Result<usize> {
        match self {
            Self::Int(value) => usize::try_from(value).map_err(|_| format!("its pickle has the size {value}")),
            other => Err(format!("its pickle has {} in place of a size", other.kind())),
        }
    }

    pub fn string(self) -> Result<&'a str> {
        match self {
            Self::Str(text) => Ok(text),
            other => Err(format!("its pickle has {} in place of a string", other.kind())),
        }
    }
}

/// A storage as a pickle names it.
#[derive(Debug, Clone, Copy)]
pub struct Storage<'a> {
    pub key: &'a str,
    pub dtype: DType,
    pub len: usize,
}

/// The beginning of a string of unknown length, for an error message.
pub fn excerpt(text: &str) -> String {
    text.chars().take(64).flat_map(char::escape_debug).collect()
}
