// SPDX-License-Identifier: MPL-2.0

//! Errors of GStreamer in words for the user of a command, who has files and options, and no pipeline.

use std::path::Path;

use anyhow::anyhow;
use gstreamer as gst;

/// The sentence of an error message, with the cure where we know it.
pub fn explain(error: &gst::message::Error, missing: &[String], _input: &Path, _output: &Path) -> anyhow::Error {
    if !missing.is_empty() {
        return anyhow!(
            "GStreamer lacks: {}; install it with: sudo apt-get install gstreamer1.0-libav gstreamer1.0-plugins-good \
             gstreamer1.0-plugins-bad gstreamer1.0-plugins-ugly",
            missing.join(", ")
        );
    }
    let message = error.error().message().to_owned();
    // A general message says what happened in its debug text alone.
    match error.debug() {
        Some(debug) if message.starts_with("Internal data") || message.starts_with("GStreamer encountered") => {
            anyhow!("{message} ({debug})")
        }
        _ => anyhow!(message),
    }
}
