// SPDX-License-Identifier: MPL-2.0

//! The CUDA backend: our own kernels (`kernels/`), launched through a [`driver::Driver`], which is CUDA's or an emulator.
//!
//! A [`CudaBackend`] is one queue of work and one arena of memory on a device: each stream has its own, and all streams
//! share the weights. Nothing waits for the device but what brings values to the host ([`Backend::finish_download`],
//! [`Backend::emit`], [`Backend::is_finite`], [`Backend::to_host`]).

mod arena;
mod attention;
mod autotune;
pub mod batch;
mod color;
mod conv;
pub mod driver;
mod dry_run;
#[cfg(feature = "emulator")]
pub mod emulator;
mod frames;
mod gemm;
mod linear;
mod mask;
mod norms;
pub mod nvidia;
mod packing;
mod picture;
mod qk;
mod tensor;
mod tokens;
mod yuv;

use std::sync::Arc;

use candle_core::{Device, Tensor};
use parking_lot::Mutex;

pub use super::Precision;
use super::parameter::flat_values;
use super::{
    Backend, ColorFix, DraftMask, Epilogue, Frame, FrameMut, Geometry, Grid, HEAD_DIM, HostTensor, KvGroup, OutputSpec,
    Parameter, Qkv, Rope, Rounding, WINDOW_TOKENS, decode, encode,
};
use crate::error::{Error, Result};

pub use arena::{Arena, Lifetime};
use autotune::Library;
pub use conv::{CudaConv2d, CudaConv3d, CudaUpsampleConv};
use driver::{Args, Driver, Kernel, Memory, Queue, TensorCores};
pub use dry_run::QueueOrDryRun;
use dry_run::{NULL_MEMORY_BYTES, NullMemory};
pub use frames::{CudaIngest, CudaPendingFrame};
pub use linear::CudaLinear;
pub use mask::CudaMask;
use packing::Scratch;
pub use qk::CudaRope;
pub use tensor::{CudaTensor, Weight};
use tensor::{Shape, tiled_offsets};

/// The kernels of each precision.
type Kernels = [Kernel; 3];

/// One queue of work on a device, and the memory of its activations.
pub struct CudaBackend<D: Driver> {
    /// Where weights live.
    memory: Arc<dyn Memory>,
    queue: QueueOrDryRun<D::Queue>,
    arena: Arc<Arena>,
    precision: Precision,
    tensor_cores: TensorCores,
    sm_count: usize,
    library: Library,
    /// Rows of a frame without what lies between them, on their way to or from the device.
    staging: Mutex<Vec<u8>>,
    /// Memory of the host that packing has used and will use again.
    scratch: Mutex<Vec<Scratch>>,
}

impl<D: Driver> CudaBackend<D> {
    /// A queue on the device of `driver`.
    ///
    /// # Errors
    /// What the driver says.
    pub fn new(driver: Arc<D>, precision: Precision) -> Result<Self> {
        let queue = QueueOrDryRun::Queue(driver.queue()?);
        let arena = Arc::new(Arena::new(driver.clone()));
        let (tensor_cores, sm_count) = (driver.tensor_cores(), driver.sm_count());
        let library = Library::new(driver.library());
        let (staging, scratch) = (Mutex::default(), Mutex::default());
        Ok(Self { memory: driver, queue, arena, precision, tensor_cores, sm_count, library, staging, scratch })
    }

    /// A backend on whose tensors nothing is ever computed and which takes no memory: [`Arena::high_water`] then tells what a
    /// [`Self::new`] one will need for the same work.
    ///
    /// # Errors
    /// None.
    pub fn dry_run(precision: Precision, tensor_cores: TensorCores) -> Result<Self> {
        let memory: Arc<dyn Memory> = Arc::new(NullMemory::default());
        let arena = Arc::new(Arena::new(memory.clone()));
        arena.reserve(NULL_MEMORY_BYTES)?;
        let (queue, sm_count) = (QueueOrDryRun::DryRun, 1);
        let library = Library::new(None);
        let (staging, scratch) = (Mutex::default(), Mutex::default());
        Ok(Self { memory, queue, arena, precision, tensor_cores, sm_count, library, staging, scratch })
    }

