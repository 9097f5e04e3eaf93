// SPDX-License-Identifier: MPL-2.0

//! Weights on their way to the device, in the order in which kernels read them. A layer goes in tiles: each is read, converted,
//! put in order and uploaded by one thread, so that the host never holds more than the tiles that are in flight.

use std::ops::Range;

use rayon::prelude::*;

use super::driver::{Driver, Queue};
use super::gemm::{HOPPER_BLOCK_K, Packed, Tile, VEC16};
use super::{CudaBackend, Precision, Weight, index};
use crate::backend::Parameter;
use crate::error::{Error, Result};

/// Bytes of the columns that are read at a time.
const BATCH_BYTES: usize = 1 << 20;
/// Bytes of the tiles of one layer that may be in flight.
const TILES_BYTES: usize = 256 << 20;

/// The sizes of a layer's weights.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sizes {
    /// Matrices of weights with the same bias: the phases of an upsampling.
    pub matrices: usize,
    /// Output maps of each matrix: the time steps of an upsampling.
    pub maps: usize,
    /// Channels of an output map.
    pub outputs: usize,
    /// Taps of a convolution, over all maps that go in; 1 for a linear layer.
    pub taps: usize,
    /// Channels of an input map.
    pub inputs: usize,
}

/// Memory of the host for packing one tile.
#[derive(Default)]
pub(super) struct Scratch {
    tile: Vec<u8>,
    columns: Vec<u8>,
    /// A buffer for `fetch`: columns as the checkpoint stores them.
    pub stored: Vec<u8>,
    /// A buffer for `fetch`: converted columns.
    pub values: Vec<u8>,
}

/// The order in which the rows of a parameter, one per output, become columns `[tap][input]`: value
/// `(map * inputs + input) * kernel_taps + tap` belongs to tap `map * kernel_taps + tap`.
#[derive(Clone, Copy)]
pub(super) struct Taps<'p, 'a> {
    pub weight: &'p Parameter<'a>,
    pub inputs: usize,
    pub kernel_taps: usize,
}

impl Taps<'_, '_> {
    /// Writes some columns in `precision`.
    fn fetch(&self, columns: Range<usize>, precision: Precision, to: &mut [u8], scratch: &mut Scratch) -> Result<()> {
        let from = self.weight.precision();
        let Scratch { stored, values, .. } = scratch;
        stored.resize(to.len() / precision.bytes() * from.bytes(), 0);
        self.weight.read_rows(columns, stored)?;
        if self.kernel_taps == 1 {
            from.convert(stored, precision, to);
            return Ok(());
        }
        values.resize(to.len(), 0);
        from.convert(stored, precision, values);
        match precision.bytes() {
            2 => transpose(values.as_chunks::<2>().0, to.as_chunks_mut().0, self.inputs, self.kernel_taps),
            _ => transpose(values.as_chunks::<4>().0, to.as_chunks_mut().0, self.inputs, self.kernel_taps),
        }
        Ok(())
    }
}

/// Turns matrices `[inputs][taps]` into `[taps][inputs]`.
fn transpose<T: Copy>(from: &[T], to: &mut [T], inputs: usize, taps: usize) {
    for (from, to) in from.chunks_exact(inputs * taps).zip(to.chunks_exact_mut(inputs * taps)) {
        for (tap, to) in to.chunks_exact_mut(inputs).enumerate() {
            to.iter_mut().zip(from[tap..].iter().step_by(taps)).for_each(|(to, from)| *to = *from);
        }
    }
}

impl<D: Driver> CudaBackend<D> {
    /// Packs a parameter of which each row holds an output.
    pub(super) fn pack(&self, sizes: Sizes, bias: Option<Vec<f32>>, taps: Taps<'_, '_>) -> Result<Packed> {
        self.pack_for(self.on_warpgroups(), sizes, bias, taps)
    }

    /// Packs such a parameter for Hopper's kernels or for those of every generation.
    pub(super) fn pack_for(
        &self,
        on_warpgroups: bool,
        sizes: Sizes,
        bias: Option<Vec<f32>>,
        taps: Taps<'_, '_>,
    ) -> Result<Packed> {
        let columns = sizes.maps * sizes.outputs;
        let expected = columns * sizes.taps * sizes.inputs;
        if taps.weight.count() != expected || taps.weight.shape().first() != Some(&columns) {
            return Err(Error::Compute(format!("weights of {:?} for {sizes:?}", taps.weight.shape())));
        }
        self.pack_columns(on_warpgroups, sizes, bias, |_, columns, to, scratch| {
            taps.fetch(columns, self.precision, to, scratch)
        })
    }

