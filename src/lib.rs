// SPDX-License-Identifier: MPL-2.0

//! `flashvsr`: a GStreamer video filter that upscales a stream with FlashVSR v1.1 Tiny-Long, a streaming one-step
//! diffusion model. N frames in, N frames out, the same timestamps.
//!
//! The rooms of the house, each of which may use only those to its right:
//! [`element`] (GStreamer) → [`upscaler`] (one stream) → [`model`] (the network) → [`backend`] (the device);
//! [`schedule`] (which frames feed a window) serves `upscaler` and `element`.

// The names by which GStreamer's Rust code knows these crates.
extern crate gstreamer as gst;
extern crate gstreamer_base as gst_base;
extern crate gstreamer_video as gst_video;

pub mod backend;
pub mod element;
pub mod error;
pub mod model;
pub mod schedule;
pub mod upscaler;

pub use error::{Error, Result};

fn plugin_init(plugin: &gst::Plugin) -> std::result::Result<(), gst::glib::BoolError> {
    element::register(plugin)
}

// "MPL" is GStreamer's name for every version of that licence.
#[allow(missing_docs, clippy::undocumented_unsafe_blocks)]
mod plugin {
    use super::plugin_init;

    gst::plugin_define!(
        flashvsr,
        env!("CARGO_PKG_DESCRIPTION"),
        plugin_init,
        concat!(env!("CARGO_PKG_VERSION"), "-", env!("COMMIT_ID")),
        "MPL",
        env!("CARGO_PKG_NAME"),
        env!("CARGO_PKG_NAME"),
        // GStreamer refuses an empty origin; this is its own word for having none.
        "Unknown package origin",
        env!("BUILD_REL_DATE")
    );
}

/// Registers the plugin in this process, for programs that link it instead of loading it.
///
/// # Errors
/// If GStreamer refuses the plugin.
pub fn register_static() -> std::result::Result<(), gst::glib::BoolError> {
    plugin::plugin_desc::plugin_register_static()
}
