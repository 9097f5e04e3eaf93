// SPDX-License-Identifier: MPL-2.0

//! How long an input is, beside how long its container says that it is: a file that was cut off is shorter.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use gst::prelude::*;
use gstreamer as gst;

use crate::tally::running_time;
use crate::words::clock;

/// Difference that means nothing: containers round, and tracks end together to within a packet.
const TOLERANCE: gst::ClockTime = gst::ClockTime::from_mseconds(500);

/// The length of an input.
#[derive(Debug, Default)]
pub struct Length {
    /// Nanoseconds; 0 if unknown.
    declared: AtomicU64,
    /// Where the last packet of any stream ended, in nanoseconds.
    end: AtomicU64,
    goes_on: AtomicBool,
    /// Why the input could not be read to its end.
    fault: Mutex<Option<String>>,
}

impl Length {
    /// Looks at a stream of the input, where it comes out of the container.
    pub fn watch(self: &Arc<Self>, pad: &gst::Pad) {
        let length = self.clone();
        let asked = AtomicBool::new(false);
        pad.add_probe(gst::PadProbeType::BUFFER, move |pad, info| {
            if !asked.swap(true, Ordering::Relaxed)
                && let Some(declared) = pad.query_duration::<gst::ClockTime>()
            {
                length.declared.fetch_max(declared.nseconds(), Ordering::Relaxed);
            }
            if let Some(buffer) = info.buffer() {
                let end = buffer.pts().or(buffer.dts()).map(|time| time + buffer.duration().unwrap_or_default());
                let end = running_time(pad, end).unwrap_or_default();
                length.end.fetch_max(end.nseconds(), Ordering::Relaxed);
            }
            gst::PadProbeReturn::Ok
        });
    }

    /// The input has begun another set of streams, which is not read.
    pub fn goes_on(&self) {
        self.goes_on.store(true, Ordering::Relaxed);
    }

    /// The input could not be read any further.
    pub fn broke_off(&self, reason: &str) {
        let mut fault = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        fault.get_or_insert_with(|| reason.to_owned());
    }

    /// What is missing, in words, when the input has come to its end; of a piece of it, which was not to be read to there, only
    /// what could not be read.
    pub fn shortfall(&self, all: bool) -> Option<String> {
        let declared = gst::ClockTime::from_nseconds(self.declared.load(Ordering::Relaxed));
        let end = gst::ClockTime::from_nseconds(self.end.load(Ordering::Relaxed));
        if let Some(fault) = &*self.fault.lock().unwrap_or_else(PoisonError::into_inner) {
            return Some(format!("the file cannot be read beyond {}: {fault}", clock(end)));
        }
        if !all {
            return None;
        }
        if self.goes_on.load(Ordering::Relaxed) {
            return Some(format!(
                "other streams follow in the file at {}; cut it there and upscale both parts",
                clock(end)
            ));
        }
        (end + TOLERANCE < declared).then(|| {
            format!("the file says that it lasts {}, but ends at {}: was it cut off?", clock(declared), clock(end))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn length(declared: u64, end: u64) -> Length {
        let nanoseconds = |ms: u64| AtomicU64::new(1_000_000 * ms);
        Length { declared: nanoseconds(declared), end: nanoseconds(end), ..Length::default() }
    }

    #[test]
    fn a_file_that_ends_early_is_told() {
        let said = length(6000, 2960).shortfall(true).unwrap();
        assert!(said.contains("0:06.0") && said.contains("0:02.9"), "{said}");
    }

    #[test]
    fn rounding_and_unknown_durations_are_no_shortfall() {
        for (declared, end) in [(6000, 6000), (6000, 5700), (6000, 6300), (0, 6000)] {
            assert_eq!(length(declared, end).shortfall(true), None, "{declared} {end}");
        }
    }
}
