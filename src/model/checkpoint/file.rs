// SPDX-License-Identifier: MPL-2.0

//! A file of named tensors.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{Device, Tensor};

use super::entry::Entry;
use super::source::Source;
use super::{Weights, safetensors, strided, torch_zip};
use crate::backend::{HostTensor, Parameter, Precision, Values};
use crate::error::{Error, Result};
use crate::model::Loading;

/// Bytes by which the kind of a file is told.
const START: usize = 512;

/// A file of named tensors, safetensors or torch's zip pickle, of f32, f16 or bf16 elements. Its header is read when it is
/// opened, its tensors when they are wanted.
#[derive(Debug)]
pub struct TensorFile {
    source: Source,
    entries: BTreeMap<String, Entry>,
    loading: Loading,
}

/// The elements of a tensor that lie one after the other in its file.
struct Stored<'a> {
    file: &'a TensorFile,
    start: u64,
    precision: Precision,
}

impl Values for Stored<'_> {
    fn precision(&self) -> Precision {
        self.precision
    }

    fn read(&self, first: usize, to: &mut [u8]) -> Result<()> {
        self.file.read_at(self.start + (first * self.precision.bytes()) as u64, to)
    }
}

impl TensorFile {
    /// Opens `path` and reads its header. What the file is, its first bytes say.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such file, [`Error::Read`] if it is not a whole file of one of the two kinds.
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_as(path, "tensor file")
    }

    /// [`Self::open`], where `what` is the noun for what is not found.
    pub(super) fn open_as(path: &Path, what: &'static str) -> Result<Self> {
        let source = Source::open(path, what)?;
        let entries = read_entries(&source).map_err(|reason| source.refuse(reason))?;
        Ok(Self { source, entries, loading: Loading::default() })
    }

    /// Counts what is read from now on in `loading`, which may end it.
    pub(super) fn follow(&mut self, loading: &Loading) {
        self.loading = loading.clone();
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        self.source.path()
    }

    /// Keys of its tensors, sorted.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// Shape of a tensor, if it is there.
    pub fn shape(&self, key: &str) -> Option<&[usize]> {
        self.entries.get(key).map(|entry| entry.shape.as_slice())
    }

    /// Type of a tensor's elements as it is stored ("bf16"), if it is there.
    pub fn dtype(&self, key: &str) -> Option<&'static str> {
        self.entries.get(key).map(|entry| entry.dtype.name())
    }

    /// Bytes of all its tensors that can be weights.
    pub(super) fn bytes(&self) -> u64 {
        let bytes = |entry: &Entry| Some(entry.count() as u64 * entry.dtype.precision()?.bytes() as u64);
        self.entries.values().filter_map(bytes).sum()
    }

    /// Checks that a tensor is there, of this shape and of a type that can be read.
    ///
    /// # Errors
    /// [`Error::Tensor`] says which of these fails.
    pub fn check(&self, key: &str, shape: &[usize]) -> Result<()> {
        self.entry(key, shape).map(|_| ())
    }

    /// A tensor of the given shape, as contiguous f32 on the CPU.
    ///
    /// # Errors
    /// [`Error::Tensor`] if it is missing, of another shape or of a type other than f32, f16 and bf16, [`Error::Read`] if it
    /// cannot be read.
    pub fn get(&self, key: &str, shape: &[usize]) -> Result<HostTensor> {
        let (entry, precision) = self.entry(key, shape)?;
        match &entry.strides {
            None => self.stored(entry, precision).to_host(),
            Some(strides) => {
                let read = |offset, to: &mut [u8]| self.read_at(entry.bytes.start + offset, to);
                let values = strided::gather(read, precision, &entry.bytes, shape, strides)?;
                Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
            }
        }
    }

    /// The error for a tensor that is not as `expected`.
    pub(in crate::model) fn refuse(&self, key: &str, expected: &str, found: &str) -> Error {
        Error::Tensor { file: self.path().into(), key: key.into(), expected: expected.into(), found: found.into() }
    }

    /// What is found where a tensor is expected: nothing, but perhaps one of a similar name.
    pub(in crate::model) fn absence(&self, key: &str) -> String {
        match nearest(key, self.keys()) {
            Some(nearest) => format!("nothing (there is \"{}\")", nearest.escape_debug()),
            None => "nothing".into(),
        }
    }

    fn entry(&self, key: &str, shape: &[usize]) -> Result<(&Entry, Precision)> {
        let expected = || format!("{shape:?}");
        let entry = self.entries.get(key).ok_or_else(|| self.refuse(key, &expected(), &self.absence(key)))?;
        if entry.shape != shape {
            return Err(self.refuse(key, &expected(), &format!("{:?}", entry.shape)));
        }
        let Some(precision) = entry.dtype.precision() else {
            let expected = format!("{shape:?} of f32, f16 or bf16");
            return Err(self.refuse(key, &expected, entry.dtype.name()));
        };
        Ok((entry, precision))
    }

    fn stored(&self, entry: &Entry, precision: Precision) -> Parameter<'_> {
        Parameter::new(&entry.shape, Stored { file: self, start: entry.bytes.start, precision })
    }

    fn read_at(&self, offset: u64, to: &mut [u8]) -> Result<()> {
        self.loading.advance(to.len() as u64)?;
        self.source.read_at(offset, to).map_err(|reason| self.source.refuse(reason))
    }
}

