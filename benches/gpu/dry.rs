// SPDX-License-Identifier: MPL-2.0

//! A device that does nothing: tells without a GPU what a stream takes of one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use gstflashvsr::Result;
use gstflashvsr::backend::cuda::driver::{ALIGNMENT, Address, Args, Driver, Kernel, Memory, Queue, TensorCores};
use parking_lot::Mutex;

/// Bytes that there are, more than anybody needs.
const CAPACITY: u64 = 1 << 50;

#[derive(Default)]
struct State {
    used: AtomicU64,
    next: AtomicU64,
    launches: Mutex<BTreeMap<&'static str, u64>>,
}

/// The device.
#[derive(Clone, Default)]
pub struct Dry(Arc<State>);

impl Dry {
    /// How often each kernel was launched since the last call.
    pub fn take_launches(&self) -> BTreeMap<&'static str, u64> {
        std::mem::take(&mut *self.0.launches.lock())
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
    type Queue = Self;

    fn name(&self) -> String {
        "no device".into()
    }

    fn tensor_cores(&self) -> TensorCores {
        TensorCores::Warp
    }

    fn multiprocessors(&self) -> usize {
        1
    }

    fn queue(&self) -> Result<Self> {
        Ok(self.clone())
    }
}

impl Queue for Dry {
    type Download = usize;

    fn upload(&self, _: Address, _: &[u8]) -> Result<()> {
        Ok(())
    }

    fn download(&self, to: &mut [u8], _: Address) -> Result<()> {
        to.fill(0);
        Ok(())
    }

    fn start_download(&self, _: Address, bytes: usize) -> Result<usize> {
        Ok(bytes)
    }

    fn finish_download(&self, bytes: usize, read: &mut dyn FnMut(&[u8])) -> Result<()> {
        read(&vec![0; bytes]);
        Ok(())
    }

    fn fill(&self, _: Address, _: u8, _: usize) -> Result<()> {
        Ok(())
    }

    fn launch<A: Args>(&self, kernel: &Kernel, _: [u32; 3], _: &A) -> Result<()> {
        *self.0.launches.lock().entry(kernel.name).or_default() += 1;
        Ok(())
    }

    fn wait(&self) -> Result<()> {
        Ok(())
    }
}
