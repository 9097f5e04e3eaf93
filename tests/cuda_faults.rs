// SPDX-License-Identifier: MPL-2.0

//! Whatever call to the driver fails, and at whatever moment: the engine says so, gives all memory back, and goes on
//! elsewhere. The driver here computes nothing, so that every call can be made to fail in turn.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};

use gstflashvsr::backend::cuda::driver::{ALIGNMENT, Address, Args, Driver, Kernel, Memory, Queue, TensorCores};
use gstflashvsr::backend::cuda::{CudaBackend, Precision};
use gstflashvsr::backend::{
    Chroma, Color, Component, Depth, Format, Frame, FrameMut, Geometry, Layout, Plane, PlaneMut, Samples, SamplesMut,
    Size, SizePolicy,
};
use gstflashvsr::model::checkpoint::Checkpoint;
use gstflashvsr::model::{Loading, Network, Version};
use gstflashvsr::upscaler::{Cancel, Options, on_cuda};
use gstflashvsr::{Error, Result};
use parking_lot::Mutex;

const NAME: &str = "fragile GPU (cuda:7)";
const NEVER: usize = usize::MAX;
const CAPACITY: u64 = 1 << 40;

/// A device that fails once, and may be lost by it.
struct State {
    /// Calls so far, and the one that fails.
    calls: AtomicUsize,
    fails_at: AtomicUsize,
    lost: AtomicBool,
    next: AtomicU64,
    live: Mutex<HashMap<Address, usize>>,
}

#[derive(Clone)]
struct Fragile(Arc<State>);

impl Fragile {
    fn new() -> Self {
        Self(Arc::new(State {
            calls: AtomicUsize::new(0),
            fails_at: AtomicUsize::new(NEVER),
            lost: AtomicBool::new(false),
            next: AtomicU64::new(ALIGNMENT as u64),
            live: Mutex::default(),
        }))
    }

    /// Counts from 0, and fails at call number `call`.
    fn fail_at(&self, call: usize) {
        self.0.calls.store(0, SeqCst);
        self.0.fails_at.store(call, SeqCst);
        self.0.lost.store(false, SeqCst);
    }

    fn calls(&self) -> usize {
        self.0.calls.load(SeqCst)
    }

    fn used(&self) -> usize {
        self.0.live.lock().values().sum()
    }

    /// A call that is not for memory: once one has failed, all do.
    fn call(&self) -> Result<()> {
        if self.0.calls.fetch_add(1, SeqCst) == self.0.fails_at.load(SeqCst) {
            self.0.lost.store(true, SeqCst);
        }
        match self.0.lost.load(SeqCst) {
            true => Err(Error::Device { device: NAME.into(), reason: "the device is lost".into() }),
            false => Ok(()),
        }
    }
}

impl Memory for Fragile {
    fn allocate(&self, bytes: usize) -> Result<Address> {
        if self.0.calls.fetch_add(1, SeqCst) == self.0.fails_at.load(SeqCst) {
            return Err(Error::NoSpace { needed: bytes as u64, available: 12_345 });
        }
        let address = self.0.next.fetch_add(bytes.next_multiple_of(ALIGNMENT) as u64, SeqCst);
        self.0.live.lock().insert(address, bytes);
        Ok(address)
    }

    fn free(&self, address: Address, bytes: usize) {
        assert_eq!(self.0.live.lock().remove(&address), Some(bytes), "memory is given back once, as it was given");
    }

    fn bytes(&self) -> Result<(u64, u64)> {
        self.call()?;
        Ok((CAPACITY, CAPACITY))
    }
}

impl Driver for Fragile {
    type Queue = Self;

    fn name(&self) -> String {
        NAME.into()
    }

    fn tensor_cores(&self) -> TensorCores {
        TensorCores::default()
    }

    fn sm_count(&self) -> usize {
        1
    }

    fn queue(&self) -> Result<Self> {
        self.call()?;
        Ok(self.clone())
    }
}

impl Queue for Fragile {
    type Download = usize;

    fn start_download(&self, _: Address, bytes: usize) -> Result<usize> {
        self.call()?;
        Ok(bytes)
    }

    fn finish_download(&self, bytes: usize, read: &mut dyn FnMut(&[u8])) -> Result<()> {
        self.call()?;
        read(&vec![0; bytes]);
        Ok(())
    }

    fn upload(&self, _: Address, _: &[u8]) -> Result<()> {
        self.call()
    }

    fn download(&self, to: &mut [u8], _: Address) -> Result<()> {
        to.fill(0);
        self.call()
    }

    fn fill(&self, _: Address, _: u8, _: usize) -> Result<()> {
        self.call()
    }

    fn launch<A: Args>(&self, _: &Kernel, _: [u32; 3], _: &A) -> Result<()> {
        self.call()
    }

    fn wait(&self) -> Result<()> {
        self.call()
    }
}

fn load(device: &Fragile) -> Result<Arc<Network<CudaBackend<Fragile>>>> {
    let checkpoint = Checkpoint::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/parity"))?;
    let backend = CudaBackend::new(Arc::new(device.clone()), Precision::Bf16)?;
    let network = Network::load(&backend, checkpoint, Version::V1_1, &Loading::default())?;
    backend.wait()?;
    Ok(Arc::new(network))
}

