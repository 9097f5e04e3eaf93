// SPDX-License-Identifier: MPL-2.0

//! Norms of rows: `kernels/norms.cu`.

use super::driver::{Address, Args, Driver, kernels};
use super::tensor::{CudaTensor, Shape};
use super::{CudaBackend, Kernels, Weight, index};
use crate::error::Result;

const THREADS: u32 = 128;
/// Each warp takes one row.
const ROWS_PER_BLOCK: usize = THREADS as usize / 32;

const LAYER_NORM: Kernels = kernels!("norms", "layer_norm", THREADS, [0; 3]);
const RMS_NORM: Kernels = kernels!("norms", "rms_norm", THREADS, [0; 3]);
const RMS_NORM_SILU: Kernels = kernels!("norms", "rms_norm_silu", THREADS, [0; 3]);

/// `NormArgs` of norms.cu.
#[derive(Clone, Copy, PartialEq)]
#[repr(C)]
struct NormArgs {
    x: Address,
    out: Address,
    scale: Address,
    shift: Address,
    rows: u32,
    cols: u32,
}

// SAFETY: laid out as the kernels' struct.
unsafe impl Args for NormArgs {}

impl<D: Driver> CudaBackend<D> {
    fn run_norm(
        &self,
        kernels: &Kernels,
        x: &CudaTensor,
        scale: &Weight,
        shift: Option<&Weight>,
    ) -> Result<CudaTensor> {
        let (rows, cols) = x.matrix_dims()?;
        let out = self.tensor(x.shape, self.precision)?;
        let args = NormArgs {
            x: x.address(),
            out: out.address(),
            scale: scale.address(),
            shift: shift.map_or(0, Weight::address),
            rows: index(rows)?,
            cols: index(cols)?,
        };
        self.launch(kernels, [rows.div_ceil(ROWS_PER_BLOCK), 1, 1], &args)?;
        Ok(out)
    }

    pub(super) fn run_layer_norm(&self, x: &CudaTensor, scale: &Weight, shift: &Weight) -> Result<CudaTensor> {
        self.run_norm(&LAYER_NORM, x, scale, Some(shift))
    }

    pub(super) fn run_rms_norm(&self, x: &CudaTensor, gamma: &Weight) -> Result<CudaTensor> {
        self.run_norm(&RMS_NORM, x, gamma, None)
    }

    pub(super) fn run_rms_norm_silu(&self, map: &CudaTensor, gamma: &Weight) -> Result<CudaTensor> {
        let (height, width, channels) = map.map_dims()?;
        let map = CudaTensor { shape: Shape::Map(height, width, channels), ..map.clone() };
        self.run_norm(&RMS_NORM_SILU, &map, gamma, None)
    }
}
