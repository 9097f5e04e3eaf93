// SPDX-License-Identifier: MPL-2.0

//! Models on the CUDA backend, on whichever driver.

use std::path::PathBuf;
use std::sync::Arc;

use super::engine::Upscaler;
use super::plan::{kv_windows, weight_bytes};
use super::registry::Shared;
use super::{
    Cancel, Depth, Format, Frame, FrameMut, Geometry, Model, ModelSpec, Options, Plane, PlaneMut, Samples, SamplesMut,
    Size, Stream, Version,
};
use crate::backend::cuda::driver::Driver;
use crate::backend::cuda::{CudaBackend, Precision};
use crate::error::{Error, Result};
use crate::model::checkpoint::Checkpoint;
use crate::model::{Config, Network};

/// Networks on the devices of one driver: checkpoint, generation, device, precision. With each, what a library does for it.
pub(super) type Networks<D> = Shared<(PathBuf, Version, usize, Precision), Loaded<D>>;

type Loaded<D> = (Arc<Network<CudaBackend<D>>>, Option<String>);

/// A network on a device.
struct CudaModel<D: Driver> {
    driver: Arc<D>,
    network: Arc<Network<CudaBackend<D>>>,
    precision: Precision,
    reason: String,
}

/// A frame of zeros.
struct Blank {
    size: Size,
    format: Format,
    bytes: Vec<u8>,
    words: Vec<u16>,
}

impl Blank {
    fn new(size: Size, format: Format) -> Self {
        let (bytes, words) = match format {
            Format::Rgb(Depth::Sixteen) => (0, 3 * size.width * size.height),
            _ => (format.bytes(size), 0),
        };
        Self { size, format, bytes: vec![0; bytes], words: vec![0; words] }
    }

    fn frame(&self) -> Frame<'_> {
        let samples = match self.format {
            Format::Rgb(Depth::Eight) => Samples::U8(&self.bytes),
            Format::Rgb(Depth::Sixteen) => Samples::U16(&self.words),
            Format::Video(layout) => {
                let mut rest = self.bytes.as_slice();
                let planes = layout.extents(self.size).map(|extent| {
                    let (bytes, others) = rest.split_at(extent.bytes());
                    rest = others;
                    Plane { bytes, stride: extent.row }
                });
                Samples::Planes(layout, planes)
            }
        };
        Frame { width: self.size.width, height: self.size.height, stride: 3 * self.size.width, samples }
    }

    fn frame_mut(&mut self) -> FrameMut<'_> {
        let samples = match self.format {
            Format::Rgb(Depth::Eight) => SamplesMut::U8(&mut self.bytes),
            Format::Rgb(Depth::Sixteen) => SamplesMut::U16(&mut self.words),
            Format::Video(layout) => {
                let mut rest = self.bytes.as_mut_slice();
                let planes = layout.extents(self.size).map(|extent| {
                    let (bytes, others) = std::mem::take(&mut rest).split_at_mut(extent.bytes());
                    rest = others;
                    PlaneMut { bytes, stride: extent.row }
                });
                SamplesMut::Planes(layout, planes)
            }
        };
        FrameMut { width: self.size.width, height: self.size.height, stride: 3 * self.size.width, samples }
    }
}

impl<D: Driver> CudaModel<D> {
    /// Bytes of device memory that a stream takes which begins, runs until its cache is full, and ends.
    fn stream_bytes(&self, geometry: Geometry, options: Options) -> Result<usize> {
        let backend = Arc::new(CudaBackend::<D>::rehearsal(self.precision, self.driver.tensor_cores())?);
        let frame = Blank::new(geometry.input, options.input);
        let mut shown = Blank::new(geometry.output, options.output);
        let windows = kv_windows(&options);
        let mut stream = Upscaler::new(backend.clone(), self.network.clone(), geometry, options, Cancel::default())?;
        let last = stream.frames_needed(windows + 1) + 1;
        for number in 1..=last {
            stream.push(&frame.frame())?;
            if number == last {
                stream.finish()?;
            }
            while stream.ready() > 0 {
                stream.pop(&mut shown.frame_mut())?;
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

    fn notice(&self) -> Option<String> {
        self.driver.notice()
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
    let loaded = networks.get((spec.place(), spec.version, ordinal, precision), || {
        let checkpoint = Checkpoint::open(&spec.path)?;
        let in_f32 = weight_bytes(&Config::from_checkpoint(&checkpoint)?)?;
        check_memory(&*driver, in_f32 / size_of::<f32>() as u64 * precision.bytes() as u64)?;
        let backend = CudaBackend::new(driver.clone(), precision)?;
        let network = Network::load(&backend, &checkpoint, spec.version)?;
        // Streams have queues of their own, which know nothing of this one.
        backend.wait()?;
        Ok((Arc::new(network), backend.library_report()))
    })?;
    let (network, library) = &*loaded;
    let reason = library.as_ref().map_or_else(|| reason.clone(), |library| format!("{reason}; {library}"));
    Ok(model(driver, network.clone(), precision, reason))
}

fn check_memory(driver: &impl Driver, needed: u64) -> Result<()> {
    let (available, _) = driver.bytes()?;
    if needed > available { Err(Error::NoSpace { needed, available }) } else { Ok(()) }
}
