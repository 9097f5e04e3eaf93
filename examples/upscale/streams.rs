// SPDX-License-Identifier: MPL-2.0

//! The streams of the input: which one is the film, which ones go along, which ones are left out.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};
use gst::glib;
use gst::prelude::*;
use gstreamer as gst;

use crate::audio::Tracks;
use crate::formats::Container;
use crate::length::Length;
use crate::piece::Piece;
use crate::subtitles;
use crate::tally::Tally;
use crate::words::{Kind, describe};

/// Where the streams of an input go.
pub struct Outlets {
    /// A queue for each stream.
    pub queues: gst::Element,
    /// The sink of the video decoder.
    pub video: gst::Pad,
    /// The tracks beside the video; none if pictures are written.
    pub tracks: Option<Tracks>,
    /// What is told about it.
    pub tally: Arc<Tally>,
    /// Whether the film has come to its end.
    pub film_ended: Arc<AtomicBool>,
    /// How long the input is, and how long it says it is.
    pub length: Arc<Length>,
    /// The piece of it that is wanted.
    pub piece: Piece,
}

/// Connects the streams that come out of `parser`, once all of them are there: it adds their pads before any buffer flows, and
/// does not tell when it has added the last one.
pub fn connect(parser: &gst::Element, outlets: Outlets) {
    let waiting: Arc<Mutex<Vec<gst::Pad>>> = Arc::default();
    let outlets = Arc::new(outlets);
    let continues = outlets.clone();
    // Whether to look for a parser; that of styled subtitles would leave the text alone.
    parser.connect_closure(
        "autoplug-continue",
        false,
        glib::closure!(move |_: gst::Element, _: gst::Pad, caps: gst::Caps| !continues.takes_subtitles(&caps)),
    );
    parser.connect_pad_added(move |parser, pad| {
        lock(&waiting).push(pad.clone());
        let (waiting, outlets, parser) = (waiting.clone(), outlets.clone(), parser.downgrade());
        pad.add_probe(gst::PadProbeType::BLOCK_DOWNSTREAM, move |_, _| {
            // The first stream that flows connects all.
            let mut waiting = lock(&waiting);
            let pads = std::mem::take(&mut *waiting);
            if !pads.is_empty()
                && let Err(error) = outlets.connect(pads)
                && let Some(parser) = parser.upgrade()
            {
                gst::element_error!(parser, gst::StreamError::Failed, ("{error:#}"));
            }
            gst::PadProbeReturn::Remove
        });
    });
}

