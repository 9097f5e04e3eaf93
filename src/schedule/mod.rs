// SPDX-License-Identifier: MPL-2.0

//! Temporal windows: which frames feed a window of the network, and which come out. Pure arithmetic.
//!
//! The first window takes `1 + 4 L` frames for its L latent frames and gives `4 L - 3`; every later one takes 8 and
//! gives 8. So the output runs four frames behind the input, the look-ahead of the LQ projection. At the end the last
//! frame is repeated until every frame that went in has come out.
//!
//! ```
//! use gstflashvsr::schedule::{Schedule, Startup};
//!
//! let schedule = Schedule::new(Startup::Reference);
//! assert_eq!(schedule.frames_needed(0), 25);
//! assert_eq!(schedule.window(0).output_frames, 0..21);
//! assert_eq!(schedule.window(1).output_frames, 21..29);
//! assert_eq!(schedule.padding(45), 4);
//! ```

use std::ops::Range;

/// Frames by which the input must run ahead of the output.
pub const LOOK_AHEAD: u64 = 4;
/// Frames that a latent frame stands for.
pub const FRAMES_PER_LATENT: u64 = 4;
/// Latent frames of every window but the first.
pub const STEADY_LATENTS: u64 = 2;

/// How long the first window is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Startup {
    /// Six latent frames, as the reference: 25 frames in before the first 21 come out.
    #[default]
    Reference,
    /// Two latent frames: 9 frames in before the first 5 come out.
    LowLatency,
}

impl Startup {
    /// Latent frames of the first window.
    pub const fn latents(self) -> u64 {
        match self {
            Startup::Reference => 6,
            Startup::LowLatency => 2,
        }
    }
}

/// One temporal window. Frames are numbered from 0 at the start of the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// Its number, from 0.
    pub index: u64,
    /// Number of its first latent frame in the stream: the temporal position of RoPE.
    pub first_latent: u64,
    /// Its latent frames.
    pub latents: u64,
    /// Frames that enter the LQ projection.
    pub lq_frames: Range<u64>,
    /// Frames that condition the decoder, and that come out.
    pub output_frames: Range<u64>,
}

/// The frame schedule of one stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Schedule {
    startup: Startup,
}

impl Schedule {
    /// The schedule for a way of starting up.
    pub const fn new(startup: Startup) -> Self {
        Self { startup }
    }

    /// Frames that must have gone in before window `index` can run.
    pub const fn frames_needed(&self, index: u64) -> u64 {
        1 + FRAMES_PER_LATENT * (self.startup.latents() + STEADY_LATENTS * index)
    }

    /// Window number `index`.
    pub const fn window(&self, index: u64) -> Window {
        let needed = self.frames_needed(index);
        let (first_latent, latents, new) = match index {
            0 => (0, self.startup.latents(), needed),
            _ => (
                self.startup.latents() + STEADY_LATENTS * (index - 1),
                STEADY_LATENTS,
                FRAMES_PER_LATENT * STEADY_LATENTS,
            ),
        };
        let lq_frames = needed - new..needed;
        let output_frames = lq_frames.start.saturating_sub(LOOK_AHEAD)..needed - LOOK_AHEAD;
        Window { index, first_latent, latents, lq_frames, output_frames }
    }

    /// Windows that can run once `frames` frames have gone in.
    pub const fn windows_complete(&self, frames: u64) -> u64 {
        match frames.checked_sub(self.frames_needed(0)) {
            Some(more) => 1 + more / (FRAMES_PER_LATENT * STEADY_LATENTS),
            None => 0,
        }
    }

    /// How often the last of `frames` frames must be repeated at the end so that `frames` frames come out; what comes out
    /// beyond is dropped.
    pub const fn padding(&self, frames: u64) -> u64 {
        if frames == 0 {
            return 0;
        }
        let first = self.frames_needed(0) - LOOK_AHEAD;
        let windows = frames.saturating_sub(first).div_ceil(FRAMES_PER_LATENT * STEADY_LATENTS);
        self.frames_needed(windows) - frames
    }
}
