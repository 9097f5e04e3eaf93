// SPDX-License-Identifier: MPL-2.0

//! An element that gives every frame a time later than that of the frame before, and a duration.
//!
//! Decoders of old AVI give two frames one time, or none; milliseconds round the times of fast cameras to equal ones; a still
//! picture has no duration. Encoders and muxers lose such frames. A frame whose time is its own keeps it.

use std::sync::{Arc, LazyLock, Mutex, MutexGuard, OnceLock, PoisonError};

use gst::glib;
use gst::prelude::*;
use gst::subclass::prelude::*;
use gstreamer as gst;
use gstreamer_video as gst_video;

use crate::spread::{Spread, Timed};
use crate::tally::Tally;

glib::wrapper! {
    /// The element. Its output has one segment, from zero on: the time of a frame is its running time.
    pub struct Timeline(ObjectSubclass<imp::Timeline>)
        @extends gst::Element, gst::Object;
}

impl Timeline {
    /// Makes one, which tells `tally` at the end how many frames had no time of their own.
    pub fn new(tally: Arc<Tally>) -> Self {
        let element: Self = glib::Object::new();
        element.imp().tell(tally);
        element
    }
}

mod imp {
    use super::*;

    #[derive(Default)]
    struct State {
        segment: Option<gst::FormattedSegment<gst::ClockTime>>,
        format: Option<gst_video::VideoInfo>,
        frames: Spread<gst::Buffer>,
    }

    impl State {
        /// Takes the time of the first frame from the segment behind it, if that begins at the same running time. The demuxer of
        /// Matroska puts a first frame that is not at zero into a segment of its own, which moves this frame alone there.
        fn correct_first(&mut self) {
            let Some(segment) = self.segment.as_ref().filter(|segment| segment.base() == Some(gst::ClockTime::ZERO))
            else {
                return;
            };
            let time = self.frames.first().and_then(|frame| segment.to_running_time(frame.pts()));
            if let Some(time) = time {
                self.frames.move_first(time);
            }
        }
    }

    pub struct Timeline {
        sink: gst::Pad,
        src: gst::Pad,
        state: Mutex<State>,
        tally: OnceLock<Arc<Tally>>,
    }

    impl Timeline {
        pub(super) fn tell(&self, tally: Arc<Tally>) {
            // Set once, when the element is made.
            let _ = self.tally.set(tally);
        }

        fn state(&self) -> MutexGuard<'_, State> {
            self.state.lock().unwrap_or_else(PoisonError::into_inner)
        }

        fn frame(&self, buffer: gst::Buffer) -> Result<gst::FlowSuccess, gst::FlowError> {
            let ready = {
                let mut state = self.state();
                let time = match (buffer.pts(), &state.segment) {
                    (Some(start), Some(segment)) => {
                        let stop = start + buffer.duration().unwrap_or_default();
                        // A frame outside of the segment is not to be shown.
                        let Some((shown, _)) = segment.clip(start, stop) else { return Ok(gst::FlowSuccess::Ok) };
                        segment.to_running_time(shown)
                    }
                    (time, _) => time,
                };
                let duration = buffer.duration();
                state.frames.push(buffer, time, duration)
            };
            self.push(ready)
        }

        fn push(&self, frames: Vec<Timed<gst::Buffer>>) -> Result<gst::FlowSuccess, gst::FlowError> {
            for Timed { mut frame, time, duration } in frames {
                {
                    let frame = frame.make_mut();
                    frame.set_pts(time);
                    frame.set_dts(gst::ClockTime::NONE);
                    frame.set_duration(duration);
                }
                self.src.push(frame)?;
            }
            Ok(gst::FlowSuccess::Ok)
        }

