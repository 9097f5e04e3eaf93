// SPDX-License-Identifier: MPL-2.0

//! How long a frame takes from the sink pad to the source pad, as far as that can be known.

use std::time::Duration;

use gst::prelude::*;

use crate::stream::{FRAMES_PER_LATENT, STEADY_LATENTS, Schedule, Startup};

/// The most frame durations that are allowed for computing: one window. What takes longer never keeps up, and then no
/// latency would do.
const MOST: u64 = FRAMES_PER_LATENT * STEADY_LATENTS;

/// The latency of one stream: what its windows wait for, and the longest that their frames have been computed so far, in
/// whole frame durations so that it seldom changes. It only grows.
#[derive(Debug)]
pub struct Latency {
    rate: gst::Fraction,
    /// Frame durations until the window of a frame is complete.
    windows: u64,
    /// Frame durations for computing, up to [`MOST`].
    computing: u64,
    /// By how much the next frame of this window would be late if nothing were allowed.
    late: Duration,
}

impl Latency {
    /// The latency before anything has been computed.
    pub fn new(rate: gst::Fraction, startup: Startup) -> Self {
        Self { rate, windows: waiting(startup), computing: 0, late: Duration::ZERO }
    }

    /// Counts a frame that came in; the window that it may have completed took `busy`.
    pub fn frame_in(&mut self, busy: Duration) {
        self.late = busy;
    }

    /// Counts a frame that went out; its decoding took `busy`.
    pub fn frame_out(&mut self, busy: Duration) {
        self.late += busy;
        self.computing = self.computing.max(self.frames(self.late));
        // The next one is due later.
        self.late = self.late.saturating_sub(Duration::from_nanos(self.nanoseconds(1)));
    }

    /// The latency in nanoseconds; 0 for a variable frame rate, which has no honest number.
    pub fn total(&self) -> u64 {
        self.nanoseconds(self.windows + self.computing)
    }

    /// Numerator and denominator of the frame rate, unless it is variable.
    fn per_second(&self) -> Option<(u64, u64)> {
        let (numer, denom) = (u64::try_from(self.rate.numer()).ok()?, u64::try_from(self.rate.denom()).ok()?);
        (numer > 0).then_some((numer, denom))
    }

    fn nanoseconds(&self, frames: u64) -> u64 {
        let Some((numer, denom)) = self.per_second() else { return 0 };
        let longest = gst::ClockTime::MAX.nseconds();
        (frames * gst::ClockTime::SECOND.nseconds()).mul_div_ceil(denom, numer).map_or(longest, |n| n.min(longest))
    }

    /// The whole frame durations that `time` fits into, up to [`MOST`].
    fn frames(&self, time: Duration) -> u64 {
        let Some((numer, denom)) = self.per_second() else { return 0 };
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        nanoseconds.mul_div_ceil(numer, denom * gst::ClockTime::SECOND.nseconds()).unwrap_or(MOST).min(MOST)
    }
}

/// The most frames that have to follow a frame until its window is complete. After a short first window it is the second
/// one that waits longest.
fn waiting(startup: Startup) -> u64 {
    let schedule = Schedule::new(startup);
    let waits = |index| {
        let window = schedule.window(index);
        window.projected.end - 1 - window.shown.start
    };
    waits(0).max(waits(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: Duration = Duration::from_millis(40);

    fn frames(latency: &Latency) -> f64 {
        latency.total() as f64 / FRAME.as_nanos() as f64
    }

    fn new(startup: Startup) -> Latency {
        Latency::new(gst::Fraction::new(25, 1), startup)
    }

    #[test]
    fn every_frame_is_there_within_its_windows() {
        for startup in [Startup::Reference, Startup::LowLatency] {
            let schedule = Schedule::new(startup);
            let waits = |index| schedule.window(index).shown.map(move |n| schedule.frames_needed(index) - 1 - n);
            assert_eq!((0..9).flat_map(waits).max(), Some(waiting(startup)));
        }
        assert_eq!((waiting(Startup::Reference), waiting(Startup::LowLatency)), (24, 11));
    }

    #[test]
    fn computing_is_rounded_up_to_frames_and_capped_at_a_window() {
        let latency = new(Startup::Reference);
        let rounded = |ms| latency.frames(Duration::from_micros(ms));
        assert_eq!([0, 1, 39_999, 40_000, 40_001, 320_000].map(rounded), [0, 1, 1, 1, 2, 8]);
        assert_eq!([320_001, 3_600_000_000, u64::MAX].map(rounded), [8, 8, 8]);
    }

    #[test]
    fn the_longest_computing_counts_and_nothing_shrinks() {
        let mut latency = new(Startup::Reference);
        assert_eq!(frames(&latency), 24.0);
        latency.frame_in(FRAME * 2);
        assert_eq!(frames(&latency), 24.0, "no frame was waiting for it");
        latency.frame_out(FRAME / 2);
        assert_eq!(frames(&latency), 27.0);
        latency.frame_in(FRAME / 2);
        latency.frame_out(FRAME / 4);
        assert_eq!(frames(&latency), 27.0);
        latency.frame_in(FRAME * 100);
        latency.frame_out(FRAME);
        assert_eq!(frames(&latency), 32.0);
    }

    #[test]
    fn a_window_that_keeps_up_needs_no_more_than_its_first_frame() {
        let mut latency = new(Startup::LowLatency);
        latency.frame_in(FRAME);
        for _ in 0..8 {
            latency.frame_out(FRAME * 9 / 10);
        }
        assert_eq!(frames(&latency), 13.0);
    }

    #[test]
    fn decoding_that_falls_behind_adds_up() {
        let mut latency = new(Startup::LowLatency);
        latency.frame_in(Duration::ZERO);
        latency.frame_out(FRAME / 2);
        latency.frame_out(FRAME * 4);
        assert_eq!(frames(&latency), 15.0);
    }

    #[test]
    fn the_total_is_rounded_only_once() {
        let latency = Latency::new(gst::Fraction::new(30_000, 1001), Startup::Reference);
        assert_eq!(latency.total(), 800_800_000);
        let latency = Latency::new(gst::Fraction::new(i32::MAX, 1), Startup::Reference);
        assert_eq!(latency.total(), 12);
        let latency = Latency::new(gst::Fraction::new(1, i32::MAX), Startup::Reference);
        assert_eq!(latency.total(), gst::ClockTime::MAX.nseconds());
        assert_eq!(latency.frames(Duration::MAX), 8);
    }

    #[test]
    fn a_variable_rate_has_no_latency() {
        let mut latency = Latency::new(gst::Fraction::new(0, 1), Startup::Reference);
        latency.frame_in(FRAME);
        latency.frame_out(FRAME);
        assert_eq!(latency.total(), 0);
    }
}