    /// The memory of activations.
    pub fn arena(&self) -> &Arena {
        &self.arena
    }

    /// Waits until the device has done what was asked of it.
    ///
    /// # Errors
    /// Whatever went wrong on the device since the last call.
    pub fn wait(&self) -> Result<()> {
        self.queue.wait()
    }

    /// Whether kernels for Hopper alone are to be taken: their MMAs are of 16 bits only.
    fn on_warpgroups(&self) -> bool {
        self.tensor_cores == TensorCores::Warpgroup && self.precision != Precision::F32
    }

    fn tensor(&self, shape: Shape, precision: Precision) -> Result<CudaTensor> {
        self.tensor_for(Lifetime::Window, shape, precision)
    }

    fn tensor_for(&self, lifetime: Lifetime, shape: Shape, precision: Precision) -> Result<CudaTensor> {
        let memory = self.arena.allocate_for(shape.len() * precision.bytes(), lifetime)?;
        Ok(CudaTensor { memory: Arc::new(memory), shape, precision })
    }

    /// An uninitialised matrix in the backend's precision.
    fn empty_matrix(&self, rows: usize, cols: usize) -> Result<CudaTensor> {
        self.tensor(Shape::Matrix(rows, cols), self.precision)
    }

    /// Uninitialised queries, keys or values in the backend's precision.
    fn empty_tiled_qkv(&self, lifetime: Lifetime, rows: usize, cols: usize) -> Result<CudaTensor> {
        self.tensor_for(lifetime, Shape::TiledQkv(rows, cols), self.precision)
    }

    /// An uninitialised map in the backend's precision.
    fn empty_map(&self, height: usize, width: usize, channels: usize) -> Result<CudaTensor> {
        self.tensor(Shape::Map(height, width, channels), self.precision)
    }

    /// An uninitialised picture.
    fn empty_picture(&self, height: usize, width: usize) -> Result<CudaTensor> {
        self.tensor(Shape::Picture(height, width), Precision::F32)
    }

    fn upload(&self, shape: Shape, precision: Precision, values: &[f32]) -> Result<CudaTensor> {
        if values.len() != shape.len() {
            return Err(Error::Compute(format!("{} values for {shape:?}", values.len())));
        }
        let tensor = self.tensor(shape, precision)?;
        self.queue.upload(tensor.address(), &encode(values, precision))?;
        Ok(tensor)
    }

    /// Values that stay, shared by all streams.
    fn weight(&self, values: &[f32], precision: Precision) -> Result<Weight> {
        self.constant(&encode(values, precision))
    }

    /// Bytes that stay.
    fn constant(&self, bytes: &[u8]) -> Result<Weight> {
        let weight = Weight::new(self.memory.clone(), bytes.len())?;
        self.queue.upload(weight.address(), bytes)?;
        Ok(weight)
    }

    /// Runs the kernel for the backend's precision.
    fn launch<A: Args>(&self, kernels: &Kernels, grid: [usize; 3], args: &A) -> Result<()> {
        self.launch_one(&kernels[self.precision as usize], grid, args)
    }

    fn launch_one<A: Args>(&self, kernel: &Kernel, grid: [usize; 3], args: &A) -> Result<()> {
        // A grid too large for its type is refused by the driver.
        let grid = grid.map(|n| u32::try_from(n).unwrap_or(u32::MAX));
        self.queue.launch(kernel, grid, args)
    }
}

/// A size as kernels take it.
fn index(n: usize) -> Result<u32> {
    u32::try_from(n).map_err(|_| Error::Compute(format!("a size of {n} is beyond the kernels' 32 bits")))
}

impl<D: Driver> Backend for CudaBackend<D> {
    type Tensor = CudaTensor;
    type Vector = Weight;
    type Linear = CudaLinear;
    type Conv3d = CudaConv3d;
    type Conv2d = CudaConv2d;
    type UpsampleConv = CudaUpsampleConv;
    type Mask = CudaMask;
    type Ingest = CudaIngest;
    type Rope = CudaRope;
    type PendingFrame = CudaPendingFrame<D>;

