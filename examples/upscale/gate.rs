// SPDX-License-Identifier: MPL-2.0

//! Keeps video and tracks from the muxer until it is known which tracks there are: a muxer that has begun takes no further
//! track, and it numbers them as they come.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gst::prelude::*;
use gstreamer as gst;

use crate::track::Slot;

/// The pad of the muxer that waits.
pub struct Gate {
    video: gst::Pad,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Tracks that are to get into the muxer, in their order in the input.
    slots: Vec<Arc<Slot>>,
    /// Tracks of which it is not known yet whether they do.
    undecided: usize,
    /// Keeps the video from the muxer; none once video has got there.
    block: Option<gst::PadProbeId>,
    /// Whether video is waiting there.
    holds: bool,
}

impl Gate {
    /// Blocks the pad of a muxer for the video.
    pub fn new(video: &gst::Pad) -> Arc<Self> {
        let gate = Arc::new(Self { video: video.clone(), state: Mutex::default() });
        let weak = Arc::downgrade(&gate);
        let mask = gst::PadProbeType::BLOCK | gst::PadProbeType::BUFFER;
        let block = video.add_probe(mask, move |_, _| {
            let Some(gate) = weak.upgrade() else { return gst::PadProbeReturn::Remove };
            let mut state = gate.state();
            state.holds = state.undecided > 0;
            if state.holds {
                return gst::PadProbeReturn::Ok;
            }
            state.block = None;
            gst::PadProbeReturn::Remove
        });
        gate.state().block = block;
        gate
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// There is one more track to wait for. False if the muxer has begun.
    pub fn expect(&self, slot: Arc<Slot>) -> bool {
        let mut state = self.state();
        let in_time = state.block.is_some();
        if in_time {
            state.slots.push(slot);
            state.undecided += 1;
        }
        in_time
    }

    /// A track is ready for the muxer, or left out. The last one opens the gate.
    pub fn track_decided(&self) {
        let mut state = self.state();
        state.undecided = state.undecided.saturating_sub(1);
        if state.undecided > 0 {
            return;
        }
        // Further tracks wait for the state, and with it for the pads of these.
        for slot in std::mem::take(&mut state.slots) {
            slot.enter_muxer();
        }
        let block = if state.holds { state.block.take() } else { None };
        drop(state);
        if let Some(block) = block {
            self.video.remove_probe(block);
        }
    }
}
