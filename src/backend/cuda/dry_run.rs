// SPDX-License-Identifier: MPL-2.0

//! A dry run: the engine's own code on memory that is none and a queue that does nothing, to see what memory it would take.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::driver::{ALIGNMENT, Address, Args, Gemm, Kernel, Memory, Queue};
use crate::error::Result;

/// A queue of a device, or one that does nothing.
pub enum QueueOrDryRun<Q> {
    /// Does the work.
    Queue(Q),
    /// Does nothing; downloads are zeros.
    DryRun,
}

impl<Q: Queue> Queue for QueueOrDryRun<Q> {
    /// A dry run only knows the number of bytes.
    type Download = Result<Q::Download, usize>;

    fn upload(&self, to: Address, from: &[u8]) -> Result<()> {
        match self {
            QueueOrDryRun::Queue(queue) => queue.upload(to, from),
            QueueOrDryRun::DryRun => Ok(()),
        }
    }

    fn download(&self, to: &mut [u8], from: Address) -> Result<()> {
        match self {
            QueueOrDryRun::Queue(queue) => queue.download(to, from),
            QueueOrDryRun::DryRun => {
                to.fill(0);
                Ok(())
            }
        }
    }

    fn start_download(&self, from: Address, bytes: usize) -> Result<Self::Download> {
        match self {
            QueueOrDryRun::Queue(queue) => queue.start_download(from, bytes).map(Ok),
            QueueOrDryRun::DryRun => Ok(Err(bytes)),
        }
    }

    fn finish_download(&self, download: Self::Download, read: &mut dyn FnMut(&[u8])) -> Result<()> {
        match (self, download) {
            (QueueOrDryRun::Queue(queue), Ok(download)) => queue.finish_download(download, read),
            (_, Err(bytes)) => {
                read(&vec![0; bytes]);
                Ok(())
            }
            (QueueOrDryRun::DryRun, Ok(_)) => Ok(()),
        }
    }

    fn fill(&self, to: Address, value: u8, bytes: usize) -> Result<()> {
        match self {
            QueueOrDryRun::Queue(queue) => queue.fill(to, value, bytes),
            QueueOrDryRun::DryRun => Ok(()),
        }
    }

    fn launch<A: Args>(&self, kernel: &Kernel, grid: [u32; 3], args: &A) -> Result<()> {
        match self {
            QueueOrDryRun::Queue(queue) => queue.launch(kernel, grid, args),
            QueueOrDryRun::DryRun => Ok(()),
        }
    }

    fn gemm(&self, gemm: &Gemm) -> Result<bool> {
        match self {
            QueueOrDryRun::Queue(queue) => queue.gemm(gemm),
            QueueOrDryRun::DryRun => Ok(true),
        }
    }

    fn wait(&self) -> Result<()> {
        match self {
            QueueOrDryRun::Queue(queue) => queue.wait(),
            QueueOrDryRun::DryRun => Ok(()),
        }
    }
}

/// An allocator that hands out fake addresses without limit.
#[derive(Debug, Default)]
pub struct NullMemory {
    next: AtomicU64,
}

/// Larger than what any stream needs, so that an arena takes it in one piece.
pub const NULL_MEMORY_BYTES: usize = 1 << 50;

impl Memory for NullMemory {
    fn allocate(&self, bytes: usize) -> Result<Address> {
        // The first address is not 0, which stands for nothing.
        Ok(self.next.fetch_add(bytes.next_multiple_of(ALIGNMENT) as u64, Relaxed) + ALIGNMENT as u64)
    }

    fn free(&self, _: Address, _: usize) {}

    fn bytes(&self) -> Result<(u64, u64)> {
        Ok((u64::MAX, u64::MAX))
    }
}
