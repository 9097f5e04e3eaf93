// SPDX-License-Identifier: MPL-2.0

//! The counts of a plan, and the tensors that keep them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use candle_core::{DType, Device};

use crate::backend::HostTensor;
use crate::error::{Error, Result};

const BYTES: u64 = size_of::<f32>() as u64;

#[derive(Debug, Default)]
struct Counts {
    weights: AtomicU64,
    live: AtomicU64,
    peak: AtomicU64,
    multiply_adds: AtomicU64,
}

/// What a run needs, in f32.
#[derive(Debug, Clone, Default)]
pub struct Ledger(Arc<Counts>);

/// Memory that is counted until it is dropped.
#[derive(Debug)]
pub struct Tensor {
    bytes: u64,
    weights: bool,
    ledger: Ledger,
}

/// The shape of an activation: rows `[n, c]`, a map `[h, w, c]` or a picture `[3, h, w]`.
#[derive(Debug, Clone)]
pub struct PlanTensor {
    dims: Arc<[usize]>,
    _memory: Arc<Tensor>,
}

impl Ledger {
    /// Bytes of the weights.
    pub fn weight_bytes(&self) -> u64 {
        self.0.weights.load(Relaxed)
    }

    /// The most bytes of activations and caches that lived at a time since the start or [`Ledger::restart`].
    pub fn peak_bytes(&self) -> u64 {
        self.0.peak.load(Relaxed)
    }

    /// Floating-point operations since the start or [`Ledger::restart`], two per multiply-add.
    pub fn flops(&self) -> u64 {
        2 * self.0.multiply_adds.load(Relaxed)
    }

    /// Counts operations from 0 and the peak from what lives now.
    pub fn restart(&self) {
        self.0.multiply_adds.store(0, Relaxed);
        self.0.peak.store(self.0.live.load(Relaxed), Relaxed);
    }

    pub(super) fn multiply_adds(&self, count: usize) {
        self.0.multiply_adds.fetch_add(count as u64, Relaxed);
    }

    pub(super) fn weights(&self, count: usize) -> Tensor {
        let bytes = count as u64 * BYTES;
        self.0.weights.fetch_add(bytes, Relaxed);
        Tensor { bytes, weights: true, ledger: self.clone() }
    }

    pub(super) fn tensor(&self, dims: Vec<usize>) -> PlanTensor {
        let bytes = dims.iter().product::<usize>() as u64 * BYTES;
        let live = self.0.live.fetch_add(bytes, Relaxed) + bytes;
        self.0.peak.fetch_max(live, Relaxed);
        let memory = Tensor { bytes, weights: false, ledger: self.clone() };
        PlanTensor { dims: dims.into(), _memory: Arc::new(memory) }
    }
}

impl Drop for Tensor {
    fn drop(&mut self) {
        let counts = &self.ledger.0;
        if self.weights { &counts.weights } else { &counts.live }.fetch_sub(self.bytes, Relaxed);
    }
}

impl PlanTensor {
    pub(super) fn dims(&self) -> &[usize] {
        &self.dims
    }

    /// The last dimension.
    pub(super) fn channels(&self) -> usize {
        self.dims.last().copied().unwrap_or(0)
    }

    /// The product of all dimensions but the last.
    pub(super) fn positions(&self) -> usize {
        self.dims.iter().rev().skip(1).product()
    }

    /// The dimensions of a map or a picture.
    pub(super) fn map_dims(&self) -> Result<[usize; 3]> {
        (&*self.dims).try_into().map_err(|_| Error::Compute(format!("expected a map, found {:?}", self.dims)))
    }
}

/// Zeros of any shape in no memory: one value, read over and over.
pub(crate) fn zeros(dims: &[usize]) -> candle_core::Result<HostTensor> {
    HostTensor::zeros(1, DType::F32, &Device::Cpu)?.broadcast_as(dims)
}
