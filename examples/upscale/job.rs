// SPDX-License-Identifier: MPL-2.0

//! The pipeline of one job.
//!
//! ```text
//! filesrc ! parsebin ! multiqueue ─┬─ decodebin ! … ! flashvsr ! … ! encoder ! parser ─┬─ muxer ! filesink
//!                                  └─ audio tracks, as they are ──────────────────────┘
//! ```

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use anyhow::{Context, Result};
use gst::prelude::*;
use gstreamer as gst;

use crate::args::Args;
use crate::audio::Tracks;
use crate::estimate;
use crate::formats::{Container, Rate, make};
use crate::gate::Gate;
use crate::input::{Input, Source};
use crate::length::Length;
use crate::output::Output;
use crate::piece::Piece;
use crate::streams::{self, Outlets};
use crate::tally::Tally;
use crate::target::{Target, Wish};
use crate::titles;
use crate::video::{self, Wishes};

/// A pipeline that is ready to run.
pub struct Job {
    /// The pipeline.
    pub pipeline: gst::Pipeline,
    /// How far it is.
    pub tally: Arc<Tally>,
    /// How long the input is.
    pub length: Arc<Length>,
    /// The element `flashvsr`.
    pub upscaler: gst::Element,
    /// The piece of the input that is upscaled.
    pub piece: Piece,
    /// What it will take.
    pub estimate: estimate::Slot,
    /// Where the streams of the input begin.
    queues: Option<gst::Element>,
    /// Where decoded video begins.
    raw: gst::Pad,
    /// What feeds the rest, and is linked to it when its streams are known; the decoder last.
    feeders: Vec<gst::Element>,
}

impl Job {
    /// Builds the pipeline.
    ///
    /// # Errors
    /// If GStreamer lacks what it needs.
    pub fn new(args: &Args, input: &Input, output: &Output, model: &Path) -> Result<Self> {
        let pipeline = gst::Pipeline::new();
        let (tally, length) = (Arc::new(Tally::default()), input.length().clone());
        let upscaler = upscaler(args, model)?;
        let (piece, estimate) = (args.piece(), estimate::on_second_frame(&upscaler, model));
        let file = output.sink(input.first_number())?;
        pipeline.add(&file)?;
        let (sink, tracks) = match output.target() {
            Target::Film(container) => {
                let muxer = container.muxer()?;
                pipeline.add(&muxer)?;
                muxer.link(&file)?;
                if *container == Container::Matroska {
                    titles::repair(&muxer);
                }
                let video = muxer.request_pad_simple("video_%u").context("the muxer takes no video")?;
                let gate = Gate::new(&video);
                let (pipeline, container, tally) = (pipeline.clone(), *container, tally.clone());
                (video, Some(Tracks { pipeline, muxer, container, tally, sounds: AtomicUsize::new(0), gate }))
            }
            Target::Picture(_) | Target::Pictures(..) => {
                (file.static_pad("sink").context("multifilesink without a pad")?, None)
            }
        };
        let rate = args.bitrate.map_or(Rate::Quality(args.quality), Rate::Bitrate);
        let wishes = Wishes {
            encoding: Wish { codec: args.codec, rate, preset: args.preset, picture: output.target().picture() },
            size: args.size(upscaler.property("scale")),
            single: matches!(output.target(), Target::Picture(_)),
            compare: args.compare,
            deinterlace: args.deinterlace,
        };
        let raw = video::branch(&pipeline, wishes, &piece, &upscaler, &sink, &tally)?;
        length.video.count_frames(&raw);
        let mut queued = None;
        let feeders = match input.source() {
            Source::File(file) => {
                let (parser, queues, decoder) = (make("parsebin")?, queues()?, decoder(&raw)?);
                pipeline.add_many([file, &parser, &decoder, &queues])?;
                file.link(&parser)?;
                let video = decoder.static_pad("sink").context("a decoder without a sink pad")?;
                queued = Some(queues.clone());
                piece.enter(&parser);
                let (tally, length, piece) = (tally.clone(), length.clone(), piece.clone());
                let film_ended = Arc::default();
                streams::connect(&parser, Outlets { queues, video, tracks, tally, length, piece, film_ended });
                vec![file.clone(), parser, decoder]
            }
            Source::Numbered(files, _) => {
                let decoder = decoder(&raw)?;
                pipeline.add_many([files, &decoder])?;
                files.link(&decoder)?;
                vec![files.clone(), decoder]
            }
            Source::Animation(frames) => {
                pipeline.add(frames)?;
                frames.static_pad("src").context("a source without a pad")?.link(&raw)?;
                vec![frames.clone()]
            }
        };
        for feeder in &feeders {
            feeder.set_locked_state(true);
        }
        Ok(Self { pipeline, tally, length, upscaler, piece, estimate, queues: queued, raw, feeders })
    }

