// SPDX-License-Identifier: MPL-2.0

//! GObject, and the virtual functions of GStreamer's classes. What they do with frames is in [`super::flow`].

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};

use gst::glib;
use gst::prelude::*;
use gst::subclass::prelude::*;
use gst_base::prelude::*;
use gst_base::subclass::BaseTransformMode;
use gst_base::subclass::base_transform::GenerateOutputSuccess;
use gst_base::subclass::prelude::*;
use gst_video::subclass::prelude::*;
use parking_lot::Mutex;

use super::caps::{INPUT, OUTPUT};
use super::carrier::scale_region;
use super::latency::Latency;
use super::layout;
use super::loader::Loader;
use super::session::Session;
use super::settings::{PROPERTIES, Settings};
use super::stats::Stats;
use super::{CAT, errors::Failure};
use crate::error::Error;
use crate::upscaler::{self, Cancel, Format, Located, Model, Options, Places, Progress};

/// What belongs to the streaming thread.
#[derive(Default)]
pub struct State {
    /// From the first caps to READY.
    pub model: Option<Arc<dyn Model>>,
    /// From caps to caps.
    pub session: Option<Session>,
}

/// The element. No lock is held across a push, and only `state` across inference.
#[derive(Default)]
pub struct FlashVsr {
    pub(super) settings: Mutex<Settings>,
    pub(super) state: Mutex<State>,
    /// From READY to READY.
    pub(super) loader: Mutex<Option<Arc<Loader>>>,
    pub(super) stats: Mutex<Stats>,
    /// The caps that were refused last: elements in front send them again with every buffer.
    pub(super) refused: Mutex<Option<gst::Caps>>,
    /// Interrupts inference.
    pub(super) cancel: Cancel,
    /// Whether a state change, and not only a flush, has interrupted it.
    pub(super) stopping: AtomicBool,
    /// Latency in nanoseconds.
    pub(super) latency: AtomicU64,
}

#[glib::object_subclass]
impl ObjectSubclass for FlashVsr {
    const NAME: &'static str = "GstFlashVsr";
    type Type = super::FlashVsr;
    type ParentType = gst_video::VideoFilter;
}

impl ObjectImpl for FlashVsr {
    fn properties() -> &'static [glib::ParamSpec] {
        PROPERTIES.as_ref()
    }

    fn set_property(&self, _id: usize, value: &glib::Value, pspec: &glib::ParamSpec) {
        self.settings.lock().set(pspec.name(), value);
    }

    fn property(&self, _id: usize, pspec: &glib::ParamSpec) -> glib::Value {
        let value = self.settings.lock().get(pspec.name());
        value.unwrap_or_else(|| self.stats.lock().structure().to_value())
    }

    fn constructed(&self) {
        self.parent_constructed();
        // A frame that the base class skips would be missing in the output, and in the model's memory.
        self.obj().set_qos(false);
    }
}

impl GstObjectImpl for FlashVsr {}

impl ElementImpl for FlashVsr {
    fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
        static METADATA: LazyLock<gst::subclass::ElementMetadata> = LazyLock::new(|| {
            gst::subclass::ElementMetadata::new(
                "FlashVSR video upscaler",
                "Filter/Effect/Converter/Video/Scaler",
                "Upscales progressive video with FlashVSR v1.1 Tiny-Long, a streaming one-step diffusion model. Interlaced video \
                 is refused: put deinterlace before it. N frames in, N frames out, with their timestamps. Frames come out in \
                 windows: put a queue before it for a thread of its own, one behind it if the source is live, so that a sink \
                 that waits for its time does not hold up the next window, and an unlimited queue (max-size-time=0 \
                 max-size-buffers=0 max-size-bytes=0) into sibling branches",
                "The gst-plugin-flashvsr developers",
            )
        });
        Some(&METADATA)
    }

    fn pad_templates() -> &'static [gst::PadTemplate] {
        static TEMPLATES: LazyLock<Vec<gst::PadTemplate>> = LazyLock::new(|| {
            [("sink", gst::PadDirection::Sink, &INPUT), ("src", gst::PadDirection::Src, &OUTPUT)]
                .into_iter()
                .filter_map(|(name, direction, caps)| {
                    gst::PadTemplate::new(name, direction, gst::PadPresence::Always, caps).ok()
                })
                .collect()
        });
        TEMPLATES.as_ref()
    }

    fn change_state(&self, transition: gst::StateChange) -> Result<gst::StateChangeSuccess, gst::StateChangeError> {
        if transition == gst::StateChange::PausedToReady {
            self.interrupt();
        }
        self.parent_change_state(transition)
    }
}

impl BaseTransformImpl for FlashVsr {
    const MODE: BaseTransformMode = BaseTransformMode::NeverInPlace;
    const PASSTHROUGH_ON_SAME_CAPS: bool = false;
    const TRANSFORM_IP_ON_PASSTHROUGH: bool = false;

