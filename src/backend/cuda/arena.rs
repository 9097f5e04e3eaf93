// SPDX-License-Identifier: MPL-2.0

//! The memory of one stream's activations: a block of device memory, allocated by first fit from both ends: from the low end for
//! the lifetime of a window, from the high end for caches, so that what stays leaves no holes among what comes and goes.
//!
//! A stream repeats its work, so the same requests come in the same order and get the same addresses. A dry run
//! ([`super::CudaBackend::dry_run`]) therefore tells to the byte how large the block must be.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::driver::{ALIGNMENT, Address, Memory};
use crate::error::Result;

/// Memory that is taken from the device at a time when a request does not fit.
const CHUNK_BYTES: usize = 64 << 20;

/// How long an allocation is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifetime {
    /// Within one temporal window.
    Window,
    /// For several windows: the KV cache.
    Cache,
}

/// A block of device memory.
struct Chunk {
    base: Address,
    len: usize,
    /// What is free: offset and length of each gap.
    free_list: BTreeMap<usize, usize>,
    /// High-water marks: the most bytes ever in use from the low end (windows) and from the high end (caches).
    high_water: [usize; 2],
}

/// An allocator of device memory for one stream.
pub struct Arena {
    memory: Arc<dyn Memory>,
    chunks: Mutex<Vec<Chunk>>,
}

/// Memory of an [`Arena`], which has it back when this is dropped. A stream has one queue, whose work is done in order, so the
/// next owner may get the memory while the device still works on what was there.
pub struct Allocation {
    address: Address,
    len: usize,
    arena: Arc<Arena>,
}

impl Allocation {
    /// Where it starts.
    pub fn address(&self) -> Address {
        self.address
    }
}

impl Drop for Allocation {
    fn drop(&mut self) {
        self.arena.free(self.address, self.len);
    }
}

impl Chunk {
    /// Allocates from the first gap that is large enough, seen from the end that `lifetime` starts from.
    fn allocate(&mut self, len: usize, lifetime: Lifetime) -> Option<Address> {
        let fits = |(_, gap): &(&usize, &usize)| **gap >= len;
        let (&start, &gap) = match lifetime {
            Lifetime::Window => self.free_list.iter().find(fits)?,
            Lifetime::Cache => self.free_list.iter().rev().find(fits)?,
        };
        self.free_list.remove(&start);
        let (offset, rest) = match lifetime {
            Lifetime::Window => (start, start + len),
            Lifetime::Cache => (start + gap - len, start),
        };
        if gap > len {
            self.free_list.insert(rest, gap - len);
        }
        let [low, high] = &mut self.high_water;
        match lifetime {
            Lifetime::Window => *low = (*low).max(offset + len),
            Lifetime::Cache => *high = (*high).max(self.len - offset),
        }
        Some(self.base + offset as u64)
    }

    /// Returns memory to the free list and merges it with neighbouring gaps.
    fn free(&mut self, mut offset: usize, mut len: usize) {
        if let Some((&before, &gap)) = self.free_list.range(..offset).next_back()
            && before + gap == offset
        {
            self.free_list.remove(&before);
            (offset, len) = (before, gap + len);
        }
        if let Some(gap) = self.free_list.remove(&(offset + len)) {
            len += gap;
        }
        self.free_list.insert(offset, len);
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
        chunks.push(Chunk { base, len, free_list: BTreeMap::from([(0, len)]), high_water: [0; 2] });
        Ok(())
    }

    /// Allocates `bytes` for the lifetime of a window.
    ///
    /// # Errors
    /// [`crate::Error::NoSpace`].
    pub fn allocate(self: &Arc<Self>, bytes: usize) -> Result<Allocation> {
        self.allocate_for(bytes, Lifetime::Window)
    }

    /// Allocates `bytes`.
    ///
    /// # Errors
    /// [`crate::Error::NoSpace`].
    pub fn allocate_for(self: &Arc<Self>, bytes: usize, lifetime: Lifetime) -> Result<Allocation> {
        let len = bytes.max(1).next_multiple_of(ALIGNMENT);
        let mut chunks = self.chunks.lock();
        let address = match chunks.iter_mut().find_map(|chunk| chunk.allocate(len, lifetime)) {
            Some(address) => address,
            None => {
                self.grow(&mut chunks, len.max(CHUNK_BYTES))?;
                chunks.last_mut().and_then(|chunk| chunk.allocate(len, lifetime)).unwrap_or_default()
            }
        };
        Ok(Allocation { address, len, arena: self.clone() })
    }

