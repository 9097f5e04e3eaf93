// SPDX-License-Identifier: MPL-2.0

//! A device that has endless memory and does nothing. What the engine takes from it is what a run on a real one will take.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::driver::{ALIGNMENT, Address, Args, Driver, Kernel, Memory, Queue};
use crate::error::Result;

/// The device, which counts its memory.
#[derive(Debug, Clone, Default)]
pub struct Planner(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    next: AtomicU64,
    taken: AtomicU64,
}

impl Planner {
    /// Bytes that are allocated.
    pub fn taken(&self) -> u64 {
        self.0.taken.load(Relaxed)
    }
}

impl Memory for Planner {
    fn allocate(&self, bytes: usize) -> Result<Address> {
        let bytes = bytes.next_multiple_of(ALIGNMENT) as u64;
        self.0.taken.fetch_add(bytes, Relaxed);
        // The first address is not 0, which stands for nothing.
        Ok(self.0.next.fetch_add(bytes, Relaxed) + ALIGNMENT as u64)
    }

    fn free(&self, _: Address, bytes: usize) {
        self.0.taken.fetch_sub(bytes.next_multiple_of(ALIGNMENT) as u64, Relaxed);
    }

    fn bytes(&self) -> Result<(u64, u64)> {
        Ok((u64::MAX, u64::MAX))
    }
}

impl Driver for Planner {
    type Queue = Self;

    fn name(&self) -> String {
        "no device".into()
    }

    fn queue(&self) -> Result<Self> {
        Ok(self.clone())
    }
}

impl Queue for Planner {
    fn upload(&self, _: Address, _: &[u8]) -> Result<()> {
        Ok(())
    }

    fn download(&self, to: &mut [u8], _: Address) -> Result<()> {
        to.fill(0);
        Ok(())
    }

    fn fill(&self, _: Address, _: u8, _: usize) -> Result<()> {
        Ok(())
    }

    fn launch<A: Args>(&self, _: &Kernel, _: [u32; 3], _: &A) -> Result<()> {
        Ok(())
    }

    fn wait(&self) -> Result<()> {
        Ok(())
    }
}
