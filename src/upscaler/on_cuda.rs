// SPDX-License-Identifier: MPL-2.0

//! Models on the CUDA backend, on whichever driver.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;

use super::engine::Engine;
use super::plan::{kv_windows, least_bytes, weight_bytes};
use super::registry::Shared;
use super::{
    Cancel, Depth, Format, Frame, FrameMut, Geometry, Model, ModelSpec, Opening, Options, Plane, PlaneMut, Precision,
    Samples, SamplesMut, Size, Stream, Version,
};
use crate::backend::cuda::CudaBackend;
use crate::backend::cuda::driver::Driver;
use crate::error::{Error, Result};
use crate::model::checkpoint::Checkpoint;
use crate::model::{Config, Network};

/// What a network on a device is known by: checkpoint, generation, device, precision.
type Key = (PathBuf, Version, usize, Precision);

/// Networks on the devices of one driver.
pub(super) struct Networks<D: Driver> {
    loaded: Shared<Key, Network<CudaBackend<D>>>,
    /// What a library does for each, in words.
    libraries: Mutex<HashMap<Key, String>>,
}

impl<D: Driver> Default for Networks<D> {
    fn default() -> Self {
        Self { loaded: Shared::new(), libraries: Mutex::default() }
    }
}

/// A network on a device.
struct CudaModel<D: Driver> {
    driver: Arc<D>,
    network: Arc<Network<CudaBackend<D>>>,
    precision: Precision,
    reason: String,
}

/// A frame of zeros.
struct ZeroFrame {
    size: Size,
    format: Format,
    bytes: Vec<u8>,
    words: Vec<u16>,
}

impl ZeroFrame {
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
        let backend = Arc::new(CudaBackend::<D>::dry_run(self.precision, self.driver.tensor_cores())?);
        let frame = ZeroFrame::new(geometry.input, options.input);
        let mut shown = ZeroFrame::new(geometry.output, options.output);
        let windows = kv_windows(&options);
        let mut stream = Engine::new(backend.clone(), self.network.clone(), geometry, options, Cancel::default())?;
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
        Ok(backend.arena().high_water())
    }
}

impl<D: Driver> Model for CudaModel<D> {
    fn stream(self: Arc<Self>, geometry: Geometry, options: Options, cancel: Cancel) -> Result<Box<dyn Stream>> {
        check_memory(&*self.driver, least_bytes(geometry, &options))?;
        let bytes = self.stream_bytes(geometry, options.clone())?;
        check_memory(&*self.driver, bytes as u64)?;
        let backend = Arc::new(CudaBackend::new(self.driver.clone(), self.precision)?);
        backend.arena().reserve(bytes)?;
        Ok(Box::new(Engine::new(backend, self.network.clone(), geometry, options, cancel)?))
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

/// Finds the model of `spec` for device number `ordinal`, which `driver` drives.
pub(super) fn find<D: Driver>(
    networks: Arc<Networks<D>>,
    driver: Arc<D>,
    ordinal: usize,
    spec: &ModelSpec,
    reason: String,
) -> Result<Opening> {
    let precision = spec.precision.unwrap_or(Precision::Bf16);
    let checkpoint = Checkpoint::open(&spec.path)?;
    let config = Config::from_checkpoint(&checkpoint)?;
    let (key, version) = ((spec.canonical_path(), spec.version, ordinal, precision), spec.version);
    Ok(Opening::new(driver.name(), precision.to_string(), reason.clone(), move |loading| {
        let network = networks.loaded.get(key.clone(), loading.cancel(), || {
            let in_f32 = weight_bytes(&config)?;
            check_memory(&*driver, in_f32 / size_of::<f32>() as u64 * precision.bytes() as u64)?;
            let backend = CudaBackend::new(driver.clone(), precision)?;
            let network = Network::load(&backend, checkpoint, version, loading)?;
            // Streams have queues of their own, which know nothing of this one.
            backend.wait()?;
            let mut libraries = networks.libraries.lock();
            libraries.remove(&key);
            libraries.extend(backend.library_report().map(|report| (key.clone(), report)));
            Ok(network)
        })?;
        let library = networks.libraries.lock().get(&key).cloned();
        let reason = library.map_or_else(|| reason.clone(), |library| format!("{reason}; {library}"));
        Ok(model(driver, network, precision, reason))
    }))
}

fn check_memory(driver: &impl Driver, needed: u64) -> Result<()> {
    let (available, _) = driver.bytes()?;
    if needed > available { Err(Error::NoSpace { needed, available }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    use super::super::Loading;
    use super::*;
    use crate::backend::cuda::QueueOrDryRun;
    use crate::backend::cuda::driver::{ALIGNMENT, Address, Memory, TensorCores};
    use crate::backend::cuda::nvidia::NvidiaQueue;

    /// A device that does nothing but count the bytes that are taken of it.
    #[derive(Default)]
    struct Counting {
        used: AtomicU64,
        next: AtomicU64,
    }

    impl Memory for Counting {
        fn allocate(&self, bytes: usize) -> Result<Address> {
            self.used.fetch_add(bytes as u64, Relaxed);
            Ok(self.next.fetch_add(bytes.next_multiple_of(ALIGNMENT) as u64, Relaxed) + ALIGNMENT as u64)
        }

        fn free(&self, _: Address, bytes: usize) {
            self.used.fetch_sub(bytes as u64, Relaxed);
        }

        fn bytes(&self) -> Result<(u64, u64)> {
            Ok((1 << 40, 1 << 40))
        }
    }

    impl Driver for Counting {
        type Queue = QueueOrDryRun<NvidiaQueue>;

        fn name(&self) -> String {
            "no device".into()
        }

        fn tensor_cores(&self) -> TensorCores {
            TensorCores::Warp
        }

        fn sm_count(&self) -> usize {
            1
        }

        fn queue(&self) -> Result<Self::Queue> {
            Ok(QueueOrDryRun::DryRun)
        }
    }

    #[test]
    fn two_models_on_one_device_have_one_copy_of_the_weights() {
        let (networks, driver) = (Arc::new(Networks::default()), Arc::new(Counting::default()));
        let spec = ModelSpec {
            path: Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/parity"),
            version: Version::default(),
            device: "cuda".into(),
            precision: None,
            threads: 0,
        };
        let open = |precision| {
            let spec = ModelSpec { precision, ..spec.clone() };
            let opening = find(networks.clone(), driver.clone(), 0, &spec, String::new()).unwrap();
            opening.load(&Loading::default()).unwrap()
        };
        let used = || driver.used.load(Relaxed);
        let first = open(None);
        let weights = used();
        assert!(weights > 0);
        let second = open(None);
        assert_eq!(used(), weights, "the second model takes no memory of its own");
        // What one no longer needs, the other still does.
        drop(first);
        assert_eq!(used(), weights);
        let size = Size::new(64, 64);
        let geometry = Geometry::new(size, Size::new(128, 128), Default::default()).unwrap();
        let stream = second.stream(geometry, Options::default(), Cancel::default()).unwrap();
        let third = open(None);
        assert!(used() > weights, "a stream has memory of its own");
        drop((stream, third));
        assert_eq!(used(), 0, "nothing is left behind");
        let (half, full) = (open(Some(Precision::F16)), used());
        let single = open(Some(Precision::F32));
        assert!(used() > 2 * full, "another precision has weights of its own");
        drop((half, single));
        assert_eq!(used(), 0);
    }
}
