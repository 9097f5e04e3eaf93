// SPDX-License-Identifier: MPL-2.0

//! Pictures: `kernels/picture.cu`.

use super::driver::Driver;
use super::{CudaBackend, CudaTensor};
use crate::backend::{Frame, FrameMut, Geometry, Rounding};
use crate::error::{Error, Result};

/// What is needed to resize frames under one geometry.
pub struct CudaIngest {}

impl<D: Driver> CudaBackend<D> {
    pub(super) fn ingest_tables(&self, _geometry: Geometry) -> Result<CudaIngest> {
        let _ = self.precision;
        Err(Error::Compute("to be written".into()))
    }

    pub(super) fn run_ingest(&self, _frame: &Frame<'_>, _ingest: &CudaIngest) -> Result<CudaTensor> {
        let _ = self.precision;
        Err(Error::Compute("to be written".into()))
    }

    pub(super) fn run_emit(&self, _picture: &CudaTensor, _rounding: Rounding, _out: &mut FrameMut<'_>) -> Result<()> {
        let _ = self.precision;
        Err(Error::Compute("to be written".into()))
    }

    pub(super) fn run_add(&self, _a: &CudaTensor, _b: &CudaTensor) -> Result<CudaTensor> {
        let _ = self.precision;
        Err(Error::Compute("to be written".into()))
    }

    pub(super) fn run_is_finite(&self, _x: &CudaTensor) -> Result<bool> {
        let _ = self.precision;
        Err(Error::Compute("to be written".into()))
    }

    pub(super) fn run_pixel_unshuffle(&self, _picture: &CudaTensor) -> Result<CudaTensor> {
        let _ = self.precision;
        Err(Error::Compute("to be written".into()))
    }

    pub(super) fn run_decoder_input(&self, _cond: [&CudaTensor; 4], _latent: &CudaTensor) -> Result<CudaTensor> {
        let _ = self.precision;
        Err(Error::Compute("to be written".into()))
    }

    pub(super) fn run_to_picture(&self, _map: &CudaTensor) -> Result<CudaTensor> {
        let _ = self.precision;
        Err(Error::Compute("to be written".into()))
    }
}