fn lock(pads: &Mutex<Vec<gst::Pad>>) -> MutexGuard<'_, Vec<gst::Pad>> {
    pads.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Outlets {
    fn connect(&self, pads: Vec<gst::Pad>) -> Result<()> {
        let streams: Vec<(gst::Pad, gst::Caps)> = pads
            .into_iter()
            .map(|pad| {
                let caps = pad.current_caps().unwrap_or_else(|| pad.query_caps(None));
                (pad, caps)
            })
            .collect();
        if self.film_ended.load(Ordering::Acquire) {
            // The input has begun a new set of streams.
            self.length.goes_on();
            return Ok(());
        }
        let film = if self.video.is_linked() { None } else { film(&streams) };
        for (number, (pad, caps)) in streams.iter().enumerate() {
            self.length.watch(pad, film == Some(number), Kind::of(caps) == Kind::Sound);
            self.watch_end(pad, film == Some(number));
            if film == Some(number) {
                self.length.video.count_packets(pad, caps);
                self.tell_of_chapters(pad);
                self.through_queue(pad)?
                    .link(&self.video)
                    .with_context(|| format!("{} cannot be decoded", describe(caps)))?;
            } else {
                self.beside(pad, caps)?;
            }
        }
        if !self.video.is_linked() {
            self.expect_film();
        }
        Ok(())
    }

    /// Says that chapters are left out where the output cannot hold them.
    fn tell_of_chapters(&self, pad: &gst::Pad) {
        if self.tracks.as_ref().is_some_and(|tracks| tracks.container == Container::Matroska) {
            return;
        }
        let (tally, told) = (self.tally.clone(), AtomicBool::new(false));
        pad.add_probe(gst::PadProbeType::EVENT_DOWNSTREAM, move |_, info| {
            if matches!(info.event().map(|event| event.view()), Some(gst::EventView::Toc(_)))
                && !told.swap(true, Ordering::AcqRel)
            {
                tally.note("chapters left out; an output name that ends in .mkv keeps them");
            }
            gst::PadProbeReturn::Ok
        });
    }

    /// Notes the end of a stream. Without a film by then there is none.
    fn watch_end(&self, pad: &gst::Pad, is_film: bool) {
        let (video, ended) = (self.video.clone(), self.film_ended.clone());
        pad.add_probe(gst::PadProbeType::EVENT_DOWNSTREAM, move |pad, info| {
            if matches!(info.event().map(|event| event.view()), Some(gst::EventView::Eos(_))) {
                ended.fetch_or(is_film, Ordering::AcqRel);
                if !video.is_linked() {
                    no_film(pad.parent_element());
                }
            }
            gst::PadProbeReturn::Ok
        });
    }

    /// Some containers tell of a stream only where it begins. What comes before fills its queues, and no more than that.
    fn expect_film(&self) {
        let video = self.video.clone();
        self.queues.connect("overrun", false, move |values| {
            if !video.is_linked() {
                no_film(values.first().and_then(|queues| queues.get().ok()));
            }
            None
        });
    }

    /// Connects a stream that goes beside the film, or says that it is left out.
    fn beside(&self, pad: &gst::Pad, caps: &gst::Caps) -> Result<()> {
        let left_out = |reason: &str| self.tally.note(format!("{} left out: {reason}", describe(caps)));
        let Some(tracks) = &self.tracks else {
            left_out("pictures have no place for it");
            return Ok(());
        };
        match Kind::of(caps) {
            Kind::Sound => tracks.add_sound(&self.cut_in_queue(pad)?),
            Kind::Subtitles => subtitles::connect(tracks, &self.cut_in_queue(pad)?, describe(caps)),
            Kind::Video => left_out("one video stream is upscaled"),
            Kind::Pictures => left_out("one video stream is upscaled, and this looks like a cover"),
            Kind::Data => left_out("nothing is known about it"),
        }
        Ok(())
    }

    /// Whether a stream is subtitles that the output takes as they are.
    fn takes_subtitles(&self, caps: &gst::Caps) -> bool {
        let muxer = self.tracks.as_ref().map(|tracks| &tracks.muxer);
        Kind::of(caps) == Kind::Subtitles && muxer.is_some_and(|muxer| subtitles::takes(muxer, caps))
    }

    /// The same as [`Outlets::through_queue`], of what belongs to the piece.
    fn cut_in_queue(&self, pad: &gst::Pad) -> Result<gst::Pad> {
        let src = self.through_queue(pad)?;
        self.piece.cut_at(&pad.peer().context("a stream without its queue")?);
        Ok(src)
    }

    /// Leads a stream through a queue of its own and returns the end of it.
    fn through_queue(&self, pad: &gst::Pad) -> Result<gst::Pad> {
        let sink = self.queues.request_pad_simple("sink_%u").context("multiqueue gives no pad")?;
        let name = sink.name().replace("sink", "src");
        let src = self.queues.static_pad(&name).context("multiqueue lacks the other pad")?;
        pad.link(&sink)?;
        Ok(src)
    }
}

fn no_film(element: Option<gst::Element>) {
    if let Some(element) = element {
        gst::element_error!(element, gst::StreamError::Failed, ("the input has no video stream"));
    }
}

/// The stream that is upscaled: the first video that can be decoded, or else the first video, or else pictures, which beside
/// a video are its cover.
fn film(streams: &[(gst::Pad, gst::Caps)]) -> Option<usize> {
    let of = |kind, decodable: bool| {
        streams.iter().position(|(_, caps)| Kind::of(caps) == kind && (!decodable || can_be_decoded(caps)))
    };
    of(Kind::Video, true).or_else(|| of(Kind::Pictures, true)).or_else(|| of(Kind::Video, false))
}

/// Whether GStreamer has a decoder for a stream, or the stream needs none.
pub fn can_be_decoded(caps: &gst::Caps) -> bool {
    let raw = caps.structure(0).is_some_and(|structure| structure.name().ends_with("/x-raw"));
    let decoders = gst::ElementFactory::factories_with_type(gst::ElementFactoryType::DECODER, gst::Rank::MARGINAL);
    raw || decoders.iter().any(|factory| factory.can_sink_any_caps(caps))
}
