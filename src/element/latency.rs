// SPDX-License-Identifier: MPL-2.0

//! How long a frame takes from the sink pad to the source pad, as far as that can be known.

use std::time::Duration;

use gst::prelude::*;

use crate::schedule::{FRAMES_PER_LATENT, STEADY_LATENTS, Schedule, Startup};

/// Frames of every window but the first.
const WINDOW: u64 = FRAMES_PER_LATENT * STEADY_LATENTS;

/// The latency of one stream: what its windows wait for, and what is allowed for computing them.
///
/// The allowance consists of whole windows, so that it hardly ever changes: one from the start, since a window that takes longer
/// than the next one needs to come in never keeps up, and more only if the first window, which may have as much to compute
/// as several others, has taken longer. It only grows.
#[derive(Debug)]
pub struct Latency {
    rate: gst::Fraction,
    /// Frame durations until the window of a frame is complete.
    waiting: u64,
    /// Windows that are allowed for computing.
    computing: u64,
    /// Windows that have together as much to compute as the first one: the most that are allowed.
    most: u64,
    /// By how much the next frame of this window would be late if nothing were allowed.
    late: Duration,
}

impl Latency {
    /// The latency before anything has been computed.
    pub fn new(rate: gst::Fraction, startup: Startup) -> Self {
        let most = startup.latents().div_ceil(STEADY_LATENTS);
        Self { rate, waiting: waiting(startup), computing: 1, most, late: Duration::ZERO }
    }

    /// Counts a frame that came in; the window that it may have completed took `busy`.
    pub fn frame_in(&mut self, busy: Duration) {
        self.late = busy;
    }

    /// Counts a frame that went out; its decoding took `busy`.
    pub fn frame_out(&mut self, busy: Duration) {
        self.late += busy;
        let windows = self.frames(self.late).div_ceil(WINDOW);
        self.computing = windows.clamp(self.computing, self.most);
        // The next one is due later.
        self.late = self.late.saturating_sub(Duration::from_nanos(self.nanoseconds(1)));
    }

    /// The latency in nanoseconds; 0 for a variable frame rate, which has no honest number.
    pub fn total(&self) -> u64 {
        self.nanoseconds(self.waiting + WINDOW * self.computing)
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

    /// The whole frame durations that `time` fits into.
    fn frames(&self, time: Duration) -> u64 {
        let Some((numer, denom)) = self.per_second() else { return 0 };
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        nanoseconds.mul_div_ceil(numer, denom * gst::ClockTime::SECOND.nseconds()).unwrap_or(u64::MAX)
    }
}

/// The most frames that have to follow a frame until its window is complete. After a short first window it is the second
/// one that waits longest.
fn waiting(startup: Startup) -> u64 {
    let schedule = Schedule::new(startup);
    let waits = |index| {
        let window = schedule.window(index);
        window.lq_frames.end - 1 - window.output_frames.start
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
            let waits =
                |index| schedule.window(index).output_frames.map(move |n| schedule.frames_needed(index) - 1 - n);
            assert_eq!((0..9).flat_map(waits).max(), Some(waiting(startup)));
        }
        assert_eq!((waiting(Startup::Reference), waiting(Startup::LowLatency)), (24, 11));
    }

    #[test]
    fn a_window_of_computing_is_allowed_from_the_start() {
        for (startup, waiting) in [(Startup::Reference, 24.0), (Startup::LowLatency, 11.0)] {
            let mut latency = new(startup);
            assert_eq!(frames(&latency), waiting + 8.0);
            for _ in 0..20 {
                latency.frame_in(FRAME * 8);
                latency.frame_out(Duration::ZERO);
                assert_eq!(frames(&latency), waiting + 8.0, "a window in time changes nothing");
            }
        }
    }

    #[test]
    fn a_long_first_window_counts_in_whole_windows_and_nothing_shrinks() {
        let mut latency = new(Startup::Reference);
        latency.frame_in(FRAME * 8);
        assert_eq!(frames(&latency), 32.0, "no frame was waiting for it");
        latency.frame_out(FRAME / 2);
        assert_eq!(frames(&latency), 40.0);
        latency.frame_in(FRAME / 2);
        latency.frame_out(FRAME / 4);
        assert_eq!(frames(&latency), 40.0);
        latency.frame_in(FRAME * 1000);
        latency.frame_out(FRAME);
        assert_eq!(frames(&latency), 48.0, "what takes longer never keeps up");
        // The first window of a short start has no more to compute than others.
        let mut latency = new(Startup::LowLatency);
        latency.frame_in(FRAME * 1000);
        latency.frame_out(FRAME);
        assert_eq!(frames(&latency), 19.0);
    }

    #[test]
    fn decoding_that_falls_behind_adds_up() {
        let mut latency = new(Startup::Reference);
        latency.frame_in(FRAME * 6);
        latency.frame_out(FRAME / 2);
        latency.frame_out(FRAME * 2);
        assert_eq!(frames(&latency), 32.0, "the second one is due a frame later");
        latency.frame_out(FRAME * 2);
        assert_eq!(frames(&latency), 40.0);
    }

    #[test]
    fn the_total_is_rounded_only_once() {
        let latency = Latency::new(gst::Fraction::new(30_000, 1001), Startup::Reference);
        assert_eq!(latency.total(), 1_067_733_334);
        let latency = Latency::new(gst::Fraction::new(i32::MAX, 1), Startup::Reference);
        assert_eq!(latency.total(), 15);
        let latency = Latency::new(gst::Fraction::new(1, i32::MAX), Startup::Reference);
        assert_eq!(latency.total(), gst::ClockTime::MAX.nseconds());
        assert_eq!(latency.frames(Duration::MAX), 9);
    }

    #[test]
    fn a_variable_rate_has_no_latency() {
        let mut latency = Latency::new(gst::Fraction::new(0, 1), Startup::Reference);
        latency.frame_in(FRAME);
        latency.frame_out(FRAME);
        assert_eq!(latency.total(), 0);
    }
}
