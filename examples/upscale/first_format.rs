// SPDX-License-Identifier: MPL-2.0

//! A film whose size or format changes midway goes on in its first: a track of an output has one.

use std::sync::{Arc, Mutex, PoisonError};

use gst::prelude::*;
use gstreamer as gst;
use gstreamer_video as gst_video;

use crate::tally::{Tally, running_time};
use crate::words::clock;

#[derive(Default)]
struct State {
    first: Option<Shape>,
    now: Option<Shape>,
    /// A change whose first frame has not come yet.
    changed: bool,
}

/// Size and shape of the pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shape {
    width: u32,
    height: u32,
    par: gst::Fraction,
}

impl Shape {
    fn of(info: &gst_video::VideoInfo) -> Self {
        Self { width: info.width(), height: info.height(), par: info.par() }
    }
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}x{}", self.width, self.height)?;
        if self.par != gst::Fraction::new(1, 1) {
            write!(f, " (pixels {}:{})", self.par.numer(), self.par.denom())?;
        }
        Ok(())
    }
}

/// Fixes the caps of `filter`, which stands behind the resizing element with the sink pad `pad`, to the first that come, and
/// tells of changes. The resizing element adds bars where the shape changes.
pub fn keep(pad: &gst::Pad, filter: gst::Element, tally: &Arc<Tally>) {
    let (state, tally) = (Mutex::new(State::default()), tally.clone());
    pad.add_probe(gst::PadProbeType::BUFFER | gst::PadProbeType::EVENT_DOWNSTREAM, move |pad, info| {
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(gst::EventView::Caps(caps)) = info.event().map(|event| event.view())
            && let Ok(info) = gst_video::VideoInfo::from_caps(caps.caps())
        {
            let shape = Shape::of(&info);
            if state.first.is_none() {
                state.first = Some(shape);
                filter.set_property("caps", fixed(caps.caps()));
            } else {
                state.changed = state.now != Some(shape);
            }
            state.now = Some(shape);
        } else if let Some(buffer) = info.buffer()
            && state.changed
            && let (Some(first), Some(now)) = (state.first, state.now)
        {
            state.changed = false;
            let time = clock(running_time(pad, buffer.pts()).unwrap_or_default());
            tally.note(if now == first {
                format!("from {time} on, the input has its first size again")
            } else {
                format!("at {time} the size of the input changes to {now}; it is fitted into the first size, {first}, with bars")
            });
        }
        gst::PadProbeReturn::Ok
    });
}

/// What must not change in the caps of a track.
fn fixed(caps: &gst::CapsRef) -> gst::Caps {
    let mut fixed = gst_video::VideoCapsBuilder::new().build();
    let names = ["format", "width", "height", "pixel-aspect-ratio", "colorimetry", "chroma-site"];
    if let (Some(from), Some(to)) = (caps.structure(0), fixed.make_mut().structure_mut(0)) {
        for name in names {
            if let Ok(value) = from.value(name) {
                to.set_value(name, value.to_owned());
            }
        }
    }
    fixed
}
