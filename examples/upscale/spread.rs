// SPDX-License-Identifier: MPL-2.0

//! The arithmetic of [`crate::timeline`]: where frames go that have no time of their own.

use gstreamer as gst;

/// Frames without a time that are held for the next frame that has one.
const HELD: usize = 16;

/// The duration of a frame of which nothing is known.
const DEFAULT_DURATION: gst::ClockTime = gst::ClockTime::from_mseconds(40);

/// A frame with its place in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timed<T> {
    /// The frame.
    pub frame: T,
    /// When it is shown.
    pub time: gst::ClockTime,
    /// For how long.
    pub duration: gst::ClockTime,
}

/// Gives frames times that rise. Frames whose time is missing, or not later than that of the frame before, are spread evenly
/// up to the next frame with a later time.
#[derive(Debug)]
pub struct Spread<T> {
    /// The duration of a frame by the frame rate.
    nominal: Option<gst::ClockTime>,
    /// The frame before, which waits for the next one to learn its duration.
    last: Option<(T, gst::ClockTime, Option<gst::ClockTime>)>,
    /// The frames behind it that have no time of their own.
    waiting: Vec<(T, Option<gst::ClockTime>)>,
    /// From the frame before the last one to the last one.
    spacing: Option<gst::ClockTime>,
    spread: u64,
}

impl<T> Default for Spread<T> {
    fn default() -> Self {
        Self { nominal: None, last: None, waiting: Vec::new(), spacing: None, spread: 0 }
    }
}

impl<T> Spread<T> {
    /// Takes the frame rate, where it is known.
    pub fn set_rate(&mut self, rate: gst::Fraction) {
        use gst::prelude::MulDiv;
        let (numer, denom) = (u64::try_from(rate.numer()).unwrap_or(0), u64::try_from(rate.denom()).unwrap_or(0));
        let duration = if numer == 0 { None } else { gst::ClockTime::SECOND.nseconds().mul_div_round(denom, numer) };
        self.nominal = duration.filter(|duration| *duration > 0).map(gst::ClockTime::from_nseconds);
    }

    /// Moves the first frame, which is still held.
    pub fn move_first(&mut self, time: gst::ClockTime) {
        if let Some((_, first, _)) = &mut self.last
            && self.spacing.is_none()
            && self.waiting.is_empty()
        {
            *first = time;
        }
    }

    /// The first frame, if it is held and no other one.
    pub fn first(&self) -> Option<&T> {
        let (frame, ..) = self.last.as_ref()?;
        (self.spacing.is_none() && self.waiting.is_empty()).then_some(frame)
    }

    /// Frames that had no time of their own.
    pub fn spread(&self) -> u64 {
        self.spread
    }

    /// Takes a frame, and returns those whose place is known by now.
    pub fn push(&mut self, frame: T, time: Option<gst::ClockTime>, duration: Option<gst::ClockTime>) -> Vec<Timed<T>> {
        let duration = duration.filter(|duration| !duration.is_zero());
        let Some((_, last, _)) = &self.last else {
            self.last = Some((frame, time.unwrap_or_default(), duration));
            return Vec::new();
        };
        match time {
            Some(time) if time > *last => {
                let parts = self.waiting.len() as u64 + 1;
                let step = (time - *last) / parts;
                let ready = self.advance(step);
                self.emit(frame, time, duration, ready)
            }
            _ => {
                self.spread += 1;
                self.waiting.push((frame, duration));
                if self.waiting.len() < HELD { Vec::new() } else { self.advance(self.step()) }
            }
        }
    }

    /// Returns the frames that are held, at the end of the stream.
    pub fn finish(&mut self) -> Vec<Timed<T>> {
        let mut ready = self.advance(self.step());
        let step = self.step();
        ready.extend(self.last.take().map(|(frame, time, duration)| Timed {
            frame,
            time,
            duration: duration.unwrap_or(step),
        }));
        ready
    }

    /// Forgets the frames that are held.
    pub fn clear(&mut self) {
        self.last = None;
        self.waiting.clear();
    }

    /// The distance to a next frame of which nothing is known.
    fn step(&self) -> gst::ClockTime {
        self.nominal.or(self.spacing).unwrap_or(DEFAULT_DURATION)
    }

