// SPDX-License-Identifier: MPL-2.0

//! Weights of the products under linear layers and convolutions, and their tiles: `kernels/matmul.cuh` and, for Hopper,
//! `kernels/hopper_matmul.cuh`.

use super::driver::Driver;
use super::{CudaBackend, Precision, Weight};

pub(super) const THREADS: u32 = 256;
/// Of Hopper's kernels.
pub(super) const HOPPER_THREADS: u32 = 384;

/// Values of a row of one of Hopper's tiles, and the swizzled pieces of which it consists.
pub(super) const HOPPER_STEP: usize = 64;
pub(super) const PIECE: usize = 8;

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
    pub(super) fn new(
        inputs: usize,
        columns: usize,
        outputs: usize,
        precision: Precision,
        on_warpgroups: bool,
    ) -> Self {
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

    pub(super) fn sides(self) -> (usize, usize) {
        match self {
            Tile::Wide => (128, 128),
            Tile::Middle | Tile::Odd => (128, 64),
            Tile::Narrow => (256, 16),
            Tile::HopperWide => (128, 256),
            Tile::HopperTall => (256, 128),
        }
    }

    pub(super) fn is_hopper(self) -> bool {
        matches!(self, Tile::HopperWide | Tile::HopperTall)
    }

    /// Values of k in a stage.
    pub(super) fn step(self, precision: Precision) -> usize {
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
}
