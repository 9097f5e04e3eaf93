// SPDX-License-Identifier: MPL-2.0

//! Reads the pickle of a state dict without running it. Of the pickle machine only what `torch.save` writes for tensors
//! is understood, and of the names a pickle may call only those that make a tensor; any other is an error.
//!
//! Every value lives in a flat arena and is referred to by its index. So a pickle can neither nest deeper than our own
//! stack, nor grow by referring to itself: what is kept is bounded by [`MAX_OPERATIONS`].

use std::collections::HashMap;
use std::ops::Range;

use super::dtype::DType;

/// Operations of the pickle machine. A tensor takes about forty.
const MAX_OPERATIONS: usize = 1 << 20;
/// Dimensions of a tensor.
const MAX_RANK: usize = 8;

/// Why a pickle is refused.
type Result<T, E = String> = std::result::Result<T, E>;

/// A tensor as a pickle describes it: a strided view of a storage. Nothing has been checked against the storage yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct View<'a> {
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

/// The tensors of a pickled state dict by their keys; those of a bare tensor, under the empty key.
pub(super) fn read(input: &[u8]) -> Result<Vec<(&str, View<'_>)>> {
    let mut machine = Machine { input, ..Machine::default() };
    let root = machine.run()?;
    machine.state_dict(root)
}

/// The callables that are understood.
#[derive(Debug, Clone, Copy)]
enum Global {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
    Storage(DType),
}

impl Global {
    fn find(module: &str, name: &str) -> Result<Self> {
        Ok(match (module, name) {
            ("collections", "OrderedDict") => Self::OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2") => Self::RebuildTensor,
            ("torch._utils", "_rebuild_parameter") => Self::RebuildParameter,
            ("torch", "FloatStorage") => Self::Storage(DType::F32),
            ("torch", "HalfStorage") => Self::Storage(DType::F16),
            ("torch", "BFloat16Storage") => Self::Storage(DType::Bf16),
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
enum Value<'a> {
    Int(i64),
    Str(&'a str),
    Global(Global),
    /// A range of [`Machine::items`].
    Tuple(usize, usize),
    /// An index into [`Machine::dicts`].
    Dict(usize),
    /// An index into [`Machine::storages`].
    Storage(usize),
    /// An index into [`Machine::views`].
    Tensor(usize),
    /// Its items are not kept.
    List,
    /// Something that no tensor depends on: None, a truth value, a float, bytes.
    Opaque,
}

impl Value<'_> {
    fn kind(&self) -> &'static str {
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
}

#[derive(Debug, Clone, Copy)]
struct Storage<'a> {
    key: &'a str,
    dtype: DType,
    len: usize,
}

#[derive(Debug, Default)]
struct Machine<'a> {
    input: &'a [u8],
    at: usize,
    stack: Vec<Value<'a>>,
    marks: Vec<usize>,
    memo: HashMap<u32, Value<'a>>,
    items: Vec<Value<'a>>,
    dicts: Vec<Vec<(Value<'a>, Value<'a>)>>,
    storages: Vec<Storage<'a>>,
    views: Vec<View<'a>>,
}

impl<'a> Machine<'a> {
    /// Runs up to STOP and returns the value that is left.
    fn run(&mut self) -> Result<Value<'a>> {
        for _ in 0..MAX_OPERATIONS {
            let opcode = self.byte()?;
            if opcode == b'.' {
                return self.pop();
            }
            self.step(opcode)?;
        }
        Err(format!("its pickle has more than {MAX_OPERATIONS} operations"))
    }