    fn start(&self) -> Result<(), gst::ErrorMessage> {
        *self.state.lock() = State::default();
        let loader = self.begin_loading().map_err(|failure| {
            failure.message().unwrap_or_else(|| gst::error_msg!(gst::CoreError::StateChange, ("{}", failure)))
        })?;
        *self.loader.lock() = Some(Arc::new(loader));
        self.latency.store(0, Ordering::Release);
        self.refused.lock().take();
        self.stopping.store(false, Ordering::SeqCst);
        self.cancel.clear();
        self.parent_start()
    }

    fn stop(&self) -> Result<(), gst::ErrorMessage> {
        *self.state.lock() = State::default();
        self.loader.lock().take();
        self.stats.lock().frames_held = 0;
        self.parent_stop()
    }

    fn transform_caps(
        &self,
        direction: gst::PadDirection,
        caps: &gst::Caps,
        filter: Option<&gst::Caps>,
    ) -> Option<gst::Caps> {
        let other = self.scaling().transform(direction, caps);
        Some(match filter {
            Some(filter) => other.intersect_with_mode(filter, gst::CapsIntersectMode::First),
            None => other,
        })
    }

    fn fixate_caps(&self, direction: gst::PadDirection, caps: &gst::Caps, othercaps: gst::Caps) -> gst::Caps {
        match direction {
            gst::PadDirection::Sink => self.scaling().fixate_output(caps, othercaps),
            _ => self.scaling().fixate_input(caps, othercaps),
        }
    }

    fn transform_size(
        &self,
        _direction: gst::PadDirection,
        _caps: &gst::Caps,
        _size: usize,
        othercaps: &gst::Caps,
    ) -> Option<usize> {
        // Carriers are empty, so the size follows from the caps alone.
        gst_video::VideoInfo::from_caps(othercaps).ok().map(|info| info.size())
    }

    fn transform_meta<'a>(
        &self,
        outbuf: &mut gst::BufferRef,
        meta: gst::MetaRef<'a, gst::Meta>,
        inbuf: &'a gst::BufferRef,
    ) -> bool {
        if let Some(region) = meta.downcast_ref::<gst_video::VideoRegionOfInterestMeta>() {
            if let Some(session) = &self.state.lock().session {
                scale_region(outbuf, region, session.geometry());
            }
            return false;
        }
        self.parent_transform_meta(outbuf, meta, inbuf)
    }

    fn query(&self, direction: gst::PadDirection, query: &mut gst::QueryRef) -> bool {
        match query.view_mut() {
            gst::QueryViewMut::Caps(caps) => {
                let possible = self.possible_caps(direction, caps.filter_owned().as_ref());
                caps.set_result(&possible);
                true
            }
            gst::QueryViewMut::Latency(latency) if direction == gst::PadDirection::Src => {
                if !self.obj().sink_pad().peer_query(latency.query_mut()) {
                    return false;
                }
                let ours = gst::ClockTime::from_nseconds(self.latency.load(Ordering::Acquire));
                let (live, min, max) = latency.result();
                latency.set(live, min.saturating_add(ours), max.map(|max| max.saturating_add(ours)));
                true
            }
            _ => BaseTransformImplExt::parent_query(self, direction, query),
        }
    }

    fn sink_event(&self, event: gst::Event) -> bool {
        use gst::EventView;
        match event.view() {
            EventView::FlushStart(_) => self.cancel.cancel(),
            EventView::FlushStop(_) => self.flush(),
            EventView::Caps(caps) => {
                let caps = caps.caps_owned();
                self.refused.lock().take_if(|refused| *refused != caps);
                let taken = self.check_input(&caps) && (self.parent_sink_event(event) || self.explain_refusal(&caps));
                *self.refused.lock() = (!taken).then_some(caps);
                return taken;
            }
            EventView::Eos(_)
            | EventView::Segment(_)
            | EventView::StreamStart(_)
            | EventView::StreamGroupDone(_)
            | EventView::SegmentDone(_)
            | EventView::Gap(_) => self.drain(),
            _ if event.is_serialized() => {
                return match self.enqueue(event) {
                    Some(event) => self.parent_sink_event(event),
                    None => true,
                };
            }
            _ => {}
        }
        self.parent_sink_event(event)
    }

    fn submit_input_buffer(&self, is_discont: bool, inbuf: gst::Buffer) -> Result<gst::FlowSuccess, gst::FlowError> {
        // Renegotiates where that is due.
        let success = self.parent_submit_input_buffer(is_discont, inbuf)?;
        if let Some(buffer) = self.take_queued_buffer() {
            self.take(&buffer)?;
        }
        Ok(success)
    }

    fn generate_output(&self) -> Result<GenerateOutputSuccess, gst::FlowError> {
        Ok(match self.next().map_err(|failure| self.fail(failure))? {
            Some(buffer) => GenerateOutputSuccess::Buffer(buffer),
            None => GenerateOutputSuccess::NoOutput,
        })
    }
}

impl VideoFilterImpl for FlashVsr {
    fn set_info(
        &self,
        incaps: &gst::Caps,
        in_info: &gst_video::VideoInfo,
        outcaps: &gst::Caps,
        out_info: &gst_video::VideoInfo,
    ) -> Result<(), gst::LoggableError> {
        // Held frames leave in their own caps.
        self.drain();
        self.configure(in_info, out_info).map_err(|failure| {
            let reason = failure.to_string();
            let flow = self.fail(failure);
            gst::loggable_error!(CAT, "{}: {}", flow, reason)
        })?;
        self.parent_set_info(incaps, in_info, outcaps, out_info)
    }
}

