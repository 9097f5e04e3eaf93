// SPDX-License-Identifier: MPL-2.0

//! Colour correction: `kernels/color.cu`.

use super::driver::Driver;
use super::{CudaBackend, CudaTensor};
use crate::backend::ColorFix;
use crate::error::{Error, Result};

impl<D: Driver> CudaBackend<D> {
    pub(super) fn run_color_fix(&self, _hq: &CudaTensor, _lq: &CudaTensor, _fix: ColorFix) -> Result<CudaTensor> {
        let _ = self.precision;
        Err(Error::Compute("to be written".into()))
    }
}