    fn free(&self, address: Address, len: usize) {
        for chunk in &mut *self.chunks.lock() {
            if let Some(offset) = address.checked_sub(chunk.base)
                && offset < chunk.len as u64
            {
                return chunk.free(offset as usize, len);
            }
        }
    }

    /// Bytes of device memory that, taken in one block ([`Self::reserve`]), are enough for the same requests.
    pub fn high_water(&self) -> usize {
        self.chunks.lock().iter().flat_map(|chunk| chunk.high_water).sum()
    }

    #[cfg(test)]
    fn taken(&self) -> usize {
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::dry_run::NullMemory;
    use super::*;

    fn arena() -> Arc<Arena> {
        Arc::new(Arena::new(Arc::new(NullMemory::default())))
    }

    #[test]
    fn what_is_given_back_is_used_again() {
        let arena = arena();
        let a = arena.allocate(1000).unwrap();
        let b = arena.allocate(1000).unwrap();
        let c = arena.allocate(1000).unwrap();
        let (first, second) = (a.address(), b.address());
        assert_eq!(arena.high_water(), 3 * 1024);
        drop((a, b));
        // Two neighbouring free_list are one.
        let both = arena.allocate(2048).unwrap();
        assert_eq!(both.address(), first);
        drop(both);
        let again = arena.allocate(1).unwrap();
        assert_eq!(again.address(), first);
        assert_eq!(arena.allocate(1024).unwrap().address(), second - 1024 + 256);
        drop(c);
        assert_eq!(arena.high_water(), 3 * 1024);
        assert_eq!(arena.taken(), CHUNK_BYTES);
    }

    #[test]
    fn a_large_request_takes_a_piece_of_its_own() {
        let arena = arena();
        arena.reserve(1 << 20).unwrap();
        let large = arena.allocate(CHUNK_BYTES + 1).unwrap();
        let small = arena.allocate(1 << 20).unwrap();
        assert_eq!(arena.taken(), (1 << 20) + CHUNK_BYTES + ALIGNMENT);
        assert!(large.address() != small.address());
    }

    #[test]
    fn what_stays_lies_at_the_other_end() {
        let arena = arena();
        arena.reserve(1 << 20).unwrap();
        let short = arena.allocate(256).unwrap();
        let long = arena.allocate_for(512, Lifetime::Cache).unwrap();
        assert_eq!(long.address() - short.address(), (1 << 20) - 512);
        assert_eq!(arena.high_water(), 768);
        drop((short, long));
        assert_eq!(arena.allocate(1 << 20).unwrap().address() % ALIGNMENT as u64, 0);
        assert_eq!(arena.taken(), 1 << 20);
    }

    proptest! {
        /// A block of the size that a dry run needs is enough for the same requests.
        #[test]
        fn a_dry_run_tells_the_size(
            steps in prop::collection::vec((1usize..100_000, any::<prop::sample::Index>(), any::<[bool; 2]>()), 1..300),
        ) {
            let play = |reserved: usize| {
                let arena = arena();
                arena.reserve(reserved).unwrap();
                let mut allocations: Vec<Allocation> = Vec::new();
                for (bytes, which, [free, long]) in &steps {
                    if *free && !allocations.is_empty() {
                        allocations.swap_remove(which.index(allocations.len()));
                    } else {
                        allocations.push(arena.allocate_for(*bytes, if *long { Lifetime::Cache } else { Lifetime::Window }).unwrap());
                    }
                }
                (arena.high_water(), arena.taken())
            };
            let (high_water, _) = play(1 << 40);
            let (again, taken) = play(high_water);
            prop_assert_eq!((again, taken), (high_water, high_water));
        }

        /// Whatever is asked for and given back in whatever order, no two allocations overlap, and in the end all is one gap.
        #[test]
        fn places_never_overlap(
            steps in prop::collection::vec((1usize..100_000, any::<prop::sample::Index>(), any::<[bool; 2]>()), 1..200),
        ) {
            let arena = arena();
            let mut allocations: Vec<Allocation> = Vec::new();
            for (bytes, which, [free, long]) in steps {
                if free && !allocations.is_empty() {
                    allocations.swap_remove(which.index(allocations.len()));
                } else {
                    allocations.push(arena.allocate_for(bytes, if long { Lifetime::Cache } else { Lifetime::Window }).unwrap());
                }
                let mut spans: Vec<_> = allocations.iter().map(|p| (p.address, p.address + p.len as u64)).collect();
                spans.sort_unstable();
                prop_assert!(spans.windows(2).all(|pair| pair[0].1 <= pair[1].0));
            }
            allocations.clear();
            for chunk in &*arena.chunks.lock() {
                prop_assert_eq!(&chunk.free_list, &BTreeMap::from([(0, chunk.len)]));
            }
        }
    }
}
