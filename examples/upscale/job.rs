// SPDX-License-Identifier: MPL-2.0

//! The pipeline of one job.
//!
//! ```text
//! filesrc ! parsebin ! multiqueue ─┬─ decodebin ! … ! flashvsr ! … ! encoder ! parser ─┬─ muxer ! filesink
//!                                  └─ audio tracks, as they are ──────────────────────┘
//! ```

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, bail};
use gst::prelude::*;
use gstflashvsr::upscaler::{Geometry, Size};
use gstreamer as gst;
use gstreamer_video as gst_video;

use crate::args::Args;
use crate::audio::AudioOutput;
use crate::element_options::nick;
use crate::formats::{Container, Rate, encoder_format, make, request, timescale, video_encoder};
use crate::input::Input;
use crate::output::Output;
use crate::side_by_side::SideBySide;
use crate::tally::{Point, Tally};

/// A pipeline that is ready to run.
pub struct Job {
    /// The pipeline.
    pub pipeline: gst::Pipeline,
    /// How far it is.
    pub tally: Arc<Tally>,
    /// What the streams of the input pass first.
    queues: gst::Element,
    /// The element `flashvsr`.
    pub upscaler: gst::Element,
}

impl Job {
    /// Builds the pipeline.
    ///
    /// # Errors
    /// If GStreamer lacks what it needs.
    pub fn new(args: &Args, input: &Input, output: &Output, model: &Path) -> Result<Self> {
        let container = Container::of(output.name())?;
        let pipeline = gst::Pipeline::new();
        let tally = Arc::new(Tally::default());

        let source = input.source();
        let parser = make("parsebin")?;
        // Each branch may hold back what the other waits for, the upscaler's first window most of all: a queue grows
        // for as long as another one is empty, and no further.
        let queues = make("multiqueue")?;
        queues.set_property("max-size-buffers", 64u32);
        queues.set_property("max-size-bytes", 0u32);
        queues.set_property("max-size-time", 0u64);
        let muxer = container.muxer()?;
        let sink = output.sink()?;
        pipeline.add_many([source, &parser, &queues, &muxer, &sink])?;
        source.link(&parser)?;
        muxer.link(&sink)?;

        let upscaler = upscaler(args, model)?;
        let decoder = video_branch(&pipeline, args, &upscaler, &muxer, &tally)?;
        let video = decoder.static_pad("sink").context("a decoder without a sink pad")?;
        let audio = AudioOutput { pipeline: pipeline.clone(), muxer, container, tally: tally.clone() };
        let tracks = AtomicUsize::new(0);
        let streams = queues.clone();
        parser.connect_pad_added(move |parser, pad| {
            if let Err(error) = connect_stream(pad, &streams, &video, &audio, &tracks) {
                gst::element_error!(parser, gst::StreamError::Failed, ("{error:#}"));
            }
        });
        Ok(Self { pipeline, tally, queues, upscaler })
    }

    /// Whether no frame is on its way into the upscaler: it has done what there was to do.
    pub fn waits_for_input(&self) -> bool {
        self.upscaler.static_pad("sink").and_then(|sink| sink.peer()).is_some_and(|pad| is_idle(&pad))
    }

    /// Whether the upscaler is at work, and not waiting for a frame or for who takes its frames.
    pub fn computes(&self) -> bool {
        !self.waits_for_input() && self.upscaler.static_pad("src").is_some_and(|pad| is_idle(&pad))
    }