    /// Packs what `fetch` writes: some columns of a matrix, each `[tap][input]` in the backend's precision.
    pub(super) fn pack_columns(
        &self,
        on_warpgroups: bool,
        sizes: Sizes,
        bias: Option<Vec<f32>>,
        fetch: impl Fn(usize, Range<usize>, &mut [u8], &mut Scratch) -> Result<()> + Sync,
    ) -> Result<Packed> {
        let Sizes { matrices, maps, outputs, taps, inputs } = sizes;
        let columns = maps * outputs;
        let bias = bias.unwrap_or_else(|| vec![0.0; columns]);
        if bias.len() != columns || [matrices, columns, taps, inputs].contains(&0) {
            return Err(Error::Compute(format!(
                "no layer of {taps} x {inputs} inputs, {columns} outputs and a bias of {}",
                bias.len()
            )));
        }
        let tile = Tile::new(inputs, columns, outputs, self.precision, on_warpgroups);
        let channels = inputs.next_multiple_of(tile.block_k(self.precision));
        let (_, width) = tile.sides();
        let padded = columns.next_multiple_of(width);
        let depth = taps * channels;
        let tile_bytes = width * depth * self.precision.bytes();
        let tiles = matrices * padded / width;
        let weights = Weight::new(self.memory.clone(), tiles * tile_bytes)?;
        let order = Order { tile, width, taps, inputs, channels, bytes: self.precision.bytes() };
        let pack = |number: usize| {
            let (matrix, first) = (number * width / padded, number * width % padded);
            let mut scratch = self.scratch.lock().pop().unwrap_or_default();
            let mut packed = std::mem::take(&mut scratch.tile);
            packed.clear();
            packed.resize(tile_bytes, 0);
            let batch = (BATCH_BYTES / order.column_bytes()).clamp(1, width);
            let last = columns.min(first + width);
            for start in (first..last).step_by(batch) {
                let some = start..last.min(start + batch);
                let mut fetched = std::mem::take(&mut scratch.columns);
                fetched.resize(some.len() * order.column_bytes(), 0);
                fetch(matrix, some, &mut fetched, &mut scratch)?;
                for (column, values) in fetched.chunks_exact(order.column_bytes()).enumerate() {
                    order.put(values, start - first + column, &mut packed);
                }
                scratch.columns = fetched;
            }
            self.queue.upload(weights.address() + (number * tile_bytes) as u64, &packed)?;
            scratch.tile = packed;
            self.scratch.lock().push(scratch);
            Ok::<_, Error>(())
        };
        let parallel = (TILES_BYTES / tile_bytes.max(1)).max(1);
        for first in (0..tiles).step_by(parallel) {
            (first..tiles.min(first + parallel)).into_par_iter().try_for_each(pack)?;
        }
        let bias = self.weight(&bias, Precision::F32)?;
        Ok(Packed { weights, bias, tile, depth: index(depth)?, columns, inputs })
    }
}

/// The order of a column's values in its tile.
struct Order {
    tile: Tile,
    width: usize,
    taps: usize,
    inputs: usize,
    /// Inputs, padded with zeros to whole k tiles.
    channels: usize,
    /// Bytes of a value.
    bytes: usize,
}

impl Order {
    /// Bytes of a column `[tap][input]`.
    fn column_bytes(&self) -> usize {
        self.taps * self.inputs * self.bytes
    }

    /// Puts a column `[tap][input]` into its tile: `[column][tap][channel]`, or on Hopper
    /// `[tap][k tile][column][channel]` with the vectors of each k tile's row swizzled.
    fn put(&self, values: &[u8], column: usize, tile: &mut [u8]) {
        for (tap, values) in values.chunks_exact(self.inputs * self.bytes).enumerate() {
            if self.tile.is_hopper() {
                swizzle(values, &mut tile[tap * self.channels * self.width * self.bytes..], self.width, column);
            } else {
                let at = (column * self.taps + tap) * self.channels * self.bytes;
                tile[at..at + values.len()].copy_from_slice(values);
            }
        }
    }
}

/// Writes a column of a tap, 16-bit values, into Hopper's tiles of `width` columns, one for each k tile: vector p of a
/// tile's row r lies at p ^ r % 8 (`kernels/hopper.cuh`).
fn swizzle(column: &[u8], tiles: &mut [u8], width: usize, number: usize) {
    const VEC16_BYTES: usize = 2 * VEC16;
    for (vec, values) in column.chunks_exact(VEC16_BYTES).enumerate() {
        let (k_tile, vec) = (vec * VEC16 / HOPPER_BLOCK_K, vec % (HOPPER_BLOCK_K / VEC16));
        let at = 2 * (k_tile * width + number) * HOPPER_BLOCK_K + (vec ^ (number % 8)) * VEC16_BYTES;
        tiles[at..at + VEC16_BYTES].copy_from_slice(values);
    }
}
