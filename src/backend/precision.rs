// SPDX-License-Identifier: MPL-2.0

//! Number formats: how weights are stored in a checkpoint, and how a device stores and multiplies.

use std::fmt;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

/// Values converted at a time, on the stack.
const CHUNK: usize = 1024;

/// A number format. Whatever the format of what is multiplied, accumulators are f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Precision {
    /// 32 bits: the reference's numbers; on a GPU slow, because tensor cores do not multiply them.
    F32,
    /// Brain float: 8 bits of fraction, the range of f32.
    Bf16,
    /// IEEE half: 11 bits of fraction, up to 65504.
    F16,
}

impl Precision {
    /// Its name in small letters.
    pub fn name(self) -> &'static str {
        match self {
            Precision::F32 => "f32",
            Precision::Bf16 => "bf16",
            Precision::F16 => "f16",
        }
    }

    /// Bytes of a value.
    pub fn bytes(self) -> usize {
        match self {
            Precision::F32 => 4,
            Precision::Bf16 | Precision::F16 => 2,
        }
    }

    /// Writes `values` to `bytes`, little-endian and rounded to the nearest. As many are written as both have room for.
    pub fn encode(self, values: &[f32], bytes: &mut [u8]) {
        match self {
            Precision::F32 => {
                for (to, value) in bytes.as_chunks_mut().0.iter_mut().zip(values) {
                    *to = value.to_le_bytes();
                }
            }
            Precision::Bf16 => {
                for (to, value) in bytes.as_chunks_mut().0.iter_mut().zip(values) {
                    *to = bf16::from_f32(*value).to_le_bytes();
                }
            }
            Precision::F16 => {
                for (bytes, values) in bytes.chunks_mut(2 * CHUNK).zip(values.chunks(CHUNK)) {
                    let mut halves = [f16::ZERO; CHUNK];
                    halves[..values.len()].convert_from_f32_slice(values);
                    for (to, half) in bytes.as_chunks_mut().0.iter_mut().zip(halves) {
                        *to = half.to_le_bytes();
                    }
                }
            }
        }
    }

    /// Reads `values` from little-endian `bytes`. As many are read as both have room for.
    pub fn decode(self, bytes: &[u8], values: &mut [f32]) {
        match self {
            Precision::F32 => {
                for (value, bytes) in values.iter_mut().zip(bytes.as_chunks().0) {
                    *value = f32::from_le_bytes(*bytes);
                }
            }
            Precision::Bf16 => {
                for (value, bytes) in values.iter_mut().zip(bytes.as_chunks().0) {
                    *value = bf16::from_le_bytes(*bytes).to_f32();
                }
            }
            Precision::F16 => {
                for (values, bytes) in values.chunks_mut(CHUNK).zip(bytes.chunks(2 * CHUNK)) {
                    let mut halves = [f16::ZERO; CHUNK];
                    for (half, bytes) in halves.iter_mut().zip(bytes.as_chunks().0) {
                        *half = f16::from_le_bytes(*bytes);
                    }
                    halves[..values.len()].convert_to_f32_slice(values);
                }
            }
        }
    }

    /// Converts little-endian values of this format in `from` to those of `other` in `to`.
    pub fn convert(self, from: &[u8], other: Precision, to: &mut [u8]) {
        if self == other {
            let len = from.len().min(to.len());
            to[..len].copy_from_slice(&from[..len]);
            return;
        }
        let mut values = [0.0; CHUNK];
        for (from, to) in from.chunks(CHUNK * self.bytes()).zip(to.chunks_mut(CHUNK * other.bytes())) {
            let count = from.len() / self.bytes();
            self.decode(from, &mut values[..count]);
            other.encode(&values[..count], to);
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The bytes of `values` in a precision, little-endian and rounded to the nearest.
pub fn encode(values: &[f32], precision: Precision) -> Vec<u8> {
    let mut bytes = vec![0; values.len() * precision.bytes()];
    precision.encode(values, &mut bytes);
    bytes
}

/// The values that little-endian `bytes` hold in a precision.
pub fn decode(bytes: &[u8], precision: Precision) -> Vec<f32> {
    let mut values = vec![0.0; bytes.len() / precision.bytes()];
    precision.decode(bytes, &mut values);
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Precision; 3] = [Precision::F32, Precision::Bf16, Precision::F16];

    fn values() -> Vec<f32> {
        // More than two chunks, the last of them not whole; every value exists in all formats.
        (0..2 * CHUNK + 77).map(|i| (i % 255) as f32 / 16.0 - 8.0).collect()
    }

    #[test]
    fn what_every_format_holds_survives_all_conversions() {
        for from in ALL {
            let stored = encode(&values(), from);
            assert_eq!(decode(&stored, from), values(), "{from}");
            for to in ALL {
                let mut converted = vec![0; values().len() * to.bytes()];
                from.convert(&stored, to, &mut converted);
                assert_eq!(decode(&converted, to), values(), "{from} to {to}");
            }
        }
    }

    #[test]
    fn values_between_two_are_rounded_to_the_nearest_even_one() {
        let fine = [1.0 + 1.0 / 256.0, 1.0 + 3.0 / 256.0, 1.0 + 1.0 / 2048.0, 65520.0, f32::NAN];
        let bf16 = decode(&encode(&fine, Precision::Bf16), Precision::Bf16);
        assert_eq!(bf16[..2], [1.0, 1.0 + 4.0 / 256.0]);
        let f16 = decode(&encode(&fine, Precision::F16), Precision::F16);
        assert_eq!(f16[2..4], [1.0, f32::INFINITY]);
        assert!(bf16[4].is_nan() && f16[4].is_nan());
    }
}
