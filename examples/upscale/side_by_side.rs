// SPDX-License-Identifier: MPL-2.0

//! An element that puts two streams of the same frames side by side: the small one, enlarged with a bicubic filter, on the
//! left and ours on the right.
//!
//! `compositor` would do, but for its clock: it makes a constant frame rate of every input. This element pairs frame with
//! frame and keeps the timestamps.

use gst::glib;
use gst::prelude::*;
use gst::subclass::prelude::*;
use gst_base::prelude::*;
use gst_base::subclass::prelude::*;
use gstreamer as gst;
use gstreamer_base as gst_base;
use gstreamer_video as gst_video;
use std::sync::{LazyLock, Mutex, PoisonError};

glib::wrapper! {
    /// The element, with the pads `left`, `right` and `src`.
    pub struct SideBySide(ObjectSubclass<imp::SideBySide>)
        @extends gst_base::Aggregator, gst::Element, gst::Object;
}

impl SideBySide {
    /// Makes one for pictures of which the right shows the centre of the left, enlarged `zoom` times.
    pub fn new(zoom: f64) -> Self {
        let element: Self = glib::Object::new();
        element.imp().set_zoom(zoom);
        element
    }
}

mod imp {
    use super::*;

    /// Converts a whole input frame into one half of the output frame.
    struct Halves {
        left: gst_video::VideoConverter,
        right: gst_video::VideoConverter,
    }

    #[derive(Default)]
    struct State {
        zoom: f64,
        left: Option<gst_video::VideoInfo>,
        right: Option<gst_video::VideoInfo>,
        halves: Option<Halves>,
    }

    pub struct SideBySide {
        left: gst_base::AggregatorPad,
        right: gst_base::AggregatorPad,
        state: Mutex<State>,
    }

    impl SideBySide {
        pub(super) fn set_zoom(&self, zoom: f64) {
            self.state().zoom = zoom;
        }

        fn state(&self) -> std::sync::MutexGuard<'_, State> {
            self.state.lock().unwrap_or_else(PoisonError::into_inner)
        }

        /// Takes new caps; with those of both sides known, sets up the output.
        fn set_caps(&self, pad: &gst_base::AggregatorPad, caps: &gst::CapsRef) -> Result<(), glib::BoolError> {
            let info = gst_video::VideoInfo::from_caps(caps)?;
            let mut state = self.state();
            if *pad == self.left {
                state.left = Some(info)
            } else {
                state.right = Some(info)
            }
            let (Some(left), Some(right)) = (&state.left, &state.right) else { return Ok(()) };

            let out = gst_video::VideoInfo::builder(right.format(), 2 * right.width(), right.height())
                .fps(right.fps())
                .par(right.par())
                .colorimetry(&right.colorimetry())
                .chroma_site(right.chroma_site())
                .build()?;
            // A converter compares the frame rates; the frames are paired one to one whatever the caps say.
            let left = gst_video::VideoInfo::builder(left.format(), left.width(), left.height())
                .fps(right.fps())
                .par(right.par())
                .colorimetry(&left.colorimetry())
                .chroma_site(left.chroma_site())
                .build()?;

            let shown =
                |of: u32, enlarged: u32| (f64::from(enlarged) / state.zoom).round().clamp(1.0, f64::from(of)) as i32;
            let (width, height) = (shown(left.width(), right.width()), shown(left.height(), right.height()));
            let mut bicubic = half(0, right);
            bicubic.set_resampler_method(gst_video::VideoResamplerMethod::Cubic);
            bicubic.set("GstVideoResampler.cubic-b", 0.0);
            bicubic.set("GstVideoResampler.cubic-c", 0.5);
            bicubic.set_src_x((left.width() as i32 - width) / 2);
            bicubic.set_src_y((left.height() as i32 - height) / 2);
            bicubic.set_src_width(Some(width));
            bicubic.set_src_height(Some(height));
            let halves = Halves {
                left: gst_video::VideoConverter::new(&left, &out, Some(bicubic))?,
                right: gst_video::VideoConverter::new(right, &out, Some(half(right.width() as i32, right)))?,
            };
            state.halves = Some(halves);
            drop(state);
            self.obj().set_src_caps(&out.to_caps()?);
            Ok(())
        }