impl Weights for TensorFile {
    fn get(&self, key: &str, shape: &[usize]) -> Result<HostTensor> {
        TensorFile::get(self, key, shape)
    }

    fn parameter(&self, key: &str, shape: &[usize]) -> Result<Parameter<'_>> {
        let (entry, precision) = self.entry(key, shape)?;
        match entry.strides {
            None => Ok(self.stored(entry, precision)),
            Some(_) => Ok(self.get(key, shape)?.into()),
        }
    }
}

fn read_entries(source: &Source) -> Result<BTreeMap<String, Entry>, String> {
    let start = source.start(START)?;
    if start.starts_with(b"PK\x03\x04") {
        return torch_zip::read(source);
    }
    if start.get(8) == Some(&b'{') {
        return safetensors::read(source, &start);
    }
    let text = String::from_utf8_lossy(&start);
    let text = text.trim_start_matches('\u{feff}').trim_start();
    Err(if start.is_empty() {
        "is empty; get it again".into()
    } else if text.is_empty() {
        "holds nothing but white space; get it again".into()
    } else if start.starts_with(b"version https://git-lfs") {
        "a Git LFS pointer, not the file itself; get it with `git lfs pull`".into()
    } else if start.starts_with(b"\x80\x02") {
        "saved in the format of torch before 1.6; load it with torch and save it again".into()
    } else if text.starts_with('<') {
        "a web page, not a checkpoint; was the download behind a login? Get it again".into()
    } else if text.starts_with('{') {
        "a JSON text, perhaps the error message of a server, not a checkpoint; get it again".into()
    } else if start.iter().all(|byte| *byte == 0) {
        "begins with zeros: a download that has not ended? Get it again".into()
    } else {
        "neither a safetensors file nor a zip archive of torch; is it cut off or damaged?".into()
    })
}

/// The key that shares most of its beginning and its end with `wanted`, if that is most of it.
fn nearest<'a>(wanted: &str, keys: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let shared = |key: &str| {
        let start = wanted.bytes().zip(key.bytes()).take_while(|(a, b)| a == b).count();
        let end = wanted.bytes().rev().zip(key.bytes().rev()).take_while(|(a, b)| a == b).count();
        (start + end).min(wanted.len()).min(key.len())
    };
    let (shared, key) = keys.filter(|key| key.len() <= 256).map(|key| (shared(key), key)).max_by_key(|&(n, _)| n)?;
    (shared > 0 && shared * 3 >= wanted.len() * 2).then_some(key)
}