/// Four windows of the tiny model; gives the frames that came out.
fn stream(device: &Fragile, network: &Arc<Network<CudaBackend<Fragile>>>) -> Result<usize> {
    let model = on_cuda::model(Arc::new(device.clone()), network.clone(), Precision::Bf16, "a test".into());
    let (input, output) = (Size::new(64, 64), Size::new(128, 128));
    let geometry = Geometry::new(input, output, SizePolicy::Fail)?;
    let mut stream = model.stream(geometry, Options::default(), Cancel::default())?;
    let samples = vec![100; 3 * 64 * 64];
    let mut shown = vec![0; 3 * 128 * 128];
    let mut frames = 0;
    for _ in 0..25 + 3 * 8 {
        stream.push(&Frame { width: 64, height: 64, stride: 192, samples: Samples::U8(&samples) })?;
        while stream.ready() > 0 {
            stream.pop(&mut FrameMut { width: 128, height: 128, stride: 384, samples: SamplesMut::U8(&mut shown) })?;
            frames += 1;
        }
    }
    Ok(frames)
}

/// The error is one that names the thing: the device, or the memory that is missing.
fn is_clear(error: &Error) -> bool {
    match error {
        Error::Device { device, .. } => device == NAME,
        Error::NoSpace { needed, available } => *needed > 0 && *available == 12_345,
        _ => false,
    }
}

#[test]
fn loading_fails_cleanly_at_every_call() {
    let device = Fragile::new();
    let network = load(&device).unwrap();
    let calls = device.calls();
    assert!(calls > 100, "{calls} calls");
    drop(network);
    assert_eq!(device.used(), 0);
    for call in 0..calls {
        device.fail_at(call);
        let error = load(&device).err().unwrap_or_else(|| panic!("call {call} failed and nobody noticed"));
        assert!(is_clear(&error), "call {call}: {error}");
        assert_eq!(device.used(), 0, "call {call} leaks");
    }
}

#[test]
fn a_stream_fails_cleanly_at_every_call() {
    let device = Fragile::new();
    let network = load(&device).unwrap();
    let weights = device.used();
    device.fail_at(NEVER);
    let frames = stream(&device, &network).unwrap();
    assert_eq!(frames, 21 + 3 * 8);
    let calls = device.calls();
    assert!(calls > 500, "{calls} calls");
    assert_eq!(device.used(), weights);
    for call in (0..100).chain((100..calls).step_by(11)) {
        device.fail_at(call);
        let error = stream(&device, &network).err().unwrap_or_else(|| panic!("call {call} failed and nobody noticed"));
        assert!(is_clear(&error), "call {call}: {error}");
        assert_eq!(device.used(), weights, "call {call} leaks");
    }
}

#[test]
fn another_device_goes_on() {
    let (lost, sound) = (Fragile::new(), Fragile::new());
    let (network, other) = (load(&lost).unwrap(), load(&sound).unwrap());
    lost.fail_at(200);
    assert!(stream(&lost, &network).is_err());
    assert!(stream(&lost, &network).is_err(), "a device that is lost stays lost");
    assert_eq!(stream(&sound, &other).unwrap(), 21 + 3 * 8);
}

#[test]
fn a_running_stream_takes_no_memory() {
    let device = Fragile::new();
    let network = load(&device).unwrap();
    let model = on_cuda::model(Arc::new(device.clone()), network, Precision::Bf16, "a test".into());
    let geometry = Geometry::new(Size::new(64, 64), Size::new(128, 128), SizePolicy::Fail).unwrap();
    let samples = vec![100; 3 * 64 * 64];
    let (mut bytes, mut words) = (vec![0u8; 3 * 128 * 128], vec![0u16; 3 * 128 * 128]);
    let (rgb8, rgb16) = (Format::Rgb(Depth::Eight), Format::Rgb(Depth::Sixteen));
    for (format, pipelined) in [(rgb8, false), (rgb8, true), (rgb16, true), (Format::Video(i420()), true)] {
        // Of the two depths of RGB, the first goes in.
        let input = if format == rgb16 { rgb8 } else { format };
        let options = Options { input, output: format, pipelined, ..Options::default() };
        let mut stream = model.clone().stream(geometry, options, Cancel::default()).unwrap();
        let used = device.used();
        let mut frames = 0;
        for frame in 0..200 {
            let samples = match input {
                Format::Rgb(_) => Samples::U8(&samples),
                Format::Video(layout) => {
                    Samples::Planes(layout, [64, 32, 32].map(|stride| Plane { bytes: &samples, stride }))
                }
            };
            stream.push(&Frame { width: 64, height: 64, stride: 192, samples }).unwrap();
            if frame == 199 {
                stream.finish().unwrap();
            }
            while stream.ready() > 0 {
                let samples = match format {
                    Format::Rgb(Depth::Eight) => SamplesMut::U8(&mut bytes),
                    Format::Rgb(Depth::Sixteen) => SamplesMut::U16(&mut words),
                    Format::Video(layout) => {
                        let (luma, chroma) = bytes.split_at_mut(128 * 128);
                        let (cb, cr) = chroma.split_at_mut(64 * 64);
                        let plane = |bytes, stride| PlaneMut { bytes, stride };
                        SamplesMut::Planes(layout, [plane(luma, 128), plane(cb, 64), plane(cr, 64)])
                    }
                };
                stream.pop(&mut FrameMut { width: 128, height: 128, stride: 384, samples }).unwrap();
                frames += 1;
            }
            assert_eq!(device.used(), used, "frame {frame}, {format:?}, pipelined: {pipelined}");
        }
        assert_eq!(frames, 200);
    }
}

/// 4:2:0 of 8 bits in three planes.
fn i420() -> Layout {
    let plane = |plane| Component { plane, offset: 0, step: 1 };
    Layout {
        components: [plane(0), plane(1), plane(2)],
        filler: None,
        bits: 8,
        shift: 0,
        across: Chroma::Cosited,
        down: Chroma::Centred,
        color: Color::Ycbcr { kr: 0.2126, kb: 0.0722, full_range: false },
    }
}
