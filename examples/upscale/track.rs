// SPDX-License-Identifier: MPL-2.0

//! A track beside the video: if it fails, it ends, and the job goes on without it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use anyhow::{Context, Result};
use gst::glib;
use gst::prelude::*;
use gst::subclass::prelude::*;
use gstreamer as gst;
use gstreamer_pbutils as gst_pbutils;

use crate::formats::make;
use crate::gate::Gate;
use crate::tally::{Tally, TrackKind};

glib::wrapper! {
    /// A bin that keeps the errors of its elements to itself.
    pub struct Track(ObjectSubclass<imp::Track>)
        @extends gst::Bin, gst::Element, gst::Object;
}

/// How a track gets into the output.
pub enum Way {
    /// Through these elements, if any, and counted as such a track.
    Through(Vec<gst::Element>, TrackKind),
    /// It does not, for this reason.
    LeftOut(String),
}

/// A track on its way into the muxer.
pub struct Slot {
    /// The pipeline of the job.
    pub pipeline: gst::Pipeline,
    /// The muxer.
    pub muxer: gst::Element,
    /// The name of the muxer's pads for such tracks.
    pub template: &'static str,
    /// What the track is called.
    pub name: String,
    /// What is told about it.
    pub tally: Arc<Tally>,
    /// What waits until the track is in the muxer, or left out.
    pub gate: Arc<Gate>,
    /// Where it has come to.
    pub state: Mutex<State>,
}

/// Where a track has come to.
#[derive(Debug, Default)]
pub enum State {
    /// It has not told yet what is to be written.
    #[default]
    Open,
    /// At this pad, which has told so, and is blocked.
    Ready(gst::Pad, gst::PadProbeId, TrackKind),
    /// In this pad of the muxer.
    Muxed(gst::Pad),
    /// Ended early, or left out.
    GivenUp,
}

impl Slot {
    /// Connects `source` as soon as it tells what the track is, which parsers do with their first frame. `decide` finds the way.
    pub fn fill(self, source: &gst::Pad, decide: impl Fn(&gst::Caps) -> Result<Way> + Send + Sync + 'static) {
        let slot = Arc::new(self);
        if !slot.gate.expect(slot.clone()) {
            slot.give_up("it begins after the film");
        }
        source.add_probe(gst::PadProbeType::DATA_DOWNSTREAM, move |source, info| {
            if source.is_linked() {
                return gst::PadProbeReturn::Remove;
            }
            match info.event().map(|event| event.view()) {
                Some(gst::EventView::Caps(caps)) => {
                    let way = decide(&caps.caps_owned()).and_then(|way| match way {
                        Way::Through(elements, kind) => slot.connect(source, elements, kind).map(|()| None),
                        Way::LeftOut(reason) => Ok(Some(reason)),
                    });
                    if let Some(reason) = way.unwrap_or_else(|error| Some(format!("{error:#}"))) {
                        slot.give_up(&reason);
                    }
                    gst::PadProbeReturn::Ok
                }
                Some(gst::EventView::Eos(_)) => {
                    slot.give_up("it is empty");
                    gst::PadProbeReturn::Ok
                }
                Some(_) => gst::PadProbeReturn::Ok,
                // A track that is left out: its data goes no further. `Drop` would have GStreamer release it a second time.
                None => {
                    info.flow_res = Ok(gst::FlowSuccess::Ok);
                    gst::PadProbeReturn::Handled
                }
            }
        });
    }

    /// Leads the track through `elements`.
    fn connect(self: &Arc<Self>, source: &gst::Pad, elements: Vec<gst::Element>, kind: TrackKind) -> Result<()> {
        let fits = make("capsfilter")?;
        fits.set_property("caps", self.muxer.pad_template(self.template).context("no such track")?.caps());
        let elements: Vec<gst::Element> = elements.into_iter().chain([fits]).collect();
        let (first, last) = elements.first().zip(elements.last()).context("a track of no elements")?;
        let track: Track = glib::Object::new();
        track.add_many(&elements)?;
        link(&elements)?;
        let end = last.static_pad("src").context("the end of a track has no pad")?;
        let end = gst::GhostPad::with_target(&end)?;
        end.set_active(true)?;
        track.add_pad(&end)?;
        let start = first.static_pad("sink").context("the start of a track has no pad")?;
        let start = gst::GhostPad::builder_with_target(&start)?.name("sink").chain_function(swallow_errors).build();
        start.set_active(true)?;
        track.add_pad(&start)?;
        let slot = self.clone();
        track.imp().on_failure(move |reason| slot.give_up(reason));
        self.wait_for_muxer(end.upcast_ref(), kind);
        self.pipeline.add(&track)?;
        source.link(&start)?;
        track.sync_state_with_parent()?;
        Ok(())
    }