    /// Ends all streams where they come out of the input, which has not done so itself.
    pub fn end_streams(&self) {
        for pad in self.queues.sink_pads() {
            // An input that comes to life in this moment is waited for.
            std::thread::spawn(move || pad.send_event(gst::event::Eos::new()));
        }
    }
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

/// Connects the first video stream and every audio track. parsebin adds the pads of all streams, video first, before the
/// first buffer flows.
fn connect_stream(
    pad: &gst::Pad,
    queues: &gst::Element,
    video: &gst::Pad,
    audio: &AudioOutput,
    tracks: &AtomicUsize,
) -> Result<()> {
    let caps = pad.current_caps().unwrap_or_else(|| pad.query_caps(None));
    let kind = caps.structure(0).map_or("unknown", |structure| structure.name().as_str());
    let is_video = kind.starts_with("video/") || kind.starts_with("image/");
    if is_video && !video.is_linked() {
        let queued = through_queue(queues, pad)?;
        queued.link(video).with_context(|| format!("video of type {kind} cannot be decoded"))?;
    } else if !video.is_linked() {
        bail!("the input has no video stream");
    } else if kind.starts_with("audio/") {
        let number = 1 + tracks.fetch_add(1, Ordering::Relaxed);
        audio.connect(&through_queue(queues, pad)?, &caps, number)?;
    } else {
        audio.tally.note(format!("a stream of type {kind} is left out"));
    }
    Ok(())
}

/// Leads a stream through a queue of its own and returns the end of it.
fn through_queue(queues: &gst::Element, pad: &gst::Pad) -> Result<gst::Pad> {
    let sink = queues.request_pad_simple("sink_%u").context("multiqueue gives no pad")?;
    let src = queues.static_pad(&sink.name().replace("sink", "src")).context("multiqueue lacks the other pad")?;
    pad.link(&sink)?;
    Ok(src)
}

/// Builds everything between the compressed video and the muxer, and returns the decoder in front.
fn video_branch(
    pipeline: &gst::Pipeline,
    args: &Args,
    upscaler: &gst::Element,
    muxer: &gst::Element,
    tally: &Arc<Tally>,
) -> Result<gst::Element> {
    let decoder = make("decodebin")?;
    pipeline.add(&decoder)?;

    let mut front = vec![small_queue()?, make("videoconvert")?];
    if args.deinterlace {
        let deinterlace = make("deinterlace")?;
        deinterlace.set_property_from_str("fields", "top");
        front.extend([deinterlace, make("videoconvert")?]);
    }
    // Players of upscaled files know no rotation tags of Matroska: turn the picture while it is small.
    let flip = make("videoflip")?;
    flip.set_property_from_str("video-direction", "auto");
    front.push(flip);

    let scale = upscaler.property::<f64>("scale");
    let crops = nick(upscaler, "size-policy") == "crop";
    let size = make("capsfilter")?;
    let format = make("capsfilter")?;
    let rate = args.bitrate.map_or(Rate::Quality(args.quality), Rate::Bitrate);
    let [encoder, parser] = video_encoder(args.codec, rate)?;
    let ours = [upscaler.clone(), size.clone()];
    let back = [small_queue()?, make("videoconvert")?, format.clone(), encoder, parser.clone()];
    pipeline.add_many(front.iter().chain(&ours).chain(&back))?;
    gst::Element::link_many(&front)?;
    gst::Element::link_many(&ours)?;
    gst::Element::link_many(&back)?;
    let (head, flip) = front.first().zip(front.last()).context("a chain of no elements")?;
    if args.compare {
        compare(pipeline, flip, &ours, &back[0], scale)?;
    } else {
        gst::Element::link_many([flip, upscaler])?;
        gst::Element::link_many([&size, &back[0]])?;
    }

    let muxed = request(muxer, &pad(&parser, "src")?.pad_template_caps())
        .or_else(|_| muxer.request_pad_simple("video_%u").context("the muxer takes no video"))?;
    pad(&parser, "src")?.link(&muxed)?;

    tally.end_video_at(&pad(flip, "src")?.peer().context("nothing behind the front")?);
    tally.count(&pad(upscaler, "sink")?, Point::In);
    tally.count(&pad(upscaler, "src")?, Point::Upscaled);
    tally.count(&muxed, Point::Out);

    let raw = pad(head, "sink")?;
    on_caps(&raw, move |info| {
        let depth = info.format_info().depth().iter().max().copied().unwrap_or(8);
        let caps = gst_video::VideoCapsBuilder::new().format(encoder_format(depth));
        format.set_property("caps", caps.build());
    });
    on_caps(&pad(upscaler, "sink")?, move |info| {
        // Encoders of 4:2:0 video take even sizes only.
        let input = Size::new(info.width() as usize, info.height() as usize);
        let wanted = Geometry::scaled_size(input, scale);
        let even = Size::new((wanted.width & !1).max(2), (wanted.height & !1).max(2));
        if !crops && even != wanted {
            let caps = gst_video::VideoCapsBuilder::new().width(even.width as i32).height(even.height as i32);
            size.set_property("caps", caps.build());
        }
        if muxed.has_property("trak-timescale") {
            muxed.set_property("trak-timescale", timescale(Some(info.fps())));
        }
    });

    decoder.connect_pad_added(move |decoder, pad| {
        if !raw.is_linked()
            && let Err(error) = pad.link(&raw)
        {
            gst::element_error!(decoder, gst::CoreError::Pad, ("decoded video cannot be upscaled: {error}"));
        }
    });
    Ok(decoder)
}

/// Splits the stream in front of the upscaler and joins it behind, side by side.
fn compare(
    pipeline: &gst::Pipeline,
    front: &gst::Element,
    ours: &[gst::Element; 2],
    back: &gst::Element,
    scale: f64,
) -> Result<()> {
    let tee = make("tee")?;
    let waiting = make("queue")?;
    // The small frames wait here for as long as the upscaler holds theirs.
    for limit in ["max-size-buffers", "max-size-bytes"] {
        waiting.set_property(limit, 0u32);
    }
    waiting.set_property("max-size-time", 0u64);
    let join = SideBySide::new(scale);
    let queue = small_queue()?;
    let (left, right) = (make("videoconvert")?, make("videoconvert")?);
    pipeline.add_many([&tee, &waiting, &queue, &left, &right, join.upcast_ref()])?;
    gst::Element::link_many([front, &tee, &queue, &ours[0]])?;
    gst::Element::link_many([&tee, &waiting, &left])?;
    ours[1].link(&right)?;
    left.link_pads(Some("src"), &join, Some("left"))?;
    right.link_pads(Some("src"), &join, Some("right"))?;
    join.link(back)?;
    Ok(())
}

/// A queue of two frames: a thread of its own for what follows, and no more memory than that.
fn small_queue() -> Result<gst::Element> {
    let queue = make("queue")?;
    queue.set_property("max-size-buffers", 2u32);
    queue.set_property("max-size-bytes", 0u32);
    queue.set_property("max-size-time", 0u64);
    Ok(queue)
}

fn upscaler(args: &Args, model: &Path) -> Result<gst::Element> {
    let upscaler = make("flashvsr")?;
    upscaler.set_property("model", model);
    args.element.apply(&upscaler);
    Ok(upscaler)
}

fn pad(element: &gst::Element, name: &str) -> Result<gst::Pad> {
    element.static_pad(name).with_context(|| format!("{} has no pad \"{name}\"", element.name()))
}

/// Calls `act` with each new format of a pad, before any element behind it learns of it.
fn on_caps(pad: &gst::Pad, act: impl Fn(&gst_video::VideoInfo) + Send + Sync + 'static) {
    pad.add_probe(gst::PadProbeType::EVENT_DOWNSTREAM, move |_, info| {
        if let Some(gst::EventView::Caps(caps)) = info.event().map(|event| event.view())
            && let Ok(info) = gst_video::VideoInfo::from_caps(caps.caps())
        {
            act(&info);
        }
        gst::PadProbeReturn::Ok
    });
}
