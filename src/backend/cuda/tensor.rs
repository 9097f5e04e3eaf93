// SPDX-License-Identifier: MPL-2.0

//! Activations and weights in device memory.

use std::sync::Arc;

use super::Precision;
use super::arena::Allocation;
use super::driver::{Address, Memory};
use crate::backend::{HEAD_DIM, WINDOW_TOKENS};
use crate::error::{Error, Result};

/// What a tensor stands for, and its sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// `[rows, cols]`.
    Matrix(usize, usize),
    /// `[rows, cols]`: queries, keys or values of whole windows and heads, stored as `kernels/qkv_layout.cuh` describes.
    TiledQkv(usize, usize),
    /// `(height, width, channels)`, channels innermost, without border.
    Map(usize, usize, usize),
    /// `(3, height, width)`.
    Picture(usize, usize),
}

impl Shape {
    /// Values in all.
    pub fn len(self) -> usize {
        match self {
            Shape::Matrix(rows, cols) | Shape::TiledQkv(rows, cols) => rows * cols,
            Shape::Map(height, width, channels) => height * width * channels,
            Shape::Picture(height, width) => 3 * height * width,
        }
    }

    /// The sides as a list.
    pub fn dims(self) -> Vec<usize> {
        match self {
            Shape::Matrix(rows, cols) | Shape::TiledQkv(rows, cols) => vec![rows, cols],
            Shape::Map(height, width, channels) => vec![height, width, channels],
            Shape::Picture(height, width) => vec![3, height, width],
        }
    }
}

/// An activation. Maps, matrices, queries, keys and values are stored in the engine's precision; pictures, and the mean
/// queries and keys of windows, in f32.
#[derive(Clone)]
pub struct CudaTensor {
    pub(super) memory: Arc<Allocation>,
    pub(super) shape: Shape,
    pub(super) precision: Precision,
}

impl CudaTensor {
    pub(super) fn address(&self) -> Address {
        self.memory.address()
    }

    fn refuse<T>(&self, expected: &str) -> Result<T> {
        Err(Error::Compute(format!("expected {expected}, found {:?} in {}", self.shape, self.precision)))
    }

    /// Rows and columns of a matrix, or positions and channels of a map.
    pub(super) fn matrix_dims(&self) -> Result<(usize, usize)> {
        match self.shape {
            Shape::Matrix(rows, cols) => Ok((rows, cols)),
            Shape::Map(height, width, channels) => Ok((height * width, channels)),
            Shape::TiledQkv(..) | Shape::Picture(..) => self.refuse("a matrix"),
        }
    }

    /// Rows and columns of queries, keys or values.
    pub(super) fn tiled_qkv_dims(&self) -> Result<(usize, usize)> {
        match self.shape {
            Shape::TiledQkv(rows, cols) => Ok((rows, cols)),
            _ => self.refuse("queries, keys or values"),
        }
    }

    /// Height, width and channels of a map.
    pub(super) fn map_dims(&self) -> Result<(usize, usize, usize)> {
        match self.shape {
            Shape::Map(height, width, channels) => Ok((height, width, channels)),
            _ => self.refuse("a map"),
        }
    }

    /// Height and width of a picture.
    pub(super) fn picture_dims(&self) -> Result<(usize, usize)> {
        match self.shape {
            Shape::Picture(height, width) => Ok((height, width)),
            _ => self.refuse("a picture"),
        }
    }
}

/// The addresses of at most N tensors, as kernels take them; 0 where there are no more.
pub(super) fn addresses<'a, const N: usize>(tensors: impl IntoIterator<Item = &'a CudaTensor>) -> [Address; N] {
    let mut all = [0; N];
    all.iter_mut().zip(tensors).for_each(|(address, tensor)| *address = tensor.address());
    all
}

/// Offsets of the values of tiled queries, keys or values, row by row: see `kernels/qkv_layout.cuh`.
pub(super) fn tiled_offsets(rows: usize, cols: usize, precision: Precision) -> impl Iterator<Item = usize> {
    const HALF: usize = 64;
    let in_tiles = move |row: usize, col: usize| {
        let tile = row / WINDOW_TOKENS * (cols / HEAD_DIM) + col / HEAD_DIM;
        let half = tile * (HEAD_DIM / HALF) + col % HEAD_DIM / HALF;
        let vec = (col % HALF / 8) ^ (row % 8);
        (half * WINDOW_TOKENS + row % WINDOW_TOKENS) * HALF + vec * 8 + col % 8
    };
    let offset = move |row, col| match precision {
        Precision::F32 => row * cols + col,
        Precision::Bf16 | Precision::F16 => in_tiles(row, col),
    };
    (0..rows).flat_map(move |row| (0..cols).map(move |col| offset(row, col)))
}

/// Device memory that holds a weight.
pub struct Weight {
    address: Address,
    bytes: usize,
    memory: Arc<dyn Memory>,
}

impl Weight {
    pub(super) fn new(memory: Arc<dyn Memory>, bytes: usize) -> Result<Self> {
        let bytes = bytes.max(1);
        Ok(Self { address: memory.allocate(bytes)?, bytes, memory })
    }

    pub(super) fn address(&self) -> Address {
        self.address
    }
}

impl Drop for Weight {
    fn drop(&mut self) {
        self.memory.free(self.address, self.bytes);
    }
}
