// SPDX-License-Identifier: MPL-2.0

//! Gives the packets of a track durations where a parser gives none: MP4 cuts a track off in front of a last packet without.

use std::sync::{Mutex, PoisonError};

use gst::prelude::*;
use gstreamer as gst;

#[derive(Default)]
struct State {
    /// The packet that waits for the time of the next one.
    held: Option<gst::Buffer>,
    last: Option<gst::ClockTime>,
}

/// Adds durations to the packets that leave `pad`: a packet lasts until the next one, and the last one as long as that before.
pub fn add(pad: &gst::Pad) {
    let state = Mutex::new(State::default());
    let mask = gst::PadProbeType::BUFFER | gst::PadProbeType::EVENT_DOWNSTREAM | gst::PadProbeType::EVENT_FLUSH;
    pad.add_probe(mask, move |pad, info| {
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(buffer) = info.buffer() {
            if buffer.duration().is_some() && state.held.is_none() {
                return gst::PadProbeReturn::Ok;
            }
            let Some(gst::PadProbeData::Buffer(buffer)) = info.data.take() else { return gst::PadProbeReturn::Ok };
            let next = buffer.pts();
            let Some(mut held) = state.held.replace(buffer) else {
                info.flow_res = Ok(gst::FlowSuccess::Ok);
                return gst::PadProbeReturn::Handled;
            };
            let gap = next.zip(held.pts()).and_then(|(next, time)| next.checked_sub(time));
            if held.duration().is_none() {
                held.make_mut().set_duration(gap);
            }
            state.last = gap.or(state.last);
            info.data = Some(gst::PadProbeData::Buffer(held));
            return gst::PadProbeReturn::Ok;
        }
        match info.event().map(|event| event.view()) {
            Some(gst::EventView::FlushStop(_)) => *state = State::default(),
            Some(gst::EventView::Eos(_) | gst::EventView::Segment(_)) => {
                if let Some(mut held) = state.held.take() {
                    if held.duration().is_none() {
                        held.make_mut().set_duration(state.last);
                    }
                    let pad = pad.clone();
                    drop(state);
                    // Without its packets the probe is left alone; who takes no more has said so to the packets before.
                    let _ = pad.peer().map(|peer| peer.chain(held));
                }
            }
            _ => {}
        }
        gst::PadProbeReturn::Ok
    });
}
