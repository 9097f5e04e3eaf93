// SPDX-License-Identifier: MPL-2.0

//! The `flashvsr` element: everything that knows GStreamer, and nothing that knows a tensor.
//!
//! A film, its sound kept. The sound's queue has to be unlimited: with the usual second of room it would be full before the
//! first window of 25 frames is complete, and nothing would move.
//!
//! ```text
//! gst-launch-1.0 -e filesrc location=in.mp4 ! decodebin name=d \
//!     d. ! queue ! videoconvert ! flashvsr model=FlashVSR-v1.1 ! queue ! x264enc ! h264parse ! mux. \
//!     d. ! queue max-size-time=0 max-size-buffers=0 max-size-bytes=0 ! audioconvert ! avenc_aac ! mux. \
//!     mp4mux name=mux ! filesink location=out.mp4
//! ```
//!
//! | file | what it holds |
//! |---|---|
//! | `imp` | GObject, and the virtual functions of GStreamer's classes |
//! | `flow` | how frames and events pass through |
//! | `loader` | the model's way into memory |
//! | `session` | one stream of the upscaler, from caps to caps |
//! | `queue`, `carrier` | what waits for its window: frames without their pixels, and the events between them |
//! | `caps`, `negotiation` | which sizes can become which, and what is said where none can |
//! | `interlacing` | interlaced video, which is refused |
//! | `convert` | every pixel format into RGB and back |
//! | `mapping` | buffers as video frames, checked |
//! | `alpha` | transparency, past the model |
//! | `latency` | what the latency query answers |
//! | `settings`, `stats`, `errors` | properties, statistics, messages |

mod alpha;
mod caps;
mod carrier;
mod convert;
mod errors;
mod flow;
mod imp;
mod interlacing;
mod latency;
mod layout;
mod loader;
mod mapping;
mod negotiation;
mod queue;
mod session;
mod settings;
mod stats;

pub use settings::{ColorFix, SizePolicy, Startup, Version};

use std::sync::LazyLock;

use gst::glib;
use gst::prelude::*;

static CAT: LazyLock<gst::DebugCategory> = LazyLock::new(|| {
    gst::DebugCategory::new("flashvsr", gst::DebugColorFlags::empty(), Some("FlashVSR video upscaler"))
});

glib::wrapper! {
    /// Upscales a video stream; see the crate's documentation.
    pub struct FlashVsr(ObjectSubclass<imp::FlashVsr>)
        @extends gst_video::VideoFilter, gst_base::BaseTransform, gst::Element, gst::Object;
}

/// Registers the element with its plugin.
pub(crate) fn register(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    gst::Element::register(Some(plugin), "flashvsr", gst::Rank::NONE, FlashVsr::static_type())
}