    const QUEUED: bool = true;
    const FRUGAL: bool = true;

    fn vector(&self, v: &HostTensor) -> Result<Weight> {
        self.weight(&flat_values(v)?, Precision::F32)
    }

    fn prepare_linear<'a>(
        &self,
        weight: impl Into<Parameter<'a>>,
        bias: Option<&HostTensor>,
        gate: Option<&HostTensor>,
    ) -> Result<CudaLinear> {
        self.linear_layer(&weight.into(), bias, gate)
    }

    fn prepare_conv3d<'a>(&self, weight: impl Into<Parameter<'a>>, bias: &HostTensor) -> Result<CudaConv3d> {
        self.conv3d_layer(&weight.into(), bias)
    }

    fn prepare_conv2d<'a>(
        &self,
        weight: impl Into<Parameter<'a>>,
        bias: Option<&HostTensor>,
        parts: usize,
    ) -> Result<CudaConv2d> {
        self.conv2d_layer(&weight.into(), bias, parts)
    }

    fn prepare_upsample_conv(&self, grow: &HostTensor, weight: &HostTensor) -> Result<CudaUpsampleConv> {
        self.upsample_layer(grow, weight)
    }

    fn prepare_ingest(&self, geometry: &Geometry) -> Result<CudaIngest> {
        self.ingest_tables(*geometry)
    }

    fn ingest(&self, frame: &Frame<'_>, ingest: &CudaIngest) -> Result<CudaTensor> {
        self.run_ingest(frame, ingest)
    }

    fn emit(&self, picture: &CudaTensor, rounding: Rounding, out: &mut FrameMut<'_>) -> Result<()> {
        self.run_emit(picture, rounding, out)
    }

    fn begin_download(&self, hq: &CudaTensor, lq: &CudaTensor, output: &OutputSpec) -> Result<CudaPendingFrame<D>> {
        self.begin_frame(hq, lq, output)
    }

    fn finish_download(&self, pending: CudaPendingFrame<D>, out: &mut FrameMut<'_>) -> Result<bool> {
        self.end_frame(pending, out)
    }

    fn color_fix(&self, hq: &CudaTensor, lq: &CudaTensor, fix: ColorFix) -> Result<CudaTensor> {
        self.run_color_fix(hq, lq, fix)
    }

    fn add(&self, a: &CudaTensor, b: &CudaTensor) -> Result<CudaTensor> {
        self.run_add(a, b)
    }

    fn is_finite(&self, x: &CudaTensor) -> Result<bool> {
        self.run_is_finite(x)
    }

    fn pixel_unshuffle(&self, picture: &CudaTensor) -> Result<CudaTensor> {
        self.run_pixel_unshuffle(picture)
    }

    fn causal_conv3d(&self, maps: &[CudaTensor], conv: &CudaConv3d) -> Result<Vec<CudaTensor>> {
        self.run_conv3d(maps, conv)
    }

    fn rms_norm_silu(&self, map: &CudaTensor, gamma: &Weight) -> Result<CudaTensor> {
        self.run_rms_norm_silu(map, gamma)
    }

    fn rows(&self, values: &[f32], rows: usize, cols: usize) -> Result<CudaTensor> {
        self.upload(Shape::Matrix(rows, cols), self.precision, values)
    }

    fn linear(&self, x: &CudaTensor, layer: &CudaLinear, epilogue: Epilogue<'_, Self>) -> Result<CudaTensor> {
        self.run_linear(x, layer, epilogue)
    }

    fn noise(&self, seed: u64, window: u64, grid: Grid) -> Result<Vec<CudaTensor>> {
        self.run_noise(seed, window, grid)
    }

    fn embed_patches(
        &self,
        latents: &[CudaTensor],
        layer: &CudaLinear,
        lq: &[CudaTensor],
        grid: Grid,
    ) -> Result<CudaTensor> {
        self.run_embed_patches(latents, layer, lq, grid)
    }

    fn layer_norm(&self, x: &CudaTensor, scale: &Weight, shift: &Weight) -> Result<CudaTensor> {
        self.run_layer_norm(x, scale, shift)
    }

    fn rms_norm(&self, x: &CudaTensor, gamma: &Weight) -> Result<CudaTensor> {
        self.run_rms_norm(x, gamma)
    }

    fn rope(&self, rope: Rope) -> Result<CudaRope> {
        self.upload_rope(&rope)
    }

    fn qk_norm_rope(
        &self,
        qkv: &CudaTensor,
        norm_q: &Weight,
        norm_k: &Weight,
        rope: &CudaRope,
        grid: Grid,
    ) -> Result<Qkv<CudaTensor>> {
        self.run_qk_norm_rope(qkv, norm_q, norm_k, rope, grid)
    }

    fn draft_mask(&self, q_mean: &CudaTensor, k_means: &[&CudaTensor], params: &DraftMask) -> Result<CudaMask> {
        self.run_draft_mask(q_mean, k_means, params)
    }

    fn block_sparse_attention(
        &self,
        q: &CudaTensor,
        groups: &[&KvGroup<CudaTensor>],
        mask: &CudaMask,
    ) -> Result<CudaTensor> {
        self.run_sparse_attention(q, groups, mask)
    }

    fn cross_attention(&self, q: &CudaTensor, k: &CudaTensor, v: &CudaTensor) -> Result<CudaTensor> {
        self.run_cross_attention(q, k, v)
    }

    fn denoise(&self, noise: &[CudaTensor], head: &CudaTensor, grid: Grid) -> Result<Vec<CudaTensor>> {
        self.run_denoise(noise, head, grid)
    }

    fn decoder_input(&self, cond: [&CudaTensor; 4], latent: &CudaTensor) -> Result<CudaTensor> {
        self.run_decoder_input(cond, latent)
    }

    fn conv2d(
        &self,
        x: &CudaTensor,
        past: Option<&CudaTensor>,
        conv: &CudaConv2d,
        skip: Option<&CudaTensor>,
        relu: bool,
    ) -> Result<CudaTensor> {
        self.run_conv2d(x, past, conv, skip, relu)
    }

    fn upsample_conv(&self, x: &CudaTensor, conv: &CudaUpsampleConv, relu: bool) -> Result<Vec<CudaTensor>> {
        self.run_upsample_conv(x, conv, relu)
    }

    fn to_picture(&self, map: &CudaTensor) -> Result<CudaTensor> {
        self.run_to_picture(map)
    }

    fn to_host(&self, x: &CudaTensor) -> Result<HostTensor> {
        let mut bytes = vec![0; x.shape.len() * x.precision.bytes()];
        self.queue.download(&mut bytes, x.address())?;
        let mut values = decode(&bytes, x.precision);
        if let Shape::TiledQkv(rows, cols) = x.shape {
            values = tiled_offsets(rows, cols, x.precision).map(|offset| values[offset]).collect();
        }
        Ok(Tensor::from_vec(values, x.shape.dims(), &Device::Cpu)?)
    }

    fn heads(&self, values: &[f32], rows: usize, cols: usize) -> Result<CudaTensor> {
        if !rows.is_multiple_of(WINDOW_TOKENS) || !cols.is_multiple_of(HEAD_DIM) || values.len() != rows * cols {
            return Err(Error::Compute(format!(
                "{} values for queries, keys or values of {rows} x {cols}",
                values.len()
            )));
        }
        let mut stored = vec![0.0; values.len()];
        for (offset, value) in tiled_offsets(rows, cols, self.precision).zip(values) {
            stored[offset] = *value;
        }
        self.upload(Shape::TiledQkv(rows, cols), self.precision, &stored)
    }

    fn map(&self, values: &HostTensor) -> Result<CudaTensor> {
        let (height, width, channels) = values.dims3()?;
        self.upload(Shape::Map(height, width, channels), self.precision, &flat_values(values)?)
    }

    fn picture(&self, values: &HostTensor) -> Result<CudaTensor> {
        let (_, height, width) = values.dims3()?;
        self.upload(Shape::Picture(height, width), Precision::F32, &flat_values(values)?)
    }

    fn mask_to_host(&self, mask: &CudaMask) -> Result<HostTensor> {
        self.download_mask(mask)
    }
}
