// SPDX-License-Identifier: MPL-2.0

//! `flashvsr`: a GStreamer video filter that upscales a stream with FlashVSR v1.1 Tiny-Long, a streaming one-step
//! diffusion model. N frames in, N frames out, the same timestamps.
//!
//! The rooms of the house, each of which may use only those to its right:
//! [`element`] (GStreamer) → [`upscaler`] (one stream) → [`model`] (the network) → [`backend`] (the device);
//! [`stream`] (the frame schedule) serves `upscaler` and `element`.

pub mod backend;
pub mod error;
pub mod model;
pub mod stream;
pub mod upscaler;

pub use error::{Error, Result};
