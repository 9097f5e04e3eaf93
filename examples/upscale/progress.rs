// SPDX-License-Identifier: MPL-2.0

//! How far a job is and how fast, in words and for scripts.

use std::time::{Duration, Instant};

use gstreamer as gst;
use serde_json::{Value, json};

use crate::estimate::Estimate;
use crate::tally::Numbers;

/// How fast a job is. The model is loaded and the first window is filled only once, so that the pace is counted from the first
/// frame that comes out, as soon as more have followed.
#[derive(Debug)]
pub struct Pace {
    began: Instant,
    first: Option<Sample>,
    now: Instant,
}

#[derive(Debug, Clone, Copy)]
struct Sample {
    at: Instant,
    frames: u64,
    position: gst::ClockTime,
}

impl Pace {
    /// Starts the clock.
    pub fn new(began: Instant) -> Self {
        Self { began, first: None, now: began }
    }

    /// Takes a look at the job.
    pub fn observe(&mut self, numbers: &Numbers, now: Instant) {
        self.now = now;
        if self.first.is_none() && numbers.frames_upscaled > 0 {
            self.first = Some(Sample { at: now, frames: numbers.frames_upscaled, position: numbers.position });
        }
    }

    /// The time since the beginning.
    pub fn elapsed(&self) -> Duration {
        self.now - self.began
    }

    /// The sample from which to count.
    fn base(&self, numbers: &Numbers) -> Sample {
        let began = Sample { at: self.began, frames: 0, position: gst::ClockTime::ZERO };
        let grown = |first: &Sample| {
            numbers.frames_upscaled > first.frames && numbers.position > first.position && self.now > first.at
        };
        self.first.filter(grown).unwrap_or(began)
    }

    /// Frames per second.
    fn fps(&self, numbers: &Numbers) -> f64 {
        let base = self.base(numbers);
        (numbers.frames_upscaled - base.frames) as f64 / (self.now - base.at).as_secs_f64().max(1e-3)
    }

    /// The same as [`Pace::seconds_left`], once some windows have been upscaled one after the other.
    pub fn settled_seconds_left(&self, numbers: &Numbers, length: gst::ClockTime) -> Option<f64> {
        let settled = self.first.is_some_and(|first| numbers.frames_upscaled >= first.frames + SETTLED_FRAMES);
        if settled { self.seconds_left(numbers, length) } else { None }
    }

    /// Seconds until the end of an input of this length.
    fn seconds_left(&self, numbers: &Numbers, length: gst::ClockTime) -> Option<f64> {
        let base = self.base(numbers);
        let done = seconds(numbers.position) - seconds(base.position);
        let left = (seconds(length) - seconds(numbers.position)).max(0.0);
        (done > 0.0).then(|| left * (self.now - base.at).as_secs_f64() / done)
    }
}

/// The pace of these many frames is that of a long run.
const SETTLED_FRAMES: u64 = 32;

fn seconds(time: gst::ClockTime) -> f64 {
    time.nseconds() as f64 * 1e-9
}

/// The part of the input that is done, if its length is known.
pub fn fraction(numbers: &Numbers, length: Option<gst::ClockTime>) -> Option<f64> {
    let length = length.filter(|length| !length.is_zero())?;
    Some((seconds(numbers.position) / seconds(length)).min(1.0))
}

/// Frames of the whole input, if its length and its rate are known.
pub fn total(numbers: &Numbers, length: Option<gst::ClockTime>) -> Option<u64> {
    let (rate, length) = numbers.framerate.filter(|rate| rate.numer() > 0).zip(length)?;
    Some((seconds(length) * f64::from(rate.numer()) / f64::from(rate.denom())).round() as u64)
}

/// `48/250 frames, 3.20 fps, 01:03 left`.
pub fn line(numbers: &Numbers, length: Option<gst::ClockTime>, pace: &Pace) -> String {
    if numbers.frames_upscaled == 0 {
        return format!("{} frames in, waiting for the first window", numbers.frames_in);
    }
    let total = total(numbers, length).map(|frames| format!("/{frames}")).unwrap_or_default();
    let left = length.and_then(|length| pace.seconds_left(numbers, length));
    let left = left.map(|left| format!(", {} left", clock(left as u64))).unwrap_or_default();
    format!("{}{total} frames, {:.2} fps{left}", numbers.frames_upscaled, pace.fps(numbers))
}

/// The same for scripts.
pub fn event(numbers: &Numbers, length: Option<gst::ClockTime>, pace: &Pace) -> Value {
    json!({
        "event": "progress",
        "frames_in": numbers.frames_in,
        "frames": numbers.frames_upscaled,
        "frames_total": total(numbers, length),
        "position": seconds(numbers.position),
        "length": length.map(seconds),
        "fps": pace.fps(numbers),
        "seconds_left": length.and_then(|length| pace.seconds_left(numbers, length)),
    })
}

/// `3600 frames on CPU, 2 threads: roughly 4:53:00 or more, and about 19.2 GB of memory`.
pub fn prospect(estimate: &Estimate, frames: Option<u64>, seconds: f64) -> String {
    let frames = frames.map_or("upscaling".to_owned(), |frames| format!("{frames} frames"));
    let (bound, more, whose) =
        if estimate.least_seconds.is_some() { ("roughly", " or more", "") } else { ("about", "", "the GPU's ") };
    format!(
        "{frames} on {}: {bound} {}{more}, and about {:.1} GB of {whose}memory",
        estimate.device,
        clock(seconds as u64),
        estimate.memory as f64 * 1e-9
    )
}

