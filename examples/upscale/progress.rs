// SPDX-License-Identifier: MPL-2.0

//! The progress of a job: a bar on a terminal, plain lines elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use gstreamer as gst;
use indicatif::{ProgressBar, ProgressStyle};

use crate::tally::Numbers;

/// Time between two plain lines.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// Where the progress is shown.
pub struct Progress {
    started: Instant,
    bar: Option<ProgressBar>,
    last_line: Instant,
}

impl Progress {
    /// Starts the clock.
    pub fn new() -> Self {
        let started = Instant::now();
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{bar:30} {msg}").unwrap_or_else(|_| ProgressStyle::default_bar());
            ProgressBar::new(1000).with_style(style)
        });
        Self { started, bar, last_line: started }
    }

    /// Shows how far the job is; `duration` is that of the input.
    pub fn update(&mut self, numbers: &Numbers, duration: Option<gst::ClockTime>) {
        let text = line(numbers, duration, self.started.elapsed());
        match &self.bar {
            Some(bar) => {
                bar.set_position((1000.0 * fraction(numbers, duration).unwrap_or(0.0)) as u64);
                bar.set_message(text);
            }
            None if self.last_line.elapsed() >= LINE_INTERVAL => {
                self.last_line = Instant::now();
                eprintln!("{text}");
            }
            None => {}
        }
    }

    /// Shows a sentence.
    pub fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{text}")),
            None => eprintln!("{text}"),
        }
    }

    /// Ends the bar and returns the time that the job took.
    pub fn finish(self) -> Duration {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        self.started.elapsed()
    }
}

/// The part of the input that is done, if its duration is known.
fn fraction(numbers: &Numbers, duration: Option<gst::ClockTime>) -> Option<f64> {
    let duration = duration.filter(|duration| !duration.is_zero())?;
    Some((numbers.position.nseconds() as f64 / duration.nseconds() as f64).min(1.0))
}

/// `48/250 frames, 3.20 fps, 01:03 left`.
fn line(numbers: &Numbers, duration: Option<gst::ClockTime>, elapsed: Duration) -> String {
    if numbers.frames_upscaled == 0 {
        return format!("{} frames in, waiting for the first window", numbers.frames_in);
    }
    let fps = numbers.frames_upscaled as f64 / elapsed.as_secs_f64().max(1e-3);
    let total = numbers.framerate.zip(duration).filter(|(rate, _)| rate.numer() > 0).map(|(rate, duration)| {
        let frames = duration.nseconds() as f64 * 1e-9 * f64::from(rate.numer()) / f64::from(rate.denom());
        format!("/{frames:.0}")
    });
    let left = fraction(numbers, duration).filter(|done| *done > 0.0).map(|done| {
        let seconds = (elapsed.as_secs_f64() * (1.0 - done) / done) as u64;
        format!(", {} left", clock(seconds))
    });
    format!("{}{} frames, {fps:.2} fps{}", numbers.frames_upscaled, total.unwrap_or_default(), left.unwrap_or_default())
}

/// `mm:ss`, or `h:mm:ss`.
fn clock(seconds: u64) -> String {
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if hours > 0 { format!("{hours}:{minutes:02}:{seconds:02}") } else { format!("{minutes:02}:{seconds:02}") }
}

/// `in.mp4 → out.mp4: 250 frames in, 250 out, 640x360 → 1280x720, 3.20 fps, 2 audio tracks copied`.
pub fn summary(numbers: &Numbers, took: Duration) -> String {
    let ((from_w, from_h), (to_w, to_h)) = (numbers.size_in, numbers.size_out);
    let fps = numbers.frames_out as f64 / took.as_secs_f64().max(1e-3);
    let encoded = match numbers.audio_encoded {
        0 => String::new(),
        n => format!(", {n} encoded anew"),
    };
    let plural = if numbers.audio_copied == 1 { "" } else { "s" };
    format!(
        "{} frames in, {} frames out, {from_w}x{from_h} to {to_w}x{to_h}, {fps:.2} fps, {} audio track{plural} copied{encoded}",
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
            size_out: (128, 96),
            framerate: Some(gst::Fraction::new(25, 1)),
            audio_copied: 1,
            audio_encoded: 0,
        }
    }

    #[test]
    fn the_time_left_follows_from_the_place_in_the_stream() {
        let text = line(&numbers(), Some(gst::ClockTime::from_seconds(10)), Duration::from_secs(20));
        assert_eq!(text, "50/250 frames, 2.50 fps, 01:20 left");
    }

    #[test]
    fn an_unknown_duration_invents_no_time_left() {
        assert_eq!(line(&numbers(), None, Duration::from_secs(20)), "50 frames, 2.50 fps");
    }

    #[test]
    fn the_summary_counts_frames_and_tracks() {
        let text = summary(&numbers(), Duration::from_secs(20));
        assert_eq!(text, "60 frames in, 40 frames out, 64x48 to 128x96, 2.00 fps, 1 audio track copied");
        let text = summary(&Numbers { audio_copied: 0, audio_encoded: 2, ..numbers() }, Duration::from_secs(20));
        assert!(text.ends_with("0 audio tracks copied, 2 encoded anew"), "{text}");
    }

    #[test]
    fn hours_show_when_there_are_any() {
        assert_eq!(clock(59), "00:59");
        assert_eq!(clock(3661), "1:01:01");
    }
}
