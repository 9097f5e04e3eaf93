// SPDX-License-Identifier: MPL-2.0

//! Patches and noise: `kernels/tokens.cu`.

use super::driver::Driver;
use super::{CudaBackend, CudaLinear, CudaTensor};
use crate::backend::Grid;
use crate::error::{Error, Result};

impl<D: Driver> CudaBackend<D> {
    pub(super) fn run_noise(&self, _seed: u64, _window: u64, _grid: Grid) -> Result<Vec<CudaTensor>> {
        let _ = self.precision;
        Err(Error::Compute("to be written".into()))
    }

    pub(super) fn run_embed_patches(
        &self,
        _latents: &[CudaTensor],
        _layer: &CudaLinear,
        _lq: &[CudaTensor],
        _grid: Grid,
    ) -> Result<CudaTensor> {
        let _ = self.precision;
        Err(Error::Compute("to be written".into()))
    }

    pub(super) fn run_denoise(
        &self,
        _noise: &[CudaTensor],
        _head: &CudaTensor,
        _grid: Grid,
    ) -> Result<Vec<CudaTensor>> {
        let _ = self.precision;
        Err(Error::Compute("to be written".into()))
    }
}