/// `mm:ss`, or `h:mm:ss`.
pub fn clock(seconds: u64) -> String {
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if hours > 0 { format!("{hours}:{minutes:02}:{seconds:02}") } else { format!("{minutes:02}:{seconds:02}") }
}

/// `250 frames in, 250 frames out, 640x360 to 1280x720, 3.20 fps, 2 audio tracks copied`.
pub fn summary(numbers: &Numbers, took: Duration) -> String {
    let ((from_w, from_h), (to_w, to_h)) = (numbers.size_in, numbers.size_upscaled);
    let beside = if numbers.size_out.0 > to_w { " (beside the bicubic picture)" } else { "" };
    let fps = numbers.frames_out as f64 / took.as_secs_f64().max(1e-3);
    let encoded = match numbers.audio_encoded {
        0 => String::new(),
        n => format!(", {n} encoded anew"),
    };
    let subtitles = match numbers.subtitles {
        0 => String::new(),
        1 => ", 1 subtitle track copied".to_owned(),
        n => format!(", {n} subtitle tracks copied"),
    };
    let plural = if numbers.audio_copied == 1 { "" } else { "s" };
    format!(
        "{} frames in, {} frames out, {from_w}x{from_h} to {to_w}x{to_h}{beside}, {fps:.2} fps, {} audio track{plural} copied{encoded}{subtitles}",
        numbers.frames_in, numbers.frames_out, numbers.audio_copied,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers() -> Numbers {
        Numbers {
            frames_in: 60,
            frames_upscaled: 50,
            frames_out: 40,
            position: gst::ClockTime::from_seconds(2),
            size_in: (64, 48),
            size_upscaled: (128, 96),
            size_out: (128, 96),
            framerate: Some(gst::Fraction::new(25, 1)),
            audio_copied: 1,
            audio_encoded: 0,
            subtitles: 0,
        }
    }

    /// A job that has begun 20 seconds ago.
    fn pace() -> Pace {
        let began = Instant::now();
        let mut pace = Pace::new(began);
        pace.observe(&Numbers { frames_upscaled: 0, ..numbers() }, began + Duration::from_secs(20));
        pace
    }

    #[test]
    fn the_time_left_follows_from_the_place_in_the_stream() {
        let text = line(&numbers(), Some(gst::ClockTime::from_seconds(10)), &pace());
        assert_eq!(text, "50/250 frames, 2.50 fps, 01:20 left");
    }

    #[test]
    fn loading_and_the_first_window_do_not_spoil_the_pace() {
        let mut pace = pace();
        pace.observe(&numbers(), pace.began + Duration::from_secs(30));
        pace.observe(&numbers(), pace.began + Duration::from_secs(40));
        let later = Numbers { frames_upscaled: 100, position: gst::ClockTime::from_seconds(4), ..numbers() };
        // 50 frames, 2 of 10 seconds, in 10 seconds.
        assert_eq!(line(&later, Some(gst::ClockTime::from_seconds(10)), &pace), "100/250 frames, 5.00 fps, 00:30 left");
    }

    #[test]
    fn an_unknown_length_invents_no_time_left() {
        assert_eq!(line(&numbers(), None, &pace()), "50 frames, 2.50 fps");
        let event = event(&numbers(), None, &pace());
        assert!(event["seconds_left"].is_null() && event["frames_total"].is_null(), "{event}");
        assert_eq!((event["frames"].as_u64(), event["fps"].as_f64()), (Some(50), Some(2.5)));
    }

    #[test]
    fn the_summary_counts_frames_and_tracks() {
        let text = summary(&numbers(), Duration::from_secs(20));
        assert_eq!(text, "60 frames in, 40 frames out, 64x48 to 128x96, 2.00 fps, 1 audio track copied");
        let text = summary(&Numbers { audio_copied: 0, audio_encoded: 2, ..numbers() }, Duration::from_secs(20));
        assert!(text.ends_with("0 audio tracks copied, 2 encoded anew"), "{text}");
        let text = summary(&Numbers { subtitles: 1, ..numbers() }, Duration::from_secs(20));
        assert!(text.ends_with("1 audio track copied, 1 subtitle track copied"), "{text}");
    }

    #[test]
    fn a_comparison_tells_the_scale_of_our_half() {
        let text = summary(&Numbers { size_out: (256, 96), ..numbers() }, Duration::from_secs(20));
        assert!(text.contains("64x48 to 128x96 (beside the bicubic picture)"), "{text}");
    }

    #[test]
    fn an_estimate_names_device_time_and_memory() {
        let on_cpu = Estimate { device: "CPU, 2 threads".into(), memory: 19_200_000_000, least_seconds: Some(4.0) };
        let text = prospect(&on_cpu, Some(3600), 14_400.0);
        assert_eq!(text, "3600 frames on CPU, 2 threads: roughly 4:00:00 or more, and about 19.2 GB of memory");
        let on_gpu = Estimate { device: "NVIDIA H100".into(), least_seconds: None, ..on_cpu };
        let text = prospect(&on_gpu, None, 90.0);
        assert_eq!(text, "upscaling on NVIDIA H100: about 01:30, and about 19.2 GB of the GPU's memory");
    }

    #[test]
    fn hours_show_when_there_are_any() {
        assert_eq!(clock(59), "00:59");
        assert_eq!(clock(3661), "1:01:01");
    }
}
