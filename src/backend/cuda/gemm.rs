// SPDX-License-Identifier: MPL-2.0

//! Weights of the GEMMs under linear layers and convolutions, and their tiles: `kernels/gemm_mma.cuh` and, for Hopper,
//! `kernels/gemm_wgmma.cuh`.

use super::driver::Driver;
use super::{CudaBackend, Precision, Weight};

/// Threads of a block of the kernels for every generation.
pub(super) const THREADS: u32 = 256;
/// Threads of a block of Hopper's kernels.
pub(super) const HOPPER_THREADS: u32 = 384;

/// Values of k in one of Hopper's k tiles, and values of a 16-byte vector, by which they are swizzled.
pub(super) const HOPPER_BLOCK_K: usize = 64;
pub(super) const VEC16: usize = 8;

/// The kinds of tiles, rows by columns; each operation has a kernel for each, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tile {
    T128x128,
    T128x64,
    T256x16,
    /// The tile for rows whose bytes are not a multiple of 16.
    T128x64Unaligned,
    /// A tile for Hopper, with `wgmma`.
    T128x256,
    /// A tile for Hopper, with `wgmma`.
    T256x128,
}

impl Tile {
    /// Bytes of shared memory: the stages, of 64 bytes for each row and column.
    pub(super) const T128X128_SHARED: [u32; 3] = [3 * (128 + 128) * 64; 3];
    pub(super) const T128X64_SHARED: [u32; 3] = [4 * (128 + 64) * 64; 3];
    pub(super) const T256X16_SHARED: [u32; 3] = [3 * (256 + 16) * 64; 3];
    /// Bytes of shared memory of Hopper's tiles; there are none for f32.
    pub(super) const T128X256_SHARED: [u32; 3] = [Self::hopper_shared(128, 256); 3];
    pub(super) const T256X128_SHARED: [u32; 3] = [Self::hopper_shared(256, 128); 3];

    /// The four stages, of 128 bytes for each row and column, their eight barriers, and bias and scale of each column for
    /// each of two warpgroups, up to a multiple of the stages' alignment.
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
            Tile::T128x64Unaligned
        } else if hopper && columns > 64 {
            // 256x128 reads more shared memory for the same accumulators; it pays where 128x256 would compute many
            // columns of padding.
            let columns = columns.next_multiple_of(128);
            if columns.is_multiple_of(256) || columns > 896 { Tile::T128x256 } else { Tile::T256x128 }
        } else if columns <= 16 {
            Tile::T256x16
        } else if columns <= 64 {
            Tile::T128x64
        } else {
            Tile::T128x128
        }
    }

    pub(super) fn sides(self) -> (usize, usize) {
        match self {
            Tile::T128x128 => (128, 128),
            Tile::T128x64 | Tile::T128x64Unaligned => (128, 64),
            Tile::T256x16 => (256, 16),
            Tile::T128x256 => (128, 256),
            Tile::T256x128 => (256, 128),
        }
    }

    pub(super) fn is_hopper(self) -> bool {
        matches!(self, Tile::T128x256 | Tile::T256x128)
    }

    /// Values of k in a stage: a k tile.
    pub(super) fn block_k(self, precision: Precision) -> usize {
        /// Bytes of a k tile.
        const K_TILE_BYTES: usize = 64;
        if self.is_hopper() { HOPPER_BLOCK_K } else { K_TILE_BYTES / precision.bytes() }
    }
}

/// Weights as kernels read them, padded with zeros to whole tiles and k tiles: `[column][tap][input]`; for Hopper
/// `[tile][tap][k tile][column][input]` with the vectors of a k tile's row swizzled.
pub(super) struct Packed {
    pub weights: Weight,
    /// The bias, one value per column.
    pub bias: Weight,
    pub tile: Tile,
    /// Values of a column.
    pub depth: u32,
    pub columns: usize,
    pub inputs: usize,
}

impl<D: Driver> CudaBackend<D> {
    /// The grid of a GEMM of `rows` rows and `batches` batches. Hopper's is persistent: a block takes one tile after the other.
    pub(super) fn gemm_grid(&self, packed: &Packed, rows: usize, batches: usize) -> [usize; 3] {
        let (height, width) = packed.tile.sides();
        let tiles = rows.div_ceil(height) * packed.columns.div_ceil(width);
        if packed.tile.is_hopper() { [(tiles * batches).min(self.sm_count), 1, 1] } else { [tiles, 1, batches] }
    }
}
