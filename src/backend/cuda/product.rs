// SPDX-License-Identifier: MPL-2.0

//! Weights of the products under linear layers and convolutions, and their tiles: `kernels/matmul.cuh`.

use rayon::prelude::*;

use super::driver::Driver;
use super::{CudaBackend, Precision, Weight, index};
use crate::error::{Error, Result};

pub(super) const THREADS: u32 = 256;

/// The kinds of tiles; each product has a kernel for each, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tile {
    /// 128x128.
    Wide,
    /// 128x64.
    Middle,
    /// 256x16.
    Narrow,
    /// 128x64, for rows whose bytes are not a multiple of 16.
    Odd,
}

impl Tile {
    /// Bytes of shared memory: the stages, of 64 bytes for each row and column.
    pub(super) const WIDE_SHARED: [u32; 3] = [3 * (128 + 128) * 64; 3];
    pub(super) const MIDDLE_SHARED: [u32; 3] = [4 * (128 + 64) * 64; 3];
    pub(super) const NARROW_SHARED: [u32; 3] = [3 * (256 + 16) * 64; 3];

    fn new(inputs: usize, columns: usize, precision: Precision) -> Self {
        if !(inputs * precision.bytes()).is_multiple_of(16) {
            Tile::Odd
        } else if columns <= 16 {
            Tile::Narrow
        } else if columns <= 64 {
            Tile::Middle
        } else {
            Tile::Wide
        }
    }

    fn sides(self) -> (usize, usize) {
        match self {
            Tile::Wide => (128, 128),
            Tile::Middle | Tile::Odd => (128, 64),
            Tile::Narrow => (256, 16),
        }
    }
}

/// Weights as kernels read them: `[column][segment][input]`, filled up with zeros to whole tiles and steps.
pub(super) struct Packed {
    pub weights: Weight,
    /// One per column.
    pub bias: Weight,
    pub tile: Tile,
    /// Values of a column.
    pub depth: u32,
    pub columns: usize,
    pub inputs: usize,
}

impl Packed {
    /// Blocks for a product of so many rows.
    pub fn blocks(&self, rows: usize) -> usize {
        let (height, width) = self.tile.sides();
        rows.div_ceil(height) * self.columns.div_ceil(width)
    }
}

impl<D: Driver> CudaBackend<D> {
    /// Packs `layers` weights one after the other, with the same bias. `fill` writes the inputs of a layer, column and
    /// segment.
    pub(super) fn pack(
        &self,
        [layers, columns, segments, inputs]: [usize; 4],
        bias: Option<Vec<f32>>,
        fill: impl Fn([usize; 3], &mut [f32]) + Sync,
    ) -> Result<Packed> {
        /// Bytes of a step.
        const STEP: usize = 64;
        let bias = bias.unwrap_or_else(|| vec![0.0; columns]);
        if bias.len() != columns || [layers, columns, segments, inputs].contains(&0) {
            return Err(Error::Compute(format!(
                "no layer of {segments} x {inputs} inputs, {columns} outputs and {} offsets",
                bias.len()
            )));
        }
        let tile = Tile::new(inputs, columns, self.precision);
        let channels = inputs.next_multiple_of(STEP / self.precision.bytes());
        let padded = columns.next_multiple_of(tile.sides().1);
        let mut packed = vec![0.0f32; layers * padded * segments * channels];
        packed.par_chunks_exact_mut(segments * channels).enumerate().for_each(|(row, values)| {
            let (layer, column) = (row / padded, row % padded);
            if column < columns {
                for (segment, values) in values.chunks_exact_mut(channels).enumerate() {
                    fill([layer, column, segment], &mut values[..inputs]);
                }
            }
        });
        Ok(Packed {
            weights: self.weight(&packed, self.precision)?,
            bias: self.weight(&bias, Precision::F32)?,
            tile,
            depth: index(segments * channels)?,
            columns,
            inputs,
        })
    }
}
