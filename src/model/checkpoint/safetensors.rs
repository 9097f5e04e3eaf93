// SPDX-License-Identifier: MPL-2.0

//! Headers of safetensors files.

use std::collections::BTreeMap;

use safetensors::Dtype;
use safetensors::tensor::Metadata;

use super::entry::{DType, Entry};
use super::source::Source;

/// Bytes of the header. A tensor takes about 120.
const MAX_HEADER: u64 = 16 << 20;
/// Bytes of the header's length, which comes first.
const PREFIX: u64 = size_of::<u64>() as u64;
/// Characters of the library's words that are passed on: they may hold whatever the file holds.
const MAX_WORDS: usize = 200;

/// Finds the tensors of a file that begins with `start`.
pub(super) fn read(source: &Source, start: &[u8]) -> Result<BTreeMap<String, Entry>, String> {
    let header = start.first_chunk().map_or(0, |length| u64::from_le_bytes(*length));
    if header > MAX_HEADER {
        return Err(format!("its header claims {header} bytes, more than the {MAX_HEADER} allowed"));
    }
    if PREFIX + header > source.len() {
        return Err("not a whole safetensors file: its header is cut off".into());
    }
    let mut text = vec![0; header as usize];
    source.read_at(PREFIX, &mut text)?;
    // Reading it checks that the tensors lie one after the other and are as long as their shapes say.
    let metadata: Metadata = serde_json::from_slice(&text)
        .map_err(|error| format!("a safetensors file with a damaged header ({})", printable(&error.to_string())))?;
    let (first, needed) = (PREFIX + header, metadata.data_len() as u64);
    if first.checked_add(needed) != Some(source.len()) {
        let present = source.len() - first;
        return Err(match present < needed {
            true => format!("is cut off: of {needed} bytes of tensors, {present} are there"),
            false => format!("has {} bytes behind its last tensor", present - needed),
        });
    }
    let entries = metadata.tensors().into_iter().map(|(key, info)| {
        let dtype = match info.dtype {
            Dtype::F32 => DType::F32,
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::BF16,
            other => DType::Other(other_name(other)),
        };
        let (start, end) = info.data_offsets;
        let bytes = if dtype.precision().is_some() { first + start as u64..first + end as u64 } else { 0..0 };
        (key, Entry { dtype, shape: info.shape.clone(), strides: None, bytes })
    });
    Ok(entries.collect())
}

/// Words that may hold text of the file, fit for a terminal.
fn printable(words: &str) -> String {
    let mut text: String = words.escape_debug().take(MAX_WORDS).collect();
    if text.len() < words.len() && text.chars().count() == MAX_WORDS {
        text.push_str("...");
    }
    text
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
