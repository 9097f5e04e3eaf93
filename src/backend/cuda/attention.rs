// SPDX-License-Identifier: MPL-2.0

//! Draft mask and attention: `kernels/attention.cu`.

use super::driver::Driver;
use super::{CudaBackend, CudaTensor};
use crate::backend::{DraftMask, HostTensor, KvGroup};
use crate::error::{Error, Result};

/// For each head and query window the key windows that it attends to.
pub struct CudaMask {}

impl<D: Driver> CudaBackend<D> {
    pub(super) fn run_draft_mask(
        &self,
        _q_mean: &CudaTensor,
        _k_means: &[&CudaTensor],
        _params: &DraftMask,
    ) -> Result<CudaMask> {
        let _ = self.precision;
        Err(Error::Compute("to be written".into()))
    }

    pub(super) fn run_sparse_attention(
        &self,
        _q: &CudaTensor,
        _groups: &[&KvGroup<CudaTensor>],
        _mask: &CudaMask,
    ) -> Result<CudaTensor> {
        let _ = self.precision;
        Err(Error::Compute("to be written".into()))
    }

    pub(super) fn run_cross_attention(&self, _q: &CudaTensor, _k: &CudaTensor, _v: &CudaTensor) -> Result<CudaTensor> {
        let _ = self.precision;
        Err(Error::Compute("to be written".into()))
    }

    pub(super) fn download_mask(&self, _mask: &CudaMask) -> Result<HostTensor> {
        let _ = self.precision;
        Err(Error::Compute("to be written".into()))
    }
}
