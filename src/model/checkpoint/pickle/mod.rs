// SPDX-License-Identifier: MPL-2.0

//! Reads the pickle of a state dict without running it. Of the pickle machine only what `torch.save` writes for tensors
//! is understood, and of the names a pickle may call only those that make a tensor; any other is an error.
//!
//! Every value lives in a flat arena and is referred to by its index. So a pickle can neither nest deeper than our own
//! stack, nor grow by referring to itself: what is kept is bounded by [`MAX_OPERATIONS`].

mod input;
mod value;

use std::collections::HashMap;
use std::ops::Range;

use input::Input;
use value::{Global, Storage, Value, excerpt};

pub(super) use value::View;

/// Operations of the pickle machine. A tensor takes about forty.
const MAX_OPERATIONS: usize = 1 << 20;
/// Dimensions of a tensor.
const MAX_RANK: usize = 8;

/// Bytes of a tensor's key and of its storage's. One long string may be referred to many times.
const MAX_KEY: usize = 1024;

/// Why a pickle is refused.
type Result<T, E = String> = std::result::Result<T, E>;

/// The tensors of a pickled state dict by their keys; those of a bare tensor, under the empty key.
pub(super) fn read(input: &[u8]) -> Result<Vec<(&str, View<'_>)>> {
    let mut machine = Machine::new(Input::new(input));
    let root = machine.run()?;
    machine.state_dict(root)
}

#[derive(Debug)]
struct Machine<'a> {
    input: Input<'a>,
    stack: Vec<Value<'a>>,
    marks: Vec<usize>,
    memo: HashMap<u32, Value<'a>>,
    items: Vec<Value<'a>>,
    dicts: Vec<Vec<(Value<'a>, Value<'a>)>>,
    storages: Vec<Storage<'a>>,
    views: Vec<View<'a>>,
}

impl<'a> Machine<'a> {
    fn new(input: Input<'a>) -> Self {
        Self {
            input,
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
            items: Vec::new(),
            dicts: Vec::new(),
            storages: Vec::new(),
            views: Vec::new(),
        }
    }

    /// Runs up to STOP and returns the value that is left.
    fn run(&mut self) -> Result<Value<'a>> {
        for _ in 0..MAX_OPERATIONS {
            let opcode = self.input.byte()?;
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
            0x80 => _ = self.input.byte()?,
            0x95 => _ = self.input.take(8)?,
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
            // BINFLOAT, BINBYTES, SHORT_BINBYTES
            b'G' => self.opaque(8)?,
            b'B' => {
                let len = self.input.len()?;
                self.opaque(len)?;
            }
            b'C' => {
                let len = self.input.short_len()?;
                self.opaque(len)?;
            }
            // BININT1, BININT2, BININT, LONG1
            b'K' => self.stack.push(Value::Int(self.input.byte()?.into())),
            b'M' => self.stack.push(Value::Int(self.input.u16()?.into())),
            b'J' => self.stack.push(Value::Int(self.input.i32()?.into())),
            0x8a => self.stack.push(Value::Int(self.input.long()?)),
            // BINUNICODE, SHORT_BINUNICODE
            b'X' => {
                let len = self.input.len()?;
                self.stack.push(Value::Str(self.input.text(len)?));
            }
            0x8c => {
                let len = self.input.short_len()?;
                self.stack.push(Value::Str(self.input.text(len)?));
            }
            // BINPUT, LONG_BINPUT, MEMOIZE
            b'q' => {
                let index = self.input.byte()?;
                self.remember(index.into())?;
            }
            b'r' => {
                let index = self.input.u32()?;
                self.remember(index)?;
            }
            0x94 => self.remember(u32::try_from(self.memo.len()).unwrap_or(u32::MAX))?,
            // BINGET, LONG_BINGET
            b'h' => {
                let index = self.input.byte()?;
                self.recall(index.into())?;
            }
            b'j' => {
                let index = self.input.u32()?;
                self.recall(index)?;
            }
            // GLOBAL, STACK_GLOBAL
            b'c' => {
                let (module, name) = (self.input.line()?, self.input.line()?);
                self.stack.push(Value::Global(Global::find(module, name)?));
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let global = Global::find(module.string()?, name.string()?)?;
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
            _ => {
                return Err(format!(
                    "its pickle has the unknown operation {opcode:#04x} at byte {}",
                    self.input.position() - 1
                ));
            }
        }
        Ok(())
    }

    // Stack and memo.

    fn opaque(&mut self, len: usize) -> Result<()> {
        self.input.take(len)?;
        self.stack.push(Value::Opaque);
        Ok(())
    }

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

    /// Where the last `count` values lie on the stack.
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
        items.iter().map(|&item| item.size()).collect()
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
        short(key)?;
        self.stack.push(Value::Storage(self.storages.len()));
        self.storages.push(Storage { key, dtype, len: len.size()? });
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
                    offset: offset.size()?,
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
                short(key)?;
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

fn short(key: &str) -> Result<()> {
    if key.len() <= MAX_KEY { Ok(()) } else { Err(format!("its pickle has a key of {} bytes", key.len())) }
}
