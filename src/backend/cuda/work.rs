// SPDX-License-Identifier: MPL-2.0

//! Where the engine's work goes: to a device, or nowhere, to see what memory it would take.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::driver::{ALIGNMENT, Address, Args, Kernel, Memory, Product, Queue};
use crate::error::Result;

/// A queue, or a rehearsal.
pub enum Work<Q> {
    /// Work is done.
    Device(Q),
    /// Nothing is done; what is downloaded is 0.
    Rehearsal,
}

impl<Q: Queue> Queue for Work<Q> {
    /// Of a rehearsal, only the number of bytes.
    type Download = Result<Q::Download, usize>;

    fn upload(&self, to: Address, from: &[u8]) -> Result<()> {
        match self {
            Work::Device(queue) => queue.upload(to, from),
            Work::Rehearsal => Ok(()),
        }
    }

    fn download(&self, to: &mut [u8], from: Address) -> Result<()> {
        match self {
            Work::Device(queue) => queue.download(to, from),
            Work::Rehearsal => {
                to.fill(0);
                Ok(())
            }
        }
    }

    fn start_download(&self, from: Address, bytes: usize) -> Result<Self::Download> {
        match self {
            Work::Device(queue) => queue.start_download(from, bytes).map(Ok),
            Work::Rehearsal => Ok(Err(bytes)),
        }
    }

    fn finish_download(&self, download: Self::Download, read: &mut dyn FnMut(&[u8])) -> Result<()> {
        match (self, download) {
            (Work::Device(queue), Ok(download)) => queue.finish_download(download, read),
            (_, Err(bytes)) => {
                read(&vec![0; bytes]);
                Ok(())
            }
            (Work::Rehearsal, Ok(_)) => Ok(()),
        }
    }

    fn fill(&self, to: Address, value: u8, bytes: usize) -> Result<()> {
        match self {
            Work::Device(queue) => queue.fill(to, value, bytes),
            Work::Rehearsal => Ok(()),
        }
    }

    fn launch<A: Args>(&self, kernel: &Kernel, grid: [u32; 3], args: &A) -> Result<()> {
        match self {
            Work::Device(queue) => queue.launch(kernel, grid, args),
            Work::Rehearsal => Ok(()),
        }
    }

    fn multiply(&self, product: &Product) -> Result<bool> {
        match self {
            Work::Device(queue) => queue.multiply(product),
            Work::Rehearsal => Ok(true),
        }
    }

    fn wait(&self) -> Result<()> {
        match self {
            Work::Device(queue) => queue.wait(),
            Work::Rehearsal => Ok(()),
        }
    }
}

/// Memory that never ends and is none.
#[derive(Debug, Default)]
pub struct Endless {
    next: AtomicU64,
}

/// Larger than what any stream needs, so that an arena takes it in one piece.
pub const ENDLESS_BYTES: usize = 1 << 50;

impl Memory for Endless {
    fn allocate(&self, bytes: usize) -> Result<Address> {
        // The first address is not 0, which stands for nothing.
        Ok(self.next.fetch_add(bytes.next_multiple_of(ALIGNMENT) as u64, Relaxed) + ALIGNMENT as u64)
    }

    fn free(&self, _: Address, _: usize) {}

    fn bytes(&self) -> Result<(u64, u64)> {
        Ok((u64::MAX, u64::MAX))
    }
}