    /// Places the frames that wait, `step` from one to the next. The last of them becomes the frame before.
    fn advance(&mut self, step: gst::ClockTime) -> Vec<Timed<T>> {
        let mut ready = Vec::new();
        for (frame, duration) in std::mem::take(&mut self.waiting) {
            let Some((_, last, _)) = &self.last else { break };
            ready = self.emit(frame, *last + step, duration, ready);
        }
        ready
    }

    /// Makes `frame` the last one, and adds the one that was to those that are `ready`.
    fn emit(
        &mut self,
        frame: T,
        time: gst::ClockTime,
        duration: Option<gst::ClockTime>,
        mut ready: Vec<Timed<T>>,
    ) -> Vec<Timed<T>> {
        if let Some((before, since, own)) = self.last.replace((frame, time, duration)) {
            let gap = time - since;
            self.spacing = Some(gap);
            ready.push(Timed { frame: before, time: since, duration: own.map_or(gap, |own| own.min(gap)) });
        }
        ready
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> gst::ClockTime = gst::ClockTime::from_mseconds;

    /// Times and durations, in milliseconds, of frames with these times at 25 frames per second, or without a rate.
    fn spread(times: &[Option<u64>], rate: i32) -> Vec<(u64, u64)> {
        let mut spread = Spread::default();
        spread.set_rate(gst::Fraction::new(rate, 1));
        let mut frames = Vec::new();
        for (number, time) in times.iter().enumerate() {
            frames.extend(spread.push(number, time.map(MS), None));
        }
        frames.extend(spread.finish());
        assert!(frames.iter().map(|frame| frame.frame).eq(0..times.len()), "every frame, in its order: {frames:?}");
        frames.iter().map(|frame| (frame.time.mseconds(), frame.duration.mseconds())).collect()
    }

    #[test]
    fn times_that_rise_are_kept() {
        let given = [Some(40), Some(80), Some(200), Some(210)];
        assert_eq!(spread(&given, 25), [(40, 40), (80, 120), (200, 10), (210, 40)]);
    }

    #[test]
    fn equal_times_are_spread_half_way_to_the_next() {
        assert_eq!(spread(&[Some(0), Some(40), Some(40), Some(120)], 25), [(0, 40), (40, 40), (80, 40), (120, 40)]);
        let thirds = [Some(0), Some(0), Some(0), Some(3)];
        assert_eq!(spread(&thirds, 0), [(0, 1), (1, 1), (2, 1), (3, 1)]);
    }

    #[test]
    fn times_that_run_backwards_do_not_count() {
        assert_eq!(spread(&[Some(40), Some(0), Some(120)], 25), [(40, 40), (80, 40), (120, 40)]);
    }

    #[test]
    fn missing_times_follow_the_rate_or_the_spacing() {
        let frames = spread(&[None; 40], 50);
        assert!(frames.iter().enumerate().all(|(number, frame)| *frame == (20 * number as u64, 20)), "{frames:?}");
        assert_eq!(spread(&[Some(0), Some(10), None, None], 0), [(0, 10), (10, 10), (20, 10), (30, 10)]);
    }

    #[test]
    fn a_clock_that_starts_again_goes_on_at_the_rate() {
        let times: Vec<Option<u64>> = (0..30).chain(0..60).map(|number| Some(40 * number)).collect();
        let frames = spread(&times, 25);
        assert!(frames.iter().enumerate().all(|(number, frame)| *frame == (40 * number as u64, 40)), "{frames:?}");
    }

    #[test]
    fn a_single_frame_has_a_duration() {
        assert_eq!(spread(&[None], 0), [(0, 40)]);
        assert_eq!(spread(&[Some(7)], 0), [(7, 40)]);
    }

    #[test]
    fn the_duration_of_a_frame_ends_at_the_next_at_the_latest() {
        let mut spread = Spread::default();
        let mut frames = spread.push('a', Some(MS(0)), Some(MS(500)));
        frames.extend(spread.push('b', Some(MS(40)), Some(MS(30))));
        frames.extend(spread.push('c', Some(MS(80)), Some(MS(30))));
        frames.extend(spread.finish());
        assert!(frames.iter().map(|frame| frame.duration).eq([MS(40), MS(30), MS(30)]), "{frames:?}");
    }
}
