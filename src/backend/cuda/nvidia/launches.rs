// SPDX-License-Identifier: MPL-2.0

//! The launches of a queue, kept back until something else is asked of it.

use std::sync::{Arc, Weak};

use cudarc::driver::sys::CUfunction;
use parking_lot::Mutex;

use super::graph::Stream;
use crate::backend::cuda::batch::LaunchBatcher;
use crate::backend::cuda::driver::{Args, Kernel};
use crate::error::{Error, Result};

/// A stream and what is still to be given to it. The device must be bound for all that is done with them.
pub(super) struct Launches {
    stream: Stream,
    state: Mutex<State>,
}

struct State {
    batcher: LaunchBatcher<Stream>,
    /// An error that came when nobody could be told.
    failure: Option<Error>,
}

// SAFETY: any thread that has bound the device may use its kernels and graphs, one at a time.
unsafe impl Send for State {}

impl Launches {
    /// Launches on `stream`, kept back or not.
    pub(super) fn new(stream: Stream, batching: bool) -> Self {
        let state = State { batcher: LaunchBatcher::new(batching), failure: None };
        Self { stream, state: Mutex::new(state) }
    }

    /// The stream as it is.
    pub(super) fn stream(&self) -> &Stream {
        &self.stream
    }

    /// One more.
    pub(super) fn add<A: Args>(&self, function: CUfunction, kernel: &Kernel, grid: [u32; 3], args: &A) -> Result<()> {
        let mut state = self.state.lock();
        state.failure.take().map_or(Ok(()), Err)?;
        state.batcher.launch(&self.stream, function, kernel, grid, args)
    }

    /// Gives them to the device; what is then put on the stream comes behind them.
    pub(super) fn flush(&self) -> Result<&Stream> {
        let mut state = self.state.lock();
        state.failure.take().map_or(Ok(()), Err)?;
        state.batcher.flush(&self.stream)?;
        Ok(&self.stream)
    }

    /// As [`Self::flush`], but whoever asks the queue for something next is told of an error.
    fn hand_over_silently(&self) {
        let mut state = self.state.lock();
        if let Err(error) = state.batcher.flush(&self.stream) {
            state.failure.get_or_insert(error);
        }
    }

    /// Drops what is kept back, which nobody waits for, and the graphs.
    pub(super) fn discard(&self) {
        self.state.lock().batcher.discard();
    }
}

/// The launches of all queues of a device.
#[derive(Default)]
pub(super) struct AllLaunches(Mutex<Vec<Weak<Launches>>>);

impl AllLaunches {
    pub(super) fn add(&self, launches: &Arc<Launches>) {
        let mut all = self.0.lock();
        all.retain(|launches| launches.strong_count() > 0);
        all.push(Arc::downgrade(launches));
    }

    /// Gives all of them to the device, which knows then what memory is in use.
    pub(super) fn flush(&self) {
        let all: Vec<_> = self.0.lock().iter().filter_map(Weak::upgrade).collect();
        all.iter().for_each(|launches| launches.hand_over_silently());
    }
}