        fn compose(&self, left: &gst::BufferRef, right: &gst::BufferRef) -> Result<gst::Buffer, glib::BoolError> {
            let state = self.state();
            let halves = state.halves.as_ref().ok_or_else(|| glib::bool_error!("frames before caps"))?;
            let out_info = halves.right.out_info();
            let mut out = gst::Buffer::with_size(out_info.size())?;
            {
                let out = out.get_mut().ok_or_else(|| glib::bool_error!("the new buffer is shared"))?;
                let mut canvas = gst_video::VideoFrameRef::from_buffer_ref_writable(out, out_info)?;
                for (converter, buffer) in [(&halves.left, left), (&halves.right, right)] {
                    let frame = gst_video::VideoFrameRef::from_buffer_ref_readable(buffer, converter.in_info())?;
                    converter.frame_ref(&frame, &mut canvas);
                }
            }
            Ok(out)
        }
    }

    /// Fills the half of the output that starts at column `x`.
    fn half(x: i32, info: &gst_video::VideoInfo) -> gst_video::VideoConverterConfig {
        let mut config = gst_video::VideoConverterConfig::new();
        config.set_dest_x(x);
        config.set_dest_width(Some(info.width() as i32));
        config.set_fill_border(false);
        config
    }

    #[glib::object_subclass]
    impl ObjectSubclass for SideBySide {
        const NAME: &'static str = "UpscaleSideBySide";
        type Type = super::SideBySide;
        type ParentType = gst_base::Aggregator;

        fn with_class(class: &Self::Class) -> Self {
            let pad = |name| {
                let template = class.pad_template(name).expect("the class has this template");
                gst::PadBuilder::<gst_base::AggregatorPad>::from_template(&template).name(name).build()
            };
            Self { left: pad("left"), right: pad("right"), state: Mutex::default() }
        }
    }

    impl ObjectImpl for SideBySide {
        fn constructed(&self) {
            self.parent_constructed();
            for pad in [&self.left, &self.right] {
                self.obj().add_pad(pad).expect("a new element has no pads of this name");
            }
        }
    }

    impl GstObjectImpl for SideBySide {}

    impl ElementImpl for SideBySide {
        fn pad_templates() -> &'static [gst::PadTemplate] {
            static TEMPLATES: LazyLock<Vec<gst::PadTemplate>> = LazyLock::new(|| {
                // Some releases of the converter leave the picture empty where it resizes more than 8 bits into a part of
                // a frame.
                let caps = gst_video::VideoCapsBuilder::new().format(gst_video::VideoFormat::I420).build();
                let template = |name, direction, pad_type| {
                    gst::PadTemplate::with_gtype(name, direction, gst::PadPresence::Always, &caps, pad_type)
                        .expect("the caps and the type are right")
                };
                vec![
                    template("left", gst::PadDirection::Sink, gst_base::AggregatorPad::static_type()),
                    template("right", gst::PadDirection::Sink, gst_base::AggregatorPad::static_type()),
                    template("src", gst::PadDirection::Src, gst_base::AggregatorPad::static_type()),
                ]
            });
            &TEMPLATES
        }
    }

    impl AggregatorImpl for SideBySide {
        fn sink_event(&self, pad: &gst_base::AggregatorPad, event: gst::Event) -> bool {
            if let gst::EventView::Caps(caps) = event.view()
                && let Err(error) = self.set_caps(pad, caps.caps())
            {
                gst::element_imp_error!(self, gst::CoreError::Negotiation, ("{error}"));
                return false;
            }
            self.parent_sink_event(pad, event)
        }

        fn aggregate(&self, _timeout: bool) -> Result<gst::FlowSuccess, gst::FlowError> {
            let (Some(left), Some(right)) = (self.left.peek_buffer(), self.right.peek_buffer()) else {
                let ended = self.left.is_eos() || self.right.is_eos();
                return if ended { Err(gst::FlowError::Eos) } else { Ok(gst::FlowSuccess::Ok) };
            };
            let mut out = self.compose(&left, &right).map_err(|error| {
                gst::element_imp_error!(self, gst::StreamError::Failed, ("{error}"));
                gst::FlowError::Error
            })?;
            {
                let segment = self.right.segment();
                let segment = segment.downcast_ref::<gst::ClockTime>();
                let out = out.make_mut();
                out.set_pts(segment.and_then(|segment| segment.to_running_time(right.pts())));
                out.set_duration(right.duration());
            }
            self.left.drop_buffer();
            self.right.drop_buffer();
            self.finish_buffer(out)
        }

        fn negotiate(&self) -> bool {
            // The caps are set as soon as those of both sides are known.
            true
        }
    }
}
