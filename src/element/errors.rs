// SPDX-License-Identifier: MPL-2.0

//! How errors of the upscaler become messages and flow returns of GStreamer.

use crate::error::Error;
use crate::upscaler::{MODEL_VARIABLE, Size, how_to_fetch};

/// What can go wrong in the element.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Nobody has named a model, and none came along.
    #[error(
        "no model: set the property \"model\", or the environment variable {MODEL_VARIABLE}, to the directory of the model's \
         files; {}",
        how_to_fetch()
    )]
    NoModel,
    /// The input is interlaced.
    #[error("interlaced video cannot be upscaled; add deinterlace before flashvsr")]
    Interlaced,
    /// The input's `interlace-mode` is none that GStreamer knows.
    #[error("the input's interlace-mode is {0}, which is not known; flashvsr takes interlace-mode=progressive")]
    InterlaceMode(String),
    /// Downstream takes none of the outputs that are possible; with the caps of all.
    #[error(
        "downstream accepts no size that is 1 to 8 times the input's, or not its format; \
         add videoconvertscale after flashvsr"
    )]
    NoCommonCaps(String),
    /// GStreamer has no frames of the output's size.
    #[error("the output of {0} is larger than GStreamer's video frames can be; lower the property scale")]
    TooLarge(Size),
    /// The upscaler failed.
    #[error(transparent)]
    Upscaler(#[from] Error),
    /// A buffer cannot be mapped as a video frame.
    #[error("a buffer does not hold a video frame of the negotiated caps: {0}")]
    Map(gst::glib::BoolError),
    /// The base class gave no output buffer, or GStreamer is flushing.
    #[error("no output buffer: {0}")]
    Flow(gst::FlowError),
    /// A drain could not push what was held.
    #[error("the frames that were held back could not be pushed")]
    Undelivered(gst::FlowError),
}

impl Failure {
    /// The flow return of this failure.
    pub fn flow(&self) -> gst::FlowError {
        match self {
            Failure::Upscaler(Error::Cancelled) => gst::FlowError::Flushing,
            Failure::Flow(flow) | Failure::Undelivered(flow) => *flow,
            _ => gst::FlowError::Error,
        }
    }

    /// The message of this failure; none where the flow return says it all.
    pub fn message(&self) -> Option<gst::ErrorMessage> {
        let text = self.to_string();
        Some(match self {
            Failure::NoModel | Failure::Upscaler(Error::NotFound { .. }) => {
                gst::error_msg!(gst::ResourceError::NotFound, ("{}", text))
            }
            Failure::Upscaler(Error::Read { .. } | Error::Tensor { .. }) => {
                gst::error_msg!(gst::ResourceError::Read, ("{}", text))
            }
            Failure::Upscaler(Error::Settings(_)) => gst::error_msg!(gst::ResourceError::Settings, ("{}", text)),
            Failure::Upscaler(Error::NoSpace { .. }) => gst::error_msg!(gst::ResourceError::NoSpaceLeft, ("{}", text)),
            Failure::Upscaler(Error::Device { .. }) => gst::error_msg!(gst::ResourceError::Failed, ("{}", text)),
            Failure::Upscaler(Error::Compute(_)) => gst::error_msg!(gst::LibraryError::Failed, ("{}", text)),
            Failure::Interlaced | Failure::InterlaceMode(_) => {
                gst::error_msg!(gst::StreamError::WrongType, ("{}", text))
            }
            Failure::NoCommonCaps(caps) => gst::error_msg!(gst::CoreError::Negotiation, ("{}", text), ["{}", caps]),
            Failure::TooLarge(_) => gst::error_msg!(gst::CoreError::Negotiation, ("{}", text)),
            Failure::Map(_) => gst::error_msg!(gst::StreamError::Format, ("{}", text)),
            Failure::Undelivered(flow) => {
                gst::error_msg!(gst::StreamError::Failed, ("{}", text), ["streaming stopped, reason {}", flow])
            }
            Failure::Upscaler(Error::Cancelled) | Failure::Flow(_) => return None,
        })
    }
}
