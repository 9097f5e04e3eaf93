// SPDX-License-Identifier: MPL-2.0

//! What the streaming threads and the main thread tell each other: how far the work is, and that it is to stop.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use gst::prelude::*;
use gstreamer as gst;

/// One job, as seen from all of its threads.
#[derive(Debug, Default)]
pub struct Tally {
    frames_in: AtomicU64,
    frames_upscaled: AtomicU64,
    frames_out: AtomicU64,
    position: AtomicU64,
    stopping: AtomicBool,
    shared: Mutex<Shared>,
}

/// What is written rarely.
#[derive(Debug, Default)]
struct Shared {
    size_in: (i32, i32),
    size_upscaled: (i32, i32),
    size_out: (i32, i32),
    framerate: Option<gst::Fraction>,
    notes: Vec<String>,
    audio_copied: usize,
    audio_encoded: usize,
    subtitles: usize,
    cutoff: Option<gst::ClockTime>,
}

/// The numbers of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Numbers {
    /// Frames that went into the upscaler.
    pub frames_in: u64,
    /// Frames that came out of it.
    pub frames_upscaled: u64,
    /// Frames that went into the muxer, and once the file has been read back, those that it holds.
    pub frames_out: u64,
    /// The latest time that came out of the upscaler, from the beginning of the output.
    pub position: gst::ClockTime,
    /// Width and height of the input.
    pub size_in: (i32, i32),
    /// Width and height of what comes out of the upscaler.
    pub size_upscaled: (i32, i32),
    /// Width and height of the output, which is wider in a comparison.
    pub size_out: (i32, i32),
    /// Frames per second that the input declares.
    pub framerate: Option<gst::Fraction>,
    /// Audio tracks that were copied.
    pub audio_copied: usize,
    /// Audio tracks that were encoded anew.
    pub audio_encoded: usize,
    /// Subtitle tracks that were copied.
    pub subtitles: usize,
}

impl Tally {
    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts what passes through a pad of the pipeline, each in its own way.
    pub fn count(self: &std::sync::Arc<Self>, pad: &gst::Pad, point: Point) {
        let tally = self.clone();
        let mask = gst::PadProbeType::BUFFER | gst::PadProbeType::EVENT_DOWNSTREAM;
        pad.add_probe(mask, move |pad, info| {
            if let Some(buffer) = info.buffer() {
                tally.frame(point, running_time(pad, buffer.pts()));
            } else if let Some(gst::EventView::Caps(caps)) = info.event().map(|event| event.view()) {
                tally.caps(point, caps.caps());
            }
            gst::PadProbeReturn::Ok
        });
    }

    fn frame(&self, point: Point, time: Option<gst::ClockTime>) {
        match point {
            Point::In => self.frames_in.fetch_add(1, Ordering::Relaxed),
            Point::Upscaled => {
                self.position.fetch_max(time.map_or(0, |time| time.nseconds()), Ordering::Relaxed);
                self.frames_upscaled.fetch_add(1, Ordering::Relaxed)
            }
            Point::Out => self.frames_out.fetch_add(1, Ordering::Relaxed),
        };
    }

    fn caps(&self, point: Point, caps: &gst::CapsRef) {
        let Some(structure) = caps.structure(0) else { return };
        let size = structure.get("width").ok().zip(structure.get("height").ok()).unwrap_or_default();
        match point {
            Point::In => {
                let framerate = structure.get("framerate").ok();
                let mut shared = self.shared();
                shared.size_in = size;
                shared.framerate = framerate;
            }
            Point::Upscaled => self.shared().size_upscaled = size,
            Point::Out => self.shared().size_out = size,
        }
    }

    /// Leaves a sentence for the user.
    pub fn note(&self, note: impl Into<String>) {
        self.shared().notes.push(note.into());
    }

    /// Takes the sentences that were left.
    pub fn take_notes(&self) -> Vec<String> {
        std::mem::take(&mut self.shared().notes)
    }

    /// Takes the number of frames that the output holds, and returns that of the frames that were to go there.
    pub fn set_written(&self, frames: u64) -> u64 {
        self.frames_out.swap(frames, Ordering::Relaxed)
    }

    /// Counts a track of the output beside the video.
    pub fn track(&self, kind: TrackKind) {
        let mut shared = self.shared();
        *match kind {
            TrackKind::CopiedSound => &mut shared.audio_copied,
            TrackKind::EncodedSound => &mut shared.audio_encoded,
            TrackKind::Subtitles => &mut shared.subtitles,
        } += 1;
    }

    /// The numbers so far.
    pub fn numbers(&self) -> Numbers {
        let shared = self.shared();
        Numbers {
            frames_in: self.frames_in.load(Ordering::Relaxed),
            frames_upscaled: self.frames_upscaled.load(Ordering::Relaxed),
            frames_out: self.frames_out.load(Ordering::Relaxed),
            position: gst::ClockTime::from_nseconds(self.position.load(Ordering::Relaxed)),
            size_in: shared.size_in,
            size_upscaled: shared.size_upscaled,
            size_out: shared.size_out,
            framerate: shared.framerate,
            audio_copied: shared.audio_copied,
            audio_encoded: shared.audio_encoded,
            subtitles: shared.subtitles,
        }
    }

    /// Asks for an early but proper end.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    /// Ends the video at `pad` when [`Tally::stop`] has been called: what is already behind it is finished, nothing more
    /// is begun.
    pub fn end_video_at(self: &std::sync::Arc<Self>, pad: &gst::Pad) {
        let tally = self.clone();
        pad.add_probe(gst::PadProbeType::BUFFER, move |pad, info| {
            if !tally.stopping.load(Ordering::Acquire) {
                return gst::PadProbeReturn::Ok;
            }
            let next = info.buffer().and_then(|buffer| buffer.pts());
            tally.shared().cutoff = Some(running_time(pad, next).unwrap_or_default());
            end(pad, info)
        });
    }

    /// Ends the audio at `pad` where the video has ended.
    pub fn end_audio_at(self: &std::sync::Arc<Self>, pad: &gst::Pad) {
        let tally = self.clone();
        pad.add_probe(gst::PadProbeType::BUFFER, move |pad, info| {
            let Some(cutoff) = tally.shared().cutoff else { return gst::PadProbeReturn::Ok };
            let time = running_time(pad, info.buffer().and_then(|buffer| buffer.pts()));
            if time.is_some_and(|time| time < cutoff) {
                return gst::PadProbeReturn::Ok;
            }
            end(pad, info)
        });
    }
}

/// What a track beside the video is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrackKind {
    /// Sound as it was.
    CopiedSound,
    /// Sound that was encoded anew.
    EncodedSound,
    /// Subtitles.
    Subtitles,
}

/// Where frames are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    /// Before the upscaler.
    In,
    /// Behind it.
    Upscaled,
    /// Before the muxer.
    Out,
}

/// The running time of a timestamp at a pad, if it lies in the segment there.
pub fn running_time(pad: &gst::Pad, pts: Option<gst::ClockTime>) -> Option<gst::ClockTime> {
    let segment = pad.sticky_event::<gst::event::Segment>(0)?;
    segment.segment().downcast_ref::<gst::ClockTime>()?.to_running_time(pts)
}

/// Ends the stream behind a sink pad in place of passing a buffer on, and says so upstream.
pub fn end(pad: &gst::Pad, info: &mut gst::PadProbeInfo) -> gst::PadProbeReturn {
    drop(info.take_buffer());
    info.flow_res = Err(gst::FlowError::Eos);
    pad.send_event(gst::event::Eos::new());
    gst::PadProbeReturn::Handled
}
