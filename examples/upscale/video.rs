// SPDX-License-Identifier: MPL-2.0

//! What happens to the decoded video: made fit for the upscaler, upscaled, and encoded.
//!
//! ```text
//! queue ! videoconvert [! deinterlace] ! videoflip ! videoconvertscale ! first format ! timeline
//!     ! flashvsr ! even size ! queue ! videoconvert ! encoder's format ! encoder ! …
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, ensure};
use gst::prelude::*;
use gstflashvsr::upscaler::Size;
use gstreamer as gst;
use gstreamer_video as gst_video;

use crate::args::Codec;
use crate::color;
use crate::durations::Durations;
use crate::element_options::nick;
use crate::first_format;
use crate::formats::{make, timescale};
use crate::piece::Piece;
use crate::side_by_side::SideBySide;
use crate::sizes::Asked;
use crate::tally::{Point, Tally};
use crate::target::{Encoder, Encoding, Wish};
use crate::timeline::Timeline;

/// What the user wants of the video.
#[derive(Debug, Clone, Copy)]
pub struct Wishes {
    /// How it is encoded.
    pub encoding: Wish,
    /// How large it becomes.
    pub size: Asked,
    /// Whether there is place for one frame only.
    pub single: bool,
    /// Whether the bicubic picture stands beside ours.
    pub compare: bool,
    /// Whether interlaced video is made progressive.
    pub deinterlace: bool,
}

/// Builds everything between the decoded video and `sink`, the pad of a muxer or of an element that writes pictures. Returns
/// the pad to feed.
pub fn branch(
    pipeline: &gst::Pipeline,
    wishes: Wishes,
    piece: &Piece,
    upscaler: &gst::Element,
    sink: &gst::Pad,
    tally: &Arc<Tally>,
) -> Result<gst::Pad> {
    let mut front = vec![small_queue()?, make("videoconvert")?];
    if wishes.deinterlace {
        let deinterlace = make("deinterlace")?;
        deinterlace.set_property_from_str("fields", "top");
        front.extend([deinterlace, make("videoconvert")?]);
    }
    // Players of upscaled files know no rotation tags of Matroska: turn the picture while it is small.
    let flip = make("videoflip")?;
    flip.set_property_from_str("video-direction", "auto");
    let resize = make("videoconvertscale")?;
    let first = make("capsfilter")?;
    let timeline = Timeline::new(tally.clone());
    front.extend([flip, resize.clone(), first.clone(), timeline.clone().upcast()]);

    let size = make("capsfilter")?;
    let ours = [upscaler.clone(), size.clone()];
    let format = make("capsfilter")?;
    let back = [small_queue()?, make("videoconvert")?, format.clone()];
    pipeline.add_many(front.iter().chain(&ours).chain(&back))?;
    gst::Element::link_many(&front)?;
    gst::Element::link_many(&ours)?;
    gst::Element::link_many(&back)?;
    let crops = nick(upscaler, "size-policy") == "crop";
    if wishes.compare {
        compare(pipeline, timeline.upcast_ref(), &ours, &back[0], crops)?;
    } else {
        gst::Element::link_many([timeline.upcast_ref(), upscaler])?;
        gst::Element::link_many([&size, &back[0]])?;
    }

    let front_end = pad(timeline.upcast_ref(), "sink")?;
    piece.cut_at(&front_end);
    tally.end_video_at(&front_end);
    if wishes.single {
        refuse_second_frame(&pad(upscaler, "sink")?);
    }
    tally.count(&pad(upscaler, "sink")?, Point::In);
    tally.count(&pad(upscaler, "src")?, Point::Upscaled);
    tally.count(sink, Point::Out);

    let raw = pad(&front[0], "sink")?;
    // Decoders may find out at any frame.
    on_caps(&raw, move |info| color::refuse_interlaced(info, wishes.deinterlace));
    encode_like(&raw, pipeline, wishes, format, sink, tally);
    first_format::keep(&pad(&resize, "sink")?, first, tally);
    if wishes.encoding.picture.is_none() || matches!(wishes.size, Asked::Within { .. }) {
        choose_size(upscaler, size, wishes.size, crops, sink)?;
    }
    Ok(raw)
}

/// Ends the job if more than one frame comes.
fn refuse_second_frame(pad: &gst::Pad) {
    let any = AtomicBool::new(false);
    pad.add_probe(gst::PadProbeType::BUFFER, move |pad, _| {
        if any.swap(true, Ordering::AcqRel)
            && let Some(element) = pad.peer().and_then(|peer| peer.parent_element())
        {
            let cure = "an output like frame_%05d.png takes a picture of each";
            gst::element_error!(element, gst::StreamError::Failed, ("the input has more than one frame; {cure}"));
        }
        gst::PadProbeReturn::Ok
    });
}

/// Adds the encoder between `format` and `sink` as soon as `raw` tells what there is to encode.
fn encode_like(
    raw: &gst::Pad,
    pipeline: &gst::Pipeline,
    wishes: Wishes,
    format: gst::Element,
    sink: &gst::Pad,
    tally: &Arc<Tally>,
) {
    let (pipeline, sink, tally) = (pipeline.downgrade(), sink.clone(), tally.clone());
    on_first_caps(raw, move |info| {
        let pipeline = pipeline.upgrade().context("the pipeline has gone")?;
        let encoding = wishes.encoding.decide(info, wishes.compare);
        for note in color::notes(info, &encoding, wishes) {
            tally.note(note);
        }
        format.set_property("caps", &encoding.raw);
        add_encoder(&pipeline, &format, &encoding, &sink)
    });
}

