// SPDX-License-Identifier: MPL-2.0

//! One stream: frames in, frames out. [`open`] loads a model once per process, [`find`] does the quick part of that;
//! [`Model::stream`] starts a stream on it.

mod device;
mod engine;
mod locate;
mod memory;
mod on_cpu;
pub mod on_cuda;
mod opening;
mod plan;
mod registry;

use std::path::PathBuf;
use std::sync::Arc;

pub use crate::backend::{
    Chroma, Color, ColorFix, Component, Depth, Format, Frame, FrameMut, Geometry, Layout, PLANES, Plane, PlaneMut,
    Precision, Rounding, Samples, SamplesMut, Size, SizePolicy,
};
pub use crate::model::{Cancel, Loading, Progress, Version};
pub use crate::schedule::Startup;

use crate::error::Result;
pub use device::{DEVICE_VARIABLE, find};
pub use locate::{Located, MODEL_VARIABLE, Origin, Places, how_to_fetch};
pub use memory::available_memory;
pub use opening::Opening;
pub use plan::{Plan, plan, weight_bytes};

/// Which model to load, and where it is to run.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ModelSpec {
    /// Directory of the checkpoint's files.
    pub path: PathBuf,
    /// Generation of the LQ projection.
    pub version: Version,
    /// The device: `auto`, `cpu`, `cuda` or `cuda:N`. `auto` is what [`DEVICE_VARIABLE`] says, else the first GPU, else the CPU.
    pub device: String,
    /// How a GPU stores and multiplies; `None` for what suits the device: bf16 on a GPU, f32 on the CPU, which has no other.
    pub precision: Option<Precision>,
    /// Threads of the CPU backend, at most one per core that the process may use; 0 for that many.
    pub threads: usize,
}

impl ModelSpec {
    /// The directory under one name: a checkpoint that has two is one checkpoint. A path that leads nowhere is reported by
    /// the checkpoint's reader.
    fn canonical_path(&self) -> PathBuf {
        self.path.canonicalize().unwrap_or_else(|_| self.path.clone())
    }
}

/// Parameters of one stream.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// Length of the first window.
    pub startup: Startup,
    /// Attention budget: key windows kept per query window are `sparse_ratio * 60` on average at every size.
    pub sparse_ratio: f64,
    /// Frame pairs of keys and values that are kept.
    pub kv_ratio: f64,
    /// Side of the local neighbourhood of attention, in windows of 128 pixels.
    pub local_range: usize,
    /// Seed of the noise.
    pub seed: u64,
    /// Colour correction.
    pub color_fix: ColorFix,
    /// Rounding of the output.
    pub rounding: Rounding,
    /// What goes in. Other formats are taken too, but the memory that a GPU sets aside is for this one.
    pub input: Format,
    /// What comes out. A GPU, which writes frames before they are popped, gives no other format.
    pub output: Format,
    /// Frames are ready one window later, so that a GPU has the next one to work on while they are popped: more throughput
    /// for more latency. The CPU, which computes when it is asked to, takes no notice.
    pub pipelined: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            startup: Startup::default(),
            sparse_ratio: 2.0,
            kv_ratio: 3.0,
            local_range: 11,
            seed: 0,
            color_fix: ColorFix::default(),
            rounding: Rounding::default(),
            input: Format::default(),
            output: Format::default(),
            pipelined: false,
        }
    }
}

/// Loads a model, as [`find`] and [`Opening::load`] do.
///
/// # Errors
/// Those of both.
pub fn open(spec: &ModelSpec) -> Result<Arc<dyn Model>> {
    find(spec)?.load(&Loading::default())
}

/// A loaded model on a device. Streams share it.
pub trait Model: Send + Sync {
    /// Starts a stream.
    ///
    /// # Errors
    /// [`crate::Error::Settings`] if the options or the geometry are refused, [`crate::Error::NoSpace`] if the stream's memory
    /// is more than there is.
    fn stream(self: Arc<Self>, geometry: Geometry, options: Options, cancel: Cancel) -> Result<Box<dyn Stream>>;

    /// The device that runs it, in words ("CPU, 8 threads").
    fn device(&self) -> String;

    /// The number format of its activations ("bf16").
    fn precision(&self) -> String;

    /// Why it runs there ("device=cuda:1", "the first GPU").
    fn reason(&self) -> String;

    /// What has come up on the device that the user ought to know; each is told once.
    fn notice(&self) -> Option<String> {
        None
    }
}

/// Counters of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Temporal windows that the network has run.
    pub windows: u64,
    /// Frames for which the network gave values that are not finite, and the resized input was shown instead.
    pub replaced: u64,
}

/// One stream: N frames in, N frames out.
pub trait Stream: Send {
    /// Takes the next frame of the geometry's input size; its pixels are copied. May run the network.
    fn push(&mut self, frame: &Frame<'_>) -> Result<()>;

    /// Ends the segment: runs what is left on a repeated last frame, so that every frame comes out. Once the frames that are
    /// then ready have been popped, the stream starts anew.
    fn finish(&mut self) -> Result<()>;

    /// Frames that can be popped now.
    fn ready(&self) -> usize;

    /// Writes the oldest frame that is ready; it has the geometry's output size. May run the decoder.
    ///
    /// # Errors
    /// [`crate::Error::Settings`] if none is ready or `out` has another size.
    fn pop(&mut self, out: &mut FrameMut<'_>) -> Result<()>;

    /// Forgets every frame and all temporal state. Due after an error, [`crate::Error::Cancelled`] included, and after
    /// anything that breaks the flow of time.
    fn reset(&mut self);

    /// What has happened since the stream was made.
    fn stats(&self) -> Stats;
}
