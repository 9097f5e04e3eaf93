// SPDX-License-Identifier: MPL-2.0

//! Noise, and latents as tokens: `kernels/tokens.cu`.

use super::driver::{Address, Args, Driver, kernels};
use super::picture::per_16_bytes;
use super::tensor::{Shape, addresses};
use super::{CudaBackend, CudaLinear, CudaTensor, Kernels, index};
use crate::backend::{Epilogue, Grid};
use crate::error::{Error, Result};

const THREADS: u32 = 256;
/// The most latent frames of a launch.
const FRAMES: usize = 64;
/// Channels of a latent.
const CHANNELS: usize = 16;
/// Features of a 2x2 patch of a latent.
const PATCH: usize = 4 * CHANNELS;
/// Rows that a block of `gather_rows` moves, one with each warp.
const ROWS_PER_BLOCK: usize = THREADS as usize / 32;

const NOISE: Kernels = kernels!("tokens", "noise", THREADS, [0; 3]);
const GATHER_PATCHES: Kernels = kernels!("tokens", "gather_patches", THREADS, [0; 3]);
const GATHER_ROWS: Kernels = kernels!("tokens", "gather_rows", THREADS, [0; 3]);
const DENOISE: Kernels = kernels!("tokens", "denoise", THREADS, [0; 3]);

/// `NoiseArgs` of tokens.cu.
#[derive(Clone, Copy, PartialEq)]
#[repr(C)]
struct NoiseArgs {
    maps: [Address; FRAMES],
    seed: u64,
    window: u64,
    first_quad: u64,
    frame_quads: u32,
}

/// `GatherArgs` of tokens.cu.
#[derive(Clone, Copy, PartialEq)]
#[repr(C)]
struct GatherArgs {
    frames: [Address; FRAMES],
    out: Address,
    tokens: u32,
    rows: u32,
    cols: u32,
    width: u32,
}

/// `DenoiseArgs` of tokens.cu.
#[derive(Clone, Copy, PartialEq)]
#[repr(C)]
struct DenoiseArgs {
    noise: [Address; FRAMES],
    out: [Address; FRAMES],
    head: Address,
    rows: u32,
    cols: u32,
}

// SAFETY: laid out as the kernels' structs.
unsafe impl Args for NoiseArgs {}
// SAFETY: as above.
unsafe impl Args for GatherArgs {}
// SAFETY: as above.
unsafe impl Args for DenoiseArgs {}

/// Checks that there is a tensor of `shape` for each latent frame of `grid`.
fn check_frames(what: &str, tensors: &[CudaTensor], shape: Shape, grid: Grid) -> Result<()> {
    match tensors.iter().find(|tensor| tensor.shape != shape) {
        None if tensors.len() == grid.frames => Ok(()),
        None => Err(Error::Compute(format!("{} frames of {what} for {grid:?}", tensors.len()))),
        Some(other) => Err(Error::Compute(format!("{what} of {:?} for {grid:?}", other.shape))),
    }
}

/// The shape of the latents of `grid`.
fn latent(grid: Grid) -> Shape {
    Shape::Map(2 * grid.rows, 2 * grid.cols, CHANNELS)
}

impl<D: Driver> CudaBackend<D> {
    pub(super) fn run_noise(&self, seed: u64, window: u64, grid: Grid) -> Result<Vec<CudaTensor>> {
        let maps = self.empty_latents(grid)?;
        let frame_quads = latent(grid).len() / 4;
        for (chunk, maps) in maps.chunks(FRAMES).enumerate() {
            let args = NoiseArgs {
                maps: addresses(maps),
                seed,
                window,
                first_quad: (chunk * FRAMES * frame_quads) as u64,
                frame_quads: index(frame_quads)?,
            };
            let blocks = (4 * frame_quads).div_ceil(THREADS as usize * per_16_bytes(self.precision));
            self.launch(&NOISE, [blocks, maps.len(), 1], &args)?;
        }
        Ok(maps)
    }

    fn empty_latents(&self, grid: Grid) -> Result<Vec<CudaTensor>> {
        (0..grid.frames).map(|_| self.tensor(latent(grid), self.precision)).collect()
    }

    /// What `kernels` gather of each frame, `width` values for a token, as rows in window order. A block takes
    /// `block_tokens` tokens.
    fn gather(
        &self,
        kernels: &Kernels,
        frames: &[CudaTensor],
        width: usize,
        block_tokens: usize,
        grid: Grid,
    ) -> Result<CudaTensor> {
        let out = self.empty_matrix(grid.tokens(), width)?;
        let frame_tokens = grid.rows * grid.cols;
        for (chunk, frames) in frames.chunks(FRAMES).enumerate() {
            let tokens = frames.len() * frame_tokens;
            // Frame pairs follow each other in window order, so those of a launch are one piece of the result.
            let skipped = chunk * FRAMES * frame_tokens * width * self.precision.bytes();
            let args = GatherArgs {
                frames: addresses(frames),
                out: out.address() + skipped as u64,
                tokens: index(tokens)?,
                rows: index(grid.rows)?,
                cols: index(grid.cols)?,
                width: index(width)?,
            };
            self.launch(kernels, [tokens.div_ceil(block_tokens), 1, 1], &args)?;
        }
        Ok(out)
    }

    pub(super) fn run_embed_patches(
        &self,
        latents: &[CudaTensor],
        layer: &CudaLinear,
        lq: &[CudaTensor],
        grid: Grid,
    ) -> Result<CudaTensor> {
        check_frames("latents", latents, latent(grid), grid)?;
        let dim = lq.first().map_or(Ok(0), |lq| lq.matrix_dims().map(|(_, dim)| dim))?;
        check_frames("LQ tokens", lq, Shape::Matrix(grid.rows * grid.cols, dim), grid)?;
        let patch_tokens = THREADS as usize * per_16_bytes(self.precision) / PATCH;
        let patches = self.gather(&GATHER_PATCHES, latents, PATCH, patch_tokens, grid)?;
        let residual = self.gather(&GATHER_ROWS, lq, dim, ROWS_PER_BLOCK, grid)?;
        self.run_linear(&patches, layer, Epilogue::Add(&residual))
    }

    pub(super) fn run_denoise(&self, noise: &[CudaTensor], head: &CudaTensor, grid: Grid) -> Result<Vec<CudaTensor>> {
        check_frames("latents", noise, latent(grid), grid)?;
        if head.matrix_dims()? != (grid.tokens(), PATCH) {
            return Err(Error::Compute(format!("head of {:?} for {grid:?}", head.shape)));
        }
        let clean = self.empty_latents(grid)?;
        for (chunk, (noise, out)) in noise.chunks(FRAMES).zip(clean.chunks(FRAMES)).enumerate() {
            let skipped = chunk * FRAMES * grid.rows * grid.cols * PATCH * self.precision.bytes();
            let args = DenoiseArgs {
                noise: addresses(noise),
                out: addresses(out),
                head: head.address() + skipped as u64,
                rows: index(grid.rows)?,
                cols: index(grid.cols)?,
            };
            let blocks = (grid.cols * PATCH / 2).div_ceil(THREADS as usize * per_16_bytes(self.precision));
            self.launch(&DENOISE, [blocks, 2 * grid.rows, noise.len()], &args)?;
        }
        Ok(clean)
    }
}
