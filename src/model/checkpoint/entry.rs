// SPDX-License-Identifier: MPL-2.0

//! Where a tensor lies in its file.

use std::ops::Range;

use crate::backend::Precision;

/// Type of a tensor's elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DType {
    /// One that a weight may have.
    Weight(Precision),
    /// Any other, by its name.
    Other(&'static str),
}

impl DType {
    pub const F32: Self = Self::Weight(Precision::F32);
    pub const F16: Self = Self::Weight(Precision::F16);
    pub const BF16: Self = Self::Weight(Precision::Bf16);

    /// Its name, as Rust and safetensors have it, in small letters.
    pub fn name(self) -> &'static str {
        match self {
            Self::Weight(precision) => precision.name(),
            Self::Other(name) => name,
        }
    }

    /// The number format, if it is one that a weight may have.
    pub fn precision(self) -> Option<Precision> {
        match self {
            Self::Weight(precision) => Some(precision),
            Self::Other(_) => None,
        }
    }
}

/// A tensor of a file. Whoever makes one has checked that all of it lies in the file.
#[derive(Debug)]
pub(super) struct Entry {
    pub dtype: DType,
    pub shape: Vec<usize>,
    /// In elements; `None` if they are contiguous.
    pub strides: Option<Vec<usize>>,
    /// From the first to the last element, in bytes of the file; empty for [`DType::Other`].
    pub bytes: Range<u64>,
}

impl Entry {
    /// The number of elements.
    pub fn count(&self) -> usize {
        self.shape.iter().product()
    }
}
