// SPDX-License-Identifier: MPL-2.0

//! Activations of the CPU backend: candle tensors in f32, and how kernels read and make them.

use candle_core::{CpuStorage, Device, Storage, Tensor};
use parking_lot::RwLockReadGuard;

use crate::backend::HostTensor;
use crate::error::{Error, Result};

/// What the one-pixel border around a map holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Halo {
    /// Zeros, for the decoder's convolutions.
    Zero,
    /// The nearest pixel, for the LQ projection's.
    Replicate,
}

/// What a tensor stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Rows,
    Map(Halo),
    Picture,
}

/// An activation. Maps carry a border of one pixel, `(h + 2, w + 2, c)`, so that a 3x3 convolution reads its patches in
/// place: three neighbouring pixels are one contiguous run of `3 * c` values.
#[derive(Debug, Clone)]
pub struct CpuTensor {
    kind: Kind,
    data: Tensor,
}

/// Read access to a tensor's values.
pub(super) struct Values<'a> {
    storage: RwLockReadGuard<'a, Storage>,
    start: usize,
    len: usize,
}

impl std::ops::Deref for Values<'_> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &*self.storage {
            Storage::Cpu(CpuStorage::F32(values)) => &values[self.start..self.start + self.len],
            _ => unreachable!("checked when the guard was made"),
        }
    }
}

/// The values of a contiguous f32 tensor in host memory.
fn values(tensor: &Tensor) -> Result<Values<'_>> {
    let (storage, layout) = tensor.storage_and_layout();
    let range = match &*storage {
        Storage::Cpu(CpuStorage::F32(_)) => layout.contiguous_offsets(),
        _ => None,
    };
    match range {
        Some((start, end)) => Ok(Values { storage, start, len: end - start }),
        None => Err(Error::Compute(format!("expected contiguous f32 values, found {:?}", tensor.dtype()))),
    }
}

/// Sides of a map without its border.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MapDims {
    pub height: usize,
    pub width: usize,
    pub channels: usize,
}

impl MapDims {
    /// Pixels from one row to the next.
    pub fn pitch(self) -> usize {
        self.width + 2
    }

    /// Values of a map with its border.
    pub fn len(self) -> usize {
        (self.height + 2) * self.pitch() * self.channels
    }

    /// Where the pixel at (row, column) of the map without its border starts.
    pub fn at(self, row: usize, col: usize) -> usize {
        ((row + 1) * self.pitch() + col + 1) * self.channels
    }
}

impl CpuTensor {
    pub(super) fn rows(values: Vec<f32>, cols: usize) -> Result<Self> {
        let data = Tensor::from_vec(values, ((), cols), &Device::Cpu)?;
        Ok(Self { kind: Kind::Rows, data })
    }

    /// A map from values with a border that already holds what `halo` says.
    pub(super) fn map(values: Vec<f32>, dims: MapDims, halo: Halo) -> Result<Self> {
        let data = Tensor::from_vec(values, (dims.height + 2, dims.pitch(), dims.channels), &Device::Cpu)?;
        Ok(Self { kind: Kind::Map(halo), data })
    }

    pub(super) fn picture(values: Vec<f32>, height: usize, width: usize) -> Result<Self> {
        let data = Tensor::from_vec(values, (3, height, width), &Device::Cpu)?;
        Ok(Self { kind: Kind::Picture, data })
    }

    pub(super) fn values(&self) -> Result<Values<'_>> {
        values(&self.data)
    }

    /// Rows and columns.
    pub(super) fn rows_dims(&self) -> Result<(usize, usize)> {
        match self.kind {
            Kind::Rows => Ok(self.data.dims2()?),
            kind => Err(Error::Compute(format!("expected rows, found {kind:?} {:?}", self.data.dims()))),
        }
    }

    /// Sides of a map without its border.
    pub(super) fn map_dims(&self) -> Result<MapDims> {
        match self.kind {
            Kind::Map(_) => {
                let (h, w, channels) = self.data.dims3()?;
                Ok(MapDims { height: h - 2, width: w - 2, channels })
            }
            kind => Err(Error::Compute(format!("expected a map, found {kind:?} {:?}", self.data.dims()))),
        }
    }

    /// Height and width of a picture.
    pub(super) fn picture_dims(&self) -> Result<(usize, usize)> {
        match self.kind {
            Kind::Picture => {
                let (_, h, w) = self.data.dims3()?;
                Ok((h, w))
            }
            kind => Err(Error::Compute(format!("expected a picture, found {kind:?} {:?}", self.data.dims()))),
        }
    }

    pub(super) fn is_map(&self) -> bool {
        matches!(self.kind, Kind::Map(_))
    }

    /// The map with the border that an operation needs; a copy only if it has the other one.
    pub(super) fn with_halo(&self, halo: Halo) -> Result<Self> {
        if self.kind == Kind::Map(halo) {
            return Ok(self.clone());
        }
        let dims = self.map_dims()?;
        let mut out = self.values()?.to_vec();
        fill_halo(&mut out, dims, halo);
        Self::map(out, dims, halo)
    }

    /// Values on the host, without border.
    pub(super) fn to_host(&self) -> Result<HostTensor> {
        match self.kind {
            Kind::Map(_) => {
                let dims = self.map_dims()?;
                Ok(self.data.narrow(0, 1, dims.height)?.narrow(1, 1, dims.width)?.contiguous()?)
            }
            Kind::Rows | Kind::Picture => Ok(self.data.clone()),
        }
    }
}

/// Writes the border of a map.
pub(super) fn fill_halo(map: &mut [f32], dims: MapDims, halo: Halo) {
    let MapDims { height, width, channels } = dims;
    let row = dims.pitch() * channels;
    for y in 1..=height {
        let line = &mut map[y * row..(y + 1) * row];
        match halo {
            Halo::Zero => {
                line[..channels].fill(0.0);
                line[row - channels..].fill(0.0);
            }
            Halo::Replicate => {
                line.copy_within(channels..2 * channels, 0);
                line.copy_within(width * channels..(width + 1) * channels, row - channels);
            }
        }
    }
    match halo {
        Halo::Zero => {
            map[..row].fill(0.0);
            map[(height + 1) * row..].fill(0.0);
        }
        Halo::Replicate => {
            map.copy_within(row..2 * row, 0);
            map.copy_within(height * row..(height + 1) * row, (height + 1) * row);
        }
    }
}
