// SPDX-License-Identifier: MPL-2.0

//! A mapped file of named tensors.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors};

use super::dtype::DType;
use super::{Weights, torch_zip};
use crate::backend::HostTensor;
use crate::error::{Error, Result};

/// Bytes of the header of a safetensors file. A tensor takes about 120.
const MAX_HEADER: u64 = 16 << 20;

/// Where a tensor lies. [`TensorFile::open`] has checked that all of it does.
#[derive(Debug)]
pub(super) struct Entry {
    pub dtype: DType,
    pub shape: Vec<usize>,
    /// In elements; `None` if they are contiguous.
    pub strides: Option<Vec<usize>>,
    /// From the first to the last element, in bytes of the file; empty for [`DType::Other`].
    pub bytes: Range<usize>,
}

impl Entry {
    /// The elements in row-major order, or `None` if they do not lie in `file`.
    fn to_f32(&self, file: &[u8]) -> Option<Vec<f32>> {
        let (size, bytes) = (self.dtype.size()?, file.get(self.bytes.clone())?);
        let mut data = vec![0f32; bytes.len() / size];
        self.dtype.to_f32(bytes, &mut data);
        match &self.strides {
            None => Some(data),
            Some(strides) => gather(&data, &self.shape, strides),
        }
    }
}

/// A mapped file of named tensors, safetensors or torch's zip pickle, of f32, f16 or bf16 elements.
#[derive(Debug)]
pub struct TensorFile {
    path: PathBuf,
    map: Mmap,
    entries: BTreeMap<String, Entry>,
}

impl TensorFile {
    /// Maps `path` and reads its header. What the file is, its first bytes say.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such file, [`Error::Read`] if it is not a whole file of one of the two kinds.
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_as(path, "tensor file")
    }

    /// [`Self::open`], where `what` is the noun for what is not found.
    pub(super) fn open_as(path: &Path, what: &'static str) -> Result<Self> {
        let map = map(path, what)?;
        let entries = read(&map).map_err(|reason| Error::Read { path: path.into(), reason })?;
        Ok(Self { path: path.into(), map, entries })
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
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
    /// [`Error::Tensor`] if it is missing, of another shape or of a type other than f32, f16 and bf16.
    pub fn get(&self, key: &str, shape: &[usize]) -> Result<HostTensor> {
        let entry = self.entry(key, shape)?;
        let data = entry.to_f32(&self.map).ok_or_else(|| self.refuse(key, &format!("{shape:?}"), "too few bytes"))?;
        Ok(Tensor::from_vec(data, shape, &Device::Cpu)?)
    }

    /// The error for a tensor that is not as `expected`.
    pub(in crate::model) fn refuse(&self, key: &str, expected: &str, found: &str) -> Error {
        Error::Tensor { file: self.path.clone(), key: key.into(), expected: expected.into(), found: found.into() }
    }

    /// What is found where a tensor is expected: nothing, but perhaps one of a similar name.
    pub(in crate::model) fn absence(&self, key: &str) -> String {
        match nearest(key, self.keys()) {
            Some(nearest) => format!("nothing (there is \"{}\")", nearest.escape_debug()),
            None => "nothing".into(),
        }
    }

    fn entry(&self, key: &str, shape: &[usize]) -> Result<&Entry> {
        let expected = || format!("{shape:?}");
        let entry = self.entries.get(key).ok_or_else(|| self.refuse(key, &expected(), &self.absence(key)))?;
        if entry.shape != shape {
            return Err(self.refuse(key, &expected(), &format!("{:?}", entry.shape)));
        }
        if entry.dtype.size().is_none() {
            let expected = format!("{shape:?} of f32, f16 or bf16");
            return Err(self.refuse(key, &expected, entry.dtype.name()));
        }
        Ok(entry)
    }
}

impl Weights for TensorFile {
    fn get(&self, key: &str, shape: &[usize]) -> Result<HostTensor> {
        TensorFile::get(self, key, shape)
    }
}

fn map(path: &Path, what: &'static str) -> Result<Mmap> {
    let read_error = |error: io::Error| super::io_error(path, what, &error);
    // Opening a pipe would wait for its other end.
    if !fs::metadata(path).map_err(read_error)?.is_file() {
        return Err(Error::Read { path: path.into(), reason: "not a regular file".into() });
    }
    let file = File::open(path).map_err(read_error)?;
    // SAFETY: the bytes are only ever read as integers, for which every pattern is valid. Like any program that maps its
    // input, we rely on nobody shortening the file while it is in use.
    unsafe { Mmap::map(&file) }.map_err(read_error)
}

fn read(bytes: &[u8]) -> Result<BTreeMap<String, Entry>, String> {
    if bytes.starts_with(b"PK\x03\x04") {
        torch_zip::read(bytes)
    } else if bytes.get(8) == Some(&b'{') {
        safetensors(bytes)
    } else if bytes.starts_with(b"version https://git-lfs") {
        Err("a Git LFS pointer, not the file itself; get it with `git lfs pull`".into())
    } else if bytes.starts_with(b"\x80\x02") {
        Err("saved in the format of torch before 1.6; load it with torch and save it again".into())
    } else {
        Err("neither a safetensors file nor a zip archive of torch; is it cut off or damaged?".into())
    }
}

fn safetensors(bytes: &[u8]) -> Result<BTreeMap<String, Entry>, String> {
    let header = bytes.first_chunk().map_or(0, |length| u64::from_le_bytes(*length));
    if header > MAX_HEADER {
        return Err(format!("its header claims {header} bytes, more than the {MAX_HEADER} allowed"));
    }
    let (header, metadata) = SafeTensors::read_metadata(bytes)
        .map_err(|error| format!("not a whole safetensors file, is it cut off? ({error})"))?;
    // read_metadata has checked that the tensors lie in the file one after the other.
    let start = header + size_of::<u64>();
    let entries = metadata.tensors().into_iter().map(|(key, info)| {
        let dtype = match info.dtype {
            Dtype::F32 => DType::F32,
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::Bf16,
            other => DType::Other(other_name(other)),
        };
        let bytes =
            if dtype.size().is_some() { start + info.data_offsets.0..start + info.data_offsets.1 } else { 0..0 };
        (key, Entry { dtype, shape: info.shape.clone(), strides: None, bytes })
    });
    Ok(entries.collect())
}

fn other_name(dtype: Dtype) -> &'static str {
    match dtype {
        Dtype::BOOL => "bool",
        Dtype::U8 => "u8",
        Dtype::I8 => "i8",
        Dtype::U16 => "u16",
        Dtype::I16 => "i16",
        Dtype::U32 => "u32",
        Dtype::I32 => "i32",
        Dtype::U64 => "u64",
        Dtype::I64 => "i64",
        Dtype::F64 => "f64",
        Dtype::C64 => "c64",
        _ => "a float of 8 bits or fewer",
    }
}

/// Copies a strided view of `data`, which starts at its first element, into row-major order.
fn gather(data: &[f32], shape: &[usize], strides: &[usize]) -> Option<Vec<f32>> {
    let count = shape.iter().product();
    let mut out = Vec::with_capacity(count);
    let mut index = vec![0usize; shape.len()];
    let mut at = 0usize;
    while out.len() < count {
        out.push(*data.get(at)?);
        for ((index, &size), &stride) in index.iter_mut().zip(shape).zip(strides).rev() {
            *index += 1;
            at += stride;
            if *index < size {
                break;
            }
            at -= stride * size;
            *index = 0;
        }
    }
    Some(out)
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
