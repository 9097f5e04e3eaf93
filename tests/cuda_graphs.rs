// SPDX-License-Identifier: MPL-2.0

//! Launches that are kept back and become graphs, in the windows of whole streams: the device here computes nothing, but checks
//! that every launch arrives once, in its order, and with its own arguments.

use std::collections::VecDeque;
use std::mem::MaybeUninit;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};

use gstflashvsr::Result;
use gstflashvsr::backend::cuda::batch::{Arguments, Batch, Launch, LaunchBatcher, LaunchSink};
use gstflashvsr::backend::cuda::driver::{ALIGNMENT, Address, Args, Driver, Kernel, Memory, Queue, TensorCores};
use gstflashvsr::backend::cuda::{CudaBackend, Precision};
use gstflashvsr::backend::{Frame, FrameMut, Geometry, Samples, SamplesMut, Size, SizePolicy};
use gstflashvsr::model::checkpoint::Checkpoint;
use gstflashvsr::model::{Loading, Network, Version};
use gstflashvsr::upscaler::{Cancel, Options, Stream, on_cuda};
use parking_lot::Mutex;

/// A launch that has not arrived: its kernel and grid, and whether arguments are its own.
type Expected = (Kernel, [u32; 3], Box<dyn Fn(*const u8) -> bool + Send>);

/// What has been counted: launches by themselves, graphs made, launches set anew, graphs run, launches in these.
const COUNTS: usize = 5;

/// A queue of a device that checks.
#[derive(Default)]
struct Checks {
    expected: Mutex<VecDeque<Expected>>,
    counts: [AtomicUsize; COUNTS],
}

/// A launch of a graph, with a copy of its arguments.
struct Node {
    kernel: Kernel,
    grid: [u32; 3],
    args: Vec<MaybeUninit<u64>>,
}

impl Checks {
    fn count(&self, which: usize) {
        self.counts[which].fetch_add(1, SeqCst);
    }

    fn arrive(&self, kernel: &Kernel, grid: [u32; 3], args: *const u8) {
        let (wanted, wanted_grid, is_own) = self.expected.lock().pop_front().expect("each launch arrives once");
        assert_eq!((*kernel, grid), (wanted, wanted_grid), "launches keep their order");
        assert!(is_own(args), "{} has the arguments of another launch", kernel.name);
    }
}

impl LaunchSink for Checks {
    type Function = &'static str;
    type Graph = Vec<Node>;

    fn launch(&self, launch: &Launch<&'static str>, args: Arguments<'_>) -> Result<()> {
        self.count(0);
        self.arrive(&launch.kernel, launch.grid, args.as_ptr());
        Ok(())
    }

    fn build(&self, batch: &Batch<&'static str>) -> Result<Option<Vec<Node>>> {
        self.count(1);
        let node = |(launch, args): (&Launch<&'static str>, Arguments<'_>)| Node {
            kernel: launch.kernel,
            grid: launch.grid,
            args: args.to_words(),
        };
        Ok(Some(batch.iter().map(node).collect()))
    }

    fn set(
        &self,
        graph: &mut Vec<Node>,
        number: usize,
        launch: &Launch<&'static str>,
        args: Arguments<'_>,
    ) -> Result<bool> {
        self.count(2);
        assert_eq!((graph[number].kernel, graph[number].grid), (launch.kernel, launch.grid));
        graph[number].args = args.to_words();
        Ok(true)
    }

    fn run(&self, graph: &Vec<Node>) -> Result<()> {
        self.count(3);
        for node in graph {
            self.count(4);
            self.arrive(&node.kernel, node.grid, node.args.as_ptr().cast());
        }
        Ok(())
    }
}

/// The device. All its queues are one, so that memory is given back behind all launches. Several threads may use it, as they do
/// while a model loads: what is expected changes only under the batcher's lock.
#[derive(Clone)]
struct Checking {
    checks: Arc<Checks>,
    batcher: Arc<Mutex<LaunchBatcher<Checks>>>,
    next: Arc<AtomicU64>,
}

impl Checking {
    fn new() -> Self {
        let batcher = Arc::new(Mutex::new(LaunchBatcher::new(true)));
        Self { checks: Arc::default(), batcher, next: Arc::new(AtomicU64::new(ALIGNMENT as u64)) }
    }

    /// Launches the batch; then nothing is missing.
    fn flush(&self) -> Result<()> {
        let mut batcher = self.batcher.lock();
        batcher.flush(&self.checks)?;
        assert!(self.checks.expected.lock().is_empty(), "a launch is lost");
        Ok(())
    }

    /// The counts since the last call.
    fn take_counts(&self) -> [usize; COUNTS] {
        self.checks.counts.each_ref().map(|count| count.swap(0, SeqCst))
    }
}

