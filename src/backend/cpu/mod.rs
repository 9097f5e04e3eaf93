// SPDX-License-Identifier: MPL-2.0

//! The CPU backend: candle tensors in f32, our own products with constant weights (`matmul`), candle's matrix multiplication
//! for the rest (`gemm`), and loops over rows that compile to the machine's widest vectors (`simd`). It is the reference, the
//! fallback and the embedded default.

mod attention;
mod color;
mod conv;
mod gemm;
mod matmul;
mod picture;
mod resize;
mod rows;
mod simd;
mod tensor;
mod video;

use candle_core::{Device, Tensor};
use rayon::prelude::*;

use super::parameter::flat_values;
use super::{
    Backend, ColorFix, DraftMask, Epilogue, Frame, FrameMut, Geometry, Grid, HostTensor, KvGroup, OutputSpec,
    Parameter, Qkv, Resizer, Rope, RopeTables, Rounding, noise,
};
use crate::error::{Error, Result};

use matmul::Weights;
pub use tensor::CpuTensor;
use tensor::{Halo, MapDims};

/// Channels of a latent.
const LATENT_CHANNELS: usize = 16;

/// The CPU and a pool of threads on it.
#[derive(Debug)]
pub struct CpuBackend {
    pool: rayon::ThreadPool,
    threads: usize,
}

/// A linear layer.
#[derive(Debug)]
pub struct CpuLinear {
    weights: Weights,
    gate: Option<Vec<f32>>,
}

/// A causal 4x3x3 convolution: for each kernel time and row, weights of depth (column, in). The first has the bias.
#[derive(Debug)]
pub struct CpuConv3d {
    inputs: usize,
    taps: Vec<Weights>,
}

/// A 3x3 convolution of `parts` maps of `inputs` channels: weights of depth (row, part, column, in).
#[derive(Debug)]
pub struct CpuConv2d {
    inputs: usize,
    parts: usize,
    weights: Weights,
}

/// An upsampling stage: for each phase (row, column) of the output pixels, weights of depth (row, column, in) over 2x2 input
/// pixels and columns (time, out).
#[derive(Debug)]
pub struct CpuUpsampleConv {
    inputs: usize,
    outputs: usize,
    times: usize,
    phases: Vec<Weights>,
}

/// For each head and query window the key windows that it attends to, ascending.
#[derive(Debug)]
pub struct CpuMask {
    heads: usize,
    key_windows: usize,
    rows: Vec<Vec<u32>>,
}

/// A picture to be shown.
#[derive(Debug)]
pub struct CpuPendingFrame {
    picture: CpuTensor,
    rounding: Rounding,
    /// It is the input's, since the network's is not finite.
    replaced: bool,
}

impl CpuBackend {
    /// A backend with its own pool of `threads` threads; 0 for one per core.
    ///
    /// # Errors
    /// [`Error::Compute`] if the threads cannot be started.
    pub fn new(threads: usize) -> Result<Self> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|i| format!("flashvsr-cpu-{i}"))
            .build()
            .map_err(|e| Error::Compute(format!("cannot start {threads} threads: {e}")))?;
        let threads = pool.current_num_threads();
        Ok(Self { pool, threads })
    }

    /// Threads of the pool.
    pub fn threads(&self) -> usize {
        self.threads
    }
}

impl Backend for CpuBackend {
    type Tensor = CpuTensor;
    type Vector = Vec<f32>;
    type Linear = CpuLinear;
    type Conv3d = CpuConv3d;
    type Conv2d = CpuConv2d;
    type UpsampleConv = CpuUpsampleConv;
    type Mask = CpuMask;
    type Ingest = Resizer;
    type Rope = RopeTables;
    type PendingFrame = CpuPendingFrame;

    const QUEUED: bool = false;
    const FRUGAL: bool = false;

    fn vector(&self, v: &HostTensor) -> Result<Vec<f32>> {
        flat_values(v)
    }

