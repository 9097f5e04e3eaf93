// SPDX-License-Identifier: MPL-2.0

//! Weights of the products under linear layers and convolutions, and their tiles: `kernels/matmul.cuh` and, for Hopper,
//! `kernels/hopper_matmul.cuh`.

use rayon::prelude::*;

use super::driver::Driver;
use super::{CudaBackend, Precision, Weight, index};
use crate::error::{Error, Result};

pub(super) const THREADS: u32 = 256;
/// Of Hopper's kernels.
pub(super) const HOPPER_THREADS: u32 = 384;

/// Values of a row of one of Hopper's tiles, and the swizzled pieces of which it consists.
const HOPPER_STEP: usize = 64;
const PIECE: usize = 8;

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
    /// 128x256, on Hopper.
    HopperWide,
    /// 256x128, on Hopper.
    HopperTall,
}

impl Tile {
    /// Bytes of shared memory: the stages, of 64 bytes for each row and column.
    pub(super) const WIDE_SHARED: [u32; 3] = [3 * (128 + 128) * 64; 3];
    pub(super) const MIDDLE_SHARED: [u32; 3] = [4 * (128 + 64) * 64; 3];
    pub(super) const NARROW_SHARED: [u32; 3] = [3 * (256 + 16) * 64; 3];
    /// Of Hopper's tiles; there are none for f32.
    pub(super) const HOPPER_WIDE_SHARED: [u32; 3] = [Self::hopper_shared(128, 256); 3];
    pub(super) const HOPPER_TALL_SHARED: [u32; 3] = [Self::hopper_shared(256, 128); 3];

    /// The four stages, of 128 bytes for each row and column, their eight barriers, and two values of each column for each
    /// of two warpgroups, up to a multiple of the stages' alignment.
    const fn hopper_shared(rows: u32, columns: u32) -> u32 {
        (4 * (rows + columns) * 128 + 8 * 8 + 2 * 2 * 4 * columns).next_multiple_of(1024)
    }

    /// The tile for `columns` of which `outputs` belong to a map, on Hopper if it is `on_warpgroups`.
    fn new(inputs: usize, columns: usize, outputs: usize, precision: Precision, on_warpgroups: bool) -> Self {
        // Hopper's kernels store eight columns at once.
        let hopper = on_warpgroups && outputs.is_multiple_of(8);
        if !(inputs * precision.bytes()).is_multiple_of(16) {
            Tile::Odd
        } else if hopper && columns > 64 {
            // Tall tiles read more shared memory for the same sums; they pay where wide ones would compute many columns
            // that are not there.
            let columns = columns.next_multiple_of(128);
            if columns.is_multiple_of(256) || columns > 896 { Tile::HopperWide } else { Tile::HopperTall }
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
            Tile::HopperWide => (128, 256),
            Tile::HopperTall => (256, 128),
        }
    }

    fn is_hopper(self) -> bool {
        matches!(self, Tile::HopperWide | Tile::HopperTall)
    }

    /// Values of k in a stage.
    fn step(self, precision: Precision) -> usize {
        /// Bytes of a step.
        const STEP: usize = 64;
        if self.is_hopper() { HOPPER_STEP } else { STEP / precision.bytes() }
    }
}

/// Weights as kernels read them, filled up with zeros to whole tiles and steps: `[column][segment][input]`; for Hopper
/// `[tile][segment][step][column][input]` with the pieces of a step's row swizzled.
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

impl<D: Driver> CudaBackend<D> {
    /// The grid of a product of so many rows and layers. Hopper's blocks stay and take one tile after the other.
    pub(super) fn product_grid(&self, packed: &Packed, rows: usize, layers: usize) -> [usize; 3] {
        let (height, width) = packed.tile.sides();
        let tiles = rows.div_ceil(height) * packed.columns.div_ceil(width);
        if packed.tile.is_hopper() { [(tiles * layers).min(self.multiprocessors), 1, 1] } else { [tiles, 1, layers] }
    }

    /// Packs `layers` weights one after the other, with the same bias, for `maps` that come out of each. `fill` writes the
    /// inputs of a layer, column and segment.
    pub(super) fn pack(
        &self,
        [layers, maps, outputs, segments, inputs]: [usize; 5],
        bias: Option<Vec<f32>>,
        fill: impl Fn([usize; 3], &mut [f32]) + Sync,
    ) -> Result<Packed> {
        self.pack_for(self.on_warpgroups(), [layers, maps, outputs, segments, inputs], bias, fill)
    }

    /// The same for Hopper's kernels or for those of every generation.
    pub(super) fn pack_for(
        &self,
        on_warpgroups: bool,
        [layers, maps, outputs, segments, inputs]: [usize; 5],
        bias: Option<Vec<f32>>,
        fill: impl Fn([usize; 3], &mut [f32]) + Sync,
    ) -> Result<Packed> {
        let columns = maps * outputs;
        let bias = bias.unwrap_or_else(|| vec![0.0; columns]);
        if bias.len() != columns || [layers, columns, segments, inputs].contains(&0) {
            return Err(Error::Compute(format!(
                "no layer of {segments} x {inputs} inputs, {columns} outputs and {} offsets",
                bias.len()
            )));
        }
        let tile = Tile::new(inputs, columns, outputs, self.precision, on_warpgroups);
        let channels = inputs.next_multiple_of(tile.step(self.precision));
        let (_, width) = tile.sides();
        let padded = columns.next_multiple_of(width);
        let depth = segments * channels;
        let mut packed = vec![0.0f32; layers * padded * depth];
        packed.par_chunks_exact_mut(width * depth).enumerate().for_each(|(number, values)| {
            let (layer, first) = (number * width / padded, number * width % padded);
            let mut row = vec![0.0; if tile.is_hopper() { channels } else { 0 }];
            for column in 0..width.min(columns - first) {
                for segment in 0..segments {
                    let index = [layer, first + column, segment];
                    if tile.is_hopper() {
                        fill(index, &mut row[..inputs]);
                        swizzle(&row, &mut values[segment * channels * width..], width, column);
                    } else {
                        fill(index, &mut values[column * depth + segment * channels..][..inputs]);
                    }
                }
            }
        });
        Ok(Packed {
            weights: self.weight(&packed, self.precision)?,
            bias: self.weight(&bias, Precision::F32)?,
            tile,
            depth: index(depth)?,
            columns,
            inputs,
        })
    }
}

/// Writes a column of a segment into Hopper's tiles of `width` columns, one for each step: piece p of a tile's row r lies at
/// p ^ r % 8 (`kernels/hopper.cuh`).
fn swizzle(column: &[f32], tiles: &mut [f32], width: usize, number: usize) {
    for (piece, values) in column.chunks_exact(PIECE).enumerate() {
        let (step, piece) = (piece * PIECE / HOPPER_STEP, piece % (HOPPER_STEP / PIECE));
        let at = (step * width + number) * HOPPER_STEP + (piece ^ (number % 8)) * PIECE;
        tiles[at..at + PIECE].copy_from_slice(values);
    }
}