    /// Sets the pipeline going when it is called. What is not linked to the rest yet goes last: it would feed elements that do
    /// not run.
    pub fn starter(&self) -> impl FnOnce() -> Result<()> + Send + 'static {
        let (pipeline, feeders) = (self.pipeline.clone(), self.feeders.clone());
        move || {
            pipeline.set_state(gst::State::Playing)?;
            for feeder in feeders.iter().rev() {
                feeder.set_locked_state(false);
                feeder.sync_state_with_parent()?;
            }
            Ok(())
        }
    }

    /// Whether no frame is on its way into the upscaler: it has done what there was to do.
    pub fn waits_for_input(&self) -> bool {
        self.upscaler.static_pad("sink").and_then(|sink| sink.peer()).is_some_and(|pad| is_idle(&pad))
    }

    /// Whether the upscaler is at work, and not waiting for a frame or for who takes its frames.
    pub fn computes(&self) -> bool {
        !self.waits_for_input() && self.upscaler.static_pad("src").is_some_and(|pad| is_idle(&pad))
    }

    /// Whether an error is one of the input alone, behind frames that have come or are about to: they can be finished.
    pub fn can_end_well(&self, error: &gst::message::Error) -> bool {
        let Some((decoder, readers)) = self.feeders.split_last() else { return false };
        let is_of = |element: &gst::Element| {
            error.src().is_some_and(|source| source == element || source.has_as_ancestor(element))
        };
        let is_connected = decoder.static_pad("sink").is_some_and(|sink| sink.is_linked());
        let has_frames = self.length.video.frames() > 0;
        (is_of(decoder) && has_frames) || (is_connected && readers.iter().any(is_of))
    }

    /// Has a pipeline run that an error has kept from it while it started.
    pub fn go_on(&self) {
        let pipeline = self.pipeline.clone();
        // Who cannot go on has posted why.
        std::thread::spawn(move || pipeline.set_state(gst::State::Playing));
    }

    /// Ends all streams where they come out of the input, which has not done so itself.
    pub fn end_streams(&self) {
        match &self.queues {
            Some(queues) => queues.sink_pads().into_iter().for_each(end),
            None => end(self.raw.clone()),
        }
    }

    /// Ends the video behind a decoder that does not pass the end on.
    pub fn end_decoded(&self) {
        end(self.raw.clone());
    }
}

fn end(pad: gst::Pad) {
    // An input that comes to life in this moment is waited for.
    std::thread::spawn(move || pad.send_event(gst::event::Eos::new()));
}

/// Whether nothing is being pushed through a source pad.
fn is_idle(pad: &gst::Pad) -> bool {
    // The probe is called, and has gone, at once if so.
    let probe = pad.add_probe(gst::PadProbeType::IDLE, |_, _| gst::PadProbeReturn::Remove);
    let idle = probe.is_none();
    if let Some(probe) = probe {
        pad.remove_probe(probe);
    }
    idle
}

/// A queue for each stream. Each branch may hold back what the other waits for, the upscaler's first window most of all: a
/// queue grows for as long as another one is empty, and no further.
fn queues() -> Result<gst::Element> {
    let queues = make("multiqueue")?;
    queues.set_property("max-size-buffers", 64u32);
    queues.set_property("max-size-bytes", 0u32);
    queues.set_property("max-size-time", 0u64);
    Ok(queues)
}

/// Makes a decoder that feeds `raw`.
fn decoder(raw: &gst::Pad) -> Result<gst::Element> {
    let decoder = make("decodebin")?;
    let raw = raw.clone();
    decoder.connect_pad_added(move |decoder, pad| {
        if !raw.is_linked()
            && let Err(error) = pad.link(&raw)
        {
            gst::element_error!(decoder, gst::CoreError::Pad, ("decoded video cannot be upscaled: {error}"));
        }
    });
    Ok(decoder)
}

fn upscaler(args: &Args, model: &Path) -> Result<gst::Element> {
    let upscaler = make("flashvsr")?;
    upscaler.set_property("model", model);
    args.element.apply(&upscaler);
    Ok(upscaler)
}
