// SPDX-License-Identifier: MPL-2.0

//! What the `stats` property shows.

use std::time::Duration;

use crate::upscaler::Size;

/// Counters of one run from READY to READY.
#[derive(Debug, Clone, Default)]
pub struct Stats {
    /// Frames that came in.
    pub frames_in: u64,
    /// Frames that went out.
    pub frames_out: u64,
    /// Frames that wait for their window.
    pub frames_held: u64,
    /// Temporal windows that the model has run.
    pub windows: u64,
    /// Frames for which the model gave no finite values.
    pub replaced: u64,
    /// Time spent in the model.
    pub busy: Duration,
    /// The device, in words.
    pub device: Option<String>,
    /// Why it was chosen.
    pub device_reason: Option<String>,
    /// The number format of the model.
    pub precision: Option<String>,
    /// Size at which the model runs.
    pub model_size: Option<Size>,
}

impl Stats {
    /// The structure of the property.
    pub fn structure(&self) -> gst::Structure {
        let nanoseconds = u64::try_from(self.busy.as_nanos()).unwrap_or(u64::MAX);
        gst::Structure::builder("flashvsr-stats")
            .field("frames-in", self.frames_in)
            .field("frames-out", self.frames_out)
            .field("frames-held", self.frames_held)
            .field("windows", self.windows)
            .field("frames-replaced", self.replaced)
            .field("time-per-frame", nanoseconds.checked_div(self.frames_out).unwrap_or(0))
            .field_if_some("device", self.device.as_deref())
            .field_if_some("device-reason", self.device_reason.as_deref())
            .field_if_some("precision", self.precision.as_deref())
            .field_if_some("model-size", self.model_size.map(|size| size.to_string()))
            .build()
    }
}
