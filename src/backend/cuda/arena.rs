// SPDX-License-Identifier: MPL-2.0

//! The memory of one stream's activations: one piece of device memory, cut by first fit from its two ends: from the low one
//! for what is soon given back, from the high one for what stays for windows. So the second leaves no holes among the first.
//!
//! The work of a stream repeats itself, so the same requests come in the same order and find the same places. A rehearsal
//! ([`super::CudaBackend::rehearsal`]) therefore tells to the byte how large the piece must be.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::driver::{ALIGNMENT, Address, Memory};
use crate::error::Result;

/// Memory that is taken from the device at a time when a request does not fit.
const CHUNK_BYTES: usize = 64 << 20;

/// How long a place will be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// Within a window.
    Short,
    /// For several windows: keys and values.
    Long,
}

/// A piece of device memory with its gaps: offset and length.
struct Chunk {
    base: Address,
    len: usize,
    gaps: BTreeMap<usize, usize>,
    /// Bytes from the low end to the end of the highest short-lived place, and from the high end to the start of the lowest
    /// long-lived one, the most there ever were.
    reach: [usize; 2],
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
    /// `len` bytes of the first gap that has them, seen from the end that `life` starts from.
    fn take(&mut self, len: usize, life: Life) -> Option<Address> {
        let fits = |(_, gap): &(&usize, &usize)| **gap >= len;
        let (&start, &gap) = match life {
            Life::Short => self.gaps.iter().find(fits)?,
            Life::Long => self.gaps.iter().rev().find(fits)?,
        };
        self.gaps.remove(&start);
        let (offset, rest) = match life {
            Life::Short => (start, start + len),
            Life::Long => (start + gap - len, start),
        };
        if gap > len {
            self.gaps.insert(rest, gap - len);
        }
        let [low, high] = &mut self.reach;
        match life {
            Life::Short => *low = (*low).max(offset + len),
            Life::Long => *high = (*high).max(self.len - offset),
        }
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
        chunks.push(Chunk { base, len, gaps: BTreeMap::from([(0, len)]), reach: [0; 2] });
        Ok(())
    }

    /// A short-lived place of `bytes`.
    ///
    /// # Errors
    /// [`crate::Error::NoSpace`].
    pub fn place(self: &Arc<Self>, bytes: usize) -> Result<Place> {
        self.place_for(bytes, Life::Short)
    }

    /// A place of `bytes`.
    ///
    /// # Errors
    /// [`crate::Error::NoSpace`].
    pub fn place_for(self: &Arc<Self>, bytes: usize, life: Life) -> Result<Place> {
        let len = bytes.max(1).next_multiple_of(ALIGNMENT);
        let mut chunks = self.chunks.lock();
        let address = match chunks.iter_mut().find_map(|chunk| chunk.take(len, life)) {
            Some(address) => address,
            None => {
                self.grow(&mut chunks, len.max(CHUNK_BYTES))?;
                chunks.last_mut().and_then(|chunk| chunk.take(len, life)).unwrap_or_default()
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

    /// Bytes of device memory in one piece ([`Self::reserve`]) that are enough for the same requests.
    pub fn reach(&self) -> usize {
        self.chunks.lock().iter().flat_map(|chunk| chunk.reach).sum()
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

    use super::super::work::Endless;
    use super::*;

    fn arena() -> Arc<Arena> {
        Arc::new(Arena::new(Arc::new(Endless::default())))
    }

    #[test]
    fn what_is_given_back_is_used_again() {
        let arena = arena();
        let a = arena.place(1000).unwrap();
        let b = arena.place(1000).unwrap();
        let c = arena.place(1000).unwrap();
        let (first, second) = (a.address(), b.address());
        assert_eq!(arena.reach(), 3 * 1024);
        drop((a, b));
        // Two neighbouring gaps are one.
        let both = arena.place(2048).unwrap();
        assert_eq!(both.address(), first);
        drop(both);
        let again = arena.place(1).unwrap();
        assert_eq!(again.address(), first);
        assert_eq!(arena.place(1024).unwrap().address(), second - 1024 + 256);
        drop(c);
        assert_eq!(arena.reach(), 3 * 1024);
        assert_eq!(arena.taken(), CHUNK_BYTES);
    }

    #[test]
    fn a_large_request_takes_a_piece_of_its_own() {
        let arena = arena();
        arena.reserve(1 << 20).unwrap();
        let large = arena.place(CHUNK_BYTES + 1).unwrap();
        let small = arena.place(1 << 20).unwrap();
        assert_eq!(arena.taken(), (1 << 20) + CHUNK_BYTES + ALIGNMENT);
        assert!(large.address() != small.address());
    }

    #[test]
    fn what_stays_lies_at_the_other_end() {
        let arena = arena();
        arena.reserve(1 << 20).unwrap();
        let short = arena.place(256).unwrap();
        let long = arena.place_for(512, Life::Long).unwrap();
        assert_eq!(long.address() - short.address(), (1 << 20) - 512);
        assert_eq!(arena.reach(), 768);
        drop((short, long));
        assert_eq!(arena.place(1 << 20).unwrap().address() % ALIGNMENT as u64, 0);
        assert_eq!(arena.taken(), 1 << 20);
    }

    proptest! {
        /// A piece of the size that a rehearsal reaches is enough for the same requests.
        #[test]
        fn a_rehearsal_tells_the_size(
            steps in prop::collection::vec((1usize..100_000, any::<prop::sample::Index>(), any::<[bool; 2]>()), 1..300),
        ) {
            let play = |reserved: usize| {
                let arena = arena();
                arena.reserve(reserved).unwrap();
                let mut places: Vec<Place> = Vec::new();
                for (bytes, which, [give_back, long]) in &steps {
                    if *give_back && !places.is_empty() {
                        places.swap_remove(which.index(places.len()));
                    } else {
                        places.push(arena.place_for(*bytes, if *long { Life::Long } else { Life::Short }).unwrap());
                    }
                }
                (arena.reach(), arena.taken())
            };
            let (reach, _) = play(1 << 40);
            let (again, taken) = play(reach);
            prop_assert_eq!((again, taken), (reach, reach));
        }

        /// Whatever is asked for and given back in whatever order, no two places overlap, and in the end all is one gap.
        #[test]
        fn places_never_overlap(
            steps in prop::collection::vec((1usize..100_000, any::<prop::sample::Index>(), any::<[bool; 2]>()), 1..200),
        ) {
            let arena = arena();
            let mut places: Vec<Place> = Vec::new();
            for (bytes, which, [give_back, long]) in steps {
                if give_back && !places.is_empty() {
                    places.swap_remove(which.index(places.len()));
                } else {
                    places.push(arena.place_for(bytes, if long { Life::Long } else { Life::Short }).unwrap());
                }
                let mut spans: Vec<_> = places.iter().map(|p| (p.address, p.address + p.len as u64)).collect();
                spans.sort_unstable();
                prop_assert!(spans.windows(2).all(|pair| pair[0].1 <= pair[1].0));
            }
            places.clear();
            for chunk in &*arena.chunks.lock() {
                prop_assert_eq!(&chunk.gaps, &BTreeMap::from([(0, chunk.len)]));
            }
        }
    }
}
