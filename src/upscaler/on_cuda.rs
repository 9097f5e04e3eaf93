// SPDX-License-Identifier: MPL-2.0

//! Models on the CUDA backend, on whichever driver.

use std::path::PathBuf;
use std::sync::Arc;

use super::engine::Upscaler;
use super::plan::{kv_windows, weight_bytes};
use super::registry::Shared;
use super::{Cancel, Frame, FrameMut, Geometry, Model, ModelSpec, Options, Samples, SamplesMut, Size, Stream, Version};
use crate::backend::cuda::driver::Driver;
use crate::backend::cuda::{CudaBackend, Precision};
use crate::error::{Error, Result};
use crate::model::checkpoint::Checkpoint;
use crate::model::{Config, Network};

/// Networks on the devices of one driver: checkpoint, generation, device, precision.
pub(super) type Networks<D> = Shared<(PathBuf, Version, usize, Precision), Network<CudaBackend<D>>>;

/// A network on a device.
struct CudaModel<D: Driver> {
    driver: Arc<D>,
    network: Arc<Network<CudaBackend<D>>>,
    precision: Precision,
    reason: String,
}

impl<D: Driver> CudaModel<D> {
    /// Bytes of device memory that a stream takes, to the byte.
    fn stream_bytes(&self, geometry: Geometry, options: Options) -> Result<usize> {
        let backend = Arc::new(CudaBackend::rehearsal(self.driver.clone(), self.precision)?);
        let windows = kv_windows(&options);
        let mut stream = Upscaler::new(backend.clone(), self.network.clone(), geometry, options, Cancel::default())?;
        // Frames of 16 bits take the most room on their way in and out.
        let Size { width, height } = geometry.input;
        let samples = vec![0; 3 * width * height];
        let frame = Frame { width, height, stride: 3 * width, samples: Samples::U16(&samples) };
        let Size { width, height } = geometry.output;
        let mut shown = vec![0; 3 * width * height];
        for _ in 0..stream.frames_needed(windows + 1) {
            stream.push(&frame)?;
            while stream.ready() > 0 {
                let samples = SamplesMut::U16(&mut shown);
                stream.pop(&mut FrameMut { width, height, stride: 3 * width, samples })?;
            }
        }
        Ok(backend.arena().reach())
    }
}

impl<D: Driver> Model for CudaModel<D> {
    fn stream(self: Arc<Self>, geometry: Geometry, options: Options, cancel: Cancel) -> Result<Box<dyn Stream>> {
        let bytes = self.stream_bytes(geometry, options.clone())?;
        check_memory(&*self.driver, bytes as u64)?;
        let backend = Arc::new(CudaBackend::new(self.driver.clone(), self.precision)?);
        backend.arena().reserve(bytes)?;
        Ok(Box::new(Upscaler::new(backend, self.network.clone(), geometry, options, cancel)?))
    }

    fn device(&self) -> String {
        self.driver.name()
    }

    fn precision(&self) -> String {
        self.precision.to_string()
    }

    fn reason(&self) -> String {
        self.reason.clone()
    }
}

/// A network that is loaded on a device as a model; `reason` is why it runs there. Its weights must have arrived
/// ([`CudaBackend::wait`]).
pub fn model<D: Driver>(
    driver: Arc<D>,
    network: Arc<Network<CudaBackend<D>>>,
    precision: Precision,
    reason: String,
) -> Arc<dyn Model> {
    Arc::new(CudaModel { driver, network, precision, reason })
}

/// The model of `spec` on device number `ordinal`, which `driver` drives.
pub(super) fn open<D: Driver>(
    networks: &Networks<D>,
    driver: Arc<D>,
    ordinal: usize,
    spec: &ModelSpec,
    reason: String,
) -> Result<Arc<dyn Model>> {
    let precision = spec.precision.unwrap_or(Precision::Bf16);
    let network = networks.get((spec.place(), spec.version, ordinal, precision), || {
        let checkpoint = Checkpoint::open(&spec.path)?;
        let in_f32 = weight_bytes(&Config::from_checkpoint(&checkpoint)?)?;
        check_memory(&*driver, in_f32 / size_of::<f32>() as u64 * precision.bytes() as u64)?;
        let backend = CudaBackend::new(driver.clone(), precision)?;
        let network = Network::load(&backend, &checkpoint, spec.version)?;
        // Streams have queues of their own, which know nothing of this one.
        backend.wait()?;
        Ok(network)
    })?;
    Ok(model(driver, network, precision, reason))
}

fn check_memory(driver: &impl Driver, needed: u64) -> Result<()> {
    let (available, _) = driver.bytes()?;
    if needed > available { Err(Error::NoSpace { needed, available }) } else { Ok(()) }
}