fn add_encoder(pipeline: &gst::Pipeline, format: &gst::Element, encoding: &Encoding, sink: &gst::Pad) -> Result<()> {
    let mut elements = encoding.encoder.elements()?;
    if let Encoder::Video(Codec::H265, ..) = encoding.encoder {
        elements.insert(0, usual_rate()?);
    }
    pipeline.add_many(&elements)?;
    gst::Element::link_many(std::iter::once(format).chain(&elements))?;
    let (first, last) = elements.first().zip(elements.last()).context("an encoder of no elements")?;
    let durations = Durations::default();
    durations.learn_at(&pad(first, "sink")?);
    durations.restore_at(sink);
    pad(last, "src")?.link(sink)?;
    for element in elements.iter().rev() {
        element.sync_state_with_parent()?;
    }
    Ok(())
}

/// An element that calls a variable frame rate 25 per second, as other encoders take it: x265 refuses it. The times stay.
fn usual_rate() -> Result<gst::Element> {
    let rate = make("capssetter")?;
    let (setter, sink) = (rate.downgrade(), pad(&rate, "sink")?);
    on_first_caps(&sink, move |info| {
        if let Some(setter) = setter.upgrade().filter(|_| info.fps().numer() == 0) {
            let caps = gst::Caps::builder("video/x-raw").field("framerate", gst::Fraction::new(25, 1)).build();
            setter.set_property("caps", caps);
        }
        Ok(())
    });
    Ok(rate)
}

/// Has the upscaler make the size that is asked for, even as encoders of 4:2:0 video need it, and the muxer count in fine ticks.
fn choose_size(upscaler: &gst::Element, size: gst::Element, asked: Asked, crops: bool, muxed: &gst::Pad) -> Result<()> {
    let muxed = muxed.clone();
    on_first_caps(&pad(upscaler, "sink")?, move |info| {
        if crops {
            ensure!(
                matches!(asked, Asked::Scale(_)),
                "--width and --height do not go with --size-policy crop; give --scale"
            );
        } else {
            let input = Size::new(info.width() as usize, info.height() as usize);
            let even = asked.of(input).map_err(anyhow::Error::msg)?;
            let caps = gst_video::VideoCapsBuilder::new().width(even.width as i32).height(even.height as i32);
            refuse_too_small(&muxed, even)?;
            size.set_property("caps", caps.build());
        }
        count_finely(&muxed, info.fps());
        Ok(())
    });
    Ok(())
}

/// Makes sure that a container takes pictures of a size.
fn refuse_too_small(muxed: &gst::Pad, size: Size) -> Result<()> {
    let sizes = muxed.pad_template_caps().iter().any(|offered| {
        let takes = |name, value: usize| match offered.get::<gst::IntRange<i32>>(name) {
            Ok(range) => value as i64 >= i64::from(range.min()),
            Err(_) => true,
        };
        takes("width", size.width) && takes("height", size.height)
    });
    ensure!(
        sizes,
        "the output would be {}x{}, which is too small for its container; give a larger --scale, or a name that ends in .mkv",
        size.width,
        size.height
    );
    Ok(())
}

/// Sets the unit in which a container counts time.
fn count_finely(muxed: &gst::Pad, framerate: gst::Fraction) {
    if muxed.has_property("trak-timescale") {
        muxed.set_property("trak-timescale", timescale(Some(framerate)));
    }
    // Milliseconds, which everybody expects in Matroska, are too coarse for fast cameras.
    let fast = framerate.numer() > 250 * framerate.denom();
    if let Some(muxer) = muxed.parent_element().filter(|muxer| fast && muxer.has_property("timecodescale")) {
        muxer.set_property("timecodescale", 100_000i64);
    }
}

/// Splits the stream in front of the upscaler and joins it behind, side by side.
fn compare(
    pipeline: &gst::Pipeline,
    front: &gst::Element,
    ours: &[gst::Element; 2],
    back: &gst::Element,
    crops: bool,
) -> Result<()> {
    let tee = make("tee")?;
    let waiting = make("queue")?;
    // The small frames wait here for as long as the upscaler holds theirs.
    for limit in ["max-size-buffers", "max-size-bytes"] {
        waiting.set_property(limit, 0u32);
    }
    waiting.set_property("max-size-time", 0u64);
    // Ours shows all of the picture, unless it is cropped.
    let join = SideBySide::new(if crops { ours[0].property("scale") } else { 1.0 });
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

fn pad(element: &gst::Element, name: &str) -> Result<gst::Pad> {
    element.static_pad(name).with_context(|| format!("{} has no pad \"{name}\"", element.name()))
}

/// Calls `act` with the first format of a pad, before any element behind it learns of it. A failure ends the job.
fn on_first_caps(pad: &gst::Pad, act: impl Fn(&gst_video::VideoInfo) -> Result<()> + Send + Sync + 'static) {
    let done = AtomicBool::new(false);
    on_caps(pad, move |info| if done.swap(true, Ordering::AcqRel) { Ok(()) } else { act(info) });
}

/// The same with every format.
fn on_caps(pad: &gst::Pad, act: impl Fn(&gst_video::VideoInfo) -> Result<()> + Send + Sync + 'static) {
    pad.add_probe(gst::PadProbeType::EVENT_DOWNSTREAM, move |pad, info| {
        if let Some(gst::EventView::Caps(caps)) = info.event().map(|event| event.view())
            && let Ok(info) = gst_video::VideoInfo::from_caps(caps.caps())
            && let Err(error) = act(&info)
        {
            if let Some(element) = pad.parent_element() {
                gst::element_error!(element, gst::StreamError::Failed, ("{error:#}"));
            }
            // The event goes no further. `Drop` would have GStreamer release it a second time.
            return gst::PadProbeReturn::Handled;
        }
        gst::PadProbeReturn::Ok
    });
}
