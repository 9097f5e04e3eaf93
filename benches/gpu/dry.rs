// SPDX-License-Identifier: MPL-2.0

//! A device that does nothing: tells without a GPU what a stream takes of one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use gstflashvsr::Result;
use gstflashvsr::backend::cuda::batch::{Arguments, Batch, Launch, LaunchBatcher, LaunchSink};
use gstflashvsr::backend::cuda::driver::{ALIGNMENT, Address, Args, Driver, Kernel, Memory, Queue, TensorCores};
use parking_lot::Mutex;

/// Bytes that there are, more than anybody needs.
const CAPACITY: u64 = 1 << 50;

/// Bytes of the memory that uploads go through.
const STAGING_BYTES: usize = 4 << 20;

#[derive(Default)]
struct State {
    used: AtomicU64,
    next: AtomicU64,
    counts: Mutex<Counts>,
}

/// What was asked of the device.
#[derive(Clone, Default)]
pub struct Counts {
    /// Launches of each kernel, by themselves or in graphs.
    pub kernels: BTreeMap<&'static str, u64>,
    /// Launches by themselves.
    pub alone: u64,
    /// Graphs launched.
    pub graphs: u64,
    /// Graphs made.
    pub made: u64,
    /// Launches in graphs whose arguments were set anew.
    pub set: u64,
}

/// The device.
#[derive(Clone, Default)]
pub struct Dry(Arc<State>);

impl Dry {
    /// What was asked since the last call.
    pub fn take_counts(&self) -> Counts {
        std::mem::take(&mut *self.0.counts.lock())
    }
}

impl LaunchSink for Dry {
    type Function = &'static str;
    type Graph = ();

    fn launch(&self, _: &Launch<&'static str>, _: Arguments<'_>) -> Result<()> {
        self.0.counts.lock().alone += 1;
        Ok(())
    }

    fn build(&self, _: &Batch<&'static str>) -> Result<Option<()>> {
        self.0.counts.lock().made += 1;
        Ok(Some(()))
    }

    fn set(&self, (): &mut (), _: usize, _: &Launch<&'static str>, _: Arguments<'_>) -> Result<bool> {
        self.0.counts.lock().set += 1;
        Ok(true)
    }

    fn run(&self, (): &()) -> Result<()> {
        self.0.counts.lock().graphs += 1;
        Ok(())
    }
}

/// A queue that flushes its launches when a GPU's does.
pub struct DryQueue {
    device: Dry,
    batcher: Mutex<LaunchBatcher<Dry>>,
    /// Where uploads go.
    staging: Mutex<Vec<u8>>,
}

impl DryQueue {
    fn flush(&self) -> Result<()> {
        self.batcher.lock().flush(&self.device)
    }
}

impl Memory for Dry {
    fn allocate(&self, bytes: usize) -> Result<Address> {
        self.0.used.fetch_add(bytes as u64, Relaxed);
        Ok(self.0.next.fetch_add(bytes.next_multiple_of(ALIGNMENT) as u64, Relaxed) + ALIGNMENT as u64)
    }

    fn free(&self, _: Address, bytes: usize) {
        self.0.used.fetch_sub(bytes as u64, Relaxed);
    }

    fn bytes(&self) -> Result<(u64, u64)> {
        Ok((CAPACITY - self.0.used.load(Relaxed), CAPACITY))
    }
}

impl Driver for Dry {
    type Queue = DryQueue;

    fn name(&self) -> String {
        "no device".into()
    }

    fn tensor_cores(&self) -> TensorCores {
        TensorCores::Warp
    }

    fn sm_count(&self) -> usize {
        1
    }

    fn queue(&self) -> Result<DryQueue> {
        Ok(DryQueue { device: self.clone(), batcher: Mutex::new(LaunchBatcher::new(true)), staging: Mutex::default() })
    }
}

impl Queue for DryQueue {
    type Download = usize;

    /// Copies what would go to a device, as a GPU's queue does.
    fn upload(&self, _: Address, from: &[u8]) -> Result<()> {
        self.flush()?;
        let mut staging = self.staging.lock();
        staging.resize(STAGING_BYTES, 0);
        for piece in from.chunks(STAGING_BYTES) {
            staging[..piece.len()].copy_from_slice(piece);
        }
        std::hint::black_box(&mut *staging);
        Ok(())
    }

    fn download(&self, to: &mut [u8], _: Address) -> Result<()> {
        to.fill(0);
        self.flush()
    }

    fn start_download(&self, _: Address, bytes: usize) -> Result<usize> {
        self.flush().map(|()| bytes)
    }

    fn finish_download(&self, bytes: usize, read: &mut dyn FnMut(&[u8])) -> Result<()> {
        read(&vec![0; bytes]);
        self.flush()
    }

    fn fill(&self, _: Address, _: u8, _: usize) -> Result<()> {
        self.flush()
    }

    fn launch<A: Args>(&self, kernel: &Kernel, grid: [u32; 3], args: &A) -> Result<()> {
        *self.device.0.counts.lock().kernels.entry(kernel.name).or_default() += 1;
        self.batcher.lock().launch(&self.device, kernel.name, kernel, grid, args)
    }

    fn wait(&self) -> Result<()> {
        self.flush()
    }
}