impl Memory for Checking {
    fn allocate(&self, bytes: usize) -> Result<Address> {
        Ok(self.next.fetch_add(bytes.next_multiple_of(ALIGNMENT) as u64, SeqCst))
    }

    fn free(&self, _: Address, _: usize) {
        self.flush().unwrap();
    }

    fn bytes(&self) -> Result<(u64, u64)> {
        Ok((1 << 40, 1 << 40))
    }
}

impl Driver for Checking {
    type Queue = Self;

    fn name(&self) -> String {
        "a device that checks".into()
    }

    fn tensor_cores(&self) -> TensorCores {
        TensorCores::default()
    }

    fn sm_count(&self) -> usize {
        1
    }

    fn queue(&self) -> Result<Self> {
        Ok(self.clone())
    }
}

impl Queue for Checking {
    type Download = usize;

    fn start_download(&self, _: Address, bytes: usize) -> Result<usize> {
        self.flush().map(|()| bytes)
    }

    fn finish_download(&self, bytes: usize, read: &mut dyn FnMut(&[u8])) -> Result<()> {
        read(&vec![0; bytes]);
        self.flush()
    }

    fn upload(&self, _: Address, _: &[u8]) -> Result<()> {
        self.flush()
    }

    fn download(&self, to: &mut [u8], _: Address) -> Result<()> {
        to.fill(0);
        self.flush()
    }

    fn fill(&self, _: Address, _: u8, _: usize) -> Result<()> {
        self.flush()
    }

    fn launch<A: Args>(&self, kernel: &Kernel, grid: [u32; 3], args: &A) -> Result<()> {
        let own = *args;
        // SAFETY: it is called with the arguments of a launch of this kernel, which are of this type and aligned.
        let is_own = move |at: *const u8| unsafe { *at.cast::<A>() == own };
        let mut batcher = self.batcher.lock();
        self.checks.expected.lock().push_back((*kernel, grid, Box::new(is_own)));
        batcher.launch(&self.checks, kernel.name, kernel, grid, args)
    }

    fn wait(&self) -> Result<()> {
        self.flush()
    }
}

/// Feeds frames, and gives the number of those that came out.
fn run(stream: &mut dyn Stream, frames: usize, last: bool) -> Result<usize> {
    let (samples, mut shown) = (vec![100; 3 * 64 * 64], vec![0; 3 * 128 * 128]);
    let mut out = 0;
    for frame in 1..=frames {
        stream.push(&Frame { width: 64, height: 64, stride: 192, samples: Samples::U8(&samples) })?;
        if last && frame == frames {
            stream.finish()?;
        }
        while stream.ready() > 0 {
            stream.pop(&mut FrameMut { width: 128, height: 128, stride: 384, samples: SamplesMut::U8(&mut shown) })?;
            out += 1;
        }
    }
    Ok(out)
}

#[test]
fn each_launch_of_a_stream_arrives_once_and_as_it_was() {
    let device = Checking::new();
    let checkpoint = Checkpoint::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/parity")).unwrap();
    let backend = CudaBackend::new(Arc::new(device.clone()), Precision::Bf16).unwrap();
    let network = Arc::new(Network::load(&backend, checkpoint, Version::V1_1, &Loading::default()).unwrap());
    backend.wait().unwrap();
    let model = on_cuda::model(Arc::new(device.clone()), network, Precision::Bf16, "a test".into());
    let geometry = Geometry::new(Size::new(64, 64), Size::new(128, 128), SizePolicy::Fail).unwrap();
    for pipelined in [false, true] {
        let options = Options { pipelined, ..Options::default() };
        let mut stream = model.clone().stream(geometry, options, Cancel::default()).unwrap();
        for round in 0..3 {
            // Given up in the midst of a window, and started anew.
            run(&mut *stream, 30 + 8 * round, false).unwrap();
            stream.reset();
            assert_eq!(run(&mut *stream, 25 + 8 * 40 + round, true).unwrap(), 25 + 8 * 40 + round);
        }
        run(&mut *stream, 25 + 8 * 40, false).unwrap();
        device.take_counts();
        run(&mut *stream, 8, false).unwrap();
        let [alone, made, set, graphs, inside] = device.take_counts();
        println!("{alone} launches alone, {inside} in {graphs} graphs, of which {set} were set");
        assert!(made == 0 && graphs > 0 && inside > alone, "{alone} alone, {inside} in {graphs}, {made} made");
        // Keys and values at least are elsewhere; at this size, much else is as well (the real ones: `benches/gpu --dry`).
        assert!(set > 0 && set < inside, "{set} of {inside} are set");
    }
}
