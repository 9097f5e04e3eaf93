// SPDX-License-Identifier: MPL-2.0

//! Compares the frames that a decoder gives with the packets that it took: what is damaged is missing without a word.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gst::prelude::*;
use gstreamer as gst;
use gstreamer_video as gst_video;

use crate::tally::running_time;

/// What went into a decoder and came out of it.
#[derive(Debug, Default)]
pub struct Decoded {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Packets of these times were taken before the first frame was known.
    early: Vec<gst::ClockTime>,
    /// The time of the first frame. Packets before it belong to a group of pictures that began in front of the file.
    first: Option<gst::ClockTime>,
    packets: u64,
    frames: u64,
    /// Packets and frames do not go together one by one, or their times are not known.
    incomparable: bool,
}

impl Decoded {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts the packets that pass `pad` if they hold one frame each, as those of `caps` do or not.
    pub fn count_packets(self: &Arc<Self>, pad: &gst::Pad, caps: &gst::CapsRef) {
        let name = caps.structure(0).map_or("", |structure| structure.name().as_str());
        // The packets of other codecs may hold frames that are never shown.
        self.state().incomparable =
            !matches!(name, "video/x-h264" | "video/x-h265" | "video/x-prores" | "video/x-ffv" | "image/jpeg");
        let decoded = self.clone();
        pad.add_probe(gst::PadProbeType::BUFFER, move |pad, info| {
            if let Some(buffer) = info.buffer() {
                let (known, time) = (buffer.pts().is_some(), running_time(pad, buffer.pts()));
                decoded.state().packet(known, time);
            }
            gst::PadProbeReturn::Ok
        });
    }

    /// Counts the frames that pass `pad`.
    pub fn count_frames(self: &Arc<Self>, pad: &gst::Pad) {
        let decoded = self.clone();
        pad.add_probe(gst::PadProbeType::BUFFER | gst::PadProbeType::EVENT_DOWNSTREAM, move |pad, info| {
            if let Some(buffer) = info.buffer() {
                decoded.state().frame(running_time(pad, buffer.pts()));
            } else if let Some(gst::EventView::Caps(caps)) = info.event().map(|event| event.view()) {
                let info = gst_video::VideoInfo::from_caps(caps.caps());
                // Two packets may hold the fields of one frame.
                decoded.state().incomparable |=
                    info.is_ok_and(|info| info.interlace_mode() != gst_video::VideoInterlaceMode::Progressive);
            }
            gst::PadProbeReturn::Ok
        });
    }

    /// Frames that were decoded.
    pub fn frames(&self) -> u64 {
        self.state().frames
    }

    /// Packets without a frame.
    pub fn lost(&self) -> u64 {
        let state = self.state();
        if state.incomparable || state.first.is_none() { 0 } else { state.packets.saturating_sub(state.frames) }
    }
}

impl State {
    fn packet(&mut self, known: bool, time: Option<gst::ClockTime>) {
        self.incomparable |= !known;
        // Outside of the segment nothing is shown.
        let Some(time) = time else { return };
        match self.first {
            Some(first) => self.packets += u64::from(time >= first),
            None => self.early.push(time),
        }
    }

    fn frame(&mut self, time: Option<gst::ClockTime>) {
        let Some(time) = time else { return };
        if self.first.is_none() {
            self.first = Some(time);
            self.packets = std::mem::take(&mut self.early).into_iter().filter(|packet| *packet >= time).count() as u64;
        }
        self.frames += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is lost of packets at these milliseconds if the decoder gives these frames after the first three.
    fn lost(packets: &[u64], frames: &[u64]) -> u64 {
        let decoded = Decoded::default();
        let time = |ms: &u64| Some(gst::ClockTime::from_mseconds(*ms));
        let (early, late) = packets.split_at(3);
        early.iter().for_each(|packet| decoded.state().packet(true, time(packet)));
        frames.iter().for_each(|frame| decoded.state().frame(time(frame)));
        late.iter().for_each(|packet| decoded.state().packet(true, time(packet)));
        decoded.lost()
    }

    #[test]
    fn what_a_decoder_leaves_out_is_lost() {
        assert_eq!(lost(&[0, 80, 40, 120, 160], &[0, 40, 80, 120, 160]), 0);
        assert_eq!(lost(&[0, 80, 40, 120, 160], &[0, 40, 160]), 2);
    }

    #[test]
    fn leading_pictures_without_their_reference_are_not_lost() {
        assert_eq!(lost(&[120, 40, 80, 160, 200], &[120, 160, 200]), 0);
    }
}