    fn prepare_linear<'a>(
        &self,
        weight: impl Into<Parameter<'a>>,
        bias: Option<&HostTensor>,
        gate: Option<&HostTensor>,
    ) -> Result<CpuLinear> {
        let weight = weight.into();
        let [outputs, _] = weight.dims()?;
        let bias = bias.map_or_else(|| Ok(vec![0.0; outputs]), flat_values)?;
        let gate = gate.map(flat_values).transpose()?;
        Ok(CpuLinear { weights: Weights::from_columns(&weight.values()?, &bias), gate })
    }

    fn prepare_conv3d<'a>(&self, weight: impl Into<Parameter<'a>>, bias: &HostTensor) -> Result<CpuConv3d> {
        conv::prepare_conv3d(&weight.into().to_host()?, bias)
    }

    fn prepare_conv2d<'a>(
        &self,
        weight: impl Into<Parameter<'a>>,
        bias: Option<&HostTensor>,
        parts: usize,
    ) -> Result<CpuConv2d> {
        conv::prepare_conv2d(&weight.into().to_host()?, bias, parts)
    }

    fn prepare_upsample_conv(&self, grow: &HostTensor, weight: &HostTensor) -> Result<CpuUpsampleConv> {
        self.pool.install(|| conv::prepare_upsample_conv(grow, weight))
    }

    fn prepare_ingest(&self, geometry: &Geometry) -> Result<Resizer> {
        Ok(Resizer::new(*geometry))
    }

    fn ingest(&self, frame: &Frame<'_>, ingest: &Resizer) -> Result<CpuTensor> {
        self.pool.install(|| picture::ingest(frame, ingest))
    }

    fn emit(&self, picture: &CpuTensor, rounding: Rounding, out: &mut FrameMut<'_>) -> Result<()> {
        self.pool.install(|| picture::emit(picture, rounding, out))
    }

    fn begin_download(&self, hq: &CpuTensor, lq: &CpuTensor, output: &OutputSpec) -> Result<CpuPendingFrame> {
        let replaced = !self.is_finite(hq)?;
        let picture = if replaced { lq.clone() } else { self.color_fix(hq, lq, output.color_fix)? };
        Ok(CpuPendingFrame { picture, rounding: output.rounding, replaced })
    }

    fn finish_download(&self, pending: CpuPendingFrame, out: &mut FrameMut<'_>) -> Result<bool> {
        self.emit(&pending.picture, pending.rounding, out)?;
        Ok(pending.replaced)
    }

    fn color_fix(&self, hq: &CpuTensor, lq: &CpuTensor, fix: ColorFix) -> Result<CpuTensor> {
        self.pool.install(|| color::color_fix(hq, lq, fix))
    }

    fn add(&self, a: &CpuTensor, b: &CpuTensor) -> Result<CpuTensor> {
        self.pool.install(|| picture::add(a, b))
    }

    fn is_finite(&self, x: &CpuTensor) -> Result<bool> {
        self.pool.install(|| picture::is_finite(x))
    }

    fn pixel_unshuffle(&self, picture: &CpuTensor) -> Result<CpuTensor> {
        self.pool.install(|| picture::pixel_unshuffle(picture))
    }

    fn causal_conv3d(&self, maps: &[CpuTensor], conv: &CpuConv3d) -> Result<Vec<CpuTensor>> {
        self.pool.install(|| conv::causal_conv3d(self.threads, maps, conv))
    }

    fn rms_norm_silu(&self, map: &CpuTensor, gamma: &Vec<f32>) -> Result<CpuTensor> {
        self.pool.install(|| conv::rms_norm_silu(map, gamma))
    }

    fn rows(&self, values: &[f32], rows: usize, cols: usize) -> Result<CpuTensor> {
        if values.len() != rows * cols {
            return Err(Error::Compute(format!("{} values for {rows} x {cols}", values.len())));
        }
        CpuTensor::rows(values.to_vec(), cols)
    }

    fn linear(&self, x: &CpuTensor, layer: &CpuLinear, epilogue: Epilogue<'_, Self>) -> Result<CpuTensor> {
        self.pool.install(|| rows::linear(self.threads, x, layer, epilogue))
    }

    fn noise(&self, seed: u64, window: u64, grid: Grid) -> Result<Vec<CpuTensor>> {
        let dims = MapDims { height: 2 * grid.rows, width: 2 * grid.cols, channels: LATENT_CHANNELS };
        let line = dims.width * LATENT_CHANNELS;
        let frame_quads = (dims.height * line / 4) as u64;
        let fill = |frame: u64| {
            let mut map = vec![0.0f32; dims.len()];
            let row = dims.pitch() * LATENT_CHANNELS;
            map[row..(dims.height + 1) * row].par_chunks_mut(row).enumerate().for_each(|(y, out)| {
                let first = frame * frame_quads + (y * line / 4) as u64;
                for (quad, out) in (first..).zip(out[LATENT_CHANNELS..][..line].chunks_exact_mut(4)) {
                    out.copy_from_slice(&noise::normals(seed, window, quad));
                }
            });
            CpuTensor::map(map, dims, Halo::Zero)
        };
        self.pool.install(|| (0..grid.frames as u64).map(fill).collect())
    }

    fn embed_patches(
        &self,
        latents: &[CpuTensor],
        layer: &CpuLinear,
        lq: &[CpuTensor],
        grid: Grid,
    ) -> Result<CpuTensor> {
        self.pool.install(|| rows::embed_patches(self.threads, latents, layer, lq, grid))
    }

    fn layer_norm(&self, x: &CpuTensor, scale: &Vec<f32>, shift: &Vec<f32>) -> Result<CpuTensor> {
        self.pool.install(|| rows::layer_norm(x, scale, shift))
    }

    fn rms_norm(&self, x: &CpuTensor, gamma: &Vec<f32>) -> Result<CpuTensor> {
        self.pool.install(|| rows::rms_norm(x, gamma))
    }

    fn rope(&self, rope: Rope) -> Result<RopeTables> {
        Ok(rope.tables())
    }

    fn qk_norm_rope(
        &self,
        qkv: &CpuTensor,
        norm_q: &Vec<f32>,
        norm_k: &Vec<f32>,
        rope: &RopeTables,
        grid: Grid,
    ) -> Result<Qkv<CpuTensor>> {
        self.pool.install(|| rows::qk_norm_rope(qkv, norm_q, norm_k, rope, grid))
    }

    fn draft_mask(&self, q_mean: &CpuTensor, k_means: &[&CpuTensor], params: &DraftMask) -> Result<CpuMask> {
        self.pool.install(|| attention::draft_mask(q_mean, k_means, params))
    }

    fn block_sparse_attention(
        &self,
        q: &CpuTensor,
        groups: &[&KvGroup<CpuTensor>],
        mask: &CpuMask,
    ) -> Result<CpuTensor> {
        self.pool.install(|| attention::block_sparse_attention(q, groups, mask))
    }

    fn cross_attention(&self, q: &CpuTensor, k: &CpuTensor, v: &CpuTensor) -> Result<CpuTensor> {
        self.pool.install(|| attention::cross_attention(q, k, v))
    }

    fn denoise(&self, noise: &[CpuTensor], head: &CpuTensor, grid: Grid) -> Result<Vec<CpuTensor>> {
        rows::denoise(noise, head, grid)
    }

    fn decoder_input(&self, cond: [&CpuTensor; 4], latent: &CpuTensor) -> Result<CpuTensor> {
        self.pool.install(|| picture::decoder_input(cond, latent))
    }

    fn conv2d(
        &self,
        x: &CpuTensor,
        past: Option<&CpuTensor>,
        conv: &CpuConv2d,
        skip: Option<&CpuTensor>,
        relu: bool,
    ) -> Result<CpuTensor> {
        self.pool.install(|| conv::conv2d(self.threads, x, past, conv, skip, relu))
    }

    fn upsample_conv(&self, x: &CpuTensor, conv: &CpuUpsampleConv, relu: bool) -> Result<Vec<CpuTensor>> {
        self.pool.install(|| conv::upsample_conv(self.threads, x, conv, relu))
    }

    fn to_picture(&self, map: &CpuTensor) -> Result<CpuTensor> {
        self.pool.install(|| picture::to_picture(map))
    }

    fn to_host(&self, x: &CpuTensor) -> Result<HostTensor> {
        x.to_host()
    }

    fn map(&self, values: &HostTensor) -> Result<CpuTensor> {
        let (height, width, channels) = values.dims3()?;
        let dims = MapDims { height, width, channels };
        conv::with_border(&flat_values(values)?, dims, Halo::Zero)
    }

    fn picture(&self, values: &HostTensor) -> Result<CpuTensor> {
        let (_, height, width) = values.dims3()?;
        CpuTensor::picture(flat_values(values)?, height, width)
    }

    fn mask_to_host(&self, mask: &CpuMask) -> Result<HostTensor> {
        let mut dense = vec![0u8; mask.rows.len() * mask.key_windows];
        for (dense, row) in dense.chunks_exact_mut(mask.key_windows.max(1)).zip(&mask.rows) {
            row.iter().for_each(|&key| dense[key as usize] = 1);
        }
        Ok(Tensor::from_vec(dense, (mask.heads, mask.rows.len() / mask.heads.max(1), mask.key_windows), &Device::Cpu)?)
    }
}