        fn event(&self, event: gst::Event) -> bool {
            match event.view() {
                gst::EventView::Caps(caps) => self.caps(caps),
                gst::EventView::Segment(segment) => {
                    let first = {
                        let mut state = self.state();
                        let first = state.segment.is_none();
                        state.segment = segment.segment().downcast_ref::<gst::ClockTime>().cloned();
                        state.correct_first();
                        first
                    };
                    !first || self.src.push_event(whole(segment.seqnum()))
                }
                // The frames around a gap tell the same, and an early end would cost the model its memory.
                gst::EventView::Gap(_) => true,
                gst::EventView::Eos(_) => {
                    let (rest, spread) = {
                        let mut state = self.state();
                        (state.frames.finish(), state.frames.spread())
                    };
                    if let Some(tally) = self.tally.get().filter(|_| spread > 0) {
                        tally.note(format!(
                            "{spread} frames had no time of their own, or that of another; they are spread between their neighbours"
                        ));
                    }
                    // Who takes no more frames has said so upstream of them, or takes the end as well.
                    let _ = self.push(rest);
                    self.src.push_event(event)
                }
                gst::EventView::FlushStop(stop) => {
                    self.state().frames.clear();
                    let seqnum = stop.seqnum();
                    self.src.push_event(event) && self.src.push_event(whole(seqnum))
                }
                _ => self.src.push_event(event),
            }
        }

        /// Passes the first caps on. Later ones differ in the frame rate at most, which is only a hint beside the times:
        /// encoders and muxers would begin anew.
        fn caps(&self, caps: &gst::event::Caps) -> bool {
            let Ok(info) = gst_video::VideoInfo::from_caps(caps.caps()) else { return false };
            let mut state = self.state();
            if let Some(first) = &state.format {
                return (first.format(), first.width(), first.height()) == (info.format(), info.width(), info.height());
            }
            state.frames.set_rate(info.fps());
            state.format = Some(info);
            drop(state);
            self.src.push_event(caps.to_owned())
        }
    }

    /// A segment in which the timestamp is the running time.
    fn whole(seqnum: gst::Seqnum) -> gst::Event {
        gst::event::Segment::builder(&gst::FormattedSegment::<gst::ClockTime>::new()).seqnum(seqnum).build()
    }

    #[glib::object_subclass]
    impl ObjectSubclass for Timeline {
        const NAME: &'static str = "UpscaleTimeline";
        type Type = super::Timeline;
        type ParentType = gst::Element;

        fn with_class(class: &Self::Class) -> Self {
            let pad = |name| {
                let template = class.pad_template(name).expect("the class has this template");
                let flags = gst::PadFlags::PROXY_CAPS | gst::PadFlags::PROXY_ALLOCATION;
                gst::Pad::builder_from_template(&template).flags(flags)
            };
            let guarded = gst::FlowError::Error;
            let sink = pad("sink")
                .chain_function(move |_, parent, buffer| {
                    Timeline::catch_panic_pad_function(parent, || Err(guarded), |this| this.frame(buffer))
                })
                .event_function(|_, parent, event| {
                    Timeline::catch_panic_pad_function(parent, || false, |this| this.event(event))
                })
                .build();
            Self { sink, src: pad("src").build(), state: Mutex::default(), tally: OnceLock::new() }
        }
    }

    impl ObjectImpl for Timeline {
        fn constructed(&self) {
            self.parent_constructed();
            for pad in [&self.sink, &self.src] {
                self.obj().add_pad(pad).expect("a new element has no pads of this name");
            }
        }
    }

    impl GstObjectImpl for Timeline {}

    impl ElementImpl for Timeline {
        fn pad_templates() -> &'static [gst::PadTemplate] {
            static TEMPLATES: LazyLock<Vec<gst::PadTemplate>> = LazyLock::new(|| {
                let caps = gst_video::VideoCapsBuilder::new().build();
                let template = |name, direction| {
                    gst::PadTemplate::new(name, direction, gst::PadPresence::Always, &caps).expect("the caps are right")
                };
                vec![template("sink", gst::PadDirection::Sink), template("src", gst::PadDirection::Src)]
            });
            &TEMPLATES
        }
    }
}
