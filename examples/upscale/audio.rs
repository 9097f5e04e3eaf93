// SPDX-License-Identifier: MPL-2.0

//! Audio tracks: copied where the container takes them, encoded anew where it does not, left out where neither works.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result};
use gst::prelude::*;
use gstreamer as gst;

use crate::channels::{self, Fit, Layout};
use crate::formats::{Container, make, muxer_template};
use crate::gate::Gate;
use crate::last_duration;
use crate::streams::can_be_decoded;
use crate::tally::{Tally, TrackKind};
use crate::track::{Slot, Way};
use crate::words::codec;

/// Bits per second for a channel that is encoded anew, and the most that the encoders take.
const BITRATE: u32 = 96_000;
const MOST: u32 = 512_000;

/// Where the tracks beside the video go.
pub struct Tracks {
    /// The pipeline of the job.
    pub pipeline: gst::Pipeline,
    /// Its muxer.
    pub muxer: gst::Element,
    /// What the muxer writes.
    pub container: Container,
    /// What is told about it.
    pub tally: Arc<Tally>,
    /// Audio tracks so far.
    pub sounds: AtomicUsize,
    /// What waits for the tracks.
    pub gate: Arc<Gate>,
}

impl Tracks {
    /// A place for a track called `name`, in a pad of the muxer's template `template`.
    pub fn slot(&self, template: &'static str, name: String) -> Slot {
        let (pipeline, muxer, tally) = (self.pipeline.clone(), self.muxer.clone(), self.tally.clone());
        Slot { pipeline, muxer, template, name, tally, gate: self.gate.clone(), state: Mutex::default() }
    }

    /// Connects the next audio track, which comes out of `source`.
    pub fn add_sound(&self, source: &gst::Pad) {
        let name = format!("audio track {}", 1 + self.sounds.fetch_add(1, Ordering::Relaxed));
        let (muxer, container, tally) = (self.muxer.clone(), self.container, self.tally.clone());
        self.slot("audio_%u", name.clone()).fill(source, move |caps| {
            if let Some(mut elements) = copies(&muxer, caps)? {
                elements.extend(lasting(container)?);
                return Ok(Way::Through(elements, TrackKind::CopiedSound));
            }
            let codec = codec(caps);
            if !can_be_decoded(caps) {
                let reason = "GStreamer has no decoder for it, and the output does not take it as it is";
                return Ok(Way::LeftOut(format!("{reason} ({codec})")));
            }
            let mut elements = encoder(container, &format!("{name} ({codec})"), &tally)?;
            elements.extend(lasting(container)?);
            Ok(Way::Through(elements, TrackKind::EncodedSound))
        });
    }
}

/// An element that gives packets durations, for containers that need them.
fn lasting(container: Container) -> Result<Option<gst::Element>> {
    if container == Container::Matroska {
        return Ok(None);
    }
    let lasting = make("identity")?;
    last_duration::add(&lasting.static_pad("src").context("identity without a source pad")?);
    Ok(Some(lasting))
}

/// The elements that a track passes if it is copied; `None` if the muxer does not take it. Parsers take headers off, and add
/// durations and times.
fn copies(muxer: &gst::Element, caps: &gst::Caps) -> Result<Option<Vec<gst::Element>>> {
    let structure = caps.structure(0).context("a stream without a type")?;
    let parser = match (structure.name().as_str(), structure.get::<i32>("mpegversion")) {
        ("audio/x-opus", _) => Some("opusparse"),
        ("audio/x-ac3", _) => Some("ac3parse"),
        ("audio/mpeg", Ok(1)) => Some("mpegaudioparse"),
        ("audio/mpeg", Ok(2 | 4)) => Some("aacparse"),
        _ => None,
    };
    let takes = |caps: &gst::Caps| muxer_template(muxer, caps).is_some();
    if !takes(caps) && !unframed_aac(caps).is_some_and(|raw| takes(&raw)) {
        return Ok(None);
    }
    parser.map(make).into_iter().collect::<Result<_>>().map(Some)
}