    fn step(&mut self, opcode: u8) -> Result<()> {
        match opcode {
            // PROTO, FRAME: say nothing that we need.
            0x80 => _ = self.byte()?,
            0x95 => _ = self.take(8)?,
            // MARK
            b'(' => self.marks.push(self.stack.len()),
            // POP
            b'0' => _ = self.pop()?,
            // EMPTY_DICT, EMPTY_LIST, EMPTY_TUPLE
            b'}' => self.push_dict(),
            b']' => self.stack.push(Value::List),
            b')' => self.tuple(0)?,
            // TUPLE, TUPLE1, TUPLE2, TUPLE3
            b't' => {
                let count = self.since_mark()?;
                self.tuple(count)?;
            }
            0x85..=0x87 => self.tuple(usize::from(opcode - 0x84))?,
            // NONE, NEWTRUE, NEWFALSE
            b'N' | 0x88 | 0x89 => self.stack.push(Value::Opaque),
            // BINFLOAT
            b'G' => self.opaque(8)?,
            // BINBYTES, SHORT_BINBYTES
            b'B' => {
                let len = self.size4()?;
                self.opaque(len)?;
            }
            b'C' => {
                let len = self.byte()?;
                self.opaque(usize::from(len))?;
            }
            // BININT1, BININT2, BININT, LONG1
            b'K' => {
                let value = self.byte()?;
                self.stack.push(Value::Int(i64::from(value)));
            }
            b'M' => {
                let value = u16::from_le_bytes(self.array()?);
                self.stack.push(Value::Int(i64::from(value)));
            }
            b'J' => {
                let value = i32::from_le_bytes(self.array()?);
                self.stack.push(Value::Int(i64::from(value)));
            }
            0x8a => {
                let value = self.long()?;
                self.stack.push(Value::Int(value));
            }
            // BINUNICODE, SHORT_BINUNICODE
            b'X' => {
                let len = self.size4()?;
                self.string(len)?;
            }
            0x8c => {
                let len = self.byte()?;
                self.string(usize::from(len))?;
            }
            // BINPUT, LONG_BINPUT, MEMOIZE
            b'q' => {
                let index = self.byte()?;
                self.remember(u32::from(index))?;
            }
            b'r' => {
                let index = u32::from_le_bytes(self.array()?);
                self.remember(index)?;
            }
            0x94 => self.remember(u32::try_from(self.memo.len()).unwrap_or(u32::MAX))?,
            // BINGET, LONG_BINGET
            b'h' => {
                let index = self.byte()?;
                self.recall(u32::from(index))?;
            }
            b'j' => {
                let index = u32::from_le_bytes(self.array()?);
                self.recall(index)?;
            }
            // GLOBAL, STACK_GLOBAL
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.stack.push(Value::Global(Global::find(module, name)?));
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let global = Global::find(string(module)?, string(name)?)?;
                self.stack.push(Value::Global(global));
            }
            b'Q' => self.persistent_id()?,
            b'R' => self.reduce()?,
            // BUILD: attributes of a dictionary (`_metadata`), which say nothing about its tensors.
            b'b' => {
                self.pop()?;
                self.dict_on_top()?;
            }
            // SETITEM, SETITEMS
            b's' => self.set_items(2)?,
            b'u' => {
                let count = self.since_mark()?;
                self.set_items(count)?;
            }
            // APPEND, APPENDS
            b'a' => self.append(1)?,
            b'e' => {
                let count = self.since_mark()?;
                self.append(count)?;
            }
            _ => return Err(format!("its pickle has the unknown operation {opcode:#04x} at byte {}", self.at - 1)),
        }
        Ok(())
    }

    // Input.

    fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        let bytes = self.at.checked_add(len).and_then(|end| self.input.get(self.at..end));
        let bytes = bytes.ok_or("its pickle is cut off")?;
        self.at += len;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        self.take(N)?.try_into().map_err(|_| "its pickle is cut off".into())
    }

    fn byte(&mut self) -> Result<u8> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    fn size4(&mut self) -> Result<usize> {
        usize::try_from(u32::from_le_bytes(self.array()?)).map_err(|error| error.to_string())
    }

    /// LONG1: a little-endian two's complement number of as many bytes as its first byte says.
    fn long(&mut self) -> Result<i64> {
        let len = usize::from(self.byte()?);
        let bytes = self.take(len)?;
        let negative = bytes.last().is_some_and(|byte| byte & 0x80 != 0);
        let mut word = [if negative { 0xff } else { 0 }; 8];
        word.get_mut(..len).ok_or("its pickle has an integer of more than 64 bits")?.copy_from_slice(bytes);
        Ok(i64::from_le_bytes(word))
    }

    fn string(&mut self, len: usize) -> Result<()> {
        let text = std::str::from_utf8(self.take(len)?).map_err(|_| "its pickle has a string that is not UTF-8")?;
        self.stack.push(Value::Str(text));
        Ok(())
    }

    fn opaque(&mut self, len: usize) -> Result<()> {
        self.take(len)?;
        self.stack.push(Value::Opaque);
        Ok(())
    }

    fn line(&mut self) -> Result<&'a str> {
        let rest = self.input.get(self.at..).unwrap_or_default();
        let len = rest.iter().position(|&byte| byte == b'\n').ok_or("its pickle is cut off")?;
        let line = self.take(len)?;
        self.at += 1;
        std::str::from_utf8(line).map_err(|_| "its pickle has a name that is not UTF-8".into())
    }

    // Stack and memo.

    fn pop(&mut self) -> Result<Value<'a>> {
        // What lies under a mark belongs to the operation that will close it.
        let floor = self.marks.last().copied().unwrap_or(0);
        let value = if self.stack.len() > floor { self.stack.pop() } else { None };
        value.ok_or_else(|| "its pickle takes from an empty stack".into())
    }

    /// Removes the last mark and returns how many values lie above it.
    fn since_mark(&mut self) -> Result<usize> {
        let mark = self.marks.pop().ok_or("its pickle closes a group that it has not opened")?;
        Ok(self.stack.len().saturating_sub(mark))
    }

    /// Removes the last `count` values, which lie in the returned range of [`Self::stack`] until it is truncated.
    fn last(&self, count: usize) -> Result<Range<usize>> {
        let floor = self.marks.last().copied().unwrap_or(0);
        let start = self.stack.len().checked_sub(count).filter(|&start| start >= floor);
        let start = start.ok_or("its pickle takes from an empty stack")?;
        Ok(start..self.stack.len())
    }

    fn remember(&mut self, index: u32) -> Result<()> {
        let value = self.stack.last().copied().ok_or("its pickle remembers nothing")?;
        self.memo.insert(index, value);
        Ok(())
    }

    fn recall(&mut self, index: u32) -> Result<()> {
        let value = self.memo.get(&index).copied();
        self.stack.push(value.ok_or("its pickle recalls what it has not remembered")?);
        Ok(())
    }

    // Containers.

    fn push_dict(&mut self) {
        self.stack.push(Value::Dict(self.dicts.len()));
        self.dicts.push(Vec::new());
    }

    fn dict_on_top(&mut self) -> Result<&mut Vec<(Value<'a>, Value<'a>)>> {
        match self.stack.last() {
            Some(&Value::Dict(index)) => self.dicts.get_mut(index).ok_or_else(|| "no such dictionary".into()),
            other => Err(format!("its pickle fills {} like a dictionary", other.map_or("nothing", Value::kind))),
        }
    }

    fn set_items(&mut self, count: usize) -> Result<()> {
        let range = self.last(count)?;
        let items = self.stack.split_off(range.start);
        let dict = self.dict_on_top()?;
        for pair in items.chunks(2) {
            let &[key, value] = pair else { return Err("its pickle has a key without a value".into()) };
            dict.push((key, value));
        }
        Ok(())
    }

    fn append(&mut self, count: usize) -> Result<()> {
        let range = self.last(count)?;
        self.stack.truncate(range.start);
        match self.stack.last() {
            Some(Value::List) => Ok(()),
            other => Err(format!("its pickle appends to {}", other.map_or("nothing", Value::kind))),
        }
    }

    fn tuple(&mut self, count: usize) -> Result<()> {
        let range = self.last(count)?;
        let start = self.items.len();
        self.items.extend(self.stack.drain(range));
        self.stack.push(Value::Tuple(start, self.items.len()));
        Ok(())
    }

    fn items(&self, value: Value<'a>) -> Result<&[Value<'a>]> {
        match value {
            Value::Tuple(start, end) => self.items.get(start..end).ok_or_else(|| "no such tuple".into()),
            other => Err(format!("its pickle has {} in place of a tuple", other.kind())),
        }
    }

    fn sizes(&self, value: Value<'a>) -> Result<Vec<usize>> {
        let items = self.items(value)?;
        if items.len() > MAX_RANK {
            return Err(format!("its pickle has a tensor of {} dimensions", items.len()));
        }
        items.iter().map(|&item| size(item)).collect()
    }

    // Tensors.

    /// BINPERSID: `("storage", type, key, location, elements)`.
    fn persistent_id(&mut self) -> Result<()> {
        let id = self.pop()?;
        let &[Value::Str("storage"), Value::Global(Global::Storage(dtype)), Value::Str(key), _, len] =
            self.items(id)?
        else {
            return Err("its pickle names a storage in an unknown way".into());
        };
        self.stack.push(Value::Storage(self.storages.len()));
        self.storages.push(Storage { key, dtype, len: size(len)? });
        Ok(())
    }

    /// REDUCE: the call of a [`Global`].
    fn reduce(&mut self) -> Result<()> {
        let (arguments, callee) = (self.pop()?, self.pop()?);
        let Value::Global(global) = callee else { return Err(format!("its pickle calls {}", callee.kind())) };
        match (global, self.items(arguments)?) {
            (Global::OrderedDict, []) => self.push_dict(),
            (Global::RebuildParameter, &[tensor @ Value::Tensor(_), ..]) => self.stack.push(tensor),
            (Global::RebuildTensor, &[Value::Storage(storage), offset, shape, strides, ..]) => {
                let storage = self.storages.get(storage).copied().ok_or("no such storage")?;
                let view = View {
                    storage: storage.key,
                    dtype: storage.dtype,
                    storage_len: storage.len,
                    offset: size(offset)?,
                    shape: self.sizes(shape)?,
                    strides: self.sizes(strides)?,
                };
                if view.shape.len() != view.strides.len() {
                    return Err("its pickle has a tensor with more or fewer strides than dimensions".into());
                }
                self.stack.push(Value::Tensor(self.views.len()));
                self.views.push(view);
            }
            (global, _) => return Err(format!("its pickle calls {global:?} with arguments that are not understood")),
        }
        Ok(())
    }

    fn view(&self, index: usize) -> Result<View<'a>> {
        self.views.get(index).cloned().ok_or_else(|| "no such tensor".into())
    }

    /// The tensors of `root`. Other values (an epoch number, say) are passed over.
    fn state_dict(&self, root: Value<'a>) -> Result<Vec<(&'a str, View<'a>)>> {
        let dict = match root {
            Value::Tensor(index) => return Ok(vec![("", self.view(index)?)]),
            Value::Dict(index) => self.dicts.get(index).ok_or("no such dictionary")?,
            other => return Err(format!("holds {}, not a dictionary of tensors", other.kind())),
        };
        let mut tensors = Vec::new();
        for &(key, value) in dict {
            if let (Value::Str(key), Value::Tensor(index)) = (key, value) {
                tensors.push((key, self.view(index)?));
            }
        }
        let nested = dict.iter().find(|(_, value)| matches!(value, Value::Dict(_)));
        match (tensors.is_empty(), nested) {
            (true, Some((Value::Str(key), _))) => {
                let key = excerpt(key);
                Err(format!("holds its tensors in a dictionary under \"{key}\"; save that dictionary as a file itself"))
            }
            (true, _) => Err("holds no tensor".into()),
            (false, _) => Ok(tensors),
        }
    }
}

fn size(value: Value<'_>) -> Result<usize> {
    match value {
        Value::Int(value) => usize::try_from(value).map_err(|_| format!("its pickle has the size {value}")),
        other => Err(format!("its pickle has {} in place of a size", other.kind())),
    }
}

fn string<'a>(value: Value<'a>) -> Result<&'a str> {
    match value {
        Value::Str(text) => Ok(text),
        other => Err(format!("its pickle has {} in place of a string", other.kind())),
    }
}

/// The beginning of a string of unknown length, for an error message.
fn excerpt(text: &str) -> String {
    text.chars().take(64).flat_map(char::escape_debug).collect()
}
