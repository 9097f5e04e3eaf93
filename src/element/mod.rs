// SPDX-License-Identifier: MPL-2.0

//! The `flashvsr` element: everything that knows GStreamer, and nothing that knows a tensor.

mod caps;
mod carrier;
mod convert;
mod errors;
mod flow;
mod imp;
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
