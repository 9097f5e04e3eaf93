// SPDX-License-Identifier: MPL-2.0

//! Memory of the host that the device reads and writes by itself, so that a copy needs no one to wait for it.

use std::collections::VecDeque;
use std::ptr::{self, NonNull};
use std::sync::Arc;

use cudarc::driver::sys::{self, CUevent, CUevent_flags, CUstream};

use super::device::Device;
use super::fault::refuse;
use crate::error::Result;

/// Page-locked memory.
pub(super) struct Pinned {
    device: Arc<Device>,
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: it is memory; who writes where is up to its one owner.
unsafe impl Send for Pinned {}

impl Pinned {
    /// `len` bytes. The device must be bound.
    pub(super) fn new(device: &Arc<Device>, len: usize) -> Result<Self> {
        let mut base = ptr::null_mut();
        // SAFETY: the driver writes one pointer.
        let code = unsafe { sys::cuMemHostAlloc(&mut base, len, 0) };
        device.check(format_args!("cuMemHostAlloc of {len} bytes of the host's memory"), code)?;
        let Some(base) = NonNull::new(base.cast::<u8>()) else {
            return refuse(device.name(), "cuMemHostAlloc gave no memory");
        };
        Ok(Self { device: device.clone(), base, len })
    }

    /// The address of `len` bytes from `offset`, for the device.
    pub(super) fn part(&self, offset: usize, len: usize) -> *mut u8 {
        assert!(offset.checked_add(len).is_some_and(|end| end <= self.len), "a copy stays within its memory");
        // SAFETY: it is within the memory.
        unsafe { self.base.as_ptr().add(offset) }
    }

    /// Copies `from` to `offset`, where the device must not be at work.
    pub(super) fn write(&mut self, offset: usize, from: &[u8]) {
        // SAFETY: `part` is as long as `from`, and ours.
        unsafe { ptr::copy_nonoverlapping(from.as_ptr(), self.part(offset, from.len()), from.len()) };
    }

    /// Bytes in all.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The first `len` bytes, which the device must have written.
    pub(super) fn bytes(&self, len: usize) -> &[u8] {
        // SAFETY: `part` is as long as that; the device has written all of it and is done.
        unsafe { std::slice::from_raw_parts(self.part(0, len), len) }
    }

    /// Copies from `offset`, where the device must not be at work.
    pub(super) fn read(&self, offset: usize, to: &mut [u8]) {
        // SAFETY: `part` is as long as `to`, and ours.
        unsafe { ptr::copy_nonoverlapping(self.part(offset, to.len()), to.as_mut_ptr(), to.len()) };
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if self.device.bind().is_ok() {
            // SAFETY: the driver gave it, and no copy is under way: the queue that owns it has waited.
            unsafe { sys::cuMemFreeHost(self.base.as_ptr().cast()) };
        }
    }
}

/// A point in a queue's work.
pub(super) struct Event {
    device: Arc<Device>,
    event: CUevent,
}

// SAFETY: the driver lets any thread use an event.
unsafe impl Send for Event {}

impl Event {
    /// The end of all work so far. The device must be bound.
    pub(super) fn record(device: &Arc<Device>, stream: CUstream) -> Result<Self> {
        let flags = CUevent_flags::CU_EVENT_BLOCKING_SYNC as u32 | CUevent_flags::CU_EVENT_DISABLE_TIMING as u32;
        let mut event = ptr::null_mut();
        // SAFETY: the driver writes one pointer.
        device.check("cuEventCreate", unsafe { sys::cuEventCreate(&mut event, flags) })?;
        let recorded = Self { device: device.clone(), event };
        // SAFETY: event and stream are alive.
        device.check("cuEventRecord", unsafe { sys::cuEventRecord(event, stream) })?;
        Ok(recorded)
    }

    /// Lets the work to come on another stream wait for it. The device must be bound.
    pub(super) fn make_wait(&self, stream: CUstream) -> Result<()> {
        // SAFETY: event and stream are alive; the driver remembers what it needs of the event.
        self.device.check("cuStreamWaitEvent", unsafe { sys::cuStreamWaitEvent(stream, self.event, 0) })
    }

