// SPDX-License-Identifier: MPL-2.0

//! The memory of one stream's activations: one piece of device memory, cut by first fit in address order.
//!
//! The work of a stream repeats itself, so the same requests come in the same order and find the same places. A trial run on
//! [`super::planner`] therefore tells to the byte how large the piece must be.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::driver::{ALIGNMENT, Address, Memory};
use crate::error::Result;

/// Memory that is taken from the device at a time when a request does not fit.
const CHUNK_BYTES: usize = 64 << 20;

/// A piece of device memory with its gaps: offset and length.
struct Chunk {
    base: Address,
    len: usize,
    gaps: BTreeMap<usize, usize>,
    /// End of the highest place ever used.
    reach: usize,
}

/// Cuts device memory into places.
pub struct Arena {
    memory: Arc<dyn Memory>,
    chunks: Mutex<Vec<Chunk>>,
}

/// A place in an [`Arena`], which has it back when this is dropped. Work is queued in order, so what comes next may have the
/// place while the device still works on what was there.
pub struct Place {
    address: Address,
    len: usize,
    arena: Arc<Arena>,
}

impl Place {
    /// Where it starts.
    pub fn address(&self) -> Address {
        self.address
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.arena.give_back(self.address, self.len);
    }
}

impl Chunk {
    /// The first gap of `len` bytes.
    fn take(&mut self, len: usize) -> Option<Address> {
        let (&offset, &gap) = self.gaps.iter().find(|(_, gap)| **gap >= len)?;
        self.gaps.remove(&offset);
        if gap > len {
            self.gaps.insert(offset + len, gap - len);
        }
        self.reach = self.reach.max(offset + len);
        Some(self.base + offset as u64)
    }

    /// Makes a gap, one with its neighbours.
    fn give_back(&mut self, mut offset: usize, mut len: usize) {
        if let Some((&before, &gap)) = self.gaps.range(..offset).next_back()
            && before + gap == offset
        {
            self.gaps.remove(&before);
            (offset, len) = (before, gap + len);
        }
        if let Some(gap) = self.gaps.remove(&(offset + len)) {
            len += gap;
        }
        self.gaps.insert(offset, len);
    }
}

impl Arena {
    /// An arena that holds nothing yet.
    pub fn new(memory: Arc<dyn Memory>) -> Self {
        Self { memory, chunks: Mutex::new(Vec::new()) }
    }

    /// Takes `bytes` from the device in one piece, for all that comes.
    ///
    /// # Errors
    /// [`crate::Error::NoSpace`].
    pub fn reserve(&self, bytes: usize) -> Result<()> {
        self.grow(&mut self.chunks.lock(), bytes)
    }

    fn grow(&self, chunks: &mut Vec<Chunk>, bytes: usize) -> Result<()> {
        let len = bytes.next_multiple_of(ALIGNMENT);
        let base = self.memory.allocate(len)?;
        chunks.push(Chunk { base, len, gaps: BTreeMap::from([(0, len)]), reach: 0 });
        Ok(())
    }

    /// A place of `bytes`.
    ///
    /// # Errors
    /// [`crate::Error::NoSpace`].
    pub fn place(self: &Arc<Self>, bytes: usize) -> Result<Place> {
        let len = bytes.max(1).next_multiple_of(ALIGNMENT);
        let mut chunks = self.chunks.lock();
        let address = match chunks.iter_mut().find_map(|chunk| chunk.take(len)) {
            Some(address) => address,
            None => {
                self.grow(&mut chunks, len.max(CHUNK_BYTES))?;
                chunks.last_mut().and_then(|chunk| chunk.take(len)).unwrap_or_default()
            }
        };
        Ok(Place { address, len, arena: self.clone() })
    }

    fn give_back(&self, address: Address, len: usize) {
        for chunk in &mut *self.chunks.lock() {
            if let Some(offset) = address.checked_sub(chunk.base)
                && offset < chunk.len as u64
            {
                return chunk.give_back(offset as usize, len);
            }
        }
    }

    /// Bytes from the start of each piece of device memory to the end of the highest place that was ever used in it.
    pub fn reach(&self) -> usize {
        self.chunks.lock().iter().map(|chunk| chunk.reach).sum()
    }

    /// Bytes taken from the device.
    pub fn taken(&self) -> usize {
        self.chunks.lock().iter().map(|chunk| chunk.len).sum()
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        for chunk in self.chunks.get_mut() {
            self.memory.free(chunk.base, chunk.len);
        }
    }
}