    /// Has `end` wait for its place in the muxer as soon as it tells what is to be written: a muxer writes a broken track for a
    /// pad that never gets so far.
    fn wait_for_muxer(self: &Arc<Self>, end: &gst::Pad, kind: TrackKind) {
        let (slot, told) = (self.clone(), AtomicBool::new(false));
        let mask = gst::PadProbeType::BLOCK | gst::PadProbeType::DATA_DOWNSTREAM;
        end.add_probe(mask, move |end, info| {
            match info.event().map(|event| event.view()) {
                Some(gst::EventView::Caps(_)) => {}
                Some(gst::EventView::Eos(_)) if !told.load(Ordering::Acquire) => {
                    slot.give_up("it is empty");
                    return gst::PadProbeReturn::Remove;
                }
                _ if told.load(Ordering::Acquire) => return gst::PadProbeReturn::Ok,
                _ => return gst::PadProbeReturn::Pass,
            }
            if !told.swap(true, Ordering::AcqRel)
                && let Some(id) = info.id.take()
            {
                *slot.state() = State::Ready(end.clone(), id, kind);
                slot.gate.track_decided();
            }
            gst::PadProbeReturn::Ok
        });
    }

    /// Links a track that is ready to a new pad of the muxer.
    pub fn enter_muxer(&self) {
        let mut state = self.state();
        let (end, block, kind) = match std::mem::take(&mut *state) {
            State::Ready(end, block, kind) => (end, block, kind),
            other => {
                *state = other;
                return;
            }
        };
        let pad = self.muxer.request_pad_simple(self.template).context("the output takes no further track");
        let linked = pad.and_then(|pad| {
            self.tally.end_audio_at(&pad);
            end.link(&pad)?;
            Ok(pad)
        });
        match linked {
            Ok(pad) => {
                *state = State::Muxed(pad);
                self.tally.track(kind);
            }
            Err(error) => {
                *state = State::GivenUp;
                self.tally.note(format!("{} left out: {error:#}", self.name));
            }
        }
        end.remove_probe(block);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Goes on without the track.
    fn give_up(&self, reason: &str) {
        let before = std::mem::replace(&mut *self.state(), State::GivenUp);
        match before {
            State::Open => {
                self.tally.note(format!("{} left out: {reason}", self.name));
                self.gate.track_decided();
            }
            State::Ready(..) => self.tally.note(format!("{} left out: {reason}", self.name)),
            State::Muxed(pad) => {
                self.tally.note(format!("{} ends early: {reason}", self.name));
                pad.send_event(gst::event::Eos::new());
            }
            State::GivenUp => {}
        }
    }
}

/// Links elements in their order; a decoder gets its pad later.
fn link(elements: &[gst::Element]) -> Result<()> {
    for (from, to) in elements.iter().zip(elements.iter().skip(1)) {
        if from.static_pad("src").is_some() {
            from.link(to)?;
            continue;
        }
        let sink = to.static_pad("sink").context("an element without a sink pad")?;
        from.connect_pad_added(move |from, pad| {
            if !sink.is_linked()
                && let Err(error) = pad.link(&sink)
            {
                gst::element_error!(from, gst::CoreError::Pad, ("what is decoded cannot be passed on: {error}"));
            }
        });
    }
    Ok(())
}

/// Feeds the track as long as it works, and says that all is well afterwards: one stream that fails would end all.
fn swallow_errors(
    pad: &gst::GhostPad,
    parent: Option<&gst::Object>,
    buffer: gst::Buffer,
) -> Result<gst::FlowSuccess, gst::FlowError> {
    let track = pad.parent().and_downcast::<Track>();
    if track.as_ref().is_some_and(|track| track.imp().has_failed()) {
        return Ok(gst::FlowSuccess::Ok);
    }
    match gst::ProxyPad::chain_default(pad, parent, buffer) {
        Err(error @ (gst::FlowError::Error | gst::FlowError::NotNegotiated | gst::FlowError::NotLinked)) => {
            if let Some(track) = track {
                track.imp().fail(&error.to_string());
            }
            Ok(gst::FlowSuccess::Ok)
        }
        result => result,
    }
}

mod imp {
    use super::*;

    type OnFailure = Box<dyn Fn(&str) + Send + Sync>;

    #[derive(Default)]
    pub struct Track {
        failed: AtomicBool,
        on_failure: OnceLock<OnFailure>,
    }

    impl Track {
        pub(super) fn on_failure(&self, act: impl Fn(&str) + Send + Sync + 'static) {
            // Set once, when the track is made.
            let _ = self.on_failure.set(Box::new(act));
        }

        pub(super) fn has_failed(&self) -> bool {
            self.failed.load(Ordering::Acquire)
        }

        pub(super) fn fail(&self, reason: &str) {
            if !self.failed.swap(true, Ordering::AcqRel)
                && let Some(act) = self.on_failure.get()
            {
                act(reason);
            }
        }
    }

    #[glib::object_subclass]
    impl ObjectSubclass for Track {
        const NAME: &'static str = "UpscaleTrack";
        type Type = super::Track;
        type ParentType = gst::Bin;
    }

    impl ObjectImpl for Track {}
    impl GstObjectImpl for Track {}
    impl ElementImpl for Track {}

    impl BinImpl for Track {
        fn handle_message(&self, message: gst::Message) {
            match message.view() {
                gst::MessageView::Error(error) => self.fail(error.error().message()),
                // What is missing for a track does not end the job.
                gst::MessageView::Element(_) if gst_pbutils::MissingPluginMessage::is(&message) => {}
                _ => self.parent_handle_message(message),
            }
        }
    }
}
