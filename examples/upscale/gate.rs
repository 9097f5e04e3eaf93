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

struct State {
    /// All tracks, in their order in the input.
    slots: Vec<Arc<Slot>>,
    /// Tracks of which it is not known yet whether they get into the muxer.
    undecided: usize,
    /// Keeps the video from the muxer.
    block: Option<gst::PadProbeId>,
}

impl Gate {
    /// Blocks the pad of a muxer for the video.
    pub fn new(video: &gst::Pad) -> Self {
        let mask = gst::PadProbeType::BLOCK | gst::PadProbeType::BUFFER;
        let block = video.add_probe(mask, |_, _| gst::PadProbeReturn::Ok);
        // One more than there are tracks, until all of them are known.
        Self { video: video.clone(), state: Mutex::new(State { slots: Vec::new(), undecided: 1, block }) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// There is one more track to wait for.
    pub fn expect(&self, slot: Arc<Slot>) {
        let mut state = self.state();
        state.slots.push(slot);
        state.undecided += 1;
    }

    /// All tracks are known.
    pub fn all_expected(&self) {
        self.track_decided();
    }

    /// A track is ready for the muxer, or left out. The last one opens the gate.
    pub fn track_decided(&self) {
        let (slots, block) = {
            let mut state = self.state();
            state.undecided = state.undecided.saturating_sub(1);
            if state.undecided > 0 {
                return;
            }
            (std::mem::take(&mut state.slots), state.block.take())
        };
        for slot in slots {
            slot.enter_muxer();
        }
        if let Some(block) = block {
            self.video.remove_probe(block);
        }
    }
}
