// SPDX-License-Identifier: MPL-2.0

//! Linear layers: `kernels/linear.cu`.

use super::driver::Driver;
use super::{CudaBackend, CudaTensor};
use crate::backend::{Epilogue, HostTensor};
use crate::error::{Error, Result};

/// A linear layer.
pub struct CudaLinear {}

impl<D: Driver> CudaBackend<D> {
    pub(super) fn linear_layer(&self, _weight: &HostTensor, _bias: Option<&HostTensor>) -> Result<CudaLinear> {
        let _ = self.precision;
        Err(Error::Compute("to be written".into()))
    }

    pub(super) fn run_linear(
        &self,
        _x: &CudaTensor,
        _layer: &CudaLinear,
        _epilogue: Epilogue<'_, Self>,
    ) -> Result<CudaTensor> {
        let _ = self.precision;
        Err(Error::Compute("to be written".into()))
    }
}