impl FlashVsr {
    /// Finds the model and begins to load it. What the files themselves say is an error here; what comes up while they are
    /// read is an element error.
    fn begin_loading(&self) -> Result<Loader, Failure> {
        let plugin = self.obj().factory().and_then(|factory| factory.plugin()).and_then(|plugin| plugin.filename());
        let settings = self.settings.lock().clone();
        let located = settings.locate(&Places::of_process(plugin.as_deref()))?;
        let opening = upscaler::find(&settings.model_spec(&located.path))?;
        self.give_notice(&located);
        let text = |text: &str| Some(text.to_owned());
        *self.stats.lock() = Stats {
            device: text(opening.device()),
            device_reason: text(opening.reason()),
            precision: text(opening.precision()),
            ..Stats::default()
        };
        let (watching, ending) = (self.obj().downgrade(), self.obj().downgrade());
        let progress = move |progress: Progress| {
            if let Some(element) = watching.upgrade() {
                element.imp().post_progress(progress);
            }
        };
        let end = move |outcome: Result<&Arc<dyn Model>, Error>| {
            if let Some(element) = ending.upgrade() {
                element.imp().end_loading(outcome);
            }
        };
        Ok(Loader::start(opening, progress, end)?)
    }

    fn post_progress(&self, progress: Progress) {
        gst::log!(CAT, imp = self, "{} of {} bytes of the model are loaded", progress.done, progress.total);
        let structure = gst::Structure::builder("flashvsr-loading")
            .field("done", progress.done)
            .field("total", progress.total)
            .build();
        // Only fails where there is no bus.
        let _ = self.obj().post_message(gst::message::Element::builder(structure).src(&*self.obj()).build());
    }

    fn end_loading(&self, outcome: Result<&Arc<dyn Model>, Error>) {
        match outcome {
            Ok(model) => {
                let (device, precision, reason) = (model.device(), model.precision(), model.reason());
                gst::info!(CAT, imp = self, "the model runs on {device} in {precision} ({reason})");
                self.stats.lock().device_reason = Some(reason);
            }
            Err(error) => {
                if let Some(message) = Failure::from(error).message() {
                    self.post_error_message(message);
                }
            }
        }
    }

    /// The model, once it is loaded.
    fn wait_for_model(&self) -> Result<Arc<dyn Model>, Failure> {
        let loader = self.loader.lock().clone();
        loader.ok_or(Failure::Flow(gst::FlowError::Flushing))?.wait(&self.cancel)
    }

    /// Says, once per process, that the model is not the one which the user may expect.
    fn give_notice(&self, located: &Located) {
        static GIVEN: AtomicBool = AtomicBool::new(false);
        let Some(notice) = located.notice("the property \"model\"") else { return };
        if !GIVEN.swap(true, Ordering::Relaxed) {
            gst::info!(CAT, imp = self, "{notice}");
            // gst-launch-1.0 prints the second text only.
            gst::element_imp_info!(self, gst::ResourceError::Settings, ("{}", notice), ["{}", notice]);
        }
    }

    /// Whether frames come at the pace of a clock.
    pub(super) fn is_live(&self) -> bool {
        let mut query = gst::query::Latency::new();
        self.obj().sink_pad().peer_query(&mut query) && query.result().0
    }

    fn configure(&self, in_info: &gst_video::VideoInfo, out_info: &gst_video::VideoInfo) -> Result<(), Failure> {
        let size = |info: &gst_video::VideoInfo| upscaler::Size::new(info.width() as usize, info.height() as usize);
        let geometry = self.scaling().geometry(size(in_info), size(out_info))?;
        let options = Options {
            // Where nobody waits for a frame, throughput counts.
            pipelined: !self.is_live(),
            ..self.settings.lock().options()
        };
        let model = self.wait_for_model()?;
        let latency = Latency::new(in_info.fps(), options.startup);
        let nanoseconds = latency.total();
        {
            let mut state = self.state.lock();
            state.session = None;
            state.model = Some(model.clone());
            let formats = [in_info, out_info].map(layout::format);
            let [input, output] = formats;
            let stream = model.stream(geometry, Options { input, output, ..options }, self.cancel.clone())?;
            state.session = Some(Session::new(stream, geometry, formats, in_info, out_info, latency)?);
            for (info, format) in [(in_info, input), (out_info, output)] {
                let place =
                    if matches!(format, Format::Rgb(_)) { "by GStreamer's converter" } else { "where the model runs" };
                gst::debug!(CAT, imp = self, "{} is converted {place}", info.name());
            }
        }
        gst::info!(CAT, imp = self, "{} to {}, the model at {}", geometry.input, geometry.output, geometry.model);
        self.stats.lock().model_size = Some(geometry.model);
        if nanoseconds == 0 {
            gst::debug!(CAT, imp = self, "the frame rate is variable, so the latency is unknown");
        }
        self.announce_latency(nanoseconds);
        Ok(())
    }
}