    /// Waits for it, asleep. The device must be bound.
    pub(super) fn wait(&self) -> Result<()> {
        // SAFETY: the event is alive.
        self.device.check("cuEventSynchronize", unsafe { sys::cuEventSynchronize(self.event) })
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if self.device.bind().is_ok() {
            // SAFETY: it is alive, and this is its last use.
            unsafe { sys::cuEventDestroy_v2(self.event) };
        }
    }
}

/// Which bytes of a memory are in use, if they are taken and given back in the same order, round and round. `E` tells
/// when a piece is given back.
pub(super) struct Ring<E> {
    len: usize,
    head: usize,
    used: usize,
    pieces: VecDeque<(usize, E)>,
}

/// A piece that [`Ring::acquire`] found.
pub(super) struct Slot {
    /// Where it starts.
    pub(super) offset: usize,
    len: usize,
    /// Bytes that are passed over at the end of the memory.
    gap: usize,
}

impl<E> Ring<E> {
    /// Pieces start at multiples of it.
    const ALIGNMENT: usize = 256;

    pub(super) fn new(len: usize) -> Self {
        Self { len, head: 0, used: 0, pieces: VecDeque::new() }
    }

    /// Finds room for `bytes`, at most half of the memory, once enough of the oldest pieces are given back. It is free
    /// until [`Ring::commit`] says what to wait for.
    pub(super) fn acquire(&mut self, bytes: usize, wait: impl Fn(&E) -> Result<()>) -> Result<Slot> {
        let len = bytes.next_multiple_of(Self::ALIGNMENT);
        let gap = if self.head + len > self.len { self.len - self.head } else { 0 };
        while self.used + gap + len > self.len
            && let Some((piece, done)) = self.pieces.front()
        {
            wait(done)?;
            self.used -= piece;
            self.pieces.pop_front();
        }
        Ok(Slot { offset: if gap > 0 { 0 } else { self.head }, len, gap })
    }

    /// Keeps `slot` until `done`.
    pub(super) fn commit(&mut self, slot: &Slot, done: E) {
        self.head = (slot.offset + slot.len) % self.len;
        self.used += slot.gap + slot.len;
        self.pieces.push_back((slot.gap + slot.len, done));
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::ops::Range;

    use super::*;
    use crate::error::Error;

    #[test]
    fn pieces_of_a_ring_do_not_meet() {
        let mut ring: Ring<(usize, Range<usize>)> = Ring::new(4096);
        let mut live: VecDeque<(usize, Range<usize>)> = VecDeque::new();
        let mut size = 1;
        for number in 0..1000 {
            size = size * 7 % 2039 + 1;
            let waited = Cell::new(0);
            let slot = ring
                .acquire(size, |(number, _)| {
                    assert_eq!(*number, live[waited.get()].0, "the oldest is waited for");
                    waited.set(waited.get() + 1);
                    Ok(())
                })
                .unwrap();
            live.drain(..waited.get());
            let range = slot.offset..slot.offset + size;
            assert!(range.end <= 4096 && range.start % 256 == 0);
            assert!(live.iter().all(|(_, other)| other.end <= range.start || range.end <= other.start), "{range:?}");
            live.push_back((number, range.clone()));
            ring.commit(&slot, (number, range));
        }
        assert!(live.len() > 1, "small pieces are there together");
    }

    #[test]
    fn a_failed_wait_changes_nothing() {
        let mut ring = Ring::new(1024);
        let slot = ring.acquire(512, |()| Ok(())).unwrap();
        ring.commit(&slot, ());
        let slot = ring.acquire(512, |()| Ok(())).unwrap();
        ring.commit(&slot, ());
        assert!(ring.acquire(512, |()| Err(Error::Cancelled)).is_err());
        assert_eq!(ring.acquire(512, |()| Ok(())).unwrap().offset, 0);
    }
}
