// SPDX-License-Identifier: MPL-2.0

//! How long an input is, beside how long its container says that it is: a file that was cut off is shorter.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use gst::prelude::*;
use gstreamer as gst;

use crate::container_size;
use crate::decoded::Decoded;
use crate::tally::running_time;
use crate::words::clock;

/// Difference that means nothing: containers round, and tracks end together to within a packet.
const TOLERANCE: gst::ClockTime = gst::ClockTime::from_mseconds(500);

/// A time without packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Gap {
    from: gst::ClockTime,
    to: gst::ClockTime,
}

/// The length of an input.
#[derive(Debug, Default)]
pub struct Length {
    /// Nanoseconds; 0 if unknown.
    declared: AtomicU64,
    /// Where the last packet of any stream ended, in nanoseconds.
    end: AtomicU64,
    /// Bytes, and how many there should be.
    bytes: Option<(u64, u64)>,
    goes_on: AtomicBool,
    /// Times in which the film, and the sound, have no packet.
    gaps: Mutex<[Vec<Gap>; 2]>,
    /// Pictures that are to be decoded.
    pictures: OnceLock<u64>,
    /// Why the input could not be read to its end.
    fault: Mutex<Option<String>>,
    /// What its decoder made of the video.
    pub video: Arc<Decoded>,
}

impl Length {
    /// That of a file.
    pub fn of_file(path: &Path) -> Self {
        let size = std::fs::metadata(path).map(|file| file.len());
        let bytes = size.ok().zip(container_size::declared(path).ok().flatten());
        Self { bytes, ..Self::default() }
    }

    /// The input is this number of pictures.
    pub fn expect_pictures(&self, count: u64) {
        // Set once, when the input is opened.
        let _ = self.pictures.set(count);
    }

    /// Looks at a stream of the input, where it comes out of the container.
    pub fn watch(self: &Arc<Self>, pad: &gst::Pad, is_film: bool, is_sound: bool) {
        let length = self.clone();
        let asked = AtomicBool::new(false);
        let reached = AtomicU64::new(0);
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
                // Decoding order: the times of a film go back and forth by some frames.
                let start = running_time(pad, buffer.dts_or_pts()).unwrap_or_default();
                let before = gst::ClockTime::from_nseconds(reached.fetch_max(end.nseconds(), Ordering::Relaxed));
                if (is_film || is_sound) && start > before + TOLERANCE && !before.is_zero() {
                    length.gaps()[usize::from(is_sound)].push(Gap { from: before, to: start });
                }
            }
            gst::PadProbeReturn::Ok
        });
    }

    /// The input has begun another set of streams, which is not read.
    pub fn goes_on(&self) {
        self.goes_on.store(true, Ordering::Relaxed);
    }

    fn gaps(&self) -> MutexGuard<'_, [Vec<Gap>; 2]> {
        self.gaps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where film and sound both have nothing, although both go on: a silent film may rest on a picture.
    fn hole(&self) -> Option<Gap> {
        let [film, sound] = &*self.gaps();
        let common = film.iter().flat_map(|film| {
            sound.iter().map(move |sound| Gap { from: film.from.max(sound.from), to: film.to.min(sound.to) })
        });
        common.into_iter().find(|gap| gap.to > gap.from + TOLERANCE)
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
        if end + TOLERANCE < declared {
            let (declared, end) = (clock(declared), clock(end));
            return Some(format!("the file says that it lasts {declared}, but ends at {end}: was it cut off?"));
        }
        if let Some((there, declared)) = self.bytes.filter(|(there, declared)| there < declared) {
            return Some(format!("the file says that it has {declared} bytes, but has {there}: was it cut off?"));
        }
        if let Some(Gap { from, to }) = self.hole() {
            return Some(format!("it has a hole from {} to {}: was it damaged?", clock(from), clock(to)));
        }
        let decoded = self.video.frames();
        if let Some(pictures) = self.pictures.get().filter(|pictures| decoded < **pictures) {
            return Some(format!("of {pictures} pictures only {decoded} could be decoded"));
        }
        match self.video.lost() {
            0 => None,
            1 => Some("1 frame could not be decoded".to_owned()),
            frames => Some(format!("{frames} frames could not be decoded")),
        }
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
    fn a_file_with_too_few_bytes_is_told() {
        let length = Length { bytes: Some((900, 1000)), ..length(6000, 6000) };
        assert!(length.shortfall(true).unwrap().contains("1000 bytes"));
        let whole = Length { bytes: Some((1000, 1000)), ..Length::default() };
        assert_eq!(whole.shortfall(true), None);
    }

    #[test]
    fn a_hole_is_what_film_and_sound_lack_both() {
        let gap = |from, to| Gap { from: gst::ClockTime::from_mseconds(from), to: gst::ClockTime::from_mseconds(to) };
        let with = |film, sound| Length { gaps: Mutex::new([film, sound]), ..Length::default() };
        let said = with(vec![gap(3200, 5100)], vec![gap(3100, 4900)]).shortfall(true).unwrap();
        assert!(said.contains("0:03.2") && said.contains("0:04.9"), "{said}");
        assert_eq!(with(vec![gap(3200, 5100)], Vec::new()).shortfall(true), None);
        assert_eq!(with(vec![gap(3200, 5100)], vec![gap(5000, 6000)]).shortfall(true), None);
    }

    #[test]
    fn rounding_and_unknown_durations_are_no_shortfall() {
        for (declared, end) in [(6000, 6000), (6000, 5700), (6000, 6300), (0, 6000)] {
            assert_eq!(length(declared, end).shortfall(true), None, "{declared} {end}");
        }
    }
}
