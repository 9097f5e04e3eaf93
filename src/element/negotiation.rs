// SPDX-License-Identifier: MPL-2.0

//! What the element answers about caps, and what it says when it refuses some.

use gst::prelude::*;
use gst::subclass::prelude::*;
use gst_base::prelude::*;

use super::caps::{INPUT, OUTPUT, Scaling};
use super::errors::Failure;
use super::imp::FlashVsr;
use super::interlacing;

impl FlashVsr {
    pub(super) fn scaling(&self) -> Scaling {
        let settings = self.settings.lock();
        Scaling { scale: settings.scale, policy: settings.size_policy.into() }
    }

    /// The caps that the pad of `direction` can have. The base class would put those of the other pad first, since an element
    /// that changes nothing is the cheapest; ours is there to change the size.
    pub(super) fn possible_caps(&self, direction: gst::PadDirection, filter: Option<&gst::Caps>) -> gst::Caps {
        let element = self.obj();
        let sink = direction == gst::PadDirection::Sink;
        let (other, there, template, template_there) = match sink {
            true => (element.src_pad(), gst::PadDirection::Src, &INPUT, &OUTPUT),
            false => (element.sink_pad(), gst::PadDirection::Sink, &OUTPUT, &INPUT),
        };
        let scaling = self.scaling();
        let filter_there = filter.map(|filter| scaling.transform(direction, &filter.intersect(template)));
        let caps_there = other.peer_query_caps(filter_there.as_ref()).intersect(template_there);
        let caps = scaling.transform(there, &caps_there).intersect(&OUTPUT);
        let caps = if sink { interlacing::with_interlaced(&caps) } else { caps };
        match filter {
            Some(filter) => caps.intersect_with_mode(filter, gst::CapsIntersectMode::First),
            None => caps,
        }
    }

    /// Says why caps were refused, if no size would have done; the frames before them come out. False, as an event handler's
    /// answer.
    pub(super) fn explain_refusal(&self, caps: &gst::Caps) -> bool {
        self.drain();
        let scaling = self.scaling();
        let possible = scaling.transform(gst::PadDirection::Sink, caps);
        let wanted = self.obj().src_pad().peer_query_caps(None);
        if !possible.can_intersect(&wanted) {
            let caps = format!("input {caps}, possible output {possible}, downstream {wanted}");
            self.report(&Failure::NoCommonCaps(caps));
        } else if let Some(size) = scaling.unrepresentable(caps) {
            self.report(&Failure::TooLarge(size));
        }
        false
    }

    /// Refuses caps that are not progressive, with the reason; the frames before them come out.
    pub(super) fn check_input(&self, caps: &gst::Caps) -> bool {
        let checked = interlacing::check(caps);
        if let Err(failure) = &checked {
            self.drain();
            self.report(failure);
        }
        checked.is_ok()
    }
}
