// SPDX-License-Identifier: MPL-2.0

//! What the element promises to a pipeline, with the tiny model of the parity data: its pictures keep the mean colour of the
//! input, by the colour fix, and are otherwise noise.

mod alpha;
#[cfg(feature = "emulator")]
mod devices;
mod errors;
mod events;
mod formats;
mod frames;
mod interlaced;
mod latency;
mod loading;
mod metas;
mod pipeline;
mod pool;
mod properties;
mod rig;
mod sizes;
