// SPDX-License-Identifier: MPL-2.0

//! Convolutions: `kernels/conv.cu`.

use super::driver::Driver;
use super::{CudaBackend, CudaTensor};
use crate::backend::HostTensor;
use crate::error::{Error, Result};

/// A causal 4x3x3 convolution.
pub struct CudaConv3d {}

/// A 3x3 convolution.
pub struct CudaConv2d {}

/// An upsampling stage.
pub struct CudaUpsampleConv {}

impl<D: Driver> CudaBackend<D> {
    pub(super) fn conv3d_layer(&self, _weight: &HostTensor, _bias: &HostTensor) -> Result<CudaConv3d> {
        let _ = self.precision;
        Err(Error::Compute("to be written".into()))
    }

    pub(super) fn conv2d_layer(
        &self,
        _weight: &HostTensor,
        _bias: Option<&HostTensor>,
        _parts: usize,
    ) -> Result<CudaConv2d> {
        let _ = self.precision;
        Err(Error::Compute("to be written".into()))
    }

    pub(super) fn upsample_layer(&self, _grow: &HostTensor, _weight: &HostTensor) -> Result<CudaUpsampleConv> {
        let _ = self.precision;
        Err(Error::Compute("to be written".into()))
    }

    pub(super) fn run_conv3d(&self, _maps: &[CudaTensor], _conv: &CudaConv3d) -> Result<Vec<CudaTensor>> {
        let _ = self.precision;
        Err(Error::Compute("to be written".into()))
    }

    pub(super) fn run_conv2d(
        &self,
        _x: &CudaTensor,
        _past: Option<&CudaTensor>,
        _conv: &CudaConv2d,
        _skip: Option<&CudaTensor>,
        _relu: bool,
    ) -> Result<CudaTensor> {
        let _ = self.precision;
        Err(Error::Compute("to be written".into()))
    }

    pub(super) fn run_upsample_conv(
        &self,
        _x: &CudaTensor,
        _conv: &CudaUpsampleConv,
        _relu: bool,
    ) -> Result<Vec<CudaTensor>> {
        let _ = self.precision;
        Err(Error::Compute("to be written".into()))
    }
}
