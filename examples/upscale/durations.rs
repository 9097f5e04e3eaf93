// SPDX-License-Identifier: MPL-2.0

//! Carries the durations of frames past an encoder and its parser, which forgets those of a variable frame rate.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gst::prelude::*;
use gstreamer as gst;

use crate::tally::running_time;

/// Durations by running time, of the frames that are being encoded: encoders shift their timestamps.
#[derive(Debug, Clone, Default)]
pub struct Durations(Arc<Known>);

type Known = Mutex<HashMap<gst::ClockTime, gst::ClockTime>>;

impl Durations {
    /// Learns the durations of the frames that pass `pad`.
    pub fn learn_at(&self, pad: &gst::Pad) {
        let durations = self.0.clone();
        pad.add_probe(gst::PadProbeType::BUFFER, move |pad, info| {
            if let Some(buffer) = info.buffer()
                && let Some((time, duration)) = running_time(pad, buffer.pts()).zip(buffer.duration())
            {
                lock(&durations).insert(time, duration);
            }
            gst::PadProbeReturn::Ok
        });
    }

    /// Gives the same frames, encoded, their durations back where they pass `pad`.
    pub fn restore_at(&self, pad: &gst::Pad) {
        let durations = self.0.clone();
        pad.add_probe(gst::PadProbeType::BUFFER, move |pad, info| {
            let Some(buffer) = info.buffer_mut() else { return gst::PadProbeReturn::Ok };
            let known = running_time(pad, buffer.pts()).and_then(|time| lock(&durations).remove(&time));
            if known.is_some() && buffer.duration() != known {
                buffer.make_mut().set_duration(known);
            }
            gst::PadProbeReturn::Ok
        });
    }
}

fn lock(durations: &Known) -> MutexGuard<'_, HashMap<gst::ClockTime, gst::ClockTime>> {
    durations.lock().unwrap_or_else(PoisonError::into_inner)
}