/// Leaves out the packet that the encoder of AAC puts in front of the first, and moves the others to its place, so that the
/// sound is in step: nothing else would tell players to skip it.
fn skip_priming(encoder: &gst::Element) -> Result<()> {
    let pad = encoder.static_pad("src").context("an encoder without a source pad")?;
    let skipped = AtomicBool::new(false);
    pad.add_probe(gst::PadProbeType::BUFFER, move |pad, info| {
        if !skipped.swap(true, Ordering::AcqRel) {
            // `Drop` would have GStreamer release it a second time.
            drop(info.take_buffer());
            info.flow_res = Ok(gst::FlowSuccess::Ok);
            return gst::PadProbeReturn::Handled;
        }
        let rate = pad.current_caps().and_then(|caps| caps.structure(0)?.get::<i32>("rate").ok());
        let frame = rate.and_then(|rate| (1024 * gst::ClockTime::SECOND).checked_div(u64::try_from(rate).ok()?));
        if let Some(buffer) = info.buffer_mut()
            && let Some(time) = buffer.pts().zip(frame).map(|(time, frame)| time.saturating_sub(frame))
        {
            let buffer = buffer.make_mut();
            buffer.set_pts(time);
            buffer.set_dts(gst::ClockTime::NONE);
        }
        gst::PadProbeReturn::Ok
    });
    Ok(())
}

/// The elements that encode a track anew.
fn encoder(container: Container, name: &str, tally: &Arc<Tally>) -> Result<Vec<gst::Element>> {
    let (encoder, codec, layouts) = match container {
        Container::Mp4 | Container::Mov => (make("avenc_aac")?, "AAC", channels::AAC),
        Container::Matroska => (make("opusenc")?, "Opus", channels::OPUS),
    };
    let advice = match container {
        Container::Matroska => "",
        Container::Mp4 | Container::Mov => "; an output name that ends in .mkv takes most tracks as they are",
    };
    tally.note(format!("{name} does not fit into the output and is encoded anew, as {codec}{advice}"));
    if container != Container::Matroska {
        skip_priming(&encoder)?;
    }
    let decoder = make("decodebin")?;
    let [convert, resample, layout] = [make("audioconvert")?, make("audioresample")?, make("capsfilter")?];
    let (name, tally, filter, target) = (name.to_owned(), tally.clone(), layout.clone(), encoder.clone());
    on_layout(&convert.static_pad("sink").context("audioconvert without a sink pad")?, move |decoded| {
        let fit = decoded.fit(layouts)?;
        if fit.mixed {
            let (from, to) = (fit.taken_as.name(), fit.encoded.name());
            tally.note(format!("{name}: {codec} takes no {from}; mixed down to {to}"));
        }
        filter.set_property("caps", raw_caps(fit.encoded));
        target.set_property("bitrate", (fit.encoded.channels * BITRATE).min(MOST) as i32);
        Some(fit)
    });
    Ok(vec![decoder, convert, resample, layout, encoder])
}

/// Gives the channels of decoded sound the names under which they are encoded; those of a layout that does not fit are left
/// to fail.
fn on_layout(pad: &gst::Pad, fit: impl Fn(Layout) -> Option<Fit> + Send + Sync + 'static) {
    pad.add_probe(gst::PadProbeType::EVENT_DOWNSTREAM, move |_, info| {
        let Some(gst::EventView::Caps(caps)) = info.event().map(|event| event.view()) else {
            return gst::PadProbeReturn::Ok;
        };
        let mut caps = caps.caps_owned();
        if let Some(structure) = caps.make_mut().structure_mut(0)
            && let Ok(channels) = structure.get::<i32>("channels")
        {
            let mask = structure.get::<gst::Bitmask>("channel-mask").map_or(0, |mask| *mask);
            let decoded = Layout { channels: channels.unsigned_abs(), mask };
            if let Some(Fit { taken_as, .. }) = fit(decoded)
                && taken_as != decoded
                && taken_as.channels > 1
            {
                structure.set("channel-mask", gst::Bitmask::new(taken_as.mask));
                info.data = Some(gst::PadProbeData::Event(gst::event::Caps::new(&caps)));
            }
        }
        gst::PadProbeReturn::Ok
    });
}

/// Raw sound of a layout.
fn raw_caps(layout: Layout) -> gst::Caps {
    let caps = gst::Caps::builder("audio/x-raw").field("channels", layout.channels as i32);
    if layout.channels > 1 { caps.field("channel-mask", gst::Bitmask::new(layout.mask)) } else { caps }.build()
}

/// AAC with ADTS or LOAS headers, as it would be without them; `None` for other streams.
fn unframed_aac(caps: &gst::Caps) -> Option<gst::Caps> {
    let structure = caps.structure(0)?;
    let aac = structure.name() == "audio/mpeg" && matches!(structure.get("mpegversion"), Ok(2 | 4));
    aac.then(|| {
        let mut raw = caps.clone();
        raw.make_mut().set("stream-format", "raw");
        raw.make_mut().set("mpegversion", 4);
        raw
    })
}
